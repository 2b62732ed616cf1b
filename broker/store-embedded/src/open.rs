//! Opening a directory: the lock, the format, and recovery from what the journal says.
//!
//! Recovery reads the segments in order and books every record by the rules of the running store. It never goes on
//! writing an old segment: it begins a new one, and copies what lies above the last proven sync into it first, because
//! the page cache may show what the disk does not hold. Only when the copy is synced are the old segments cut.

use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use broker_model::{
    Acceptance, Body, CallId, Clock, Draft, Headers, Lane, LaneTarget, Origin, QueueName, Reason, SourceName,
    Target,
};

use crate::codec::Put;
use crate::files::{Files, Lock};
use crate::index::{Index, Progress};
use crate::options::Options;
use crate::record::{self, kind};
use crate::segment::{self, Batch, FORMAT, Found, HEADER, Head};
use crate::state::{Moment, State};
use crate::store::{Core, Rest, Shared, body_of, segment_name, segment_of};
use crate::summary::{Summary, summary_name, summary_of};
use crate::sweep::without;
use crate::table::Place;
use crate::writer::Journal;

/// Why a store did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the directory, and kept it for as long as we were told to wait.
    #[error("the data directory {path:?} is in use by another process (waited {waited:?})")]
    Locked {
        /// The directory.
        path: PathBuf,
        /// For how long we waited.
        waited: Duration,
    },
    /// A newer Evoke wrote the directory.
    #[error(
        "the data directory {path:?} has format {found}; this version reads up to {known}. run the version that wrote it, or a newer one"
    )]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format this version knows.
        known: u32,
    },
    /// A sync failed while recovering: what the disk holds is not known.
    #[error("cannot sync {path:?} while recovering")]
    Sync {
        /// What was synced.
        path: PathBuf,
        /// The operating system's word.
        #[source]
        source: io::Error,
    },
    /// The operating system refused something.
    #[error("cannot {doing} {path:?}")]
    Io {
        /// What we were doing.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// The operating system's word.
        #[source]
        source: io::Error,
    },
}

/// What was found when a store was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The last process closed the store in order.
    pub clean: bool,
    /// Journal segments found.
    pub segments: u64,
    /// Segments of which only the summary was read.
    pub summarized: u64,
    /// Records booked.
    pub records: u64,
    /// Bytes of segments and summaries read.
    pub bytes_read: u64,
    /// Invocations that wait.
    pub held: u64,
    /// Dead letters kept.
    pub dead: u64,
    /// Calls that were under way when the last process ended; they come back.
    pub interrupted: u64,
    /// Bytes of a write that was never finished, cut. Nothing of it was acknowledged.
    pub torn_bytes: u64,
    /// Records above the last proven sync, written again and synced.
    pub rewritten: u64,
    /// What was on disk once and cannot be read any more: file and byte range. Kept in `quarantine/`.
    pub damage: Vec<(PathBuf, Range<u64>)>,
    /// Records missing because of it that were not reported before; each run of them is one dead letter.
    pub missing_records: u64,
    /// What the totals were corrected by.
    pub reconciled: i64,
    /// Body files without an invocation, removed.
    pub orphans: u64,
    /// The index of dead letters was taken as the last process left it; otherwise it is made again in the background.
    pub index_kept: bool,
    /// How long it took.
    pub took: Duration,
}

/// How many acceptance numbers are left out after damage; more than any gap can have held.
const NUMBERS_SKIPPED: u64 = 1 << 24;

struct Opening {
    options: Options,
    files: Arc<dyn Files>,
    clock: Arc<dyn Clock>,
}

/// The directory's identity, from the file `format`.
struct Identity {
    salt: u32,
    tag: u32,
}

/// One segment file.
struct Loaded {
    number: u32,
    head: Option<Head>,
}

/// How far recovery has come.
#[derive(Default)]
struct Reading {
    /// The first journal number met, and the one that comes next.
    first: Option<u64>,
    expected: Option<u64>,
    /// Numbers (from, to) that did not come.
    gaps: Vec<(u64, u64)>,
    records: u64,
    /// What the index has applied, and how many dead letters there were then.
    applied: u64,
    dead_then: u64,
}

