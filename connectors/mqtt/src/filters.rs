//! Topic filters: what MQTT can carry, and which filter makes another needless.

use std::collections::BTreeSet;

/// The longest text MQTT can carry, less what a shared subscription puts before it.
const LONGEST: usize = 65_535 - LONGEST_GROUP - "$share//".len();

/// The longest name of a group.
pub(crate) const LONGEST_GROUP: usize = 255;

/// Says what is wrong with a topic filter, wildcards included.
pub(crate) fn check(filter: &str) -> Result<(), String> {
    if filter.is_empty() {
        return Err("the topic is empty".to_owned());
    }
    if filter.len() > LONGEST {
        return Err(format!("the topic has {} bytes, more than {LONGEST}", filter.len()));
    }
    if filter.contains(char::is_control) {
        return Err(format!("{filter:?} holds a control character, which no MQTT topic may"));
    }
    if filter.starts_with("$share/") {
        return Err(format!("{filter:?} is a shared subscription; write its group as `group`"));
    }
    let levels: Vec<&str> = filter.split('/').collect();
    if let Some(level) = levels.iter().find(|level| level.len() > 1 && level.contains(['+', '#'])) {
        return Err(format!(
            "{filter:?} has a wildcard within the level {level:?}; it must be a level of its own"
        ));
    }
    if levels[..levels.len() - 1].contains(&"#") {
        return Err(format!("{filter:?} has a # that is not at its end"));
    }
    Ok(())
}

/// Whether every topic that `narrow` meets is met by `wide` as well.
pub(crate) fn covers(wide: &str, narrow: &str) -> bool {
    // Wildcards at the beginning do not meet the server's own topics.
    if narrow.starts_with('$') && wide.starts_with(['+', '#']) {
        return false;
    }
    let (mut wide, mut narrow) = (wide.split('/'), narrow.split('/'));
    loop {
        match (wide.next(), narrow.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(level)) if level != "#" => {}
            (Some(one), Some(other)) if one == other => {}
            _ => return false,
        }
    }
}

/// The same topics with the fewest filters: without those that others cover. Each filter is a subscription, and a server may
/// send a copy of a message for each that it meets.
pub(crate) fn needed(wanted: &BTreeSet<String>) -> BTreeSet<String> {
    let covered = |filter: &String| wanted.iter().any(|other| other != filter && covers(other, filter));
    wanted.iter().filter(|filter| !covered(filter)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use connectors_sdk::Wildcards;

    use super::*;

    fn needed_of(filters: &[&str]) -> Vec<String> {
        needed(&filters.iter().map(|filter| (*filter).to_owned()).collect()).into_iter().collect()
    }

    #[test]
    fn what_mqtt_cannot_carry_is_said() {
        for good in ["a", "/", "a/+/b", "#", "+", "a/#", "$SYS/#", "two words", "größe", "a//b"] {
            assert_eq!(check(good), Ok(()), "{good:?}");
        }
        for wrong in ["", "a/#/b", "a+", "a/b#", "+a/b", "a\0b", "$share/g/a"] {
            assert!(check(wrong).is_err(), "{wrong:?}");
        }
        assert!(check(&"x".repeat(LONGEST)).is_ok() && check(&"x".repeat(LONGEST + 1)).is_err());
    }

    #[test]
    fn a_filter_that_another_covers_is_not_needed() {
        assert_eq!(needed_of(&["a/b", "a/+", "a/#", "a", "b"]), ["a/#", "b"]);
        assert_eq!(needed_of(&["a/+", "+/b"]), ["+/b", "a/+"], "each meets what the other does not");
        assert_eq!(needed_of(&["#", "$SYS/x", "+/a"]), ["#", "$SYS/x"]);
        assert_eq!(needed_of(&["a/+", "a/#", "a/+/c"]), ["a/#"]);
    }

    fn filters() -> impl Strategy<Value = String> {
        let level = prop_oneof![Just("a"), Just("b"), Just("+"), Just("")];
        (proptest::collection::vec(level, 1..4), any::<bool>()).prop_map(|(levels, rest)| {
            let filter = levels.join("/");
            if rest { format!("{filter}/#") } else { filter }
        })
    }

    proptest! {
        #[test]
        fn no_topic_is_missed(
            wanted in proptest::collection::btree_set(filters(), 1..6),
            topic in "(a|b|\\$x|)(/(a|b|)){0,3}",
        ) {
            let meets = |set: &BTreeSet<String>| set.iter().any(|filter| Wildcards::Mqtt.matches(filter, &topic));
            prop_assert_eq!(meets(&wanted), meets(&needed(&wanted)));
        }
    }
}
