//! Which certificates are trusted.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CertificateError, ClientConfig, RootCertStore};

use crate::engine::EngineError;

/// The system's certificates and those of `ca_file`, which the configuration key `key` named.
pub(crate) fn client_config(
    key: &'static str,
    ca_file: Option<&Path>,
) -> Result<Arc<ClientConfig>, EngineError> {
    let mut roots = RootCertStore::empty();
    // A machine without certificates of its own is no reason to refuse plain http or a `ca_file`; what is missing
    // shows when a server is met whose certificate is not trusted.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        let refused = |source: Box<dyn std::error::Error + Send + Sync>| EngineError::Certificates {
            key,
            path: path.to_owned(),
            source,
        };
        let certificates = CertificateDer::pem_file_iter(path).map_err(|error| refused(error.into()))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| refused(error.into()))?;
            roots.add(certificate).map_err(|error| refused(error.into()))?;
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| EngineError::Client(error.into()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Why there is no connection, and what to do about it where a certificate is the reason.
pub(crate) fn with_remedy(
    why: Box<str>,
    error: &(dyn std::error::Error + 'static),
    ca_file: &'static str,
) -> Box<str> {
    match certificate_error(error) {
        Some(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            format!("{why}; add the certificate of its authority to the file of {ca_file}").into()
        }
        _ => why,
    }
}

/// The certificate's fault among an error's causes. An error of I/O keeps its own inside, where `source` does not lead.
fn certificate_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a CertificateError> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(rustls::Error::InvalidCertificate(fault)) = error.downcast_ref() {
            return Some(fault);
        }
        let inside = error.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref());
        cause = match inside {
            Some(inside) => Some(inside as &(dyn std::error::Error + 'static)),
            None => error.source(),
        };
    }
    None
}
