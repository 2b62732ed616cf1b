//! Reads a file's text into a tree: TOML for `.toml`, YAML for everything else.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Spanned};
use toml::de::{DeTable, DeValue};

use crate::problem::Problem;
use crate::tree::{Map, Node, Origin, Value};

/// Reads the file `name` whose content is `text`. What cannot be read is a problem, and the rest is read all the same
/// where the format allows it, so that one slip does not hide the others.
pub(crate) fn parse(name: &Path, text: &str) -> (Node, Vec<Problem>) {
    let shown: Arc<str> = name.display().to_string().into();
    let toml = name.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("toml"));
    let (tree, mut problems) = if toml { parse_toml(&shown, text) } else { parse_yaml(&shown, text) };
    match tree.value {
        Value::Map(_) => (tree, problems),
        // A file of comments only.
        Value::Null => (Node::empty_map(tree.origin), problems),
        _ => {
            problems.push(Problem::new(
                tree.origin.clone(),
                "",
                format!("the file holds {}, not sections", tree.describe()),
                "write keys such as `listen:` at the start of a line",
            ));
            (Node::empty_map(tree.origin), problems)
        }
    }
}

/// Reads a value from a variable or a flag as YAML if it looks like a boolean, a number, a list, a map or a quoted
/// text; `None` when it is a text as it stands.
pub(crate) fn yaml_value(text: &str, origin: &Origin) -> Option<Node> {
    let first = text.chars().next()?;
    let looks = matches!(first, '[' | '{' | '"' | '\'' | '-' | '+' | '.' | '0'..='9')
        || matches!(text, "true" | "false");
    if !looks {
        return None;
    }
    let spanned = from_yaml(text, DuplicateKeyPolicy::Error).ok()?;
    let node = to_node(spanned, &|_| origin.clone());
    // `key: value` is a map only for those who wrote the braces.
    let plain = !matches!(first, '[' | '{');
    (!(plain && matches!(node.value, Value::List(_) | Value::Map(_)))).then_some(node)
}

fn at(name: &Arc<str>, line: u64, column: u64) -> Origin {
    let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    Origin::File { name: Arc::clone(name), line: number(line), column: number(column) }
}

fn parse_yaml(name: &Arc<str>, text: &str) -> (Node, Vec<Problem>) {
    let place = |location: serde_saphyr::Location| at(name, location.line(), location.column());
    let problem = |error: &serde_saphyr::Error| {
        let location = error.location();
        let message = error.without_snippet().to_string();
        // The location stands in front of our message already.
        let tail =
            location.map(|l| format!(" at line {}, column {}", l.line(), l.column())).unwrap_or_default();
        let message = message.strip_suffix(&tail).unwrap_or(&message);
        match message.strip_prefix("duplicate mapping key: ") {
            Some(rest) => Problem::new(
                location.map_or_else(|| at(name, 0, 0), place),
                "",
                format!("the key {:?} is written twice", rest.split(',').next().unwrap_or(rest)),
                "keep one of the two",
            ),
            None => Problem::new(
                location.map_or_else(|| at(name, 0, 0), place),
                "",
                format!("this is not YAML: {message}"),
                "correct the line, and look at the one before it",
            ),
        }
    };

    match from_yaml(text, DuplicateKeyPolicy::Error) {
        Ok(spanned) => (to_node(spanned, &place), Vec::new()),
        Err(error) => match from_yaml(text, DuplicateKeyPolicy::LastWins) {
            Ok(spanned) => (to_node(spanned, &place), vec![problem(&error)]),
            Err(_) => (Node::empty_map(at(name, 0, 0)), vec![problem(&error)]),
        },
    }
}

fn from_yaml(text: &str, duplicate_keys: DuplicateKeyPolicy) -> Result<Spanned<Yaml>, serde_saphyr::Error> {
    serde_saphyr::from_str_with_options(
        text,
        serde_saphyr::options! {
            duplicate_keys: duplicate_keys,
            // `cancel: off` is a word, and `012` or `1_000` in a password stay what they are.
            strict_booleans: true,
            leading_zero_numbers_as_strings: true,
            underscored_numbers_as_strings: true,
        },
    )
}

fn to_node(spanned: Spanned<Yaml>, place: &dyn Fn(serde_saphyr::Location) -> Origin) -> Node {
    let origin = place(spanned.referenced);
    let value = match spanned.value {
        Yaml::Scalar(value) => value,
        Yaml::List(items) => Value::List(items.into_iter().map(|item| to_node(item, place)).collect()),
        Yaml::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, value)| (key.value, (place(key.referenced), to_node(value, place))))
                .collect(),
        ),
    };
    Node::new(value, origin)
}

/// YAML as the library hands it out, places included.
enum Yaml {
    Scalar(Value),
    List(Vec<Spanned<Yaml>>),
    Map(Vec<(Spanned<String>, Spanned<Yaml>)>),
}

