//! Looking after sealed segments: a summary for each, and after a start a look at every byte of those that were not read.
//!
//! Both happen behind everybody's back, at the lowest priority and a bounded rate. What is found damaged is treated as a
//! start treats it: kept in quarantine, logged, and each run of missing records becomes one dead letter. A start knows no
//! more than the numbers that are missing; here memory still knows what stood on them, so every invocation whose record is
//! lost becomes a dead letter of its own as well.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use broker_model::Reason;

use crate::index;
use crate::open::{damaged_letter, detail_of, quarantine, stand_in};
use crate::record::{self, How, Moved, kind};
use crate::segment::{self, Head, Walked};
use crate::space::{self, TRIES, is_same, moved_part, settled_so_far};
use crate::state::{After, Ended, MovedMark, NewOnes};
use crate::store::{Core, Pending, Shared};
use crate::summary::{Scribe, Writing};
use crate::table::{Phase, Place};

/// How often it looks around when nobody calls.
const ROUND: Duration = Duration::from_secs(1);
/// How much is read between two looks at whether to go on.
const STEP: u64 = 1 << 20;
/// The most bytes a second that are read to see whether they are what was written.
const RATE: u64 = 64 << 20;

/// What is to be done with a segment.
#[derive(Debug, Clone, Copy)]
struct Task {
    segment: u32,
    /// The journal number it begins with.
    first: u64,
    end: u64,
    summarize: bool,
}

/// How a look at a segment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looked {
    Sound,
    Damaged,
    Refused,
    /// The store closes, or the segment went.
    Left,
}

/// Runs until the store stops.
pub(crate) fn run(shared: &Shared) {
    // On Linux this is the thread's own; where it is not allowed, the rate alone has to do.
    let _ = rustix::process::nice(19);
    loop {
        let task = {
            let mut core = shared.core();
            loop {
                if core.closing || core.stopped {
                    return;
                }
                if let Some(task) = next_task(&core) {
                    break task;
                }
                core = shared.sweep.wait_timeout(core, ROUND).unwrap_or_else(PoisonError::into_inner).0;
            }
        };
        let (looked, summary) = look(shared, task);
        if looked == Looked::Damaged && !report(shared, task.segment) {
            continue;
        }
        let mut core = shared.core();
        let Some(space) = core.state.space.get_mut(&task.segment) else { continue };
        match looked {
            Looked::Sound => {
                space.known.verified = true;
                space.known.summary = summary.or(space.known.summary);
                // There was no room, or the disk did not take it; it has another chance at the next start.
                space.known.no_summary |= task.summarize && summary.is_none();
            }
            Looked::Damaged | Looked::Refused => {
                space.known.verified = true;
                space.known.no_summary = true;
            }
            Looked::Left => {}
        }
    }
}

fn next_task(core: &Core) -> Option<Task> {
    if core.failed.is_some() {
        return None;
    }
    let sealed = || core.state.space.range(..core.current).filter(|(_, space)| space.end > 0);
    let task = |(segment, space): (&u32, &crate::state::Space), summarize| Task {
        segment: *segment,
        first: space.first,
        end: space.end,
        summarize,
    };
    let lacks = |space: &crate::state::Space| space.known.summary.is_none() && !space.known.no_summary;
    let summary = sealed().find(|(_, space)| lacks(space)).filter(|_| core.full.is_none());
    let unseen = || sealed().find(|(_, space)| !space.known.verified);
    summary.map(|found| task(found, true)).or_else(|| unseen().map(|found| task(found, false)))
}

/// Whether nothing is left to be looked at.
pub(crate) fn is_done(core: &Core) -> bool {
    core.state
        .space
        .range(..core.current)
        .filter(|(_, space)| space.end > 0)
        .all(|(_, space)| space.known.verified && (space.known.summary.is_some() || space.known.no_summary))
}

/// Reads a segment, and writes its summary on the way if that is asked for; the summary's length.
fn look(shared: &Shared, task: Task) -> (Looked, Option<u64>) {
    let Task { segment, first, end, summarize } = task;
    let path = shared.segment_path(segment);
    let file = match shared.files.open(&path) {
        Ok(file) => file,
        // It was given back meanwhile.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return (Looked::Left, None),
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "cannot open a journal segment to look at it");
            return (Looked::Refused, None);
        }
    };
    let dir = shared.summaries_dir();
    let mut scribe = Scribe::new(shared.salt, segment, first);
    // What can be made again must not take what acceptances need: there has to be room for the next segment besides.
    let most = shared.options.segment_bytes + end;
    let mut writing = if summarize && crate::upkeep::room_for(shared, most).is_ok() {
        Writing::begin(&*shared.files, &dir, segment).map_err(no_summary).ok()
    } else {
        None
    };
    let (mut since, mut understood) = (0, true);
    let walked = segment::walk(&*file, shared.salt, segment, end, |found| {
        since += u64::from(found.size);
        if since >= STEP {
            let pause = if summarize { 0.0 } else { since as f64 / RATE as f64 };
            since = 0;
            if !rest(shared, Duration::from_secs_f64(pause)) {
                return false;
            }
        }
        if let Some(written) = &mut writing {
            understood = scribe.record(found).is_ok();
            if scribe.out.len() >= STEP as usize
                && let Err(error) = written.take(&mut scribe.out)
            {
                no_summary(error);
                if let Some(written) = writing.take() {
                    written.abandon();
                }
            }
        } else {
            understood = record::read(found.kind, found.payload).is_ok();
        }
        understood
    });
    let looked = match walked {
        Ok(Walked::Sound(last)) => {
            let summary = writing.take().and_then(|mut writing| {
                scribe.finish(segment, end, last);
                writing.take(&mut scribe.out).and_then(|()| writing.finish()).map_err(no_summary).ok()
            });
            return (Looked::Sound, summary);
        }
        Ok(Walked::Stopped) if understood => Looked::Left,
        Ok(Walked::Stopped | Walked::Unsound) => Looked::Damaged,
        Err(error) => {
            tracing::error!(%error, path = %path.display(), "cannot read a journal segment");
            Looked::Refused
        }
    };
    if let Some(writing) = writing {
        writing.abandon();
    }
    (looked, None)
}

