//! A disk in memory that can lose what was not synced, tear it, fail a sync, or be full.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use broker_store_embedded::{File, Files, Lock};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

#[derive(Debug, Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Write(at, new) => {
                if bytes.len() < at + new.len() {
                    bytes.resize(at + new.len(), 0);
                }
                bytes[*at..at + new.len()].copy_from_slice(new);
            }
            Change::Length(len) => bytes.resize(*len, 0),
        }
    }
}

#[derive(Debug, Default)]
struct Content {
    /// What the page cache shows.
    shown: Vec<u8>,
    /// What the disk holds.
    held: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Debug, Default)]
struct Disk {
    names: BTreeMap<PathBuf, u64>,
    held_names: BTreeMap<PathBuf, u64>,
    contents: HashMap<u64, Content>,
    next: u64,
    locked: HashSet<PathBuf>,
    /// Changes until the power goes.
    until_cut: Option<u64>,
    off: bool,
    failing_syncs: u64,
    capacity: u64,
}

/// The disk.
#[derive(Debug, Clone)]
pub(crate) struct SimFiles(Arc<Mutex<Disk>>);

impl SimFiles {
    pub(crate) fn new() -> Self {
        SimFiles(Arc::new(Mutex::new(Disk { capacity: u64::MAX, ..Disk::default() })))
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().expect("no test panics under the lock")
    }

    /// Lets the power go after this many more changes.
    pub(crate) fn cut_after(&self, changes: u64) {
        self.disk().until_cut = Some(changes);
    }

    /// Lets the next sync of a file fail, and what it was for be lost.
    pub(crate) fn fail_next_sync(&self) {
        self.disk().failing_syncs = 1;
    }

    pub(crate) fn set_capacity(&self, bytes: u64) {
        self.disk().capacity = bytes;
    }

    /// The power comes back: of every unsynced change some is there, some is not, some is in part.
    pub(crate) fn reboot(&self, seed: u64) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut disk = self.disk();
        let disk = &mut *disk;
        // Odd seeds lose everything that was not synced, the plain case.
        let plain = seed % 2 == 1;
        for content in disk.contents.values_mut() {
            for change in std::mem::take(&mut content.unsynced) {
                match (plain, random.random_range(0..3), change) {
                    (true, _, _) | (_, 0, _) => {}
                    (_, 1, Change::Write(at, mut new)) => {
                        // Whole sectors of a write reach the disk, in any order.
                        let (from, to) = {
                            let (a, b) =
                                (random.random_range(0..=new.len()), random.random_range(0..=new.len()));
                            (a.min(b), a.max(b))
                        };
                        new.truncate(to);
                        Change::Write(at + from, new.split_off(from)).apply(&mut content.held);
                    }
                    (_, _, change) => change.apply(&mut content.held),
                }
            }
            content.shown.clone_from(&content.held);
        }
        if !plain {
            for (name, file) in &disk.names {
                if random.random_bool(0.5) {
                    disk.held_names.entry(name.clone()).or_insert(*file);
                }
            }
        }
        disk.names.clone_from(&disk.held_names);
        disk.off = false;
        disk.until_cut = None;
        disk.locked.clear();
    }
}

impl Disk {
    /// Counts a change; an error once the power is off.
    fn change(&mut self) -> io::Result<()> {
        if let Some(left) = self.until_cut.as_mut() {
            if *left == 0 {
                self.off = true;
            } else {
                *left -= 1;
            }
        }
        self.on()
    }

    fn on(&self) -> io::Result<()> {
        if self.off { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }

    fn used(&self) -> u64 {
        self.names.values().map(|file| self.contents[file].shown.len() as u64).sum()
    }
}

impl Files for SimFiles {
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        self.disk().on()
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Lock>> {
        let mut disk = self.disk();
        disk.on()?;
        if !disk.locked.insert(path.to_owned()) {
            return Ok(None);
        }
        Ok(Some(Box::new(SimLock(self.clone(), path.to_owned()))))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut disk = self.disk();
        disk.change()?;
        let file = disk.next;
        disk.next += 1;
        disk.contents.insert(file, Content::default());
        disk.names.insert(path.to_owned(), file);
        Ok(Arc::new(SimFile(self.clone(), file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let disk = self.disk();
        disk.on()?;
        let file = *disk.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimFile(self.clone(), file)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let disk = self.disk();
        disk.on()?;
        let inside = disk.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.map(|path| path.file_name().expect("a file").to_string_lossy().into_owned()).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.change()?;
        let file = disk.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        disk.names.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.change()?;
        disk.names.remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        disk.change()?;
        let disk = &mut *disk;
        disk.held_names.retain(|path, _| path.parent() != Some(dir));
        let inside = disk.names.iter().filter(|(path, _)| path.parent() == Some(dir));
        disk.held_names.extend(inside.map(|(path, file)| (path.clone(), *file)));
        Ok(())
    }

    fn free_space(&self, _: &Path) -> io::Result<u64> {
        let disk = self.disk();
        Ok(disk.capacity.saturating_sub(disk.used()))
    }
}

struct SimLock(SimFiles, PathBuf);

impl Drop for SimLock {
    fn drop(&mut self) {
        self.0.disk().locked.remove(&self.1);
    }
}

#[derive(Debug)]
struct SimFile(SimFiles, u64);

impl SimFile {
    fn make(&self, change: Change) -> io::Result<()> {
        let mut disk = self.0.disk();
        disk.change()?;
        let content = disk.contents.get_mut(&self.1).expect("contents stay");
        change.apply(&mut content.shown);
        content.unsynced.push(change);
        Ok(())
    }
}

impl File for SimFile {
    fn len(&self) -> io::Result<u64> {
        let disk = self.0.disk();
        disk.on()?;
        Ok(disk.contents[&self.1].shown.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let disk = self.0.disk();
        disk.on()?;
        let shown = &disk.contents[&self.1].shown;
        let from = (offset as usize).min(shown.len());
        let n = buffer.len().min(shown.len() - from);
        buffer[..n].copy_from_slice(&shown[from..from + n]);
        Ok(n)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.make(Change::Write(offset as usize, bytes.to_vec()))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        {
            let disk = self.0.disk();
            let now = disk.contents[&self.1].shown.len() as u64;
            if disk.used().saturating_add(len.saturating_sub(now)) > disk.capacity {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        self.make(Change::Length(len as usize))
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.make(Change::Length(len as usize))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.0.disk();
        disk.change()?;
        let disk = &mut *disk;
        let content = disk.contents.get_mut(&self.1).expect("contents stay");
        let changes = std::mem::take(&mut content.unsynced);
        // One that has bytes to lose: allocating ahead goes on behind every test's back.
        let fails =
            disk.failing_syncs > 0 && changes.iter().any(|change| matches!(change, Change::Write(..)));
        disk.failing_syncs -= u64::from(fails);
        if fails {
            // As Linux does it: the pages count as clean, the cache shows them, the disk never gets them.
            return Err(io::Error::other("input/output error"));
        }
        for change in changes {
            change.apply(&mut content.held);
        }
        Ok(())
    }
}
