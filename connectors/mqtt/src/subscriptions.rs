//! What was asked for, what was granted, and which of the copies of a message to take: decisions, without I/O.

use std::collections::{BTreeMap, BTreeSet};

use connectors_sdk::Wildcards;

use crate::filters::needed;

/// The largest number a subscription can have.
const LARGEST: u32 = 268_435_455;

/// The subscriptions of a session.
#[derive(Debug)]
pub(crate) struct Subscriptions {
    /// The group of which all of them are.
    group: Option<String>,
    /// By filter.
    all: BTreeMap<String, Subscription>,
    next: u32,
}

#[derive(Debug)]
struct Subscription {
    /// Its number, which messages carry that come for it; a younger subscription has a larger one.
    number: u32,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// The server was asked.
    Asked,
    /// Messages come.
    Granted,
    /// The server will not.
    Refused(String),
    /// The server was asked to end it.
    Leaving,
}

/// What to ask the server for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// Filters with their numbers.
    pub(crate) subscribe: Vec<(String, u32)>,
    /// Filters.
    pub(crate) unsubscribe: Vec<String>,
}

impl Subscriptions {
    /// None yet. `random` sets the numbers apart from those that an earlier run gave: messages that waited in the session
    /// still carry those.
    pub(crate) fn new(group: Option<String>, random: u32) -> Self {
        // Room for as many more as anybody will make.
        Subscriptions { group, all: BTreeMap::new(), next: random % (LARGEST / 2) + 1 }
    }

    /// A connection stands. `resumed`: with the session of the one before, so that what was granted still stands.
    pub(crate) fn connected(&mut self, resumed: bool) {
        if resumed {
            self.all.retain(|_, subscription| subscription.state == State::Granted);
        } else {
            self.all.clear();
        }
    }

    /// These filters are wanted now.
    pub(crate) fn want(&mut self, wanted: &BTreeSet<String>) -> Change {
        let needed = needed(wanted);
        let mut change = Change::default();
        for filter in &needed {
            let asked = self.all.get(filter).is_some_and(|known| known.state != State::Leaving);
            if !asked {
                change.subscribe.push((filter.clone(), self.next));
                self.all.insert(filter.clone(), Subscription { number: self.next, state: State::Asked });
                self.next += 1;
            }
        }
        let mut refused = Vec::new();
        for (filter, subscription) in &mut self.all {
            if needed.contains(filter) {
                continue;
            }
            match subscription.state {
                State::Refused(_) => refused.push(filter.clone()),
                State::Leaving => {}
                State::Asked | State::Granted => {
                    subscription.state = State::Leaving;
                    change.unsubscribe.push(filter.clone());
                }
            }
        }
        refused.iter().for_each(|filter| drop(self.all.remove(filter)));
        change
    }

    /// Forgets refusals, so that [`Subscriptions::want`] asks again: permissions change.
    pub(crate) fn forget_refusals(&mut self) {
        self.all.retain(|_, subscription| !matches!(subscription.state, State::Refused(_)));
    }

    /// The server answered a subscription. One that was meanwhile given up, or made anew, is passed over.
    pub(crate) fn answered(&mut self, filter: &str, number: u32, answer: Result<(), String>) {
        if let Some(subscription) = self.all.get_mut(filter)
            && subscription.number == number
            && subscription.state == State::Asked
        {
            subscription.state = answer.map_or_else(State::Refused, |()| State::Granted);
        }
    }

    /// The server ended a subscription.
    pub(crate) fn ended(&mut self, filter: &str) {
        if self.all.get(filter).is_some_and(|subscription| subscription.state == State::Leaving) {
            self.all.remove(filter);
        }
    }

    /// Whether a message is a copy of one that comes, or came, for another of our subscriptions: it is when that other one is
    /// older and stands, because then the server had both when it made the copies. Copies for subscriptions of an earlier run are not
    /// told apart. Nor are those of a group: one replica would drop what it thinks another gets.
    pub(crate) fn is_copy(&self, topic: &str, numbers: &[u32]) -> bool {
        let ours = |number: &u32| self.all.values().any(|subscription| subscription.number == *number);
        if self.group.is_some() || numbers.is_empty() || !numbers.iter().all(ours) {
            return false;
        }
        let meets = |filter: &str| Wildcards::Mqtt.matches(filter, topic);
        let standing = |subscription: &Subscription| subscription.state == State::Granted;
        let oldest = self
            .all
            .iter()
            .filter(|(filter, subscription)| standing(subscription) && meets(filter))
            .map(|(_, subscription)| subscription.number)
            .min();
        oldest.is_some_and(|oldest| numbers.iter().all(|number| *number > oldest))
    }

    /// Whether any of them is there for this topic.
    pub(crate) fn meet(&self, topic: &str) -> bool {
        self.all.keys().any(|filter| Wildcards::Mqtt.matches(filter, topic))
    }

    /// What is granted, for people.
    pub(crate) fn granted(&self) -> Vec<String> {
        let granted = self.all.iter().filter(|(_, subscription)| subscription.state == State::Granted);
        granted.map(|(filter, _)| filter.clone()).collect()
    }

