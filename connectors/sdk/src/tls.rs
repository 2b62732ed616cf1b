//! TLS towards an upstream: whom we trust, and who we say we are.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use broker_model::SourceName;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tracing::warn;

use crate::health::Health;
use crate::settings::Reader;
use crate::source::{Cause, SourceError};

/// The settings below `tls`. That they are there at all means TLS: nothing may be sent in the clear then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Trust this authority's certificates, and no others; without it, those of the system.
    pub ca_file: Option<PathBuf>,
    /// Shown to servers that ask for one.
    pub client: Option<ClientCertificate>,
    /// Believe any server. Never silently: see [`Tls::say_if_insecure`].
    pub insecure: bool,
}

/// A certificate of ours and its key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, with those between it and its authority.
    pub cert_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
}

/// What the files hold, for clients that take PEM. Read anew at each connection, so that rotation needs no restart.
#[derive(Clone, Default)]
pub struct Pem {
    /// The authority's certificates.
    pub ca: Option<Vec<u8>>,
    /// Our certificate and our key.
    pub client: Option<(Vec<u8>, Vec<u8>)>,
}

impl Tls {
    /// Reads the settings, as the body of `at.table("tls", Tls::read)`; a kind may read others of its own there.
    pub fn read(at: &mut Reader) -> Tls {
        let ca_file = at.optional("ca_file");
        let cert_file: Option<PathBuf> = at.optional("cert_file");
        let key_file: Option<PathBuf> = at.optional("key_file");
        let client = match (cert_file, key_file) {
            (Some(cert_file), Some(key_file)) => Some(ClientCertificate { cert_file, key_file }),
            (None, None) => None,
            (Some(_), None) => {
                at.refuse(
                    "key_file",
                    "cert_file is set without it",
                    "name the file of the certificate's key",
                );
                None
            }
            (None, Some(_)) => {
                at.refuse("cert_file", "key_file is set without it", "name the file of the certificate");
                None
            }
        };
        let insecure = at.or("insecure", false);
        if insecure && ca_file.is_some() {
            at.refuse("insecure", "it makes ca_file meaningless", "keep one of the two");
        }
        Tls { ca_file, client, insecure }
    }

    /// Says at every start, in the log and in the source's status, that any server is believed.
    pub fn say_if_insecure(&self, source: &SourceName, health: &Health) {
        if self.insecure {
            health.problem("tls.insecure: the server's certificate is not checked");
            warn!(%source, "source {source} believes any server: tls.insecure is set");
        }
    }

    /// The files as they are.
    ///
    /// # Errors
    /// [`SourceError::Unusable`] with the setting whose file cannot be read.
    pub async fn pem(&self) -> Result<Pem, SourceError> {
        let ca = match &self.ca_file {
            Some(path) => Some(read("tls.ca_file", path).await?),
            None => None,
        };
        let client = match &self.client {
            Some(client) => Some((
                read("tls.cert_file", &client.cert_file).await?,
                read("tls.key_file", &client.key_file).await?,
            )),
            None => None,
        };
        Ok(Pem { ca, client })
    }

    /// For clients that take rustls.
    ///
    /// # Errors
    /// [`SourceError::Unusable`] with the setting whose file cannot be read or holds something else.
    pub async fn rustls(&self) -> Result<ClientConfig, SourceError> {
        let pem = self.pem().await?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|cause| unusable("tls", "cannot be set up".to_owned(), cause))?;
        let builder = if self.insecure {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
        } else {
            builder.with_root_certificates(self.roots(pem.ca.as_deref())?)
        };
        let (Some((certificates, key)), Some(client)) = (&pem.client, &self.client) else {
            return Ok(builder.with_no_client_auth());
        };
        let certificates = certificates_in("tls.cert_file", &client.cert_file, certificates)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|cause| {
            unusable("tls.key_file", format!("{:?} holds no key", client.key_file), cause)
        })?;
        builder.with_client_auth_cert(certificates, key).map_err(|cause| {
            unusable("tls.key_file", format!("{:?} is not the certificate's key", client.key_file), cause)
        })
    }

    fn roots(&self, ca: Option<&[u8]>) -> Result<RootCertStore, SourceError> {
        let mut roots = RootCertStore::empty();
        let (Some(pem), Some(path)) = (ca, &self.ca_file) else {
            // What is missing shows when a server is met whose certificate is not trusted.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            return Ok(roots);
        };
        for certificate in certificates_in("tls.ca_file", path, pem)? {
            roots.add(certificate).map_err(|cause| {
                unusable("tls.ca_file", format!("{path:?} holds no authority's certificate"), cause)
            })?;
        }
        Ok(roots)
    }
}

