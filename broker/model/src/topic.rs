//! Topics and the patterns that select them.
//!
//! A topic is matched literally unless a pattern was asked for, and a pattern's wildcards are those of the source
//! the event came from: `*` is a letter in a Kafka topic and a wildcard in a NATS subject.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::names::{NameError, SourceName};

/// What an event is about: a subject, a queue, a bucket, a path. Compared byte for byte.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(Arc<str>);

impl Topic {
    /// The longest topic taken, in bytes.
    pub const MAX: usize = 64 * 1024;

    /// Takes any non-empty text up to [`Topic::MAX`].
    ///
    /// # Errors
    /// [`NameError::Empty`] or [`NameError::TooLong`].
    pub fn parse(text: &str) -> Result<Self, NameError> {
        match text.len() {
            0 => Err(NameError::Empty),
            length if length > Self::MAX => Err(NameError::TooLong { length, max: Self::MAX }),
            _ => Ok(Topic(text.into())),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// The wildcard grammar of a kind of upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Wildcards {
    /// `*` stands for any run of characters. For upstreams without a grammar of their own, and the API.
    #[default]
    Glob,
    /// Tokens between dots; `*` is one token, a final `>` one or more.
    Nats,
    /// Levels between slashes; `+` is one level, a final `#` any number, none included. Topics that start with `$`
    /// are not met by a wildcard in the first level.
    Mqtt,
    /// Words between dots; `*` is one word, `#` any number, none included.
    Amqp,
    /// What happened in a bucket: a topic is `bucket:s3:ObjectCreated:Put/key`. A name may leave out the event or the key or
    /// both, which then may be any; within each part `*` is any run of characters.
    S3,
}

impl Wildcards {
    /// Whether `text` holds a wildcard of this grammar.
    pub fn any_in(self, text: &str) -> bool {
        match self {
            Wildcards::Glob | Wildcards::S3 => text.contains('*'),
            Wildcards::Nats => text.split('.').any(|token| token == "*" || token == ">"),
            Wildcards::Mqtt => text.split('/').any(|level| level == "+" || level == "#"),
            Wildcards::Amqp => text.split('.').any(|word| word == "*" || word == "#"),
        }
    }

    /// Whether `pattern` meets `topic` under this grammar. A pattern without wildcards meets its own text only.
    pub fn matches(self, pattern: &str, topic: &str) -> bool {
        match self {
            Wildcards::Glob => glob(pattern.as_bytes(), topic.as_bytes()),
            Wildcards::Nats => {
                tokens(pattern, topic, '.', "*", Rest { sign: ">", meets_none: false, last_only: true })
            }
            Wildcards::Mqtt => {
                let wild_start = pattern.starts_with(['+', '#']);
                !(wild_start && topic.starts_with('$'))
                    && tokens(pattern, topic, '/', "+", Rest { sign: "#", meets_none: true, last_only: true })
            }
            Wildcards::Amqp => {
                tokens(pattern, topic, '.', "*", Rest { sign: "#", meets_none: true, last_only: false })
            }
            Wildcards::S3 => {
                let (pattern, topic) = (S3Name::of(pattern), S3Name::of(topic));
                let meets = |pattern: Option<&str>, part: Option<&str>| {
                    pattern.is_none_or(|pattern| {
                        part.is_some_and(|part| glob(pattern.as_bytes(), part.as_bytes()))
                    })
                };
                meets(Some(pattern.bucket), Some(topic.bucket))
                    && meets(pattern.event, topic.event)
                    && meets(pattern.key, topic.key)
            }
        }
    }

    /// The whole names an event of `topic` has, by each of which a function may ask for it without a pattern: the topic
    /// itself, and in a bucket also what leaves parts of it out. `s3:ObjectCreated:*` is a name there: S3's own for a group
    /// of events.
    pub fn names(self, topic: &str) -> Vec<Cow<'_, str>> {
        let mut names = vec![Cow::Borrowed(topic)];
        if self == Wildcards::S3 {
            let S3Name { bucket, event, key } = S3Name::of(topic);
            let groups = event.into_iter().flat_map(|event| {
                let groups = event.match_indices(':').map(|(at, _)| format!("{bucket}:{}:*", &event[..at]));
                groups.chain([format!("{bucket}:{event}")])
            });
            let heads: Vec<String> = std::iter::once(bucket.to_owned()).chain(groups).collect();
            if let Some(key) = key {
                names.extend(heads.iter().map(|head| Cow::Owned(format!("{head}/{key}"))));
            }
            names.extend(heads.into_iter().map(Cow::Owned));
            names.sort_unstable();
            names.dedup();
        }
        names
    }
}

/// A topic of [`Wildcards::S3`], or a name that leaves parts of one out.
struct S3Name<'a> {
    bucket: &'a str,
    event: Option<&'a str>,
    key: Option<&'a str>,
}

