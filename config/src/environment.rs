//! The variables `EVOKE_…`: the key's path in upper case, `__` between levels.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::Config;
use crate::problem::Problem;
use crate::section::read_root;
use crate::tree::{Node, Origin};

const PREFIX: &str = "EVOKE_";

/// Variables of the command line tool, which share our prefix and set nothing here.
const COMMAND_LINE: [&str; 4] = ["URL", "USER", "PASSWORD_FILE", "TOKEN_FILE"];

/// Sets what the variables say in the tree.
pub(crate) fn apply(environment: &BTreeMap<String, String>, tree: &mut Node, problems: &mut Vec<Problem>) {
    let keys = keys_by_variable();
    for (variable, value) in environment {
        let Some(name) = variable.strip_prefix(PREFIX) else { continue };
        if value.is_empty() || COMMAND_LINE.contains(&name) {
            continue;
        }
        let origin = Origin::Environment(variable.as_str().into());
        let path: Vec<String> = name.split("__").map(str::to_lowercase).collect();
        if path.iter().any(String::is_empty) {
            problems.push(Problem::new(
                origin,
                "",
                "this names no key",
                "write EVOKE_ and the key's path, with __ between levels, such as EVOKE_GATEWAY__URL",
            ));
        } else if path.len() > 1 || keys.contains(name) {
            let named = |entry: &str, segment: &str| segment_of(entry).eq_ignore_ascii_case(segment);
            problems.extend(tree.set(&path, Node::loose(value.as_str(), origin), named).err());
        } else if !is_service_link(variable) {
            let remedy = keys
                .iter()
                .find(|known| known.replace("__", "_") == name)
                .map(|known| format!("did you mean {PREFIX}{known}?"))
                .unwrap_or_else(|| {
                    "write the key's path with __ between levels, such as EVOKE_GATEWAY__URL".into()
                });
            problems.push(Problem::new(origin, "", "this names no key", remedy));
        }
    }
}

/// Every key and section there is, by the part of the variable's name after the prefix.
fn keys_by_variable() -> BTreeSet<String> {
    let (_, findings) = read_root::<Config>(&Node::empty_map(Origin::BuiltIn));
    findings
        .declared
        .iter()
        .map(|declared| declared.path.split('.').map(segment_of).collect::<Vec<_>>().join("__"))
        .collect()
}

/// A level's name as it stands in a variable: `my-Orders` is `MY_ORDERS`.
fn segment_of(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

/// The variables Kubernetes puts into every container for a service called `evoke` or `evoke-…`.
fn is_service_link(variable: &str) -> bool {
    let after_port = |marker: &str| {
        variable.split_once(marker).is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT"].iter().any(|end| variable.ends_with(end))
        || variable.contains("_SERVICE_PORT_")
        || after_port("_PORT_")
}
