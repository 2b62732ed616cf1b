//! What the journal's records say, and how they are written.
//!
//! Acceptances carry their acceptance numbers and moment at a fixed place at the front, so that everything else can be
//! written down before the lock is taken and only those be filled in under it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use broker_model::attempt::{Answer, Asked, Class};
use broker_model::dead_letter::AskedReason;
use broker_model::invocation::{CallbackCall, FunctionCall};
use broker_model::position::{Mark, MarkChange, Marks};
use broker_model::queue::Pausable;
use broker_model::ranges::Ranges;
use broker_model::schedule::{Entry, Instant, ScheduleBook};
use broker_model::{
    Acceptance, Attempt, AttemptHistory, Body, CallId, DedupKey, Draft, Fingerprint, Fire, FunctionName,
    Headers, InvocationId, Lane, LaneTarget, Origin, Outcome, Partition, Position, QueueName, Reason,
    Schedule, ScheduleId, SourceName, StoredBody, Target, Timestamp, Topic, Totals,
};

use crate::codec::{Malformed, Put, Take};

/// The kinds of records; the numbers stand on disk.
pub(crate) mod kind {
    pub(crate) const ACCEPTED: u8 = 1;
    pub(crate) const STARTED: u8 = 2;
    pub(crate) const SETTLED: u8 = 3;
    pub(crate) const CANCELLED: u8 = 4;
    pub(crate) const REDRIVEN: u8 = 5;
    pub(crate) const REMOVED: u8 = 6;
    pub(crate) const MOVED: u8 = 7;
    pub(crate) const RECONCILED: u8 = 8;
    pub(crate) const PAUSE: u8 = 9;
    pub(crate) const CHECKPOINT: u8 = 10;
    pub(crate) const KEYS: u8 = 11;
    pub(crate) const MARK: u8 = 12;
    pub(crate) const SCHEDULE: u8 = 13;
    pub(crate) const FRONT: u8 = 20;
    pub(crate) const OPENED: u8 = 21;
    pub(crate) const MISSING: u8 = 22;
}

/// One record, read.
#[derive(Debug)]
pub(crate) enum Record {
    Accepted(Accepted),
    Started(Vec<u64>),
    Settled(Settled),
    Cancelled {
        number: u64,
        at: u64,
    },
    Redriven {
        number: u64,
        life: u32,
        at: u64,
    },
    Removed {
        number: u64,
    },
    Moved(Moved),
    Reconciled(Small),
    Pause {
        what: Pausable,
        held: bool,
    },
    Checkpoint(Small),
    Keys(Vec<KeyRow>),
    Marked(MarkChange),
    Scheduled(ScheduleChange),
    /// The journal begins with this number: what stood before it was given back.
    Front(u64),
    /// A process took the journal over. What it found under way was interrupted.
    Opened(Small),
    /// These numbers (from, to) turned out unreadable while the store ran; the dead letter that says so.
    Missing {
        from: u64,
        to: u64,
        letter: Accepted,
    },
}

/// An acceptance as it stands on disk.
#[derive(Debug, Clone)]
pub(crate) struct Accepted {
    /// The acceptance number of the first draft; the others follow.
    pub(crate) first: u64,
    /// When, in nanoseconds on the wall clock.
    pub(crate) at: u64,
    pub(crate) acceptance: Acceptance,
    /// Accepted and given up in one.
    pub(crate) end: Option<(Reason, Box<str>)>,
}

/// A settlement as it stands on disk.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) number: u64,
    pub(crate) at: u64,
    pub(crate) how: How,
    pub(crate) then: Vec<Accepted>,
}

#[derive(Debug)]
pub(crate) enum How {
    Completed(Attempt),
    Retry { attempt: Attempt, wait: Duration },
    Released { wait: Duration },
    Dead { attempt: Option<Attempt>, reason: Reason, detail: Box<str> },
}

/// What still lived of one acceptance when its segment went, with all that is known of it.
#[derive(Debug)]
pub(crate) struct Moved {
    pub(crate) at: u64,
    /// Headers, body and origin, with a draft for each part that lived.
    pub(crate) acceptance: Acceptance,
    pub(crate) parts: Vec<MovedPart>,
}

#[derive(Debug)]
pub(crate) struct MovedPart {
    pub(crate) number: u64,
    pub(crate) life: u32,
    pub(crate) life_began: u64,
    pub(crate) interrupted: u32,
    pub(crate) started: bool,
    pub(crate) standing: Standing,
    pub(crate) history: AttemptHistory,
}

#[derive(Debug, Clone)]
pub(crate) enum Standing {
    /// It waits, for a retry until this wall moment if one is given.
    Waiting { until: Option<u64> },
    /// It is dead.
    Dead { reason: Reason, detail: Box<str>, died_at: u64 },
}

/// The small state at the head of every segment, so that nothing small is lost when old segments go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Small {
    pub(crate) totals: Totals,
    pub(crate) paused: Vec<Pausable>,
    /// The next acceptance number.
    pub(crate) next: u64,
    /// Records found damaged since the directory was made.
    pub(crate) damaged: u64,
    /// Journal numbers (from, to) that are known to be missing and were reported.
    pub(crate) gaps: Vec<(u64, u64)>,
    /// The number the journal begins with: none below it is missed.
    pub(crate) front: u64,
    /// What sources with positions received.
    pub(crate) marks: Marks,
    /// The schedules, and what ran of them.
    pub(crate) schedules: ScheduleBook,
}

/// What happens to a schedule beside its runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ScheduleChange {
    Put(Schedule),
    Removed(ScheduleId),
    Passed(ScheduleId, Timestamp),
}

