//! What the verbs, the writer and the upkeep share, and the ways they meet.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};

use broker_model::ledger::Refusing;
use broker_model::{Clock, InvocationId, StoreError};

use crate::dedup::Waiter;
use crate::files::{File, Files, Lock};
use crate::index::{Index, Progress};
use crate::options::Options;
use crate::record::{self, BodyFile, Record};
use crate::segment;
use crate::state::{After, Moment, State};
use crate::table::Place;

/// One open store.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) files: Arc<dyn Files>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) salt: u32,
    pub(crate) core: Mutex<Core>,
    /// The writer waits here for something to write.
    pub(crate) work: Condvar,
    /// The upkeep waits here for something to do.
    pub(crate) upkeep: Condvar,
    /// The thread that keeps the index waits here for changes.
    pub(crate) follow: Condvar,
    /// The sweep waits here for sealed segments.
    pub(crate) sweep: Condvar,
    /// Held while damage is looked at and reported, so that each is reported once.
    pub(crate) reporting: Mutex<()>,
    pub(crate) index: Index,
    /// `ready` waits here for lanes.
    pub(crate) ready: Notify,
    handles: Mutex<HashMap<u32, Arc<dyn File>>>,
    /// Held while a segment file is made, so that the writer and the upkeep never make the same one.
    pub(crate) allocating: Mutex<()>,
    pub(crate) lock: Mutex<Option<DirLock>>,
}

/// The directory's lock, held.
pub(crate) struct DirLock(#[allow(dead_code, reason = "held for its drop")] pub(crate) Lock);

impl std::fmt::Debug for DirLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DirLock")
    }
}

/// What changes.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) state: State,
    pub(crate) pending: VecDeque<Pending>,
    /// A lane is being read ahead while nobody waits for it.
    pub(crate) reading_ahead: bool,
    /// How many of them somebody outside waits for.
    pub(crate) urgent: usize,
    /// Drafts among them, which will wait once they are durable.
    pub(crate) pending_drafts: u64,
    pub(crate) rest: Rest,
    pub(crate) index: Progress,
    /// Records asked for so far, and those of them that are durable.
    pub(crate) asked: u64,
    pub(crate) durable: u64,
    pub(crate) failed: Option<StoreError>,
    /// Why nothing new is taken until there is room.
    pub(crate) full: Option<Box<str>>,
    pub(crate) closing: bool,
    pub(crate) stopped: bool,
    pub(crate) on_stop: Vec<oneshot::Sender<Result<(), StoreError>>>,
    /// The segment being written, and how much room its file still has.
    pub(crate) current: u32,
    pub(crate) room: u64,
    /// The next segment, allocated ahead.
    pub(crate) spare: Option<Spare>,
    pub(crate) commits: u64,
    pub(crate) sync_time: Duration,
    /// Bytes of body files.
    pub(crate) body_bytes: u64,
    /// Body files that are nobody's yet: their length, and since when they are whole.
    pub(crate) spooled: HashMap<BodyFile, (u64, Option<Duration>)>,
    pub(crate) body_lengths: HashMap<BodyFile, u64>,
    pub(crate) next_body: u64,
}

/// What the writer does while it does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    /// It works.
    No,
    /// It waits for anything.
    Idle,
    /// It has settlements that wait for company.
    Riding,
}

/// A segment file that is allocated and not begun.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) segment: u32,
    pub(crate) file: Arc<dyn File>,
    pub(crate) len: u64,
}

/// A record on its way to disk.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) kind: u8,
    pub(crate) payload: Vec<u8>,
    pub(crate) after: After,
    pub(crate) waiter: Option<Waiter>,
    pub(crate) urgent: bool,
}

/// Why a record could not be read back.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// Its segment is gone: what lived in it stands elsewhere by now.
    Gone,
    /// It is not what was written.
    Damaged(PathBuf),
    /// The disk did not answer.
    Io(PathBuf, io::Error),
}

impl Shared {
    #[allow(clippy::too_many_arguments, reason = "the parts of one store, named once")]
    pub(crate) fn new(
        options: Options,
        files: Arc<dyn Files>,
        clock: Arc<dyn Clock>,
        salt: u32,
        lock: Lock,
        core: Core,
        index: Index,
    ) -> Self {
        Shared {
            options,
            files,
            clock,
            salt,
            core: Mutex::new(core),
            work: Condvar::new(),
            upkeep: Condvar::new(),
            follow: Condvar::new(),
            sweep: Condvar::new(),
            reporting: Mutex::new(()),
            index,
            ready: Notify::new(),
            handles: Mutex::new(HashMap::new()),
            allocating: Mutex::new(()),
            lock: Mutex::new(Some(DirLock(lock))),
        }
    }

