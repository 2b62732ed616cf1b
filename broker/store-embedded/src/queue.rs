//! The verbs of the queue.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::oneshot;

use broker_model::queue::{Cancelled, Pausable, RedriveError, Settled};
use broker_model::{
    Acceptance, Accepted, Body, Delivery, Draft, Headers, Invocation, InvocationId, InvocationQueue, Lane,
    Lease, Origin, Position, Reason, Settlement, StoreError, Timestamp,
};

use crate::EmbeddedStore;
use crate::bodies::blocking;
use crate::codec::Put;
use crate::dedup::Seen;
use crate::received::Known;
use crate::record::{self, BodyPlace, How, Record, kind};
use crate::state::{After, Claim, Ended, Extra, Fresh, Moment, NewOnes};
use crate::store::{Core, Pending, ReadError, Shared};
use crate::sweep;
use crate::table::{Entry, Phase};

/// How many of those a lane gives next are kept in memory. They are read ahead when one has to come from disk, and again,
/// behind everybody's back, once half of them are gone.
const AHEAD: usize = 256;

/// How many bytes of them at most, by what is known of them before they are read.
const AHEAD_BYTES: u64 = 1 << 20;

/// Resolves when a record is durable, or will not be.
type Answer = oneshot::Receiver<Result<(), StoreError>>;

#[async_trait]
impl InvocationQueue for EmbeddedStore {
    async fn accept(&self, acceptance: Acceptance) -> Result<Accepted, StoreError> {
        self.take_in(acceptance, None).await
    }

    async fn bury(
        &self,
        acceptance: Acceptance,
        reason: Reason,
        detail: &str,
    ) -> Result<Accepted, StoreError> {
        self.take_in(acceptance, Some((reason, detail))).await
    }

    fn pass(&self, position: &Position) {
        self.shared.core().state.received.marks.pass(position);
    }

    async fn lease(&self, wanted: &[(Lane, usize)]) -> Result<Vec<Delivery>, StoreError> {
        let (claims, ahead, later, marked) = {
            let now = self.shared.moment();
            let mut core = self.shared.core();
            let core = &mut *core;
            core.check_open()?;
            // What is left of the last segment is kept for what runs already.
            if core.full.is_some() && core.room < self.shared.settlement_reserve() {
                return Ok(Vec::new());
            }
            core.state.promote(now);
            self.shared.signal(core);
            let mut marked = None;
            let (mut claims, mut ahead, mut later) = (Vec::new(), Vec::new(), Vec::new());
            for (lane, n) in wanted {
                let of_lane = core.state.lease(lane, *n);
                if of_lane.iter().any(|claim| claim.fresh.is_none()) {
                    ahead.extend(core.state.cold_ahead(lane, AHEAD, AHEAD_BYTES));
                } else if !core.reading_ahead && core.state.is_cold_at(lane, AHEAD / 2) {
                    later.extend(core.state.cold_ahead(lane, AHEAD, AHEAD_BYTES));
                }
                claims.extend(of_lane);
            }
            core.reading_ahead |= !later.is_empty();
            if !claims.is_empty() {
                let numbers: Vec<u64> = claims.iter().map(|claim| claim.number).collect();
                let payload = record::started(&numbers);
                let after = After::Started;
                if claims.iter().any(|claim| core.state.may_have_killed_us(claim)) {
                    marked = Some(self.shared.push_waited(core, kind::STARTED, payload, after));
                } else {
                    let pending =
                        Pending { kind: kind::STARTED, payload, after, waiter: None, urgent: false };
                    self.shared.push(core, pending);
                }
            }
            (claims, ahead, later, marked)
        };
        if !later.is_empty() {
            self.read_later(later);
        }
        if let Some(marked) = marked {
            self.shared.answer(marked).await?;
        }
        self.deliveries(claims, ahead).await
    }