    /// What is refused, each with the server's word.
    pub(crate) fn refused(&self) -> impl Iterator<Item = (&str, &str)> {
        self.all.iter().filter_map(|(filter, subscription)| match &subscription.state {
            State::Refused(why) => Some((filter.as_str(), why.as_str())),
            _ => None,
        })
    }

    /// A filter as the server knows it.
    pub(crate) fn on_the_wire(&self, filter: &str) -> String {
        match &self.group {
            Some(group) => format!("$share/{group}/{filter}"),
            None => filter.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(filters: &[&str]) -> BTreeSet<String> {
        filters.iter().map(|filter| (*filter).to_owned()).collect()
    }

    /// Subscriptions whose numbers begin at 1, all granted.
    fn granted(filters: &[&str]) -> Subscriptions {
        let mut subscriptions = Subscriptions::new(None, 0);
        grant(&mut subscriptions, filters);
        subscriptions
    }

    fn grant(subscriptions: &mut Subscriptions, filters: &[&str]) {
        for (filter, number) in subscriptions.want(&set(filters)).subscribe {
            subscriptions.answered(&filter, number, Ok(()));
        }
    }

    #[test]
    fn only_what_changed_is_asked_for() {
        let mut subscriptions = granted(&["a", "b/+"]);

        let change = subscriptions.want(&set(&["b/+", "b/c", "d"]));

        assert_eq!(change, Change { subscribe: vec![("d".into(), 3)], unsubscribe: vec!["a".into()] });
        assert_eq!(subscriptions.want(&set(&["b/+", "d"])), Change::default());
        assert_eq!(subscriptions.granted(), ["b/+"]);
        subscriptions.ended("a");
        subscriptions.answered("d", 3, Ok(()));
        assert_eq!(subscriptions.granted(), ["b/+", "d"]);
    }

    #[test]
    fn what_is_wanted_again_before_it_ended_is_asked_for_again() {
        let mut subscriptions = granted(&["a"]);
        subscriptions.want(&set(&[]));

        assert_eq!(subscriptions.want(&set(&["a"])).subscribe, [("a".to_owned(), 2)]);
        subscriptions.ended("a");
        subscriptions.answered("a", 2, Ok(()));
        assert_eq!(subscriptions.granted(), ["a"], "the end was that of the one before");
    }

    #[test]
    fn a_refusal_stands_until_it_is_asked_again_or_nobody_wants_it() {
        let mut subscriptions = Subscriptions::new(None, 0);
        subscriptions.want(&set(&["a", "b"]));
        subscriptions.answered("a", 1, Err("not authorised".into()));
        subscriptions.answered("b", 2, Ok(()));

        assert_eq!(subscriptions.refused().collect::<Vec<_>>(), [("a", "not authorised")]);
        assert_eq!(subscriptions.want(&set(&["a", "b"])), Change::default());
        subscriptions.forget_refusals();
        assert_eq!(subscriptions.want(&set(&["a", "b"])).subscribe, [("a".to_owned(), 3)]);
        subscriptions.answered("a", 3, Err("no".into()));
        assert_eq!(subscriptions.want(&set(&["b"])), Change::default(), "there is nothing to end");
        assert_eq!(subscriptions.refused().count(), 0);
    }

    #[test]
    fn a_resumed_session_still_has_what_was_granted() {
        let mut subscriptions = granted(&["a"]);
        subscriptions.want(&set(&["a", "b"]));
        subscriptions.connected(true);
        assert_eq!(subscriptions.want(&set(&["a", "b"])).subscribe, [("b".to_owned(), 3)]);

        subscriptions.connected(false);
        assert_eq!(subscriptions.want(&set(&["a", "b"])).subscribe.len(), 2);
    }

    #[test]
    fn of_several_copies_the_one_for_the_oldest_subscription_is_taken() {
        let mut subscriptions = granted(&["a/+"]);
        grant(&mut subscriptions, &["a/+", "+/b"]);

        assert!(!subscriptions.is_copy("a/b", &[1]));
        assert!(subscriptions.is_copy("a/b", &[2]));
        assert!(!subscriptions.is_copy("a/b", &[2, 1]), "one message for both");
        assert!(!subscriptions.is_copy("c/b", &[2]), "it came for that one alone");
    }

    #[test]
    fn nothing_is_taken_for_a_copy_that_may_be_the_only_one() {
        let mut subscriptions = granted(&["b/+"]);
        grant(&mut subscriptions, &["b/+", "+/c"]);

        assert!(!subscriptions.is_copy("b/c", &[]), "the server does not say");
        assert!(!subscriptions.is_copy("b/c", &[77]), "of an earlier run");
        // The older one is ended by the time the message for the younger comes.
        subscriptions.want(&set(&["+/c"]));
        assert!(!subscriptions.is_copy("b/c", &[2]));
        subscriptions.ended("b/+");
        assert!(!subscriptions.is_copy("b/c", &[2]));

        let mut shared = Subscriptions::new(Some("g".into()), 0);
        grant(&mut shared, &["a/+"]);
        grant(&mut shared, &["a/+", "+/b"]);
        assert!(!shared.is_copy("a/b", &[2]), "the other copy may have gone to another replica");
        assert_eq!(shared.on_the_wire("a/+"), "$share/g/a/+");
    }
}
