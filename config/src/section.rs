//! Sections: groups of keys, declared once and read, shown, documented and suggested from that declaration.

use crate::problem::Problem;
use crate::setting::Setting;
use crate::show::Leaf;
use crate::tree::{Node, Origin, Value};

/// Declares a section: its struct, and for each key its meaning, its type and its default as it would be written.
///
/// A field without a default is a section of its own. The doc comments are what `config reference` prints. Keys that
/// are planned but do nothing yet are listed after `not built:`, each with what to do instead; using one is a problem
/// that says so.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        pub struct $name:ident {
            $( $(#[doc = $doc:literal])+ pub $field:ident : $type:ty $(= $default:literal)? ),+ $(,)?
        }
        $( not built: $( $later:ident, $instead:literal );+ ; )?
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug)]
        pub struct $name {
            $( $(#[doc = $doc])+ pub $field: $type ),+
        }

        impl $crate::section::Section for $name {
            fn read(at: &mut $crate::section::Reader<'_>) -> Self {
                $($( at.not_built(stringify!($later), $instead); )+)?
                Self { $( $field: section!(@read at, $field, $type, [$($doc),+] $(, $default)?) ),+ }
            }
        }

        /// The built-in defaults.
        impl Default for $name {
            fn default() -> Self {
                $crate::section::built_in()
            }
        }
    };
    (@read $at:ident, $field:ident, $type:ty, $docs:expr, $default:literal) => {
        $at.key::<$type>(stringify!($field), &$docs, $default)
    };
    (@read $at:ident, $field:ident, $type:ty, $docs:expr) => {
        $at.section::<$type>(stringify!($field), &$docs)
    };
}

/// A group of keys.
pub(crate) trait Section: Sized {
    /// Whether the whole section can be taken away by writing `none`, as a later layer may want to.
    const OPTIONAL: bool = false;

    /// Reads every key of the section. What is wrong goes to the reader, and a default stands in, because a
    /// configuration with a problem is refused as a whole in the end.
    fn read(at: &mut Reader<'_>) -> Self;
}

/// The section as it is when nobody sets anything.
pub(crate) fn built_in<T: Section>() -> T {
    read_root(&Node::empty_map(Origin::BuiltIn)).0
}

/// Reads a whole tree.
pub(crate) fn read_root<T: Section>(tree: &Node) -> (T, Findings) {
    let mut findings = Findings::default();
    let mut reader = Reader {
        path: String::new(),
        node: Some(tree),
        known: Vec::new(),
        not_built: Vec::new(),
        findings: &mut findings,
    };
    let value = T::read(&mut reader);
    reader.finish();
    (value, findings)
}

/// What reading a tree brought to light.
#[derive(Default)]
pub(crate) struct Findings {
    pub(crate) problems: Vec<Problem>,
    pub(crate) leaves: Vec<Leaf>,
    /// Every section and key there is, in the order of their declaration.
    pub(crate) declared: Vec<Declared>,
    /// Keys that were written and do not exist.
    unknown: Vec<Unknown>,
}

/// A section or key that exists.
pub(crate) struct Declared {
    pub(crate) path: String,
    pub(crate) docs: &'static [&'static str],
    /// `None` for a section.
    pub(crate) default: Option<&'static str>,
}

struct Unknown {
    section: String,
    name: String,
    origin: Origin,
    neighbours: Vec<&'static str>,
}

impl Findings {
    /// Whether nothing is wrong with any of `keys`, so that their values can be held against each other.
    pub(crate) fn sound(&self, keys: &[&str]) -> bool {
        !self.problems.iter().any(|problem| keys.contains(&problem.key.as_str()))
    }

    /// Where the value of `key` came from.
    pub(crate) fn origin_of(&self, key: &str) -> Origin {
        self.leaves.iter().find(|leaf| leaf.key == key).map_or(Origin::BuiltIn, |leaf| leaf.origin.clone())
    }

    /// Turns the unknown keys into problems, each with the key that was probably meant.
    ///
    /// Only possible at the end, when all keys are known: the one meant may live in another section.
    pub(crate) fn report_unknown(&mut self) {
        for Unknown { section, name, origin, neighbours } in std::mem::take(&mut self.unknown) {
            let path = join(&section, &name);
            let near = neighbours
                .iter()
                .filter(|known| is_near(&name, known))
                .max_by(|a, b| strsim::jaro(&name, a).total_cmp(&strsim::jaro(&name, b)))
                .map(|known| join(&section, known));
            let elsewhere = || {
                self.declared
                    .iter()
                    .find(|declared| declared.path.rsplit('.').next() == Some(&name))
                    .map(|declared| declared.path.clone())
            };
            let remedy = match near.or_else(elsewhere) {
                Some(meant) => format!("did you mean {meant}?"),
                None if section.is_empty() => format!("the sections are {}", neighbours.join(", ")),
                None => format!("{section} has {}", neighbours.join(", ")),
            };
            self.problems.push(Problem::new(origin, path, "there is no such key", remedy));
        }
    }
}

/// Close enough to be a slip: at most a third of the word is different, and never more than three letters.
pub(crate) fn is_near(written: &str, known: &str) -> bool {
    strsim::damerau_levenshtein(written, known) <= (known.len() / 3).clamp(1, 3)
}

pub(crate) fn join(section: &str, name: &str) -> String {
    match (section, name) {
        ("", name) => name.to_owned(),
        (section, "") => section.to_owned(),
        (section, name) => format!("{section}.{name}"),
    }
}