fn no_summary(error: std::io::Error) {
    tracing::warn!(%error, "cannot write the summary of a journal segment: the next start reads the segment");
}

/// Leaves the disk to others for a while. Whether to go on.
fn rest(shared: &Shared, pause: Duration) -> bool {
    let core = shared.core();
    if core.closing || core.stopped || core.failed.is_some() {
        return false;
    }
    if !pause.is_zero() {
        let (core, _) = shared.sweep.wait_timeout(core, pause).unwrap_or_else(PoisonError::into_inner);
        return !core.closing;
    }
    true
}

/// Says what is damaged in a sealed segment, and gives up what stood on it. `false` when the store stopped meanwhile.
pub(crate) fn report(shared: &Shared, segment: u32) -> bool {
    let _alone = shared.reporting.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(bytes) = space::read_segment(shared, segment) else { return true };
    let (first, next, end) = {
        let core = shared.core();
        let Some(space) = core.state.space.get(&segment) else { return true };
        let behind = (std::ops::Bound::Excluded(segment), std::ops::Bound::Unbounded);
        let Some((_, next)) = core.state.space.range(behind).next() else { return true };
        (space.first, next.first, space.end)
    };
    let path = shared.segment_path(segment);
    let mut missing = Vec::new();
    let (mut expected, mut stand) = (first, HashSet::new());
    let scanned = segment::scan(&bytes, shared.salt, segment, Some(end), |found| {
        if found.journal < expected || record::read(found.kind, found.payload).is_err() {
            return;
        }
        stand.insert(found.offset);
        if found.journal > expected {
            missing.push((expected, found.journal));
        }
        expected = found.journal + 1;
    });
    if expected < next {
        missing.push((expected, next));
    }
    let missing = without(&missing, &shared.core().state.gaps);
    let mut damage = scanned.damage;
    if Head::read(&bytes).is_none() {
        damage.insert(0, 0..segment::HEADER);
    }
    for range in &damage {
        quarantine(&*shared.files, &shared.options.path, segment, range, &bytes);
        if missing.is_empty() {
            tracing::warn!(path = %path.display(), from = range.start, to = range.end, "the journal is damaged where it was reported before, or where nothing stands");
        } else {
            tracing::error!(path = %path.display(), from = range.start, to = range.end, "the journal is damaged: these bytes are skipped and kept in quarantine");
        }
    }
    drop(bytes);
    if let Some(space) = shared.core().state.space.get_mut(&segment) {
        space.known.reported = true;
    }
    for gap in missing {
        let mut core = shared.core();
        if core.check_open().is_err() {
            return false;
        }
        let now = shared.moment();
        let letter = Arc::new(damaged_letter(gap.0, gap.1));
        let first = core.state.next_number;
        core.state.next_number += 1;
        let detail = detail_of(gap.0, gap.1);
        let mut payload = record::missing(gap.0, gap.1, &letter, (Reason::Damaged, &detail));
        record::fill(&mut payload, record::MISSING_AT, first, now.wall);
        let letter = NewOnes { first, at: now.wall, acceptance: letter };
        let after = After::Missing { gap, letter };
        shared.push(&mut core, Pending { kind: kind::MISSING, payload, after, waiter: None, urgent: true });
        tracing::error!(
            from = gap.0,
            to = gap.1,
            "records of the journal are missing: a dead letter stands for them"
        );
    }
    if !settled_so_far(shared) {
        return false;
    }
    let lost: Vec<(u64, Place)> = {
        let core = shared.core();
        let on = core.state.table.iter().map(|(number, entry)| (number, entry.place));
        on.filter(|(_, place)| place.segment == segment && !stand.contains(&place.offset)).collect()
    };
    lost.into_iter().all(|(number, place)| give_up(shared, number, place))
}

/// What of `found` is not in `known`. Both are runs of numbers (from, to); `found` in order.
pub(crate) fn without(found: &[(u64, u64)], known: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut known = known.to_vec();
    known.sort_unstable();
    let mut left = Vec::new();
    for &(mut from, to) in found {
        for &(begins, ends) in &known {
            if begins >= to || ends <= from {
                continue;
            }
            if begins > from {
                left.push((from, begins));
            }
            from = from.max(ends);
        }
        if from < to {
            left.push((from, to));
        }
    }
    left
}