    /// A panic under the lock is a fault of ours that leaves memory in doubt, but the journal is the truth: the writer
    /// marks the store as failed when it finds one, so going on here only serves reads.
    pub(crate) fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn moment(&self) -> Moment {
        Moment { wall: self.clock.now().as_nanos(), mono: self.clock.monotonic() }
    }

    pub(crate) fn journal_dir(&self) -> PathBuf {
        self.options.path.join("journal")
    }

    pub(crate) fn segment_path(&self, segment: u32) -> PathBuf {
        self.journal_dir().join(segment_name(segment))
    }

    pub(crate) fn summaries_dir(&self) -> PathBuf {
        self.options.path.join("summaries")
    }

    pub(crate) fn bodies_dir(&self) -> PathBuf {
        self.options.path.join("bodies")
    }

    pub(crate) fn body_path(&self, file: BodyFile) -> PathBuf {
        self.bodies_dir().join(body_name(file))
    }

    /// Wakes the writer when it sleeps more deeply than this record allows.
    pub(crate) fn wake(&self, core: &mut Core, urgent: bool) {
        if core.rest == Rest::Idle || core.rest == Rest::Riding && urgent {
            core.rest = Rest::No;
            self.work.notify_one();
        }
    }

    /// Hands a record to the writer, in the order of the calls. Resolves the receiver when it is durable.
    pub(crate) fn push(&self, core: &mut Core, pending: Pending) {
        let urgent = pending.urgent;
        if let After::Accepted(new, _) = &pending.after {
            core.pending_drafts += new.acceptance.drafts.len() as u64;
        }
        core.urgent += usize::from(urgent);
        core.asked += 1;
        core.pending.push_back(pending);
        self.wake(core, urgent);
    }

    /// Tells `ready` when lanes gained something.
    pub(crate) fn signal(&self, core: &mut Core) {
        if std::mem::take(&mut core.state.signal) {
            self.ready.notify_one();
        }
    }

    /// What a waiter learns when the writer went without answering it.
    pub(crate) fn last_word(&self) -> StoreError {
        self.core().failed.clone().unwrap_or(StoreError::Closed)
    }

    /// Waits for the answer to a record.
    pub(crate) async fn answer(
        &self,
        receiver: oneshot::Receiver<Result<(), StoreError>>,
    ) -> Result<(), StoreError> {
        match receiver.await {
            Ok(answer) => answer,
            Err(_) => Err(self.last_word()),
        }
    }

    /// Resolves when everything asked for before is durable.
    pub(crate) async fn barrier(&self) -> Result<(), StoreError> {
        let receiver = {
            let mut core = self.core();
            core.check_open()?;
            let (waiter, receiver) = oneshot::channel();
            let after = After::Barrier;
            self.push(
                &mut core,
                Pending { kind: 0, payload: Vec::new(), after, waiter: Some(waiter), urgent: true },
            );
            receiver
        };
        self.answer(receiver).await
    }

    /// Reads a record back from its segment. Blocks.
    pub(crate) fn read_record(&self, place: Place) -> Result<(Record, u32), ReadError> {
        let (kind, payload, size) = self.read_raw(place)?;
        let path = || self.segment_path(place.segment);
        let record = record::read(kind, payload).map_err(|_| ReadError::Damaged(path()))?;
        Ok((record, size))
    }

    fn read_raw(&self, place: Place) -> Result<(u8, Bytes, u32), ReadError> {
        // Most records are smaller than this, so that one read does.
        const GUESS: usize = 4096;
        let path = || self.segment_path(place.segment);
        let file = self.handle(place.segment)?;
        let failed = |error| ReadError::Io(path(), error);
        let mut buffer = vec![0; GUESS];
        let read = file.read_at(&mut buffer, u64::from(place.offset)).map_err(failed)?;
        buffer.truncate(read);
        let damaged = || ReadError::Damaged(path());
        let length = segment::record_length(&buffer).ok_or_else(damaged)?;
        if length > buffer.len() {
            // A length is believed only as far as the file goes.
            let left = file.len().map_err(failed)?.saturating_sub(u64::from(place.offset));
            if length as u64 > left {
                return Err(damaged());
            }
            let read = buffer.len();
            buffer.resize(length, 0);
            let more =
                file.read_at(&mut buffer[read..], u64::from(place.offset) + read as u64).map_err(failed)?;
            buffer.truncate(read + more);
        }
        buffer.truncate(length);
        // What is read ahead is kept, and counted by its length.
        buffer.shrink_to_fit();
        let (kind, payload) = segment::record_at(self.salt, &buffer).ok_or_else(damaged)?;
        // What is kept of it is kept for long at times: without the room that was only guessed.
        buffer.shrink_to_fit();
        Ok((kind, Bytes::from(buffer).slice(payload), length as u32))
    }

