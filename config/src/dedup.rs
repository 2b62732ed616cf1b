//! `dedup`: how long a repeat is known as one.

use std::time::Duration;

section! {
    /// How long a repeated idempotency key or a redelivered message is known as one. The first bound reached counts.
    /// A change needs a restart.
    pub struct Dedup {
        /// The oldest key remembered, such as `1h`. At least the time an upstream takes to deliver again.
        pub window: Duration = "1h",
        /// How many keys are remembered, in memory.
        pub keys: u64 = "1000000",
    }
}
