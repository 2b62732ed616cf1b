//! What a lane reads ahead when one of its calls has to come from disk, and the bounds of it.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use broker_model::InvocationQueue;
use broker_store_embedded::{EmbeddedStore, File, Files, Lock, Options, OsFiles};
use tempfile::TempDir;

use crate::kit::*;

/// At most so many records, and of so many bytes but for the last, are read ahead.
const RECORDS: u64 = 256;
const BYTES: u64 = 1 << 20;

#[test]
fn small_records_are_read_256_ahead_and_none_of_them_twice() {
    one_reader(async {
        let (store, reads, _dir) = cold(600, 1000).await;

        reads.start();
        for _ in 0..600 {
            assert_eq!(store.lease(&[(lane("env"), 1)]).await.unwrap().len(), 1);
            reads.are_over().await;
        }

        let Seen { bytes, largest, times } = reads.end();
        assert!(largest <= RECORDS * 1400, "one read of {largest} bytes");
        assert!((3..=6).contains(&times), "{times} reads of 600 records");
        assert!(bytes <= 600 * 1400, "{bytes} bytes for 600 records");
    });
}

#[test]
fn what_runs_out_is_read_again_before_somebody_needs_it() {
    one_reader(async {
        let (store, reads, _dir) = cold(1000, 1000).await;
        let lease = async |n: usize| assert_eq!(store.lease(&[(lane("env"), n)]).await.unwrap().len(), n);
        lease(1).await;
        for _ in 0..4 {
            reads.start();
            // Half of what is in memory goes. The disk does not answer meanwhile, and nobody waits for it.
            reads.hold();
            for _ in 0..RECORDS / 2 {
                lease(1).await;
            }
            reads.go_on();
            reads.are_over().await;
            let Seen { bytes, times, .. } = reads.end();
            assert!(bytes > 0 && times <= 2, "{bytes} bytes in {times} reads");
        }
    });
}

#[test]
fn large_records_are_read_ahead_up_to_a_mebibyte_and_one() {
    one_reader(async {
        const BODY: usize = 200 << 10;
        let (store, reads, _dir) = cold(24, BODY).await;

        let (mut all, mut most) = (0, 0);
        for _ in 0..24 {
            reads.start();
            assert_eq!(store.lease(&[(lane("env"), 1)]).await.unwrap().len(), 1);

            reads.are_over().await;
            let Seen { bytes, largest, .. } = reads.end();
            // The one that was asked for, and those ahead of it.
            assert!(bytes <= BYTES + 2 * (BODY as u64 + 8192), "{bytes} bytes for one lease");
            assert!(largest <= BYTES + BODY as u64 + 4096, "one read of {largest} bytes");
            all += bytes;
            most = most.max(bytes);
        }
        assert!(all <= 26 * (BODY as u64 + 8192), "{all} bytes: some were read twice");
        assert!(most > BYTES, "{most} bytes at the most: hardly anything was read ahead");
    });
}

#[tokio::test]
async fn what_is_kept_of_it_is_bounded_over_all_lanes() {
    const LANES: usize = 12;
    let (dir, clock) = (TempDir::new().unwrap(), HandClock::new());
    let names: Vec<String> = (0..LANES).map(|n| format!("f{n}")).collect();
    let options = Options { segment_bytes: 1 << 20, fresh_bytes: 512 << 10, ..options(dir.path()) };
    let (store, _) = open(options.clone(), &clock);
    for n in 0..LANES * 40 {
        accept(&store, call(&names[n % LANES], vec![7; 4000])).await;
    }
    store.close().await.unwrap();
    drop(store);
    let reads = Arc::new(Reads::default());
    let files = Arc::new(MeteredFiles(reads.clone()));
    let (store, _) = EmbeddedStore::open(options, files, clock).unwrap();

    // Each lane reads all of its 40 ahead, 160 KiB; of all twelve a quarter can be kept.
    let each: Vec<_> = names.iter().map(|name| (lane(name), 1)).collect();
    assert_eq!(store.lease(&each).await.unwrap().len(), LANES);
    let mut from_disk = 0;
    for name in &names {
        reads.start();
        assert_eq!(store.lease(&[(lane(name), 1)]).await.unwrap().len(), 1);
        from_disk += usize::from(reads.end().bytes > 0);
    }

    assert!(from_disk >= LANES / 2, "{} of {LANES} lanes kept what is not theirs to keep", LANES - from_disk);
    for name in &names {
        assert_eq!(drain(&store, name).await, 38, "what was not kept is read again");
    }
}

/// Runs a test whose reads are done by one thread, in their order, so that it can be told when they are over.
fn one_reader(test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().max_blocking_threads(1).build().unwrap().block_on(test);
}

/// A store with these calls of one lane waiting, none of them in memory.
async fn cold(count: usize, body: usize) -> (EmbeddedStore, Arc<Reads>, TempDir) {
    let (dir, clock) = (TempDir::new().unwrap(), HandClock::new());
    let options = Options { segment_bytes: 8 << 20, ..options(dir.path()) };
    let (store, _) = open(options.clone(), &clock);
    for _ in 0..count {
        accept(&store, call("env", vec![7; body])).await;
    }
    store.close().await.unwrap();
    drop(store);
    let reads = Arc::new(Reads::default());
    let (store, _) = EmbeddedStore::open(options, Arc::new(MeteredFiles(reads.clone())), clock).unwrap();
    eventually(|| store.is_swept()).await;
    (store, reads, dir)
}

/// What is read of the journal.
#[derive(Debug, Default)]
struct Reads {
    seen: Mutex<Seen>,
    held: Mutex<bool>,
    goes_on: Condvar,
}

/// Since it was last asked.
#[derive(Debug, Default)]
struct Seen {
    bytes: u64,
    largest: u64,
    times: u64,
}

impl Reads {
    fn start(&self) {
        self.end();
    }

    fn end(&self) -> Seen {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    /// From here on reads wait.
    fn hold(&self) {
        *self.held.lock().unwrap() = true;
    }

    fn go_on(&self) {
        *self.held.lock().unwrap() = false;
        self.goes_on.notify_all();
    }

    /// Waits for what is read in the background; see [`one_reader`].
    async fn are_over(&self) {
        tokio::task::spawn_blocking(|| ()).await.unwrap();
    }

    fn read(&self, bytes: u64) {
        let held = self.held.lock().unwrap();
        drop(self.goes_on.wait_while(held, |held| *held).unwrap());
        let mut seen = self.seen.lock().unwrap();
        seen.bytes += bytes;
        seen.largest = seen.largest.max(bytes);
        seen.times += 1;
    }
}

#[derive(Debug)]
struct MeteredFiles(Arc<Reads>);

#[derive(Debug)]
struct MeteredFile(Arc<dyn File>, Arc<Reads>);

impl MeteredFiles {
    fn file(&self, path: &Path, file: Arc<dyn File>) -> Arc<dyn File> {
        let is_segment = path.extension().is_some_and(|extension| extension == "seg");
        if is_segment { Arc::new(MeteredFile(file, self.0.clone())) } else { file }
    }
}

impl File for MeteredFile {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.1.read(buffer.len() as u64);
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(bytes, offset)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.0.allocate(len)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.truncate(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

impl Files for MeteredFiles {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        OsFiles.create_dir(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Lock>> {
        OsFiles.lock(path)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(self.file(path, OsFiles.create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(self.file(path, OsFiles.open(path)?))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        OsFiles.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsFiles.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        OsFiles.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        OsFiles.sync_dir(dir)
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        OsFiles.free_space(dir)
    }
}