impl Reading {
    /// The next record has this number. Whether it counts: `false` for a copy of what was met already, because the last
    /// recovery was interrupted before it cut the original.
    fn meets(&mut self, journal: u64) -> bool {
        let expects = self.expected.unwrap_or(journal);
        if journal < expects {
            return false;
        }
        if journal > expects {
            self.gaps.push((expects, journal));
        }
        self.first.get_or_insert(journal);
        self.expected = Some(journal + 1);
        self.records += 1;
        true
    }

    fn booked(&mut self, journal: u64, state: &State) {
        if journal <= self.applied {
            self.dead_then = state.dead_kept();
        }
    }
}

/// A record that is to be written again.
struct Tail {
    journal: u64,
    kind: u8,
    payload: Bytes,
}

/// How the last process left the journal, from the file `closed`.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Closed {
    segment: u32,
    end: u64,
}

pub(crate) fn open(
    options: Options,
    files: Arc<dyn Files>,
    clock: Arc<dyn Clock>,
) -> Result<(Arc<Shared>, Journal, Recovered), OpenError> {
    let began = Instant::now();
    let opening = Opening { options, files, clock };
    for dir in ["", "journal", "summaries", "bodies", "quarantine"] {
        let path = opening.options.path.join(dir);
        opening.files.create_dir(&path).map_err(io_error("make the directory", &path))?;
    }
    let lock = opening.lock()?;
    let (shared, journal, mut recovered) = opening.recover(lock)?;
    recovered.took = began.elapsed();
    Ok((shared, journal, recovered))
}

fn io_error(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io { doing, path: path.clone(), source }
}

fn sync_error(path: &Path) -> impl Fn(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Sync { path: path.clone(), source }
}

impl Opening {
    fn lock(&self) -> Result<Lock, OpenError> {
        let path = self.options.path.join("lock");
        let began = Instant::now();
        loop {
            if let Some(lock) = self.files.lock(&path).map_err(io_error("lock", &path))? {
                return Ok(lock);
            }
            let waited = began.elapsed();
            if waited >= self.options.lock_wait {
                return Err(OpenError::Locked { path: self.options.path.clone(), waited });
            }
            std::thread::sleep(Duration::from_millis(50).min(self.options.lock_wait - waited));
        }
    }

    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, OpenError> {
        self.read_up_to(path, u64::MAX)
    }