impl<'a> S3Name<'a> {
    /// Unambiguous: a bucket holds neither `:` nor `/`, an event no `/`.
    fn of(text: &'a str) -> Self {
        let (head, key) = text.split_once('/').map_or((text, None), |(head, key)| (head, Some(key)));
        let (bucket, event) = head.split_once(':').map_or((head, None), |(b, event)| (b, Some(event)));
        S3Name { bucket, event, key }
    }
}

/// How the sign for "the rest" behaves in a grammar.
#[derive(Clone, Copy)]
struct Rest {
    sign: &'static str,
    meets_none: bool,
    last_only: bool,
}

fn tokens(pattern: &str, topic: &str, separator: char, one: &str, rest: Rest) -> bool {
    let pattern: Vec<&str> = pattern.split(separator).collect();
    let topic: Vec<&str> = topic.split(separator).collect();
    // Linear in the product of both lengths: `met[t]` says whether the pattern read so far meets `topic[..t]`.
    let mut met = vec![false; topic.len() + 1];
    met[0] = true;
    for (p, token) in pattern.iter().enumerate() {
        let wild = *token == rest.sign && (!rest.last_only || p + 1 == pattern.len());
        let mut next = vec![false; topic.len() + 1];
        if wild {
            let mut reached = false;
            for t in 0..=topic.len() {
                next[t] = reached || (rest.meets_none && met[t]);
                reached |= met[t];
            }
        } else {
            for t in 0..topic.len() {
                next[t + 1] = met[t] && (*token == one || *token == topic[t]);
            }
        }
        met = next;
    }
    met[topic.len()]
}

