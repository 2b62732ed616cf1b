//! The durable queue, as a port.
//!
//! Two engines mean these verbs natively: one with a journal on a disk, one with NATS JetStream. Both pass the same
//! contract (`testkit::contract::store`). `docs/adr/0002-ports.md` maps each verb to both.
//!
//! The promises, in the words of the invariants:
//! * *custody* (I1): [`InvocationQueue::accept`] returns after its invocations are durable;
//! * *conservation* (I2): `accepted + redriven = completed + dead + cancelled + held`, from [`crate::Ledger::totals`];
//! * *one owner* (I4): only the current lease settles; the first settlement wins, a later one is [`Settled::Superseded`];
//! * *callbacks are invocations* (I6): what a settlement causes is accepted in the same durable step, and never refused
//!   for a bound.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;

use crate::attempt::Attempt;
use crate::backoff::Retry;
use crate::body::Body;
use crate::clock::Timestamp;
use crate::dead_letter::Reason;
use crate::event::DedupKey;
use crate::headers::Headers;
use crate::id::InvocationId;
use crate::invocation::{Invocation, Origin, Target};
use crate::lane::Lane;
use crate::lease::Lease;
use crate::names::{CallId, FunctionName, SourceName};
use crate::position::Position;
use crate::schedule::{Fire, ScheduleId};

/// What is accepted in one durable step: one request, for one or more targets (fan-out).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acceptance {
    /// Where it came from.
    pub origin: Origin,
    /// Header fields, shared by all drafts.
    pub headers: Headers,
    /// The body, shared by all drafts and stored once.
    pub body: Body,
    /// The invocations to make, at least one.
    pub drafts: Vec<Draft>,
    /// The key that makes a repeat recognisable.
    pub dedup: Option<DedupKey>,
    /// Where its message stands upstream, counted as received in the same durable step. A position that was received makes
    /// no second invocation; the position is asked before the key. Only of what comes in: in what follows a settlement it
    /// means nothing.
    pub position: Option<Position>,
    /// The run of a schedule's instant, counted as run in the same durable step. An instant that ran makes no second
    /// invocation. Only of what comes in, as the position.
    pub fire: Option<Box<Fire>>,
}

/// An invocation before the store gives it an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// Where it will wait.
    pub lane: Lane,
    /// Whom it calls.
    pub target: Target,
    /// The call id.
    pub call_id: CallId,
    /// Not before this wall-clock moment.
    pub due: Option<Timestamp>,
    /// How long it stays worth running.
    pub max_age: Option<Duration>,
}

/// What became of an acceptance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// New invocations, in the order of the drafts; durable.
    New(Vec<InvocationId>),
    /// The key is known: these were made for it, and are durable. For a position or an instant that is known there are no
    /// ids: a mark says that something was received, not what came of it.
    Duplicate(Vec<InvocationId>),
}

impl Accepted {
    /// The ids, new or not.
    pub fn ids(&self) -> &[InvocationId] {
        match self {
            Accepted::New(ids) | Accepted::Duplicate(ids) => ids,
        }
    }
}

/// A leased invocation. Consumed by [`InvocationQueue::settle`]; dropped without it, the lease lasts until restart.
#[derive(Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The right to settle.
    pub lease: Lease,
    /// What to deliver.
    pub invocation: Invocation,
    /// Counted attempts of this life so far.
    pub made: u32,
    /// How often the broker died during this call.
    pub interrupted: u32,
}

/// What is recorded about a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It ended well.
    Completed {
        /// The final attempt.
        attempt: Attempt,
        /// What follows, accepted in the same durable step (a callback).
        then: Vec<Acceptance>,
    },
    /// It is tried again after `wait`, measured on the monotonic clock while this process lives. It then stands behind
    /// those of its lane that wait for nothing but their turn, so that the probes of a failing lane go round.
    Retry {
        /// The attempt that counts.
        attempt: Attempt,
        /// How long it waits.
        wait: Duration,
    },
    /// It goes back uncounted: no capacity, gateway down, drain. No trace of a start remains.
    Released {
        /// How long it waits; zero puts it back at the head of its lane.
        wait: Duration,
    },
    /// It is given up and kept.
    Dead {
        /// The final attempt, where there was one.
        attempt: Option<Attempt>,
        /// Why.
        reason: Reason,
        /// More about it, for people.
        detail: Box<str>,
        /// What follows, accepted in the same durable step (a callback, a copy to `on_dead_letter`).
        then: Vec<Acceptance>,
    },
}

