//! Giving space back: segments go oldest first, and what still lives in the oldest is copied forward first.
//!
//! Because only the oldest goes, a settled mark never disappears before what it settles: it stands behind it. A
//! segment is removed after a sync that covers every copy and every settlement its removal relies on.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use broker_model::Acceptance;

use crate::bodies::read_error;
use crate::index;
use crate::record::{self, KeyRow, Moved, MovedPart, Record, Standing, kind, nanos};
use crate::segment;
use crate::state::{After, Extra, MovedMark};
use crate::store::{Core, Pending, ReadError, Shared};
use crate::summary::summary_name;
use crate::table::{Entry, Phase, Place};

/// How many keys are carried forward in one record.
const KEYS_AT_ONCE: usize = 4096;
/// How often a record is looked at again when it changed while it was being read.
pub(crate) const TRIES: usize = 8;

/// Removes the oldest segments as far as the rules say so.
pub(crate) fn give_back(shared: &Shared) {
    while let Some(step) = next_step(shared) {
        let done = match step {
            Step::Remove(segment) => remove(shared, segment),
            Step::Copy(segment) => copy(shared, segment) && remove(shared, segment),
        };
        if !done {
            return;
        }
    }
}

enum Step {
    /// Nothing in it is needed.
    Remove(u32),
    /// Something in it lives on.
    Copy(u32),
}

fn next_step(shared: &Shared) -> Option<Step> {
    let mut core = shared.core();
    if core.closing || core.failed.is_some() {
        return None;
    }
    let (&oldest, &space) = core.state.space.first_key_value()?;
    if oldest >= core.current {
        return None;
    }
    if space.entries == 0 {
        return Some(Step::Remove(oldest));
    }
    let on_disk: u64 = core.state.space.values().map(|space| space.len).sum();
    let live: u64 = core.state.space.values().map(|space| space.live).sum();
    // What ended may pin as much journal as the retention allows it in bytes, whatever else stands in that.
    let pins = core.state.space.values().skip_while(|space| space.retained == 0);
    let pinned: u64 = pins.map(|space| space.len.saturating_sub(space.live)).sum();
    let pinned = pinned.min(shared.options.retention.bytes);
    let allowed = 2 * live + pinned + 4 * shared.options.segment_bytes;
    // On a full disk what can only be looked up makes room, and copying is worth what it frees.
    let pressed = core.full.is_some() && space.live < space.len / 2;
    if on_disk <= allowed && !pressed {
        return None;
    }
    core.state.forget_ended_in(oldest);
    if core.state.space.get(&oldest).is_some_and(|space| space.entries == 0) {
        return Some(Step::Remove(oldest));
    }
    // Copies need room themselves, and must not take what settlements are promised.
    if core.full.is_some() && core.room < space.live + shared.settlement_reserve() {
        return None;
    }
    Some(Step::Copy(oldest))
}

/// Removes a segment that nothing lives in, carrying its dedup keys forward. Whether it is gone.
fn remove(shared: &Shared, segment: u32) -> bool {
    if shared.core().state.dedup.on_segment(segment) > 0 && !carry_keys(shared, segment) {
        return false;
    }
    {
        // What is missed at the next start is told from what was given back by this.
        let mut core = shared.core();
        let behind = (std::ops::Bound::Excluded(segment), std::ops::Bound::Unbounded);
        let front = core.state.space.range(behind).next().map(|(_, space)| space.first);
        if let Some(front) = front.filter(|front| *front > core.state.front)
            && core.check_open().is_ok()
        {
            let (payload, after) = (record::front(front), After::Front(front));
            shared
                .push(&mut core, Pending { kind: kind::FRONT, payload, after, waiter: None, urgent: false });
        }
    }
    // The settlements that emptied it may still be on their way.
    if !settled_so_far(shared) {
        return false;
    }
    {
        let mut core = shared.core();
        match core.state.space.get(&segment) {
            Some(space) if space.entries > 0 => return false,
            _ => core.state.space.remove(&segment),
        };
    }
    shared.close_handle(segment);
    let path = shared.segment_path(segment);
    let removed = shared.files.remove(&path).and_then(|()| shared.files.sync_dir(&shared.journal_dir()));
    // One that stays is removed at the next start.
    let _ = shared.files.remove(&shared.summaries_dir().join(summary_name(segment)));
    if let Err(error) = removed {
        // It is read again at the next start and does no harm: everything in it is settled behind it.
        tracing::warn!(%error, path = %path.display(), "cannot remove a segment nothing lives in");
    }
    true
}

/// Blocks until everything asked for so far is durable; `false` when the store stopped instead.
pub(crate) fn settled_so_far(shared: &Shared) -> bool {
    let receiver = {
        let mut core = shared.core();
        if core.check_open().is_err() {
            return false;
        }
        let (waiter, receiver) = oneshot::channel();
        let after = After::Barrier;
        let pending = Pending { kind: 0, payload: Vec::new(), after, waiter: Some(waiter), urgent: true };
        shared.push(&mut core, pending);
        receiver
    };
    matches!(receiver.blocking_recv(), Ok(Ok(())))
}