fn glob(pattern: &[u8], topic: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut retry_from: Option<(usize, usize)> = None;
    while t < topic.len() {
        if pattern.get(p) == Some(&b'*') {
            retry_from = Some((p + 1, t));
            p += 1;
        } else if pattern.get(p) == Some(&topic[t]) {
            (p, t) = (p + 1, t + 1);
        } else if let Some((after_star, taken)) = retry_from {
            retry_from = Some((after_star, taken + 1));
            (p, t) = (after_star, taken + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

/// A wish for topics: exact (OpenFaaS' `topic` annotation) or with wildcards (`evoke.topics`), for every source or one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPattern {
    text: Arc<str>,
    exact: bool,
    source: Option<SourceName>,
}

impl TopicPattern {
    /// The wish for just this topic, from any source. Wildcard characters in it are letters.
    pub fn exact(topic: &Topic) -> Self {
        TopicPattern { text: topic.0.clone(), exact: true, source: None }
    }

    /// Reads one entry of `evoke.topics`: `pattern` or `@source/pattern`.
    ///
    /// # Errors
    /// [`NameError`] when the pattern is empty or too long, or the scope is not a source's name.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let (source, text) = match text.strip_prefix('@').and_then(|scoped| scoped.split_once('/')) {
            Some((source, pattern)) => (Some(SourceName::parse(source)?), pattern),
            None => (None, text),
        };
        let topic = Topic::parse(text)?;
        Ok(TopicPattern { text: topic.0, exact: false, source })
    }

    /// The pattern without its scope.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether wildcard characters are letters here.
    pub fn is_exact(&self) -> bool {
        self.exact
    }

    /// The one source it is meant for, if it names one.
    pub fn source(&self) -> Option<&SourceName> {
        self.source.as_ref()
    }

    /// Whether an event of `topic` from `source`, whose upstream uses `wildcards`, is wanted.
    pub fn matches(&self, source: &SourceName, wildcards: Wildcards, topic: &Topic) -> bool {
        self.source.as_ref().is_none_or(|only| only == source)
            && if self.exact {
                wildcards.names(&topic.0).iter().any(|name| *name == *self.text)
            } else {
                wildcards.matches(&self.text, &topic.0)
            }
    }
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(source) => write!(f, "@{source}/{}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(wildcards: Wildcards, pattern: &str, yes: &[&str], no: &[&str]) {
        for topic in yes {
            assert!(wildcards.matches(pattern, topic), "{wildcards:?}: {pattern:?} should meet {topic:?}");
        }
        for topic in no {
            assert!(
                !wildcards.matches(pattern, topic),
                "{wildcards:?}: {pattern:?} should not meet {topic:?}"
            );
        }
    }

    #[test]
    fn nats_wildcards_are_whole_tokens() {
        check(Wildcards::Nats, "orders.*", &["orders.created"], &["orders", "orders.a.b", "x.created"]);
        check(Wildcards::Nats, "orders.>", &["orders.a", "orders.a.b"], &["orders"]);
        check(Wildcards::Nats, ">", &["a", "a.b"], &[]);
        check(Wildcards::Nats, "a.*.c", &["a.b.c"], &["a.c", "a.b.b.c"]);
        check(Wildcards::Nats, "a.>.c", &["a.>.c"], &["a.b.c"]);
        check(Wildcards::Nats, "or*", &["or*"], &["orders"]);
    }

    #[test]
    fn mqtt_wildcards_spare_the_dollar_topics() {
        check(Wildcards::Mqtt, "home/+/temp", &["home/a/temp"], &["home/temp", "home/a/b/temp"]);
        check(Wildcards::Mqtt, "home/#", &["home", "home/a", "home/a/b"], &["house"]);
        check(Wildcards::Mqtt, "#", &["a/b"], &["$SYS/uptime"]);
        check(Wildcards::Mqtt, "$SYS/#", &["$SYS/uptime"], &[]);
    }

    #[test]
    fn amqp_hash_meets_any_number_of_words_anywhere() {
        check(Wildcards::Amqp, "a.#.z", &["a.z", "a.b.z", "a.b.c.z"], &["a", "a.b"]);
        check(Wildcards::Amqp, "*.b", &["a.b"], &["b", "a.a.b"]);
    }

    #[test]
    fn glob_stars_meet_any_run() {
        check(Wildcards::Glob, "photos:s3:*", &["photos:s3:x", "photos:s3:"], &["photos"]);
        check(Wildcards::Glob, "*.created", &["a.created", ".created"], &["created"]);
        check(Wildcards::Glob, "a*b*c", &["abc", "axxbyyc"], &["acb"]);
    }

    #[test]
    fn names_in_a_bucket_may_leave_out_event_and_key() {
        let put = "photos:s3:ObjectCreated:Put/in/a.jpg";
        for pattern in [
            "photos",
            "photos:s3:ObjectCreated:Put",
            "photos:s3:ObjectCreated:*",
            "photos:s3:*",
            "photos/in/*",
            "photos/*.jpg",
            "photos:s3:ObjectCreated:*/in/*.jpg",
            "*:s3:ObjectCreated:*",
            "*/in/a.jpg",
            put,
        ] {
            check(Wildcards::S3, pattern, &[put], &["videos:s3:ObjectRemoved:Delete/x.mov"]);
        }
        for pattern in ["photo", "photos:s3:ObjectRemoved:*", "photos/out/*", "photos:s3:ObjectCreated", ""] {
            check(Wildcards::S3, pattern, &[], &[put]);
        }
        check(Wildcards::S3, "photos/a:s3:*", &["photos:s3:ObjectCreated:Put/a:s3:b"], &[put]);
    }

    #[test]
    fn an_exact_wish_meets_an_event_of_a_bucket_by_each_of_its_names() {
        let topic = Topic::parse("photos:s3:ObjectCreated:Put/in/*.jpg").unwrap();
        let files = SourceName::parse("files").unwrap();
        let meets = |text: &str| {
            TopicPattern::exact(&Topic::parse(text).unwrap()).matches(&files, Wildcards::S3, &topic)
        };

        for name in [
            "photos",
            "photos:s3:*",
            "photos:s3:ObjectCreated:*",
            "photos:s3:ObjectCreated:Put",
            "photos/in/*.jpg",
            "photos:s3:ObjectCreated:*/in/*.jpg",
        ] {
            assert!(meets(name), "{name}");
        }
        for name in ["*", "photos/in/*", "photos:s3:ObjectRemoved:*", "photos:s3:ObjectCreated:P*"] {
            assert!(!meets(name), "{name}: a * is a letter");
        }
    }

    #[test]
    fn an_exact_wish_takes_wildcards_as_letters() {
        let nats = SourceName::parse("bus").unwrap();
        let wish = TopicPattern::exact(&Topic::parse("orders.*").unwrap());

        assert!(wish.matches(&nats, Wildcards::Nats, &Topic::parse("orders.*").unwrap()));
        assert!(!wish.matches(&nats, Wildcards::Nats, &Topic::parse("orders.created").unwrap()));
    }

    #[test]
    fn a_scope_limits_a_wish_to_its_source() {
        let wish = TopicPattern::parse("@bus/orders.>").unwrap();
        let topic = Topic::parse("orders.created").unwrap();

        assert!(wish.matches(&SourceName::parse("bus").unwrap(), Wildcards::Nats, &topic));
        assert!(!wish.matches(&SourceName::parse("other").unwrap(), Wildcards::Nats, &topic));
        assert_eq!(wish.to_string(), "@bus/orders.>");
    }

    proptest! {
        #[test]
        fn a_pattern_without_wildcards_meets_only_itself(a in "[a-c./]{1,6}", b in "[a-c./]{1,6}") {
            for grammar in [Wildcards::Glob, Wildcards::Nats, Wildcards::Mqtt, Wildcards::Amqp] {
                prop_assert_eq!(grammar.names(&a), vec![a.as_str()]);
                prop_assert!(!grammar.any_in(&a));
                prop_assert_eq!(grammar.matches(&a, &b), a == b);
            }
        }

        #[test]
        fn each_name_of_an_event_in_a_bucket_is_met_as_a_pattern_too(
            topic in "[a-c]{1,3}(:s3:[AB]:[PQ])?(/[a-c/:*]{0,6})?",
            other in "[a-c]{1,3}(:s3:([AB]:)?[*PQ])?(/[a-c/:*]{0,6})?",
        ) {
            let names = Wildcards::S3.names(&topic);
            prop_assert!(names.iter().any(|name| *name == topic));
            for name in &names {
                prop_assert!(Wildcards::S3.matches(name, &topic), "{}", name);
            }
            if !Wildcards::S3.any_in(&other) && Wildcards::S3.matches(&other, &topic) {
                prop_assert!(names.iter().any(|name| *name == other), "{}", other);
            }
        }

        #[test]
        fn replacing_a_token_by_the_one_token_sign_widens(topic in "[a-c]{1,2}(\\.[a-c]{1,2}){0,4}", at in 0usize..5) {
            let mut tokens: Vec<&str> = topic.split('.').collect();
            let at = at % tokens.len();
            tokens[at] = "*";
            let pattern = tokens.join(".");

            prop_assert!(Wildcards::Nats.matches(&pattern, &topic));
            prop_assert!(Wildcards::Amqp.matches(&pattern, &topic));
        }
    }
}
