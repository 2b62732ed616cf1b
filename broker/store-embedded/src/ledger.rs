//! The read side.

use std::time::Duration;

use async_trait::async_trait;

use broker_model::attempt::Class;
use broker_model::ledger::{Filter, LaneStats, Listed, Page, StoreHealth};
use broker_model::{
    AttemptHistory, Body, DeadLetter, InvocationId, Ledger, Reason, Record as Entry, State as Standing,
    StoreError, Timestamp, Totals,
};

use crate::EmbeddedStore;
use crate::bodies::{blocking, read_error};
use crate::index::{self, Key};
use crate::queue::{invocation, part_of};
use crate::record::{self, BodyPlace, How, Record, Standing as MovedStanding};
use crate::state::{Extra, Moment, call_hash};
use crate::store::{Core, ReadError, Shared};
use crate::sweep;
use crate::table::{self, Phase};

/// How many entries are looked at before the lock is given to others.
const SLICE: usize = 4096;

#[async_trait]
impl Ledger for EmbeddedStore {
    fn totals(&self) -> Totals {
        self.shared.core().state.totals()
    }

    fn lanes(&self) -> Vec<LaneStats> {
        let now = self.shared.moment();
        let mut core = self.shared.core();
        core.state.promote(now);
        self.shared.signal(&mut core);
        let state = &core.state;
        let mut lanes: Vec<LaneStats> = state
            .lanes
            .iter()
            .map(|lane| LaneStats {
                lane: lane.lane.clone(),
                ready: lane.count_ready,
                retrying: lane.count_retrying,
                scheduled: lane.count_scheduled,
                delivering: lane.count_leased,
            })
            .filter(|lane| lane.ready + lane.retrying + lane.scheduled + lane.delivering > 0)
            .collect();
        lanes.sort_by(|a, b| a.lane.cmp(&b.lane));
        lanes
    }

    fn health(&self) -> StoreHealth {
        let core = self.shared.core();
        StoreHealth {
            refusing: core.refusing(),
            durability: "fsync",
            disk_bytes: core.disk_bytes() + self.shared.index.bytes(),
            live_bytes: core.live_bytes(),
            commits: core.commits,
            sync_time: core.sync_time,
            damaged: core.state.damaged,
            dedup_window: core.state.dedup.window(self.shared.clock.monotonic()),
        }
    }

    async fn find(&self, id: InvocationId) -> Result<Option<Entry>, StoreError> {
        let number = {
            let core = self.shared.core();
            core.check_readable()?;
            match core.state.entry_of(id) {
                Some((number, _)) => number,
                None => return Ok(None),
            }
        };
        let found = self.record(number, Bodies::InHand).await?;
        self.once_durable(found.as_slice()).await?;
        Ok(found)
    }

    async fn list(&self, filter: &Filter, page: &Page) -> Result<Listed, StoreError> {
        let mut before = match &page.cursor {
            Some(cursor) => cursor.parse().map_err(|_| StoreError::BadCursor)?,
            None => u64::MAX,
        };
        let mut listed = Listed::default();
        let call = filter.call_id.as_ref().map(call_hash);
        while listed.items.len() < page.limit.max(1) {
            let (numbers, next) = {
                let core = self.shared.core();
                core.check_readable()?;
                let mut numbers = Vec::new();
                let mut next = None;
                for (seen, (number, entry)) in core.state.table.down_from(before).enumerate() {
                    if seen >= SLICE || listed.items.len() + numbers.len() >= page.limit.max(1) {
                        next = Some(number + 1);
                        break;
                    }
                    if call.is_none_or(|call| call == entry.call)
                        && core.may_meet(number, entry, filter, false)
                    {
                        numbers.push(number);
                    }
                }
                (numbers, next)
            };
            for number in numbers {
                if let Some(record) = self.record(number, Bodies::ByLocation).await?
                    && meets(&record, filter, false)
                {
                    listed.items.push(record);
                }
            }
            match next {
                Some(next) => before = next,
                None => {
                    self.once_durable(&listed.items).await?;
                    return Ok(listed);
                }
            }
            tokio::task::yield_now().await;
        }
        listed.next = Some(before.to_string());
        self.once_durable(&listed.items).await?;
        Ok(listed)
    }