    fn read_up_to(&self, path: &Path, most: u64) -> Result<Option<Vec<u8>>, OpenError> {
        let file = match self.files.open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("open", path)(error)),
        };
        let len = file.len().map_err(io_error("measure", path))?;
        let mut bytes = vec![0; usize::try_from(len.min(most)).unwrap_or(0)];
        let read = file.read_at(&mut bytes, 0).map_err(io_error("read", path))?;
        bytes.truncate(read);
        Ok(Some(bytes))
    }

    /// Writes a small file so that it is either the old or the new one.
    fn replace(&self, name: &str, content: &str) -> Result<(), OpenError> {
        replace(&*self.files, &self.options.path, name, content)
            .map_err(io_error("write", &self.options.path.join(name)))
    }

    fn identity(&self, segments: &[Loaded]) -> Result<Identity, OpenError> {
        let path = self.options.path.join("format");
        let newer = |found| OpenError::Newer { path: self.options.path.clone(), found, known: FORMAT };
        let written = self.read(&path)?.and_then(|bytes| parse_format(&bytes));
        if let Some((format, _, _)) = written
            && format > FORMAT
        {
            return Err(newer(format));
        }
        let heads = || segments.iter().filter_map(|segment| segment.head);
        if let Some(head) = heads().find(|head| head.format > FORMAT) {
            return Err(newer(head.format));
        }
        let (salt, tag) = match (written, heads().next()) {
            // The segments outvote a small file that may have been put there by hand.
            (_, Some(head)) => (head.salt, head.tag),
            (Some((_, salt, tag)), None) => (salt, tag),
            (None, None) => (rand::random(), rand::random()),
        };
        if written != Some((FORMAT, salt, tag)) {
            let content = format!("evoke-store {FORMAT}\nsalt {salt:08x}\ntag {tag:08x}\n");
            self.replace("format", &content)?;
        }
        Ok(Identity { salt, tag })
    }

    fn load(&self) -> Result<Vec<Loaded>, OpenError> {
        let dir = self.options.path.join("journal");
        let names = self.files.list(&dir).map_err(io_error("list", &dir))?;
        let mut numbers: Vec<u32> = names.iter().filter_map(|name| segment_of(name)).collect();
        numbers.sort_unstable();
        let mut loaded = Vec::new();
        for number in numbers {
            let path = dir.join(segment_name(number));
            let mut front = vec![0; HEADER as usize];
            let file = self.files.open(&path).map_err(io_error("open", &path))?;
            let read = file.read_at(&mut front, 0).map_err(io_error("read", &path))?;
            front.truncate(read);
            let head = Head::read(&front).filter(|head| head.segment == number);
            loaded.push(Loaded { number, head });
        }
        Ok(loaded)
    }

    fn recover(self, lock: Lock) -> Result<(Arc<Shared>, Journal, Recovered), OpenError> {
        let mut recovered = Recovered::default();
        let dir = self.options.path.join("journal");
        let segments = self.load()?;
        let Identity { salt, tag } = self.identity(&segments)?;
        let closed = self.closed()?;
        recovered.clean = closed.is_some();
        let now = Moment { wall: self.clock.now().as_nanos(), mono: self.clock.monotonic() };
        let mut state = State::new(&self.options, tag);
        // At random, because the wall clock may stand where it stood when the last process leased.
        state.set_first_token(rand::random::<u64>() >> 1);
        let (index, kept) =
            Index::open(&self.files, &self.options.path, u64::from(salt) << 32 | u64::from(tag));
        // Without one everything stays in memory until it is made.
        let applied = kept.map_or(0, |kept| kept.applied);
        if kept.is_some() {
            state.believe_index(applied);
        }

        let mut reading = Reading { applied, ..Reading::default() };
        let mut tails: Vec<Tail> = Vec::new();
        let mut cuts: Vec<(u32, u64)> = Vec::new();
        let mut trailing_damage = false;
        let mut unbegun = Vec::new();
        let mut last_begun = None;
        let mut summaries = self.summaries()?;
        for n in 0..segments.len() {
            let number = segments[n].number;
            let path = dir.join(segment_name(number));
            let next = segments[n + 1..].iter().find_map(|next| next.head);
            let follower = next.filter(|next| next.segment == number + 1).map(|next| next.previous_end);
            let begins_with = reading.expected;
            if let Some(end) = follower
                && tails.is_empty()
                && summaries.contains(&number)
                && segments[n].head.is_some_and(|head| head.salt == salt)
                && let Some((summary, len)) = self.summary(number, end, salt)
            {
                let (mut current, mut part, mut counts) = (None, 0, true);
                let booked = summary.each(|journal, offset, row, _| {
                    if current != Some(journal) {
                        (current, part) = (Some(journal), 0);
                        counts = reading.meets(journal);
                    }
                    if counts {
                        state.journal = journal;
                        state.book(row, Place { segment: number, offset }, &mut part, now);
                        reading.booked(journal, &state);
                    }
                });
                debug_assert!(booked.is_ok(), "a summary is understood before it is booked");
                recovered.segments += 1;
                recovered.summarized += 1;
                recovered.bytes_read += len;
                trailing_damage = false;
                cuts.push((number, end));
                let space = state.space.entry(number).or_default();
                space.first = begins_with.or(reading.first).unwrap_or(0);
                space.end = end;
                space.known.summary = Some(len);
                last_begun = Some(number);
                continue;
            }
            if summaries.remove(&number) {
                self.remove_summary(number);
            }
            let stated =
                follower.or(closed.filter(|closed| closed.segment == number).map(|closed| closed.end));
            // A store that was closed in order wrote nothing behind its last word.
            let written = match closed {
                Some(closed) if closed.segment == number => closed.end,
                Some(closed) if closed.segment < number && segments[n].head.is_none() => HEADER,
                _ => u64::MAX,
            };
            let bytes: Bytes = self.read_up_to(&path, written)?.unwrap_or_default().into();
            recovered.bytes_read += bytes.len() as u64;
            if segments[n].head.is_none()
                && segment::is_zero(&bytes)
                && stated.is_none_or(|stated| stated <= HEADER)
            {
                // Allocated ahead and never begun, or made shorter than its header: nothing was ever in it.
                unbegun.push(number);
                continue;
            }
            recovered.segments += 1;
            let tails_before = !tails.is_empty();
            let mut last = None;
            let scanned = segment::scan(&bytes, salt, number, stated, |found| {
                last = Some(u64::from(found.offset));
                let Found { journal, kind, payload, offset, size, unproven } = found;
                if !reading.meets(journal) {
                    return;
                }
                if unproven || !tails.is_empty() {
                    tails.push(Tail { journal, kind, payload });
                    return;
                }
                match record::read(kind, payload) {
                    Ok(record) => {
                        state.journal = journal;
                        state.replay(record, Place { segment: number, offset }, size, now);
                        reading.booked(journal, &state);
                    }
                    Err(_) => reading.gaps.push((journal, journal + 1)),
                }
            });
            // A header that is bad although a later word says that its segment was synced is damage. Without such a word
            // its first write was never finished, and nothing in it was acknowledged.
            let never_begun = segments[n].head.is_none() && scanned.proven <= HEADER;
            if never_begun {
                recovered.torn_bytes += HEADER;
            } else if segments[n].head.is_none() {
                tracing::error!(path = %path.display(), "the header of a journal segment is damaged");
                recovered.damage.push((path.clone(), 0..HEADER));
            }
            for range in &scanned.damage {
                quarantine(&*self.files, &self.options.path, number, range, &bytes);
                tracing::error!(path = %path.display(), from = range.start, to = range.end, "the journal is damaged: these bytes are skipped and kept in quarantine");
                recovered.damage.push((path.clone(), range.clone()));
            }
            if let Some(torn) = &scanned.torn {
                recovered.torn_bytes += torn.end - torn.start;
                tracing::warn!(path = %path.display(), from = torn.start, to = torn.end, "a write was not finished when the last process ended: it is cut");
            }
            trailing_damage = scanned.damage.iter().any(|range| last.is_none_or(|last| range.start > last));
            // What is copied forward is cut here, and so is everything behind it: a segment that was begun after the
            // first doubtful record is copied whole.
            let keep = match (tails_before, tails.is_empty()) {
                (true, _) => HEADER,
                (false, true) => scanned.end,
                (false, false) => scanned.end.min(scanned.proven),
            };
            let keep = if never_begun { 0 } else { keep.max(HEADER) };
            cuts.push((number, keep));
            let space = state.space.entry(number).or_default();
            space.first = begins_with.or(reading.first).unwrap_or(0);
            if tails_before && let Some(tail) = tails.first() {
                space.first = tail.journal;
            }
            space.end = keep;
            // Read to the last byte, and what is damaged is reported below.
            space.known.verified = true;
            let damaged = segments[n].head.is_none() || !scanned.damage.is_empty();
            space.known.no_summary = damaged;
            space.known.reported = damaged;
            last_begun = Some(number);
        }
        if let Some(closed) = closed
            && last_begun.is_none_or(|last| last < closed.segment)
        {
            tracing::error!(segment = closed.segment, "the last segment of the journal is missing");
            recovered.damage.push((dir.join(segment_name(closed.segment)), 0..closed.end));
            trailing_damage = true;
        }
        let mut next = reading.expected.unwrap_or(1);
        if trailing_damage {
            // How many records were there cannot be known; one stands for them.
            reading.gaps.push((next, next + 1));
            next += 1;
        }
        for left in summaries.iter().filter(|left| segments.iter().all(|segment| segment.number != **left)) {
            self.remove_summary(*left);
        }

        // The new segment: what has to be written again, then what recovery itself has to say.
        for number in &unbegun {
            let path = dir.join(segment_name(*number));
            self.files.remove(&path).map_err(io_error("remove", &path))?;
        }
        // Right behind the last one that was begun, whatever was allocated ahead: only its follower's header states what
        // is proven of a segment.
        let segment = last_begun.map_or(1, |last| last + 1).max(closed.map_or(1, |c| c.segment + 1));
        let previous_end = cuts.last().map_or(0, |(_, keep)| *keep);
        let head = Head { format: FORMAT, segment, salt, tag, previous_end };
        let mut bytes = head.write().to_vec();
        recovered.rewritten = tails.len() as u64;
        let begins_with = tails.first().map(|tail| tail.journal);
        let mut tails = tails.into_iter().peekable();
        state.believe_index_no_further();
        while let Some(first) = tails.next() {
            let mut batch = Batch::begin(std::mem::take(&mut bytes), first.journal);
            let mut at = first.journal;
            let mut tail = first;
            loop {
                let offset = batch.push(salt, tail.kind, &tail.payload) as u32;
                let size = segment::record_size(tail.payload.len());
                match record::read(tail.kind, tail.payload) {
                    Ok(record) => {
                        state.journal = at;
                        state.replay(record, Place { segment, offset }, size, now);
                        reading.booked(at, &state);
                    }
                    Err(_) => reading.gaps.push((at, at + 1)),
                }
                match tails.next_if(|next| next.journal == at + 1) {
                    Some(next) => tail = next,
                    None => break,
                }
                at += 1;
            }
            bytes = batch.finish(salt, segment, HEADER);
        }
        recovered.interrupted = state.finish_replay(now);

        let Reading { mut gaps, records, first, dead_then, .. } = reading;
        recovered.records = records;
        // What the journal begins with is stated in it, so that a front that is missing is missed.
        let begins = first.unwrap_or(next);
        if state.front > 0 && begins > state.front {
            gaps.insert(0, (state.front, begins));
        }
        // What only the index knows by now has to be read again if it was believed in error.
        let doubted = kept.is_some_and(|kept| applied >= next || kept.count != dead_then);
        let damaged = !gaps.is_empty();
        gaps.sort_unstable();
        let gaps = without(&gaps, &state.gaps);
        if !gaps.is_empty() {
            // Numbers that were lost must not be given again: somebody may hold their ids.
            state.next_number += NUMBERS_SKIPPED;
        }
        let doubted = doubted || kept.is_some() && !gaps.is_empty();
        recovered.index_kept = kept.is_some() && !doubted;
        if doubted {
            tracing::warn!("the index of dead letters does not fit the journal: it is made again");
        }
        let missing: u64 = gaps.iter().map(|(from, to)| to - from).sum();
        recovered.missing_records = missing;
        state.damaged += missing;
        recovered.reconciled = state.reconcile();
        if recovered.reconciled != 0 && !damaged {
            tracing::error!(
                off_by = recovered.reconciled,
                "the totals did not fit an undamaged journal: a fault of ours"
            );
        }
        state.front = begins;
        let mut batch = Batch::begin(bytes, next);
        let new_first = begins_with.unwrap_or(next);
        // What is missing counts as known only behind the letters that say so.
        batch.push(salt, kind::OPENED, &record::small(&state.small()));
        state.gaps.extend(gaps.iter().copied());
        state.journal = next;
        for (from, to) in &gaps {
            let letter = Arc::new(damaged_letter(*from, *to));
            let detail = detail_of(*from, *to);
            let mut put = Put::default();
            record::accepted(&mut put, &letter, Some((Reason::Damaged, &detail)));
            let first = state.next_number;
            record::fill(&mut put.0, 0, first, now.wall);
            let offset = batch.push(salt, kind::ACCEPTED, &put.0) as u32;
            state.journal += 1;
            let (place, size) = (Place { segment, offset }, segment::record_size(put.0.len()));
            state.accept(first, now.wall, &letter, Some(Reason::Damaged), place, 0, size, now);
            tracing::error!(from, to, "records of the journal are missing: a dead letter stands for them");
        }
        if recovered.reconciled != 0 || !gaps.is_empty() {
            batch.push(salt, kind::RECONCILED, &record::small(&state.small()));
        }
        next += u64::from(batch.records());
        state.journal = next - 1;
        if kept.is_none() || doubted {
            state.follow(!doubted);
        }
        bytes = batch.finish(salt, segment, HEADER);
        let small = state.small();

        let (file, len) = self.begin(&dir, segment, bytes.len() as u64)?;
        let path = dir.join(segment_name(segment));
        file.write_at(&bytes, 0).map_err(io_error("write", &path))?;
        file.sync_data().map_err(sync_error(&path))?;
        self.files.sync_dir(&dir).map_err(sync_error(&dir))?;
        for (number, keep) in cuts {
            let path = dir.join(segment_name(number));
            let old = self.files.open(&path).map_err(io_error("open", &path))?;
            if old.len().map_err(io_error("measure", &path))? > keep {
                old.truncate(keep).map_err(io_error("cut", &path))?;
                old.sync_data().map_err(sync_error(&path))?;
            }
            state.space.entry(number).or_default().len = keep;
        }
        self.forget_closed()?;
        let space = state.space.entry(segment).or_default();
        (space.len, space.first) = (len, new_first);

        let totals = state.totals();
        recovered.held = totals.held;
        recovered.dead = totals.dead_kept;
        let at = bytes.len() as u64;
        let mut core = core(state, segment, len - at, Progress::new(kept.is_some(), doubted));
        core.index.reread.1 = core.state.space.len() as u64;
        recovered.orphans = self.bodies(&mut core, now)?;
        let journal = Journal {
            file,
            segment,
            salt,
            tag,
            at,
            len,
            synced: at,
            next,
            small,
            stated: false,
            buffer: Vec::new(),
        };
        let shared = Arc::new(Shared::new(self.options, self.files, self.clock, salt, lock, core, index));
        Ok((shared, journal, recovered))
    }

    /// Makes the segment to go on with. On a full disk a small one will do: what is there must be delivered.
    fn begin(
        &self,
        dir: &Path,
        segment: u32,
        needed: u64,
    ) -> Result<(Arc<dyn crate::files::File>, u64), OpenError> {
        let path = dir.join(segment_name(segment));
        let file = self.files.create(&path).map_err(io_error("make", &path))?;
        let whole = self.options.segment_bytes.max(needed + 4096);
        for len in [whole, whole / 16, whole / 256] {
            let len = len.max(needed + 4096);
            match file.allocate(len) {
                Ok(()) => return Ok((file, len)),
                Err(error) if error.kind() == io::ErrorKind::StorageFull && len > needed + 4096 => {
                    tracing::warn!(path = %path.display(), "no room for a whole segment: trying a smaller one");
                }
                Err(error) => return Err(io_error("allocate", &path)(error)),
            }
        }
        Err(io_error("allocate", &path)(io::ErrorKind::StorageFull.into()))
    }

    /// The segments that have a summary. What else lies there is removed.
    fn summaries(&self) -> Result<HashSet<u32>, OpenError> {
        let dir = self.options.path.join("summaries");
        let mut found = HashSet::new();
        for name in self.files.list(&dir).map_err(io_error("list", &dir))? {
            match summary_of(&name) {
                Some(segment) => {
                    found.insert(segment);
                }
                // Half written when the last process ended.
                None => {
                    let _ = self.files.remove(&dir.join(name));
                }
            }
        }
        Ok(found)
    }

    /// A segment's summary and its length, if it can be believed.
    fn summary(&self, segment: u32, end: u64, salt: u32) -> Option<(Summary, u64)> {
        let dir = &self.options.path;
        // Whatever is wrong with it: the segment itself says the same.
        let bytes = self.read(&dir.join("summaries").join(summary_name(segment))).ok()??;
        let len = bytes.len() as u64;
        let summary = Summary::read(bytes.into(), salt, segment)?;
        let file = self.files.open(&dir.join("journal").join(segment_name(segment))).ok()?;
        (summary.of.end == end && summary.fits(&*file)).then_some((summary, len))
    }

    /// A summary that stays is not believed the next time either.
    fn remove_summary(&self, segment: u32) {
        let _ = self.files.remove(&self.options.path.join("summaries").join(summary_name(segment)));
    }

    /// Counts body files and removes those without an invocation.
    fn bodies(&self, core: &mut Core, now: Moment) -> Result<u64, OpenError> {
        let dir = self.options.path.join("bodies");
        let mut orphans = 0;
        // Names never repeat, even after the newest file was removed.
        core.next_body = (now.wall / 1_000_000) << 20;
        for name in self.files.list(&dir).map_err(io_error("list", &dir))? {
            let Some(file) = body_of(&name) else { continue };
            core.next_body = core.next_body.max(file.0 + 1);
            let path = dir.join(&name);
            if core.state.owns(file) {
                let len =
                    self.files.open(&path).and_then(|file| file.len()).map_err(io_error("measure", &path))?;
                core.body_lengths.insert(file, len);
                core.body_bytes += len;
            } else {
                self.files.remove(&path).map_err(io_error("remove", &path))?;
                orphans += 1;
            }
        }
        core.state.doomed.clear();
        Ok(orphans)
    }

    fn closed(&self) -> Result<Option<Closed>, OpenError> {
        let Some(bytes) = self.read(&self.options.path.join("closed"))? else { return Ok(None) };
        let text = String::from_utf8_lossy(&bytes);
        let mut words = text.split_whitespace();
        let mut number = || words.next()?.parse().ok();
        let (segment, end, check) = (number(), number(), number());
        Ok(match (segment, end, check) {
            (Some(segment), Some(end), Some(check)) if closed_check(segment, end) == check => {
                u32::try_from(segment).ok().map(|segment| Closed { segment, end })
            }
            // A note that cannot be trusted is none: the journal is looked at more closely.
            _ => None,
        })
    }

    fn forget_closed(&self) -> Result<(), OpenError> {
        let path = self.options.path.join("closed");
        match self.files.remove(&path) {
            Ok(()) => self.files.sync_dir(&self.options.path).map_err(sync_error(&self.options.path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(io_error("remove", &path)(error)),
        }
    }
}

/// Says that the store was closed in order, and where its journal ended.
pub(crate) fn mark_closed(shared: &Shared, segment: u32, end: u64) -> io::Result<()> {
    let check = closed_check(u64::from(segment), end);
    replace(&*shared.files, &shared.options.path, "closed", &format!("{segment} {end} {check}\n"))
}

fn closed_check(segment: u64, end: u64) -> u64 {
    u64::from(crc32c::crc32c_append(crc32c::crc32c(&segment.to_le_bytes()), &end.to_le_bytes()))
}

fn replace(files: &dyn Files, dir: &Path, name: &str, content: &str) -> io::Result<()> {
    let new = dir.join(format!("{name}.new"));
    let file = files.create(&new)?;
    file.write_at(content.as_bytes(), 0)?;
    file.sync_data()?;
    files.rename(&new, &dir.join(name))?;
    files.sync_dir(dir)
}

fn parse_format(bytes: &[u8]) -> Option<(u32, u32, u32)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut lines = text.lines();
    let format = lines.next()?.strip_prefix("evoke-store ")?.parse().ok()?;
    let mut hex = |name: &str| -> Option<u32> {
        u32::from_str_radix(lines.next()?.strip_prefix(name)?.trim(), 16).ok()
    };
    // A newer format may say other things behind its number.
    let (salt, tag) = (hex("salt").unwrap_or(0), hex("tag").unwrap_or(0));
    Some((format, salt, tag))
}

