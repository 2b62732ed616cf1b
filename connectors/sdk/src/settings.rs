//! Reads a source's settings: every problem at once, nothing unknown passed over, nothing wrong defaulted.

use std::collections::BTreeSet;
use std::fmt;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::byte_size::ByteSize;
use crate::secret::Secret;
use crate::tracker::WindowLimits;

/// One thing that is wrong with the settings of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The setting within the source's own, as `tls.ca_file` or `topics[2]`; empty for the settings as a whole.
    pub key: String,
    /// What is wrong. Never holds a secret's value.
    pub what: String,
    /// What to write instead.
    pub remedy: String,
}

/// Everything that is wrong with the settings of a source; at least one problem.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct SettingsError {
    /// The problems, in the order in which they were found.
    pub problems: Vec<Problem>,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, Problem { key, what, remedy }) in self.problems.iter().enumerate() {
            let separator = if n == 0 { "" } else { "; " };
            write!(f, "{separator}{key}: {what} ({remedy})")?;
        }
        Ok(())
    }
}

/// Which topics a source listens to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topics {
    /// Exactly those that functions ask for, as they come and go.
    FromFunctions,
    /// These.
    List(Vec<String>),
}

/// A type a setting can have.
pub trait Setting: Sized {
    /// What belongs there, for the remedy: `a duration such as 30s`.
    const EXPECTED: &'static str;

    /// Reads it; `None` when it is something else.
    fn read(value: &Value) -> Option<Self>;
}

/// Reads one object of settings, key by key. What is never asked for is unknown.
pub struct Reader {
    prefix: String,
    object: Map<String, Value>,
    asked: BTreeSet<String>,
    /// The asked-for keys below which any name may stand.
    open: BTreeSet<String>,
    problems: Vec<Problem>,
}

impl Reader {
    /// Reads the settings of a source.
    pub fn new(settings: Value) -> Self {
        Reader::at(String::new(), settings)
    }

    fn at(prefix: String, settings: Value) -> Self {
        let mut reader = Reader {
            prefix,
            object: Map::new(),
            asked: BTreeSet::new(),
            open: BTreeSet::new(),
            problems: Vec::new(),
        };
        match settings {
            Value::Object(object) => reader.object = object,
            other => reader.problems.push(Problem {
                key: reader.prefix.trim_end_matches('.').to_owned(),
                what: format!("there is {} where settings belong", kind_of(&other)),
                remedy: "write its settings below it, each with its name".to_owned(),
            }),
        }
        reader
    }

    /// A setting that may be left out.
    pub fn optional<T: Setting>(&mut self, key: &str) -> Option<T> {
        let value = self.take(key)?;
        let read = T::read(&value);
        if read.is_none() {
            let what = format!("there is {} where {} belongs", kind_of(&value), T::EXPECTED);
            self.refuse(key, what, format!("write {}", T::EXPECTED));
        }
        read
    }

    /// A setting with a default.
    pub fn or<T: Setting>(&mut self, key: &str, default: T) -> T {
        self.optional(key).unwrap_or(default)
    }

    /// A setting without which nothing works. `None` once its problem is noted.
    pub fn required<T: Setting>(&mut self, key: &str, example: &str) -> Option<T> {
        if !self.is_set(key) && !self.object.contains_key(key) {
            self.asked.insert(key.to_owned());
            self.refuse(key, "it is missing", format!("write {key}: {example}"));
            return None;
        }
        self.optional(key)
    }

    /// A secret, as `key` or, better, as the path of a file under `key_file`.
    pub fn secret(&mut self, key: &str) -> Option<Secret> {
        let file_key = format!("{key}_file");
        let inline: Option<String> = self.optional(key);
        let file: Option<PathBuf> = self.optional(&file_key);
        match (inline, file) {
            (Some(_), Some(_)) => {
                self.refuse(
                    key,
                    format!("it is set twice, as {key} and as {file_key}"),
                    format!("keep {file_key} and remove {key}"),
                );
                None
            }
            (Some(secret), None) => Some(Secret::Inline(secret.into())),
            (None, Some(path)) => Some(Secret::File { key: format!("{}{file_key}", self.prefix), path }),
            (None, None) => None,
        }
    }

