//! TLS towards senders: who we say we are, and whom we let in.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::warn;

use crate::health::Health;
use crate::settings::Reader;
use crate::source::{SourceError, describe};
use crate::tls::{certificates_in, read, unusable};

/// How often the files are looked at, when connections come.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// The settings below `tls` of a source that listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// The certificate, with those between it and its authority.
    pub cert_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
    /// Let in only who shows a certificate of this authority.
    pub client_ca_file: Option<PathBuf>,
}

impl ServerTls {
    /// Reads the settings; `None` once what is missing is noted.
    pub(super) fn read(at: &mut Reader) -> Option<Self> {
        let cert_file = at.required("cert_file", "/var/secrets/tls/tls.crt");
        let key_file = at.required("key_file", "/var/secrets/tls/tls.key");
        let client_ca_file = at.optional("client_ca_file");
        Some(ServerTls { cert_file: cert_file?, key_file: key_file?, client_ca_file })
    }

    async fn files(&self) -> Result<Files, SourceError> {
        let client_ca = match &self.client_ca_file {
            Some(path) => Some(read("tls.client_ca_file", path).await?),
            None => None,
        };
        Ok(Files {
            certificate: read("tls.cert_file", &self.cert_file).await?,
            key: read("tls.key_file", &self.key_file).await?,
            client_ca,
        })
    }

    fn config(&self, files: &Files) -> Result<Arc<ServerConfig>, SourceError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|cause| unusable("tls", "cannot be set up".to_owned(), cause))?;
        let builder = match (&self.client_ca_file, &files.client_ca) {
            (Some(path), Some(pem)) => {
                let what = || format!("{path:?} holds no authority's certificate");
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(roots(path, pem)?.into(), provider)
                        .build()
                        .map_err(|cause| unusable("tls.client_ca_file", what(), cause))?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let certificates = certificates_in("tls.cert_file", &self.cert_file, &files.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&files.key)
            .map_err(|cause| unusable("tls.key_file", format!("{:?} holds no key", self.key_file), cause))?;
        let mut config = builder.with_single_cert(certificates, key).map_err(|cause| {
            unusable("tls.key_file", format!("{:?} is not the certificate's key", self.key_file), cause)
        })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn roots(path: &Path, pem: &[u8]) -> Result<RootCertStore, SourceError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates_in("tls.client_ca_file", path, pem)? {
        roots.add(certificate).map_err(|cause| {
            unusable("tls.client_ca_file", format!("{path:?} holds no authority's certificate"), cause)
        })?;
    }
    Ok(roots)
}

/// What the files held.
#[derive(PartialEq, Eq)]
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

/// The certificate of a listener, as it is renewed.
pub(super) struct Certificates {
    settings: ServerTls,
    current: Mutex<Current>,
}

struct Current {
    looked: Instant,
    files: Files,
    config: Arc<ServerConfig>,
    trouble: bool,
}

impl Certificates {
    /// # Errors
    /// [`SourceError::Unusable`] with the setting whose file cannot be read or holds something else.
    pub(super) async fn read(settings: &ServerTls) -> Result<Self, SourceError> {
        let files = settings.files().await?;
        let config = settings.config(&files)?;
        let current = Current { looked: Instant::now(), files, config, trouble: false };
        Ok(Certificates { settings: settings.clone(), current: Mutex::new(current) })
    }

    /// What to show to the next connection: the files as they are, or as they last were whole.
    pub(super) async fn now(&self, health: &Health) -> Arc<ServerConfig> {
        let mut current = self.current.lock().await;
        if current.looked.elapsed() >= LOOK {
            current.looked = Instant::now();
            match self.renewed(&current.files).await {
                Ok(None) => current.trouble = false,
                Ok(Some((files, config))) => {
                    (current.files, current.config, current.trouble) = (files, config, false);
                }
                // A renewal in the middle of being written is whole a moment later.
                Err(error) => {
                    let error = describe(&error).to_string();
                    health.problem(format!("{error}; the last certificate is used on"));
                    if !std::mem::replace(&mut current.trouble, true) {
                        warn!(%error, "cannot renew the certificate; the last one is used on");
                    }
                }
            }
        }
        current.config.clone()
    }

    async fn renewed(&self, known: &Files) -> Result<Option<(Files, Arc<ServerConfig>)>, SourceError> {
        let files = self.settings.files().await?;
        if files == *known {
            return Ok(None);
        }
        let config = self.settings.config(&files)?;
        Ok(Some((files, config)))
    }
}
