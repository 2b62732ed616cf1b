//! `api`: who may use the management API.

use crate::secret::{Credentials, SecretSource, secret_source};
use crate::section::{Reader, Section};

/// Who may use the management API. Without credentials and token it answers on loopback only.
#[derive(Debug, Clone, Default)]
pub struct Api {
    /// Basic auth.
    pub credentials: Option<Credentials>,
    /// A bearer token, accepted besides basic auth.
    pub token: Option<SecretSource>,
}

impl Section for Api {
    fn read(at: &mut Reader<'_>) -> Self {
        let credentials = at.section(
            "credentials",
            &[" Basic auth for `/v1`. The gateway's secret files may be named here too."],
        );
        let token = secret_source!(at, "token", "token_file", "A bearer token for `/v1`, besides basic auth");
        Self { credentials, token }
    }
}
