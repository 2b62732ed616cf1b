//! How a key's type reads what was written, and says what is wrong with it.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;

use crate::tree::{Node, Origin, Value};

/// A type a key can have.
pub(crate) trait Setting: Sized {
    /// What is accepted, by example, to end the sentence "write …".
    const EXPECTED: &'static str;

    /// Reads what was written. Several faults only where several parts can be wrong.
    fn read(node: &Node) -> Result<Self, Vec<Fault>>;

    /// The value as it could be written, in one canonical form.
    fn show(&self) -> String;

    /// The value as people may see it.
    fn show_redacted(&self) -> String {
        self.show()
    }
}

/// Why a value was not taken.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) origin: Origin,
    /// The part of the value that is wrong, such as `[2]`; empty when it is the whole.
    pub(crate) inside: String,
    pub(crate) what: String,
    pub(crate) remedy: String,
}

impl Fault {
    pub(crate) fn new(node: &Node, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { origin: node.origin.clone(), inside: String::new(), what: what.into(), remedy: remedy.into() }
    }

    fn unexpected<T: Setting>(node: &Node) -> Vec<Self> {
        let what = match node.value {
            Value::Null => "there is no value".to_owned(),
            _ => format!("there is {}", node.describe()),
        };
        vec![Self::new(node, what, format!("write {}", T::EXPECTED))]
    }
}

/// Reads any single value by its text: numbers and booleans as they are commonly written.
///
/// `parse` answers what is wrong and the remedy.
pub(crate) fn scalar<T: Setting>(
    node: &Node,
    parse: impl FnOnce(&str) -> Result<T, (String, String)>,
) -> Result<T, Vec<Fault>> {
    let text: Cow<'_, str> = match &node.value {
        Value::Text(text) | Value::Loose(text) => text.as_str().into(),
        Value::Bool(value) => value.to_string().into(),
        Value::Integer(value) => value.to_string().into(),
        Value::Float(value) => value.to_string().into(),
        Value::Null | Value::List(_) | Value::Map(_) => return Err(Fault::unexpected::<T>(node)),
    };
    parse(&text).map_err(|(what, remedy)| vec![Fault::new(node, what, remedy)])
}

/// Reads text that must stay as it was written: a name, a path, a secret. A number in a file is refused, because the
/// file's format has already read it (`1e3` is 1000 by now).
pub(crate) fn text<T: Setting>(
    node: &Node,
    parse: impl FnOnce(&str) -> Result<T, (String, String)>,
) -> Result<T, Vec<Fault>> {
    match &node.value {
        Value::Bool(_) | Value::Integer(_) | Value::Float(_) => Err(vec![Fault::new(
            node,
            format!("there is {} where a text belongs", node.describe()),
            "put it in quotes",
        )]),
        _ => scalar(node, parse),
    }
}

/// The answer of a parser that knows only one way to be wrong.
pub(crate) fn wrong<T: Setting>(text: &str) -> (String, String) {
    (format!("{text:?} is not valid here"), format!("write {}", T::EXPECTED))
}

impl Setting for bool {
    const EXPECTED: &'static str = "true or false";

    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        scalar(node, |text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(wrong::<Self>(text)),
        })
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

macro_rules! whole_number {
    ($($type:ty: $expected:literal),+) => {$(
        impl Setting for $type {
            const EXPECTED: &'static str = $expected;

            fn read(node: &Node) -> Result<Self, Vec<Fault>> {
                // `1_000_000` reads well, and both formats know it.
                scalar(node, |text| text.replace('_', "").parse().map_err(|_| wrong::<Self>(text)))
            }

            fn show(&self) -> String {
                self.to_string()
            }
        }
    )+};
}

whole_number! {
    u32: "a whole number from 0 to 4294967295",
    u64: "a whole number, 0 or more",
    NonZeroU32: "a whole number from 1 to 4294967295"
}

impl Setting for String {
    const EXPECTED: &'static str = "a text";

    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        text(node, |text| Ok(text.to_owned()))
    }

    fn show(&self) -> String {
        self.clone()
    }
}

impl Setting for PathBuf {
    const EXPECTED: &'static str = "a path";

    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        text(node, |text| match text {
            "" => Err(("the path is empty".into(), "write a path".into())),
            _ => Ok(text.into()),
        })
    }

    fn show(&self) -> String {
        self.display().to_string()
    }
}

impl Setting for SocketAddr {
    const EXPECTED: &'static str =
        "an IP address and a port, such as 127.0.0.1:8090, 0.0.0.0:8090 or [::1]:8090";

    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        scalar(node, |text| text.parse().map_err(|_| wrong::<Self>(text)))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// `none` (or YAML's empty value) is a value of its own.
impl<T: Setting> Setting for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;

    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        match &node.value {
            Value::Null => Ok(None),
            Value::Text(text) | Value::Loose(text) if text == "none" => Ok(None),
            _ => T::read(node).map(Some).map_err(|mut faults| {
                for fault in faults.iter_mut().filter(|fault| fault.remedy.starts_with("write ")) {
                    fault.remedy.push_str("; or none");
                }
                faults
            }),
        }
    }

    fn show(&self) -> String {
        self.as_ref().map_or_else(|| "none".into(), T::show)
    }

    fn show_redacted(&self) -> String {
        self.as_ref().map_or_else(|| "none".into(), T::show_redacted)
    }
}

