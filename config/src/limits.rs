//! `limits`: the bounds of what is taken.

use crate::byte_size::ByteSize;

section! {
    /// The bounds of what is taken. At a bound Evoke refuses or waits; nothing accepted is ever dropped.
    pub struct Limits {
        /// The largest body accepted, such as `64MiB`; beyond it 413 (see `front.body_over_limit`).
        pub body: ByteSize = "64MiB",
        /// The largest block of request headers accepted.
        pub headers: ByteSize = "1MiB",
        /// How much of a function's answer is kept and called back with; the rest is cut off and marked.
        pub response: ByteSize = "10MiB",
        /// How much memory requests, bodies and answers may take while they are handled. Larger bodies go over disk.
        ///
        /// A request's share is given back once it is durable. The store keeps at most 16 MiB more of bodies it has just
        /// written or read ahead, so that their delivery reads no disk. A change needs a restart.
        pub in_flight: ByteSize = "64MiB",
        /// How many invocations may wait, be retried or run; beyond it 429, and sources are held back.
        ///
        /// A change needs a restart.
        pub waiting: u64 = "10000000",
        /// How many functions have metrics of their own (the label `function`); those of the rest are summed as `other`.
        ///
        /// A change needs a restart.
        pub metric_functions: u64 = "1000",
    }
}
