//! The one writer: takes what queued during the previous sync, writes once, syncs once, answers all.
//!
//! There is no timer: a batch is what came while the last one was synced. Only settlements and started marks, which
//! nobody outside waits for, are held up to 5 ms for company; marks of calls that may have killed us are not.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use broker_model::StoreError;

use crate::files::File;
use crate::open;
use crate::record::{self, Small, kind};
use crate::segment::{self, Batch, Head};
use crate::state::{After, tally};
use crate::store::{Core, Pending, Rest, Shared};
use crate::table::Place;
use crate::upkeep;

/// The most records of one batch.
const MOST_RECORDS: usize = 1024;
/// The most bytes of one batch; one record may be larger.
const MOST_BYTES: usize = 4 << 20;
/// How long settlements wait for company.
const RIDE: Duration = Duration::from_millis(5);
/// How often a full disk is looked at again.
const FULL_AGAIN: Duration = Duration::from_secs(1);

/// The open end of the journal.
#[derive(Debug)]
pub(crate) struct Journal {
    pub(crate) file: Arc<dyn File>,
    pub(crate) segment: u32,
    pub(crate) salt: u32,
    pub(crate) tag: u32,
    /// Where the next batch goes.
    pub(crate) at: u64,
    /// How long the file is.
    pub(crate) len: u64,
    /// Up to where it is synced.
    pub(crate) synced: u64,
    /// The next journal number.
    pub(crate) next: u64,
    /// The small state as of the last record written.
    pub(crate) small: Small,
    /// The last batch's sync is stated by something behind it.
    pub(crate) stated: bool,
    pub(crate) buffer: Vec<u8>,
}

