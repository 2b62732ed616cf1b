//! `listen`: where Evoke answers.

use std::net::SocketAddr;

section! {
    /// Where Evoke answers.
    pub struct Listen {
        /// The front (`/async-function/…`), the management API and health, in plain HTTP.
        ///
        /// Write `0.0.0.0:8090` to be reached from other machines; the management API then needs `api` credentials.
        /// A change needs a restart.
        pub http: SocketAddr = "127.0.0.1:8090",
        /// Prometheus metrics at `/metrics`, on a port of their own as OpenFaaS' queue-worker has them.
        ///
        /// faasd's provider uses 8081 too: choose another port beside it. A change needs a restart.
        pub metrics: SocketAddr = "127.0.0.1:8081",
    }
    not built: tls, "remove it, and let a proxy in front of Evoke end TLS";
}
