//! The index: dead letters by number, time and function, in a map on disk, so that memory keeps only where they stand.
//!
//! It is written behind the journal, in the journal's order and only what is durable, with the number of the last
//! record it has applied in the same batch. It holds nothing that the journal does not say, so doubt is cheap: whatever
//! cannot be opened, read, written or believed is removed and made again. Until a dead letter is written here its
//! details stay in memory, so that every list is complete at every moment but one: while the journal is read again
//! because an index in use turned out bad.
//!
//! This is the only file that knows sled. Keys, all numbers big endian:
//! * `d` number: everything known of a dead letter that its records are found by;
//! * `t` moment of death, number: its reason;
//! * `f` function, moment of death, number: the same;
//! * `m`: what is applied, how many dead letters there are, and a checksum over all keys and values.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;

use broker_model::FunctionName;
use broker_model::attempt::Class;

use crate::codec::{Malformed, Put, Take};
use crate::files::Files;
use crate::open;
use crate::record;
use crate::segment;
use crate::space;
use crate::state::{AttemptAt, Extra, State};
use crate::store::{Core, Shared};
use crate::table::Place;

/// It counts bytes as they stand on disk; in memory they take about four times as much.
const CACHE: u64 = 1 << 20;
const FLUSH_MS: u64 = 500;
/// The most changes of one batch.
const BATCH: usize = 2048;
/// How long an index that failed is left alone; memory has everything meanwhile.
const REST: Duration = Duration::from_secs(10);
const META: &[u8] = b"m";
const VERSION: u8 = 1;
/// What a reader needs to know of how the last process left the index.
const MARK: &str = "index.mark";

/// Why the index is not believed any more.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Doubt(String);

impl From<sled::Error> for Doubt {
    fn from(error: sled::Error) -> Self {
        Doubt(error.to_string())
    }
}

impl From<Malformed> for Doubt {
    fn from(error: Malformed) -> Self {
        Doubt(error.to_string())
    }
}

/// A dead letter's place in a list: moment of death and number.
pub(crate) type Key = (u64, u64);

/// What happened to a dead letter, in the journal's order.
#[derive(Debug)]
pub(crate) struct Change {
    /// The record that says so.
    pub(crate) journal: u64,
    pub(crate) number: u64,
    /// What stands in the index from here on; `None` when it is a dead letter no more.
    pub(crate) row: Option<Box<[u8]>>,
}

/// Before every dead letter.
const FROM: Key = (0, 0);

/// What the index says of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    /// The journal number up to which it is complete.
    pub(crate) applied: u64,
    /// Dead letters in it.
    pub(crate) count: u64,
    sum: u32,
}

/// How far the index is.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// It is not believed: what only it knew has to be read from the journal again.
    pub(crate) doubted: bool,
    /// Segments read again so far, and of how many.
    pub(crate) reread: (u64, u64),
    /// It is being filled from memory; everything up to here is in it.
    walk: Option<Key>,
    /// It is as complete as it says.
    complete: bool,
    /// It has yet to say so.
    unsaid: bool,
}

impl Progress {
    /// `kept` is whether the index was taken as it was; a `doubted` one is replaced first.
    pub(crate) fn new(kept: bool, doubted: bool) -> Self {
        Progress {
            doubted,
            reread: (0, 0),
            walk: (!kept).then_some(FROM),
            complete: kept && !doubted,
            unsaid: false,
        }
    }
}

/// The map on disk. It is made when the first dead letter is written to it.
#[derive(Debug)]
pub(crate) struct Index {
    /// Where; `None` on files that are not this machine's, where it lasts as long as the process.
    dir: Option<PathBuf>,
    open: RwLock<Option<Opened>>,
    /// Held while the journal is read again, and while segments are removed.
    pub(crate) rereading: Mutex<()>,
}

#[derive(Debug)]
struct Opened {
    db: sled::Db,
    meta: Mutex<Meta>,
}