    async fn settle(&self, lease: Lease, settlement: Settlement) -> Result<Settled, StoreError> {
        let (how, mut then) = match settlement {
            Settlement::Completed { attempt, then } => (How::Completed(attempt), then),
            Settlement::Retry { attempt, wait } => (How::Retry { attempt, wait }, Vec::new()),
            Settlement::Released { wait } => (How::Released { wait }, Vec::new()),
            Settlement::Dead { attempt, reason, detail, then } => {
                (How::Dead { attempt, reason, detail }, then)
            }
        };
        for acceptance in &mut then {
            (acceptance.position, acceptance.fire) = (None, None);
            self.spool_large(&mut acceptance.body).await?;
        }
        let written = written(&how, &then);
        let (receiver, ids) = {
            let now = self.shared.moment();
            let mut core = self.shared.core();
            core.check_open()?;
            match self.shared.settle_now(&mut core, lease, &how, then, written, now) {
                Some(settled) => settled,
                None => return Ok(Settled::Superseded),
            }
        };
        self.shared.answer(receiver).await?;
        Ok(Settled::Done(ids))
    }

    async fn cancel(&self, id: InvocationId) -> Result<Cancelled, StoreError> {
        let (cancelled, receiver) = {
            let now = self.shared.moment();
            let mut core = self.shared.core();
            core.check_open()?;
            let Some((number, _)) = core.state.entry_of(id) else { return Ok(Cancelled::Unknown) };
            let cancelled = core.state.cancel(number, now.wall);
            if !matches!(cancelled, Cancelled::Waiting | Cancelled::Delivering) {
                return Ok(cancelled);
            }
            let payload = record::cancelled(number, now.wall);
            (cancelled, self.shared.push_waited(&mut core, kind::CANCELLED, payload, After::Cancelled))
        };
        self.shared.answer(receiver).await?;
        Ok(cancelled)
    }

    async fn redrive(&self, id: InvocationId) -> Result<u32, RedriveError> {
        let mut read: Option<(u64, Extra)> = None;
        let (life, receiver) = 'asked: loop {
            let number = 'cold: {
                let now = self.shared.moment();
                let mut core = self.shared.core();
                core.check_open()?;
                let Some((number, entry)) = core.state.entry_of(id) else {
                    return Err(RedriveError::Unknown(id));
                };
                let phase = entry.phase();
                let extra = match core.state.extras.get(&number) {
                    Some(extra) => extra.clone(),
                    None if phase.is_dead() => match read.take() {
                        Some((seen, extra)) if seen == core.state.evictions => extra,
                        _ => break 'cold number,
                    },
                    None => Extra::default(),
                };
                if phase != Phase::Dead {
                    return Err(if extra.lives_before > 0 || phase == Phase::Redriving {
                        RedriveError::NotDead(id)
                    } else {
                        RedriveError::Unknown(id)
                    });
                }
                let reason = Reason::ALL.get(usize::from(extra.reason)).copied().unwrap_or(Reason::Damaged);
                if !reason.is_redrivable() {
                    return Err(RedriveError::NothingToRun(reason));
                }
                if let Some(entry) = core.state.table.get_mut(number) {
                    entry.set_phase(Phase::Redriving);
                }
                let life = extra.life() + 1;
                let payload = record::redriven(number, life, now.wall);
                let after = After::Redriven { number, life, at: now.wall };
                break 'asked (life, self.shared.push_waited(&mut core, kind::REDRIVEN, payload, after));
            };
            read = self.cold(number).await?;
        };
        self.shared.answer(receiver).await?;
        Ok(life)
    }

    async fn remove(&self, id: InvocationId) -> Result<bool, StoreError> {
        let receiver = loop {
            let pending = {
                let mut core = self.shared.core();
                core.check_open()?;
                let Some((number, _)) = core.state.entry_of(id) else { return Ok(false) };
                let pending = core.state.extras.get(&number).is_some_and(Extra::is_pending);
                if !pending {
                    if !core.state.remove(number) {
                        return Ok(false);
                    }
                    tracing::info!(invocation.id = %id, "dead letter removed");
                    let after = After::Removed { number };
                    break self.shared.push_waited(&mut core, kind::REMOVED, record::removed(number), after);
                }
                pending
            };
            // Its death is on its way to disk, and has to be there before its removal means anything.
            if pending {
                self.shared.barrier().await?;
            }
        };
        self.shared.answer(receiver).await?;
        Ok(true)
    }

    async fn pause(&self, what: Pausable) -> Result<(), StoreError> {
        self.hold(what, true).await
    }

    async fn resume(&self, what: Pausable) -> Result<(), StoreError> {
        self.hold(what, false).await
    }

    fn paused(&self) -> Vec<Pausable> {
        self.shared.core().state.paused.iter().cloned().collect()
    }

    async fn ready(&self) -> Vec<Lane> {
        loop {
            // Made before the state is looked at, so that no signal falls between.
            let notified = self.shared.ready.notified();
            let wake = {
                let now = self.shared.moment();
                let mut core = self.shared.core();
                core.state.promote(now);
                core.state.signal = false;
                if core.check_open().is_ok() {
                    let lanes = core.state.lanes.take_named();
                    if !lanes.is_empty() {
                        return lanes;
                    }
                }
                core.state.next_wake(now)
            };
            match wake {
                // Timers end a little early or late; the clocks decide in the next round.
                Some(wake) => {
                    let wake = wake.max(std::time::Duration::from_millis(1));
                    let _ = tokio::time::timeout(wake, notified).await;
                }
                None => notified.await,
            }
        }
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.shut().await
    }
}