    /// `topics`: a list, or `from-functions`, which is the default. `check` says what is wrong with a topic of the list.
    pub fn topics(&mut self, check: impl Fn(&str) -> Result<(), String>) -> Topics {
        const KEY: &str = "topics";
        const EXPECTED: &str = "from-functions, or a list of topics such as [orders.created, \"invoices.>\"]";
        match self.take(KEY) {
            None => Topics::FromFunctions,
            Some(Value::String(text)) if text == "from-functions" => Topics::FromFunctions,
            Some(Value::Array(items)) => {
                let mut topics = Vec::new();
                for (n, item) in items.iter().enumerate() {
                    let key = format!("{KEY}[{n}]");
                    let wrong = match item {
                        Value::String(topic) => check(topic).err(),
                        other => Some(format!("there is {} where a topic belongs", kind_of(other))),
                    };
                    match (wrong, item) {
                        (Some(what), _) => self.refuse(&key, what, "write a topic as functions name it"),
                        (None, Value::String(topic)) if topics.contains(topic) => {
                            self.refuse(&key, format!("{topic:?} is listed twice"), "remove one of them");
                        }
                        (None, Value::String(topic)) => topics.push(topic.clone()),
                        (None, _) => {}
                    }
                }
                if items.is_empty() {
                    self.refuse(KEY, "the list is empty", format!("write {EXPECTED}"));
                }
                Topics::List(topics)
            }
            Some(other) => {
                let what = match &other {
                    Value::String(text) => format!("{text:?} is no list"),
                    other => format!("there is {}", kind_of(other)),
                };
                self.refuse(KEY, what, format!("write {EXPECTED}"));
                Topics::FromFunctions
            }
        }
    }

    /// `in_flight`: how much is on its way into the broker at once.
    pub fn in_flight(&mut self) -> WindowLimits {
        let default = WindowLimits::default();
        self.table("in_flight", |at| WindowLimits {
            messages: at.or("messages", default.messages),
            bytes: at.or("bytes", default.bytes),
        })
        .unwrap_or(default)
    }