    async fn dead_letters(&self, filter: &Filter, page: &Page) -> Result<Listed, StoreError> {
        let mut before = match &page.cursor {
            Some(cursor) => cursor
                .split_once('-')
                .and_then(|(at, number)| Some((at.parse().ok()?, number.parse().ok()?)))
                .ok_or(StoreError::BadCursor)?,
            None => (u64::MAX, u64::MAX),
        };
        let mut listed = Listed::default();
        while listed.items.len() < page.limit.max(1) {
            let most = page.limit.max(1) - listed.items.len();
            let (keys, next) = self.dead_before(filter, before, most).await?;
            for (died_at, number) in keys {
                if let Some(record) = self.record(number, Bodies::ByLocation).await?
                    && meets(&record, filter, true)
                    // One that died again since stands at another place of the list.
                    && record.dead_letter.as_ref().is_some_and(|dead| dead.died_at.as_nanos() == died_at)
                {
                    listed.items.push(record);
                }
            }
            match next {
                Some(next) => before = next,
                None => {
                    self.once_durable(&listed.items).await?;
                    return Ok(listed);
                }
            }
            tokio::task::yield_now().await;
        }
        listed.next = Some(format!("{}-{}", before.0, before.1));
        self.once_durable(&listed.items).await?;
        Ok(listed)
    }
}

impl EmbeddedStore {
    /// Waits until a cancellation that is about to be told is durable: whoever is told of an end may act on it. Other ends are
    /// read from their records, and so wait by themselves.
    async fn once_durable(&self, told: &[Entry]) -> Result<(), StoreError> {
        if told.iter().all(|record| record.state != Standing::Cancelled) {
            return Ok(());
        }
        let on_its_way = {
            let core = self.shared.core();
            core.asked > core.durable
        };
        if on_its_way { self.shared.barrier().await } else { Ok(()) }
    }

    /// Up to `most` dead letters that may meet the filter, latest death first, and where to go on if there may be more.
    async fn dead_before(
        &self,
        filter: &Filter,
        before: Key,
        most: usize,
    ) -> Result<(Vec<Key>, Option<Key>), StoreError> {
        loop {
            if let Some(found) = self.look_before(filter, before, most).await? {
                return Ok(found);
            }
        }
    }

    /// The same; `None` when the index is not believed any more since this began.
    async fn look_before(
        &self,
        filter: &Filter,
        before: Key,
        most: usize,
    ) -> Result<Option<(Vec<Key>, Option<Key>)>, StoreError> {
        // Memory first: what goes from there to the index meanwhile is met twice, and never missed.
        let (mut keys, mut reached, alone) = {
            let core = self.shared.core();
            core.check_readable()?;
            if core.index.doubted && core.state.cold() > 0 {
                let (done, total) = core.index.reread;
                return Err(StoreError::Rebuilding { done, total });
            }
            let warm: Vec<Key> = core.state.dead.range(..before).rev().take(SLICE).copied().collect();
            let reached = if warm.len() < SLICE { None } else { warm.last().copied() };
            let fits = |key: &Key| core.may_be_listed(key.1, filter);
            (warm.into_iter().filter(fits).collect::<Vec<Key>>(), reached, core.index.doubted)
        };
        let (shared, function) = (self.shared.clone(), filter.function.clone());
        // With nothing else to filter by, what is met is nearly always what is wanted.
        let slice =
            if filter.reason.is_none() && filter.call_id.is_none() { most.clamp(16, SLICE) } else { SLICE };
        let look = move || shared.index.before(function.as_ref(), before, slice);
        // One that is not believed is not asked: memory has everything.
        let cold = match if alone { Ok(Vec::new()) } else { blocking(look).await? } {
            Ok(cold) => cold,
            Err(why) => {
                index::doubt(&self.shared, &why);
                return Ok(None);
            }
        };
        if cold.len() == slice {
            reached = reached.max(cold.last().map(|(key, _)| *key));
        }
        {
            let core = self.shared.core();
            let reason = filter.reason.map(record::reason_index);
            let fits = |(_, found): &(Key, u8)| reason.is_none_or(|reason| reason == usize::from(*found));
            let cold = cold.into_iter().filter(fits).map(|(key, _)| key);
            keys.extend(cold.filter(|key| core.may_be_listed(key.1, filter)));
        }
        // Below where the shorter of both looks ended, the other one may have left some out.
        keys.retain(|key| reached.is_none_or(|reached| *key >= reached));
        keys.sort_unstable_by(|a, b| b.cmp(a));
        keys.dedup();
        if keys.len() > most {
            keys.truncate(most);
            reached = keys.last().copied();
        }
        Ok(Some((keys, reached)))
    }
}

impl Core {
    fn check_readable(&self) -> Result<(), StoreError> {
        // A failed store still shows what it holds.
        if self.closing { Err(StoreError::Closed) } else { Ok(()) }
    }

    /// What memory alone can say about a dead letter and a filter.
    fn may_be_listed(&self, number: u64, filter: &Filter) -> bool {
        let call = filter.call_id.as_ref().map(call_hash);
        self.state.table.get(number).is_some_and(|entry| {
            entry.phase().is_dead()
                && call.is_none_or(|call| call == entry.call)
                && self.may_meet(number, entry, filter, true)
        })
    }

