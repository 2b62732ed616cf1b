//! What was received once and for all: positions of ordered sources, instants of schedules.
//!
//! The rules are the model's ([`Marks`], [`ScheduleBook`]); here they meet the journal. Like everything an outsider can see,
//! a position or an instant counts when its record is durable. Until then a repeat waits for that record.

use std::collections::HashMap;

use async_trait::async_trait;

use broker_model::position::{MarkChange, MarkStatus, Marks};
use broker_model::queue::Pausable;
use broker_model::schedule::{Entry, ScheduleBook};
use broker_model::{
    Acceptance, Partition, Position, Positions, Resume, Schedule, ScheduleId, ScheduleState, Schedules,
    SourceName, StoreError, Timestamp, Upstream,
};
use std::sync::Arc;

use crate::EmbeddedStore;
use crate::dedup::Waiter;
use crate::record::{self, ScheduleChange, kind};
use crate::state::After;
use crate::store::{Core, Pending};

/// What is known of a position or an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// Nothing: it may be received.
    New,
    /// It was received.
    Received,
    /// Its record is on its way to disk.
    OnItsWay,
}

/// Positions and instants, received and on their way.
#[derive(Debug, Default)]
pub(crate) struct Received {
    pub(crate) marks: Marks,
    pub(crate) schedules: ScheduleBook,
    /// Not durable yet, and who waits for that.
    positions: HashMap<Position, Vec<Waiter>>,
    instants: HashMap<(ScheduleId, Timestamp), Vec<Waiter>>,
}

impl Received {
    /// What is known of an acceptance's position or instant.
    pub(crate) fn look(&self, acceptance: &Acceptance) -> Result<Known, StoreError> {
        if let Some(position) = &acceptance.position {
            if self.marks.is_done(position) {
                return Ok(Known::Received);
            }
            if self.positions.contains_key(position) {
                return Ok(Known::OnItsWay);
            }
        }
        if let Some(fire) = &acceptance.fire
            && let Some(instant) = fire.instant
        {
            match self.schedules.may_fire(&fire.schedule, instant) {
                None => return Err(StoreError::NoSchedule(fire.schedule.clone())),
                Some(false) => return Ok(Known::Received),
                Some(true) if self.instants.contains_key(&(fire.schedule.clone(), instant.at)) => {
                    return Ok(Known::OnItsWay);
                }
                Some(true) => {}
            }
        }
        Ok(Known::New)
    }

    /// Whether what is new may be received.
    pub(crate) fn check_room(&self, acceptance: &Acceptance) -> Result<(), StoreError> {
        match &acceptance.position {
            Some(position) => self.marks.check_room(position, self.positions.len()),
            None => Ok(()),
        }
    }

    /// Waits with what is on its way.
    pub(crate) fn wait(&mut self, acceptance: &Acceptance, waiter: Waiter) {
        if let Some(waiting) = acceptance.position.as_ref().and_then(|p| self.positions.get_mut(p)) {
            waiting.push(waiter);
        } else if let Some(waiting) = instant_of(acceptance).and_then(|key| self.instants.get_mut(&key)) {
            waiting.push(waiter);
        }
    }

    /// Its record is on its way.
    pub(crate) fn begin(&mut self, acceptance: &Acceptance) {
        if let Some(position) = &acceptance.position {
            self.positions.insert(position.clone(), Vec::new());
        }
        if let Some(key) = instant_of(acceptance) {
            self.instants.insert(key, Vec::new());
        }
    }

    /// Its record is durable; who waited for it is to be told.
    pub(crate) fn commit(&mut self, acceptance: &Acceptance) -> Vec<Waiter> {
        self.book(acceptance);
        self.forget(acceptance)
    }

    /// Its record will not be written; who waited for it is to be told.
    pub(crate) fn forget(&mut self, acceptance: &Acceptance) -> Vec<Waiter> {
        let mut told = Vec::new();
        if let Some(position) = &acceptance.position {
            told.extend(self.positions.remove(position).into_iter().flatten());
        }
        if let Some(key) = instant_of(acceptance) {
            told.extend(self.instants.remove(&key).into_iter().flatten());
        }
        told
    }

    /// Books what a durable acceptance says beside its invocations.
    pub(crate) fn book(&mut self, acceptance: &Acceptance) {
        if let Some(position) = &acceptance.position {
            self.marks.take(position);
        }
        if let Some(fire) = &acceptance.fire
            && let Some(instant) = fire.instant
        {
            self.schedules.fired(&fire.schedule, instant);
        }
    }

    pub(crate) fn change_schedules(&mut self, change: &ScheduleChange) {
        match change {
            ScheduleChange::Put(schedule) => self.schedules.put(schedule),
            ScheduleChange::Removed(id) => self.schedules.remove(id),
            ScheduleChange::Passed(id, until) => self.schedules.pass(id, *until),
        }
    }
}

fn instant_of(acceptance: &Acceptance) -> Option<(ScheduleId, Timestamp)> {
    let fire = acceptance.fire.as_ref()?;
    Some((fire.schedule.clone(), fire.instant?.at))
}