impl EmbeddedStore {
    async fn take_in(
        &self,
        mut acceptance: Acceptance,
        end: Option<(Reason, &str)>,
    ) -> Result<Accepted, StoreError> {
        self.spool_large(&mut acceptance.body).await?;
        let body = BodyPlace::file_of(&acceptance.body);
        let taken = match self.begin_taking(acceptance, end) {
            Ok((accepted, Some(answer))) => self.shared.answer(answer).await.map(|()| accepted),
            Ok((accepted, None)) => Ok(accepted),
            Err(error) => Err(error),
        };
        // A body that was spooled for an acceptance that is none is nobody's.
        if let Some(file) = body
            && !matches!(taken, Ok(Accepted::New(_)))
        {
            self.shared.abandon_body(file);
        }
        taken
    }

    /// Hands an acceptance to the writer, unless it is known. Where there is an answer, it has to come first.
    fn begin_taking(
        &self,
        acceptance: Acceptance,
        end: Option<(Reason, &str)>,
    ) -> Result<(Accepted, Option<Answer>), StoreError> {
        // Everything that takes time is done before the lock is taken.
        let mut put = Put::with_capacity(record::size_of(&acceptance));
        record::accepted(&mut put, &acceptance, end);
        let mut payload = put.0;
        let acceptance = Arc::new(acceptance);
        let drafts = acceptance.drafts.len() as u64;
        let now = self.shared.moment();
        let mut core = self.shared.core();
        let core = &mut *core;
        core.check_open()?;
        match core.state.received.look(&acceptance)? {
            Known::New => {}
            Known::Received => return Ok((Accepted::Duplicate(Vec::new()), None)),
            Known::OnItsWay => {
                let (waiter, receiver) = oneshot::channel();
                core.state.received.wait(&acceptance, waiter);
                return Ok((Accepted::Duplicate(Vec::new()), Some(receiver)));
            }
        }
        if let Some(key) = &acceptance.dedup {
            match core.state.dedup.look(key, now.mono) {
                Seen::New => {}
                Seen::Reused => return Err(StoreError::KeyReused),
                Seen::Committed { first, count, at } => {
                    return Ok((Accepted::Duplicate(core.ids(first, count, at)), None));
                }
                Seen::Pending { first, count, at } => {
                    let (waiter, receiver) = oneshot::channel();
                    core.state.dedup.wait(key, waiter);
                    return Ok((Accepted::Duplicate(core.ids(first, count, at)), Some(receiver)));
                }
            }
        }
        if let Some(what) = core.full.clone() {
            return Err(core.full_error(&what));
        }
        let waiting = core.state.lanes.held() + core.pending_drafts;
        if end.is_none() && waiting + drafts > self.shared.options.waiting {
            return Err(StoreError::TooManyWaiting { waiting });
        }
        core.state.received.check_room(&acceptance)?;
        core.state.received.begin(&acceptance);
        let first = core.state.next_number;
        core.state.next_number += drafts;
        record::fill(&mut payload, 0, first, now.wall);
        if let Some(key) = &acceptance.dedup {
            let made = (first, drafts as u32, now.wall);
            core.state.dedup.remember(key, made, 0, now.mono, std::time::Duration::ZERO);
        }
        if let Some(file) = BodyPlace::file_of(&acceptance.body) {
            core.spooled.remove(&file);
        }
        let ids = core.ids(first, drafts as u32, now.wall);
        let new = NewOnes { first, at: now.wall, acceptance };
        let after = After::Accepted(new, end.map(|(reason, _)| reason));
        Ok((Accepted::New(ids), Some(self.shared.push_waited(core, kind::ACCEPTED, payload, after))))
    }