/// Keeps damaged bytes apart, for people.
pub(crate) fn quarantine(files: &dyn Files, dir: &Path, segment: u32, range: &Range<u64>, bytes: &Bytes) {
    let name = format!("{segment:010}-{}-{}", range.start, range.end);
    let path = dir.join("quarantine").join(name);
    let from = usize::try_from(range.start).unwrap_or(usize::MAX).min(bytes.len());
    let to = usize::try_from(range.end).unwrap_or(usize::MAX).min(bytes.len());
    if from >= to || files.open(&path).is_ok() {
        return;
    }
    let kept = files.create(&path).and_then(|file| {
        file.write_at(&bytes[from..to], 0)?;
        file.sync_data()
    });
    // The bytes stay where they are as well; this copy is for people.
    if let Err(error) = kept {
        tracing::warn!(%error, path = %path.display(), "cannot keep damaged bytes in quarantine");
    }
}

pub(crate) fn detail_of(from: u64, to: u64) -> String {
    format!("{} records of the journal are missing, numbers {from} to {}", to - from, to - 1)
}

/// The acceptance of a dead letter for missing records.
pub(crate) fn damaged_letter(from: u64, to: u64) -> Acceptance {
    let lane = Lane { queue: QueueName::default(), target: LaneTarget::CallbackHosts(0) };
    stand_in(&format!("damaged-{from}-{}", to - 1), lane)
}