    /// Reads so many bytes of a segment, or fewer at its end. Blocks.
    pub(crate) fn read_bytes(&self, from: Place, length: usize) -> Result<Vec<u8>, ReadError> {
        let file = self.handle(from.segment)?;
        let mut buffer = vec![0; length];
        let read = file
            .read_at(&mut buffer, u64::from(from.offset))
            .map_err(|error| ReadError::Io(self.segment_path(from.segment), error))?;
        buffer.truncate(read);
        Ok(buffer)
    }

    /// The record these bytes begin with, in memory of its own; `None` when it is not whole.
    pub(crate) fn record_in(&self, bytes: &[u8]) -> Option<Record> {
        let bytes = bytes.get(..segment::record_length(bytes)?)?;
        let (kind, payload) = segment::record_at(self.salt, bytes)?;
        record::read(kind, Bytes::copy_from_slice(bytes.get(payload)?)).ok()
    }

    fn handle(&self, segment: u32) -> Result<Arc<dyn File>, ReadError> {
        const KEPT: usize = 64;
        let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = handles.get(&segment) {
            return Ok(file.clone());
        }
        let path = self.segment_path(segment);
        let file = match self.files.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ReadError::Gone),
            Err(error) => return Err(ReadError::Io(path, error)),
        };
        if handles.len() >= KEPT
            && let Some(lowest) = handles.keys().min().copied()
        {
            handles.remove(&lowest);
        }
        handles.insert(segment, file.clone());
        Ok(file)
    }

    /// Lets go of a segment's file before it is removed.
    pub(crate) fn close_handle(&self, segment: u32) {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner).remove(&segment);
    }
}

impl Core {
    /// Whether the store still serves at all.
    pub(crate) fn check_open(&self) -> Result<(), StoreError> {
        if self.closing {
            return Err(StoreError::Closed);
        }
        match &self.failed {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    pub(crate) fn full_error(&self, what: &str) -> StoreError {
        let totals = self.state.totals();
        StoreError::Full { what: what.into(), waiting: totals.held, dead: totals.dead_kept }
    }

    pub(crate) fn refusing(&self) -> Option<Refusing> {
        if let Some(error) = &self.failed {
            return Some(Refusing::Failed(error.to_string().into()));
        }
        if self.closing {
            return Some(Refusing::Closed);
        }
        self.full.clone().map(Refusing::Full)
    }

    /// Bytes on disk, without the index.
    pub(crate) fn disk_bytes(&self) -> u64 {
        let segments: u64 =
            self.state.space.values().map(|space| space.len + space.known.summary.unwrap_or(0)).sum();
        segments + self.spare.as_ref().map_or(0, |spare| spare.len) + self.body_bytes
    }

    /// Bytes that still matter.
    pub(crate) fn live_bytes(&self) -> u64 {
        let live: u64 = self.state.space.values().map(|space| space.live).sum();
        live + self.body_bytes
    }

    /// The ids of `count` numbers from `first`, accepted at this moment.
    pub(crate) fn ids(&self, first: u64, count: u32, at: u64) -> Vec<InvocationId> {
        (first..first + u64::from(count)).map(|number| self.state.id_of(number, at / 1_000_000)).collect()
    }
}

pub(crate) fn segment_name(segment: u32) -> String {
    format!("{segment:010}.seg")
}

pub(crate) fn segment_of(name: &str) -> Option<u32> {
    name.strip_suffix(".seg").filter(|digits| digits.len() == 10)?.parse().ok()
}

pub(crate) fn body_name(file: BodyFile) -> String {
    format!("{:016x}", file.0)
}

pub(crate) fn body_of(name: &str) -> Option<BodyFile> {
    (name.len() == 16).then(|| u64::from_str_radix(name, 16).ok().map(BodyFile)).flatten()
}
