//! Who wants an event.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::event::Event;
use crate::function::FunctionTable;
use crate::names::{FunctionName, SourceName};
use crate::topic::{Topic, TopicPattern, Wildcards};

/// One function's wish to run for a topic pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// Which topics.
    pub pattern: TopicPattern,
    /// Which function.
    pub function: FunctionName,
}

/// All wishes, ready to be held against events.
#[derive(Clone, Debug, Default)]
pub struct TriggerTable {
    exact: HashMap<Box<str>, Vec<FunctionName>>,
    patterns: Vec<Trigger>,
}

impl TriggerTable {
    /// The wishes of every function in the list.
    pub fn from_functions(table: &FunctionTable) -> Self {
        let mut triggers = TriggerTable::default();
        for function in table.functions.values() {
            for pattern in &function.topics {
                triggers.add(Trigger { pattern: pattern.clone(), function: function.name.clone() });
            }
        }
        triggers
    }

    fn add(&mut self, trigger: Trigger) {
        if trigger.pattern.is_exact() {
            let wanting = self.exact.entry(trigger.pattern.as_str().into()).or_default();
            if !wanting.contains(&trigger.function) {
                wanting.push(trigger.function);
            }
        } else {
            self.patterns.push(trigger);
        }
    }

    /// The functions that want this event, each once however many of its patterns it meets, in the order of their names.
    pub fn matching(&self, event: &Event) -> Vec<FunctionName> {
        self.wanting(&event.source, event.wildcards, &event.topic)
    }

    /// As [`TriggerTable::matching`], for an event not yet at hand.
    pub fn wanting(&self, source: &SourceName, wildcards: Wildcards, topic: &Topic) -> Vec<FunctionName> {
        let names = wildcards.names(topic.as_str());
        let exact = names.iter().filter_map(|name| self.exact.get(&**name)).flatten();
        let by_pattern = self
            .patterns
            .iter()
            .filter(|trigger| trigger.pattern.matches(source, wildcards, topic))
            .map(|trigger| &trigger.function);
        exact.chain(by_pattern).cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Every wish, exact ones first, in the order of patterns and names.
    pub fn triggers(&self) -> Vec<Trigger> {
        let mut exact: Vec<Trigger> = self
            .exact
            .iter()
            .flat_map(|(topic, functions)| {
                let pattern = Topic::parse(topic).map(|topic| TopicPattern::exact(&topic));
                functions.iter().filter_map(move |function| {
                    Some(Trigger { pattern: pattern.clone().ok()?, function: function.clone() })
                })
            })
            .collect();
        exact.sort_by(|a, b| (&a.pattern, &a.function).cmp(&(&b.pattern, &b.function)));
        exact.extend(self.patterns.iter().cloned());
        exact
    }

    /// What sources should listen for.
    pub fn demand(&self) -> Demand {
        let mut patterns: BTreeMap<TopicPattern, BTreeSet<FunctionName>> = BTreeMap::new();
        for trigger in self.triggers() {
            patterns.entry(trigger.pattern).or_default().insert(trigger.function);
        }
        Demand { patterns }
    }
}

/// What functions ask for, as sources with `topics: from-functions` see it. A plain value; compare to see a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Each pattern with the functions that asked for it.
    pub patterns: BTreeMap<TopicPattern, BTreeSet<FunctionName>>,
}

impl Demand {
    /// The patterns meant for this source: unscoped ones and those that name it.
    pub fn for_source<'a>(&'a self, source: &'a SourceName) -> impl Iterator<Item = &'a TopicPattern> {
        self.patterns.keys().filter(move |pattern| pattern.source().is_none_or(|only| only == source))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::function::Function;

    fn table(wishes: &[(&str, &str)]) -> TriggerTable {
        let mut functions = FunctionTable::default();
        for (name, wish) in wishes {
            let name = FunctionName::parse(name, "fn").unwrap();
            let function = functions
                .functions
                .entry(name.clone())
                .or_insert_with(|| Function::plain(name.clone(), name.as_str()));
            function.topics.push(match wish.strip_prefix('=') {
                Some(exact) => TopicPattern::exact(&Topic::parse(exact).unwrap()),
                None => TopicPattern::parse(wish).unwrap(),
            });
        }
        TriggerTable::from_functions(&functions)
    }

    fn wanting(table: &TriggerTable, source: &str, topic: &str) -> Vec<String> {
        let (source, topic) = (SourceName::parse(source).unwrap(), Topic::parse(topic).unwrap());
        table.wanting(&source, Wildcards::Nats, &topic).iter().map(|f| f.name().to_owned()).collect()
    }

    #[test]
    fn an_event_reaches_every_function_that_wants_it_once() {
        let table = table(&[
            ("b", "=orders.created"),
            ("a", "orders.>"),
            ("a", "*.created"),
            ("c", "=orders.deleted"),
        ]);

        assert_eq!(wanting(&table, "bus", "orders.created"), ["a", "b"]);
        assert_eq!(wanting(&table, "bus", "nobody"), Vec::<String>::new());
    }

    #[test]
    fn a_scoped_pattern_hears_only_its_source() {
        let table = table(&[("a", "@bus/orders.>")]);

        assert_eq!(wanting(&table, "bus", "orders.x"), ["a"]);
        assert!(wanting(&table, "mqtt", "orders.x").is_empty());
    }

    #[test]
    fn demand_names_each_pattern_once_and_leaves_out_other_sources() {
        let table = table(&[("a", "=t"), ("b", "=t"), ("b", "@other/x")]);
        let bus = SourceName::parse("bus").unwrap();
        let demand = table.demand();

        assert_eq!(demand.for_source(&bus).map(ToString::to_string).collect::<Vec<_>>(), ["t"]);
        assert_eq!(demand.patterns.len(), 2);
    }

    proptest! {
        #[test]
        fn matching_agrees_with_asking_every_trigger(
            wishes in proptest::collection::vec(("[a-d]", "=?[ab*>](\\.[ab*>]){0,2}"), 0..8),
            topic in "[ab](\\.[ab]){0,2}",
        ) {
            let borrowed: Vec<(&str, &str)> = wishes.iter().map(|(f, w)| (f.as_str(), w.as_str())).collect();
            let table = table(&borrowed);
            let (source, topic) = (SourceName::parse("bus").unwrap(), Topic::parse(&topic).unwrap());

            let one_by_one: BTreeSet<FunctionName> = table
                .triggers()
                .into_iter()
                .filter(|t| t.pattern.matches(&source, Wildcards::Nats, &topic))
                .map(|t| t.function)
                .collect();

            prop_assert_eq!(table.wanting(&source, Wildcards::Nats, &topic), one_by_one.into_iter().collect::<Vec<_>>());
        }
    }
}
