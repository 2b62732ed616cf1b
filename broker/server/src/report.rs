//! What the store found when it was opened, told once.

use broker_store_embedded::Recovered;
use tracing::{error, info, warn};

/// Writes what was found: nothing for a clean start, an error where something acknowledged is missing.
pub(crate) fn report(found: &Recovered) {
    let took_ms = u64::try_from(found.took.as_millis()).unwrap_or(u64::MAX);
    info!(
        clean = found.clean,
        segments = found.segments,
        summarized = found.summarized,
        bytes_read = found.bytes_read,
        records = found.records,
        held = found.held,
        dead = found.dead,
        index_kept = found.index_kept,
        took_ms,
        "store opened"
    );
    if found.interrupted > 0 {
        warn!(
            interrupted = found.interrupted,
            "calls were under way when the last process ended; they are delivered again"
        );
    }
    if found.torn_bytes > 0 {
        info!(
            bytes = found.torn_bytes,
            "a write the last process did not finish was cut; nothing of it was acknowledged"
        );
    }
    if found.rewritten > 0 {
        info!(records = found.rewritten, "records above the last proven sync were written again and synced");
    }
    for (file, range) in &found.damage {
        error!(
            file = %file.display(),
            from = range.start,
            to = range.end,
            "the disk returned something else than was written; the stretch is kept in quarantine"
        );
    }
    if found.missing_records > 0 {
        error!(
            records = found.missing_records,
            reconciled = found.reconciled,
            "records are missing because of damage; see the dead letters of reason damaged"
        );
    }
    if found.orphans > 0 {
        info!(files = found.orphans, "bodies nobody refers to were removed");
    }
}
