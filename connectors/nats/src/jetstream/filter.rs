//! Which messages of a stream a consumer hands out. Pure.

use std::collections::BTreeSet;

use connectors_sdk::Wildcards;

/// What a consumer is told to hand out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    /// Exactly these subjects, none of which lies within another.
    Exact(Vec<String>),
    /// The whole stream: what is not wanted is passed over.
    Whole,
}

impl Filter {
    /// Exactly what is wanted.
    pub(crate) fn exact(wanted: &BTreeSet<String>) -> Filter {
        Filter::Exact(minimal(wanted))
    }

    /// As the consumer's configuration says it: one subject, or several.
    pub(crate) fn written(&self) -> (String, Vec<String>) {
        match self {
            Filter::Exact(subjects) => match subjects.as_slice() {
                [one] => (one.clone(), Vec::new()),
                several => (String::new(), several.to_vec()),
            },
            Filter::Whole => (String::new(), Vec::new()),
        }
    }

    /// Whether a message that was handed out is one of those wanted.
    pub(crate) fn passes(&self, wanted: &BTreeSet<String>, subject: &str) -> bool {
        matches!(self, Filter::Exact(_))
            || wanted.iter().any(|pattern| Wildcards::Nats.matches(pattern, subject))
    }
}

/// The subjects of these that can be in a stream of those. A stream that names none (a mirror) may hold any.
pub(crate) fn within(wanted: &BTreeSet<String>, stream: &[String]) -> BTreeSet<String> {
    let can_be = |subject: &&String| stream.is_empty() || stream.iter().any(|other| meet(subject, other));
    wanted.iter().filter(can_be).cloned().collect()
}

/// The same messages with none of the subjects within another.
fn minimal(wanted: &BTreeSet<String>) -> Vec<String> {
    let within_another =
        |subject: &String| wanted.iter().any(|other| other != subject && holds(other, subject));
    wanted.iter().filter(|subject| !within_another(subject)).cloned().collect()
}

/// Whether every subject that `inner` means, `outer` means too.
fn holds(outer: &str, inner: &str) -> bool {
    let (mut outer, mut inner) = (outer.split('.'), inner.split('.'));
    loop {
        match (outer.next(), inner.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(a), Some(b)) if a == b => {}
            _ => return false,
        }
    }
}

/// Whether there is a subject that both mean.
fn meet(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (one.split('.'), other.split('.'));
    loop {
        match (one.next(), other.next()) {
            (Some(">"), Some(_)) | (Some(_), Some(">")) | (None, None) => return true,
            (Some(a), Some(b)) if a == b || a == "*" || b == "*" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(subjects: &[&str]) -> BTreeSet<String> {
        subjects.iter().map(|subject| (*subject).to_owned()).collect()
    }

    #[test]
    fn subjects_within_others_are_left_out() {
        let wanted = set(&["orders.*", "orders.created", "*.created", "inv.>", "inv.eu.>", "inv.eu.paid"]);

        assert_eq!(
            Filter::exact(&wanted),
            Filter::Exact(vec!["*.created".into(), "inv.>".into(), "orders.*".into()])
        );
        assert_eq!(Filter::exact(&set(&["a", ">"])).written(), (">".to_owned(), vec![]));
        assert_eq!(Filter::exact(&set(&["a", "b"])).written(), (String::new(), vec!["a".into(), "b".into()]));
    }

    #[test]
    fn what_comes_beyond_the_wanted_is_passed_over() {
        let wanted = set(&["orders.a", "orders.b"]);

        assert!(Filter::Whole.passes(&wanted, "orders.a"));
        assert!(!Filter::Whole.passes(&wanted, "orders.c"));
    }

    #[test]
    fn subjects_of_other_streams_are_left_out() {
        let stream = ["orders.*".to_owned(), "inv.>".to_owned()];

        let found =
            within(&set(&["orders.a", "orders.>", "orders", "other", "*.created", "inv.a.b"]), &stream);

        assert_eq!(found, set(&["orders.a", "orders.>", "*.created", "inv.a.b"]));
        assert_eq!(within(&set(&["x"]), &[]), set(&["x"]), "a mirror says nothing of its subjects");
    }

    /// Patterns and subjects over few words, so that they meet often.
    fn pattern() -> impl Strategy<Value = String> {
        let token = prop_oneof![Just("a"), Just("b"), Just("*")];
        (prop::collection::vec(token, 1..4), any::<bool>()).prop_map(|(mut tokens, open)| {
            if open {
                tokens.push(">");
            }
            tokens.join(".")
        })
    }

    fn subject() -> impl Strategy<Value = String> {
        prop::collection::vec(prop_oneof![Just("a"), Just("b")], 1..5).prop_map(|tokens| tokens.join("."))
    }

    fn means(pattern: &str, subject: &str) -> bool {
        Wildcards::Nats.matches(pattern, subject)
    }

    proptest! {
        #[test]
        fn no_wanted_message_is_lost_by_a_filter(
            wanted in prop::collection::btree_set(pattern(), 1..4), subject in subject()
        ) {
            let wants = wanted.iter().any(|pattern| means(pattern, &subject));
            let Filter::Exact(exact) = Filter::exact(&wanted) else { panic!() };
            prop_assert_eq!(exact.iter().any(|pattern| means(pattern, &subject)), wants);
            prop_assert_eq!(Filter::Whole.passes(&wanted, &subject), wants);
        }

        #[test]
        fn what_meets_is_what_both_mean(one in pattern(), other in pattern(), subject in subject()) {
            if means(&one, &subject) && means(&other, &subject) {
                prop_assert!(meet(&one, &other));
            }
            if holds(&one, &other) && means(&other, &subject) {
                prop_assert!(means(&one, &subject));
            }
        }
    }
}
