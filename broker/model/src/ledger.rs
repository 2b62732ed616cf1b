//! What can be asked of a store. Reads only.

use std::time::Duration;

use async_trait::async_trait;

use crate::attempt::{Attempt, AttemptHistory};
use crate::clock::Timestamp;
use crate::dead_letter::{DeadLetter, Reason};
use crate::id::InvocationId;
use crate::invocation::{Invocation, Origin, State};
use crate::lane::Lane;
use crate::names::{CallId, FunctionName};
use crate::queue::StoreError;

/// The read side of a store.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// The cumulative totals and what is held now, all of one moment between two commits.
    fn totals(&self) -> Totals;

    /// How each lane stands. Empty lanes are not named.
    fn lanes(&self) -> Vec<LaneStats>;

    /// How the store itself does.
    fn health(&self) -> StoreHealth;

    /// One invocation; `None` when it is unknown, removed or past its retention.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when its record cannot be read.
    async fn find(&self, id: InvocationId) -> Result<Option<Record>, StoreError>;

    /// Invocations that meet the filter, newest acceptance first.
    ///
    /// # Errors
    /// [`StoreError::Rebuilding`] while an index it needs is being made.
    async fn list(&self, filter: &Filter, page: &Page) -> Result<Listed, StoreError>;

    /// Dead letters that meet the filter (its state is ignored), latest death first.
    ///
    /// # Errors
    /// [`StoreError::Rebuilding`] while an index it needs is being made.
    async fn dead_letters(&self, filter: &Filter, page: &Page) -> Result<Listed, StoreError>;
}

/// Everything known of one invocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The invocation as accepted.
    pub invocation: Invocation,
    /// Where it stands.
    pub state: State,
    /// The attempts of its present or last life.
    pub attempts: AttemptHistory,
    /// How often the broker died during it.
    pub interrupted: u32,
    /// Not before this moment, while it waits for a retry or its due time.
    pub next_attempt_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// How it died, when it did.
    pub dead_letter: Option<DeadLetter>,
}

impl Record {
    /// The attempt that decided how it ended; `None` while it has not, and where something else ended it: a cancel, its
    /// age, its interruptions, a body that cannot be read.
    pub fn final_attempt(&self) -> Option<&Attempt> {
        let decided = match (self.state, &self.dead_letter) {
            (State::Completed, _) => true,
            (State::Dead, Some(letter)) => letter.reason.is_an_attempts(),
            _ => false,
        };
        self.attempts.latest().filter(|_| decided)
    }
}

/// What a list is limited to; every field narrows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Calls of this function.
    pub function: Option<FunctionName>,
    /// In this state.
    pub state: Option<State>,
    /// With this call id.
    pub call_id: Option<CallId>,
    /// Dead for this reason.
    pub reason: Option<Reason>,
}

/// Which part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// At most this many.
    pub limit: usize,
    /// Where the last page ended, as it said.
    pub cursor: Option<String>,
}

/// A part of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// The records, bodies by location.
    pub items: Vec<Record>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<String>,
}

/// The cumulative counters of a store since it was made, and what it holds. They survive restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Accepted, by origin in the order of [`Origin::KINDS`].
    pub accepted: [u64; Origin::KINDS.len()],
    /// Put back from death.
    pub redriven: u64,
    /// Ended well.
    pub completed: u64,
    /// Died, by reason in the order of [`Reason::ALL`]. A redrive does not take it back here.
    pub dead: [u64; Reason::ALL.len()],
    /// Taken back.
    pub cancelled: u64,
    /// Waiting and delivering now, counted from what the queue holds, never computed from the others.
    pub held: u64,
    /// Dead letters kept now.
    pub dead_kept: u64,
    /// Dead letters removed by hand or by a bound.
    pub removed: u64,
}

impl Totals {
    /// All accepted.
    pub fn accepted_in_all(&self) -> u64 {
        self.accepted.iter().sum()
    }

    /// All that died.
    pub fn dead_in_all(&self) -> u64 {
        self.dead.iter().sum()
    }

    /// What the ledger is off by (invariant I2); 0 whenever the queue is quiet.
    pub fn drift(&self) -> i64 {
        let came = i128::from(self.accepted_in_all()) + i128::from(self.redriven);
        let went = i128::from(self.completed)
            + i128::from(self.dead_in_all())
            + i128::from(self.cancelled)
            + i128::from(self.held);
        i64::try_from(came - went).unwrap_or(i64::MAX)
    }
}

/// How one lane stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneStats {
    /// Which.
    pub lane: Lane,
    /// May run now.
    pub ready: u64,
    /// Waits for a retry.
    pub retrying: u64,
    /// Waits for a due time the caller chose.
    pub scheduled: u64,
    /// Being delivered.
    pub delivering: u64,
}

/// How the store itself does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreHealth {
    /// Why it takes no new work at the moment, if it does not.
    pub refusing: Option<Refusing>,
    /// What an acknowledgement means here: `fsync`, `replicated`.
    pub durability: &'static str,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Bytes of it that still matter.
    pub live_bytes: u64,
    /// Durable commits so far.
    pub commits: u64,
    /// Time spent in syncs so far.
    pub sync_time: Duration,
    /// Records found damaged since the data directory was made.
    pub damaged: u64,
    /// How far back repeats are recognised now, at most the configured window.
    pub dedup_window: Duration,
}

/// Why a store takes no new work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusing {
    /// Full; it tries again by itself.
    Full(Box<str>),
    /// A sync failed; only a restart helps.
    Failed(Box<str>),
    /// Closed.
    Closed,
}
