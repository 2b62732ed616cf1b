//! The index: dead letters by number, time and function, in a map on disk, so that memory keeps only where they stand.
//!
//! It is written behind the journal, in the journal's order and only what is durable, with the number of the last
//! record it has applied in the same transaction. It holds nothing that the journal does not say, so doubt is cheap:
//! whatever cannot be opened, read, written or believed is removed and made again. Until a dead letter is written here
//! its details stay in memory, so that every list is complete at every moment but one: while the journal is read again
//! because an index in use turned out bad.
//!
//! Nobody waits for it. What it has yet to apply is queued up to a bound; past that the queue is dropped, and the index
//! is brought up to date from what memory knows.

mod map;
mod row;

use std::collections::HashMap;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use broker_model::FunctionName;

use crate::files::Files;
use crate::record;
use crate::segment;
use crate::space;
use crate::state::{Extra, State};
use crate::store::{Core, Shared};
use crate::table::Place;

use map::Map;

pub(crate) use map::{Doubt, Meta};
pub(crate) use row::write as write_row;

/// The most changes of one batch.
const BATCH: usize = 2048;
/// How long an index that failed is left alone before it is made again; memory has everything meanwhile.
const REST: Duration = Duration::from_secs(10);

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

/// How far the index is.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// It is not believed: what only it knew has to be read from the journal again.
    pub(crate) doubted: bool,
    /// Segments read again so far, and of how many.
    pub(crate) reread: (u64, u64),
    /// It is being brought up to date from memory.
    fill: Option<Fill>,
    /// It may hold what is no dead letter any more.
    stale: bool,
    /// It is as complete as it says.
    complete: bool,
    /// It has yet to say so.
    unsaid: bool,
}

/// A walk that ends with an index that has what memory knows, while the journal goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fill {
    /// What memory has is written; everything up to this one is.
    Warm(Key),
    /// What is no dead letter any more is removed; every number below this one was looked at.
    Stale(u64),
}

impl Fill {
    const FROM: Fill = Fill::Warm((0, 0));
}

impl Progress {
    /// `kept` is whether the index was taken as it was; a `doubted` one is replaced first.
    pub(crate) fn new(kept: bool, doubted: bool) -> Self {
        Progress {
            doubted,
            reread: (0, 0),
            fill: (!kept).then_some(Fill::FROM),
            stale: false,
            complete: kept && !doubted,
            unsaid: false,
        }
    }
}

/// The map on disk. It is made when the first dead letter is written to it.
#[derive(Debug)]
pub(crate) struct Index {
    files: Arc<dyn Files>,
    path: PathBuf,
    /// Tells this directory's from another one's.
    identity: u64,
    map: RwLock<Option<Map>>,
    bytes: Arc<AtomicU64>,
    /// Held while the journal is read again, and while segments are removed.
    pub(crate) rereading: Mutex<()>,
}

impl Index {
    /// Opens what the last process left if it can be believed so far, removes it otherwise. What it says of itself has
    /// still to be held against the journal.
    pub(crate) fn open(files: &Arc<dyn Files>, dir: &Path, identity: u64) -> (Index, Option<Meta>) {
        let index = Index {
            files: files.clone(),
            path: dir.join("index"),
            identity,
            map: RwLock::new(None),
            bytes: Arc::default(),
            rereading: Mutex::new(()),
        };
        let opened = match files.open(&index.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return (index, None),
            Err(error) => Err(error.into()),
            Ok(file) => Map::open(file, index.bytes.clone(), identity),
        };
        let meta = match opened {
            Ok(map) => {
                let meta = map.meta();
                *index.map.write().unwrap_or_else(PoisonError::into_inner) = Some(map);
                Some(meta)
            }
            Err(why) => {
                tracing::warn!(path = %index.path.display(), %why, "the index of dead letters is not taken over: it is made again");
                index.remove();
                None
            }
        };
        (index, meta)
    }

