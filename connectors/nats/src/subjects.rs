//! What NATS can carry.

/// The longest subject we ask for: a server reads control lines of 4,096 bytes, with the queue group in the same line.
const LONGEST: usize = 3072;

/// Says what is wrong with a subject to subscribe to, wildcards included.
pub(crate) fn check(subject: &str) -> Result<(), String> {
    let tokens: Vec<&str> = subject.split('.').collect();
    if subject.len() > LONGEST {
        return Err(format!("the subject has {} bytes, more than {LONGEST}", subject.len()));
    }
    if subject.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(format!("{subject:?} holds a space or a control character, which no NATS subject can"));
    }
    if tokens.iter().any(|token| token.is_empty()) {
        return Err(format!("{subject:?} has an empty part between dots, which no NATS subject can"));
    }
    if tokens[..tokens.len() - 1].contains(&">") {
        return Err(format!("{subject:?} has a > that is not at its end"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use connectors_sdk::{
        Demand, EventForm, Reader, SourceName, Topic, TopicPattern, Topics, Wildcards, wishes,
    };

    use super::*;

    fn demand(patterns: &[&str]) -> Demand {
        let patterns = patterns.iter().map(|text| match text.strip_prefix('=') {
            Some(exact) => TopicPattern::exact(&Topic::parse(exact).unwrap()),
            None => TopicPattern::parse(text).unwrap(),
        });
        Demand { patterns: patterns.map(|pattern| (pattern, BTreeSet::new())).collect() }
    }

    fn from_functions(patterns: &[&str]) -> Vec<String> {
        let bus = SourceName::parse("bus").unwrap();
        let mut at = Reader::new(serde_json::json!({}));
        let form = EventForm::read(&mut at, &bus, "nats", Wildcards::Nats);
        let wishes = wishes(&Topics::FromFunctions, &demand(patterns), &form, check);
        wishes.on_the_wire(Wildcards::Nats).into_iter().collect()
    }

    #[test]
    fn patterns_go_on_the_wire_and_exact_topics_stay_exact() {
        assert_eq!(
            from_functions(&["orders.>", "*.created", "=orders.created", "=orders.*", "=>", "or*"]),
            ["*.created", "or*", "orders.>", "orders.created"]
        );
    }

    #[test]
    fn an_exact_topic_and_the_same_pattern_are_one_subscription() {
        assert_eq!(from_functions(&["a.b", "=a.b", "@bus/a.b"]), ["a.b"]);
    }

    #[test]
    fn names_of_other_sources_are_left_out() {
        assert!(from_functions(&["@other/a", "=two words", "=a..b", "=.a", "=a.", "a.>.b"]).is_empty());
        assert_eq!(from_functions(&["=photos:s3:ObjectCreated:Put"]), ["photos:s3:ObjectCreated:Put"]);
    }

    #[test]
    fn a_subject_that_does_not_fit_a_control_line_is_refused() {
        assert!(check(&"x".repeat(LONGEST)).is_ok());
        assert!(check(&"x".repeat(LONGEST + 1)).is_err());
    }

    proptest! {
        #[test]
        fn what_passes_never_breaks_the_protocol(subject in "[ -~\\t\\r\\n]{1,40}") {
            if check(&subject).is_ok() {
                prop_assert!(!subject.contains([' ', '\t', '\r', '\n']));
                prop_assert!(async_nats::Subject::from(subject.as_str()).is_valid());
            }
        }
    }
}
