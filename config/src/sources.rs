//! `sources`: where events come from. What a kind's settings mean is its connector's business.

use std::collections::BTreeMap;
use std::fmt;

use broker_model::SourceName;
use serde_json::Value as Json;

use crate::problem::Problem;
use crate::secret::{REDACTED, names_a_secret, redact_urls};
use crate::section::{Reader, Section, is_near, join};
use crate::show::Leaf;
use crate::tree::{Node, Origin, Value};

/// The configured sources by name.
pub type Sources = BTreeMap<SourceName, Source>;

/// One configured source.
#[derive(Clone)]
pub struct Source {
    /// The kind of upstream, such as `nats`: the connector's name. Not checked here.
    pub kind: String,
    /// The kind's settings as they were written, always an object.
    pub settings: Json,
    /// `sources.<name>.paused`: whether it is held. It keeps its place, and takes nothing.
    pub paused: bool,
    /// `sources.<name>.<kind>`.
    path: String,
    kind_origin: Origin,
    node: Node,
}

impl Source {
    /// A problem of the setting `inside`, as `tls.ca_file` or `topics[2]`, placed where that setting was written; empty
    /// for the settings as a whole.
    pub fn problem(&self, inside: &str, what: impl Into<String>, remedy: impl Into<String>) -> Problem {
        Problem::new(self.origin(inside), join_inside(&self.path, inside), what, remedy)
    }

    /// The problem that there is no such kind, with the one that was probably meant.
    pub fn unknown_kind(&self, known: &[&str]) -> Problem {
        let remedy = match known.iter().find(|known| is_near(&self.kind, known)) {
            Some(meant) => format!("did you mean {meant}?"),
            None => format!("the kinds built in are {}", known.join(", ")),
        };
        Problem::new(
            self.kind_origin.clone(),
            self.path.clone(),
            format!("there is no kind of source called {:?}", self.kind),
            remedy,
        )
    }

    /// Where the setting `inside` was written, or what holds it when it is missing.
    pub fn origin(&self, inside: &str) -> Origin {
        let mut node = &self.node;
        for part in inside.split(['.', '[']).filter(|part| !part.is_empty()) {
            let index = part.strip_suffix(']').and_then(|index| index.parse::<usize>().ok());
            let next = match (&node.value, index) {
                (Value::List(items), Some(index)) => items.get(index),
                _ => node.child(part),
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        node.origin.clone()
    }
}

/// Prints no secret.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = redact("", &self.settings);
        f.debug_struct("Source")
            .field("kind", &self.kind)
            .field("settings", &settings)
            .finish_non_exhaustive()
    }
}

impl Section for Sources {
    fn read(at: &mut Reader<'_>) -> Self {
        let mut sources = Sources::new();
        for (name, origin, node) in at.named_entries() {
            let path = join(at.path(), &name);
            if let Some((name, source)) = read_source(at, &path, &name, origin, node) {
                sources.insert(name, source);
            }
        }
        sources
    }
}

fn read_source(
    at: &mut Reader<'_>,
    path: &str,
    name: &str,
    origin: Origin,
    node: Node,
) -> Option<(SourceName, Source)> {
    let name = match SourceName::parse(name) {
        Ok(name) if name.as_str() == SourceName::API => {
            at.push(Problem::new(
                origin,
                path,
                "this name stands for events published over the management API",
                "choose another name",
            ));
            return None;
        }
        Ok(name) => name,
        Err(error) => {
            at.push(Problem::new(origin, path, error.to_string(), "choose another name for the source"));
            return None;
        }
    };

    let Value::Map(mut kinds) = node.value else {
        at.push(Problem::new(
            node.origin.clone(),
            path,
            format!("there is {} where the kind of source belongs", node.describe()),
            format!(
                "write {path}.<kind> with its settings, such as nats: {{ url: \"nats://127.0.0.1:4222\" }}"
            ),
        ));
        return None;
    };
    let paused = kinds.remove(PAUSED).is_some_and(|(_, node)| read_paused(at, &join(path, PAUSED), &node));
    let mut kinds = kinds.into_iter();
    let (kind, (kind_origin, settings)) = match (kinds.next(), kinds.next()) {
        (Some(kind), None) => kind,
        (None, _) => {
            at.push(Problem::new(
                node.origin,
                path,
                "the kind of source is missing",
                format!("write {path}.<kind> with its settings, such as nats: {{ url: \"nats://127.0.0.1:4222\" }}"),
            ));
            return None;
        }
        (Some((first, _)), Some((second, (second_origin, _)))) => {
            at.push(Problem::new(
                second_origin,
                path,
                format!("the source has two kinds, {first:?} and {second:?}"),
                "a source has one kind: give the other one a name of its own",
            ));
            return None;
        }
    };

    let path = join(path, &kind);
    let node = match settings.value {
        Value::Map(_) => settings,
        Value::Null => Node::empty_map(settings.origin),
        // A variable or a flag that holds all settings at once.
        Value::Loose(_) if settings.to_json().is_object() => settings,
        _ => {
            at.push(Problem::new(
                settings.origin.clone(),
                path,
                format!("there is {} where settings belong", settings.describe()),
                "write them as keys, or {} when there are none",
            ));
            return None;
        }
    };
    leaves(at, &path, "", &node);
    let source = Source { settings: node.to_json(), paused, kind, path, kind_origin, node };
    Some((name, source))
}

/// The key beside the kind.
const PAUSED: &str = "paused";

fn read_paused(at: &mut Reader<'_>, path: &str, node: &Node) -> bool {
    match node.to_json() {
        Json::Bool(paused) => {
            at.leaf(Leaf::new(path.to_owned(), paused.to_string(), paused.to_string(), node.origin.clone()));
            paused
        }
        _ => {
            let what = format!("there is {} where true or false belongs", node.describe());
            at.push(Problem::new(node.origin.clone(), path, what, "write true or false"));
            false
        }
    }
}

/// One leaf for each value in the settings; a list is one value.
fn leaves(at: &mut Reader<'_>, path: &str, name: &str, node: &Node) {
    match &node.value {
        Value::Map(entries) if !entries.is_empty() && !names_a_secret(name) => {
            for (name, (_, child)) in entries {
                leaves(at, &join(path, name), name, child);
            }
        }
        _ => {
            let exact = node.to_json();
            let shown = redact(name, &exact);
            at.leaf(Leaf::new(path.to_owned(), text_of(&shown), text_of(&exact), node.origin.clone()));
        }
    }
}

fn redact(name: &str, value: &Json) -> Json {
    match value {
        _ if names_a_secret(name) => REDACTED.into(),
        Json::String(text) => redact_urls(text).into(),
        Json::Array(items) => items.iter().map(|item| redact("", item)).collect(),
        Json::Object(entries) => {
            entries.iter().map(|(name, value)| (name.clone(), redact(name, value))).collect()
        }
        _ => value.clone(),
    }
}

fn text_of(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn join_inside(path: &str, inside: &str) -> String {
    match inside {
        "" => path.to_owned(),
        _ if inside.starts_with('[') => format!("{path}{inside}"),
        _ => join(path, inside),
    }
}