/// What became of a settlement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It stands; these invocations follow from it.
    Done(Vec<InvocationId>),
    /// The lease was no longer current: nothing was recorded, nothing follows.
    Superseded,
}

/// What became of a cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// It waited and is cancelled, durably.
    Waiting,
    /// It was being delivered; its lease is void and it is cancelled, durably. Tell the delivery to stop.
    Delivering,
    /// It had ended before.
    TooLate,
    /// There is no such invocation.
    Unknown,
}

/// Why a dead letter is not put back.
#[derive(Debug, thiserror::Error)]
pub enum RedriveError {
    /// There is no such dead letter.
    #[error("there is no dead letter {0}")]
    Unknown(InvocationId),
    /// This life was redriven already.
    #[error("invocation {0} was put back already and has not died since")]
    NotDead(InvocationId),
    /// There is nothing to run.
    #[error("a dead letter of reason {0} has nothing to run")]
    NothingToRun(Reason),
    /// The store could not.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Something whose flow can be held.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pausable {
    /// Deliveries to a function.
    Function(FunctionName),
    /// Intake from a source.
    Source(SourceName),
    /// Runs of a schedule.
    Schedule(ScheduleId),
}

/// The durable queue.
///
/// Futures may be dropped at any await: what was begun is then either whole or not at all, and what was leased comes
/// back at the next start.
#[async_trait]
pub trait InvocationQueue: Send + Sync {
    /// Accepts all drafts, or none. Durable before it returns; concurrent calls share one sync.
    ///
    /// A repeat of a dedup key, a position or an instant waits for the first one's commit and answers as it did.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::TooManyWaiting`] and [`StoreError::TooMany`] at a bound,
    /// [`StoreError::KeyReused`] when the key came with another request, [`StoreError::NoSchedule`] for the run of an
    /// unknown schedule. Nothing was accepted.
    async fn accept(&self, acceptance: Acceptance) -> Result<Accepted, StoreError>;

    /// Accepts and gives up in one durable step: a message that cannot become an invocation. Counted as accepted and dead.
    ///
    /// # Errors
    /// As [`InvocationQueue::accept`].
    async fn bury(
        &self,
        acceptance: Acceptance,
        reason: Reason,
        detail: &str,
    ) -> Result<Accepted, StoreError>;

    /// Notes that the message at this position was received and nobody wants it. It may be forgotten: the message made no
    /// invocation, so one that comes again is looked at again, and makes none or its first.
    fn pass(&self, position: &Position);

    /// Claims up to `n` invocations of each lane that may run now, in lane order, oldest first within a lane.
    ///
    /// Fewer than `n` means the lane had no more; it is named by [`InvocationQueue::ready`] again when it gains some.
    /// Each claim is marked as started with the next commit. Of calls that were interrupted before, or that an earlier
    /// process left, the mark is durable before this resolves: one that kills its broker at once is counted all the same.
    ///
    /// # Errors
    /// [`StoreError`] when the store can no longer serve; nothing was claimed.
    async fn lease(&self, wanted: &[(Lane, usize)]) -> Result<Vec<Delivery>, StoreError>;

    /// Records how a delivery went, if its lease is still current. Resolves when it is durable.
    ///
    /// In memory it counts at once: from the call on the lease is spent. A power cut before it resolves repeats the call.
    ///
    /// # Errors
    /// [`StoreError`] when the store can no longer serve; the delivery comes back at the next start.
    async fn settle(&self, lease: Lease, settlement: Settlement) -> Result<Settled, StoreError>;

    /// Takes an invocation back. Durable before it returns.
    ///
    /// # Errors
    /// [`StoreError`] when the store can no longer serve.
    async fn cancel(&self, id: InvocationId) -> Result<Cancelled, StoreError>;