/// What can be said of an acceptance whose record is lost. The call id is short, of letters, digits and hyphens.
pub(crate) fn stand_in(call_id: &str, lane: Lane) -> Acceptance {
    let call_id = CallId::parse(call_id).expect("letters, digits and hyphens are printable and short");
    let source = SourceName::parse("evoke-store").expect("a name of letters and a hyphen is a source name");
    Acceptance {
        origin: Origin::Quarantine { source },
        headers: Headers::new(),
        body: Body::EMPTY,
        drafts: vec![Draft { lane, target: Target::Nobody, call_id, due: None, max_age: None }],
        dedup: None,
        position: None,
        fire: None,
    }
}

fn core(state: State, segment: u32, room: u64, index: Progress) -> Core {
    Core {
        state,
        pending: Default::default(),
        reading_ahead: false,
        urgent: 0,
        pending_drafts: 0,
        rest: Rest::No,
        index,
        asked: 0,
        durable: 0,
        failed: None,
        full: None,
        closing: false,
        stopped: false,
        on_stop: Vec::new(),
        current: segment,
        room,
        spare: None,
        commits: 0,
        sync_time: Duration::ZERO,
        body_bytes: 0,
        spooled: Default::default(),
        body_lengths: Default::default(),
        next_body: 0,
    }
}