impl Index {
    /// Opens what the last process left if it can be believed so far, removes it otherwise. What it says of itself has
    /// still to be held against the journal.
    pub(crate) fn open(files: &dyn Files, path: &Path) -> (Index, Option<Meta>) {
        let dir = files.native(&path.join("index"));
        let index = Index { dir, open: RwLock::new(None), rereading: Mutex::new(()) };
        let Some(dir) = index.dir.clone() else { return (index, None) };
        let boot = boot_id();
        let mark = read_mark(files, path);
        let mut kept = None;
        if dir.exists() {
            match Self::take_over(&dir, mark.as_deref(), boot.as_deref()) {
                Ok((opened, meta)) => {
                    *index.open.write().unwrap_or_else(PoisonError::into_inner) = Some(opened);
                    kept = Some(meta);
                }
                Err(Doubt(why)) => {
                    tracing::warn!(path = %dir.display(), why, "the index of dead letters is not taken over: it is made again");
                    index.remove();
                }
            }
        }
        // From here on it is in use: only the same boot may believe it without a close in order.
        let used = format!("boot {}\n", boot.as_deref().unwrap_or("unknown"));
        if mark.as_deref() != Some(used.trim())
            && let Err(error) = open::replace(files, path, MARK, &used)
        {
            tracing::warn!(%error, "cannot note that the index is in use: it is kept in memory");
            index.remove();
            return (Index { dir: None, ..index }, None);
        }
        (index, kept)
    }

    fn take_over(dir: &Path, mark: Option<&str>, boot: Option<&str>) -> Result<(Opened, Meta), Doubt> {
        let clean = match mark.and_then(|mark| mark.split_once(' ')) {
            Some(("clean", applied)) => Some(applied),
            Some(("boot", then)) if Some(then) == boot => None,
            _ => return Err(Doubt("the machine went down without a close in order".into())),
        };
        guarded(|| {
            let db = open_db(Some(dir))?;
            let found = db.get(META)?.ok_or_else(|| Doubt("it was never complete".into()))?;
            let meta = read_meta(&found)?;
            if clean.is_some_and(|applied| applied != meta.applied.to_string()) {
                return Err(Doubt("it is not the one that was closed".into()));
            }
            if clean.is_some() {
                return Ok((Opened { db, meta: Mutex::new(meta) }, meta));
            }
            // Its own checksums cover pages, not whether all pages are of one moment.
            let (mut count, mut sum) = (0, 0);
            for pair in db.iter() {
                let (key, value) = pair?;
                if &*key != META {
                    count += u64::from(key.first() == Some(&b'd'));
                    sum ^= checksum(&key, &value);
                }
            }
            if (count, sum) != (meta.count, meta.sum) {
                return Err(Doubt("its content is not what it was".into()));
            }
            Ok((Opened { db, meta: Mutex::new(meta) }, meta))
        })
    }