    /// Bytes on disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Closes it if it is open and removes it from the disk. Whether nothing is left.
    fn remove(&self) -> bool {
        if let Some(map) = self.map.write().unwrap_or_else(PoisonError::into_inner).take() {
            map.abandon();
        }
        match self.files.remove(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %self.path.display(), "cannot remove an index that is not believed");
                false
            }
            _ => {
                self.bytes.store(0, Ordering::Relaxed);
                true
            }
        }
    }

    /// Asks the map, if there is one: until there is, nothing is in it.
    fn ask<T: Default>(&self, ask: impl FnOnce(&Map) -> Result<T, Doubt>) -> Result<T, Doubt> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).as_ref().map_or_else(|| Ok(T::default()), ask)
    }

    /// Everything known of a dead letter; `None` when it is not here.
    pub(crate) fn row(&self, number: u64) -> Result<Option<Extra>, Doubt> {
        self.ask(|map| map.row(number))
    }

    /// Up to `most` dead letters (of a function) that died before `before`, latest first, each with its reason's index.
    pub(crate) fn before(
        &self,
        function: Option<&FunctionName>,
        before: Key,
        most: usize,
    ) -> Result<Vec<(Key, u8)>, Doubt> {
        self.ask(|map| map.before(function, before, most))
    }

    /// Up to `most` dead letters that died before this moment, earliest first.
    pub(crate) fn oldest(&self, before: u64, most: usize) -> Result<Vec<Key>, Doubt> {
        self.ask(|map| map.oldest(before, most))
    }

    fn apply(&self, changes: &[map::Change], applied: Option<u64>) -> Result<(), Doubt> {
        let is_made = self.map.read().unwrap_or_else(PoisonError::into_inner).is_some();
        if !is_made {
            let map = Map::make(self.files.create(&self.path)?, self.bytes.clone(), self.identity)?;
            *self.map.write().unwrap_or_else(PoisonError::into_inner) = Some(map);
        }
        self.ask(|map| map.apply(changes, applied))
    }

    fn close(&self, applied: Option<u64>) -> Result<(), Doubt> {
        match (self.map.write().unwrap_or_else(PoisonError::into_inner).take(), applied) {
            (Some(map), Some(applied)) => {
                map.close(applied)?;
                // Without its name it would only be made again.
                Ok(self.path.parent().map_or(Ok(()), |dir| self.files.sync_dir(dir))?)
            }
            (Some(map), None) => {
                map.abandon();
                Ok(())
            }
            (None, _) => Ok(()),
        }
    }
}

// ---- Following the journal ----

/// What is written next.
struct Round {
    changes: Vec<map::Change>,
    /// The journal number these bring it to.
    applied: u64,
    /// The fill is over with these.
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
            tracing::warn!(path = %shared.options.path.display(), "the index of dead letters is too far behind the journal: it is brought up to date from memory");
            core.state.follow(true);
            core.index = Progress {
                fill: Some(Fill::FROM),
                stale: true,
                complete: false,
                unsaid: false,
                ..core.index
            };
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
        if core.stopped && (core.failed.is_some() || core.index.fill.is_some()) {
            break;
        }
        let stale = match core.index.fill {
            Some(Fill::Stale(from)) => {
                drop(core);
                let numbers = shared.index.ask(|map| map.numbers(from, BATCH));
                core = shared.core();
                match numbers {
                    Ok(numbers) => numbers,
                    Err(why) => {
                        drop(core);
                        doubt(shared, &why);
                        continue;
                    }
                }
            }
            _ => Vec::new(),
        };
        let Some(round) = next_round(&mut core, &stale) else {
            if core.stopped {
                break;
            }
            drop(wait(shared, core));
            if let Err(why) = shared.index.ask(Map::settle) {
                doubt(shared, &why);
            }
            continue;
        };
        let complete = core.index.complete;
        drop(core);
        // What is removed for good is removed here only when its record is durable, or a crash would bring it back.
        if !stale.is_empty() && !space::settled_so_far(shared) {
            let mut core = shared.core();
            core.index.fill = Some(Fill::FROM);
            core.index.stale = true;
            drop(wait(shared, core));
            continue;
        }
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

fn wait<'a>(shared: &'a Shared, core: MutexGuard<'a, Core>) -> MutexGuard<'a, Core> {
    shared.follow.wait_timeout(core, Duration::from_secs(1)).unwrap_or_else(PoisonError::into_inner).0
}

/// Changes and a piece of the fill, as of one moment: nothing in the queue is older than a row of that piece. `stale`
/// is what the index has next where the fill stands.
fn next_round(core: &mut Core, stale: &[u64]) -> Option<Round> {
    let state = &mut core.state;
    let most = if core.index.fill.is_some() { usize::MAX } else { BATCH };
    let taken = state.changes.len().min(most);
    let mut changes: Vec<_> =
        state.changes.drain(..taken).map(|change| (change.number, change.row)).collect();
    // A record may have made several changes: it is applied with the last of them.
    let applied = state.changes.front().map_or(state.journal, |next| next.journal - 1);
    let mut filled = false;
    match core.index.fill {
        Some(Fill::Warm(cursor)) => {
            let piece: Vec<Key> =
                state.dead.range((Bound::Excluded(cursor), Bound::Unbounded)).take(BATCH).copied().collect();
            // What is on its way to disk comes by the queue when it is there.
            changes.extend(piece.iter().filter_map(|&(_, number)| Some((number, Some(state.row(number)?)))));
            let over = piece.len() < BATCH;
            filled = over && !core.index.stale;
            core.index.fill = Some(match over && core.index.stale {
                true => Fill::Stale(0),
                false => Fill::Warm(piece.last().copied().unwrap_or(cursor)),
            });
            if filled && changes.is_empty() && cursor == (0, 0) {
                core.index.fill = None;
                // There is no map yet, and what comes from here on is all there will be.
                core.index.complete = true;
                return None;
            }
        }
        Some(Fill::Stale(from)) => {
            filled = stale.len() < BATCH;
            core.index.stale = !filled;
            core.index.fill = Some(Fill::Stale(stale.last().map_or(from, |last| last + 1)));
            let is_dead =
                |number: &u64| state.table.get(*number).is_some_and(|entry| entry.phase().is_dead());
            changes.extend(stale.iter().filter(|number| !is_dead(number)).map(|number| (*number, None)));
        }
        None => {}
    }
    let said = std::mem::take(&mut core.index.unsaid);
    (filled || said || core.index.stale || !changes.is_empty()).then_some(Round { changes, applied, filled })
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
        core.index.fill = None;
    } else if core.failed.is_some() {
        // Nothing more becomes durable; it serves as it is and is made again at the next start.
        core.index.fill = None;
    }
}