/// A dedup key carried forward when its acceptance's segment went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyRow {
    pub(crate) key: DedupKey,
    pub(crate) first: u64,
    pub(crate) count: u32,
    pub(crate) at: u64,
}

/// Where a body lies outside the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct BodyFile(pub(crate) u64);

/// The store's own address of a body, as [`StoredBody::location`] carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyPlace {
    /// In the record of this invocation.
    Record(InvocationId),
    /// In a file of its own.
    File(BodyFile),
}

impl BodyPlace {
    pub(crate) fn stored(self, len: u64) -> Body {
        let mut location = Vec::with_capacity(17);
        match self {
            BodyPlace::Record(id) => {
                location.push(0);
                location.extend_from_slice(&id.as_u128().to_be_bytes());
            }
            BodyPlace::File(file) => {
                location.push(1);
                location.extend_from_slice(&file.0.to_be_bytes());
            }
        }
        Body::Stored(StoredBody { len, location: location.into() })
    }

    pub(crate) fn of(body: &StoredBody) -> Option<BodyPlace> {
        let (kind, rest) = body.location.split_first()?;
        match kind {
            0 => {
                let bits = u128::from_be_bytes(rest.try_into().ok()?);
                Some(BodyPlace::Record(InvocationId::from_u128(bits)))
            }
            1 => Some(BodyPlace::File(BodyFile(u64::from_be_bytes(rest.try_into().ok()?)))),
            _ => None,
        }
    }

    /// The file of a body that has one.
    pub(crate) fn file_of(body: &Body) -> Option<BodyFile> {
        match body {
            Body::Stored(stored) => match BodyPlace::of(stored)? {
                BodyPlace::File(file) => Some(file),
                BodyPlace::Record(_) => None,
            },
            Body::Inline(_) => None,
        }
    }
}

// ---- Writing ----

/// Fills the number and the moment into an acceptance, settlement or the like that [`accepted`] or [`settled`] wrote.
pub(crate) fn fill(payload: &mut [u8], at: usize, number: u64, moment: u64) {
    payload[at..at + 8].copy_from_slice(&number.to_le_bytes());
    payload[at + 8..at + 16].copy_from_slice(&moment.to_le_bytes());
}

/// Writes an acceptance with room for its numbers at the front.
pub(crate) fn accepted(put: &mut Put, acceptance: &Acceptance, end: Option<(Reason, &str)>) {
    put.u64(0);
    put.u64(0);
    match end {
        None => put.u8(0),
        Some((reason, detail)) => {
            put.u8(1 + reason_number(reason));
            put.text(detail);
        }
    }
    put_acceptance(put, acceptance);
}

/// Roughly how many bytes an acceptance takes.
pub(crate) fn size_of(acceptance: &Acceptance) -> usize {
    let body = match &acceptance.body {
        Body::Inline(bytes) => bytes.len(),
        Body::Stored(_) => 32,
    };
    128 + acceptance.headers.bytes() + acceptance.headers.len() * 4 + body + acceptance.drafts.len() * 160
}

/// Writes a settlement with room for its number and moment at the front, and where those of each `then` belong.
pub(crate) fn settled(put: &mut Put, how: &How, then: &[Acceptance]) -> Vec<usize> {
    put.u64(0);
    put.u64(0);
    match how {
        How::Completed(attempt) => {
            put.u8(1);
            put_attempt(put, attempt);
        }
        How::Retry { attempt, wait } => {
            put.u8(2);
            put_attempt(put, attempt);
            put_duration(put, *wait);
        }
        How::Released { wait } => {
            put.u8(3);
            put_duration(put, *wait);
        }
        How::Dead { attempt, reason, detail } => {
            put.u8(4);
            match attempt {
                None => put.u8(0),
                Some(attempt) => {
                    put.u8(1);
                    put_attempt(put, attempt);
                }
            }
            put.u8(reason_number(*reason));
            put.text(detail);
        }
    }
    put.var(then.len() as u64);
    let mut places = Vec::with_capacity(then.len());
    for acceptance in then {
        places.push(put.0.len());
        accepted(put, acceptance, None);
    }
    places
}

pub(crate) fn started(numbers: &[u64]) -> Vec<u8> {
    let mut put = Put::with_capacity(2 + numbers.len() * 6);
    put.var(numbers.len() as u64);
    for number in numbers {
        put.var(*number);
    }
    put.0
}

pub(crate) fn cancelled(number: u64, at: u64) -> Vec<u8> {
    let mut put = Put::default();
    put.u64(number);
    put.u64(at);
    put.0
}

pub(crate) fn redriven(number: u64, life: u32, at: u64) -> Vec<u8> {
    let mut put = Put::default();
    put.u64(number);
    put.u64(at);
    put.u32(life);
    put.0
}

pub(crate) fn removed(number: u64) -> Vec<u8> {
    let mut put = Put::default();
    put.u64(number);
    put.0
}

pub(crate) fn pause(what: &Pausable, held: bool) -> Vec<u8> {
    let mut put = Put::default();
    put.u8(u8::from(held));
    put_pausable(&mut put, what);
    put.0
}

pub(crate) fn small(small: &Small) -> Vec<u8> {
    let mut put = Put::default();
    let totals = &small.totals;
    put.var(totals.accepted.len() as u64);
    totals.accepted.iter().for_each(|n| put.var(*n));
    put.var(totals.redriven);
    put.var(totals.completed);
    put.var(totals.dead.len() as u64);
    totals.dead.iter().for_each(|n| put.var(*n));
    put.var(totals.cancelled);
    put.var(totals.removed);
    put.var(small.next);
    put.var(small.damaged);
    put.var(small.paused.len() as u64);
    for what in &small.paused {
        put_pausable(&mut put, what);
    }
    put.var(small.gaps.len() as u64);
    for (from, to) in &small.gaps {
        put.var(*from);
        put.var(*to);
    }
    put_marks(&mut put, &small.marks);
    put_schedules(&mut put, &small.schedules);
    put.var(small.front);
    put.0
}

