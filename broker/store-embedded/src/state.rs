//! What the store knows in memory, and how each thing that happens changes it.
//!
//! The same rules serve the running store and recovery: recovery calls them with what the journal says, in its order.
//! Nothing here does I/O or reads a clock.
//!
//! A settlement, cancel or removal counts here when it is asked for, and its record follows in the same order. An
//! acceptance, redrive or pause counts when its record is durable, because an outsider could see it otherwise.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use broker_model::attempt::Class;
use broker_model::lease::{Tenure, may_settle, wait_after_interruptions};
use broker_model::position::MarkChange;
use broker_model::queue::{Cancelled, Pausable};
use broker_model::{
    Acceptance, AttemptHistory, Body, CallId, InvocationId, Lane, Lease, Origin, Reason, Totals,
};

use crate::dedup::{Dedup, Waiter};
use crate::index::{self, Change, Key};
use crate::lanes::Lanes;
use crate::options::{Options, Retention};
use crate::received::Received;
use crate::record::{self, BodyFile, BodyPlace, How, KeyRow, Record, ScheduleChange, Small, nanos};
use crate::rows::{self, Life, New, Row, Said, Stands, Then};
use crate::table::{Entry, Phase, Place, Table};

/// One reading of both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// Nanoseconds since 1970.
    pub(crate) wall: u64,
    pub(crate) mono: Duration,
}

/// What only some invocations have: those that ran, or ended. Those of dead letters move to the index.
#[derive(Debug, Default, Clone)]
pub(crate) struct Extra {
    /// Lives before this one.
    pub(crate) lives_before: u32,
    /// When this life began; 0 for at acceptance.
    pub(crate) life_began: u64,
    pub(crate) interrupted: u32,
    /// A start stands in the journal that no settlement followed yet.
    pub(crate) started: bool,
    /// During recovery: that start was cut off, because another process took the journal over since.
    pub(crate) cut_off: bool,
    /// The current lease's token; 0 for none.
    pub(crate) token: u64,
    /// While retrying: until when, on the monotonic clock (during recovery: on the wall clock).
    pub(crate) until: u64,
    /// During recovery: the wait that was asked for.
    pub(crate) wait: u64,
    pub(crate) attempts: Vec<AttemptAt>,
    /// Middle attempts that are only counted, by class.
    pub(crate) dropped: Option<Box<[u32; Class::ALL.len()]>>,
    pub(crate) ended_at: u64,
    /// The record that says how it died.
    pub(crate) end: Option<Place>,
    pub(crate) reason: u8,
}

impl Extra {
    pub(crate) fn life(&self) -> u32 {
        self.lives_before + 1
    }

    /// Attempts of this life so far.
    pub(crate) fn made(&self) -> u32 {
        let dropped: u32 = self.dropped.iter().flat_map(|counts| counts.iter()).sum();
        self.attempts.len() as u32 + dropped
    }

    fn push(&mut self, attempt: AttemptAt) {
        self.attempts.push(attempt);
        if self.attempts.len() > AttemptHistory::FIRST + AttemptHistory::LAST {
            let gone = self.attempts.remove(AttemptHistory::FIRST);
            self.dropped.get_or_insert_default()[usize::from(gone.class)] += 1;
        }
    }

    fn has_nothing_to_say(&self) -> bool {
        self.lives_before == 0 && self.interrupted == 0 && self.attempts.is_empty() && self.end.is_none()
    }

    /// Something of it is still on its way to disk.
    pub(crate) fn is_pending(&self) -> bool {
        self.attempts.iter().any(|attempt| attempt.place.is_pending())
            || self.end.is_some_and(Place::is_pending)
    }
}

/// Where an attempt stands: in a settlement, or the n-th of a moved record's part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AttemptAt {
    pub(crate) place: Place,
    pub(crate) nth: u8,
    pub(crate) class: u8,
}

/// What happens in memory when a record is durable.
#[derive(Debug)]
pub(crate) enum After {
    Accepted(NewOnes, Option<Reason>),
    Started,
    Settled {
        number: u64,
        life: u32,
        ended: Ended,
        attempt: bool,
        then: Vec<NewOnes>,
    },
    Cancelled,
    Redriven {
        number: u64,
        life: u32,
        at: u64,
    },
    Removed {
        number: u64,
    },
    Paused {
        what: Pausable,
        held: bool,
    },
    Moved(Vec<MovedMark>),
    Keys(Vec<KeyRow>),
    Marked(MarkChange),
    Scheduled(ScheduleChange),
    /// The journal begins with this number.
    Front(u64),
    /// These journal numbers (from, to) cannot be read any more; the dead letter that says so.
    Missing {
        gap: (u64, u64),
        letter: NewOnes,
    },
    /// No record: its waiter only wants to know that all before it is durable.
    Barrier,
}

/// Invocations on their way to disk.
#[derive(Debug)]
pub(crate) struct NewOnes {
    pub(crate) first: u64,
    pub(crate) at: u64,
    pub(crate) acceptance: Arc<Acceptance>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Completed,
    Not,
    Dead(Reason),
}

/// What a move stated of one part, to be told from what happened to it since.
#[derive(Debug, Clone)]
pub(crate) struct MovedMark {
    pub(crate) number: u64,
    pub(crate) life: u32,
    /// Where the attempts stood that the moved record repeats, in its order.
    pub(crate) attempts: Vec<AttemptAt>,
    /// Where it was said how the invocation died, if the moved record repeats it.
    pub(crate) end: Option<Place>,
    /// The index of the reason the moved record gives, where that is another one.
    pub(crate) reason: Option<u8>,
}

