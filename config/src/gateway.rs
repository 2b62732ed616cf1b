//! `gateway`: the OpenFaaS gateway Evoke runs beside.

use std::path::PathBuf;
use std::time::Duration;

use crate::http_url::HttpUrl;
use crate::secret::Credentials;

section! {
    /// The OpenFaaS gateway Evoke runs beside.
    pub struct Gateway {
        /// Its base URL. Functions are called and listed through it, never around it.
        pub url: HttpUrl = "http://127.0.0.1:8080",
        /// How often the functions and their annotations are listed, such as `10s`.
        ///
        /// A shorter interval notices a deployed function sooner; each poll is one request per namespace.
        pub poll_interval: Duration = "10s",
        /// The namespace a function without one belongs to.
        pub default_namespace: String = "openfaas-fn",
        /// A file of PEM certificates to trust besides the system's, for a gateway behind HTTPS.
        pub ca_file: Option<PathBuf> = "none",
        /// An HTTP proxy between Evoke and the gateway, such as `http://proxy:3128`. The proxy variables of the
        /// environment are not read.
        pub proxy: Option<HttpUrl> = "none",
        /// Basic auth for listing functions. Never sent to a function.
        ///
        /// Each of the two is in a file (white space at its ends is removed) or here.
        pub credentials: Option<Credentials>,
    }
}