    /// Closes it if it is open and removes it from the disk. Whether nothing is left.
    fn remove(&self) -> bool {
        let opened = self.open.write().unwrap_or_else(PoisonError::into_inner).take();
        // It may panic on its way out as well.
        let _ = guarded(|| {
            drop(opened);
            Ok(())
        });
        let Some(dir) = &self.dir else { return true };
        match std::fs::remove_dir_all(dir).or_else(|_| std::fs::remove_file(dir)) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => {
                tracing::warn!(%error, path = %dir.display(), "cannot remove an index that is not believed");
                false
            }
        }
    }

    fn reading<T>(&self, read: impl FnOnce(&sled::Db) -> Result<T, Doubt>) -> Result<Option<T>, Doubt> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        match &*open {
            Some(opened) => guarded(|| read(&opened.db)).map(Some),
            None => Ok(None),
        }
    }

    /// Everything known of a dead letter; `None` when it is not here.
    pub(crate) fn row(&self, number: u64) -> Result<Option<Extra>, Doubt> {
        let row = self.reading(|db| Ok(db.get(number_key(number))?))?.flatten();
        Ok(row.map(|row| read_row(&row).map(|(extra, _)| extra)).transpose()?)
    }

    /// Up to `most` dead letters (of a function) that died before `before`, latest first, each with its reason's index.
    pub(crate) fn before(
        &self,
        function: Option<&FunctionName>,
        before: Key,
        most: usize,
    ) -> Result<Vec<(Key, u8)>, Doubt> {
        let prefix = match function {
            Some(function) => [b"f".as_slice(), &function_key(Some(function))].concat(),
            None => b"t".to_vec(),
        };
        let end = timed_key(&prefix, before);
        self.range(prefix, end, |range, found| {
            for pair in range.rev().take(most) {
                found(pair?)?;
            }
            Ok(())
        })
    }

    /// Up to `most` dead letters that died before this moment, earliest first.
    pub(crate) fn oldest(&self, before: u64, most: usize) -> Result<Vec<(Key, u8)>, Doubt> {
        self.range(b"t".to_vec(), timed_key(b"t", (before, 0)), |range, found| {
            for pair in range.take(most) {
                found(pair?)?;
            }
            Ok(())
        })
    }

    fn range(
        &self,
        start: Vec<u8>,
        end: Vec<u8>,
        walk: impl FnOnce(
            sled::Iter,
            &mut dyn FnMut((sled::IVec, sled::IVec)) -> Result<(), Doubt>,
        ) -> Result<(), Doubt>,
    ) -> Result<Vec<(Key, u8)>, Doubt> {
        let found = self.reading(|db| {
            let mut rows = Vec::new();
            walk(db.range(start..end), &mut |(key, value)| {
                let at = key.len().checked_sub(16).ok_or(Malformed)?;
                let take = |from: usize| {
                    key.get(from..from + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes)
                };
                let key = take(at).zip(take(at + 8)).ok_or(Malformed)?;
                rows.push((key, *value.first().ok_or(Malformed)?));
                Ok(())
            })?;
            Ok(rows)
        })?;
        Ok(found.unwrap_or_default())
    }

    /// Writes changes in one batch, with what is applied by them if the index is complete.
    fn apply(&self, changes: &[(u64, Option<Box<[u8]>>)], applied: Option<u64>) -> Result<(), Doubt> {
        self.make_if_needed()?;
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let Some(Opened { db, meta }) = &*open else {
            return Err(Doubt("it was closed".into()));
        };
        let mut meta = meta.lock().unwrap_or_else(PoisonError::into_inner);
        let last: BTreeMap<u64, &Option<Box<[u8]>>> =
            changes.iter().map(|(number, row)| (*number, row)).collect();
        let mut next = *meta;
        guarded(|| {
            let mut batch = sled::Batch::default();
            for (number, row) in last {
                let old = db.get(number_key(number))?;
                if old.as_deref() == row.as_deref() {
                    continue;
                }
                if let Some(old) = &old {
                    for (key, value) in pairs(number, old)? {
                        next.sum ^= checksum(&key, &value);
                        batch.remove(key);
                    }
                    next.count -= 1;
                }
                if let Some(row) = row {
                    for (key, value) in pairs(number, row)? {
                        next.sum ^= checksum(&key, &value);
                        batch.insert(key, value);
                    }
                    next.count += 1;
                }
            }
            if let Some(applied) = applied {
                next.applied = applied;
                batch.insert(META, write_meta(&next));
            }
            Ok(db.apply_batch(batch)?)
        })?;
        *meta = next;
        Ok(())
    }

    fn make_if_needed(&self) -> Result<(), Doubt> {
        if self.open.read().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Ok(());
        }
        let db = guarded(|| open_db(self.dir.as_deref()))?;
        let opened = Opened { db, meta: Mutex::default() };
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = Some(opened);
        Ok(())
    }

    /// Writes out what it has and lets go of it. What it has applied, if that is on disk now.
    fn close(&self) -> Result<Option<Meta>, Doubt> {
        let Some(Opened { db, meta }) = self.open.write().unwrap_or_else(PoisonError::into_inner).take()
        else {
            return Ok(None);
        };
        guarded(|| {
            let flushed = db.flush();
            drop(db);
            flushed?;
            Ok(())
        })?;
        let Some(dir) = &self.dir else { return Ok(None) };
        // Its own flush does not reach the disk's cache, nor what files are there.
        sync_all(dir).map_err(|error| Doubt(error.to_string()))?;
        Ok(Some(meta.into_inner().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// Runs what calls into the map: a panic of its is a doubt like any error.
fn guarded<T>(work: impl FnOnce() -> Result<T, Doubt>) -> Result<T, Doubt> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(Doubt("it panicked".into())))
}

fn open_db(dir: Option<&Path>) -> Result<sled::Db, Doubt> {
    let config = sled::Config::new().cache_capacity(CACHE).flush_every_ms(Some(FLUSH_MS));
    let config = match dir {
        Some(dir) => config.path(dir),
        None => config.temporary(true),
    };
    let began = Instant::now();
    loop {
        match config.open() {
            // Threads of the one closed last in this process may hold its lock for a moment.
            Err(sled::Error::Io(error))
                if error.to_string().contains("acquire lock") && began.elapsed() < Duration::from_secs(2) =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            opened => return Ok(opened?),
        }
    }
}

fn sync_all(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_all(&entry.path())?;
        } else {
            std::fs::File::open(entry.path())?.sync_all()?;
        }
    }
    std::fs::File::open(dir)?.sync_all()
}