/// Books a record into the small state, in journal order.
pub(crate) fn tally(small: &mut Small, after: &After) {
    let totals = &mut small.totals;
    let mut new_ones = |totals: &mut Totals, new: &NewOnes| {
        totals.accepted[new.acceptance.origin.index()] += new.acceptance.drafts.len() as u64;
        small.next = small.next.max(new.first + new.acceptance.drafts.len() as u64);
    };
    match after {
        After::Accepted(new, end) => {
            new_ones(totals, new);
            if let Some(reason) = end {
                totals.dead[record::reason_index(*reason)] += new.acceptance.drafts.len() as u64;
            }
        }
        After::Settled { ended, then, .. } => {
            then.iter().for_each(|new| new_ones(totals, new));
            match ended {
                Ended::Completed => totals.completed += 1,
                Ended::Dead(reason) => totals.dead[record::reason_index(*reason)] += 1,
                Ended::Not => {}
            }
        }
        After::Cancelled => totals.cancelled += 1,
        After::Redriven { .. } => totals.redriven += 1,
        After::Removed { .. } => totals.removed += 1,
        After::Paused { what, held } => {
            small.paused.retain(|paused| paused != what);
            if *held {
                small.paused.push(what.clone());
            }
        }
        After::Front(front) => {
            small.front = *front;
            small.gaps.retain(|(_, to)| to > front);
        }
        After::Missing { gap, letter } => {
            new_ones(totals, letter);
            totals.dead[record::reason_index(Reason::Damaged)] += letter.acceptance.drafts.len() as u64;
            small.damaged += gap.1 - gap.0;
            small.gaps.push(*gap);
        }
        After::Scheduled(ScheduleChange::Removed(id)) => {
            small.paused.retain(|paused| *paused != Pausable::Schedule(id.clone()));
        }
        // What sources and schedules received is not kept here: whoever begins a segment asks for it.
        After::Marked(_)
        | After::Scheduled(_)
        | After::Started
        | After::Moved(_)
        | After::Keys(_)
        | After::Barrier => {}
    }
}

/// One segment's bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Space {
    /// On disk.
    pub(crate) len: u64,
    /// Of invocations that wait, run or are dead.
    pub(crate) live: u64,
    /// Of invocations that ended and can still be looked up.
    pub(crate) retained: u64,
    /// How many invocations have their record here.
    pub(crate) entries: u64,
    /// The journal number it begins with.
    pub(crate) first: u64,
    /// Up to where it was synced when the next one was begun; 0 for the one that is being written.
    pub(crate) end: u64,
    /// What is known of it beside what it says.
    pub(crate) known: Known,
}

/// What this process knows of a segment that is not written any more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// The length of its summary, if it has one.
    pub(crate) summary: Option<u64>,
    /// No summary can be made of it: it is damaged, or the disk refused.
    pub(crate) no_summary: bool,
    /// Damage in it was reported in this process.
    pub(crate) reported: bool,
    /// All its bytes were read in this process and are what was written, or what is not was reported.
    pub(crate) verified: bool,
}

/// A claimed invocation, before its record is read.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) lease: Lease,
    pub(crate) number: u64,
    pub(crate) entry: Entry,
    pub(crate) made: u32,
    pub(crate) interrupted: u32,
    pub(crate) life_began: u64,
    pub(crate) fresh: Option<Fresh>,
}

/// A body kept beside its entry.
#[derive(Debug, Clone)]
pub(crate) struct Fresh {
    pub(crate) acceptance: Arc<Acceptance>,
    pub(crate) draft: usize,
    pub(crate) at: u64,
}

/// Everything known.
#[derive(Debug)]
pub(crate) struct State {
    tag: u32,
    retention: Retention,
    fresh_budget: u64,
    index_queue: usize,
    /// Recovery is under way: lanes and waits are filled at its end.
    replaying: bool,
    pub(crate) table: Table,
    pub(crate) extras: HashMap<u64, Extra>,
    pub(crate) lanes: Lanes,
    waits: BinaryHeap<Reverse<(u64, u64)>>,
    dues: BinaryHeap<Reverse<(u64, u64)>>,
    totals: Totals,
    pub(crate) paused: BTreeSet<Pausable>,
    /// Dead ones whose details are here and not (yet) in the index.
    pub(crate) dead: BTreeSet<Key>,
    dead_kept: u64,
    /// The number of the journal's record that is booked now, or was last.
    pub(crate) journal: u64,
    /// During recovery: the record up to which the index is believed.
    indexed: u64,
    /// The index follows: what changes is queued for it.
    following: bool,
    /// More was queued than the index should have to catch up with.
    pub(crate) lagging: bool,
    /// For the index, in the journal's order, only what is durable.
    pub(crate) changes: VecDeque<Change>,
    /// Counts how often details went from here to the index.
    pub(crate) evictions: u64,
    retained: VecDeque<u64>,
    retained_bytes: u64,
    retained_count: usize,
    pub(crate) space: BTreeMap<u32, Space>,
    pub(crate) dedup: Dedup,
    pub(crate) received: Received,
    body_of: HashMap<u64, BodyFile>,
    body_refs: HashMap<BodyFile, u64>,
    /// Body files nobody refers to any more.
    pub(crate) doomed: Vec<BodyFile>,
    fresh: HashMap<u64, Fresh>,
    fresh_order: VecDeque<(u64, u64)>,
    fresh_bytes: u64,
    pub(crate) next_number: u64,
    /// Smaller acceptance numbers are of the last process.
    new_from: u64,
    next_token: u64,
    pub(crate) damaged: u64,
    /// Journal numbers (from, to) that are known to be missing and were reported.
    pub(crate) gaps: Vec<(u64, u64)>,
    /// The number the journal begins with; 0 when nobody said.
    pub(crate) front: u64,
    /// A lane gained something since the flag was last taken.
    pub(crate) signal: bool,
}

impl State {
    pub(crate) fn new(options: &Options, tag: u32) -> Self {
        State {
            tag,
            retention: options.retention,
            fresh_budget: options.fresh_bytes,
            index_queue: options.index_queue,
            replaying: true,
            table: Table::default(),
            extras: HashMap::new(),
            lanes: Lanes::default(),
            waits: BinaryHeap::new(),
            dues: BinaryHeap::new(),
            totals: Totals::default(),
            paused: BTreeSet::new(),
            dead: BTreeSet::new(),
            dead_kept: 0,
            journal: 0,
            indexed: 0,
            following: false,
            lagging: false,
            changes: VecDeque::new(),
            evictions: 0,
            retained: VecDeque::new(),
            retained_bytes: 0,
            retained_count: 0,
            space: BTreeMap::new(),
            dedup: Dedup::new(options.dedup),
            received: Received::default(),
            body_of: HashMap::new(),
            body_refs: HashMap::new(),
            doomed: Vec::new(),
            fresh: HashMap::new(),
            fresh_order: VecDeque::new(),
            fresh_bytes: 0,
            next_number: 1,
            new_from: 0,
            next_token: 1,
            damaged: 0,
            gaps: Vec::new(),
            front: 0,
            signal: false,
        }
    }

    // ---- Identity ----