    /// What memory alone can say about a filter.
    fn may_meet(&self, number: u64, entry: &table::Entry, filter: &Filter, ignore_state: bool) -> bool {
        let function = filter.function.as_ref().is_none_or(|function| {
            let lane = self.state.lanes.get(entry.lane);
            lane.is_some_and(|lane| lane.lane.target.function() == Some(function))
        });
        let state = ignore_state || filter.state.is_none_or(|state| state == standing(entry.phase()));
        let reason = filter.reason.is_none_or(|reason| {
            let found = self.state.extras.get(&number).map(|extra| usize::from(extra.reason));
            // One whose details are in the index may: its record will tell.
            entry.phase().is_dead() && found.is_none_or(|found| found == record::reason_index(reason))
        });
        function && state && reason
    }
}

fn meets(record: &Entry, filter: &Filter, ignore_state: bool) -> bool {
    filter.function.as_ref().is_none_or(|function| record.invocation.target.function() == Some(function))
        && filter.call_id.as_ref().is_none_or(|call| record.invocation.call_id == *call)
        && (ignore_state || filter.state.is_none_or(|state| record.state == state))
        && filter
            .reason
            .is_none_or(|reason| record.dead_letter.as_ref().is_some_and(|dead| dead.reason == reason))
}

fn standing(phase: Phase) -> Standing {
    match phase {
        Phase::Ready | Phase::Retrying | Phase::Scheduled => Standing::Waiting,
        Phase::Leased => Standing::Delivering,
        Phase::Dead | Phase::Redriving => Standing::Dead,
        Phase::Completed => Standing::Completed,
        Phase::Cancelled => Standing::Cancelled,
    }
}

#[derive(Clone, Copy)]
enum Bodies {
    InHand,
    ByLocation,
}

impl EmbeddedStore {
    /// Everything known of one, read from where it stands; `None` when it went meanwhile.
    async fn record(&self, number: u64, bodies: Bodies) -> Result<Option<Entry>, StoreError> {
        let mut reported = false;
        loop {
            let Some((entry, extra, now)) = self.snapshot(number) else { return Ok(None) };
            let extra = match extra {
                Some(extra) => extra,
                None if entry.phase().is_dead() => match self.cold(number).await? {
                    // Read after the look: it is of this death or a later one, and the record below tells which.
                    Some((_, extra)) if self.shared.core().state.is_cold(number) => extra,
                    _ => continue,
                },
                None => Extra::default(),
            };
            if extra.is_pending() {
                // Its last settlement is on its way to disk; it is there in a moment.
                self.shared.barrier().await?;
                continue;
            }
            let shared = self.shared.clone();
            match blocking(move || shared.assemble(number, entry, &extra, now, bodies)).await? {
                Ok(record) => return Ok(Some(record)),
                // It was copied forward between the look and the read; then it stands elsewhere now.
                Err(ReadError::Gone)
                    if self.snapshot(number).is_none_or(|(now, _, _)| now.place != entry.place) => {}
                // Nobody looked there since it went bad: once that is said, it stands elsewhere.
                Err(ReadError::Damaged(_)) if !reported => {
                    reported = true;
                    let shared = self.shared.clone();
                    blocking(move || sweep::report(&shared, entry.place.segment)).await?;
                }
                Err(error) => return Err(read_error(error)),
            }
        }
    }

    fn snapshot(&self, number: u64) -> Option<(table::Entry, Option<Extra>, Moment)> {
        let now = self.shared.moment();
        let mut core = self.shared.core();
        core.state.promote(now);
        self.shared.signal(&mut core);
        let entry = *core.state.table.get(number)?;
        let extra = core.state.extras.get(&number).cloned();
        Some((entry, extra, now))
    }

    /// A dead letter's details from the index; `None` when it has to be looked at anew.
    pub(crate) async fn cold(&self, number: u64) -> Result<Option<(u64, Extra)>, StoreError> {
        let shared = self.shared.clone();
        blocking(move || index::cold(&shared, number)).await
    }

    /// The body of an invocation as it stands in its record.
    pub(crate) async fn accepted_body(&self, id: InvocationId) -> Result<Option<Body>, StoreError> {
        let found = self.shared.core().state.entry_of(id).map(|(number, _)| number);
        let Some(number) = found else { return Ok(None) };
        Ok(self.record(number, Bodies::InHand).await?.map(|record| record.invocation.body))
    }
}