/// Gives up an invocation whose record is lost: it becomes a dead letter that stands on a record of its own. `false` when
/// the store stopped meanwhile.
fn give_up(shared: &Shared, number: u64, place: Place) -> bool {
    let detail = format!("its record in {} is damaged", shared.segment_path(place.segment).display());
    for _ in 0..TRIES {
        let (evictions, mut seen) = {
            let mut core = shared.core();
            if core.check_open().is_err() {
                return false;
            }
            let Some(entry) = core.state.table.get(number).filter(|entry| entry.place == place) else {
                return true;
            };
            match entry.phase() {
                Phase::Completed | Phase::Cancelled => {
                    core.state.forget_ended(number);
                    return true;
                }
                // What runs has been read; if it is to be read again, that is seen then. A redrive likewise.
                Phase::Leased | Phase::Redriving => return true,
                Phase::Ready | Phase::Retrying | Phase::Scheduled => {
                    let now = shared.moment();
                    let how =
                        How::Dead { attempt: None, reason: Reason::Damaged, detail: detail.clone().into() };
                    let life = core.state.give_up(number, &how, now);
                    let (mut payload, _) = crate::queue::written(&how, &[]);
                    record::fill(&mut payload, 0, number, now.wall);
                    let ended = Ended::Dead(Reason::Damaged);
                    let after = After::Settled { number, life, ended, attempt: false, then: Vec::new() };
                    let pending = Pending { kind: kind::SETTLED, payload, after, waiter: None, urgent: true };
                    shared.push(&mut core, pending);
                    let id = core.state.id_of(number, core.state.table.get(number).map_or(0, |e| e.millis()));
                    tracing::error!(invocation.id = %id, "{detail}: it becomes a dead letter");
                }
                Phase::Dead => {}
            }
            let Some(seen) = space::seen(&core, number, 0) else { return true };
            (core.state.evictions, seen)
        };
        if seen.cold {
            match shared.index.row(number) {
                Ok(Some(extra)) => seen.extra = extra,
                Ok(None) => continue,
                Err(why) => {
                    index::doubt(shared, &why);
                    continue;
                }
            }
        }
        if seen.extra.is_pending() {
            if !settled_so_far(shared) {
                return false;
            }
            continue;
        }
        let Ok(mut part) = moved_part(shared, &seen, None, place) else { continue };
        if let record::Standing::Dead { reason, detail: why, .. } = &mut part.standing
            && *reason != Reason::Damaged
        {
            // Without its body it cannot be run again, whatever it died of.
            *why = format!("{detail}; it was dead already ({reason}: {why})").into();
            *reason = Reason::Damaged;
        }
        let mut core = shared.core();
        let Some(lane) = core.state.lanes.get(seen.entry.lane).map(|lane| lane.lane.clone()) else {
            continue;
        };
        let acceptance = stand_in(&format!("damaged-{number}"), lane);
        let now = space::seen(&core, number, 0);
        let as_seen = now.as_ref().is_some_and(|now| now.entry.place == place && is_same(now, &seen));
        if !as_seen || seen.cold && core.state.evictions != evictions {
            continue;
        }
        let payload =
            record::moved(&Moved { at: seen.entry.millis() * 1_000_000, acceptance, parts: vec![part] });
        let (life, attempts, end) = (seen.extra.life(), seen.extra.attempts.clone(), seen.extra.end);
        if seen.cold {
            core.state.thaw(number, seen.extra);
        }
        let reason = Some(record::reason_index(Reason::Damaged) as u8);
        let after = After::Moved(vec![MovedMark { number, life, attempts, end, reason }]);
        shared.push(&mut core, Pending { kind: kind::MOVED, payload, after, waiter: None, urgent: true });
        return true;
    }
    // It is busy: it is found again when it is read.
    true
}

/// Lets the sweep look at a segment (`again`: even if its damage was reported): something in it could not be read.
pub(crate) fn suspect(shared: &Shared, segment: u32, again: bool) {
    if let Some(space) = shared.core().state.space.get_mut(&segment)
        && (again || !space.known.reported)
    {
        space.known.verified = false;
        shared.sweep.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_to_be_missing_is_not_missed_again() {
        type Runs = &'static [(u64, u64)];
        let cases: [(Runs, Runs, Runs); 6] = [
            (&[(3, 9)], &[], &[(3, 9)]),
            (&[(3, 9)], &[(3, 9)], &[]),
            (&[(3, 9)], &[(6, 9), (3, 6)], &[]),
            (&[(3, 9)], &[(4, 5)], &[(3, 4), (5, 9)]),
            (&[(3, 9)], &[(1, 4), (8, 12)], &[(4, 8)]),
            (&[(3, 5), (7, 9)], &[(4, 8)], &[(3, 4), (8, 9)]),
        ];
        for (found, known, left) in cases {
            assert_eq!(without(found, known), left, "{found:?} without {known:?}");
        }
    }
}
