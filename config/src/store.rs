//! `store`: where what was accepted is kept.

use std::path::PathBuf;
use std::time::Duration;

use crate::byte_size::ByteSize;

section! {
    /// Where what was accepted is kept.
    pub struct Store {
        /// The store inside Evoke, in one directory. A change of any key in it needs a restart.
        pub embedded: Embedded,
    }
    not built: jetstream, "remove it, and use store.embedded";
}

section! {
    /// The store inside Evoke.
    pub struct Embedded {
        /// The data directory. Made when it is missing, with access for its owner only; one process at a time.
        pub path: PathBuf = "./evoke-data",
        /// How long a second process waits for the data directory, such as `60s`, before it ends with exit code 75. Long
        /// enough for the one before it to stop (`shutdown.grace`).
        pub lock_wait: Duration = "60s",
        /// Nothing more is accepted (507) while the disk has less free space than this, such as `1GiB`.
        pub min_free: ByteSize = "1GiB",
        /// Nothing more is accepted (507) when the data directory would exceed this size, such as `20GiB`.
        ///
        /// The journal with the segment allocated ahead, its summaries, bodies of their own files and the index of dead
        /// letters count. What was accepted before may still die, and the index grow by it.
        pub max_bytes: Option<ByteSize> = "none",
        /// How long what has ended can still be looked up.
        pub retention: Retention,
    }
}

section! {
    /// How long what has ended can still be looked up. Work that was accepted and has not ended is never removed.
    pub struct Retention {
        /// Completed and cancelled invocations: until the first of these bounds is reached.
        pub completed: Completed,
        /// Dead letters.
        pub dead_letters: DeadLetterRetention,
    }
}

section! {
    /// The bounds of completed and cancelled invocations; the first one reached removes the oldest.
    pub struct Completed {
        /// The oldest one kept, such as `1h`.
        pub age: Duration = "1h",
        /// How many are kept.
        pub count: u64 = "100000",
        /// How much they may take on disk, such as `1GiB`.
        pub bytes: ByteSize = "1GiB",
    }
}

section! {
    /// The bound of dead letters.
    pub struct DeadLetterRetention {
        /// Dead letters older than this are removed, each counted and logged, such as `30d`.
        ///
        /// By default they stay until somebody redrives or removes them.
        pub age: Option<Duration> = "none",
    }
}