    /// The id of an acceptance number: a UUIDv7 of its millisecond, the number (48 bits) and the directory's tag.
    pub(crate) fn id_of(&self, number: u64, millis: u64) -> InvocationId {
        let high = u128::from(millis & 0xffff_ffff_ffff) << 80;
        let version = 0x7u128 << 76 | u128::from(number >> 36 & 0xfff) << 64;
        let low =
            0b10u128 << 62 | u128::from(number & 0xf_ffff_ffff) << 26 | u128::from(self.tag & 0x3ff_ffff);
        InvocationId::from_u128(high | version | low)
    }

    /// The acceptance number an id carries; `None` when the id is none of ours.
    pub(crate) fn number_of(&self, id: InvocationId) -> Option<u64> {
        let bits = id.as_u128();
        let number = (bits >> 64 & 0xfff) << 36 | bits >> 26 & 0xf_ffff_ffff;
        let number = u64::try_from(number).ok()?;
        let millis = u64::try_from(bits >> 80).ok()?;
        (self.id_of(number, millis) == id).then_some(number)
    }

    /// The entry of an id, if it is there and really its.
    pub(crate) fn entry_of(&self, id: InvocationId) -> Option<(u64, &Entry)> {
        let number = self.number_of(id)?;
        let entry = self.table.get(number)?;
        (self.id_of(number, entry.millis()) == id).then_some((number, entry))
    }

    pub(crate) fn tag(&self) -> u32 {
        self.tag
    }

    // ---- Totals ----

    /// The totals with what is counted now.
    pub(crate) fn totals(&self) -> Totals {
        let mut totals = self.totals.clone();
        totals.held = self.lanes.held();
        totals.dead_kept = self.dead_kept;
        totals
    }

    /// How many dead letters there are.
    pub(crate) fn dead_kept(&self) -> u64 {
        self.dead_kept
    }

    // ---- Acceptance ----

    /// Puts accepted invocations where they belong. `part` is the number of drafts before them in their record.
    #[allow(clippy::too_many_arguments, reason = "one call, each argument another fact of the record")]
    pub(crate) fn accept(
        &mut self,
        first: u64,
        at: u64,
        acceptance: &Arc<Acceptance>,
        end: Option<Reason>,
        place: Place,
        part: u32,
        share: u32,
        now: Moment,
    ) {
        let body = BodyPlace::file_of(&acceptance.body);
        for (n, draft) in acceptance.drafts.iter().enumerate() {
            let number = first + n as u64;
            let new = New {
                number,
                at,
                lane: &draft.lane,
                due: draft.due.map_or(0, |due| due.as_nanos()),
                call: call_hash(&draft.call_id),
                share,
                origin: acceptance.origin.index() as u8,
                end: end.map(|reason| record::reason_index(reason) as u8),
                body,
            };
            self.add(&new, place, part + n as u32, now.wall);
            if end.is_none() && !self.replaying && self.is_soon(number) {
                self.keep_fresh(number, Fresh { acceptance: acceptance.clone(), draft: n, at });
            }
        }
    }

    /// Puts one accepted invocation where it belongs, as of the moment `now`.
    fn add(&mut self, new: &New<'_>, place: Place, part: u32, now: u64) {
        let number = new.number;
        if let Some(accepted) = self.totals.accepted.get_mut(usize::from(new.origin)) {
            *accepted += 1;
        }
        let due = Some(new.due).filter(|due| *due > now);
        let phase = match (new.end, due) {
            (Some(_), _) => Phase::Dead,
            (None, Some(_)) => Phase::Scheduled,
            (None, None) => Phase::Ready,
        };
        self.enter(new, phase, place, part);
        if let Some(reason) = new.end {
            if let Some(dead) = self.totals.dead.get_mut(usize::from(reason)) {
                *dead += 1;
            }
            let extra = self.extras.entry(number).or_default();
            extra.end = Some(place);
            extra.ended_at = new.at;
            extra.reason = reason;
            self.dead.insert((new.at, number));
            self.note_dead(number);
        } else if let Some(due) = due {
            self.dues.push(Reverse((due, number)));
            // Whoever waits in `ready` set its timer before it knew of this one.
            self.signal = true;
        } else {
            self.line_up(number, false);
        }
    }

    fn enter(&mut self, new: &New<'_>, phase: Phase, place: Place, part: u32) {
        // A copy of a record met twice in recovery replaces what the first one said.
        self.forget(new.number);
        self.next_number = self.next_number.max(new.number + 1);
        let lane = self.lanes.join(new.lane);
        let entry = Entry::new(place, new.share, lane, new.at / 1_000_000, phase, part, new.call);
        self.table.insert(new.number, entry);
        self.dead_kept += u64::from(phase.is_dead());
        self.lanes.shift(lane, None, Some(phase));
        let space = self.space.entry(place.segment).or_default();
        space.entries += 1;
        space.live += u64::from(new.share);
        if let Some(file) = new.body {
            self.body_of.insert(new.number, file);
            *self.body_refs.entry(file).or_default() += 1;
        }
    }

    /// Whether it is worth memory until it runs: what waits behind many others is read back with its neighbours when its
    /// turn comes, and would only drive out what runs sooner.
    fn is_soon(&self, number: u64) -> bool {
        const SOON: usize = 1024;
        let lane = self.table.get(number).and_then(|entry| self.lanes.get(entry.lane));
        lane.is_some_and(|lane| lane.ready.len() <= SOON)
    }

    fn keep_fresh(&mut self, number: u64, fresh: Fresh) {
        let body = match &fresh.acceptance.body {
            Body::Inline(bytes) => bytes.len(),
            Body::Stored(_) => 0,
        };
        let cost = (body + fresh.acceptance.headers.bytes()) as u64
            / fresh.acceptance.drafts.len().max(1) as u64
            + 256;
        self.fresh_bytes += cost;
        self.fresh.insert(number, fresh);
        self.fresh_order.push_back((number, cost));
        while self.fresh_bytes > self.fresh_budget
            && let Some((oldest, cost)) = self.fresh_order.pop_front()
        {
            self.fresh.remove(&oldest);
            self.fresh_bytes -= cost;
        }
        // Those that were delivered are gone from the map and keep only their place in the order.
        if self.fresh_order.len() > 64 + 2 * self.fresh.len() {
            let fresh = &self.fresh;
            self.fresh_order.retain(|(number, _)| fresh.contains_key(number));
            self.fresh_bytes = self.fresh_order.iter().map(|(_, cost)| cost).sum();
        }
    }

    // ---- Running ----

