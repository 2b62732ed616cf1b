//! Queues that are ours to make: `declare: true`.

use std::collections::BTreeMap;

use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use serde_json::{Map, Value};

use connectors_sdk::settings::Setting;
use connectors_sdk::{Reader, Wildcards};

/// The longest name AMQP can carry.
const LONGEST: usize = 255;

/// Says what is wrong with the name of a queue to take messages from.
pub(crate) fn check(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("the name is empty".into());
    }
    if name.len() > LONGEST {
        return Err(format!("the name has {} bytes, more than {LONGEST}", name.len()));
    }
    if Wildcards::Amqp.any_in(name) {
        return Err(format!("{name:?} is a pattern, and a queue is asked for by its whole name"));
    }
    Ok(())
}

/// How a queue is made, and what is routed into it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Declaration {
    pub(crate) durable: bool,
    pub(crate) exclusive: bool,
    pub(crate) auto_delete: bool,
    pub(crate) arguments: FieldTable,
    /// Exchange and routing key or pattern.
    pub(crate) bindings: Vec<(String, String)>,
}

impl Default for Declaration {
    fn default() -> Self {
        Declaration {
            durable: true,
            exclusive: false,
            auto_delete: false,
            arguments: FieldTable::default(),
            bindings: Vec::new(),
        }
    }
}

impl Declaration {
    /// The flags as the client takes them.
    pub(crate) fn options(&self) -> QueueDeclareOptions {
        QueueDeclareOptions {
            passive: false,
            durable: self.durable,
            exclusive: self.exclusive,
            auto_delete: self.auto_delete,
            nowait: false,
        }
    }

    /// Reads one of `queues`; the names of its flags are those of OpenFaaS' connector.
    fn read(at: &mut Reader) -> Option<(String, Declaration)> {
        let name: Option<String> = at.required("name", "orders");
        let kind: Option<QueueType> = at.optional("type");
        let durable = at.or("durable", true);
        let auto_delete = at.or("autodelete", false);
        let exclusive = at.or("exclusive", false);
        // We always wait for the answer; OpenFaaS' entries have it.
        let _: Option<bool> = at.optional("nowait");
        let mut arguments = at.or("arguments", Arguments(FieldTable::default())).0;
        let bindings = at.or("bindings", Bindings(Vec::new())).0;
        if let Some(name) = &name
            && let Err(what) = check(name)
        {
            at.refuse("name", what, "write the queue's name");
        } else if name.as_ref().is_some_and(|name| name.starts_with("amq.")) {
            at.refuse("name", "names that begin with amq. are RabbitMQ's own", "give it another name");
        }
        if kind == Some(QueueType::Quorum) && (!durable || auto_delete || exclusive) {
            at.refuse(
                "type",
                "a quorum queue is durable, and neither exclusive nor deleted by itself",
                "remove durable, autodelete and exclusive, or write type: classic",
            );
        }
        if let Some(kind) = kind {
            if arguments.contains_key(QueueType::ARGUMENT) {
                at.refuse("type", format!("{} is among the arguments too", QueueType::ARGUMENT), "keep type");
            }
            arguments.insert(QueueType::ARGUMENT.into(), kind.value());
        }
        Some((name?, Declaration { durable, exclusive, auto_delete, arguments, bindings }))
    }
}

/// Reads `queues`: how queues are made, by name, in the order in which they are written.
pub(crate) fn read(at: &mut Reader) -> Vec<(String, Declaration)> {
    const KEY: &str = "queues";
    let mut all: Vec<(String, Declaration)> = Vec::new();
    let groups = at.optional(KEY).map_or_else(Vec::new, |Groups(groups)| groups);
    for (n, group) in groups.into_iter().enumerate() {
        let mut inner = Reader::new(Value::Object(group));
        let one = Declaration::read(&mut inner);
        match inner.finish(|| one) {
            Ok((name, _)) if all.iter().any(|(known, _)| *known == name) => {
                at.refuse(
                    &format!("{KEY}[{n}].name"),
                    format!("{name:?} is there twice"),
                    "remove one of them",
                );
            }
            Ok(one) => all.push(one),
            Err(error) => {
                for problem in error.problems {
                    at.refuse(&format!("{KEY}[{n}].{}", problem.key), problem.what, problem.remedy);
                }
            }
        }
    }
    all
}

/// The kinds of queues we make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum QueueType {
    Classic,
    Quorum,
}

impl QueueType {
    const ARGUMENT: &str = "x-queue-type";

    fn value(self) -> AMQPValue {
        AMQPValue::LongString(LongString::from(match self {
            QueueType::Classic => "classic",
            QueueType::Quorum => "quorum",
        }))
    }
}

impl Setting for QueueType {
    const EXPECTED: &'static str = "classic or quorum";

    fn read(value: &Value) -> Option<Self> {
        match value.as_str()? {
            "classic" => Some(QueueType::Classic),
            "quorum" => Some(QueueType::Quorum),
            _ => None,
        }
    }
}

/// A list of groups, each read by itself.
struct Groups(Vec<Map<String, Value>>);

impl Setting for Groups {
    const EXPECTED: &'static str = "a list of queues, such as [{ name: orders, type: quorum }]";