/// A list; where there are no types, in brackets or separated by commas.
impl<T: Setting> Setting for Vec<T> {
    const EXPECTED: &'static str = "a list in brackets, its items separated by commas";

    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        let loose;
        let items = match &node.value {
            Value::List(items) => items,
            Value::Loose(text) => {
                loose = loose_list(text, &node.origin);
                &loose
            }
            _ => return Err(Fault::unexpected::<Self>(node)),
        };

        let mut values = Vec::with_capacity(items.len());
        let mut faults = Vec::new();
        for (index, item) in items.iter().enumerate() {
            match T::read(item) {
                Ok(value) => values.push(value),
                Err(inner) => faults.extend(
                    inner
                        .into_iter()
                        .map(|fault| Fault { inside: format!("[{index}]{}", fault.inside), ..fault }),
                ),
            }
        }
        if faults.is_empty() { Ok(values) } else { Err(faults) }
    }

    fn show(&self) -> String {
        format!("[{}]", self.iter().map(T::show).collect::<Vec<_>>().join(", "))
    }

    fn show_redacted(&self) -> String {
        format!("[{}]", self.iter().map(T::show_redacted).collect::<Vec<_>>().join(", "))
    }
}

fn loose_list(text: &str, origin: &Origin) -> Vec<Node> {
    match crate::file::yaml_value(text, origin) {
        Some(Node { value: Value::List(items), .. }) => items,
        _ => text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(|item| Node::loose(item, origin.clone()))
            .collect(),
    }
}

/// Declares a setting that is one of a few words, each with its meaning.
macro_rules! choice {
    (
        $(#[doc = $about:literal])+
        pub enum $name:ident { $( $(#[doc = $doc:literal])+ $variant:ident = $word:literal ),+ $(,)? }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $( $(#[doc = $doc])+ $variant ),+ }

        impl $name {
            /// The word that stands for it in a configuration.
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $word ),+ }
            }
        }

        impl $crate::setting::Setting for $name {
            const EXPECTED: &'static str = $crate::setting::choice!(@words $($word)+);

            fn read(node: &$crate::tree::Node) -> Result<Self, Vec<$crate::setting::Fault>> {
                $crate::setting::scalar(node, |text| match text {
                    $( $word => Ok(Self::$variant), )+
                    _ => Err($crate::setting::wrong::<Self>(text)),
                })
            }

            fn show(&self) -> String {
                self.as_str().into()
            }
        }
    };
    (@words $first:literal $($rest:literal)*) => { concat!($first $(, " or ", $rest)*) };
}
pub(crate) use choice;

#[cfg(test)]
mod tests {
    use super::*;

    fn file(value: Value) -> Node {
        Node::new(value, Origin::File { name: "x.yaml".into(), line: 1, column: 2 })
    }

    fn fault<T: Setting>(node: &Node) -> String {
        let faults = T::read(node).err().expect("a fault");
        faults.iter().map(|f| format!("{}{}; {}", f.inside, f.what, f.remedy)).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_quoted_number_is_a_number() {
        assert_eq!(u32::read(&file(Value::Text("100".into()))).ok(), Some(100));
        assert_eq!(u64::read(&file(Value::Text("10_000_000".into()))).ok(), Some(10_000_000));
    }

    #[test]
    fn a_number_is_no_text() {
        assert_eq!(
            fault::<String>(&file(Value::Integer(12345))),
            "there is a number where a text belongs; put it in quotes"
        );
        assert_eq!(String::read(&Node::loose("12345", Origin::BuiltIn)).ok(), Some("12345".into()));
    }

    #[test]
    fn none_is_a_value_only_where_it_is_one() {
        assert_eq!(Option::<u32>::read(&file(Value::Text("none".into()))).ok(), Some(None));
        assert_eq!(Option::<u32>::read(&file(Value::Null)).ok(), Some(None));
        assert_eq!(
            fault::<u32>(&file(Value::Null)),
            "there is no value; write a whole number from 0 to 4294967295"
        );
        assert_eq!(
            fault::<Option<bool>>(&file(Value::Text("nope".into()))),
            "\"nope\" is not valid here; write true or false; or none"
        );
    }

    #[test]
    fn a_list_names_each_wrong_item() {
        let list = file(Value::List(vec![
            file(Value::Integer(1)),
            file(Value::Text("x".into())),
            file(Value::Integer(-1)),
        ]));

        assert_eq!(
            fault::<Vec<u32>>(&list),
            "[1]\"x\" is not valid here; write a whole number from 0 to 4294967295\n\
             [2]\"-1\" is not valid here; write a whole number from 0 to 4294967295"
        );
    }

    #[test]
    fn a_list_without_types_needs_no_brackets() {
        for text in ["408,429", "[408, 429]", " 408 , 429,, "] {
            let list = Vec::<u32>::read(&Node::loose(text, Origin::BuiltIn)).ok();

            assert_eq!(list, Some(vec![408, 429]), "{text}");
        }
    }
}