pub(crate) fn certificates_in(
    key: &str,
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, SourceError> {
    let what = || format!("{path:?} holds no certificate");
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|cause| unusable(key, what(), cause))?;
    if certificates.is_empty() {
        return Err(SourceError::Unusable { key: key.to_owned(), what: what(), cause: None });
    }
    Ok(certificates)
}

pub(crate) async fn read(key: &str, path: &Path) -> Result<Vec<u8>, SourceError> {
    tokio::fs::read(path).await.map_err(|cause| unusable(key, format!("cannot read {path:?}"), cause))
}

pub(crate) fn unusable(key: &str, what: String, cause: impl Into<Cause>) -> SourceError {
    SourceError::Unusable { key: key.to_owned(), what, cause: Some(cause.into()) }
}

/// Believes every certificate; signatures are checked still, so that a broken connection is noticed.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::health::HealthBoard;
    use crate::source::describe;

    fn keys(settings: Value) -> Vec<String> {
        let mut at = Reader::new(settings);
        let tls = Tls::read(&mut at);
        let error = at.finish(|| Some(tls)).unwrap_err();
        error.problems.into_iter().map(|problem| problem.key).collect()
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn authority() -> (String, String) {
        let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        (key.cert.pem(), key.signing_key.serialize_pem())
    }

    #[test]
    fn halves_of_a_pair_and_contradictions_are_refused() {
        assert_eq!(keys(json!({"cert_file": "/c"})), ["key_file"]);
        assert_eq!(keys(json!({"key_file": "/k"})), ["cert_file"]);
        assert_eq!(keys(json!({"ca_file": "/ca", "insecure": true})), ["insecure"]);
    }

    #[tokio::test]
    async fn good_files_make_a_configuration() {
        let (cert, key) = authority();
        let (cert, key) = (file(&cert), file(&key));
        let client = ClientCertificate { cert_file: cert.path().into(), key_file: key.path().into() };
        let tls = Tls { ca_file: Some(cert.path().into()), client: Some(client), insecure: false };

        assert!(tls.rustls().await.unwrap().client_auth_cert_resolver.has_certs());
        assert!(tls.pem().await.unwrap().client.is_some());
        assert!(!Tls::default().rustls().await.unwrap().client_auth_cert_resolver.has_certs());
    }

    #[tokio::test]
    async fn a_file_that_is_something_else_names_its_setting() {
        let nothing = file("no certificate");
        let (cert, _) = authority();
        let (_, other_key) = authority();
        let (cert, other_key) = (file(&cert), file(&other_key));
        let client = ClientCertificate { cert_file: cert.path().into(), key_file: other_key.path().into() };
        for (tls, expected) in [
            (Tls { ca_file: Some("/nowhere".into()), ..Tls::default() }, "tls.ca_file: cannot read"),
            (Tls { ca_file: Some(nothing.path().into()), ..Tls::default() }, "holds no certificate"),
            (Tls { client: Some(client), ..Tls::default() }, "is not the certificate's key"),
        ] {
            let error = describe(&tls.rustls().await.unwrap_err()).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn to_believe_any_server_is_never_silent() {
        let board = HealthBoard::new(Arc::new(crate::health::tests::HeldClock::default()));
        let source = SourceName::parse("bus").unwrap();

        Tls::default().say_if_insecure(&source, &board.health());
        assert_eq!(crate::health::tests::status(&board).last_error, None);
        Tls { insecure: true, ..Tls::default() }.say_if_insecure(&source, &board.health());
        assert!(crate::health::tests::status(&board).last_error.is_some());
    }
}
