//! The source that the variables and flags of one of OpenFaaS' connectors describe.
//!
//! Which there are is said by the connectors, as data ([`Inheritance`]); what a value looks like is known here. A flag is a
//! variable whose name begins with `-`. `content_type` is understood for every kind. A variable of the system ([`Ambient`])
//! is a default, below the file.
//!
//! [`Ambient`]: InheritedForm::Ambient

use std::collections::{BTreeMap, BTreeSet};

use broker_model::source::{Inheritance, Inherited, InheritedForm};

use crate::duration::format_duration;
use crate::go_duration;
use crate::load::Note;
use crate::problem::Problem;
use crate::tree::{Node, Origin, Value};

/// What every connector of OpenFaaS has.
const COMMON: Inherited = Inherited { name: "content_type", key: "content_type", form: InheritedForm::Text };

/// Each kind with what it understands.
pub type Kinds<'a> = &'a [(&'static str, Inheritance)];

/// Defines the sources the variables describe, named as their kinds, if no other layer has one; then says what of the system
/// is a default of those there are.
pub(crate) fn apply(
    environment: &BTreeMap<String, String>,
    kinds: Kinds<'_>,
    tree: &mut Node,
    problems: &mut Vec<Problem>,
) -> Vec<Note> {
    let notes = define(environment, kinds, tree, problems);
    default(environment, kinds, tree, problems);
    notes
}

fn define(
    environment: &BTreeMap<String, String>,
    kinds: Kinds<'_>,
    tree: &mut Node,
    problems: &mut Vec<Problem>,
) -> Vec<Note> {
    let get = |name: &str| environment.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
    let all = kinds.iter().flat_map(|(_, kind)| of_connectors(kind)).map(|variable| variable.name);
    let set: BTreeSet<&str> = all.filter(|name| get(name).is_some()).collect();

    let configured = match tree.child("sources").map(|node| &node.value) {
        Some(Value::Map(sources)) => !sources.is_empty(),
        Some(Value::Null) | None => false,
        Some(_) => true,
    };
    if configured {
        return set.into_iter().map(|name| note(name, "sources are configured".to_owned())).collect();
    }

    let mut notes = Vec::new();
    let mut used = BTreeSet::new();
    for (kind, inheritance) in kinds {
        let is_free = |name: &&str| get(name).is_some() && !used.contains(name);
        let Some(definers) = inheritance.defined_by.iter().find(|names| names.iter().all(is_free)) else {
            continue;
        };
        let mut by_key: BTreeMap<&str, &str> = BTreeMap::new();
        let definer = origin(definers.first().copied().unwrap_or(kind));
        let whole = Node::empty_map(definer.clone());
        problems.extend(tree.set(&["sources", kind, kind].map(str::to_owned), whole, str::eq).err());
        for variable in of_connectors(inheritance).chain([&COMMON]) {
            let Some(text) = get(variable.name) else { continue };
            used.insert(variable.name);
            if let Some(other) = by_key.get(variable.key) {
                notes.push(note(variable.name, format!("{other} is set, which stands before it")));
                continue;
            }
            match read(variable.form, text) {
                Ok(Some(value)) => {
                    by_key.insert(variable.key, variable.name);
                    let node = Node::new(value, origin(variable.name));
                    problems.extend(tree.set(&path(kind, variable.key), node, str::eq).err());
                }
                Ok(None) => {}
                Err((what, remedy)) => {
                    let key = path(kind, variable.key).join(".");
                    problems.push(Problem::new(origin(variable.name), key, what, remedy));
                }
            }
        }
        for (key, value) in inheritance.defaults.iter().filter(|(key, _)| !by_key.contains_key(key)) {
            let node = Node::loose(*value, definer.clone());
            problems.extend(tree.set(&path(kind, key), node, str::eq).err());
        }
    }
    let unused = set.difference(&used);
    notes.extend(unused.map(|name| note(name, "no other variable says where its upstream is".to_owned())));
    notes
}

/// The variables that are of a connector and not of the system.
fn of_connectors(kind: &Inheritance) -> impl Iterator<Item = &'static Inherited> {
    kind.variables.iter().filter(|variable| variable.form != InheritedForm::Ambient)
}

/// Sets in each source what a variable of the system says and nobody else does.
fn default(
    environment: &BTreeMap<String, String>,
    kinds: Kinds<'_>,
    tree: &mut Node,
    problems: &mut Vec<Problem>,
) {
    let sources: Vec<String> = match tree.child("sources").map(|node| &node.value) {
        Some(Value::Map(sources)) => sources.keys().cloned().collect(),
        _ => return,
    };
    for (kind, inheritance) in kinds {
        for variable in inheritance.variables.iter().filter(|one| one.form == InheritedForm::Ambient) {
            // POSIX has a colon before a name of the database.
            let text = environment.get(variable.name).map(|text| text.trim().trim_start_matches(':'));
            let Some(text) = text.filter(|text| !text.is_empty()) else { continue };
            for name in &sources {
                let source = tree.child("sources").and_then(|sources| sources.child(name)?.child(kind));
                if source.is_some_and(|source| source.child(variable.key).is_none()) {
                    let path = ["sources", name, kind, variable.key].map(str::to_owned);
                    let node = Node::new(Value::Text(text.to_owned()), origin(variable.name));
                    problems.extend(tree.set(&path, node, str::eq).err());
                }
            }
        }
    }
}

fn note(name: &str, why: String) -> Note {
    Note { variable: name.into(), why }
}

fn origin(name: &str) -> Origin {
    match name.strip_prefix('-') {
        Some(_) => Origin::Flag(name.into()),
        None => Origin::Environment(name.into()),
    }
}

fn path(kind: &str, key: &str) -> Vec<String> {
    ["sources", kind, kind].into_iter().chain(key.split('.')).map(str::to_owned).collect()
}

/// The value as it stands in our configuration; nothing where it says nothing.
fn read(form: InheritedForm, text: &str) -> Result<Option<Value>, (String, String)> {
    let wrong = |what: &str, remedy: &str| Err((format!("{text:?} is {what}"), remedy.to_owned()));
    Ok(Some(match form {
        InheritedForm::Text | InheritedForm::Ambient => Value::Text(text.to_owned()),
        InheritedForm::Number => match text.parse() {
            Ok(number) => Value::Integer(number),
            Err(_) => return wrong("no whole number", "write digits only"),
        },
        InheritedForm::List => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            let items: Vec<Node> =
                items.map(|item| Node::new(Value::Text(item.to_owned()), Origin::BuiltIn)).collect();
            if items.is_empty() {
                return Ok(None);
            }
            Value::List(items)
        }
        InheritedForm::Duration => match go_duration::parse(text) {
            Ok(duration) => Value::Text(format_duration(duration)),
            Err(error) => {
                return wrong(
                    &format!("not a duration: {error}"),
                    "write a Go duration such as 30s or 1m30s",
                );
            }
        },
        InheritedForm::Bool | InheritedForm::Group => match (text, form) {
            ("true" | "1", InheritedForm::Group) => Value::Map(crate::tree::Map::new()),
            ("false" | "0", InheritedForm::Group) => return Ok(None),
            ("true" | "1", _) => Value::Bool(true),
            ("false" | "0", _) => Value::Bool(false),
            _ => return wrong("neither true nor false", "write true or false"),
        },
        InheritedForm::Json => Value::Loose(text.to_owned()),
        InheritedForm::OneOf(words) => match words.iter().find(|(theirs, _)| *theirs == text) {
            Some((_, ours)) => Value::Text((*ours).to_owned()),
            None => {
                let known: Vec<&str> = words.iter().map(|(theirs, _)| *theirs).collect();
                return wrong("not valid here", &format!("write {}", known.join(" or ")));
            }
        },
        InheritedForm::Url { scheme, port } => Value::Text(match text.split_once("://") {
            Some(_) => text.to_owned(),
            None if text.contains(':') => format!("{scheme}://{text}"),
            None => format!("{scheme}://{text}:{port}"),
        }),
    }))
}