    /// `content_type`: what messages are that do not say it themselves.
    pub fn content_type(&mut self) -> Option<String> {
        let content_type: String = self.optional("content_type")?;
        if content_type.is_empty() || !content_type.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
            self.refuse(
                "content_type",
                format!("{content_type:?} cannot be a header's value"),
                "write a media type such as application/json",
            );
        }
        Some(content_type)
    }

    /// Settings below a key; `None` when the key is not there.
    pub fn table<T>(&mut self, key: &str, read: impl FnOnce(&mut Reader) -> T) -> Option<T> {
        let value = self.take(key);
        let there = value.is_some();
        let mut inner =
            Reader::at(format!("{}{key}.", self.prefix), value.unwrap_or_else(|| Value::Object(Map::new())));
        let result = read(&mut inner);
        inner.refuse_unknown();
        // Read in any case, so that the settings there could be are known; what is not there has no problems.
        self.asked.extend(inner.asked.iter().map(|inside| format!("{key}.{inside}")));
        self.open.extend(inner.open.iter().map(|inside| format!("{key}.{inside}")));
        there.then(|| {
            self.problems.append(&mut inner.problems);
            result
        })
    }

    /// A group in which each name is the user's own and each value a text.
    pub fn entries(&mut self, key: &str) -> Vec<(String, String)> {
        self.group(key)
            .into_iter()
            .filter_map(|(name, value)| match value {
                Value::String(text) => Some((name, text)),
                other => {
                    let what = format!("there is {} where a text belongs", kind_of(&other));
                    self.refuse(&format!("{key}.{name}"), what, "write a text");
                    None
                }
            })
            .collect()
    }

    /// A group in which each name is the user's own and each value a group of settings, such as a list of endpoints.
    pub fn named<T>(&mut self, key: &str, mut read: impl FnMut(&str, &mut Reader) -> T) -> Vec<(String, T)> {
        let mut all = Vec::new();
        for (name, value) in self.group(key) {
            let mut inner = Reader::at(format!("{}{key}.{name}.", self.prefix), value);
            let one = read(&name, &mut inner);
            inner.refuse_unknown();
            self.problems.append(&mut inner.problems);
            all.push((name, one));
        }
        all
    }

    /// The entries of a group whose names are the user's own.
    fn group(&mut self, key: &str) -> Map<String, Value> {
        self.open.insert(key.to_owned());
        match self.take(key) {
            None => Map::new(),
            Some(Value::Object(entries)) => entries,
            Some(other) => {
                let what = format!("there is {} where a group belongs", kind_of(&other));
                self.refuse(key, what, "write each name below it with its value");
                Map::new()
            }
        }
    }

    /// Notes a problem of a setting.
    pub fn refuse(&mut self, key: &str, what: impl Into<String>, remedy: impl Into<String>) {
        let key = format!("{}{key}", self.prefix);
        self.problems.push(Problem { key, what: what.into(), remedy: remedy.into() });
    }

    /// Takes a key out that is reserved for something not built: noted as a problem when it is there, unknown elsewhere.
    pub fn reserved(&mut self, key: &str, what: &str, remedy: &str) {
        if self.object.shift_remove(key).is_some() {
            self.refuse(key, what, remedy);
        }
    }

    /// Whether a setting is written and not read yet.
    pub fn is_set(&self, key: &str) -> bool {
        self.object.get(key).is_some_and(|value| !value.is_null())
    }

    /// Every setting asked for so far, as `tls.ca_file`: what a reference file must hold.
    pub fn known(&self) -> impl Iterator<Item = &str> {
        self.asked.iter().map(String::as_str)
    }

    /// The settings of [`Reader::known`] below which names are the user's own.
    pub fn open(&self) -> impl Iterator<Item = &str> {
        self.open.iter().map(String::as_str)
    }

    /// The settings, when nothing is wrong with them. `build` may answer `None` where something required is missing.
    ///
    /// # Errors
    /// [`SettingsError`] with every problem, unknown settings included.
    pub fn finish<T>(mut self, build: impl FnOnce() -> Option<T>) -> Result<T, SettingsError> {
        self.refuse_unknown();
        match build() {
            Some(settings) if self.problems.is_empty() => Ok(settings),
            built => {
                debug_assert!(built.is_some() || !self.problems.is_empty(), "what is missing is a problem");
                Err(SettingsError { problems: self.problems })
            }
        }
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.asked.insert(key.to_owned());
        match self.object.shift_remove(key) {
            Some(Value::Null) => {
                self.refuse(key, "it has no value", "write a value, or remove the key");
                None
            }
            value => value,
        }
    }

    fn refuse_unknown(&mut self) {
        let known: Vec<&str> =
            self.asked.iter().map(String::as_str).filter(|key| !key.contains('.')).collect();
        let remedy = format!("the settings there are {}", known.join(", "));
        for unknown in std::mem::take(&mut self.object).keys() {
            self.refuse(unknown, "there is no such setting", remedy.clone());
        }
    }
}

/// What a value is, without saying it: it may be a secret.
fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a group of settings",
    }
}

impl Setting for String {
    const EXPECTED: &'static str = "a text";

    fn read(value: &Value) -> Option<Self> {
        value.as_str().map(str::to_owned)
    }
}

impl Setting for bool {
    const EXPECTED: &'static str = "true or false";

    fn read(value: &Value) -> Option<Self> {
        value.as_bool()
    }
}

impl Setting for u64 {
    const EXPECTED: &'static str = "a whole number";

    fn read(value: &Value) -> Option<Self> {
        value.as_u64()
    }
}

impl Setting for PathBuf {
    const EXPECTED: &'static str = "the path of a file";

    fn read(value: &Value) -> Option<Self> {
        value.as_str().filter(|path| !path.is_empty()).map(PathBuf::from)
    }
}

impl Setting for NonZeroUsize {
    const EXPECTED: &'static str = "a whole number from 1";

    fn read(value: &Value) -> Option<Self> {
        NonZeroU64::new(value.as_u64()?)?.try_into().ok()
    }
}

impl Setting for Duration {
    const EXPECTED: &'static str = "a duration with its unit, such as 10s, 5m or 500ms";

    fn read(value: &Value) -> Option<Self> {
        humantime::parse_duration(value.as_str()?).ok()
    }
}

impl Setting for ByteSize {
    const EXPECTED: &'static str = "a size with its unit, such as 16MiB or 512KiB";

    fn read(value: &Value) -> Option<Self> {
        ByteSize::parse(value.as_str()?)
    }
}

