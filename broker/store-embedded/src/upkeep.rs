//! Keeping the directory in order, behind the writer's back: segments allocated ahead and removed oldest first, what
//! ended forgotten in time, files nobody refers to removed.

use std::io;
use std::sync::PoisonError;
use std::time::Duration;

use crate::index::{self, Key};
use crate::record::{self, BodyFile, kind, nanos};
use crate::space;
use crate::state::{After, Extra, Moment};
use crate::store::{Core, Pending, Shared, Spare};

/// How often it looks around when nobody calls.
const ROUND: Duration = Duration::from_secs(1);

/// Runs until the store stops.
pub(crate) fn run(shared: &Shared) {
    let mut leaving: Vec<(u64, BodyFile)> = Vec::new();
    loop {
        {
            let core = shared.core();
            if core.stopped {
                return;
            }
            let idle = core.spare.is_some() || core.failed.is_some() || core.full.is_some() || core.closing;
            if idle {
                let (core, _) =
                    shared.upkeep.wait_timeout(core, ROUND).unwrap_or_else(PoisonError::into_inner);
                if core.stopped {
                    return;
                }
            }
        }
        if shared.core().failed.is_some() {
            continue;
        }
        let now = shared.moment();
        {
            let mut core = shared.core();
            core.state.expire(now.wall);
            core.state.dedup.expire_all(now.mono);
        }
        // The writer may need the next segment at any moment; the rest has time.
        ensure_spare(shared);
        remove_bodies(shared, &mut leaving, now.mono);
        remove_old_dead_letters(shared, now);
        {
            // A journal that is being read again must stay whole.
            let _whole = shared.index.rereading.lock().unwrap_or_else(PoisonError::into_inner);
            space::give_back(shared);
        }
        if shared.core().full.is_some() {
            ensure_spare(shared);
        }
    }
}

/// Removes dead letters that are older than the retention says. Each is counted; a round says once what it removed.
fn remove_old_dead_letters(shared: &Shared, now: Moment) {
    /// The most of one look, and of one round.
    const SLICE: usize = 1024;
    const ROUND: u64 = 64 * 1024;
    let Some(age) = shared.options.dead_letter_age else { return };
    let before = now.wall.saturating_sub(nanos(age));
    let mut removed = 0;
    while removed < ROUND {
        let (evictions, warm): (u64, Vec<Key>) = {
            let core = shared.core();
            if core.closing || core.failed.is_some() {
                break;
            }
            (core.state.evictions, core.state.dead.range(..(before, 0)).take(SLICE).copied().collect())
        };
        let cold = match shared.index.oldest(before, SLICE) {
            Ok(cold) => cold,
            Err(why) => {
                index::doubt(shared, &why);
                break;
            }
        };
        let mut core = shared.core();
        if core.check_open().is_err() {
            break;
        }
        let certain = core.state.evictions == evictions;
        let mut found = 0;
        for (died_at, number) in warm.into_iter().chain(cold) {
            let stands = match core.state.extras.get(&number) {
                Some(extra) => extra.ended_at == died_at && !Extra::is_pending(extra),
                // The index may be behind, and then memory has it, or it is no dead letter any more.
                None => certain && core.state.is_cold(number),
            };
            if stands && core.state.remove(number) {
                let payload = record::removed(number);
                let after = After::Removed { number };
                shared.push(
                    &mut core,
                    Pending { kind: kind::REMOVED, payload, after, waiter: None, urgent: false },
                );
                found += 1;
            }
        }
        drop(core);
        removed += found;
        // What was removed leaves the index when its records are durable; more may stand behind it then.
        if found == 0 || !space::settled_so_far(shared) {
            break;
        }
    }
    if removed > 0 {
        tracing::info!(removed, age_s = age.as_secs(), "dead letters past their retention were removed");
    }
}

/// Removes body files that nobody refers to, once the records that say so are durable.
fn remove_bodies(shared: &Shared, leaving: &mut Vec<(u64, BodyFile)>, now: Duration) {
    /// A body that was spooled and never accepted is given up after this long: its request is gone.
    const UNCLAIMED: Duration = Duration::from_secs(600);
    let durable = {
        let mut core = shared.core();
        let asked = core.asked;
        leaving.extend(std::mem::take(&mut core.state.doomed).into_iter().map(|file| (asked, file)));
        let unclaimed: Vec<BodyFile> = core
            .spooled
            .iter()
            .filter(|(_, (_, whole))| whole.is_some_and(|since| now.saturating_sub(since) > UNCLAIMED))
            .map(|(file, _)| *file)
            .collect();
        for file in unclaimed {
            core.spooled.remove(&file);
            leaving.push((0, file));
        }
        core.durable
    };
    leaving.retain(|(asked, file)| {
        if *asked > durable {
            return true;
        }
        let mut core = shared.core();
        if let Some(len) = core.body_lengths.remove(file) {
            core.body_bytes = core.body_bytes.saturating_sub(len);
        }
        drop(core);
        // One that cannot be removed now is an orphan at the next start.
        if let Err(error) = shared.files.remove(&shared.body_path(*file)) {
            tracing::warn!(%error, path = %shared.body_path(*file).display(), "cannot remove a body nobody needs");
        }
        false
    });
}

