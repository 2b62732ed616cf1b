//! The whole: every section, in the order of the reference file.

use crate::api::Api;
use crate::callbacks::Callbacks;
use crate::dedup::Dedup;
use crate::delivery::Delivery;
use crate::front::Front;
use crate::gateway::Gateway;
use crate::limits::Limits;
use crate::listen::Listen;
use crate::log::Log;
use crate::setting::choice;
use crate::shutdown::Shutdown;
use crate::sources::Sources;
use crate::store::Store;

section! {
    /// A complete configuration, every value checked.
    pub struct Config {
        /// Where Evoke answers.
        pub listen: Listen,
        /// The OpenFaaS gateway Evoke runs beside.
        pub gateway: Gateway,
        /// Where what was accepted is kept.
        pub store: Store,
        /// How functions are called, and called again. A function's annotations override these defaults.
        pub delivery: Delivery,
        /// Where events come from: `sources.<name>.<kind>`, with the settings of that kind of source. `paused: true` beside
        /// the kind holds a source; with SIGHUP also one that runs. It is held while this or an operator (`evoke sources pause`)
        /// holds it: `resume` lifts the operator's word, and this one here.
        ///
        /// Every kind takes `topics`: a list, or `from-functions` (the default) for exactly what functions ask for.
        ///
        ///     sources:
        ///       orders:
        ///         nats: { url: "nats://127.0.0.1:4222", topics: from-functions }
        pub sources: Sources,
        /// What becomes of an event no function wants while the gateway has not been listed in full since the start: for a
        /// minute it is given back to its source, then `ack` takes and counts it, `hold` goes on giving it back. Once a list
        /// came, what nobody wants is taken and counted.
        pub unmatched: Unmatched = "ack",
        /// Who may use the management API (`/v1`). Without credentials and token it answers on loopback only.
        pub api: Api,
        /// How the routes of the gateway that Evoke takes over behave.
        pub front: Front,
        /// Where results may be posted to (`X-Callback-Url`), and how.
        pub callbacks: Callbacks,
        /// How long a repeated idempotency key or a redelivered message is known as one. The first bound reached counts.
        /// A change needs a restart.
        pub dedup: Dedup,
        /// The bounds of what is taken. At a bound Evoke refuses or waits; nothing accepted is ever dropped.
        pub limits: Limits,
        /// How Evoke ends.
        pub shutdown: Shutdown,
        /// What is written to standard error.
        pub log: Log,
    }
    not built: telemetry, "remove it";
}

choice! {
    /// What becomes of an event no function is known to want, before the gateway was listed in full.
    pub enum Unmatched {
        /// It is taken, counted and forgotten.
        Ack = "ack",
        /// It is given back to its source, to come again.
        Hold = "hold",
    }
}
