//! What a source that runs schedules can reach, beside what every source can.

use std::sync::Arc;

use broker_model::timetable::{ScheduleWishes, TimetableBoard};
use broker_model::{InvocationQueue, Ledger, Schedules};
use tokio::sync::watch;

/// The schedules of this process. Nothing but a source that runs them uses it.
#[derive(Clone)]
pub struct ScheduleAccess {
    /// Keeps schedules, and which instants ran.
    pub store: Arc<dyn Schedules>,
    /// Remembers which are held.
    pub queue: Arc<dyn InvocationQueue>,
    /// Says whether an earlier run is still held.
    pub ledger: Arc<dyn Ledger>,
    /// What functions ask for; changes while the source runs.
    pub wishes: watch::Receiver<Arc<ScheduleWishes>>,
    /// Where operators find the timetable.
    pub board: Arc<TimetableBoard>,
}