    async fn hold(&self, what: Pausable, held: bool) -> Result<(), StoreError> {
        let receiver = {
            let mut core = self.shared.core();
            core.check_open()?;
            let payload = record::pause(&what, held);
            self.shared.push_waited(&mut core, kind::PAUSE, payload, After::Paused { what, held })
        };
        self.shared.answer(receiver).await
    }

    /// Reads ahead while nobody waits for it, so that no lease has to.
    fn read_later(&self, ahead: Vec<(u64, Entry)>) {
        let shared = self.shared.clone();
        tokio::task::spawn_blocking(move || {
            shared.read_ahead(ahead);
            shared.core().reading_ahead = false;
        });
    }

    /// Turns claims into deliveries, reading from disk what memory does not have.
    async fn deliveries(
        &self,
        claims: Vec<Claim>,
        ahead: Vec<(u64, Entry)>,
    ) -> Result<Vec<Delivery>, StoreError> {
        let mut deliveries: Vec<Option<Delivery>> = Vec::with_capacity(claims.len());
        let mut cold = Vec::new();
        for (n, mut claim) in claims.into_iter().enumerate() {
            match claim.fresh.take() {
                Some(fresh) => {
                    let part = Part::out_of(fresh.acceptance, fresh.draft);
                    deliveries.push(Some(delivery(&claim, part, fresh.at)));
                }
                None => {
                    deliveries.push(None);
                    cold.push((n, claim));
                }
            }
        }
        if !cold.is_empty() {
            let shared = self.shared.clone();
            let read = blocking(move || {
                let read: Vec<_> = cold.into_iter().map(|(n, claim)| (n, shared.fetch(&claim))).collect();
                shared.read_ahead(ahead);
                read
            })
            .await?;
            for (n, delivery) in read {
                deliveries[n] = delivery;
            }
        }
        Ok(deliveries.into_iter().flatten().collect())
    }
}

impl Shared {
    /// How much of the last segment is kept for settlements of what runs already, when there is no next one.
    pub(crate) fn settlement_reserve(&self) -> u64 {
        self.options.segment_bytes / 4
    }

    /// Hands over a record somebody waits for.
    pub(crate) fn push_waited(&self, core: &mut Core, kind: u8, payload: Vec<u8>, after: After) -> Answer {
        let (waiter, receiver) = oneshot::channel();
        self.push(core, Pending { kind, payload, after, waiter: Some(waiter), urgent: true });
        receiver
    }

    /// Books a settlement and hands its record over; `None` when it is superseded.
    fn settle_now(
        &self,
        core: &mut Core,
        lease: Lease,
        how: &How,
        then: Vec<Acceptance>,
        (mut payload, places): (Vec<u8>, Vec<usize>),
        now: Moment,
    ) -> Option<(Answer, Vec<InvocationId>)> {
        let number = core.state.settle(lease, how, now)?;
        record::fill(&mut payload, 0, number, now.wall);
        let mut ids = Vec::new();
        let mut new = Vec::with_capacity(then.len());
        for (acceptance, place) in then.into_iter().zip(places) {
            let first = core.state.next_number;
            core.state.next_number += acceptance.drafts.len() as u64;
            record::fill(&mut payload, place, first, now.wall);
            ids.extend(core.ids(first, acceptance.drafts.len() as u32, now.wall));
            if let Some(file) = BodyPlace::file_of(&acceptance.body) {
                core.spooled.remove(&file);
            }
            new.push(NewOnes { first, at: now.wall, acceptance: Arc::new(acceptance) });
        }
        let (ended, attempt) = match how {
            How::Completed(_) => (Ended::Completed, true),
            How::Retry { .. } => (Ended::Not, true),
            How::Released { .. } => (Ended::Not, false),
            How::Dead { attempt, reason, .. } => (Ended::Dead(*reason), attempt.is_some()),
        };
        let (waiter, receiver) = oneshot::channel();
        // A callback is somebody's news: it does not wait for company.
        let urgent = !new.is_empty();
        let after = After::Settled { number, life: lease.life, ended, attempt, then: new };
        self.push(core, Pending { kind: kind::SETTLED, payload, after, waiter: Some(waiter), urgent });
        self.signal(core);
        Some((receiver, ids))
    }

