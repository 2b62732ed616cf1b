//! Lays the layers over one another and reads the result.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use crate::config::Config;
use crate::inherited::{self, Kinds};
use crate::problem::{Invalid, Problem};
use crate::section::{Findings, read_root};
use crate::show::Leaf;
use crate::tree::{Node, Origin};
use crate::{check, environment, file, openfaas};

/// Everything a configuration is made of. The caller has read the file and collected the environment.
///
/// Not to be printed: the parts hold secrets as they were written.
#[derive(Clone, Copy, Default)]
pub struct Inputs<'a> {
    /// The file, if there is one.
    pub file: Option<File<'a>>,
    /// All environment variables; those that are none of ours are passed over. The flags of OpenFaaS' connectors stand
    /// among them, by their names with a leading `-`.
    pub environment: Option<&'a BTreeMap<String, String>>,
    /// What each kind of source understands of the variables of OpenFaaS' connectors.
    pub inherited: Kinds<'a>,
    /// What the command line sets, a later one over an earlier one.
    pub overrides: &'a [Override],
    /// What others find wrong, such as connectors in their settings: asked with what could be read, so that their
    /// problems stand in the same list as all others.
    pub also: Option<Check<'a>>,
}

/// Finds what is wrong with a configuration beyond what its types say.
pub type Check<'a> = &'a dyn Fn(&Config) -> Vec<Problem>;

/// A configuration file's content.
#[derive(Clone, Copy)]
pub struct File<'a> {
    /// Its name, for messages; TOML when it ends in `.toml`, YAML otherwise.
    pub name: &'a Path,
    /// Its content.
    pub text: &'a str,
}

/// A value set on the command line.
#[derive(Clone)]
pub struct Override {
    /// The flag, for messages; not its value, which may be a secret.
    pub flag: String,
    /// The key's path, levels joined by dots.
    pub key: String,
    /// The value, written as in an environment variable.
    pub value: String,
}

/// A configuration that can be used.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// Every value as text and where it came from, in the order of the reference.
    pub leaves: Vec<Leaf>,
    /// Variables of OpenFaaS that were set and have no effect here, and why.
    pub notes: Vec<Note>,
}

/// A variable that was set and has no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The variable's name.
    pub variable: String,
    /// Why it has none.
    pub why: String,
}

/// Reads a configuration from all its layers.
///
/// A later layer replaces an earlier one, key by key: built-in, file, OpenFaaS' variables, `EVOKE_…` variables, flags.
/// OpenFaaS' variables are above the file, because they are the environment of the manifest at hand, while the file may
/// be an image's; and below `EVOKE_…`, which can mean nobody else. A list is replaced as a whole, and a variable that is
/// set to nothing counts as not set.
///
/// # Errors
/// [`Invalid`] with every problem of every layer.
pub fn load(inputs: &Inputs<'_>) -> Result<Loaded, Invalid> {
    let (mut tree, mut problems) = match inputs.file {
        Some(File { name, text }) => file::parse(name, text),
        None => (Node::empty_map(Origin::BuiltIn), Vec::new()),
    };

    let nothing = BTreeMap::new();
    let environment = inputs.environment.unwrap_or(&nothing);
    let mut notes = openfaas::apply(environment, &mut tree, &mut problems);
    environment::apply(environment, &mut tree, &mut problems);
    for set in inputs.overrides {
        apply_override(set, &mut tree, &mut problems);
    }
    notes.extend(inherited::apply(environment, inputs.inherited, &mut tree, &mut problems));

    let (config, mut findings): (Config, Findings) = read_root(&tree);
    findings.report_unknown();
    check::check(&config, &mut findings);
    problems.append(&mut findings.problems);
    problems.extend(inputs.also.iter().flat_map(|also| also(&config)));
    match Invalid::from_problems(problems) {
        Some(invalid) => Err(invalid),
        None => Ok(Loaded { config, leaves: findings.leaves, notes }),
    }
}

fn apply_override(set: &Override, tree: &mut Node, problems: &mut Vec<Problem>) {
    let origin = Origin::Flag(set.flag.as_str().into());
    let path: Vec<String> = set.key.split('.').map(str::to_owned).collect();
    if set.value.is_empty() || path.iter().any(String::is_empty) {
        problems.push(Problem::new(
            origin,
            "",
            format!("{:?} sets nothing", set.key),
            "write the key's path and its value, such as gateway.url=http://gateway:8080",
        ));
        return;
    }
    problems.extend(tree.set(&path, Node::loose(set.value.as_str(), origin), str::eq).err());
}

impl Override {
    /// Reads `key=value` as given to `flag`. Text without `=` sets nothing, which [`load`] reports.
    pub fn parse(flag: &str, text: &str) -> Self {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        Self { flag: format!("{flag} {key}"), key: key.into(), value: value.into() }
    }
}

impl Loaded {
    /// Every value with where it came from, one per line, for people.
    pub fn show(&self) -> String {
        let width =
            |text: fn(&Leaf) -> &str| self.leaves.iter().map(|l| text(l).chars().count()).max().unwrap_or(0);
        let (keys, values) = (width(|leaf| &leaf.key), width(|leaf| &leaf.value).min(40));
        let mut text = String::new();
        for Leaf { key, value, origin, .. } in &self.leaves {
            let _ = writeln!(text, "{key:keys$}  {value:values$}  {origin}");
        }
        for Note { variable, why } in &self.notes {
            let _ = writeln!(text, "# environment variable {variable} has no effect: {why}");
        }
        text
    }
}