    /// Puts a dead letter back for a new life: attempts and age start again. Durable before it returns; the new life's number.
    ///
    /// # Errors
    /// [`RedriveError`]; nothing changed.
    async fn redrive(&self, id: InvocationId) -> Result<u32, RedriveError>;

    /// Removes a dead letter for good; `false` when there is none. Durable before it returns.
    ///
    /// # Errors
    /// [`StoreError`] when the store can no longer serve.
    async fn remove(&self, id: InvocationId) -> Result<bool, StoreError>;

    /// Remembers that this is held. Durable before it returns; idempotent. What is leased from a paused lane is the
    /// caller's to decide: the queue only remembers.
    ///
    /// # Errors
    /// [`StoreError`] when the store can no longer serve.
    async fn pause(&self, what: Pausable) -> Result<(), StoreError>;

    /// Forgets that this is held. Durable before it returns; idempotent.
    ///
    /// # Errors
    /// [`StoreError`] when the store can no longer serve.
    async fn resume(&self, what: Pausable) -> Result<(), StoreError>;

    /// What is held.
    fn paused(&self) -> Vec<Pausable>;

    /// Waits for lanes that have something to run since they were last found empty, and names them. One caller.
    ///
    /// A lane is named once until a lease finds less in it than it asked for. Safe to cancel: a lane not handed out is
    /// named by the next call.
    async fn ready(&self) -> Vec<Lane>;

    /// Writes what is pending, syncs and closes. After it every verb answers [`StoreError::Closed`].
    ///
    /// # Errors
    /// [`StoreError`] when the last sync failed; what was acknowledged before is safe.
    async fn close(&self) -> Result<(), StoreError>;
}

/// Why the store did not do it. Cloneable, because one failed sync answers many waiters.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// No room on disk, or a configured bound of it.
    #[error("the store is full ({what}); {waiting} invocations wait and {dead} are dead letters")]
    Full {
        /// Which bound, for people.
        what: Box<str>,
        /// What is held.
        waiting: u64,
        /// What is dead.
        dead: u64,
    },
    /// The bound of waiting invocations (`limits.waiting`).
    #[error("{waiting} invocations wait, the most allowed (limits.waiting)")]
    TooManyWaiting {
        /// How many wait.
        waiting: u64,
    },
    /// A bound of what is remembered beside invocations. Nothing is forgotten to make room.
    #[error("more than {most} {what} are not kept")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        most: usize,
    },
    /// There is no such schedule.
    #[error("there is no schedule {0}")]
    NoSchedule(ScheduleId),
    /// The cursor is none that a list gave.
    #[error("cursor: is none that a list gave")]
    BadCursor,
    /// The dedup key came with another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// A write or sync failed. Final until restart: what the disk holds is no longer known.
    #[error("the store stopped taking writes after {what} failed: {cause}; restart to recover")]
    Failed {
        /// What failed.
        what: &'static str,
        /// The operating system's word.
        cause: Box<str>,
    },
    /// What is asked for is not what was written.
    #[error("{what} is damaged in {path:?}")]
    Damaged {
        /// Which part.
        what: Box<str>,
        /// Where.
        path: PathBuf,
    },
    /// A derived index is being made again; ask later.
    #[error("the index is being rebuilt ({done} of {total})")]
    Rebuilding {
        /// Progress.
        done: u64,
        /// Of how much.
        total: u64,
    },
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// The body named is not there any more.
    #[error("the body is gone")]
    NoBody,
}

impl StoreError {
    /// When to try again.
    pub fn retry(&self) -> Retry {
        match self {
            StoreError::Full { .. }
            | StoreError::TooManyWaiting { .. }
            | StoreError::TooMany { .. }
            | StoreError::Rebuilding { .. } => Retry::After(Duration::from_secs(1)),
            StoreError::Failed { .. } | StoreError::Closed => Retry::After(Duration::from_secs(5)),
            StoreError::KeyReused
            | StoreError::NoSchedule(_)
            | StoreError::BadCursor
            | StoreError::Damaged { .. }
            | StoreError::NoBody => Retry::Never,
        }
    }
}