#[async_trait]
impl Positions for EmbeddedStore {
    async fn take_up(&self, partition: &Arc<Partition>, upstream: Upstream) -> Result<Resume, StoreError> {
        let (resume, receiver) = {
            let mut core = self.shared.core();
            core.check_takes()?;
            let (resume, change) = core.state.received.marks.judge(partition, &upstream)?;
            let payload = record::mark(&change);
            (resume, self.shared.push_waited(&mut core, kind::MARK, payload, After::Marked(change)))
        };
        self.shared.answer(receiver).await?;
        Ok(resume)
    }

    async fn committed(&self, partition: &Arc<Partition>, next: u64) -> Result<(), StoreError> {
        let receiver = {
            let mut core = self.shared.core();
            core.check_takes()?;
            let change = MarkChange::Committed { partition: partition.clone(), next };
            let (waiter, receiver) = tokio::sync::oneshot::channel();
            let (payload, after) = (record::mark(&change), After::Marked(change));
            // It rides along with the next commit: nothing is lost when it is not remembered.
            let pending = Pending { kind: kind::MARK, payload, after, waiter: Some(waiter), urgent: false };
            self.shared.push(&mut core, pending);
            receiver
        };
        self.shared.answer(receiver).await
    }

    async fn reset_positions(&self, source: &SourceName) -> Result<usize, StoreError> {
        let (count, receiver) = {
            let mut core = self.shared.core();
            core.check_open()?;
            let marks = core.state.received.marks.iter();
            let count = marks.filter(|(partition, _)| partition.source() == source).count();
            let change = MarkChange::Reset { source: source.clone() };
            let payload = record::mark(&change);
            (count, self.shared.push_waited(&mut core, kind::MARK, payload, After::Marked(change)))
        };
        self.shared.answer(receiver).await?;
        Ok(count)
    }

    fn marks(&self, source: Option<&SourceName>) -> Vec<MarkStatus> {
        let mut marks: Vec<MarkStatus> = {
            let core = self.shared.core();
            let marks = core.state.received.marks.iter();
            marks
                .filter(|(partition, _)| source.is_none_or(|source| partition.source() == source))
                .map(|(partition, mark)| mark.status(partition))
                .collect()
        };
        marks.sort_unstable_by(|a, b| a.partition.cmp(&b.partition));
        marks
    }
}

#[async_trait]
impl Schedules for EmbeddedStore {
    async fn put_schedule(&self, schedule: Schedule) -> Result<ScheduleState, StoreError> {
        let id = schedule.id.clone();
        let receiver = {
            let mut core = self.shared.core();
            if let Some(known) = core.schedule(&id) {
                core.check_open()?;
                return Ok(known);
            }
            core.check_takes()?;
            core.state.received.schedules.check_room(&schedule)?;
            self.change_schedule(&mut core, ScheduleChange::Put(schedule))
        };
        self.shared.answer(receiver).await?;
        // One that was removed meanwhile is not there any more.
        self.shared.core().schedule(&id).ok_or(StoreError::NoSchedule(id))
    }

    async fn remove_schedule(&self, id: &ScheduleId) -> Result<bool, StoreError> {
        let receiver = {
            let mut core = self.shared.core();
            core.check_open()?;
            if core.schedule(id).is_none() {
                return Ok(false);
            }
            self.change_schedule(&mut core, ScheduleChange::Removed(id.clone()))
        };
        self.shared.answer(receiver).await?;
        Ok(true)
    }

    async fn pass_over(&self, id: &ScheduleId, until: Timestamp) -> Result<bool, StoreError> {
        let receiver = {
            let mut core = self.shared.core();
            core.check_takes()?;
            match core.schedule(id) {
                None => return Ok(false),
                Some(known) if known.decided >= until => return Ok(true),
                Some(_) => self.change_schedule(&mut core, ScheduleChange::Passed(id.clone(), until)),
            }
        };
        self.shared.answer(receiver).await?;
        Ok(true)
    }

    fn schedules(&self) -> Vec<ScheduleState> {
        let core = self.shared.core();
        core.state.received.schedules.iter().map(|entry| core.state_of(entry)).collect()
    }
}

impl EmbeddedStore {
    fn change_schedule(
        &self,
        core: &mut Core,
        change: ScheduleChange,
    ) -> tokio::sync::oneshot::Receiver<Result<(), StoreError>> {
        let payload = record::schedule(&change);
        self.shared.push_waited(core, kind::SCHEDULE, payload, After::Scheduled(change))
    }
}

impl Core {
    /// Whether the store takes what is new.
    fn check_takes(&self) -> Result<(), StoreError> {
        self.check_open()?;
        match &self.full {
            Some(what) => Err(self.full_error(what)),
            None => Ok(()),
        }
    }

    fn schedule(&self, id: &ScheduleId) -> Option<ScheduleState> {
        self.state.received.schedules.get(id).map(|entry| self.state_of(entry))
    }

    fn state_of(&self, entry: &Entry) -> ScheduleState {
        let paused = self.state.paused.contains(&Pausable::Schedule(entry.schedule.id.clone()));
        entry.state(paused)
    }
}
