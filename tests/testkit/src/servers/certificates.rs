//! Certificates that only a test trusts.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// An authority of its own with a certificate for `localhost` and 127.0.0.1 and one for a client, as PEM files.
pub struct Certificates {
    folder: PathBuf,
    _temporary: Option<TempDir>,
}

impl Certificates {
    /// Makes new ones.
    ///
    /// # Panics
    /// When the files cannot be written.
    pub fn new() -> Certificates {
        let folder = TempDir::new().expect("a temporary folder");
        let mut certificates = Certificates::kept_in(folder.path());
        certificates._temporary = Some(folder);
        certificates
    }

    /// Makes new ones that stay in this folder.
    ///
    /// # Panics
    /// When the files cannot be written.
    pub fn kept_in(folder: &Path) -> Certificates {
        std::fs::create_dir_all(folder).expect("a folder for certificates");
        let write = |name: &str, pem: String| std::fs::write(folder.join(name), pem).expect("a PEM file");

        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "Evoke's tests");
        let key = KeyPair::generate().expect("a key");
        write("ca.pem", params.self_signed(&key).expect("an authority").pem());
        let authority = Issuer::new(params, key);

        let purposes = [
            ("server", ExtendedKeyUsagePurpose::ServerAuth),
            ("client", ExtendedKeyUsagePurpose::ClientAuth),
        ];
        for (name, purpose) in purposes {
            let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
            let mut params = CertificateParams::new(names).expect("names a certificate can hold");
            params.extended_key_usages = vec![purpose];
            params.distinguished_name.push(rcgen::DnType::CommonName, format!("evoke-{name}"));
            let key = KeyPair::generate().expect("a key");
            let signed = params.signed_by(&key, &authority).expect("a certificate");
            write(&format!("{name}.pem"), signed.pem());
            write(&format!("{name}.key"), key.serialize_pem());
        }
        Certificates { folder: folder.to_owned(), _temporary: None }
    }

    /// The authority's certificate.
    pub fn ca(&self) -> PathBuf {
        self.file("ca.pem")
    }

    /// The server's certificate and key.
    pub fn server(&self) -> (PathBuf, PathBuf) {
        (self.file("server.pem"), self.file("server.key"))
    }

    /// The client's certificate and key.
    pub fn client(&self) -> (PathBuf, PathBuf) {
        (self.file("client.pem"), self.file("client.key"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

impl Default for Certificates {
    fn default() -> Self {
        Certificates::new()
    }
}
