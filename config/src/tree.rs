//! A configuration before it has types: values, and where each one was written.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::json;

use crate::problem::Problem;
use crate::section::join;

/// Where a value came from. Ordered as the layers are: a later one replaces an earlier one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nobody set it.
    BuiltIn,
    /// The configuration file.
    File {
        /// The file's name as the caller gave it.
        name: Arc<str>,
        /// From 1; 0 when the whole file is meant.
        line: u32,
        /// From 1, in characters; 0 when the whole file is meant.
        column: u32,
    },
    /// An environment variable, by its name.
    Environment(Arc<str>),
    /// A flag of the command line, as the user wrote it.
    Flag(Arc<str>),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built-in"),
            Self::File { name, line: 0, .. } => f.write_str(name),
            Self::File { name, line, column } => write!(f, "{name}:{line}:{column}"),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// A value and where it was written.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) origin: Origin,
}

/// What a file can say.
#[derive(Clone)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    /// Text from a place that has no types (a variable, a flag, a built-in default): the key's type reads it.
    Loose(String),
    List(Vec<Node>),
    Map(Map),
}

/// A map's entries, each with the place of its key.
pub(crate) type Map = BTreeMap<String, (Origin, Node)>;

impl Node {
    pub(crate) fn new(value: Value, origin: Origin) -> Self {
        Self { value, origin }
    }

    pub(crate) fn loose(text: impl Into<String>, origin: Origin) -> Self {
        Self::new(Value::Loose(text.into()), origin)
    }

    pub(crate) fn empty_map(origin: Origin) -> Self {
        Self::new(Value::Map(Map::new()), origin)
    }

    pub(crate) fn child(&self, name: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.get(name).map(|(_, node)| node),
            _ => None,
        }
    }

    /// Puts `node` at `path`, replacing what is there and making the maps on the way.
    ///
    /// `named` tells whether an entry that exists is the one a path segment means, so that a variable's upper case
    /// finds `sources.my-Orders`.
    ///
    /// A value that stands where the path needs a map is never swept away: then nothing is set, and the problem says so.
    pub(crate) fn set(
        &mut self,
        path: &[String],
        node: Node,
        named: fn(entry: &str, segment: &str) -> bool,
    ) -> Result<(), Problem> {
        let Some((segment, rest)) = path.split_first() else {
            *self = node;
            return Ok(());
        };
        match &self.value {
            Value::Null => *self = Self::empty_map(node.origin.clone()),
            Value::Text(text) | Value::Loose(text) if text == "none" => {
                *self = Self::empty_map(node.origin.clone());
            }
            _ => {}
        }
        let described = self.describe();
        let Value::Map(entries) = &mut self.value else {
            return Err(Problem::new(
                self.origin.clone(),
                "",
                format!(
                    "there is {described} where a section belongs, and {} sets {segment} in it",
                    node.origin
                ),
                "set the keys inside it",
            ));
        };
        let name =
            entries.keys().find(|entry| named(entry, segment)).cloned().unwrap_or_else(|| segment.clone());
        let own_name = name.clone();
        let origin = node.origin.clone();
        let (key_origin, child) =
            entries.entry(name).or_insert_with(|| (origin.clone(), Self::empty_map(origin.clone())));
        if rest.is_empty() {
            *key_origin = origin;
        }
        child
            .set(rest, node, named)
            .map_err(|problem| Problem { key: join(&own_name, &problem.key), ..problem })
    }

    /// What it is, for a message.
    pub(crate) fn describe(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a true or false",
            Value::Integer(_) | Value::Float(_) => "a number",
            Value::Text(_) | Value::Loose(_) => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "a section",
        }
    }

    /// The value as JSON, for settings whose types only their connector knows.
    ///
    /// Text without types is read as the YAML it looks like: `true`, `5`, `["a"]`, `{…}` and `"5"` are a boolean, a
    /// number, a list, a map and a text.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => json!(value),
            Value::Integer(value) => i64::try_from(*value)
                .map(|value| json!(value))
                .or_else(|_| u64::try_from(*value).map(|value| json!(value)))
                .unwrap_or_else(|_| json!(value.to_string())),
            Value::Float(value) => json!(value),
            Value::Text(text) => json!(text),
            Value::Loose(text) => match crate::file::yaml_value(text, &self.origin) {
                Some(node) => node.to_json(),
                None => json!(text),
            },
            Value::List(items) => items.iter().map(Node::to_json).collect(),
            Value::Map(entries) => {
                entries.iter().map(|(name, (_, node))| (name.clone(), node.to_json())).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable() -> Origin {
        Origin::Environment("X".into())
    }

    fn path(segments: &[&str]) -> Vec<String> {
        segments.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_value_is_put_deep_into_an_empty_tree() {
        let mut tree = Node::empty_map(Origin::BuiltIn);

        tree.set(&path(&["a", "b", "c"]), Node::loose("1", variable()), str::eq).expect("set");

        assert_eq!(tree.to_json(), json!({"a": {"b": {"c": 1}}}));
    }

    #[test]
    fn a_value_replaces_what_is_there_and_leaves_its_neighbours() {
        let mut tree = crate::file::yaml_value("{a: {b: 1, c: 2}}", &Origin::BuiltIn).expect("valid");

        tree.set(&path(&["a", "b"]), Node::loose("3", variable()), str::eq).expect("set");

        assert_eq!(tree.to_json(), json!({"a": {"b": 3, "c": 2}}));
    }

    #[test]
    fn a_value_is_not_swept_away_by_one_below_it() {
        let mut tree = crate::file::yaml_value("{a: {b: 1, c: none}}", &Origin::BuiltIn).expect("valid");

        let problem =
            tree.set(&path(&["a", "b", "d"]), Node::loose("3", variable()), str::eq).expect_err("a problem");
        tree.set(&path(&["a", "c", "d"]), Node::loose("4", variable()), str::eq).expect("set");

        assert_eq!(
            problem.to_string(),
            "a.b: there is a number where a section belongs, and environment variable X sets d in it\n    \
             set the keys inside it"
        );
        assert_eq!(tree.to_json(), json!({"a": {"b": 1, "c": {"d": 4}}}));
    }

    #[test]
    fn untyped_text_becomes_the_json_it_looks_like() {
        let json = |text: &str| Node::loose(text, variable()).to_json();

        assert_eq!(json("true"), json!(true));
        assert_eq!(json("5"), json!(5));
        assert_eq!(json("\"5\""), json!("5"));
        assert_eq!(json("[\"a\", b]"), json!(["a", "b"]));
        assert_eq!(json("nats://user:x@host:4222"), json!("nats://user:x@host:4222"));
        assert_eq!(json("key: value"), json!("key: value"));
        assert_eq!(json("[unclosed"), json!("[unclosed"));
    }
}