fn put_marks(put: &mut Put, marks: &Marks) {
    put.var(marks.len() as u64);
    for (partition, mark) in marks.iter() {
        put_partition(put, partition);
        put.var(mark.below());
        put.maybe(mark.committed());
        put_ranges(put, mark.above());
    }
}

fn put_schedules(put: &mut Put, schedules: &ScheduleBook) {
    put.var(schedules.len() as u64);
    for entry in schedules.iter() {
        put_schedule(put, &entry.schedule);
        put.u64(entry.decided.as_nanos());
        put.maybe(entry.last_fire.map(Timestamp::as_nanos));
        put_ranges(put, &entry.fired);
    }
}

/// Each range by its distance from the one before, and its length.
fn put_ranges(put: &mut Put, ranges: &Ranges) {
    put.var(ranges.len() as u64);
    let mut before = 0;
    for range in ranges.iter() {
        put.var(range.start - before);
        put.var(range.end - range.start);
        before = range.end;
    }
}

fn put_partition(put: &mut Put, partition: &Partition) {
    put.text(partition.source().as_str());
    put.text(partition.stream());
    put.text(partition.incarnation());
    put.var(u64::from(partition.number()));
}

fn put_schedule(put: &mut Put, schedule: &Schedule) {
    put.text(schedule.id.as_str());
    put_function(put, &schedule.function);
    put.text(&schedule.expression);
    put.u64(schedule.anchor.as_nanos());
}

pub(crate) fn mark(change: &MarkChange) -> Vec<u8> {
    let mut put = Put::default();
    match change {
        MarkChange::Resumed { partition, voided, below, committed } => {
            put.u8(0);
            put_partition(&mut put, partition);
            put.u8(u8::from(*voided));
            put.var(*below);
            put.maybe(*committed);
        }
        MarkChange::Committed { partition, next } => {
            put.u8(1);
            put_partition(&mut put, partition);
            put.var(*next);
        }
        MarkChange::Reset { source } => {
            put.u8(2);
            put.text(source.as_str());
        }
    }
    put.0
}

pub(crate) fn schedule(change: &ScheduleChange) -> Vec<u8> {
    let mut put = Put::default();
    match change {
        ScheduleChange::Put(schedule) => {
            put.u8(0);
            put_schedule(&mut put, schedule);
        }
        ScheduleChange::Removed(id) => {
            put.u8(1);
            put.text(id.as_str());
        }
        ScheduleChange::Passed(id, until) => {
            put.u8(2);
            put.text(id.as_str());
            put.u64(until.as_nanos());
        }
    }
    put.0
}

pub(crate) fn front(journal: u64) -> Vec<u8> {
    let mut put = Put::default();
    put.u64(journal);
    put.0
}

/// Writes what is missing and the letter that says so, with room for the letter's numbers at [`MISSING_AT`].
pub(crate) fn missing(from: u64, to: u64, letter: &Acceptance, end: (Reason, &str)) -> Vec<u8> {
    let mut put = Put::default();
    put.u64(from);
    put.u64(to);
    accepted(&mut put, letter, Some(end));
    put.0
}

/// Where the letter's numbers stand in what [`missing`] writes.
pub(crate) const MISSING_AT: usize = 16;

pub(crate) fn keys(rows: &[KeyRow]) -> Vec<u8> {
    let mut put = Put::default();
    put.var(rows.len() as u64);
    for row in rows {
        put_dedup(&mut put, &row.key);
        put.u64(row.first);
        put.u32(row.count);
        put.u64(row.at);
    }
    put.0
}

pub(crate) fn moved(moved: &Moved) -> Vec<u8> {
    let mut put = Put::with_capacity(size_of(&moved.acceptance));
    put.u64(moved.at);
    put.var(moved.parts.len() as u64);
    for part in &moved.parts {
        put.u64(part.number);
        put.u32(part.life);
        put.u64(part.life_began);
        put.var(u64::from(part.interrupted));
        put.u8(u8::from(part.started));
        match &part.standing {
            Standing::Waiting { until } => {
                put.u8(0);
                put.maybe(*until);
            }
            Standing::Dead { reason, detail, died_at } => {
                put.u8(1 + reason_number(*reason));
                put.text(detail);
                put.u64(*died_at);
            }
        }
        let kept: Vec<&Attempt> = part.history.kept().collect();
        put.var(kept.len() as u64);
        for attempt in kept {
            put_attempt(&mut put, attempt);
        }
        let counted: Vec<(Class, u32)> = part.history.counted().collect();
        put.var(counted.len() as u64);
        for (class, count) in counted {
            put.u8(class_number(class));
            put.var(u64::from(count));
        }
    }
    put_acceptance(&mut put, &moved.acceptance);
    put.0
}

/// What an acceptance has beside its invocations.
const KEYED: u8 = 1;
const PLACED: u8 = 2;
const FIRED: u8 = 4;