/// Allocates the next segment ahead, or says that there is no room.
pub(crate) fn ensure_spare(shared: &Shared) {
    let _alone = shared.allocating.lock().unwrap_or_else(PoisonError::into_inner);
    let segment = {
        let core = shared.core();
        if core.spare.is_some() || core.closing || core.failed.is_some() {
            return;
        }
        core.current + 1
    };
    let found = room_for(shared, shared.options.segment_bytes).and_then(|()| {
        allocate(shared, segment, shared.options.segment_bytes).map_err(|error| refusal(&error))
    });
    let mut core = shared.core();
    match found {
        Ok(spare) => {
            core.spare = Some(spare);
            if core.full.take().is_some() {
                tracing::info!(path = %shared.options.path.display(), "the store has room again");
            }
            shared.work.notify_one();
        }
        Err(what) => say_full(shared, &mut core, what),
    }
}

fn say_full(shared: &Shared, core: &mut Core, what: Box<str>) {
    if core.full.is_none() {
        let totals = core.state.totals();
        tracing::error!(
            path = %shared.options.path.display(), waiting = totals.held, dead = totals.dead_kept,
            "the store is full ({what}): nothing new is taken"
        );
    }
    core.full = Some(what);
}

/// Gives the writer a segment of at least this size to go on with; `None` when there is no room.
///
/// The one before is sealed: it was synced up to `end`, and `next` is the number of the record that follows it.
pub(crate) fn next_segment(shared: &Shared, needed: u64, end: u64, next: u64) -> Option<Spare> {
    let _alone = shared.allocating.lock().unwrap_or_else(PoisonError::into_inner);
    let (spare, current, full) = {
        let mut core = shared.core();
        (core.spare.take(), core.current, core.full.clone())
    };
    shared.upkeep.notify_one();
    let found = match spare {
        Some(spare) if spare.len >= needed => Ok(spare),
        Some(spare) => room_for(shared, needed - spare.len).and_then(|()| {
            spare.file.allocate(needed).map_err(|error| refusal(&error))?;
            Ok(Spare { len: needed, ..spare })
        }),
        // Whoever fills the disk is told once a second by the upkeep; here nothing is tried twice.
        None if full.is_some() => return None,
        None => room_for(shared, needed.max(shared.options.segment_bytes)).and_then(|()| {
            allocate(shared, current + 1, needed.max(shared.options.segment_bytes))
                .map_err(|error| refusal(&error))
        }),
    };
    let mut core = shared.core();
    match found {
        Ok(spare) => {
            core.state.space.entry(current).or_default().end = end;
            core.current = spare.segment;
            let space = core.state.space.entry(spare.segment).or_default();
            (space.len, space.first) = (spare.len, next);
            shared.sweep.notify_one();
            Some(spare)
        }
        Err(what) => {
            say_full(shared, &mut core, what);
            None
        }
    }
}

/// Whether the configured bounds leave room for this much more; which of them does not.
pub(crate) fn room_for(shared: &Shared, bytes: u64) -> Result<(), Box<str>> {
    let disk = shared.core().disk_bytes() + shared.index.bytes();
    if let Some(most) = shared.options.max_bytes
        && disk + bytes > most
    {
        return Err(format!("store.embedded.max_bytes: {disk} of {most} bytes are in use").into());
    }
    match shared.files.free_space(&shared.options.path) {
        Ok(free) if free < bytes.saturating_add(shared.options.min_free) => Err(format!(
            "store.embedded.min_free: {free} bytes are free on the filesystem, {} are kept so",
            shared.options.min_free
        )
        .into()),
        Ok(_) => Ok(()),
        // Unknown is not full: the allocation itself will say.
        Err(_) => Ok(()),
    }
}

fn refusal(error: &io::Error) -> Box<str> {
    format!("no segment can be allocated: {error}").into()
}

/// Makes a segment file with its room on disk, and its name durable.
pub(crate) fn allocate(shared: &Shared, segment: u32, len: u64) -> io::Result<Spare> {
    let path = shared.segment_path(segment);
    let file = shared.files.create(&path)?;
    let made = file
        .allocate(len)
        .and_then(|()| file.sync_data())
        .and_then(|()| shared.files.sync_dir(&shared.journal_dir()));
    match made {
        Ok(()) => Ok(Spare { segment, file, len }),
        Err(error) => {
            // Half a segment would only take the room that is missing.
            let _ = shared.files.remove(&path);
            Err(error)
        }
    }
}