impl<'de> Deserialize<'de> for Yaml {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Yaml;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Yaml, E> {
                Ok(Yaml::Scalar(Value::Bool(value)))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Yaml, E> {
                Ok(Yaml::Scalar(Value::Integer(value.into())))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Yaml, E> {
                Ok(Yaml::Scalar(Value::Integer(value.into())))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Yaml, E> {
                Ok(Yaml::Scalar(Value::Float(value)))
            }

            fn visit_str<E>(self, value: &str) -> Result<Yaml, E> {
                Ok(Yaml::Scalar(Value::Text(value.into())))
            }

            fn visit_unit<E>(self) -> Result<Yaml, E> {
                Ok(Yaml::Scalar(Value::Null))
            }

            fn visit_none<E>(self) -> Result<Yaml, E> {
                Ok(Yaml::Scalar(Value::Null))
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Yaml, D::Error> {
                Yaml::deserialize(deserializer)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Yaml, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = access.next_element()? {
                    items.push(item);
                }
                Ok(Yaml::List(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Yaml, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = access.next_entry()? {
                    entries.push(entry);
                }
                Ok(Yaml::Map(entries))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

fn parse_toml(name: &Arc<str>, text: &str) -> (Node, Vec<Problem>) {
    let place = |offset: usize| {
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        at(name, before.matches('\n').count() as u64 + 1, before[line_start..].chars().count() as u64 + 1)
    };

    let (table, errors) = DeTable::parse_recoverable(text);
    let problems = errors
        .iter()
        .map(|error| {
            Problem::new(
                error.span().map_or_else(|| at(name, 0, 0), |span| place(span.start)),
                "",
                format!("this is not TOML: {}", error.message()),
                "correct the line, and look at the one before it",
            )
        })
        .collect();
    (Node::new(Value::Map(toml_map(table.get_ref(), &place)), at(name, 1, 1)), problems)
}

fn toml_map(table: &DeTable<'_>, place: &dyn Fn(usize) -> Origin) -> Map {
    table
        .iter()
        .map(|(key, value)| {
            let node = toml_node(value.get_ref(), place(value.span().start), place);
            (key.get_ref().to_string(), (place(key.span().start), node))
        })
        .collect()
}

fn toml_node(value: &DeValue<'_>, origin: Origin, place: &dyn Fn(usize) -> Origin) -> Node {
    let value = match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Text(number.to_string()),
        },
        DeValue::Float(number) => match number.as_str().parse() {
            Ok(number) => Value::Float(number),
            Err(_) => Value::Text(number.to_string()),
        },
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Datetime(time) => Value::Text(time.to_string()),
        DeValue::Array(items) => Value::List(
            items.iter().map(|item| toml_node(item.get_ref(), place(item.span().start), place)).collect(),
        ),
        DeValue::Table(table) => Value::Map(toml_map(table, place)),
    };
    Node::new(value, origin)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn place_of(tree: &Node, path: &[&str]) -> String {
        path.iter().fold(tree, |node, name| node.child(name).expect("there")).origin.to_string()
    }

    #[test]
    fn yaml_and_toml_say_the_same() {
        let yaml = "a: 1\nb:\n  c: 10s\n  d: [x, 2, off, true]\n  e: 1.5\n  f: '012'\n";
        let toml = "a = 1\n[b]\nc = '10s'\nd = ['x', 2, 'off', true]\ne = 1.5\nf = '012'\n";

        let (from_yaml, yaml_problems) = parse(Path::new("x.yaml"), yaml);
        let (from_toml, toml_problems) = parse(Path::new("x.toml"), toml);

        assert_eq!(
            from_yaml.to_json(),
            json!({"a": 1, "b": {"c": "10s", "d": ["x", 2, "off", true], "e": 1.5, "f": "012"}})
        );
        assert_eq!(from_toml.to_json(), from_yaml.to_json());
        assert_eq!((yaml_problems, toml_problems), (vec![], vec![]));
        assert_eq!(place_of(&from_yaml, &["b", "c"]), "x.yaml:3:6");
        assert_eq!(place_of(&from_toml, &["b", "c"]), "x.toml:3:5");
    }

    #[test]
    fn a_file_of_comments_is_empty() {
        for (name, text) in [("x.yaml", "# nothing\n"), ("x.yaml", ""), ("x.toml", "# nothing\n")] {
            let (tree, problems) = parse(Path::new(name), text);

            assert_eq!((tree.to_json(), problems), (json!({}), vec![]), "{text:?}");
        }
    }

    #[test]
    fn a_file_that_is_no_map_is_a_problem() {
        let (_, problems) = parse(Path::new("x.yaml"), "- 1\n");

        assert_eq!(
            problems[0].to_string().lines().next(),
            Some("x.yaml:1:1: the file holds a list, not sections")
        );
    }

    #[test]
    fn a_key_written_twice_is_a_problem_and_the_rest_is_read() {
        let (tree, problems) = parse(Path::new("x.yaml"), "a: 1\na: 2\nb: 3\n");

        assert_eq!(tree.to_json(), json!({"a": 2, "b": 3}));
        assert_eq!(
            problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["x.yaml:2:1: the key \"a\" is written twice\n    keep one of the two"]
        );
    }

    #[test]
    fn broken_files_say_where() {
        for (name, text, place) in [
            ("x.yaml", "a:\n\tb: 1\n", "x.yaml:2:2: this is not YAML: "),
            ("x.yaml", "a: [1\n", "x.yaml:1:4: this is not YAML: "),
            ("x.toml", "a = \n", "x.toml:1:5: this is not TOML: "),
        ] {
            let (_, problems) = parse(Path::new(name), text);

            let message = problems[0].to_string();
            assert!(message.starts_with(place), "{message}");
            assert!(!message.contains("at line"), "{message}");
        }
    }

    #[test]
    fn toml_reports_several_slips_at_once() {
        let (tree, problems) = parse(Path::new("x.toml"), "a = \nb = [1\nc = 1\n");

        assert!(problems.len() > 1, "{problems:?}");
        assert!(matches!(tree.value, Value::Map(_)));
    }
}