/// What tells one run of the machine from another; `None` where nothing does.
fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}

fn read_mark(files: &dyn Files, path: &Path) -> Option<String> {
    let file = files.open(&path.join(MARK)).ok()?;
    let mut bytes = vec![0; 128];
    let read = file.read_at(&mut bytes, 0).ok()?;
    bytes.truncate(read);
    Some(String::from_utf8(bytes).ok()?.trim().to_owned())
}

// ---- Keys and rows ----

fn number_key(number: u64) -> [u8; 9] {
    let mut key = [b'd'; 9];
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}

fn timed_key(prefix: &[u8], (at, number): Key) -> Vec<u8> {
    [prefix, &at.to_be_bytes(), &number.to_be_bytes()].concat()
}

/// A name cannot hold a zero, so that no function's keys lie among another's.
fn function_key(function: Option<&FunctionName>) -> Vec<u8> {
    match function {
        Some(function) => [function.name().as_bytes(), &[0], function.namespace().as_bytes(), &[0]].concat(),
        None => Vec::new(),
    }
}

/// A key and its value.
type Pair = (Vec<u8>, Vec<u8>);

/// Everything that stands in the map for one dead letter.
fn pairs(number: u64, row: &[u8]) -> Result<Vec<Pair>, Malformed> {
    let (extra, function) = read_row(row)?;
    let at = (extra.ended_at, number);
    let mut pairs =
        vec![(number_key(number).to_vec(), row.to_vec()), (timed_key(b"t", at), vec![extra.reason])];
    if !function.is_empty() {
        pairs.push((timed_key(&[b"f".as_slice(), &function].concat(), at), vec![extra.reason]));
    }
    Ok(pairs)
}

fn checksum(key: &[u8], value: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), value)
}

/// What the index keeps of a dead letter.
pub(crate) fn write_row(extra: &Extra, function: Option<&FunctionName>) -> Box<[u8]> {
    let mut put = Put::with_capacity(64);
    put.var(extra.ended_at);
    put.u8(extra.reason);
    put.bytes(&function_key(function));
    put.var(u64::from(extra.lives_before));
    put.var(extra.life_began);
    put.var(u64::from(extra.interrupted));
    let end = extra.end.unwrap_or(Place::PENDING);
    put_place(&mut put, end);
    put.var(extra.attempts.len() as u64);
    for attempt in &extra.attempts {
        put_place(&mut put, attempt.place);
        put.u8(attempt.nth);
        put.u8(attempt.class);
    }
    let dropped = extra.dropped.as_deref();
    let counted = || dropped.into_iter().flatten().enumerate().filter(|(_, count)| **count > 0);
    put.var(counted().count() as u64);
    for (class, count) in counted() {
        put.u8(class as u8);
        put.var(u64::from(*count));
    }
    put.0.into()
}

fn put_place(put: &mut Put, place: Place) {
    put.var(u64::from(place.segment));
    put.var(u64::from(place.offset));
}

fn take_place(take: &mut Take) -> Result<Place, Malformed> {
    Ok(Place { segment: take.small()?, offset: take.small()? })
}