    fn read(value: &Value) -> Option<Self> {
        value.as_array()?.iter().map(|one| one.as_object().cloned()).collect::<Option<_>>().map(Groups)
    }
}

/// What a queue is made with besides its flags.
struct Arguments(FieldTable);

impl Setting for Arguments {
    const EXPECTED: &'static str = "a group of arguments, such as { x-delivery-limit: 20 }";

    fn read(value: &Value) -> Option<Self> {
        let mut arguments = BTreeMap::new();
        for (name, value) in value.as_object()? {
            let value = match value {
                Value::Bool(value) => AMQPValue::Boolean(*value),
                Value::Number(number) => AMQPValue::LongLongInt(number.as_i64()?),
                Value::String(text) => AMQPValue::LongString(LongString::from(text.as_str())),
                _ => return None,
            };
            arguments.insert(ShortString::try_new(name.as_str()).ok()?, value);
        }
        Some(Arguments(arguments.into()))
    }
}

/// Exchange → one routing key or pattern, or several.
struct Bindings(Vec<(String, String)>);

impl Setting for Bindings {
    const EXPECTED: &'static str =
        "a group of exchanges with their patterns, such as { shop: [\"order.*.paid\"] }";

    fn read(value: &Value) -> Option<Self> {
        let mut bindings = Vec::new();
        for (exchange, patterns) in value.as_object()? {
            for pattern in <Vec<String> as Setting>::read(patterns)? {
                let fits = !exchange.is_empty() && exchange.len() <= LONGEST && pattern.len() <= LONGEST;
                fits.then(|| bindings.push((exchange.clone(), pattern)))?;
            }
        }
        Some(Bindings(bindings))
    }
}

#[cfg(test)]
mod tests {
    use connectors_sdk::SettingsError;
    use serde_json::json;

    use super::*;

    fn read_all(queues: Value) -> Result<Vec<(String, Declaration)>, SettingsError> {
        let mut at = Reader::new(json!({ "queues": queues }));
        let all = read(&mut at);
        at.finish(|| Some(all))
    }

    fn wrong_keys(queues: Value) -> Vec<String> {
        read_all(queues).unwrap_err().problems.into_iter().map(|problem| problem.key).collect()
    }

    #[test]
    fn a_name_is_enough() {
        assert_eq!(
            read_all(json!([{"name": "orders"}])).unwrap(),
            [("orders".to_owned(), Declaration::default())]
        );
    }

    #[test]
    fn entries_of_openfaas_connector_are_understood() {
        let entry =
            json!({"name": "q1", "durable": false, "nowait": false, "autodelete": true, "exclusive": true});
        let (name, declaration) = read_all(json!([entry])).unwrap().remove(0);

        assert_eq!(name, "q1");
        assert_eq!(
            declaration.options(),
            QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() }
        );
        assert_eq!(declaration.arguments, FieldTable::default(), "the server's default type");
    }

    #[test]
    fn type_arguments_and_bindings_are_taken_over() {
        let (_, declaration) = read_all(json!([{
            "name": "orders",
            "type": "quorum",
            "arguments": {"x-delivery-limit": 20, "x-dead-letter-exchange": "dead", "x-flag": true},
            "bindings": {"shop": ["order.*.paid", "order.#"], "news": ""},
        }]))
        .unwrap()
        .remove(0);

        let arguments = declaration.arguments.inner();
        assert_eq!(arguments["x-queue-type"], AMQPValue::LongString("quorum".into()));
        assert_eq!(arguments["x-delivery-limit"], AMQPValue::LongLongInt(20));
        assert_eq!(arguments["x-flag"], AMQPValue::Boolean(true));
        let pair = |exchange: &str, pattern: &str| (exchange.to_owned(), pattern.to_owned());
        assert_eq!(
            declaration.bindings,
            [pair("shop", "order.*.paid"), pair("shop", "order.#"), pair("news", "")]
        );
    }

    #[test]
    fn every_problem_is_named_with_its_place() {
        let found = wrong_keys(json!([
            {"type": "stream", "size": 3},
            {"name": "amq.q"},
            {"name": "a.*"},
            {"name": "a", "type": "quorum", "exclusive": true},
            {"name": "b", "type": "classic", "arguments": {"x-queue-type": "classic"}},
            {"name": "c", "arguments": {"x": [1]}, "bindings": {"": "x"}},
            {"name": "d"},
            {"name": "d"},
        ]));

        assert_eq!(
            found,
            [
                "queues[0].name",
                "queues[0].type",
                "queues[0].size",
                "queues[1].name",
                "queues[2].name",
                "queues[3].type",
                "queues[4].type",
                "queues[5].arguments",
                "queues[5].bindings",
                "queues[7].name"
            ]
        );
        assert_eq!(wrong_keys(json!("orders")), ["queues"]);
    }

    #[test]
    fn a_queue_is_asked_for_by_its_whole_name() {
        assert!(check("orders.created").is_ok() && check("größer").is_ok() && check("a*b").is_ok());
        for name in ["", "orders.*", "#", &"x".repeat(256)] {
            assert!(check(name).is_err(), "{name}");
        }
    }
}