fn finish(shared: &Shared) {
    let applied = {
        let core = shared.core();
        let sound = core.failed.is_none() && !core.index.doubted && core.index.fill.is_none();
        // Everything is durable and applied: the journal's end is what it stands for.
        sound.then_some(core.state.journal)
    };
    if let Err(why) = shared.index.close(applied) {
        tracing::warn!(%why, "the index was not closed in order: it is made again at the next start");
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
    // First of all the lists are whole again.
    reread(shared);
    if !shared.index.remove() {
        return;
    }
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
    use crate::files::OsFiles;
    use crate::state::{After, Moment};

    fn index(dir: &Path, identity: u64) -> (Index, Option<Meta>) {
        let files: Arc<dyn Files> = Arc::new(OsFiles);
        Index::open(&files, dir, identity)
    }

    fn named(name: &str) -> FunctionName {
        FunctionName::parse(name, "openfaas-fn").unwrap()
    }

    fn row(number: u64, at: u64, name: &str) -> map::Change {
        let end = Some(Place { segment: 8, offset: 9 });
        let extra = Extra { ended_at: at, end, reason: 4, ..Extra::default() };
        (number, Some(write_row(number, &extra, Some(&named(name)))))
    }

    #[test]
    fn lists_are_by_time_and_no_function_stands_among_another_ones() {
        let dir = tempfile::TempDir::new().unwrap();
        let (index, _) = index(dir.path(), 1);
        let changes = [row(1, 30, "a"), row(2, 10, "a-b"), row(3, 20, "a"), row(4, 40, "a")];
        index.apply(&changes, Some(4)).unwrap();
        // One died again, one is gone.
        index.apply(&[(1, None), row(1, 50, "a"), (4, None)], Some(6)).unwrap();

        let keys = |found: Vec<(Key, u8)>| found.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        let end = (u64::MAX, u64::MAX);
        assert_eq!(keys(index.before(None, end, 9).unwrap()), [(50, 1), (20, 3), (10, 2)]);
        assert_eq!(keys(index.before(None, (50, 1), 1).unwrap()), [(20, 3)]);
        assert_eq!(keys(index.before(Some(&named("a")), end, 9).unwrap()), [(50, 1), (20, 3)]);
        assert_eq!(keys(index.before(Some(&named("b")), end, 9).unwrap()), []);
        assert_eq!(index.oldest(50, 9).unwrap(), [(10, 2), (20, 3)]);
        assert_eq!(index.row(4).unwrap().map(|_| ()), None);
        assert_eq!(index.row(3).unwrap().map(|extra| extra.ended_at), Some(20));
        assert_eq!(index.ask(|map| map.numbers(2, 9)).unwrap(), [2, 3]);
    }

    #[test]
    fn no_more_changes_wait_than_there_may_and_one_too_many_drops_them() {
        let options = crate::Options { index_queue: 3, ..crate::Options::new("/none") };
        let mut state = State::new(&options, 0);
        state.follow(true);
        let now = Moment { wall: 0, mono: Duration::ZERO };
        let mut seen = Vec::new();
        for number in 1..=6 {
            state.journal = number;
            let place = Place { segment: 1, offset: 64 };
            state.commit(After::Removed { number }, place, 8, now, &mut Vec::new());
            seen.push((state.changes.len(), state.lagging));
        }
        // Behind that nothing is queued until the index starts over.
        let behind = (0, true);
        assert_eq!(seen, [(1, false), (2, false), (3, false), behind, behind, behind]);
    }

    #[test]
    fn an_index_says_what_it_has_applied_and_is_only_its_own_directorys() {
        let dir = tempfile::TempDir::new().unwrap();
        let (first, found) = index(dir.path(), 7);
        assert_eq!((found, first.bytes()), (None, 0));
        first.apply(&[row(1, 30, "a"), row(2, 10, "a")], Some(4)).unwrap();
        first.close(Some(5)).unwrap();

        let (second, found) = index(dir.path(), 7);
        assert_eq!(found, Some(Meta { identity: 7, applied: 5, count: 2 }));
        assert_eq!(second.bytes(), std::fs::metadata(dir.path().join("index")).unwrap().len());
        second.close(None).unwrap();

        assert_eq!(index(dir.path(), 8).1, None);
        assert!(!dir.path().join("index").exists());
    }
}