fn read_row(row: &[u8]) -> Result<(Extra, Vec<u8>), Malformed> {
    let mut take = Take::new(Bytes::copy_from_slice(row));
    let take = &mut take;
    let (ended_at, reason, function) = (take.var()?, take.u8()?, take.bytes()?.to_vec());
    let (lives_before, life_began, interrupted) = (take.small()?, take.var()?, take.small()?);
    let end = take_place(take)?;
    let count = take.count()?;
    let attempts = (0..count)
        .map(|_| Ok(AttemptAt { place: take_place(take)?, nth: take.u8()?, class: take.u8()? }))
        .collect::<Result<_, Malformed>>()?;
    let mut dropped = None;
    for _ in 0..take.count()? {
        let class = usize::from(take.u8()?);
        let counts: &mut Box<[u32; Class::ALL.len()]> = dropped.get_or_insert_default();
        *counts.get_mut(class).ok_or(Malformed)? = take.small()?;
    }
    let extra = Extra {
        lives_before,
        life_began,
        interrupted,
        attempts,
        dropped,
        ended_at,
        end: Some(end),
        reason,
        ..Extra::default()
    };
    Ok((extra, function))
}

fn write_meta(meta: &Meta) -> Vec<u8> {
    let mut put = Put::default();
    put.u8(VERSION);
    put.u64(meta.applied);
    put.u64(meta.count);
    put.u32(meta.sum);
    put.0
}

fn read_meta(bytes: &[u8]) -> Result<Meta, Doubt> {
    let mut take = Take::new(Bytes::copy_from_slice(bytes));
    if take.u8()? != VERSION {
        return Err(Doubt("another version wrote it".into()));
    }
    Ok(Meta { applied: take.u64()?, count: take.u64()?, sum: take.u32()? })
}

// ---- Following the journal ----

/// What is written next.
struct Round {
    changes: Vec<(u64, Option<Box<[u8]>>)>,
    /// The journal number these bring it to.
    applied: u64,
    /// The fill from memory is over with these.
    filled: bool,
}

/// Follows the journal until the store stops. A panic is a fault of ours, and only doubt here.
pub(crate) fn run_guarded(shared: &Shared) {
    if catch_unwind(AssertUnwindSafe(|| run(shared))).is_err() {
        doubt(shared, &Doubt("what writes it panicked".into()));
    }
}

fn run(shared: &Shared) {
    let mut rest: Option<Instant> = None;
    loop {
        let mut core = shared.core();
        if core.state.lagging {
            drop(core);
            doubt(shared, &Doubt("it is too far behind the journal".into()));
            continue;
        }
        if core.index.doubted {
            if core.stopped {
                break;
            }
            if core.closing || rest.is_some_and(|since| since.elapsed() < REST) {
                drop(wait(shared, core));
                continue;
            }
            rest = Some(Instant::now());
            drop(core);
            make_again(shared);
            continue;
        }
        // A fill that is not over when the store stops is not waited for: it begins anew at the next start.
        if core.stopped && (core.failed.is_some() || core.index.walk.is_some()) {
            break;
        }
        let Some(round) = next_round(&mut core) else {
            if core.stopped {
                break;
            }
            drop(wait(shared, core));
            continue;
        };
        let complete = core.index.complete;
        drop(core);
        if let Err(why) = shared.index.apply(&round.changes, complete.then_some(round.applied)) {
            doubt(shared, &why);
            continue;
        }
        let mut core = shared.core();
        for (number, row) in &round.changes {
            if let Some(row) = row {
                core.state.evict(*number, row);
            }
        }
        drop(core);
        if round.filled {
            fill_is_over(shared);
        }
    }
    finish(shared);
}

fn wait<'a>(shared: &'a Shared, core: std::sync::MutexGuard<'a, Core>) -> std::sync::MutexGuard<'a, Core> {
    shared.follow.wait_timeout(core, Duration::from_secs(1)).unwrap_or_else(PoisonError::into_inner).0
}