    /// Lets everything run whose wait or due time is over.
    pub(crate) fn promote(&mut self, now: Moment) {
        let mono = nanos(now.mono);
        while let Some(&Reverse((until, number))) = self.waits.peek()
            && until <= mono
        {
            self.waits.pop();
            let retrying = self.table.get(number).is_some_and(|entry| entry.phase() == Phase::Retrying);
            if retrying && self.extras.get(&number).is_some_and(|extra| extra.until == until) {
                self.set_phase(number, Phase::Ready);
                self.line_up(number, false);
            }
        }
        while let Some(&Reverse((due, number))) = self.dues.peek()
            && due <= now.wall
        {
            self.dues.pop();
            if self.table.get(number).is_some_and(|entry| entry.phase() == Phase::Scheduled) {
                self.set_phase(number, Phase::Ready);
                self.line_up(number, false);
            }
        }
    }

    /// How long until something may run that may not now, as far as the clocks can say.
    pub(crate) fn next_wake(&self, now: Moment) -> Option<Duration> {
        let wait = self.waits.peek().map(|Reverse((until, _))| until.saturating_sub(nanos(now.mono)));
        // The wall clock may jump at any time, so it is looked at once a second while somebody waits for it.
        let due = self.dues.peek().map(|Reverse((due, _))| due.saturating_sub(now.wall).min(1_000_000_000));
        let next = match (wait, due) {
            (Some(wait), Some(due)) => wait.min(due),
            (wait, due) => wait.or(due)?,
        };
        Some(Duration::from_nanos(next))
    }

    /// Claims up to `n` of a lane, oldest first.
    pub(crate) fn lease(&mut self, lane: &Lane, n: usize) -> Vec<Claim> {
        let mut claims = Vec::new();
        let Some(lane_number) = self.lanes.number_of(lane) else { return claims };
        while claims.len() < n {
            let Some(number) = self.lanes.get_mut(lane_number).and_then(|lane| lane.ready.pop_front()) else {
                self.lanes.found_empty(lane_number);
                break;
            };
            let stands = self
                .table
                .get(number)
                .is_some_and(|entry| entry.phase() == Phase::Ready && entry.lane == lane_number);
            if stands {
                claims.extend(self.claim(number));
            }
        }
        claims
    }

    /// What a lane would claim next and has to be read from disk: of the next `most`, and of about so many bytes, what is not
    /// in memory yet, in the order of the claims.
    pub(crate) fn cold_ahead(&self, lane: &Lane, most: usize, bytes: u64) -> Vec<(u64, Entry)> {
        let Some(lane_number) = self.lanes.number_of(lane) else { return Vec::new() };
        let Some(lane) = self.lanes.get(lane_number) else { return Vec::new() };
        lane.ready
            .iter()
            .take(most)
            .filter_map(|number| Some((*number, *self.table.get(*number)?)))
            .filter(|(_, entry)| entry.phase() == Phase::Ready && entry.lane == lane_number)
            .scan(bytes, |left, one| {
                let enough = *left == 0;
                *left = left.saturating_sub(u64::from(one.1.share));
                (!enough).then_some(one)
            })
            .filter(|(number, _)| !self.fresh.contains_key(number))
            .collect()
    }

    /// Whether what a lane would claim after so many others, or else its last one, has to be read from disk.
    pub(crate) fn is_cold_at(&self, lane: &Lane, behind: usize) -> bool {
        let lane = self.lanes.number_of(lane).and_then(|number| self.lanes.get(number));
        let there = lane.and_then(|lane| lane.ready.get(behind).or(lane.ready.back()));
        there.is_some_and(|number| !self.fresh.contains_key(number))
    }

    /// Keeps what was read ahead, unless it was claimed or ended meanwhile.
    pub(crate) fn keep_ahead(&mut self, number: u64, fresh: Fresh) {
        let waits = self.table.get(number).is_some_and(|entry| entry.phase() == Phase::Ready);
        if waits && !self.fresh.contains_key(&number) {
            self.keep_fresh(number, fresh);
        }
    }

    /// Whether this claim must be on disk before anybody runs it: what the last process left behind may be what ended it.
    ///
    /// A call that kills us at once would otherwise never be counted as interrupted, because its mark waits for company
    /// for longer than we live.
    pub(crate) fn may_have_killed_us(&self, claim: &Claim) -> bool {
        claim.interrupted > 0 || claim.number < self.new_from
    }

    fn claim(&mut self, number: u64) -> Option<Claim> {
        self.set_phase(number, Phase::Leased);
        let entry = *self.table.get(number)?;
        let token = self.next_token;
        self.next_token += 1;
        let extra = self.extras.entry(number).or_default();
        extra.token = token;
        extra.started = true;
        let (made, interrupted, life, life_began) =
            (extra.made(), extra.interrupted, extra.life(), extra.life_began);
        let lease = Lease { id: self.id_of(number, entry.millis()), life, token };
        let fresh = self.fresh.remove(&number);
        Some(Claim { lease, number, entry, made, interrupted, life_began, fresh })
    }

    /// Tokens of this process begin here; a lease of the last process must not pass for one of this.
    pub(crate) fn set_first_token(&mut self, token: u64) {
        self.next_token = token.max(1);
    }

    // ---- Settling ----

    /// Books a settlement if the lease is current; `None` when it is superseded, else the number and its life.
    pub(crate) fn settle(&mut self, lease: Lease, how: &How, now: Moment) -> Option<u64> {
        let (number, entry) = self.entry_of(lease.id)?;
        let tenure = match entry.phase() {
            Phase::Leased => {
                let extra = self.extras.get(&number)?;
                Tenure::Held { life: extra.life(), token: extra.token }
            }
            phase if phase.is_held() => Tenure::Free,
            _ => Tenure::Ended,
        };
        if !may_settle(tenure, lease) {
            return None;
        }
        self.apply_settlement(number, Said::of(how), Place::PENDING, now.wall, Some(now));
        Some(number)
    }

    /// Gives back everything that is leased, as a release does: which, and in which life.
    pub(crate) fn release_leased(&mut self, now: Moment) -> Vec<(u64, u32)> {
        let leased: Vec<u64> = self
            .table
            .iter()
            .filter(|(_, entry)| entry.phase() == Phase::Leased)
            .map(|(number, _)| number)
            .collect();
        let said = Said { attempt: None, then: Then::Released(Duration::ZERO) };
        leased
            .into_iter()
            .map(|number| {
                let life = self.extras.get(&number).map_or(1, Extra::life);
                self.apply_settlement(number, said, Place::PENDING, now.wall, Some(now));
                (number, life)
            })
            .collect()
    }