pub(crate) fn read_segment(shared: &Shared, segment: u32) -> Option<Bytes> {
    let path = shared.segment_path(segment);
    let read = shared.files.open(&path).and_then(|file| {
        let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(0)];
        let read = file.read_at(&mut bytes, 0)?;
        bytes.truncate(read);
        Ok(bytes)
    });
    match read {
        Ok(bytes) => Some(bytes.into()),
        Err(error) => {
            tracing::error!(%error, path = %path.display(), "cannot read a segment that is to make room");
            None
        }
    }
}

/// Every record of a segment with its place. What is damaged is reported first.
fn records(shared: &Shared, number: u32) -> Option<Vec<(Place, Record)>> {
    let end = shared.core().state.space.get(&number)?.end;
    let bytes = read_segment(shared, number)?;
    let mut records = Vec::new();
    let mut understood = true;
    let scanned = segment::scan(&bytes, shared.salt, number, Some(end), |found| {
        if matches!(found.kind, kind::ACCEPTED | kind::SETTLED | kind::MOVED | kind::KEYS | kind::MISSING) {
            match record::read(found.kind, found.payload) {
                Ok(record) => records.push((Place { segment: number, offset: found.offset }, record)),
                Err(_) => understood = false,
            }
        }
    });
    let whole = understood && scanned.damage.is_empty();
    (whole || crate::sweep::report(shared, number)).then_some(records)
}

fn carry_keys(shared: &Shared, segment: u32) -> bool {
    let Some(records) = records(shared, segment) else { return false };
    let mut rows = Vec::new();
    for (_, record) in records {
        match record {
            Record::Accepted(accepted) => {
                if let Some(key) = accepted.acceptance.dedup {
                    let count = accepted.acceptance.drafts.len() as u32;
                    rows.push(KeyRow { key, first: accepted.first, count, at: accepted.at });
                }
            }
            Record::Keys(keys) => rows.extend(keys),
            _ => {}
        }
    }
    for rows in rows.chunks(KEYS_AT_ONCE) {
        let mut core = shared.core();
        let rows: Vec<KeyRow> = rows
            .iter()
            .filter(|row| core.state.dedup.stands_on(&row.key, row.first, segment))
            .cloned()
            .collect();
        if core.check_open().is_err() {
            return false;
        }
        if !rows.is_empty() {
            let payload = record::keys(&rows);
            let after = After::Keys(rows);
            shared.push(&mut core, Pending { kind: kind::KEYS, payload, after, waiter: None, urgent: false });
        }
    }
    true
}

/// Copies what lives in a segment to the end of the journal. Whether nothing is left in it.
fn copy(shared: &Shared, segment: u32) -> bool {
    let Some(records) = records(shared, segment) else { return false };
    let mut owed = 0;
    for (place, record) in records {
        let copied = match &record {
            Record::Accepted(accepted) => {
                let numbers = numbers(accepted.first, accepted.acceptance.drafts.len());
                copy_one(shared, place, 0, &record, (&accepted.acceptance, accepted.at), &numbers)
            }
            Record::Settled(settled) => {
                let (mut part, mut copied) = (0, Some(0));
                for accepted in &settled.then {
                    let numbers = numbers(accepted.first, accepted.acceptance.drafts.len());
                    let one =
                        copy_one(shared, place, part, &record, (&accepted.acceptance, accepted.at), &numbers);
                    copied = copied.and_then(|bytes: u64| Some(bytes + one?));
                    part += numbers.len() as u32;
                }
                copied
            }
            Record::Missing { letter, .. } => {
                let numbers = numbers(letter.first, letter.acceptance.drafts.len());
                copy_one(shared, place, 0, &record, (&letter.acceptance, letter.at), &numbers)
            }
            Record::Moved(moved) => {
                let numbers: Vec<u64> = moved.parts.iter().map(|part| part.number).collect();
                copy_one(shared, place, 0, &record, (&moved.acceptance, moved.at), &numbers)
            }
            _ => Some(0),
        };
        let Some(bytes) = copied else { return false };
        owed += bytes;
        // A bounded rate, in steps of an eighth of a second, so that deliveries keep the disk.
        if owed > shared.options.copy_rate / 8 {
            std::thread::sleep(Duration::from_secs_f64(owed as f64 / shared.options.copy_rate.max(1) as f64));
            owed = 0;
        }
    }
    settled_so_far(shared)
}

fn numbers(first: u64, count: usize) -> Vec<u64> {
    (first..first + count as u64).collect()
}

/// One part that lives, as it stood when it was looked at.
pub(crate) struct Seen {
    pub(crate) number: u64,
    nth: usize,
    pub(crate) entry: Entry,
    pub(crate) extra: Extra,
    /// It was read from the index.
    pub(crate) cold: bool,
}