fn put_acceptance(put: &mut Put, acceptance: &Acceptance) {
    let Acceptance { dedup, position, fire, .. } = acceptance;
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    put.u8(flag(dedup.is_some(), KEYED) | flag(position.is_some(), PLACED) | flag(fire.is_some(), FIRED));
    if let Some(key) = dedup {
        put_dedup(put, key);
    }
    if let Some(Position { partition, offset }) = position {
        put_partition(put, partition);
        put.var(*offset);
    }
    if let Some(fire) = fire {
        put.text(fire.schedule.as_str());
        put_function(put, &fire.function);
        put.maybe(fire.instant.map(|instant| instant.at.as_nanos()));
        put.maybe(fire.instant.map(|instant| instant.after.as_nanos()));
    }
    put_origin(put, &acceptance.origin);
    put.var(acceptance.drafts.len() as u64);
    for draft in &acceptance.drafts {
        put_draft(put, draft);
    }
    put.var(acceptance.headers.len() as u64);
    for (name, value) in acceptance.headers.iter() {
        put.text(name);
        put.bytes(value);
    }
    match &acceptance.body {
        Body::Inline(bytes) => {
            put.u8(0);
            put.bytes(bytes);
        }
        Body::Stored(stored) => {
            put.u8(1);
            put.var(stored.len);
            put.bytes(&stored.location);
        }
    }
}

fn put_dedup(put: &mut Put, key: &DedupKey) {
    put.text(&key.scope);
    put.u128(key.key.0);
    put.u128(key.request.0);
}

fn put_origin(put: &mut Put, origin: &Origin) {
    put.u8(origin.index() as u8);
    match origin {
        Origin::Call => {}
        Origin::Event { source, topic } => {
            put.text(source.as_str());
            put.text(topic.as_str());
        }
        Origin::Callback { of } | Origin::DeadLetter { of } => put.u128(of.as_u128()),
        Origin::Quarantine { source } => put.text(source.as_str()),
    }
}

fn put_function(put: &mut Put, function: &FunctionName) {
    put.text(function.name());
    put.text(function.namespace());
}

pub(crate) fn put_lane(put: &mut Put, lane: &Lane) {
    put.text(lane.queue.as_str());
    match &lane.target {
        LaneTarget::Function(function) => {
            put.u8(0);
            put_function(put, function);
        }
        LaneTarget::CallbackHosts(bucket) => {
            put.u8(1);
            put.u32(u32::from(*bucket));
        }
    }
}

fn put_draft(put: &mut Put, draft: &Draft) {
    put_lane(put, &draft.lane);
    match &draft.target {
        Target::Function(call) => {
            // Nearly always the lane's own function, which needs no second copy.
            if draft.lane.target.function() == Some(&call.function) {
                put.u8(3);
            } else {
                put.u8(0);
                put_function(put, &call.function);
            }
            put.text(&call.written);
            put.text(&call.path_and_query);
            match &call.callback_url {
                None => put.u8(0),
                Some(url) => {
                    put.u8(1);
                    put.text(url);
                }
            }
        }
        Target::Callback(call) => {
            put.u8(1);
            put.text(&call.url);
        }
        Target::Nobody => put.u8(2),
    }
    put.text(draft.call_id.as_str());
    put.maybe(draft.due.map(Timestamp::as_nanos));
    put.maybe(draft.max_age.map(nanos));
}

fn put_duration(put: &mut Put, duration: Duration) {
    put.var(nanos(duration));
}

/// A duration in nanoseconds, at most 584 years.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn put_pausable(put: &mut Put, what: &Pausable) {
    match what {
        Pausable::Function(function) => {
            put.u8(0);
            put_function(put, function);
        }
        Pausable::Source(source) => {
            put.u8(1);
            put.text(source.as_str());
        }
        Pausable::Schedule(id) => {
            put.u8(2);
            put.text(id.as_str());
        }
    }
}

fn put_attempt(put: &mut Put, attempt: &Attempt) {
    put.var(u64::from(attempt.number));
    put.u64(attempt.started_at.as_nanos());
    put_duration(put, attempt.duration);
    match &attempt.outcome {
        Outcome::Answered(answer) => {
            put.u8(0);
            put.u32(u32::from(answer.status));
            put.u8(u8::from(answer.internal) | u8::from(answer.unknown_function) << 1);
            put.maybe(answer.retry_after.map(nanos));
            match &answer.asked {
                None => put.u8(0),
                Some(Asked::Retry(after)) => {
                    put.u8(1);
                    put.maybe(after.map(nanos));
                }
                Some(Asked::Dead(token)) => {
                    put.u8(2);
                    put.text(token.as_str());
                }
                Some(Asked::Done) => put.u8(3),
            }
        }
        Outcome::Dropped(why) => {
            put.u8(1);
            put.text(why);
        }
        Outcome::TimedOut => put.u8(2),
        Outcome::Unreachable(why) => {
            put.u8(3);
            put.text(why);
        }
        Outcome::Denied(why) => {
            put.u8(4);
            put.text(why);
        }
    }
    // The bound is the model's; what is longer is nobody's to keep.
    put.bytes(&attempt.excerpt[..attempt.excerpt.len().min(Attempt::EXCERPT)]);
}

// ---- Reading ----

