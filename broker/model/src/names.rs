//! Names are types: a function's name cannot stand where a topic belongs.

use std::fmt;
use std::sync::Arc;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("the name is empty")]
    Empty,
    /// More bytes than a name may have.
    #[error("the name has {length} bytes, more than {max}")]
    TooLong {
        /// What was given.
        length: usize,
        /// What is allowed.
        max: usize,
    },
    /// A character outside the allowed set.
    #[error("the name holds {found:?}; allowed are {allowed}")]
    Character {
        /// The first offender.
        found: char,
        /// The allowed set, for people.
        allowed: &'static str,
    },
}

/// The longest function reference taken. Kubernetes allows 63 per label; this leaves room for `name.namespace`.
pub const MAX_FUNCTION_NAME: usize = 253;

/// A function, always with its namespace, so that `env` and `env.openfaas-fn` are one function and one lane.
///
/// Source: the gateway's route pattern (`-a-zA-Z_0-9.`, split at the last dot) and its metrics, which always carry
/// `name.namespace`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FunctionName {
    full: Arc<str>,
    dot: u16,
}

impl FunctionName {
    /// Reads `name` or `name.namespace`; `default_namespace` stands in where none is written.
    ///
    /// # Errors
    /// [`NameError`] when the text is outside the gateway's pattern or longer than [`MAX_FUNCTION_NAME`].
    pub fn parse(text: &str, default_namespace: &str) -> Result<Self, NameError> {
        check(text, MAX_FUNCTION_NAME, FUNCTION_SET, |c| {
            c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
        })?;
        let (name, namespace) = match text.rsplit_once('.') {
            Some((name, namespace)) if !name.is_empty() && !namespace.is_empty() => (name, namespace),
            _ => (text, default_namespace),
        };
        let dot = u16::try_from(name.len())
            .map_err(|_| NameError::TooLong { length: name.len(), max: MAX_FUNCTION_NAME })?;
        Ok(FunctionName { full: format!("{name}.{namespace}").into(), dot })
    }

    /// The function of this name and namespace, as [`FunctionName::name`] and [`FunctionName::namespace`] gave them;
    /// a store reads its own records back with it.
    ///
    /// # Errors
    /// [`NameError`] when the name could not have been read by [`FunctionName::parse`].
    pub fn from_parts(name: &str, namespace: &str) -> Result<Self, NameError> {
        check(name, MAX_FUNCTION_NAME, FUNCTION_SET, |c| {
            c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
        })?;
        let dot = u16::try_from(name.len())
            .map_err(|_| NameError::TooLong { length: name.len(), max: MAX_FUNCTION_NAME })?;
        Ok(FunctionName { full: format!("{name}.{namespace}").into(), dot })
    }

    /// The name without its namespace.
    pub fn name(&self) -> &str {
        &self.full[..usize::from(self.dot)]
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.full[usize::from(self.dot) + 1..]
    }

    /// `name.namespace`, as metrics and the API show it.
    pub fn as_str(&self) -> &str {
        &self.full
    }
}

const FUNCTION_SET: &str = "letters, digits, '-', '_' and '.'";

fn check(text: &str, max: usize, allowed: &'static str, ok: impl Fn(char) -> bool) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > max {
        return Err(NameError::TooLong { length: text.len(), max });
    }
    match text.chars().find(|&c| !ok(c)) {
        Some(found) => Err(NameError::Character { found, allowed }),
        None => Ok(()),
    }
}

impl fmt::Display for FunctionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.full)
    }
}

impl fmt::Debug for FunctionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.full, f)
    }
}

macro_rules! text_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

text_name! {
    /// A queue of invocations: the value of `com.openfaas.queue`, or [`QueueName::default`].
    QueueName
}

impl QueueName {
    /// Reads a queue's name: `a-z 0-9 - _`, at most 63 bytes.
    ///
    /// # Errors
    /// [`NameError`] for anything else.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check(text, 63, "a-z, 0-9, '-' and '_'", |c| {
            c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_')
        })?;
        Ok(QueueName(text.into()))
    }
}

impl Default for QueueName {
    /// The shared queue, under OpenFaaS' own name for it.
    fn default() -> Self {
        QueueName("faas-request".into())
    }
}

text_name! {
    /// A configured source: the key under `sources` in the configuration.
    SourceName
}

impl SourceName {
    /// The name events published over the management API carry when they name none.
    pub const API: &'static str = "api";

    /// Reads a source's name: letters, digits, `-` and `_`, at most 63 bytes.
    ///
    /// # Errors
    /// [`NameError`] for anything else.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check(text, 63, "letters, digits, '-' and '_'", |c| {
            c.is_ascii_alphanumeric() || matches!(c, '-' | '_')
        })?;
        Ok(SourceName(text.into()))
    }
}

text_name! {
    /// The caller's id for a call (`X-Call-Id`). Any text a caller sends, so it is neither unique nor a UUID: it
    /// serves to find and to cancel, never to tell calls apart.
    CallId
}

impl CallId {
    /// The longest call id taken.
    pub const MAX: usize = 1024;

    /// Takes a caller's id as it is: printable ASCII, at most [`CallId::MAX`] bytes.
    ///
    /// # Errors
    /// [`NameError`] for anything else: such a value could not be sent on as a header.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check(text, Self::MAX, "printable ASCII", |c| c.is_ascii_graphic() || c == ' ')?;
        Ok(CallId(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(text: &str) -> FunctionName {
        FunctionName::parse(text, "openfaas-fn").unwrap()
    }

    #[test]
    fn a_bare_name_and_the_default_namespace_are_one_function() {
        assert_eq!(function("env"), function("env.openfaas-fn"));
        assert_ne!(function("env"), function("env.dev"));
    }

    #[test]
    fn the_namespace_follows_the_last_dot() {
        let name = function("a.b.dev");

        assert_eq!((name.name(), name.namespace(), name.as_str()), ("a.b", "dev", "a.b.dev"));
    }

    #[test]
    fn a_dot_at_either_end_is_part_of_the_name() {
        assert_eq!(function("env.").name(), "env.");
        assert_eq!(function(".env").name(), ".env");
    }

    #[test]
    fn absurd_names_are_refused_with_the_reason() {
        for bad in ["", "a/b", "a%2Fb", "ü", "a b", "a\0"] {
            assert!(FunctionName::parse(bad, "openfaas-fn").is_err(), "{bad:?}");
        }
        assert!(matches!(FunctionName::parse(&"x".repeat(10_000), "ns"), Err(NameError::TooLong { .. })));
    }

    #[test]
    fn queue_names_are_those_of_openfaas() {
        assert!(QueueName::parse("slow-jobs_2").is_ok());
        assert!(QueueName::parse("Slow").is_err());
        assert_eq!(QueueName::default().as_str(), "faas-request");
    }
}
