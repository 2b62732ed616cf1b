//! Names of an upstream that functions know by another one.

use std::borrow::Cow;
use std::cmp::Reverse;

use broker_model::{TopicPattern, Wildcards};

use crate::settings::Reader;

/// `topic_map`: upstream name → topic. A `*` on the left stands for any run of characters, and on the right for what it
/// met. A whole name goes before a pattern, a longer pattern before a shorter one; what no rule meets keeps its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicMap {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    from: Side,
    to: Side,
}

/// A name, in two halves where it has a `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Side {
    head: String,
    tail: Option<String>,
}

impl Side {
    fn parse(text: &str) -> Option<Side> {
        let (head, tail) = match text.split_once('*') {
            Some((_, tail)) if tail.contains('*') => return None,
            Some((head, tail)) => (head, Some(tail.to_owned())),
            None => (text, None),
        };
        Some(Side { head: head.to_owned(), tail })
    }

    /// What the `*` stands for in `name`, or nothing where there is none; `None` when the name is another one.
    fn met<'a>(&self, name: &'a str) -> Option<&'a str> {
        match &self.tail {
            None => (name == self.head).then_some(""),
            Some(tail) => name.strip_prefix(&self.head)?.strip_suffix(tail.as_str()),
        }
    }

    fn with(&self, star: &str) -> String {
        match &self.tail {
            None => self.head.clone(),
            Some(tail) => format!("{}{star}{tail}", self.head),
        }
    }
}