/// Walks a section of the tree and notes what it finds.
pub(crate) struct Reader<'a> {
    path: String,
    node: Option<&'a Node>,
    known: Vec<&'static str>,
    /// Known, but not to be suggested.
    not_built: Vec<&'static str>,
    findings: &'a mut Findings,
}

impl Reader<'_> {
    /// Reads the key `name`, or takes its `default`, which is written as a user would write it.
    pub(crate) fn key<T: Setting>(
        &mut self,
        name: &'static str,
        docs: &'static [&'static str],
        default: &'static str,
    ) -> T {
        let path = self.declare(name, docs, Some(default));
        let written = self.node.and_then(|node| node.child(name));
        let (value, origin) = match written.map(|node| (T::read(node), &node.origin)) {
            Some((Ok(value), origin)) => (value, origin.clone()),
            Some((Err(faults), origin)) => {
                self.findings.problems.extend(faults.into_iter().map(|fault| {
                    Problem::new(fault.origin, format!("{path}{}", fault.inside), fault.what, fault.remedy)
                }));
                (default_value(default), origin.clone())
            }
            None => (default_value(default), Origin::BuiltIn),
        };
        self.findings.leaves.push(Leaf::new(path, value.show_redacted(), value.show(), origin));
        value
    }

    /// Reads the section `name`.
    pub(crate) fn section<T: Section>(&mut self, name: &'static str, docs: &'static [&'static str]) -> T {
        let path = self.declare(name, docs, None);
        let node = self.node.and_then(|node| node.child(name));
        let node = match node.map(|node| (&node.value, node)) {
            None | Some((Value::Null, _)) => None,
            Some((Value::Map(_), node)) => Some(node),
            Some((Value::Text(text) | Value::Loose(text), _)) if T::OPTIONAL && text == "none" => None,
            Some((_, node)) => {
                self.findings.problems.push(Problem::new(
                    node.origin.clone(),
                    path.clone(),
                    format!("there is {} where a section belongs", node.describe()),
                    "set the keys inside it",
                ));
                None
            }
        };
        let mut reader =
            Reader { path, node, known: Vec::new(), not_built: Vec::new(), findings: self.findings };
        let section = T::read(&mut reader);
        reader.finish();
        section
    }

    /// The entries of a section whose keys are names the user chose, each with the place of its name.
    ///
    /// The caller answers for everything inside.
    pub(crate) fn named_entries(&mut self) -> Vec<(String, Origin, Node)> {
        match self.node.take().map(|node| &node.value) {
            Some(Value::Map(entries)) => entries
                .iter()
                .map(|(name, (origin, node))| (name.clone(), origin.clone(), node.clone()))
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Refuses a key that a reader of the design may expect, and that does nothing yet.
    pub(crate) fn not_built(&mut self, name: &'static str, instead: &'static str) {
        self.not_built.push(name);
        if let Some(node) = self.node.and_then(|node| node.child(name)) {
            self.findings.problems.push(Problem::new(
                node.origin.clone(),
                join(&self.path, name),
                "this is not built yet",
                instead,
            ));
        }
    }

    /// Whether nothing is wrong so far with the section, so that its values can be held against each other.
    pub(crate) fn sound(&self) -> bool {
        !self.findings.problems.iter().any(|problem| problem.key.starts_with(&format!("{}.", self.path)))
    }

    /// Notes a problem of the section itself or, with a `name`, of one of its keys.
    pub(crate) fn problem(&mut self, name: &str, what: impl Into<String>, remedy: impl Into<String>) {
        let key = join(&self.path, name);
        let node = self.node.map(|node| node.child(name).unwrap_or(node));
        let origin = node.map_or(Origin::BuiltIn, |node| node.origin.clone());
        self.findings.problems.push(Problem::new(origin, key, what, remedy));
    }

    /// Notes a problem the caller placed.
    pub(crate) fn push(&mut self, problem: Problem) {
        self.findings.problems.push(problem);
    }

    /// Adds a value that has no declaration.
    pub(crate) fn leaf(&mut self, leaf: Leaf) {
        self.findings.leaves.push(leaf);
    }

    /// This section's path.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    fn declare(
        &mut self,
        name: &'static str,
        docs: &'static [&'static str],
        default: Option<&'static str>,
    ) -> String {
        let path = join(&self.path, name);
        self.known.push(name);
        self.findings.declared.push(Declared { path: path.clone(), docs, default });
        path
    }

    /// Notes what was written and never asked for.
    fn finish(self) {
        let Some(Node { value: Value::Map(entries), .. }) = self.node else { return };
        for (name, (origin, _)) in entries {
            let name_is = |known: &&str| *known == name;
            if !self.known.iter().any(name_is) && !self.not_built.iter().any(name_is) {
                self.findings.unknown.push(Unknown {
                    section: self.path.clone(),
                    name: name.clone(),
                    origin: origin.clone(),
                    neighbours: self.known.clone(),
                });
            }
        }
    }
}

fn default_value<T: Setting>(default: &'static str) -> T {
    match T::read(&Node::loose(default, Origin::BuiltIn)) {
        Ok(value) => value,
        // A broken assumption of ours, found by the first test that reads any configuration.
        Err(faults) => panic!("the built-in default {default:?} is refused: {faults:?}"),
    }
}