impl Shared {
    fn assemble(
        &self,
        number: u64,
        entry: table::Entry,
        extra: &Extra,
        now: Moment,
        bodies: Bodies,
    ) -> Result<Entry, ReadError> {
        let (record, _) = self.read_record(entry.place)?;
        let damaged = || ReadError::Damaged(self.segment_path(entry.place.segment));
        let (acceptance, draft, at) = part_of(&record, entry.part).ok_or_else(damaged)?;
        let id = self.core().state.id_of(number, entry.millis());
        let mut invocation = invocation(id, extra.life(), extra.life_began, acceptance, draft, at);
        if let (Bodies::ByLocation, Body::Inline(bytes)) = (bodies, &invocation.body) {
            invocation.body = BodyPlace::Record(id).stored(bytes.len() as u64);
        }
        let attempts = self.attempts(number, extra)?;
        let dead_letter = match (extra.end, entry.phase()) {
            (Some(end), Phase::Dead | Phase::Redriving) => {
                let own = Some((&record, entry.place));
                let (reason, detail) = self.why_dead(number, end, extra.reason, own, false)?;
                Some(DeadLetter { id, reason, detail, died_at: Timestamp::from_nanos(extra.ended_at) })
            }
            _ => None,
        };
        let next_attempt_at = match entry.phase() {
            Phase::Retrying => {
                let left = Duration::from_nanos(extra.until).saturating_sub(now.mono);
                Some(Timestamp::from_nanos(now.wall) + left)
            }
            Phase::Scheduled => invocation.due,
            _ => None,
        };
        Ok(Entry {
            invocation,
            state: standing(entry.phase()),
            attempts,
            interrupted: extra.interrupted,
            next_attempt_at,
            ended_at: (!entry.phase().is_held()).then(|| Timestamp::from_nanos(extra.ended_at)),
            dead_letter,
        })
    }

    /// The attempts of this life, as far as they are kept whole, and the counts of the others.
    pub(crate) fn attempts(&self, number: u64, extra: &Extra) -> Result<AttemptHistory, ReadError> {
        let mut kept = Vec::with_capacity(extra.attempts.len());
        let mut last: Option<(table::Place, Record)> = None;
        let mut lost = extra.dropped.as_deref().copied().unwrap_or_default();
        for at in &extra.attempts {
            let read = match last.take() {
                Some((place, record)) if place == at.place => Ok(record),
                _ => self.read_record(at.place).map(|(record, _)| record),
            };
            let record = match read {
                Ok(record) => record,
                Err(ReadError::Damaged(_)) => {
                    // Its class is known from memory; the sweep says what else was there.
                    lost[usize::from(at.class)] += 1;
                    sweep::suspect(self, at.place.segment, false);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let attempt = match &record {
                Record::Settled(settled) => match &settled.how {
                    How::Completed(attempt) | How::Retry { attempt, .. } => Some(attempt.clone()),
                    How::Dead { attempt, .. } => attempt.clone(),
                    How::Released { .. } => None,
                },
                Record::Moved(moved) => {
                    let part = moved.parts.iter().find(|part| part.number == number);
                    part.and_then(|part| part.history.kept().nth(usize::from(at.nth)).cloned())
                }
                _ => None,
            };
            kept.push(attempt.ok_or_else(|| ReadError::Damaged(self.segment_path(at.place.segment)))?);
            last = Some((at.place, record));
        }
        let counted = lost.iter().enumerate().filter(|(_, count)| **count > 0);
        let counted = counted.map(|(class, count)| (Class::ALL[class], *count));
        Ok(AttemptHistory::from_parts(kept, counted.collect::<Vec<_>>()))
    }

    /// How it died, from the record at `end` that says so. `own` is its own record, which may be the same; where the
    /// record is lost (`lost`: its own one) the reason is what memory has.
    pub(crate) fn why_dead(
        &self,
        number: u64,
        end: table::Place,
        reason: u8,
        own: Option<(&Record, table::Place)>,
        lost: bool,
    ) -> Result<(Reason, Box<str>), ReadError> {
        let said = match own {
            Some((record, place)) if place == end => death_in(record, number),
            _ => match self.read_record(end) {
                Ok((record, _)) => death_in(&record, number),
                Err(ReadError::Damaged(_)) => {
                    if !lost {
                        sweep::suspect(self, end.segment, false);
                    }
                    None
                }
                Err(error) => return Err(error),
            },
        };
        let reason = Reason::ALL.get(usize::from(reason)).copied().unwrap_or(Reason::Damaged);
        Ok(said.unwrap_or_else(|| (reason, "the record that said more is damaged".into())))
    }
}

/// What a record says of how a number died.
pub(crate) fn death_in(record: &Record, number: u64) -> Option<(Reason, Box<str>)> {
    match record {
        Record::Accepted(accepted) => accepted.end.clone(),
        Record::Missing { letter, .. } => letter.end.clone(),
        Record::Settled(settled) => match &settled.how {
            How::Dead { reason, detail, .. } => Some((*reason, detail.clone())),
            _ => None,
        },
        Record::Moved(moved) => {
            let part = moved.parts.iter().find(|part| part.number == number)?;
            match &part.standing {
                MovedStanding::Dead { reason, detail, .. } => Some((*reason, detail.clone())),
                MovedStanding::Waiting { .. } => None,
            }
        }
        _ => None,
    }
}