impl TopicMap {
    /// Reads `topic_map`.
    pub fn read(at: &mut Reader) -> Self {
        const KEY: &str = "topic_map";
        let mut rules = Vec::new();
        for (from, to) in at.entries(KEY) {
            let key = format!("{KEY}.{from}");
            match (Side::parse(&from), Side::parse(&to)) {
                (Some(from), Some(to)) if to.tail.is_some() && from.tail.is_none() => at.refuse(
                    &key,
                    format!("the topic {:?} has a * and the name has none", to.with("*")),
                    "write a * on both sides, or a whole topic",
                ),
                (Some(_), Some(to)) if to.head.is_empty() && to.tail.is_none() => {
                    at.refuse(&key, "the topic is empty", "write the topic as functions name it");
                }
                (Some(from), Some(to)) => rules.push(Rule { from, to }),
                _ => at.refuse(&key, "there is more than one *", "keep one * on each side"),
            }
        }
        rules.sort_by_key(|rule| {
            let fixed = rule.from.head.len() + rule.from.tail.as_ref().map_or(0, String::len);
            (rule.from.tail.is_some(), Reverse(fixed))
        });
        TopicMap { rules }
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The topic an upstream's name stands for.
    pub fn topic<'a>(&self, name: &'a str) -> Cow<'a, str> {
        self.rules
            .iter()
            .find_map(|rule| Some(Cow::Owned(rule.to.with(rule.from.met(name)?))))
            .unwrap_or(Cow::Borrowed(name))
    }

    /// The upstream's names that stand for what a function wishes for; `true` beside those that are patterns.
    ///
    /// A wish with wildcards is found behind a rule only when it repeats what is fixed on the rule's right side.
    pub(crate) fn names(&self, wish: &TopicPattern, wildcards: Wildcards) -> Vec<(String, bool)> {
        let text = wish.as_str();
        let is_pattern = |name: &str| !wish.is_exact() && wildcards.any_in(name);
        let mut names = Vec::new();
        for rule in &self.rules {
            match (&rule.to.tail, rule.to.met(text)) {
                // Many names, one topic.
                (None, Some(_)) => names.push((rule.from.with("*"), rule.from.tail.is_some())),
                (Some(_), Some(star)) => names.push((rule.from.with(star), is_pattern(text))),
                // A pattern that meets the rule's one topic.
                (None, None) if !wish.is_exact() && wildcards.matches(text, &rule.to.head) => {
                    names.push((rule.from.with("*"), rule.from.tail.is_some()));
                }
                _ => {}
            }
        }
        // A name that another rule takes away stands for something else.
        if is_pattern(text) || self.topic(text) == text {
            names.push((text.to_owned(), is_pattern(text)));
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use broker_model::Topic;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn map(settings: Value) -> TopicMap {
        let mut at = Reader::new(json!({ "topic_map": settings }));
        let map = TopicMap::read(&mut at);
        at.finish(|| Some(map)).unwrap()
    }

    fn exact(map: &TopicMap, topic: &str) -> Vec<String> {
        let wish = TopicPattern::exact(&Topic::parse(topic).unwrap());
        map.names(&wish, Wildcards::Nats).into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn whole_names_go_before_patterns_and_long_patterns_before_short_ones() {
        let map = map(json!({"*": "all.*", "eu.*": "europe.*", "eu.orders": "orders", "eu.vip-*": "vip"}));

        assert_eq!(map.topic("eu.orders"), "orders");
        assert_eq!(map.topic("eu.vip-7"), "vip");
        assert_eq!(map.topic("eu.other"), "europe.other");
        assert_eq!(map.topic("us.other"), "all.us.other");
    }

    #[test]
    fn what_no_rule_meets_keeps_its_name() {
        assert_eq!(map(json!({"a": "b"})).topic("c"), "c");
        assert_eq!(TopicMap::default().topic("c"), "c");
    }

    #[test]
    fn a_wish_is_asked_for_under_the_upstreams_names() {
        let map = map(json!({"orders-v1": "orders", "orders-v2": "orders", "prod.*": "*"}));

        assert_eq!(exact(&map, "orders"), ["orders-v1", "orders-v2", "prod.orders", "orders"]);
        assert_eq!(exact(&map, "orders-v1"), ["prod.orders-v1"], "the name itself stands for another topic");
    }

    #[test]
    fn a_wish_with_wildcards_keeps_them() {
        let map = map(json!({"prod.orders.*": "orders.*", "x": "orders.late"}));
        let wish = TopicPattern::parse("orders.>").unwrap();

        assert_eq!(
            map.names(&wish, Wildcards::Nats),
            [("x".to_owned(), false), ("prod.orders.>".to_owned(), true), ("orders.>".to_owned(), true)]
        );
    }

    #[test]
    fn rules_that_cannot_work_are_refused() {
        let mut at = Reader::new(json!({"topic_map": {"a*b*": "x", "c": "d*", "e": ""}}));
        let map = TopicMap::read(&mut at);
        let problems = at.finish(|| Some(map)).unwrap_err().problems;

        let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
        assert_eq!(keys, ["topic_map.a*b*", "topic_map.c", "topic_map.e"]);
    }

    proptest! {
        #[test]
        fn whatever_is_asked_for_by_a_whole_name_becomes_the_wished_topic(
            rules in proptest::collection::btree_map("[ab.]{1,3}\\*?", "[ab.]{1,3}", 0..5),
            topic in "[ab.]{1,4}",
        ) {
            let map = map(json!(rules));
            let wish = TopicPattern::exact(&Topic::parse(&topic).unwrap());
            for (name, pattern) in map.names(&wish, Wildcards::Glob) {
                // A longer rule may take a name away from a shorter one; it must not be the only answer then.
                if !pattern && map.topic(&name) != topic {
                    prop_assert!(rules.keys().any(|from| *from != name));
                }
            }
            // Every name that becomes the topic is covered.
            for name in ["a", "b", "ab", "a.b", topic.as_str()] {
                if map.topic(name) == topic {
                    let wire = map.names(&wish, Wildcards::Glob);
                    prop_assert!(wire.iter().any(|(asked, pattern)| if *pattern {
                        Wildcards::Glob.matches(asked, name)
                    } else {
                        asked == name
                    }), "{name} in {wire:?}");
                }
            }
        }
    }
}