    /// Gives back what is leased, on the way to a close: nobody is left to settle it.
    pub(crate) fn release_leased(&self, core: &mut Core) {
        let now = self.moment();
        let how = How::Released { wait: std::time::Duration::ZERO };
        for (number, life) in core.state.release_leased(now) {
            let (mut payload, _) = written(&how, &[]);
            record::fill(&mut payload, 0, number, now.wall);
            let after = After::Settled { number, life, ended: Ended::Not, attempt: false, then: Vec::new() };
            self.push(core, Pending { kind: kind::SETTLED, payload, after, waiter: None, urgent: false });
        }
    }

    /// Reads what its lane will claim next. What cannot be read is left to its claim.
    fn read_ahead(&self, ahead: Vec<(u64, Entry)>) {
        let mut read = Vec::with_capacity(ahead.len());
        for run in ahead.chunk_by(|(_, one), (_, next)| lies_behind(one, next)) {
            let (Some((_, first)), Some((_, last))) = (run.first(), run.last()) else { continue };
            let length = (last.place.offset - first.place.offset).saturating_add(last.share);
            let Ok(bytes) = self.read_bytes(first.place, length as usize) else { break };
            for (number, entry) in run {
                let at = (entry.place.offset - first.place.offset) as usize;
                // A record of many drafts is longer than one draft's share of it.
                let Some(record) = bytes.get(at..).and_then(|bytes| self.record_in(bytes)) else { continue };
                read.extend(fresh_of(record, entry.part).map(|fresh| (*number, fresh)));
            }
        }
        let mut core = self.core();
        for (number, fresh) in read {
            core.state.keep_ahead(number, fresh);
        }
    }

    /// Reads a claimed invocation from disk. One whose record is damaged becomes a dead letter, and `None`.
    fn fetch(&self, claim: &Claim) -> Option<Delivery> {
        let mut entry = claim.entry;
        let mut suspect = None;
        let what = loop {
            match self.read_record(entry.place) {
                Ok((record, _)) => match part_of(&record, entry.part) {
                    Some((acceptance, draft, at)) => {
                        return Some(delivery(claim, Part::of(acceptance, draft), at));
                    }
                    None => break "its record has no such part".to_owned(),
                },
                // It was copied forward between the claim and the read.
                Err(ReadError::Gone) => match self.core().state.table.get(claim.number) {
                    Some(now) if now.place != entry.place => entry = *now,
                    _ => break "its segment is gone".to_owned(),
                },
                Err(ReadError::Damaged(path)) => {
                    suspect = Some(entry.place.segment);
                    break format!("its record in {} is damaged", path.display());
                }
                Err(ReadError::Io(path, error)) => break format!("cannot read {}: {error}", path.display()),
            }
        };
        tracing::error!(invocation.id = %claim.lease.id, "{what}: it becomes a dead letter");
        let how = How::Dead { attempt: None, reason: Reason::Damaged, detail: what.into() };
        let written = written(&how, &[]);
        let now = self.moment();
        let mut core = self.core();
        // The sweep counts what it finds damaged; what only could not be read it does not find.
        core.state.damaged += u64::from(suspect.is_none());
        // Nobody waits for this one; the receiver may go.
        drop(self.settle_now(&mut core, claim.lease, &how, Vec::new(), written, now));
        drop(core);
        if let Some(segment) = suspect {
            sweep::suspect(self, segment, true);
        }
        None
    }
}