/// What failed of a write, and the operating system's word.
struct Failure(&'static str, std::io::Error);

/// Runs until the store is closed. A panic is a fault of ours that leaves nothing known: it fails the store.
pub(crate) fn run_guarded(shared: &Shared, journal: Journal) {
    if catch_unwind(AssertUnwindSafe(|| run(shared, journal))).is_err() {
        fail(shared, "the writer", &std::io::Error::other("it panicked"));
        stop(shared, Err(shared.last_word()));
    }
}

fn run(shared: &Shared, mut journal: Journal) {
    loop {
        let Some(mut batch) = next_batch(shared, &mut journal) else { break };
        let outcome = write(shared, &mut journal, &mut batch);
        if let Err(Failure(what, error)) = outcome {
            // It is refused with whatever queued behind it, and so is who waited for one of it as for a first.
            {
                let mut core = shared.core();
                batch.into_iter().rev().for_each(|pending| core.pending.push_front(pending));
            }
            fail(shared, what, &error);
        }
    }
    finish(shared, &mut journal);
}

/// Waits for records. `None` when the store closes and all is written.
fn next_batch(shared: &Shared, journal: &mut Journal) -> Option<Vec<Pending>> {
    let mut core = shared.core();
    let mut riding_since = None;
    loop {
        core.rest = Rest::No;
        if let Some(error) = core.failed.clone() {
            refuse_all(&mut core, &error);
        }
        if core.pending.is_empty() {
            if core.closing {
                return None;
            }
            if !journal.stated && core.failed.is_none() {
                drop(core);
                state_sync(journal);
                core = shared.core();
                continue;
            }
            core.rest = Rest::Idle;
            core = wait(shared, core, None);
            continue;
        }
        if core.urgent > 0 || core.closing || core.pending.len() >= MOST_RECORDS {
            break;
        }
        let since = *riding_since.get_or_insert_with(Instant::now);
        let left = RIDE.saturating_sub(since.elapsed());
        if left.is_zero() {
            break;
        }
        core.rest = Rest::Riding;
        core = wait(shared, core, Some(left));
    }
    core.rest = Rest::No;
    // Small segments are for tests and small disks; a batch must not stretch one.
    let most_bytes = MOST_BYTES.min(usize::try_from(shared.options.segment_bytes / 4).unwrap_or(MOST_BYTES));
    let (mut records, mut bytes) = (0, 0);
    for pending in &core.pending {
        bytes += pending.payload.len();
        if records > 0 && (bytes > most_bytes || records >= MOST_RECORDS) {
            break;
        }
        records += 1;
    }
    let batch: Vec<Pending> = core.pending.drain(..records).collect();
    core.urgent -= batch.iter().filter(|pending| pending.urgent).count();
    Some(batch)
}

fn wait<'a>(shared: &'a Shared, core: MutexGuard<'a, Core>, most: Option<Duration>) -> MutexGuard<'a, Core> {
    match most {
        None => shared.work.wait(core).unwrap_or_else(PoisonError::into_inner),
        Some(most) => shared.work.wait_timeout(core, most).unwrap_or_else(PoisonError::into_inner).0,
    }
}

fn write(shared: &Shared, journal: &mut Journal, batch: &mut Vec<Pending>) -> Result<(), Failure> {
    keep_reserve(shared, journal, batch);
    if batch.is_empty() {
        return Ok(());
    }
    let payloads: usize = batch.iter().map(|pending| pending.payload.len()).sum();
    let needed = segment::batch_size(payloads, batch.len()) as u64;
    let mut bytes = std::mem::take(&mut journal.buffer);
    bytes.clear();
    let mut begun = None;
    if journal.at + needed > journal.len {
        let checkpoint = {
            // It has what the batches before said, and notes besides that are worth no record of their own.
            let received = &shared.core().state.received;
            let (marks, schedules) = (received.marks.clone(), received.schedules.clone());
            record::small(&Small { marks, schedules, ..journal.small.clone() })
        };
        let front = segment::HEADER + segment::batch_size(checkpoint.len(), 1) as u64;
        begun = upkeep::next_segment(shared, front + needed, journal.synced, journal.next);
        let Some(spare) = &begun else {
            journal.buffer = bytes;
            wait_for_room(shared, std::mem::take(batch));
            return Ok(());
        };
        let head = Head {
            format: segment::FORMAT,
            segment: spare.segment,
            salt: shared.salt,
            tag: journal.tag,
            previous_end: journal.synced,
        };
        bytes.extend_from_slice(&head.write());
        let mut front = Batch::begin(bytes, journal.next);
        front.push(shared.salt, kind::CHECKPOINT, &checkpoint);
        journal.next += 1;
        bytes = front.finish(shared.salt, spare.segment, segment::HEADER);
    }
    if let Some(spare) = begun {
        // The segment before was synced whole with its last batch.
        journal.file = spare.file;
        journal.segment = spare.segment;
        journal.len = spare.len;
        journal.at = 0;
        journal.synced = segment::HEADER;
    }
    let base = journal.at;
    let mut records = Batch::begin(bytes, journal.next);
    let mut offsets = Vec::with_capacity(batch.len());
    let mut number = journal.next;
    let mut numbers = Vec::with_capacity(batch.len());
    for pending in batch.iter() {
        numbers.push(number);
        if matches!(pending.after, After::Barrier) {
            offsets.push(0);
            continue;
        }
        offsets.push(base as u32 + records.push(shared.salt, pending.kind, &pending.payload) as u32);
        tally(&mut journal.small, &pending.after);
        number += 1;
    }
    journal.next += u64::from(records.records());
    let any = records.records() > 0;
    bytes = records.finish(shared.salt, journal.segment, journal.synced);

    let mut sync_time = Duration::ZERO;
    if any || base == 0 {
        journal.file.write_at(&bytes, base).map_err(|error| Failure("a write to the journal", error))?;
        let began = Instant::now();
        journal.file.sync_data().map_err(|error| Failure("a sync of the journal", error))?;
        sync_time = began.elapsed();
        journal.at = base + bytes.len() as u64;
        journal.synced = journal.at;
        journal.stated = false;
    }
    journal.buffer = bytes;

    let now = shared.moment();
    let mut told = Vec::with_capacity(batch.len());
    {
        let mut core = shared.core();
        let core = &mut *core;
        for ((pending, offset), number) in batch.iter_mut().zip(offsets).zip(numbers) {
            let place = Place { segment: journal.segment, offset };
            let size = segment::record_size(pending.payload.len());
            let after = std::mem::replace(&mut pending.after, After::Barrier);
            if let After::Accepted(new, _) = &after {
                core.pending_drafts -= new.acceptance.drafts.len() as u64;
            }
            if !matches!(after, After::Barrier) {
                core.state.journal = number;
            }
            core.state.commit(after, place, size, now, &mut told);
        }
        core.durable += batch.len() as u64;
        core.commits += u64::from(any);
        core.sync_time += sync_time;
        core.current = journal.segment;
        core.room = journal.len.saturating_sub(journal.at);
        shared.signal(core);
        if !core.state.changes.is_empty() || core.state.lagging {
            shared.follow.notify_one();
        }
    }
    told.extend(batch.iter_mut().filter_map(|pending| pending.waiter.take()));
    for waiter in told {
        // Who does not wait any more does not mind.
        let _ = waiter.send(Ok(()));
    }
    Ok(())
}

/// Refuses what is new where it would take what settlements are promised of the last segment there is room for.
///
/// The next segment is nearly always allocated ahead. Where it is not yet, whether there is one to be had is found out
/// here, because the upkeep may be too late to say so.
fn keep_reserve(shared: &Shared, journal: &Journal, batch: &mut Vec<Pending>) {
    let payloads: usize = batch.iter().map(|pending| pending.payload.len()).sum();
    let left = journal.len.saturating_sub(journal.at + segment::batch_size(payloads, batch.len()) as u64);
    if left >= shared.settlement_reserve() || shared.core().spare.is_some() {
        return;
    }
    if !batch.iter().any(|pending| matches!(pending.after, After::Accepted(..))) {
        return;
    }
    upkeep::ensure_spare(shared);
    let mut core = shared.core();
    let Some(what) = core.full.clone() else { return };
    let (new, kept) =
        std::mem::take(batch).into_iter().partition(|pending| matches!(pending.after, After::Accepted(..)));
    *batch = kept;
    refuse(&mut core, new, &what);
}

/// Answers acceptances that there is no room for.
fn refuse(core: &mut Core, new: Vec<Pending>, what: &str) {
    for pending in new {
        let After::Accepted(new, _) = &pending.after else { continue };
        core.pending_drafts -= new.acceptance.drafts.len() as u64;
        let error = core.full_error(what);
        let mut told = core.state.received.forget(&new.acceptance);
        if let Some(key) = &new.acceptance.dedup {
            told.extend(core.state.dedup.forget(key, new.first));
        }
        core.asked -= 1;
        told.extend(pending.waiter);
        for waiter in told {
            let _ = waiter.send(Err(error.clone()));
        }
    }
}

/// No segment can be begun: what is new is refused, what settles waits here until there is room.
fn wait_for_room(shared: &Shared, batch: Vec<Pending>) {
    let mut core = shared.core();
    let all = batch.into_iter().chain(std::mem::take(&mut core.pending));
    let (new, kept): (Vec<Pending>, Vec<Pending>) =
        all.partition(|pending| matches!(pending.after, After::Accepted(..)));
    let what = core.full.clone().unwrap_or_else(|| "disk".into());
    refuse(&mut core, new, &what);
    core.urgent = kept.iter().filter(|pending| pending.urgent).count();
    core.pending = kept.into();
    shared.upkeep.notify_one();
    // A closing store does not wait for a disk that may stay full: what is kept comes back at the next start.
    if core.closing {
        let error = core.full_error("disk");
        refuse_all(&mut core, &error);
        return;
    }
    drop(wait(shared, core, Some(FULL_AGAIN)));
}

/// Says behind the last batch that it is synced, so that later damage to it is not taken for a torn tail.
///
/// Nothing waits for this to be durable: after a crash of the process it is there, after a power cut it may be.
fn state_sync(journal: &mut Journal) {
    journal.stated = true;
    let bytes = Batch::begin(Vec::new(), journal.next).finish(journal.salt, journal.segment, journal.synced);
    if journal.at + bytes.len() as u64 <= journal.len
        // A fault of the disk shows at the next batch, which somebody waits for.
        && journal.file.write_at(&bytes, journal.at).is_ok()
    {
        journal.at += bytes.len() as u64;
    }
}

fn refuse_all(core: &mut Core, error: &StoreError) {
    for pending in std::mem::take(&mut core.pending) {
        let mut told = Vec::new();
        if let After::Accepted(new, _) = &pending.after {
            core.pending_drafts -= new.acceptance.drafts.len() as u64;
            told = core.state.received.forget(&new.acceptance);
            if let Some(key) = &new.acceptance.dedup {
                told.extend(core.state.dedup.forget(key, new.first));
            }
        }
        told.extend(pending.waiter);
        for waiter in told {
            let _ = waiter.send(Err(error.clone()));
        }
    }
    core.urgent = 0;
}

/// A failed write or sync is final: what the disk holds is no longer known.
fn fail(shared: &Shared, what: &'static str, error: &std::io::Error) {
    tracing::error!(path = %shared.options.path.display(), %error, "{what} failed: no write is taken until a restart");
    let mut core = shared.core();
    let error = StoreError::Failed { what, cause: error.to_string().into() };
    core.failed = Some(error.clone());
    refuse_all(&mut core, &error);
    shared.upkeep.notify_all();
    shared.ready.notify_one();
}

fn finish(shared: &Shared, journal: &mut Journal) {
    let mut result = match shared.core().failed.clone() {
        Some(error) => Err(error),
        None => Ok(()),
    };
    if result.is_ok() {
        // The last word states the last sync, and is synced itself: the next start finds nothing in doubt.
        state_sync(journal);
        if let Err(error) = journal.file.sync_data() {
            fail(shared, "the last sync of the journal", &error);
            result = Err(shared.last_word());
        } else if let Err(error) = open::mark_closed(shared, journal.segment, journal.at) {
            // Without the mark the next start only looks more closely.
            tracing::warn!(%error, "cannot note that the store was closed in order");
        }
    }
    stop(shared, result);
}

fn stop(shared: &Shared, result: Result<(), StoreError>) {
    let mut core = shared.core();
    core.stopped = true;
    for waiter in std::mem::take(&mut core.on_stop) {
        let _ = waiter.send(result.clone());
    }
    shared.follow.notify_all();
    shared.upkeep.notify_all();
}
