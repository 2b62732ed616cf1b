//! Secrets, and comparisons that tell nothing by the time they take.

use std::path::PathBuf;

use connectors_sdk::{Reader, Secret};
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::denied::Denied;

/// The secrets of an endpoint, any of which will do, so that they can be exchanged without a gap; or none, by the user's
/// explicit word.
#[derive(Clone, Debug)]
pub(crate) struct Secrets(Vec<Secret>);

/// What is written instead of a secret where anybody may send.
const NONE: &str = "none";

impl Secrets {
    /// Reads `secret` or `secret_file`, each one or a list; `None` once what is wrong is noted.
    pub(crate) fn read(endpoint: &str, at: &mut Reader) -> Option<Self> {
        Self::checked(endpoint, at, |_| Ok(()))
    }

    /// As [`Secrets::read`]; `check` says why a text cannot be a secret of this kind.
    pub(crate) fn checked(
        endpoint: &str,
        at: &mut Reader,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> Option<Self> {
        let found = Self::optional(endpoint, at, check)?;
        if found.is_none() {
            at.refuse(
                "secret",
                "it is missing: anybody could send",
                "write secret_file, or secret: none where anybody may",
            );
        }
        found
    }

    /// As [`Secrets::checked`], where there may be none at all: `Some(None)`.
    pub(crate) fn optional(
        endpoint: &str,
        at: &mut Reader,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> Option<Option<Self>> {
        let inline: Option<Vec<String>> = at.optional("secret");
        let files: Option<Vec<PathBuf>> = at.optional("secret_file");
        match (inline, files) {
            (Some(_), Some(_)) => {
                at.refuse("secret", "it is set twice, as secret and as secret_file", "keep secret_file");
                None
            }
            (Some(texts), None) if texts == [NONE] => Some(Some(Secrets(Vec::new()))),
            (Some(texts), None) => {
                // Says what is wrong, never what was written.
                let wrong = texts.iter().find_map(|text| match text.as_str() {
                    "" => Some("it is empty".to_owned()),
                    NONE => Some("none stands beside a secret".to_owned()),
                    text => check(text).err(),
                });
                if let Some(wrong) = wrong {
                    at.refuse("secret", wrong, "write the secret as the sender has it");
                    return None;
                }
                Some(Some(Secrets(texts.into_iter().map(|text| Secret::Inline(text.into())).collect())))
            }
            (None, Some(paths)) => {
                let key = format!("endpoints.{endpoint}.secret_file");
                let secrets = paths.into_iter().map(|path| Secret::File { key: key.clone(), path });
                Some(Some(Secrets(secrets.collect())))
            }
            (None, None) => Some(None),
        }
    }

    /// Whether anybody may send.
    pub(crate) fn is_open(&self) -> bool {
        self.0.is_empty()
    }

    /// The secrets as they are now.
    ///
    /// # Errors
    /// [`Denied::Unusable`]: a file cannot be read, or is empty.
    pub(crate) async fn reveal(&self) -> Result<Vec<SecretString>, Denied> {
        let mut revealed = Vec::new();
        for secret in &self.0 {
            let secret = secret
                .reveal()
                .await
                .map_err(|error| Denied::Unusable(connectors_sdk::describe(&error).to_string()))?;
            if secret.expose_secret().is_empty() {
                return Err(Denied::Unusable("a file of secret_file is empty".to_owned()));
            }
            revealed.push(secret);
        }
        Ok(revealed)
    }
}

/// Whether a text is one of these secrets.
pub(crate) fn is_one_of(text: &[u8], secrets: &[SecretString]) -> bool {
    // Of equal length whatever was sent, and each compared whatever the others said.
    let digest = Sha256::digest(text);
    let same = |secret: &SecretString| Sha256::digest(secret.expose_secret().as_bytes()).ct_eq(&digest);
    secrets.iter().map(same).fold(subtle::Choice::from(0), |any, same| any | same).into()
}

/// Whether `signature` is the HMAC-SHA256 of these parts, one behind the other.
pub(crate) fn is_signed(key: &[u8], parts: &[&[u8]], signature: &[u8]) -> bool {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return false };
    parts.iter().for_each(|part| mac.update(part));
    mac.verify_slice(signature).is_ok()
}

/// The value of a header field that is there once, as text.
pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    // Which of two would be believed by whoever is asked next, nobody knows.
    if values.next().is_some() { None } else { value.to_str().ok() }
}

/// Bytes from hexadecimal digits.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_of_several_secrets_will_do_and_nothing_else() {
        let secrets = ["new".into(), "old".into()];

        assert!(is_one_of(b"old", &secrets) && is_one_of(b"new", &secrets));
        assert!(!is_one_of(b"", &secrets) && !is_one_of(b"ol", &secrets) && !is_one_of(b"old", &[]));
    }

    #[test]
    fn digits_are_pairs() {
        assert_eq!(unhex("00fFa5"), Some(vec![0, 255, 165]));
        for wrong in ["0", "0g", "é"] {
            assert_eq!(unhex(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_field_that_is_there_twice_is_not_believed() {
        let mut headers = HeaderMap::new();
        headers.append("x", "1".parse().unwrap());
        assert_eq!(text(&headers, "x"), Some("1"));
        headers.append("x", "2".parse().unwrap());
        assert_eq!(text(&headers, "x"), None);
    }

    #[tokio::test]
    async fn a_secret_file_is_read_as_it_is_now_and_never_empty() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let secrets = Secrets(vec![Secret::File { key: "secret_file".into(), path: file.path().into() }]);

        assert!(
            matches!(secrets.reveal().await, Err(Denied::Unusable(_))),
            "an empty one would let anybody in"
        );
        for secret in ["first", "second"] {
            std::fs::write(file.path(), format!("{secret}\n")).unwrap();
            assert!(is_one_of(secret.as_bytes(), &secrets.reveal().await.unwrap()));
        }
    }
}