/// Whether the second record lies so close behind the first that one read for both costs less than two.
fn lies_behind(one: &Entry, next: &Entry) -> bool {
    let end = one.place.offset.saturating_add(one.share);
    one.place.segment == next.place.segment
        && next.place.offset > one.place.offset
        && next.place.offset.saturating_sub(end) <= 4096
}

/// A settlement's record, and where in it the numbers of what follows belong.
pub(crate) fn written(how: &How, then: &[Acceptance]) -> (Vec<u8>, Vec<usize>) {
    let mut put = Put::with_capacity(512 + then.iter().map(record::size_of).sum::<usize>());
    let places = record::settled(&mut put, how, then);
    (put.0, places)
}

/// A record's n-th part, to be kept in memory.
fn fresh_of(record: Record, part: u32) -> Option<Fresh> {
    let (_, draft, at) = part_of(&record, part)?;
    let acceptance = match record {
        Record::Accepted(accepted) => accepted.acceptance,
        other => part_of(&other, part)?.0.clone(),
    };
    Some(Fresh { acceptance: Arc::new(acceptance), draft, at })
}

/// The acceptance, draft and moment that a record's n-th part stands for.
pub(crate) fn part_of(record: &Record, part: u32) -> Option<(&Acceptance, usize, u64)> {
    let part = part as usize;
    match record {
        Record::Accepted(accepted) => {
            (part < accepted.acceptance.drafts.len()).then_some((&accepted.acceptance, part, accepted.at))
        }
        Record::Missing { letter, .. } => {
            (part < letter.acceptance.drafts.len()).then_some((&letter.acceptance, part, letter.at))
        }
        Record::Settled(settled) => {
            let mut before = 0;
            for accepted in &settled.then {
                let count = accepted.acceptance.drafts.len();
                if part < before + count {
                    return Some((&accepted.acceptance, part - before, accepted.at));
                }
                before += count;
            }
            None
        }
        Record::Moved(moved) => (part < moved.parts.len()).then_some((&moved.acceptance, part, moved.at)),
        _ => None,
    }
}

/// One invocation's part of an acceptance.
struct Part {
    origin: Origin,
    headers: Headers,
    body: Body,
    draft: Draft,
}

impl Part {
    fn of(acceptance: &Acceptance, draft: usize) -> Part {
        Part {
            origin: acceptance.origin.clone(),
            headers: acceptance.headers.clone(),
            body: acceptance.body.clone(),
            draft: acceptance.drafts[draft].clone(),
        }
    }

    /// Without a copy, where nobody else holds the acceptance any more.
    fn out_of(acceptance: Arc<Acceptance>, draft: usize) -> Part {
        match Arc::try_unwrap(acceptance) {
            Ok(Acceptance { origin, headers, body, mut drafts, .. }) => {
                Part { origin, headers, body, draft: drafts.swap_remove(draft) }
            }
            Err(shared) => Part::of(&shared, draft),
        }
    }
}

fn delivery(claim: &Claim, part: Part, at: u64) -> Delivery {
    let invocation = invocation_of(claim.lease.id, claim.lease.life, claim.life_began, part, at);
    Delivery { lease: claim.lease, invocation, made: claim.made, interrupted: claim.interrupted }
}

/// An invocation as its record and its life give it.
pub(crate) fn invocation(
    id: InvocationId,
    life: u32,
    life_began: u64,
    acceptance: &Acceptance,
    draft: usize,
    at: u64,
) -> Invocation {
    invocation_of(id, life, life_began, Part::of(acceptance, draft), at)
}

fn invocation_of(id: InvocationId, life: u32, life_began: u64, part: Part, at: u64) -> Invocation {
    let Part { origin, headers, body, draft } = part;
    Invocation {
        id,
        life,
        lane: draft.lane,
        target: draft.target,
        origin,
        call_id: draft.call_id,
        headers,
        body,
        accepted_at: Timestamp::from_nanos(at),
        life_began_at: Timestamp::from_nanos(if life == 1 { at } else { life_began }),
        due: draft.due,
        max_age: draft.max_age,
    }
}