    /// Changes what a settlement changes. `live` is now, or `None` in recovery.
    fn apply_settlement(&mut self, number: u64, said: Said, place: Place, at: u64, live: Option<Moment>) {
        let extra = self.extras.entry(number).or_default();
        extra.started = false;
        extra.token = 0;
        if let Some(class) = said.attempt {
            extra.push(AttemptAt { place, nth: 0, class });
        }
        match said.then {
            Then::Completed => {
                extra.ended_at = at;
                self.totals.completed += 1;
                self.set_phase(number, Phase::Completed);
                self.retain(number, at);
            }
            Then::Dead(reason) => {
                extra.ended_at = at;
                extra.end = Some(place);
                extra.reason = reason;
                self.totals.dead[usize::from(reason)] += 1;
                self.set_phase(number, Phase::Dead);
                self.dead.insert((at, number));
                if !place.is_pending() {
                    self.note_dead(number);
                }
            }
            Then::Retry(wait) => self.wait(number, wait, at, live, false),
            Then::Released(wait) => self.wait(number, wait, at, live, true),
        }
    }

    fn wait(&mut self, number: u64, wait: Duration, at: u64, live: Option<Moment>, at_front: bool) {
        if wait.is_zero() {
            self.set_phase(number, Phase::Ready);
            self.line_up(number, at_front);
            if self.extras.get(&number).is_some_and(Extra::has_nothing_to_say) {
                self.extras.remove(&number);
            }
            return;
        }
        self.set_phase(number, Phase::Retrying);
        let extra = self.extras.entry(number).or_default();
        match live {
            Some(now) => {
                extra.until = nanos(now.mono.saturating_add(wait));
                self.waits.push(Reverse((extra.until, number)));
                // As above: the timer of whoever waits may be later, or none.
                self.signal = true;
            }
            None => {
                extra.until = at.saturating_add(nanos(wait));
                extra.wait = nanos(wait);
            }
        }
    }

    pub(crate) fn cancel(&mut self, number: u64, at: u64) -> Cancelled {
        let Some(entry) = self.table.get(number) else { return Cancelled::Unknown };
        let phase = entry.phase();
        if !phase.is_held() {
            return Cancelled::TooLate;
        }
        self.set_phase(number, Phase::Cancelled);
        let extra = self.extras.entry(number).or_default();
        extra.token = 0;
        // In recovery: the interruption was counted when the journal was taken over, and cancelled after that.
        extra.interrupted += u32::from(extra.cut_off && extra.started);
        extra.started = false;
        extra.ended_at = at;
        self.fresh.remove(&number);
        self.totals.cancelled += 1;
        self.retain(number, at);
        match phase {
            Phase::Leased => Cancelled::Delivering,
            _ => Cancelled::Waiting,
        }
    }

    /// Begins a new life. In the running store the redrive was announced by [`Phase::Redriving`].
    fn redrive(&mut self, number: u64, life: u32, at: u64) {
        if !self.table.get(number).is_some_and(|entry| entry.phase().is_dead()) {
            return;
        }
        let extra = self.extras.entry(number).or_default();
        self.dead.remove(&(extra.ended_at, number));
        *extra = Extra { lives_before: life.saturating_sub(1), life_began: at, ..Extra::default() };
        self.totals.redriven += 1;
        self.set_phase(number, Phase::Ready);
        self.line_up(number, false);
        self.note_alive(number);
    }

    /// Drops a dead letter for good. Its record is to follow: only one that is durable itself may be dropped.
    pub(crate) fn remove(&mut self, number: u64) -> bool {
        if !self.table.get(number).is_some_and(|entry| entry.phase() == Phase::Dead) {
            return false;
        }
        self.forget(number);
        self.totals.removed += 1;
        true
    }

    // ---- Ended ones ----

    fn retain(&mut self, number: u64, at: u64) {
        self.retained.push_back(number);
        self.retained_count += 1;
        self.retained_bytes += self.table.get(number).map_or(0, |entry| u64::from(entry.share));
        self.expire(at);
    }

    /// Forgets what ended longer ago than the retention says, or more than it allows.
    pub(crate) fn expire(&mut self, now_wall: u64) {
        while let Some(&oldest) = self.retained.front() {
            let Some(share) = self
                .table
                .get(oldest)
                .filter(|entry| entry.phase().is_over())
                .map(|entry| u64::from(entry.share))
            else {
                self.retained.pop_front();
                continue;
            };
            let ended_at = self.extras.get(&oldest).map_or(0, |extra| extra.ended_at);
            let too_old = now_wall.saturating_sub(ended_at) > nanos(self.retention.age);
            if !too_old
                && self.retained_count <= self.retention.count
                && self.retained_bytes <= self.retention.bytes
            {
                break;
            }
            self.retained.pop_front();
            self.retained_count -= 1;
            self.retained_bytes -= share;
            self.forget(oldest);
        }
    }

    /// Forgets every ended one whose record is in this segment, because the segment goes.
    pub(crate) fn forget_ended_in(&mut self, segment: u32) {
        let table = &self.table;
        let gone: Vec<u64> = self
            .retained
            .iter()
            .copied()
            .filter(|number| {
                table.get(*number).is_some_and(|e| e.place.segment == segment && e.phase().is_over())
            })
            .collect();
        for number in &gone {
            if let Some(entry) = self.table.get(*number) {
                self.retained_count -= 1;
                self.retained_bytes -= u64::from(entry.share);
            }
            self.forget(*number);
        }
        let table = &self.table;
        self.retained.retain(|number| table.get(*number).is_some());
    }

    /// Forgets one that ended, because its record is lost.
    pub(crate) fn forget_ended(&mut self, number: u64) {
        let Some(share) = self.table.get(number).filter(|e| e.phase().is_over()).map(|e| e.share) else {
            return;
        };
        self.retained_count -= 1;
        self.retained_bytes -= u64::from(share);
        self.forget(number);
    }

    /// Gives up what waits, without an attempt; its life.
    pub(crate) fn give_up(&mut self, number: u64, how: &How, now: Moment) -> u32 {
        let life = self.extras.get(&number).map_or(1, Extra::life);
        self.fresh.remove(&number);
        self.apply_settlement(number, Said::of(how), Place::PENDING, now.wall, Some(now));
        life
    }

