//! What Kafka can carry, and how it is asked for it.

use connectors_sdk::Wishes;

/// The longest name of a topic.
const LONGEST: usize = 249;

/// Says what is wrong with a topic to subscribe to, `*` for any run of characters included.
pub(crate) fn check(topic: &str) -> Result<(), String> {
    if topic.is_empty() || topic == "." || topic == ".." {
        return Err(format!("{topic:?} is no name of a topic"));
    }
    if topic.len() > LONGEST {
        return Err(format!("the name has {} bytes, more than {LONGEST}", topic.len()));
    }
    match topic.chars().find(|c| !(c.is_ascii_alphanumeric() || "._-*".contains(*c))) {
        None => Ok(()),
        Some(odd) => Err(format!("{topic:?} holds {odd:?}, which no topic of Kafka can")),
    }
}

/// The wishes as the client takes them: whole names, and regular expressions, which begin with `^`.
pub(crate) fn subscription(wishes: &Wishes) -> Vec<String> {
    wishes
        .exact
        .iter()
        .filter(|name| !name.contains('*'))
        .cloned()
        .chain(wishes.patterns.iter().map(|p| regex(p)))
        .collect()
}

/// A pattern as a regular expression of the whole name. Of what a name can hold, only the dot means something there.
fn regex(pattern: &str) -> String {
    let mut regex = String::from("^");
    for c in pattern.chars() {
        match c {
            '*' => regex.push_str(".*"),
            '.' => regex.push_str("\\."),
            c => regex.push(c),
        }
    }
    regex.push('$');
    regex
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_of_other_sources_are_told_from_topics() {
        for topic in ["orders", "orders.created", "eu-1_Orders", "orders.*", "*"] {
            assert_eq!(check(topic), Ok(()), "{topic}");
        }
        for other in ["", ".", "..", "two words", "photos:s3:x", "a/b", "a.>", "ü", &"x".repeat(250)] {
            assert!(check(other).is_err(), "{other}");
        }
        assert!(check(&"x".repeat(249)).is_ok());
    }

    #[test]
    fn patterns_are_regular_expressions_of_the_whole_name_and_exact_names_stay_exact() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let wishes = Wishes { exact: set(&["a.b", "odd.*"]), patterns: set(&["orders.*", "*-eu"]) };

        assert_eq!(subscription(&wishes), ["a.b", "^.*-eu$", "^orders\\..*$"]);
    }
}
