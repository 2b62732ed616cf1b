//! Secrets: written in the settings or, better, in a file of their own.

use std::path::PathBuf;

use secrecy::SecretString;

use crate::source::SourceError;

/// A secret that has not been looked at yet. Printed, it says where it is, never what it is.
#[derive(Clone, Debug)]
pub enum Secret {
    /// Written in the settings.
    Inline(SecretString),
    /// In a file, read anew at each connection, so that a rotated secret needs no restart.
    File {
        /// The setting that names the file.
        key: String,
        /// The file.
        path: PathBuf,
    },
}

impl Secret {
    /// The secret itself. One line break at the end of a file is no part of it.
    ///
    /// # Errors
    /// [`SourceError::Unusable`] when the file cannot be read or is not UTF-8.
    pub async fn reveal(&self) -> Result<SecretString, SourceError> {
        match self {
            Secret::Inline(secret) => Ok(secret.clone()),
            Secret::File { key, path } => {
                let text = tokio::fs::read_to_string(path).await.map_err(|cause| SourceError::Unusable {
                    key: key.clone(),
                    what: format!("cannot read {path:?}"),
                    cause: Some(cause.into()),
                })?;
                let text = text.strip_suffix('\n').unwrap_or(&text);
                Ok(text.strip_suffix('\r').unwrap_or(text).into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[tokio::test]
    async fn a_secret_file_loses_its_last_line_break_only() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), " s3cret\n").unwrap();
        let secret = Secret::File { key: "password_file".into(), path: file.path().into() };

        assert_eq!(secret.reveal().await.unwrap().expose_secret(), " s3cret");
    }

    #[tokio::test]
    async fn a_missing_file_names_its_setting() {
        let secret = Secret::File { key: "credentials.password_file".into(), path: "/nowhere/at/all".into() };

        let error = secret.reveal().await.unwrap_err().to_string();

        assert_eq!(error, "credentials.password_file: cannot read \"/nowhere/at/all\"");
    }

    #[test]
    fn a_secret_is_never_printed() {
        assert!(!format!("{:?}", Secret::Inline("hunter2".to_owned().into())).contains("hunter2"));
    }
}