    fn forget(&mut self, number: u64) {
        let Some(entry) = self.table.remove(number) else { return };
        let phase = entry.phase();
        self.lanes.shift(entry.lane, Some(phase), None);
        self.lanes.leave(entry.lane);
        if let Some(space) = self.space.get_mut(&entry.place.segment) {
            space.entries -= 1;
            let bytes = if phase.is_over() { &mut space.retained } else { &mut space.live };
            *bytes = bytes.saturating_sub(u64::from(entry.share));
        }
        if let Some(extra) = self.extras.remove(&number)
            && phase.is_dead()
        {
            self.dead.remove(&(extra.ended_at, number));
        }
        self.dead_kept -= u64::from(phase.is_dead());
        self.fresh.remove(&number);
        if let Some(file) = self.body_of.remove(&number)
            && let Some(refs) = self.body_refs.get_mut(&file)
        {
            *refs -= 1;
            if *refs == 0 {
                self.body_refs.remove(&file);
                self.doomed.push(file);
            }
        }
    }

    /// Whether a body file belongs to an invocation.
    pub(crate) fn owns(&self, file: BodyFile) -> bool {
        self.body_refs.contains_key(&file)
    }

    fn set_phase(&mut self, number: u64, to: Phase) {
        let Some(entry) = self.table.get_mut(number) else { return };
        let from = entry.phase();
        if from == to {
            return;
        }
        entry.set_phase(to);
        let entry = *entry;
        self.dead_kept = self.dead_kept + u64::from(to.is_dead()) - u64::from(from.is_dead());
        self.lanes.shift(entry.lane, Some(from), Some(to));
        if from.is_over() != to.is_over()
            && let Some(space) = self.space.get_mut(&entry.place.segment)
        {
            let share = u64::from(entry.share);
            space.live = space.live.saturating_sub(share);
            space.retained += share;
        }
    }

    fn line_up(&mut self, number: u64, at_front: bool) {
        if self.replaying {
            return;
        }
        if let Some(entry) = self.table.get(number) {
            self.signal |= self.lanes.push(entry.lane, number, at_front);
        }
    }

    // ---- What a commit changes ----

    /// Books what became durable at `place`. Dedup waiters to be told are added to `told`.
    pub(crate) fn commit(
        &mut self,
        after: After,
        place: Place,
        size: u32,
        now: Moment,
        told: &mut Vec<Waiter>,
    ) {
        match after {
            After::Accepted(new, end) => {
                let share = size / (new.acceptance.drafts.len().max(1) as u32);
                self.accept(new.first, new.at, &new.acceptance, end, place, 0, share, now);
                if let Some(key) = &new.acceptance.dedup {
                    told.extend(self.dedup.commit(key, new.first, place.segment));
                }
                told.extend(self.received.commit(&new.acceptance));
            }
            After::Settled { number, life, ended, attempt, then } => {
                if let Some(extra) = self.extras.get_mut(&number)
                    && extra.life() == life
                {
                    if attempt
                        && let Some(pending) = extra.attempts.iter_mut().find(|at| at.place.is_pending())
                    {
                        pending.place = place;
                    }
                    if matches!(ended, Ended::Dead(_)) && extra.end.is_some_and(Place::is_pending) {
                        extra.end = Some(place);
                        self.note_dead(number);
                    }
                }
                let drafts: usize = then.iter().map(|new| new.acceptance.drafts.len()).sum();
                let share = size / (drafts.max(1) as u32);
                let mut part = 0;
                for new in then {
                    self.accept(new.first, new.at, &new.acceptance, None, place, part, share, now);
                    part += new.acceptance.drafts.len() as u32;
                }
            }
            After::Marked(change) => self.received.marks.apply(&change),
            After::Scheduled(change) => self.change_schedules(&change),
            After::Redriven { number, life, at } => self.redrive(number, life, at),
            After::Paused { what, held } => {
                if held {
                    self.paused.insert(what);
                } else {
                    self.paused.remove(&what);
                }
            }
            After::Moved(marks) => {
                let share = size / (marks.len().max(1) as u32);
                for (part, mark) in marks.iter().enumerate() {
                    self.relocate(mark, place, part as u32, share);
                }
            }
            After::Keys(rows) => {
                for row in rows {
                    told.extend(self.dedup.commit(&row.key, row.first, place.segment));
                }
            }
            After::Removed { number } => self.note_alive(number),
            After::Missing { gap, letter } => {
                self.damaged += gap.1 - gap.0;
                self.gaps.push(gap);
                let end = Some(Reason::Damaged);
                self.accept(letter.first, letter.at, &letter.acceptance, end, place, 0, size, now);
            }
            After::Front(front) => self.begin_with(front),
            After::Started | After::Cancelled | After::Barrier => {}
        }
    }

    fn relocate(&mut self, mark: &MovedMark, place: Place, part: u32, share: u32) {
        let Some(entry) = self.table.get_mut(mark.number) else { return };
        let (old, old_share, over) = (entry.place, entry.share, entry.phase().is_over());
        entry.place = place;
        entry.part = part;
        entry.share = share;
        if over {
            self.retained_bytes =
                (self.retained_bytes + u64::from(share)).saturating_sub(u64::from(old_share));
        }
        if let Some(space) = self.space.get_mut(&old.segment) {
            space.entries -= 1;
            let bytes = if over { &mut space.retained } else { &mut space.live };
            *bytes = bytes.saturating_sub(u64::from(old_share));
        }
        let space = self.space.entry(place.segment).or_default();
        space.entries += 1;
        let bytes = if over { &mut space.retained } else { &mut space.live };
        *bytes += u64::from(share);
        if let Some(extra) = self.extras.get_mut(&mark.number)
            && extra.life() == mark.life
        {
            for (nth, was) in mark.attempts.iter().enumerate() {
                // One that fell to a count meanwhile is not there any more.
                if let Some(attempt) = extra.attempts.iter_mut().find(|attempt| *attempt == was) {
                    attempt.place = place;
                    attempt.nth = nth as u8;
                }
            }
            if extra.end.is_some() && extra.end == mark.end {
                extra.end = Some(place);
                extra.reason = mark.reason.unwrap_or(extra.reason);
            }
            self.note_dead(mark.number);
        }
    }

    // ---- The index ----

    /// Whether it is dead and only the index has its details.
    pub(crate) fn is_cold(&self, number: u64) -> bool {
        self.table.get(number).is_some_and(|entry| entry.phase().is_dead())
            && !self.extras.contains_key(&number)
    }