/// Reads a record's payload. Bodies and header values are slices of it.
pub(crate) fn read(kind: u8, payload: Bytes) -> Result<Record, Malformed> {
    let mut take = Take::new(payload);
    let take = &mut take;
    Ok(match kind {
        kind::ACCEPTED => Record::Accepted(take_accepted(take)?),
        kind::STARTED => {
            let count = take.count()?;
            Record::Started((0..count).map(|_| take.var()).collect::<Result<_, _>>()?)
        }
        kind::SETTLED => Record::Settled(take_settled(take)?),
        kind::CANCELLED => Record::Cancelled { number: take.u64()?, at: take.u64()? },
        kind::REDRIVEN => Record::Redriven { number: take.u64()?, at: take.u64()?, life: take.u32()? },
        kind::REMOVED => Record::Removed { number: take.u64()? },
        kind::MOVED => Record::Moved(take_moved(take)?),
        kind::RECONCILED => Record::Reconciled(take_small(take)?),
        kind::PAUSE => {
            let held = take.u8()? != 0;
            Record::Pause { what: take_pausable(take)?, held }
        }
        kind::CHECKPOINT => Record::Checkpoint(take_small(take)?),
        kind::KEYS => {
            let count = take.count()?;
            let mut rows = Vec::with_capacity(count.min(4096));
            for _ in 0..count {
                rows.push(KeyRow {
                    key: take_dedup(take)?,
                    first: take.u64()?,
                    count: take.u32()?,
                    at: take.u64()?,
                });
            }
            Record::Keys(rows)
        }
        kind::MARK => Record::Marked(take_mark(take)?),
        kind::SCHEDULE => Record::Scheduled(match take.u8()? {
            0 => ScheduleChange::Put(take_schedule(take)?),
            1 => ScheduleChange::Removed(take_schedule_id(take)?),
            2 => ScheduleChange::Passed(take_schedule_id(take)?, Timestamp::from_nanos(take.u64()?)),
            _ => return Err(Malformed),
        }),
        kind::FRONT => Record::Front(take.u64()?),
        kind::OPENED => Record::Opened(take_small(take)?),
        kind::MISSING => Record::Missing { from: take.u64()?, to: take.u64()?, letter: take_accepted(take)? },
        _ => return Err(Malformed),
    })
}

fn take_accepted(take: &mut Take) -> Result<Accepted, Malformed> {
    let first = take.u64()?;
    let at = take.u64()?;
    let end = match take.u8()? {
        0 => None,
        n => Some((reason_of(n - 1)?, take.text()?)),
    };
    Ok(Accepted { first, at, acceptance: take_acceptance(take)?, end })
}

fn take_acceptance(take: &mut Take) -> Result<Acceptance, Malformed> {
    let flags = take.u8()?;
    if flags & !(KEYED | PLACED | FIRED) != 0 {
        return Err(Malformed);
    }
    let dedup = if flags & KEYED != 0 { Some(take_dedup(take)?) } else { None };
    let position = if flags & PLACED != 0 {
        Some(Position { partition: take_partition(take)?, offset: take.var()? })
    } else {
        None
    };
    let fire = if flags & FIRED != 0 { Some(Box::new(take_fire(take)?)) } else { None };
    let origin = take_origin(take)?;
    let count = take.count()?;
    let drafts = (0..count).map(|_| take_draft(take)).collect::<Result<_, _>>()?;
    let count = take.count()?;
    let mut headers = Headers::new();
    for _ in 0..count {
        let (name, value) = take.field()?;
        headers.append(name, value);
    }
    let body = match take.u8()? {
        0 => Body::Inline(take.bytes()?),
        1 => {
            let len = take.var()?;
            Body::Stored(StoredBody { len, location: take.bytes()?.to_vec().into() })
        }
        _ => return Err(Malformed),
    };
    Ok(Acceptance { origin, headers, body, drafts, dedup, position, fire })
}

fn take_settled(take: &mut Take) -> Result<Settled, Malformed> {
    let number = take.u64()?;
    let at = take.u64()?;
    let how = match take.u8()? {
        1 => How::Completed(take_attempt(take)?),
        2 => How::Retry { attempt: take_attempt(take)?, wait: take_duration(take)? },
        3 => How::Released { wait: take_duration(take)? },
        4 => {
            let attempt = match take.u8()? {
                0 => None,
                _ => Some(take_attempt(take)?),
            };
            How::Dead { attempt, reason: reason_of(take.u8()?)?, detail: take.text()? }
        }
        _ => return Err(Malformed),
    };
    let count = take.count()?;
    let then = (0..count).map(|_| take_accepted(take)).collect::<Result<_, _>>()?;
    Ok(Settled { number, at, how, then })
}

fn take_moved(take: &mut Take) -> Result<Moved, Malformed> {
    let at = take.u64()?;
    let count = take.count()?;
    let mut parts = Vec::with_capacity(count);
    for _ in 0..count {
        let number = take.u64()?;
        let life = take.u32()?;
        let life_began = take.u64()?;
        let interrupted = take.small()?;
        let started = take.u8()? != 0;
        let standing = match take.u8()? {
            0 => Standing::Waiting { until: take.maybe()? },
            n => Standing::Dead { reason: reason_of(n - 1)?, detail: take.text()?, died_at: take.u64()? },
        };
        let kept = take.count()?;
        let kept: Vec<Attempt> = (0..kept).map(|_| take_attempt(take)).collect::<Result<_, _>>()?;
        let counted = take.count()?;
        let counted: Vec<(Class, u32)> = (0..counted)
            .map(|_| Ok((class_of(take.u8()?)?, take.small()?)))
            .collect::<Result<_, Malformed>>()?;
        let history = AttemptHistory::from_parts(kept, counted);
        parts.push(MovedPart { number, life, life_began, interrupted, started, standing, history });
    }
    Ok(Moved { at, acceptance: take_acceptance(take)?, parts })
}