/// Copies the parts of one acceptance that live. How many bytes that took; `None` when it could not be done now.
fn copy_one(
    shared: &Shared,
    place: Place,
    part: u32,
    record: &Record,
    (acceptance, at): (&Acceptance, u64),
    numbers: &[u64],
) -> Option<u64> {
    for _ in 0..TRIES {
        let (evictions, mut seen) = {
            let core = shared.core();
            (core.state.evictions, look(&core, place, part, numbers))
        };
        if seen.is_empty() {
            return Some(0);
        }
        for seen in seen.iter_mut().filter(|seen| seen.cold) {
            match shared.index.row(seen.number) {
                Ok(Some(extra)) => seen.extra = extra,
                // It changed meanwhile, or the index is at fault.
                Ok(None) => return None,
                Err(why) => {
                    index::doubt(shared, &why);
                    return None;
                }
            }
        }
        if seen.iter().any(|seen| seen.extra.is_pending() || seen.entry.phase() == Phase::Redriving) {
            if !settled_so_far(shared) {
                return None;
            }
            continue;
        }
        let mut parts = Vec::with_capacity(seen.len());
        for seen in &seen {
            match moved_part(shared, seen, Some(record), place) {
                Ok(part) => parts.push(part),
                Err(error) => {
                    let error = read_error(error);
                    tracing::error!(%error, "cannot copy an invocation forward: its segment stays");
                    return None;
                }
            }
        }
        let mut copy = Acceptance {
            drafts: Vec::with_capacity(seen.len()),
            dedup: None,
            position: None,
            fire: None,
            ..acceptance.clone()
        };
        copy.drafts.extend(seen.iter().map(|seen| acceptance.drafts[seen.nth].clone()));
        let payload = record::moved(&Moved { at, acceptance: copy, parts });
        let marks = seen
            .iter()
            .map(|seen| MovedMark {
                number: seen.number,
                life: seen.extra.life(),
                attempts: seen.extra.attempts.clone(),
                end: seen.extra.end,
                reason: None,
            })
            .collect();
        let mut core = shared.core();
        if core.check_open().is_err() {
            return None;
        }
        let now = look(&core, place, part, numbers);
        if now.len() == seen.len()
            && now.iter().zip(&seen).all(|(a, b)| is_same(a, b))
            && (core.state.evictions == evictions || !seen.iter().any(|seen| seen.cold))
        {
            // The copy's place is told to the index by way of memory.
            for seen in seen.into_iter().filter(|seen| seen.cold) {
                core.state.thaw(seen.number, seen.extra);
            }
            let bytes = payload.len() as u64;
            let after = After::Moved(marks);
            shared
                .push(&mut core, Pending { kind: kind::MOVED, payload, after, waiter: None, urgent: false });
            return Some(bytes);
        }
    }
    // It is busy; there is another round in a second.
    None
}

fn look(core: &Core, place: Place, part: u32, numbers: &[u64]) -> Vec<Seen> {
    let seen = numbers.iter().enumerate().filter_map(|(nth, &number)| {
        let entry = core.state.table.get(number)?;
        if entry.place != place || entry.part != part + nth as u32 || entry.phase().is_over() {
            return None;
        }
        self::seen(core, number, nth)
    });
    seen.collect()
}

/// How an invocation stands now.
pub(crate) fn seen(core: &Core, number: u64, nth: usize) -> Option<Seen> {
    let entry = *core.state.table.get(number)?;
    let extra = core.state.extras.get(&number).cloned().unwrap_or_default();
    Some(Seen { number, nth, entry, extra, cold: core.state.is_cold(number) })
}

pub(crate) fn is_same(a: &Seen, b: &Seen) -> bool {
    if a.cold && b.cold {
        return (a.number, a.entry.phase()) == (b.number, b.entry.phase());
    }
    let of = |seen: &Seen| {
        let extra = &seen.extra;
        (seen.number, seen.entry.phase(), extra.life(), extra.token, extra.started, extra.until, extra.made())
    };
    of(a) == of(b)
}

/// What a moved record says of one that lives. `record` is the one at `place`, unless that is lost.
pub(crate) fn moved_part(
    shared: &Shared,
    seen: &Seen,
    record: Option<&Record>,
    place: Place,
) -> Result<MovedPart, ReadError> {
    let extra = &seen.extra;
    let standing = match (seen.entry.phase(), extra.end) {
        (Phase::Dead, Some(end)) => {
            let own = record.map(|record| (record, place));
            let (reason, detail) = shared.why_dead(seen.number, end, extra.reason, own, record.is_none())?;
            Standing::Dead { reason, detail, died_at: extra.ended_at }
        }
        (Phase::Retrying, _) => {
            let now = shared.moment();
            let left = extra.until.saturating_sub(nanos(now.mono));
            Standing::Waiting { until: Some(now.wall.saturating_add(left)) }
        }
        _ => Standing::Waiting { until: None },
    };
    Ok(MovedPart {
        number: seen.number,
        life: extra.life(),
        life_began: extra.life_began,
        interrupted: extra.interrupted,
        started: extra.started,
        standing,
        history: shared.attempts(seen.number, extra)?,
    })
}
