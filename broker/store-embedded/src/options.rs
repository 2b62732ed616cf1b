//! What a store is opened with.

use std::path::PathBuf;
use std::time::Duration;

/// The settings of a store. [`Options::new`] has the defaults of the configuration reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The data directory; made when it is not there, for its owner only.
    pub path: PathBuf,
    /// How large a journal segment is allocated. 64 MiB.
    pub segment_bytes: u64,
    /// How much of the filesystem is left to others. 1 GiB.
    pub min_free: u64,
    /// The most the directory may take, the index included; `None` for all but [`Options::min_free`]. What was taken
    /// before it was reached may still die, and the index grow by it.
    pub max_bytes: Option<u64>,
    /// The most invocations that may wait (`limits.waiting`). 10,000,000.
    pub waiting: u64,
    /// How long what ended can be looked up.
    pub retention: Retention,
    /// How long dead letters are kept; `None` until somebody redrives or removes them. `None`.
    pub dead_letter_age: Option<Duration>,
    /// How long and for how many keys repeats are recognised.
    pub dedup: DedupOptions,
    /// Bytes of bodies kept beside their entries after acceptance, so that a delivery at once reads no disk. 16 MiB.
    pub fresh_bytes: u64,
    /// The most changes that wait to be written to the index; with more it is brought up to date from memory. 65,536.
    pub index_queue: usize,
    /// The most bytes of large bodies that are not yet part of an acceptance. 1 GiB.
    pub spool_bytes: u64,
    /// How long to wait for another process to give the directory up. 60 s.
    pub lock_wait: Duration,
    /// The most bytes a second that are copied forward to give space back. 32 MiB.
    pub copy_rate: u64,
}

/// How long completed and cancelled invocations can be looked up: whichever bound is met first. A full disk forgets them
/// earlier, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// After they ended. One hour.
    pub age: Duration,
    /// How many. 100,000.
    pub count: usize,
    /// How many bytes of journal they may hold: in their own records, and in what stands between those and cannot go
    /// before them, as far as that exceeds twice what lives and four segments. 1 GiB.
    pub bytes: u64,
}

/// How repeats are recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DedupOptions {
    /// For how long after acceptance. One hour.
    pub window: Duration,
    /// For how many keys in all. 1,000,000.
    pub keys: usize,
    /// For how many keys of one scope (a source, or HTTP). 500,000.
    pub keys_per_scope: usize,
}

impl Options {
    /// The defaults, in this directory.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Options {
            path: path.into(),
            segment_bytes: 64 << 20,
            min_free: 1 << 30,
            max_bytes: None,
            waiting: 10_000_000,
            retention: Retention { age: Duration::from_secs(3600), count: 100_000, bytes: 1 << 30 },
            dead_letter_age: None,
            dedup: DedupOptions {
                window: Duration::from_secs(3600),
                keys: 1_000_000,
                keys_per_scope: 500_000,
            },
            fresh_bytes: 16 << 20,
            index_queue: 65_536,
            spool_bytes: 1 << 30,
            lock_wait: Duration::from_secs(60),
            copy_rate: 32 << 20,
        }
    }
}