/// Changes and a piece of the fill, as of one moment: nothing in the queue is older than a row of that piece.
fn next_round(core: &mut Core) -> Option<Round> {
    let state = &mut core.state;
    let most = if core.index.walk.is_some() { usize::MAX } else { BATCH };
    let taken = state.changes.len().min(most);
    let mut changes: Vec<_> =
        state.changes.drain(..taken).map(|change| (change.number, change.row)).collect();
    // A record may have made several changes: it is applied with the last of them.
    let applied = state.changes.front().map_or(state.journal, |next| next.journal - 1);
    let mut filled = false;
    if let Some(cursor) = core.index.walk {
        let piece: Vec<Key> =
            state.dead.range((Bound::Excluded(cursor), Bound::Unbounded)).take(BATCH).copied().collect();
        filled = piece.len() < BATCH;
        core.index.walk = Some(piece.last().copied().unwrap_or(cursor));
        // What is on its way to disk comes by the queue when it is there.
        changes.extend(piece.iter().filter_map(|&(_, number)| Some((number, Some(state.row(number)?)))));
        if filled && changes.is_empty() && cursor == FROM {
            core.index.walk = None;
            // There is no map yet, and what comes from here on is all there will be.
            core.index.complete = true;
            return None;
        }
    }
    let said = std::mem::take(&mut core.index.unsaid);
    (filled || said || !changes.is_empty()).then_some(Round { changes, applied, filled })
}

/// Says that the index is complete, once everything it was filled from is durable.
fn fill_is_over(shared: &Shared) {
    // Removals that were asked for before the fill looked are in the queue after this.
    let durable = space::settled_so_far(shared);
    let mut core = shared.core();
    // On the way to a close the journal's last word is waited for instead.
    if durable || core.closing && core.failed.is_none() {
        core.index.complete = durable;
        core.index.unsaid = durable;
        core.index.walk = None;
    } else if core.failed.is_some() {
        // Nothing more becomes durable; it serves as it is and is made again at the next start.
        core.index.walk = None;
    }
}

fn finish(shared: &Shared) {
    let (sound, applied) = {
        let core = shared.core();
        let sound = core.failed.is_none() && !core.index.doubted && core.index.walk.is_none();
        (sound, core.state.journal)
    };
    let opened = shared.index.open.read().unwrap_or_else(PoisonError::into_inner).is_some();
    if !opened {
        return;
    }
    // Everything is durable and applied: the journal's end is what it stands for.
    let closed = if sound { shared.index.apply(&[], Some(applied)) } else { Ok(()) }
        .and_then(|()| shared.index.close());
    match closed {
        Ok(Some(meta)) if sound => {
            let mark = format!("clean {}\n", meta.applied);
            if let Err(error) = open::replace(&*shared.files, &shared.options.path, MARK, &mark) {
                tracing::warn!(%error, "cannot note that the index was closed in order");
            }
        }
        Ok(_) => {}
        Err(why) => {
            tracing::warn!(%why, "the index was not closed in order: it is made again at the next start")
        }
    }
}

/// Believes the index no more: it is made again.
pub(crate) fn doubt(shared: &Shared, why: &Doubt) {
    let mut core = shared.core();
    if core.index.doubted {
        return;
    }
    tracing::error!(path = %shared.options.path.display(), %why, "the index of dead letters is not believed any more: it is made again from the journal");
    core.index.doubted = true;
    core.index.reread = (0, core.state.space.len() as u64);
    core.state.follow(false);
    shared.follow.notify_all();
}

/// Reads a dead letter's details back from the index: they, and what they have to be held against under the lock
/// ([`State::evictions`]). `None` when it has to be looked at anew. Blocks.
pub(crate) fn cold(shared: &Shared, number: u64) -> Option<(u64, Extra)> {
    let seen = shared.core().state.evictions;
    let why = match shared.index.row(number) {
        Ok(Some(extra)) => return Some((seen, extra)),
        Ok(None) => Doubt("a dead letter is missing in it".into()),
        Err(why) => why,
    };
    let missed = {
        let core = shared.core();
        core.state.is_cold(number) && core.state.evictions == seen
    };
    if missed {
        doubt(shared, &why);
        reread(shared);
    }
    None
}

fn make_again(shared: &Shared) {
    if !shared.index.remove() {
        return;
    }
    reread(shared);
    let mut core = shared.core();
    core.state.follow(true);
    core.index = Progress::new(false, false);
}