fn take_small(take: &mut Take) -> Result<Small, Malformed> {
    let mut small = Small::default();
    // A later version may know more origins and reasons than this one; an earlier one fewer.
    let origins = take.count()?;
    for place in 0..origins {
        let n = take.var()?;
        *small.totals.accepted.get_mut(place).ok_or(Malformed)? = n;
    }
    small.totals.redriven = take.var()?;
    small.totals.completed = take.var()?;
    let reasons = take.count()?;
    for place in 0..reasons {
        let n = take.var()?;
        *small.totals.dead.get_mut(place).ok_or(Malformed)? = n;
    }
    small.totals.cancelled = take.var()?;
    small.totals.removed = take.var()?;
    small.next = take.var()?;
    small.damaged = take.var()?;
    let paused = take.count()?;
    small.paused = (0..paused).map(|_| take_pausable(take)).collect::<Result<_, _>>()?;
    let gaps = take.count()?;
    small.gaps = (0..gaps).map(|_| Ok((take.var()?, take.var()?))).collect::<Result<_, Malformed>>()?;
    // A directory of a version before says nothing of what follows.
    if take.left() == 0 {
        return Ok(small);
    }
    let marks = take.count()?;
    for _ in 0..marks {
        let partition = take_partition(take)?;
        let (below, committed) = (take.var()?, take.maybe()?);
        small.marks.put(partition, Mark::from_parts(below, take_ranges(take)?, committed));
    }
    let schedules = take.count()?;
    for _ in 0..schedules {
        small.schedules.restore(Entry {
            schedule: take_schedule(take)?,
            decided: Timestamp::from_nanos(take.u64()?),
            last_fire: take.maybe()?.map(Timestamp::from_nanos),
            fired: take_ranges(take)?,
        });
    }
    if take.left() > 0 {
        small.front = take.var()?;
    }
    Ok(small)
}

fn take_ranges(take: &mut Take) -> Result<Ranges, Malformed> {
    let count = take.count()?;
    let mut before = 0u64;
    (0..count)
        .map(|_| {
            let start = before.checked_add(take.var()?).ok_or(Malformed)?;
            before = start.checked_add(take.var()?).ok_or(Malformed)?;
            Ok(start..before)
        })
        .collect()
}

fn take_partition(take: &mut Take) -> Result<Arc<Partition>, Malformed> {
    let source = take_source(take)?;
    let (stream, incarnation, number) = (take.text()?, take.text()?, take.small()?);
    Partition::new(source, &stream, &incarnation, number).map(Arc::new).map_err(|_| Malformed)
}

fn take_schedule_id(take: &mut Take) -> Result<ScheduleId, Malformed> {
    ScheduleId::parse(&take.text()?).map_err(|_| Malformed)
}

fn take_schedule(take: &mut Take) -> Result<Schedule, Malformed> {
    Ok(Schedule {
        id: take_schedule_id(take)?,
        function: take_function(take)?,
        expression: take.text()?,
        anchor: Timestamp::from_nanos(take.u64()?),
    })
}

fn take_fire(take: &mut Take) -> Result<Fire, Malformed> {
    let (schedule, function) = (take_schedule_id(take)?, take_function(take)?);
    let instant = match (take.maybe()?, take.maybe()?) {
        (None, None) => None,
        (Some(at), Some(after)) => {
            Some(Instant { at: Timestamp::from_nanos(at), after: Timestamp::from_nanos(after) })
        }
        _ => return Err(Malformed),
    };
    Ok(Fire { schedule, function, instant })
}

fn take_mark(take: &mut Take) -> Result<MarkChange, Malformed> {
    Ok(match take.u8()? {
        0 => MarkChange::Resumed {
            partition: take_partition(take)?,
            voided: take.u8()? != 0,
            below: take.var()?,
            committed: take.maybe()?,
        },
        1 => MarkChange::Committed { partition: take_partition(take)?, next: take.var()? },
        2 => MarkChange::Reset { source: take_source(take)? },
        _ => return Err(Malformed),
    })
}

fn take_dedup(take: &mut Take) -> Result<DedupKey, Malformed> {
    Ok(DedupKey { scope: take.text()?, key: Fingerprint(take.u128()?), request: Fingerprint(take.u128()?) })
}

fn take_source(take: &mut Take) -> Result<SourceName, Malformed> {
    SourceName::parse(&take.text()?).map_err(|_| Malformed)
}

fn take_origin(take: &mut Take) -> Result<Origin, Malformed> {
    Ok(match take.u8()? {
        0 => Origin::Call,
        1 => Origin::Event {
            source: take_source(take)?,
            topic: Topic::parse(&take.text()?).map_err(|_| Malformed)?,
        },
        2 => Origin::Callback { of: InvocationId::from_u128(take.u128()?) },
        3 => Origin::DeadLetter { of: InvocationId::from_u128(take.u128()?) },
        4 => Origin::Quarantine { source: take_source(take)? },
        _ => return Err(Malformed),
    })
}

fn take_function(take: &mut Take) -> Result<FunctionName, Malformed> {
    let name = take.text()?;
    FunctionName::from_parts(&name, &take.text()?).map_err(|_| Malformed)
}

pub(crate) fn take_lane(take: &mut Take) -> Result<Lane, Malformed> {
    let queue = QueueName::parse(&take.text()?).map_err(|_| Malformed)?;
    let target = match take.u8()? {
        0 => LaneTarget::Function(take_function(take)?),
        1 => LaneTarget::CallbackHosts(u16::try_from(take.u32()?).map_err(|_| Malformed)?),
        _ => return Err(Malformed),
    };
    Ok(Lane { queue, target })
}

