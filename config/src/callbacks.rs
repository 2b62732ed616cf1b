//! `callbacks`: where results may be posted to.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use secrecy::ExposeSecret;

use crate::host_rule::HostRule;
use crate::secret::{SecretSource, secret_source};
use crate::section::{Reader, Section};

section! {
    /// Where results may be posted to (`X-Callback-Url`), and how.
    pub struct Callbacks {
        /// Hosts (`hooks.example.org`, `*.example.org`), addresses and networks (`10.0.0.0/8`) that may be called even
        /// where `deny` or the built-in rule forbids it.
        ///
        /// The built-in rule forbids link-local, metadata, unspecified and multicast addresses, and Evoke's own
        /// listeners except `/async-function/`. Private and loopback addresses are allowed.
        pub allow: Vec<HostRule> = "[]",
        /// Hosts, addresses and networks that may not be called, besides the built-in rule. `[0.0.0.0/0, "::/0"]`
        /// leaves only what `allow` lists.
        pub deny: Vec<HostRule> = "[]",
        /// The longest one callback may take, such as `30s`; then it is tried again.
        pub timeout: Duration = "30s",
        /// How many callbacks run at once to one host, so that a slow one does not delay the others. Hosts share 1,024 such
        /// lanes.
        pub concurrency: NonZeroU32 = "16",
        /// How many callbacks run at once, all hosts together. They do not count towards `delivery.max_concurrency`.
        pub max_concurrency: NonZeroU32 = "128",
        /// A file of PEM certificates to trust besides the system's, for callbacks over HTTPS.
        pub ca_file: Option<PathBuf> = "none",
        /// Signs each callback as Standard Webhooks describes it, when a secret is given.
        pub sign: Option<Signing>,
    }
}

/// How callbacks are signed.
#[derive(Debug, Clone)]
pub struct Signing {
    /// The secret: `whsec_` and the Base64 of 24 to 64 bytes. One that is in the configuration itself has been checked;
    /// one in a file has not.
    pub secret: SecretSource,
}

impl Signing {
    /// The key's bytes in a secret's text, or `None` when it is not of that form.
    ///
    /// Source: the Standard Webhooks specification, "Symmetric signatures".
    pub fn key(secret: &str) -> Option<Vec<u8>> {
        let encoded = secret.trim().strip_prefix("whsec_")?;
        let key = base64::engine::general_purpose::STANDARD.decode(encoded).ok()?;
        (24..=64).contains(&key.len()).then_some(key)
    }
}

impl Section for Option<Signing> {
    const OPTIONAL: bool = true;

    fn read(at: &mut Reader<'_>) -> Self {
        let secret = secret_source!(
            at,
            "secret",
            "secret_file",
            "The secret, `whsec_` and the Base64 of 24 to 64 bytes"
        )?;
        if let SecretSource::Inline(secret) = &secret
            && Signing::key(secret.expose_secret()).is_none()
        {
            at.problem(
                "secret",
                "this is not a signing secret",
                "write whsec_ and the Base64 of 24 to 64 random bytes",
            );
        }
        Some(Signing { secret })
    }
}
