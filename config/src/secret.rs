//! Secrets: from a file or as they are, never shown.

use std::io;
use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};

use crate::section::{Reader, Section};
use crate::setting::{Fault, Setting, text};
use crate::tree::Node;

/// What stands where a secret is.
pub(crate) const REDACTED: &str = "[redacted]";

/// Where a secret comes from.
#[derive(Debug, Clone)]
pub enum SecretSource {
    /// A file that holds it; it may be mounted late and change while we run.
    File(PathBuf),
    /// The configuration itself.
    Inline(SecretString),
}

impl SecretSource {
    /// The secret as it is now, with white space at both ends removed.
    ///
    /// # Errors
    /// What opening or reading the file says.
    pub fn read(&self) -> io::Result<SecretString> {
        match self {
            Self::File(path) => {
                let content = SecretString::from(std::fs::read_to_string(path)?);
                Ok(content.expose_secret().trim().into())
            }
            Self::Inline(secret) => Ok(secret.clone()),
        }
    }
}

/// A user's name and password for basic auth.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The name.
    pub username: SecretSource,
    /// The password.
    pub password: SecretSource,
}

impl Section for Option<Credentials> {
    const OPTIONAL: bool = true;

    fn read(at: &mut Reader<'_>) -> Self {
        let username = secret_source!(at, "username", "username_file", "The user's name");
        let password = secret_source!(at, "password", "password_file", "The user's password");
        match (username, password) {
            (Some(username), Some(password)) => Some(Credentials { username, password }),
            // A user or password that was written and refused is not missing.
            _ if !at.sound() => None,
            (None, None) => None,
            (None, Some(_)) => {
                at.problem("", "there is a password and no user", "set username_file or username");
                None
            }
            (Some(_), None) => {
                at.problem("", "there is a user and no password", "set password_file or password");
                None
            }
        }
    }
}

/// Reads a secret that is given by one of two keys: the name of a file, or the secret itself.
macro_rules! secret_source {
    ($at:expr, $inline:literal, $file:literal, $meaning:literal) => {{
        let file = $at.key($file, &[concat!(" ", $meaning, ", in a file: its path.")], "none");
        let inline = $at.key($inline, &[concat!(" ", $meaning, ", as it is.")], "none");
        $crate::secret::one_of($at, ($inline, inline), ($file, file))
    }};
}
pub(crate) use secret_source;

pub(crate) fn one_of(
    at: &mut Reader<'_>,
    (inline_name, inline): (&'static str, Option<SecretString>),
    (file_name, file): (&'static str, Option<PathBuf>),
) -> Option<SecretSource> {
    match (inline, file) {
        (Some(_), Some(_)) => {
            at.problem(
                inline_name,
                format!("both {inline_name} and {file_name} are set"),
                "keep one of the two",
            );
            None
        }
        (Some(secret), None) => Some(SecretSource::Inline(secret)),
        (None, Some(path)) => Some(SecretSource::File(path)),
        (None, None) => None,
    }
}

impl Setting for SecretString {
    const EXPECTED: &'static str = "a text";

    fn read(node: &Node) -> Result<Self, Vec<Fault>> {
        text(node, |text| match text {
            "" => Err(("the secret is empty".into(), "write it, or name a file that holds it".into())),
            _ => Ok(text.into()),
        })
    }

    fn show(&self) -> String {
        self.expose_secret().into()
    }

    fn show_redacted(&self) -> String {
        REDACTED.into()
    }
}

/// Replaces the user and password of every URL in a text: `nats://[redacted]@host:4222`.
pub(crate) fn redact_urls(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("://").map(|at| at + "://".len()) {
        let (before, after) = rest.split_at(start);
        let authority = after.find(['/', '?', '#', ',', ' ']).unwrap_or(after.len());
        let user = after[..authority].rfind('@').unwrap_or(0);
        shown.push_str(before);
        if user > 0 {
            shown.push_str(REDACTED);
        }
        rest = &after[user..];
    }
    shown + rest
}

/// Whether a setting of this name is a secret, for settings whose meaning only their connector knows. In doubt, yes.
pub(crate) fn names_a_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let is_place = ["_file", "_path", "-file", "-path"].iter().any(|end| name.ends_with(end));
    let secret =
        ["password", "passphrase", "secret", "token", "credential", "access_key", "private_key", "api_key"]
            .iter()
            .any(|word| name.contains(word));
    !is_place && (secret || matches!(name.as_str(), "nkey" | "seed" | "jwt" | "key" | "authorization"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_from_a_file_is_trimmed() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "  s3cret\n").expect("written");

        let secret = SecretSource::File(file.path().into()).read().expect("read");

        assert_eq!(secret.expose_secret(), "s3cret");
    }

    #[test]
    fn a_missing_file_is_the_callers_to_retry() {
        let error = SecretSource::File("/nonexistent/secret".into()).read().expect_err("missing");

        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn users_and_passwords_leave_urls() {
        for (text, shown) in [
            ("nats://user:p@ss@host:4222", "nats://[redacted]@host:4222"),
            ("amqp://guest:guest@h/%2f", "amqp://[redacted]@h/%2f"),
            ("nats://t0ken@a:1,nats://t0ken@b:1", "nats://[redacted]@a:1,nats://[redacted]@b:1"),
            ("http://host/path?x=a@b", "http://host/path?x=a@b"),
            ("no url, user@host", "no url, user@host"),
        ] {
            assert_eq!(redact_urls(text), shown);
        }
    }

    #[test]
    fn secrets_are_known_by_their_names() {
        for name in ["password", "sasl_password", "secret_key", "token", "access_key", "Credentials"] {
            assert!(names_a_secret(name), "{name}");
        }
        for name in ["url", "password_file", "credentials_file", "topics", "region", "key_path"] {
            assert!(!names_a_secret(name), "{name}");
        }
    }
}