    /// How many dead letters only the index knows.
    pub(crate) fn cold(&self) -> u64 {
        self.dead_kept.saturating_sub(self.dead.len() as u64)
    }

    /// Which they are, and where their records stand.
    pub(crate) fn cold_ones(&self) -> Vec<(u64, Place)> {
        let dead = self.table.iter().filter(|(_, entry)| entry.phase().is_dead());
        let cold = dead.filter(|(number, _)| !self.extras.contains_key(number));
        cold.map(|(number, entry)| (number, entry.place)).collect()
    }

    /// Takes a dead letter's details back into memory.
    pub(crate) fn thaw(&mut self, number: u64, extra: Extra) {
        self.dead.insert((extra.ended_at, number));
        self.extras.insert(number, extra);
    }

    /// What the index is to hold of a dead letter; `None` while it is not durable, or none.
    pub(crate) fn row(&self, number: u64) -> Option<Box<[u8]>> {
        let entry = self.table.get(number).filter(|entry| entry.phase().is_dead())?;
        let extra = self.extras.get(&number).filter(|extra| !extra.is_pending())?;
        let lane = self.lanes.get(entry.lane);
        Some(index::write_row(number, extra, lane.and_then(|lane| lane.lane.target.function())))
    }

    /// Leaves a dead letter's details to the index, which holds this of it.
    pub(crate) fn evict(&mut self, number: u64, held: &[u8]) {
        if self.row(number).is_some_and(|row| *row == *held)
            && let Some(extra) = self.extras.remove(&number)
        {
            self.dead.remove(&(extra.ended_at, number));
            self.evictions += 1;
            if self.extras.len() < self.extras.capacity() / 8 && self.extras.capacity() > 1024 {
                self.extras.shrink_to(self.extras.len() * 2);
            }
        }
    }

    /// In recovery: the index is believed up to this record; what is booked behind it is queued for it.
    pub(crate) fn believe_index(&mut self, applied: u64) {
        self.indexed = applied;
        self.following = true;
    }

    /// In recovery: what is booked from here on stands elsewhere than the index may say.
    pub(crate) fn believe_index_no_further(&mut self) {
        self.indexed = 0;
    }

    /// Whether changes are queued for the index. Those that are queued are forgotten.
    pub(crate) fn follow(&mut self, following: bool) {
        self.following = following;
        self.lagging = false;
        self.changes = VecDeque::new();
    }

    fn note_dead(&mut self, number: u64) {
        if self.replaying && self.following && self.journal <= self.indexed {
            if let Some(extra) = self.extras.remove(&number) {
                self.dead.remove(&(extra.ended_at, number));
            }
        } else if self.following
            && let Some(row) = self.row(number)
        {
            self.change(number, Some(row));
        }
    }

    fn note_alive(&mut self, number: u64) {
        if self.following && !(self.replaying && self.journal <= self.indexed) {
            self.change(number, None);
        }
    }

    fn change(&mut self, number: u64, row: Option<Box<[u8]>>) {
        if self.changes.len() >= self.index_queue {
            self.follow(false);
            self.lagging = true;
            return;
        }
        self.changes.push_back(Change { journal: self.journal, number, row });
    }

    // ---- Recovery ----

    /// Books one record of the journal, in its order.
    pub(crate) fn replay(&mut self, record: Record, place: Place, size: u32, now: Moment) {
        let mut part = 0;
        rows::each(record, size, |row| self.book(row, place, &mut part, now));
    }

    /// Books one row of a record. `part` counts the invocations of that record.
    pub(crate) fn book(&mut self, row: Row<'_>, place: Place, part: &mut u32, now: Moment) {
        match row {
            Row::New(new) => {
                // Due times are held against the moment of acceptance: whether they passed since is seen at the end.
                self.add(&new, place, *part, new.at);
                *part += 1;
            }
            Row::Moved(new, life) => {
                self.book_moved(&new, life, place, *part);
                *part += 1;
            }
            Row::Key(row) => {
                let age = Duration::from_nanos(now.wall.saturating_sub(row.at));
                let made = (row.first, row.count, row.at);
                self.dedup.remember(&row.key, made, place.segment, now.mono, age);
            }
            Row::Beside(acceptance) => self.received.book(&acceptance),
            Row::Nothing => {}
            Row::Started(number) => {
                if self.table.get(number).is_some_and(|entry| entry.phase().is_held()) {
                    let extra = self.extras.entry(number).or_default();
                    // A second start without a settlement between: the process died in the first.
                    extra.interrupted += u32::from(extra.started);
                    extra.started = true;
                    extra.cut_off = false;
                }
            }
            Row::Settled { number, at, said } => {
                if self.table.get(number).is_some_and(|entry| entry.phase().is_held()) {
                    self.apply_settlement(number, said, place, at, None);
                } else {
                    // Its acceptance went with an old segment, or was damaged: only the totals have a use for it.
                    match said.then {
                        Then::Completed => self.totals.completed += 1,
                        Then::Dead(reason) => self.totals.dead[usize::from(reason)] += 1,
                        Then::Retry(_) | Then::Released(_) => {}
                    }
                }
            }
            Row::Cancelled { number, at } => match self.cancel(number, at) {
                Cancelled::Waiting | Cancelled::Delivering => {}
                Cancelled::TooLate | Cancelled::Unknown => self.totals.cancelled += 1,
            },
            Row::Redriven { number, life, at } => {
                let redriven = self.totals.redriven;
                self.redrive(number, life, at);
                self.totals.redriven = redriven + 1;
            }
            Row::Removed { number } => {
                if !self.remove(number) {
                    self.totals.removed += 1;
                }
                self.note_alive(number);
            }
            Row::Whole(record) => self.book_whole(record),
        }
    }

    fn book_whole(&mut self, record: Record) {
        match record {
            Record::Reconciled(small) | Record::Checkpoint(small) => self.take_small(small),
            Record::Opened(small) => {
                self.take_small(small);
                for extra in self.extras.values_mut() {
                    extra.cut_off = extra.started;
                }
            }
            Record::Pause { what, held } => {
                if held {
                    self.paused.insert(what);
                } else {
                    self.paused.remove(&what);
                }
            }
            Record::Missing { from, to, .. } => {
                self.damaged += to - from;
                self.gaps.push((from, to));
            }
            Record::Front(front) => self.begin_with(front),
            Record::Marked(change) => self.received.marks.apply(&change),
            Record::Scheduled(change) => self.change_schedules(&change),
            Record::Accepted(_)
            | Record::Started(_)
            | Record::Settled(_)
            | Record::Cancelled { .. }
            | Record::Redriven { .. }
            | Record::Removed { .. }
            | Record::Moved(_)
            | Record::Keys(_) => {}
        }
    }

