//! What to listen to: a list of the settings, or what functions ask for as they come and go.

use std::collections::BTreeSet;

use broker_model::{Demand, Wildcards};
use tokio::sync::watch;

use crate::form::EventForm;
use crate::settings::Topics;
use crate::source::SourceContext;

/// The topic under which OpenFaaS' functions ask for their schedule. It is cron's alone: no other upstream is asked for it,
/// unless its settings name it.
const SCHEDULED: &str = "cron-function";

/// What to ask an upstream for, in its own names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Whole names. A wildcard character in one is a letter.
    pub exact: BTreeSet<String>,
    /// Patterns of the upstream's grammar, each with at least one wildcard.
    pub patterns: BTreeSet<String>,
}

impl Wishes {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.patterns.is_empty()
    }

    /// For upstreams that tell whole names and patterns apart by their letters alone: all of them, without the whole names
    /// that would be taken for patterns.
    pub fn on_the_wire(&self, wildcards: Wildcards) -> BTreeSet<String> {
        let exact = self.exact.iter().filter(|name| !wildcards.any_in(name));
        exact.chain(&self.patterns).cloned().collect()
    }

    /// The same for people.
    pub fn names(&self) -> Vec<String> {
        self.exact.iter().chain(&self.patterns).cloned().collect()
    }
}

/// Says why a name cannot be one of this upstream, which is then another source's.
pub type Carries = fn(&str) -> Result<(), String>;

/// What is wished for now. A pure function: names that the upstream cannot carry belong to another source and are left out.
pub fn wishes(topics: &Topics, demand: &Demand, form: &EventForm, carries: Carries) -> Wishes {
    let wildcards = form.wildcards();
    let mut wishes = Wishes::default();
    let mut add = |name: String, is_pattern: bool| {
        if is_pattern {
            wishes.patterns.insert(name)
        } else {
            wishes.exact.insert(name)
        };
    };
    match topics {
        Topics::List(names) => {
            names.iter().for_each(|name| add(name.clone(), wildcards.any_in(name)));
        }
        Topics::FromFunctions => {
            let scheduled = |text: &str| text == SCHEDULED;
            for wish in demand.for_source(form.source()) {
                if scheduled(wish.as_str()) && wish.source().is_none() {
                    continue;
                }
                for (name, is_pattern) in form.topic_map().names(wish, wildcards) {
                    if carries(&name).is_ok() {
                        add(name, is_pattern);
                    }
                }
            }
        }
    }
    wishes
}

/// The wishes as they change.
#[derive(Debug)]
pub struct Following {
    demand: watch::Receiver<Demand>,
    topics: Topics,
    form: EventForm,
    carries: Carries,
    now: Wishes,
}

impl Following {
    /// Begins with what is wished for now.
    pub fn new(ctx: &SourceContext, topics: &Topics, form: &EventForm, carries: Carries) -> Self {
        let mut demand = ctx.demand.clone();
        let now = wishes(topics, &demand.borrow_and_update(), form, carries);
        Following { demand, topics: topics.clone(), form: form.clone(), carries, now }
    }

    /// What is wished for as of the last [`Following::changed`].
    pub fn now(&self) -> &Wishes {
        &self.now
    }

    /// Waits for other wishes; for ever where the settings list them. Safe to cancel.
    pub async fn changed(&mut self) -> &Wishes {
        while self.topics == Topics::FromFunctions && self.demand.changed().await.is_ok() {
            let wished = wishes(&self.topics, &self.demand.borrow_and_update(), &self.form, self.carries);
            // Functions come and go for many reasons; most of them change nothing here.
            if wished != self.now {
                self.now = wished;
                return &self.now;
            }
        }
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use broker_model::{SourceName, Topic, TopicPattern};
    use serde_json::json;

    use super::*;
    use crate::settings::Reader;

    fn form(settings: serde_json::Value) -> EventForm {
        let mut at = Reader::new(settings);
        let name = SourceName::parse("bus").unwrap();
        let form = EventForm::read(&mut at, &name, "test", Wildcards::Nats);
        at.finish(|| Some(form)).unwrap()
    }

    fn demand(patterns: &[&str]) -> Demand {
        let patterns = patterns.iter().map(|text| match text.strip_prefix('=') {
            Some(exact) => TopicPattern::exact(&Topic::parse(exact).unwrap()),
            None => TopicPattern::parse(text).unwrap(),
        });
        Demand { patterns: patterns.map(|pattern| (pattern, BTreeSet::new())).collect() }
    }

    fn no_spaces(name: &str) -> Result<(), String> {
        if name.contains(' ') { Err("it holds a space".into()) } else { Ok(()) }
    }

    fn asked(patterns: &[&str], settings: serde_json::Value) -> Wishes {
        wishes(&Topics::FromFunctions, &demand(patterns), &form(settings), no_spaces)
    }

    #[test]
    fn whole_names_and_patterns_are_told_apart() {
        let wishes = asked(&["=a", "=b.*", "c.>", "d"], json!({}));

        assert_eq!(wishes.exact, BTreeSet::from(["a", "b.*", "d"].map(str::to_owned)));
        assert_eq!(wishes.patterns, BTreeSet::from(["c.>".to_owned()]));
        let wire: Vec<String> = wishes.on_the_wire(Wildcards::Nats).into_iter().collect();
        assert_eq!(wire, ["a", "c.>", "d"], "b.* as a whole name would be a wildcard there");
    }

    #[test]
    fn names_of_others_are_left_out() {
        let wishes = asked(&["=two words", "@other/x", "=cron-function", "@bus/y"], json!({}));

        assert_eq!(wishes.names(), ["y"]);
        assert_eq!(asked(&["@bus/cron-function"], json!({})).names(), ["cron-function"]);
    }

    #[test]
    fn wishes_are_in_the_upstreams_own_names() {
        let wishes = asked(&["=orders"], json!({"topic_map": {"orders-v1": "orders"}}));

        assert_eq!(wishes.names(), ["orders", "orders-v1"]);
    }

    #[test]
    fn a_list_is_taken_as_it_is_written() {
        let topics = Topics::List(vec!["a.*".into(), "b".into()]);
        let wishes = wishes(&topics, &demand(&["=ignored"]), &form(json!({})), no_spaces);

        assert_eq!((wishes.names(), wishes.patterns.len()), (vec!["b".to_owned(), "a.*".to_owned()], 1));
    }
}