fn take_draft(take: &mut Take) -> Result<Draft, Malformed> {
    let lane = take_lane(take)?;
    let target = match take.u8()? {
        kind @ (0 | 3) => {
            let function = match (kind, &lane.target) {
                (3, LaneTarget::Function(function)) => function.clone(),
                (0, _) => take_function(take)?,
                _ => return Err(Malformed),
            };
            let written = take.text()?;
            let path_and_query = take.text()?;
            let callback_url = match take.u8()? {
                0 => None,
                _ => Some(take.text()?),
            };
            Target::Function(FunctionCall { function, written, path_and_query, callback_url })
        }
        1 => Target::Callback(CallbackCall { url: take.text()? }),
        2 => Target::Nobody,
        _ => return Err(Malformed),
    };
    Ok(Draft {
        lane,
        target,
        call_id: CallId::parse(&take.text()?).map_err(|_| Malformed)?,
        due: take.maybe()?.map(Timestamp::from_nanos),
        max_age: take.maybe()?.map(Duration::from_nanos),
    })
}

fn take_duration(take: &mut Take) -> Result<Duration, Malformed> {
    take.var().map(Duration::from_nanos)
}

fn take_pausable(take: &mut Take) -> Result<Pausable, Malformed> {
    Ok(match take.u8()? {
        0 => Pausable::Function(take_function(take)?),
        1 => Pausable::Source(take_source(take)?),
        2 => Pausable::Schedule(take_schedule_id(take)?),
        _ => return Err(Malformed),
    })
}

fn take_attempt(take: &mut Take) -> Result<Attempt, Malformed> {
    let number = take.small()?;
    let started_at = Timestamp::from_nanos(take.u64()?);
    let duration = take_duration(take)?;
    let outcome = match take.u8()? {
        0 => {
            let status = u16::try_from(take.u32()?).map_err(|_| Malformed)?;
            let flags = take.u8()?;
            let retry_after = take.maybe()?.map(Duration::from_nanos);
            let asked = match take.u8()? {
                0 => None,
                1 => Some(Asked::Retry(take.maybe()?.map(Duration::from_nanos))),
                2 => Some(Asked::Dead(AskedReason::parse(&take.text()?).ok_or(Malformed)?)),
                3 => Some(Asked::Done),
                _ => return Err(Malformed),
            };
            let (internal, unknown_function) = (flags & 1 != 0, flags & 2 != 0);
            Outcome::Answered(Answer { status, internal, unknown_function, retry_after, asked })
        }
        1 => Outcome::Dropped(take.text()?),
        2 => Outcome::TimedOut,
        3 => Outcome::Unreachable(take.text()?),
        4 => Outcome::Denied(take.text()?),
        _ => return Err(Malformed),
    };
    Ok(Attempt { number, started_at, duration, outcome, excerpt: take.bytes()? })
}

fn reason_number(reason: Reason) -> u8 {
    reason_index(reason) as u8
}

/// The place of a reason in [`Reason::ALL`], which only ever grows at its end.
pub(crate) fn reason_index(reason: Reason) -> usize {
    Reason::ALL.iter().position(|r| *r == reason).unwrap_or(0)
}

fn reason_of(number: u8) -> Result<Reason, Malformed> {
    Reason::ALL.get(usize::from(number)).copied().ok_or(Malformed)
}

/// The place of a class in [`Class::ALL`], which only ever grows at its end.
pub(crate) fn class_number(class: Class) -> u8 {
    Class::ALL.iter().position(|c| *c == class).unwrap_or(0) as u8
}

