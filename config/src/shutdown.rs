//! `shutdown`: how Evoke ends.

use std::time::Duration;

section! {
    /// How Evoke ends.
    pub struct Shutdown {
        /// How long calls that run may take to finish after SIGTERM, such as `25s`; the rest is released and delivered
        /// after the next start. Keep it below the supervisor's own limit (Kubernetes: 30 seconds).
        pub grace: Duration = "25s",
    }
}