    fn take_small(&mut self, small: Small) {
        self.totals = small.totals;
        self.paused = small.paused.into_iter().collect();
        self.next_number = self.next_number.max(small.next);
        self.damaged = small.damaged;
        self.gaps = small.gaps;
        self.front = small.front;
        self.received.marks = small.marks;
        self.received.schedules = small.schedules;
    }

    fn change_schedules(&mut self, change: &ScheduleChange) {
        self.received.change_schedules(change);
        if let ScheduleChange::Removed(id) = change {
            self.paused.remove(&Pausable::Schedule(id.clone()));
        }
    }

    /// What stood below this journal number was given back.
    fn begin_with(&mut self, front: u64) {
        self.front = front;
        self.gaps.retain(|(_, to)| *to > front);
    }

    fn book_moved(&mut self, new: &New<'_>, life: Life, place: Place, part: u32) {
        let due = Some(new.due).filter(|due| *due > new.at);
        let untouched = life.life == 1 && life.kept.is_empty() && life.counted.is_empty();
        let phase = match life.stands {
            Stands::Dead { .. } => Phase::Dead,
            Stands::Waiting { until: Some(_) } => Phase::Retrying,
            Stands::Waiting { until: None } if due.is_some() && untouched => Phase::Scheduled,
            Stands::Waiting { until: None } => Phase::Ready,
        };
        self.enter(new, phase, place, part);
        let attempts = life.kept.iter().enumerate().map(|(nth, class)| AttemptAt {
            place,
            nth: nth as u8,
            class: *class,
        });
        let mut extra = Extra {
            lives_before: life.life.saturating_sub(1),
            life_began: life.life_began,
            interrupted: life.interrupted,
            started: life.started,
            attempts: attempts.collect(),
            ..Extra::default()
        };
        for (class, count) in life.counted {
            extra.dropped.get_or_insert_default()[usize::from(class)] += count;
        }
        match life.stands {
            Stands::Dead { reason, died_at } => {
                extra.end = Some(place);
                extra.ended_at = died_at;
                extra.reason = reason;
                self.dead.insert((died_at, new.number));
            }
            Stands::Waiting { until } => {
                extra.until = until.unwrap_or(0);
                extra.wait = u64::MAX;
            }
        }
        if phase == Phase::Scheduled
            && let Some(due) = due
        {
            self.dues.push(Reverse((due, new.number)));
        }
        if extra.started || !extra.has_nothing_to_say() || phase == Phase::Retrying {
            self.extras.insert(new.number, extra);
        }
        if phase == Phase::Dead {
            self.note_dead(new.number);
        }
    }

    /// Ends recovery: interrupted calls come back, waits go on, lanes fill. How many were interrupted.
    pub(crate) fn finish_replay(&mut self, now: Moment) -> u64 {
        self.replaying = false;
        self.new_from = self.next_number;
        let mut interrupted = 0;
        let mut scheduled = BTreeSet::new();
        let held: Vec<(u64, Phase)> = self
            .table
            .iter()
            .filter(|(_, entry)| entry.phase().is_held())
            .map(|(number, entry)| (number, entry.phase()))
            .collect();
        for (number, phase) in held {
            let started = self.extras.get_mut(&number).filter(|extra| extra.started).map(|extra| {
                extra.started = false;
                extra.cut_off = false;
                extra.interrupted += 1;
                wait_after_interruptions(extra.interrupted)
            });
            match (started, phase) {
                (Some(wait), _) => {
                    interrupted += 1;
                    self.wait(number, wait, now.wall, Some(now), false);
                }
                (None, Phase::Retrying) => {
                    let left = self.extras.get(&number).map_or(0, |extra| {
                        // The wall clock may have been set back meanwhile: no wait grows by that.
                        extra.until.saturating_sub(now.wall).min(extra.wait).min(LONGEST_REST)
                    });
                    self.wait(number, Duration::from_nanos(left), now.wall, Some(now), false);
                }
                (None, Phase::Scheduled) => {
                    scheduled.insert(number);
                }
                (None, _) => self.line_up(number, false),
            }
        }
        self.dues = std::mem::take(&mut self.dues)
            .into_iter()
            .filter(|Reverse((_, number))| scheduled.contains(number))
            .collect();
        self.promote(now);
        self.expire(now.wall);
        interrupted
    }

    /// The small state as the journal has it when recovery ends.
    pub(crate) fn small(&self) -> Small {
        Small {
            totals: Totals { held: 0, dead_kept: 0, ..self.totals.clone() },
            paused: self.paused.iter().cloned().collect(),
            next: self.next_number,
            damaged: self.damaged,
            gaps: self.gaps.clone(),
            front: self.front,
            marks: self.received.marks.clone(),
            schedules: self.received.schedules.clone(),
        }
    }

    /// Corrects the totals by what recovery found missing, so that the loss is shown once; what was off.
    pub(crate) fn reconcile(&mut self) -> i64 {
        let drift = self.totals().drift();
        let mut amount = drift.unsigned_abs();
        if drift > 0 {
            // Counted as accepted, and nowhere to be found: lost to damage.
            self.totals.dead[record::reason_index(Reason::Damaged)] += amount;
        } else {
            // Their end was recorded and the record is lost: they wait again, and will be counted again.
            for ended in [&mut self.totals.completed, &mut self.totals.cancelled] {
                let taken = amount.min(*ended);
                *ended -= taken;
                amount -= taken;
            }
            for dead in &mut self.totals.dead {
                let taken = amount.min(*dead);
                *dead -= taken;
                amount -= taken;
            }
            // More is held than the totals ever saw: the acceptances themselves were not counted.
            self.totals.accepted[Origin::Call.index()] += amount;
        }
        drift
    }
}

/// No wait taken over from another process is longer than this.
const LONGEST_REST: u64 = 24 * 3600 * 1_000_000_000;

/// 32 bits of a call id, to find it by; equal ids have equal hashes.
pub(crate) fn call_hash(call: &CallId) -> u32 {
    crc32c::crc32c(call.as_str().as_bytes())
}