pub(crate) fn class_of(number: u8) -> Result<Class, Malformed> {
    Class::ALL.get(usize::from(number)).copied().ok_or(Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(outcome: Outcome) -> Attempt {
        Attempt {
            number: 7,
            started_at: Timestamp::from_nanos(12_345),
            duration: Duration::from_millis(3),
            outcome,
            excerpt: Bytes::from_static(b"oops"),
        }
    }

    fn acceptance() -> Acceptance {
        let function = FunctionName::parse(&"f".repeat(253), "openfaas-fn").unwrap();
        let lane = Lane { queue: QueueName::default(), target: LaneTarget::Function(function.clone()) };
        let call = |function: FunctionName| {
            Target::Function(FunctionCall {
                function,
                written: "f".into(),
                path_and_query: "/a%2Fb?x=1".into(),
                callback_url: Some("http://x/".into()),
            })
        };
        let draft = |target| Draft {
            lane: lane.clone(),
            target,
            call_id: CallId::parse("a call").unwrap(),
            due: Some(Timestamp::from_nanos(u64::MAX)),
            max_age: Some(Duration::from_secs(9)),
        };
        let callback = Draft {
            lane: Lane { queue: QueueName::default(), target: LaneTarget::CallbackHosts(1023) },
            due: None,
            max_age: None,
            ..draft(Target::Callback(CallbackCall { url: "https://y/".into() }))
        };
        Acceptance {
            origin: Origin::Event {
                source: SourceName::parse("bus").unwrap(),
                topic: Topic::parse("a topic").unwrap(),
            },
            headers: [("a", &b"1"[..]), ("a", &b"\xff"[..])].into_iter().collect(),
            body: Body::Inline(Bytes::from_static(b"body")),
            drafts: vec![
                draft(call(function)),
                draft(call(FunctionName::parse("other.dev", "x").unwrap())),
                draft(Target::Nobody),
                callback,
            ],
            dedup: Some(DedupKey {
                scope: "http".into(),
                key: Fingerprint(1),
                request: Fingerprint(u128::MAX),
            }),
            position: Some(Position { partition: partition(), offset: u64::MAX - 1 }),
            fire: Some(Box::new(Fire {
                schedule: schedule_kept().id,
                function: schedule_kept().function,
                instant: Some(Instant { at: Timestamp::from_nanos(60), after: Timestamp::EPOCH }),
            })),
        }
    }

    fn partition() -> Arc<Partition> {
        let source = SourceName::parse("bus").unwrap();
        Arc::new(Partition::new(source, "orders", "Zm9v", u32::MAX).unwrap())
    }

    fn schedule_kept() -> Schedule {
        let function = FunctionName::parse("report", "openfaas-fn").unwrap();
        let id = ScheduleId::derive(&function, "@every 1m", 0);
        Schedule { id, function, expression: "@every 1m".into(), anchor: Timestamp::from_nanos(7) }
    }

    #[test]
    fn what_sources_and_schedules_received_reads_back_as_it_was() {
        let mut kept = Small::default();
        let above = [5..6, 9..u64::MAX].into_iter().collect();
        kept.marks.put(partition(), Mark::from_parts(3, above, Some(2)));
        kept.schedules.put(&schedule_kept());
        let instant = Instant { at: Timestamp::from_nanos(60), after: Timestamp::from_nanos(7) };
        kept.schedules.fired(&schedule_kept().id, instant);
        kept.paused.push(Pausable::Schedule(schedule_kept().id));

        let Record::Checkpoint(found) = read(kind::CHECKPOINT, small(&kept).into()).unwrap() else {
            panic!()
        };
        assert_eq!(found, kept);

        let resumed =
            |committed| MarkChange::Resumed { partition: partition(), voided: true, below: 4, committed };
        let source = SourceName::parse("bus").unwrap();
        let committed = MarkChange::Committed { partition: partition(), next: 1 << 40 };
        for change in [resumed(None), resumed(Some(0)), committed, MarkChange::Reset { source }] {
            let Record::Marked(found) = read(kind::MARK, mark(&change).into()).unwrap() else { panic!() };
            assert_eq!(found, change);
        }
        let id = schedule_kept().id;
        let passed = ScheduleChange::Passed(id.clone(), Timestamp::from_nanos(u64::MAX));
        for change in [ScheduleChange::Put(schedule_kept()), ScheduleChange::Removed(id), passed] {
            let Record::Scheduled(found) = read(kind::SCHEDULE, schedule(&change).into()).unwrap() else {
                panic!()
            };
            assert_eq!(found, change);
        }
    }

    #[test]
    fn an_acceptance_reads_back_as_it_was() {
        let mut put = Put::default();
        accepted(&mut put, &acceptance(), Some((Reason::Undecodable, "no json")));
        fill(&mut put.0, 0, 42, 99);

        let Record::Accepted(found) = read(kind::ACCEPTED, put.0.into()).unwrap() else { panic!() };

        assert_eq!(found.acceptance, acceptance());
        assert_eq!((found.first, found.at), (42, 99));
        assert_eq!(found.end, Some((Reason::Undecodable, "no json".into())));
    }

    #[test]
    fn every_outcome_reads_back_as_it_was() {
        let answered = |asked| {
            Outcome::Answered(Answer {
                status: 503,
                internal: true,
                unknown_function: true,
                retry_after: Some(Duration::from_secs(4)),
                asked,
            })
        };
        let outcomes = [
            answered(None),
            answered(Some(Asked::Done)),
            answered(Some(Asked::Retry(Some(Duration::from_secs(1))))),
            answered(Some(Asked::Dead(AskedReason::parse("bad-schema").unwrap()))),
            Outcome::Dropped("gone".into()),
            Outcome::TimedOut,
            Outcome::Unreachable("refused".into()),
            Outcome::Denied("169.254.169.254".into()),
        ];
        for outcome in outcomes {
            let mut put = Put::default();
            let how = How::Dead {
                attempt: Some(attempt(outcome.clone())),
                reason: Reason::Rejected,
                detail: "d".into(),
            };
            let places = settled(&mut put, &how, &[acceptance(), acceptance()]);
            fill(&mut put.0, 0, 5, 6);
            fill(&mut put.0, places[1], 77, 6);

            let Record::Settled(found) = read(kind::SETTLED, put.0.into()).unwrap() else { panic!() };
            let How::Dead { attempt: Some(found_attempt), reason, .. } = found.how else { panic!() };
            assert_eq!(found_attempt, attempt(outcome));
            assert_eq!((found.number, found.at, reason), (5, 6, Reason::Rejected));
            assert_eq!(found.then[1].first, 77);
            assert_eq!(found.then[0].acceptance, acceptance());
        }
    }

    #[test]
    fn a_moved_one_keeps_its_whole_history() {
        let mut history = AttemptHistory::default();
        for _ in 0..50 {
            history.push(attempt(Outcome::TimedOut));
        }
        let part = MovedPart {
            number: 1 << 40,
            life: 3,
            life_began: 8,
            interrupted: 2,
            started: true,
            standing: Standing::Dead { reason: Reason::Exhausted, detail: "x".into(), died_at: 4 },
            history: history.clone(),
        };
        let bytes = moved(&Moved { at: 1, acceptance: acceptance(), parts: vec![part] });

        let Record::Moved(found) = read(kind::MOVED, bytes.into()).unwrap() else { panic!() };
        assert_eq!(found.parts[0].history, history);
        assert_eq!((found.parts[0].number, found.parts[0].life), (1 << 40, 3));
        assert_eq!(found.acceptance, acceptance());
    }

    #[test]
    fn no_cut_record_makes_it_panic() {
        let mut put = Put::default();
        accepted(&mut put, &acceptance(), None);

        for len in 0..put.0.len() {
            assert!(read(kind::ACCEPTED, put.0[..len].to_vec().into()).is_err(), "{len} bytes");
        }
    }
}