/// Takes what only the index knew back into memory, from the journal. Blocks.
pub(crate) fn reread(shared: &Shared) {
    let _alone = shared.index.rereading.lock().unwrap_or_else(PoisonError::into_inner);
    let (segments, tag, current) = {
        let mut core = shared.core();
        if core.state.cold() == 0 {
            return;
        }
        let segments: Vec<u32> = core.state.space.keys().copied().collect();
        core.index.reread = (0, segments.len() as u64);
        (segments, core.state.tag(), core.current)
    };
    let now = shared.moment();
    let mut said = State::new(&shared.options, tag);
    let mut expected = 0;
    for segment in segments {
        if let Some(bytes) = space::read_segment(shared, segment) {
            let stated = (segment < current).then_some(bytes.len() as u64);
            segment::scan(&bytes, shared.salt, segment, stated, |found| {
                // A copy of what was read already stands behind the original until that is cut.
                if found.journal < expected {
                    return;
                }
                expected = found.journal + 1;
                if let Ok(record) = record::read(found.kind, found.payload) {
                    said.replay(record, Place { segment, offset: found.offset }, found.size, now);
                }
            });
        }
        shared.core().index.reread.0 += 1;
    }
    let mut details: HashMap<u64, Extra> = std::mem::take(&mut said.extras);
    let mut core = shared.core();
    for (number, place) in core.state.cold_ones() {
        let same = said.table.get(number).is_some_and(|entry| entry.place == place);
        let found = details.remove(&number).filter(|extra| same && extra.end.is_some());
        // Its record went bad since: it stands, and looking at it says so.
        let extra = found.unwrap_or_else(|| Extra { end: Some(place), ..Extra::default() });
        core.state.thaw(number, extra);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extra(at: u64, attempts: u8) -> Extra {
        let attempts = (0..attempts).map(|nth| AttemptAt {
            place: Place { segment: 7, offset: 70_000 + u32::from(nth) },
            nth,
            class: 1,
        });
        let mut dropped = [0; Class::ALL.len()];
        dropped[2] = 9;
        Extra {
            lives_before: 3,
            life_began: 1 << 60,
            interrupted: 2,
            attempts: attempts.collect(),
            dropped: Some(Box::new(dropped)),
            ended_at: at,
            end: Some(Place { segment: 8, offset: 9 }),
            reason: 4,
            ..Extra::default()
        }
    }

    fn memory() -> Index {
        Index { dir: None, open: RwLock::new(None), rereading: Mutex::new(()) }
    }

    fn env(name: &str) -> FunctionName {
        FunctionName::parse(name, "openfaas-fn").unwrap()
    }

    #[test]
    fn a_row_is_read_as_it_was_written() {
        let written = write_row(&extra(5, 20), Some(&env("env")));
        let (read, function) = read_row(&written).unwrap();

        assert_eq!(function, b"env\0openfaas-fn\0");
        assert_eq!((read.life(), read.made(), read.end), (4, 29, Some(Place { segment: 8, offset: 9 })));
        assert_eq!(write_row(&read, Some(&env("env"))), written);
        for cut in 0..written.len() {
            assert!(read_row(&written[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn lists_are_by_time_and_no_function_stands_among_another_ones() {
        let index = memory();
        let row = |at, name| Some(write_row(&extra(at, 1), Some(&env(name))));
        let changes = [(1, row(30, "a")), (2, row(10, "a-b")), (3, row(20, "a")), (4, row(40, "a"))];
        index.apply(&changes, Some(4)).unwrap();
        // One died again, one is gone.
        index.apply(&[(1, None), (1, row(50, "a")), (4, None)], Some(6)).unwrap();

        let keys = |found: Vec<(Key, u8)>| found.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        let end = (u64::MAX, u64::MAX);
        assert_eq!(keys(index.before(None, end, 9).unwrap()), [(50, 1), (20, 3), (10, 2)]);
        assert_eq!(keys(index.before(None, (50, 1), 1).unwrap()), [(20, 3)]);
        assert_eq!(keys(index.before(Some(&env("a")), end, 9).unwrap()), [(50, 1), (20, 3)]);
        assert_eq!(keys(index.before(Some(&env("b")), end, 9).unwrap()), []);
        assert_eq!(keys(index.oldest(50, 9).unwrap()), [(10, 2), (20, 3)]);
        assert_eq!(index.row(4).unwrap().map(|_| ()), None);
        assert_eq!(index.row(3).unwrap().map(|extra| extra.ended_at), Some(20));
    }
}
