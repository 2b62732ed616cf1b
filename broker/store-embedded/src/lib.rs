//! The embedded engine of the store ports: one data directory, one process, nothing else to install.
//!
//! A **journal** is the truth and everything else is derived from it: an append-only row of segments with checksummed,
//! numbered records, written by one thread that syncs once for everybody who waits. What is in memory (where each
//! invocation stands, 32 bytes for one that waits) is made again from the journal at every start. Large bodies lie in
//! files of their own. Dead letters may lie for years: what is known of them moves to an **index** on disk, which
//! follows the journal and is made again from it whenever it is in doubt.
//!
//! In reading order:
//! * the shape on disk: `files` (the few operations), `codec`, `record` (what is said), `segment` (how it is framed,
//!   and how damage is told from a torn write);
//!   `rows` is what of that memory keeps, and `summary` how a segment's rows are kept beside it;
//! * what is known in memory: `table`, `lanes`, `dedup`, and `state`, which has all the rules;
//! * what runs: `store` (what is shared), `writer` (the group commit), `upkeep` and `space` (giving disk back), `sweep`
//!   (summaries, and damage found while running), `index` (dead letters on disk), `open` (recovery);
//! * the ports: `queue`, `ledger`, `bodies`.
//!
//! This crate does not know functions, gateways, sources, HTTP or configuration files.

mod bodies;
mod codec;
mod dedup;
mod files;
mod index;
mod lanes;
mod ledger;
mod open;
mod options;
mod queue;
mod received;
mod record;
mod rows;
mod segment;
mod space;
mod state;
mod store;
mod summary;
mod sweep;
mod table;
mod upkeep;
mod writer;

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use broker_model::{Clock, StoreError};

pub use files::{File, Files, Lock, OsFiles};
pub use open::{OpenError, Recovered};
pub use options::{DedupOptions, Options, Retention};

use store::Shared;

/// A store in one data directory. Cheap to clone; the last clone that is dropped without
/// [`broker_model::InvocationQueue::close`] writes what is pending and closes.
#[derive(Clone, Debug)]
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    // Behind `shared`, so that the threads are joined while the rest still stands.
    threads: Arc<Threads>,
}

impl EmbeddedStore {
    /// Opens a directory, recovering what it holds; makes it when it is not there. Blocks, on a large journal for a while.
    ///
    /// # Errors
    /// [`OpenError::Locked`] when another process keeps it, [`OpenError::Newer`] when a newer version wrote it,
    /// [`OpenError::Sync`] and [`OpenError::Io`] when the disk does not do its part. Damage is no error: it is
    /// skipped, kept and reported in [`Recovered`].
    pub fn open(
        options: Options,
        files: Arc<dyn Files>,
        clock: Arc<dyn Clock>,
    ) -> Result<(EmbeddedStore, Recovered), OpenError> {
        let path = options.path.clone();
        let (shared, journal, recovered) = open::open(options, files, clock)?;
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let no_thread = |source| OpenError::Io { doing: "start a thread for", path: path.clone(), source };
        let writes = shared.clone();
        let writer =
            thread("evoke-writer").spawn(move || writer::run_guarded(&writes, journal)).map_err(no_thread)?;
        let keeps = shared.clone();
        let upkeep = match thread("evoke-upkeep").spawn(move || upkeep::run(&keeps)) {
            Ok(upkeep) => upkeep,
            Err(error) => {
                stop(&shared);
                return Err(no_thread(error));
            }
        };
        let follows = shared.clone();
        let follow = match thread("evoke-index").spawn(move || index::run_guarded(&follows)) {
            Ok(follow) => follow,
            Err(error) => {
                stop(&shared);
                return Err(no_thread(error));
            }
        };
        let sweeps = shared.clone();
        let sweep = match thread("evoke-sweep").spawn(move || sweep::run(&sweeps)) {
            Ok(sweep) => sweep,
            Err(error) => {
                stop(&shared);
                return Err(no_thread(error));
            }
        };
        let running = Mutex::new(vec![writer, upkeep, follow, sweep]);
        let threads = Threads { shared: shared.clone(), running };
        Ok((EmbeddedStore { shared, threads: Arc::new(threads) }, recovered))
    }

    /// Whether this process has held every sealed segment of the journal against its checksums, and kept a summary of it
    /// where that can be. Damage under a summary is not seen when a store is opened, but by then.
    pub fn is_swept(&self) -> bool {
        sweep::is_done(&self.shared.core())
    }

    async fn shut(&self) -> Result<(), StoreError> {
        let (waiter, receiver) = oneshot::channel();
        {
            let mut core = self.shared.core();
            if core.stopped {
                return core.failed.clone().map_or(Ok(()), Err);
            }
            core.on_stop.push(waiter);
        }
        stop(&self.shared);
        let result = self.shared.answer(receiver).await;
        let threads = self.threads.clone();
        bodies::blocking(move || threads.join()).await?;
        result
    }
}

fn stop(shared: &Shared) {
    let mut core = shared.core();
    // What is being delivered goes back: a close in order interrupts nothing.
    if !core.closing {
        shared.release_leased(&mut core);
    }
    core.closing = true;
    core.rest = store::Rest::No;
    shared.work.notify_all();
    shared.upkeep.notify_all();
    shared.follow.notify_all();
    shared.sweep.notify_all();
    shared.ready.notify_one();
}

#[derive(Debug)]
struct Threads {
    shared: Arc<Shared>,
    running: Mutex<Vec<JoinHandle<()>>>,
}

impl Threads {
    /// Waits for all of them and gives the directory up.
    fn join(&self) {
        let running = std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in running {
            // A panic of theirs was logged where it happened.
            let _ = thread.join();
        }
        *self.shared.lock.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        stop(&self.shared);
        self.join();
    }
}