/// One value or a list of them; at least one.
impl<T: Setting> Setting for Vec<T> {
    const EXPECTED: &'static str = T::EXPECTED;

    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::Array(items) if !items.is_empty() => items.iter().map(T::read).collect(),
            Value::Array(_) => None,
            one => T::read(one).map(|one| vec![one]),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq)]
    struct Example {
        url: Vec<String>,
        wait: Duration,
        window: WindowLimits,
    }

    fn read(settings: Value) -> Result<Example, Vec<(String, String)>> {
        let mut at = Reader::new(settings);
        let url = at.required("url", "\"test://host\"");
        let wait = at.or("wait", Duration::from_secs(1));
        let window = at.in_flight();
        let _ = at.secret("token");
        let _ = at.topics(|topic| if topic.contains(' ') { Err("it holds a space".into()) } else { Ok(()) });
        at.finish(|| Some(Example { url: url?, wait, window }))
            .map_err(|error| error.problems.into_iter().map(|p| (p.key, p.what)).collect())
    }

    #[test]
    fn left_out_settings_have_their_defaults() {
        let example = read(json!({"url": "a"})).unwrap();

        assert_eq!(example.url, ["a"]);
        assert_eq!(example.wait, Duration::from_secs(1));
        assert_eq!(example.window, WindowLimits::default());
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let problems = read(json!({
            "wait": 30,
            "in_flight": {"messages": 0, "bytes": "16", "mesages": 3},
            "topics": ["ok", "not ok", 7, "ok"],
            "token": "s3cret", "token_file": "/run/secret",
            "wurl": "x",
            "content": null,
        }))
        .unwrap_err();

        let keys: Vec<&str> = problems.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(
            keys,
            [
                "url",
                "wait",
                "in_flight.messages",
                "in_flight.bytes",
                "in_flight.mesages",
                "token",
                "topics[1]",
                "topics[2]",
                "topics[3]",
                "wurl",
                "content"
            ]
        );
        assert!(problems.iter().all(|(_, what)| !what.contains("s3cret")));
    }

    #[test]
    fn an_unknown_setting_is_told_which_ones_there_are() {
        let mut at = Reader::new(json!({"urls": "x"}));
        let _: Option<String> = at.optional("url");
        let error = at.finish(|| Some(())).unwrap_err();

        assert_eq!(error.to_string(), "urls: there is no such setting (the settings there are url)");
    }

    #[test]
    fn an_empty_value_is_no_default() {
        assert_eq!(read(json!({"url": null})).unwrap_err(), [("url".into(), "it has no value".into())]);
    }

    #[test]
    fn a_table_that_is_not_there_has_no_problems_but_is_known() {
        let mut at = Reader::new(json!({}));
        let table: Option<Option<String>> = at.table("tls", |at| at.required("ca_file", "/ca.pem"));

        assert!(table.is_none());
        assert_eq!(at.known().collect::<Vec<_>>(), ["tls", "tls.ca_file"]);
        assert!(at.finish(|| Some(())).is_ok());
    }

    #[test]
    fn groups_may_have_names_of_the_users_own() {
        let mut at = Reader::new(json!({
            "map": {"a": "b", "c": 7},
            "endpoints": {"github": {"secret": "s"}, "gitlab": {"sekret": "t"}},
            "none": [],
        }));
        let map = at.entries("map");
        let endpoints = at.named("endpoints", |_, at| at.required::<String>("secret", "s3cret"));
        let none = at.entries("none");
        assert_eq!(map, [("a".to_owned(), "b".to_owned())]);
        assert_eq!(endpoints[0], ("github".to_owned(), Some("s".to_owned())));
        assert!(none.is_empty());
        assert_eq!(at.open().collect::<Vec<_>>(), ["endpoints", "map", "none"]);

        let keys: Vec<String> =
            at.finish(|| Some(())).unwrap_err().problems.into_iter().map(|problem| problem.key).collect();
        assert_eq!(keys, ["map.c", "endpoints.gitlab.secret", "endpoints.gitlab.sekret", "none"]);
    }

    #[test]
    fn settings_that_are_no_object_are_refused() {
        assert_eq!(read(json!(["x"])).unwrap_err()[0].1, "there is a list where settings belong");
    }

    #[test]
    fn units_are_needed() {
        assert_eq!(Duration::read(&json!("500ms")), Some(Duration::from_millis(500)));
        assert_eq!(Duration::read(&json!("500")), None);
        assert_eq!(Duration::read(&json!(500)), None);
    }
}
