//! The embedded engine means the ports as every engine does.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use broker_model::Ledger;
use broker_store_embedded::{DedupOptions, EmbeddedStore, File, Files, Lock, Options, OsFiles};
use tempfile::TempDir;
use testkit::contract::store::Engine;
use testkit::reference::Bounds;
use testkit::time::TestClock;

/// A store on real files, with segments of this size.
struct Embedded<const SEGMENT: u64> {
    directory: TempDir,
    options: Options,
    clock: Arc<TestClock>,
    killed: Arc<AtomicBool>,
}

impl<const SEGMENT: u64> Engine for Embedded<SEGMENT> {
    type Store = EmbeddedStore;

    async fn prepare(bounds: Bounds, clock: Arc<TestClock>) -> Self {
        let directory = tempfile::tempdir().expect("the temporary directory has room");
        let options = Options {
            segment_bytes: SEGMENT,
            min_free: 0,
            waiting: bounds.waiting,
            dedup: DedupOptions { window: bounds.dedup_window, ..Options::new("").dedup },
            // Small enough for a spool that is not given back to be missed.
            spool_bytes: 80 << 20,
            lock_wait: Duration::ZERO,
            ..Options::new(directory.path().join("data"))
        };
        Embedded { directory, options, clock, killed: Arc::default() }
    }

    async fn open(&mut self) -> Arc<EmbeddedStore> {
        assert!(self.directory.path().exists());
        self.killed = Arc::default();
        let files = Arc::new(MortalFiles { killed: self.killed.clone() });
        let (store, recovered) = EmbeddedStore::open(self.options.clone(), files, self.clock.clone())
            .unwrap_or_else(|error| panic!("the store does not open: {error}"));
        assert_eq!(store.health().damaged, 0, "nothing was damaged: {recovered:?}");
        Arc::new(store)
    }

    async fn kill(&mut self, store: Arc<EmbeddedStore>) {
        self.killed.store(true, Ordering::SeqCst);
        drop(store);
    }
}

testkit::store_contract!(Embedded<{ 1 << 20 }>);
// Small, so that a short story is one of many segments.
testkit::store_agreement!(Embedded<{ 16 << 10 }>, cases: 100);

/// The files of this machine, in the hands of a process that can be killed: from then on none of its calls reaches them.
///
/// What was written before stays, synced or not, as the page cache outlives a process.
#[derive(Debug)]
struct MortalFiles {
    killed: Arc<AtomicBool>,
}

#[derive(Debug)]
struct MortalFile {
    file: Arc<dyn File>,
    killed: Arc<AtomicBool>,
}

fn alive(killed: &AtomicBool) -> io::Result<()> {
    if killed.load(Ordering::SeqCst) { Err(io::Error::other("the process was killed")) } else { Ok(()) }
}

impl MortalFiles {
    fn mortal(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(MortalFile { file, killed: self.killed.clone() })
    }
}

impl Files for MortalFiles {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        alive(&self.killed)?;
        OsFiles.create_dir(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Lock>> {
        alive(&self.killed)?;
        OsFiles.lock(path)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        alive(&self.killed)?;
        OsFiles.create(path).map(|file| self.mortal(file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        alive(&self.killed)?;
        OsFiles.open(path).map(|file| self.mortal(file))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        alive(&self.killed)?;
        OsFiles.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        alive(&self.killed)?;
        OsFiles.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        alive(&self.killed)?;
        OsFiles.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        alive(&self.killed)?;
        OsFiles.sync_dir(dir)
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        alive(&self.killed)?;
        OsFiles.free_space(dir)
    }
}

impl File for MortalFile {
    fn len(&self) -> io::Result<u64> {
        alive(&self.killed)?;
        self.file.len()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        alive(&self.killed)?;
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        alive(&self.killed)?;
        self.file.write_at(bytes, offset)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        alive(&self.killed)?;
        self.file.allocate(len)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        alive(&self.killed)?;
        self.file.truncate(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        alive(&self.killed)?;
        self.file.sync_data()
    }
}
