//! Under which of its names a message of a queue is an event.

use std::collections::BTreeSet;

use connectors_sdk::{Demand, EventForm, Topic};

use crate::names::Queue;

/// The names of the queue that functions ask for: its own, and its URL as they write it. Where they ask for none, or by a
/// pattern only, its own. `asked` are those under which the source was told to read it.
pub(crate) fn topics(
    queue: &Queue,
    asked: &BTreeSet<String>,
    demand: &Demand,
    form: &EventForm,
) -> Vec<String> {
    let own = queue.name.to_string();
    let is_this = |text: &str| Queue::at(text).is_some_and(|other| other.path == queue.path);
    let in_functions = demand
        .for_source(form.source())
        .map(|pattern| pattern.as_str().to_owned())
        .filter(|text| is_this(text));
    let names: BTreeSet<String> = asked.iter().cloned().chain(in_functions).chain([own.clone()]).collect();
    let wanted = |name: &String| {
        let topic = form.topic_map().topic(name);
        Topic::parse(&topic).is_ok_and(|topic| {
            let mut patterns = demand.for_source(form.source());
            patterns.any(|pattern| pattern.matches(form.source(), form.wildcards(), &topic))
        })
    };
    let wanted: Vec<String> = names.into_iter().filter(wanted).collect();
    if wanted.is_empty() { vec![own] } else { wanted }
}

#[cfg(test)]
mod tests {
    use connectors_sdk::{Reader, SourceName, TopicPattern, Wildcards};
    use serde_json::{Value, json};

    use super::*;

    const URL: &str = "https://sqs.eu-west-1.amazonaws.com/123456789012/orders";

    fn topics_of(asked: &[&str], functions: &[&str], settings: Value) -> Vec<String> {
        let mut at = Reader::new(settings);
        let form = EventForm::read(&mut at, &SourceName::parse("jobs").unwrap(), "sqs", Wildcards::Glob);
        let patterns = functions.iter().map(|text| match text.strip_prefix('=') {
            Some(exact) => TopicPattern::exact(&Topic::parse(exact).unwrap()),
            None => TopicPattern::parse(text).unwrap(),
        });
        let demand = Demand { patterns: patterns.map(|pattern| (pattern, BTreeSet::new())).collect() };
        let asked = asked.iter().map(|&name| name.to_owned()).collect();
        topics(&Queue::at(URL).unwrap(), &asked, &demand, &form)
    }

    #[test]
    fn a_queue_goes_by_the_name_that_functions_use() {
        let of_functions = format!("={URL}");

        assert_eq!(topics_of(&["orders"], &["=orders"], json!({})), ["orders"]);
        assert_eq!(topics_of(&[URL], &[&of_functions], json!({})), [URL]);
        assert_eq!(topics_of(&[URL], &["=orders"], json!({})), ["orders"], "as OpenFaaS' connector says it");
        assert_eq!(topics_of(&["orders"], &[&of_functions], json!({})), [URL]);
        assert_eq!(topics_of(&["orders", URL], &["=orders", &of_functions], json!({})), [URL, "orders"]);
        assert_eq!(topics_of(&[URL], &["ord*"], json!({})), ["orders"]);
        assert_eq!(topics_of(&[URL], &["=other"], json!({})), ["orders"]);
        assert_eq!(topics_of(&[URL], &[], json!({})), ["orders"]);
    }

    #[test]
    fn another_host_is_the_same_queue_and_another_account_is_not() {
        let host = "=http://localhost/123456789012/orders";
        assert_eq!(topics_of(&["orders"], &[host], json!({})), [&host[1..]]);
        assert_eq!(topics_of(&["orders"], &["=http://localhost/1/orders"], json!({})), ["orders"]);
    }

    #[test]
    fn renamed_queues_go_by_what_functions_call_them() {
        let settings = json!({"topic_map": {"orders": "sales", URL: "by-url"}});

        assert_eq!(topics_of(&["orders"], &["=sales"], settings.clone()), ["orders"]);
        assert_eq!(topics_of(&[URL], &["=by-url"], settings), [URL]);
    }
}
