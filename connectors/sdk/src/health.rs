//! How a source does: what it says of itself, what the runtime sees of it, and what people read.

use std::collections::VecDeque;
use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use broker_model::source::{Capabilities, Interval, SourceCounts, SourceState, SourceStatus};
use broker_model::{Clock, Receipt, SourceName, Timestamp, Topic};

use crate::series::{Family, Series};
use crate::top_topics::TopTopics;

/// What a source says of itself. Cheap to clone, never blocks for long.
#[derive(Clone)]
pub struct Health {
    board: Arc<Board>,
}

impl Health {
    /// The upstream is reached, and what is wanted of it is asked for.
    pub fn connected(&self) {
        self.board.change(|seen, now| seen.between(SourceState::Connecting, SourceState::Connected, now));
    }

    /// The upstream is gone for now; why is shown as the last error.
    pub fn disconnected(&self, why: impl Display) {
        self.board.change(|seen, now| {
            seen.between(SourceState::Connected, SourceState::Connecting, now);
            seen.last_error = Some((now.wall, why.to_string()));
        });
    }

    /// Something went wrong that does not end the connection.
    pub fn problem(&self, what: impl Display) {
        self.board.change(|seen, now| seen.last_error = Some((now.wall, what.to_string())));
    }

    /// What it listens to from now on, for people.
    pub fn subscribed(&self, subscriptions: Vec<String>) {
        self.board.change(|seen, _| seen.subscriptions = subscriptions);
    }

    /// How many messages of the upstream are still to come, where the upstream says so.
    pub fn lag(&self, messages: Option<u64>) {
        self.board.change(|seen, _| seen.lag = messages);
    }

    /// Adds to a counter of the connector's own.
    pub fn count(&self, family: &'static Family, labels: &[&str], more: u64) {
        let more = i64::try_from(more).unwrap_or(i64::MAX);
        self.board.change(|seen, _| seen.series.change(family, labels, |value| value.saturating_add(more)));
    }

    /// Sets a gauge of the connector's own.
    pub fn gauge(&self, family: &'static Family, labels: &[&str], value: u64) {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        self.board.change(|seen, _| seen.series.change(family, labels, |_| value));
    }

    /// Shows no longer what has these labels, as of a partition that went to another replica.
    pub fn forget(&self, family: &'static Family, with: &[(&str, &str)]) {
        self.board.change(|seen, _| seen.series.forget(family, with));
    }

    /// Messages were read from the upstream. [`crate::AckWindow`] and [`crate::SourceContext::publish`] say it themselves.
    pub fn received(&self, messages: u64) {
        self.board.counts.received.fetch_add(messages, Ordering::Relaxed);
        self.board.change(|seen, now| seen.last_event_at = Some(now.wall));
    }

    /// A message came that nobody asked for, from an upstream that cannot be told what is wanted. It goes no further.
    pub fn unwanted(&self, topic: &Topic) {
        self.received(1);
        self.board.counts.unmatched.fetch_add(1, Ordering::Relaxed);
        self.board.change(|seen, _| seen.unmatched.count(topic.as_str()));
    }

    /// Messages were not taken and are given back. [`crate::AckWindow`] says it itself.
    pub fn refused(&self, messages: u64) {
        self.board.counts.refused.fetch_add(messages, Ordering::Relaxed);
    }

    /// Messages are known to be lost; for protocols without acknowledgement.
    pub fn dropped(&self, messages: u64) {
        self.board.counts.dropped.fetch_add(messages, Ordering::Relaxed);
    }
}

/// The same, as the owner of a source sees it: where it stands, what was answered to it, and the whole to show.
#[derive(Clone)]
pub struct HealthBoard {
    board: Arc<Board>,
}

impl HealthBoard {
    /// A source that has not begun: it waits for a function list.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let now = Now { wall: clock.now(), monotonic: clock.monotonic() };
        let seen = Seen {
            state: SourceState::WaitingForFunctions,
            since: now.wall,
            subscriptions: Vec::new(),
            last_event_at: None,
            lag: None,
            last_error: None,
            unmatched: TopTopics::default(),
            gap: Some(now),
            gaps: VecDeque::new(),
            gone: Duration::ZERO,
            lost: false,
            reconnects: 0,
            series: Series::default(),
        };
        HealthBoard { board: Arc::new(Board { clock, seen: Mutex::new(seen), counts: Counts::default() }) }
    }

    /// The source's own side.
    pub fn health(&self) -> Health {
        Health { board: self.board.clone() }
    }

    /// Moves it to a state, whatever it says itself.
    pub fn enter(&self, state: SourceState) {
        self.board.change(|seen, now| {
            seen.enter(state, now);
            if state != SourceState::Connected {
                seen.subscriptions.clear();
                seen.lag = None;
            }
        });
    }

    /// An event was received.
    pub fn answered(&self, topic: &Topic, receipt: &Receipt) {
        let counts = &self.board.counts;
        if receipt.duplicate {
            counts.duplicate.fetch_add(1, Ordering::Relaxed);
        } else if receipt.invocations.is_empty() {
            counts.unmatched.fetch_add(1, Ordering::Relaxed);
            self.board.change(|seen, _| seen.unmatched.count(topic.as_str()));
        } else {
            counts.accepted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A message was kept as a dead letter.
    pub fn quarantined(&self, receipt: &Receipt) {
        let counts = &self.board.counts;
        let count = if receipt.duplicate { &counts.duplicate } else { &counts.quarantined };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Messages the upstream discarded were recorded as a dead letter.
    pub fn lost(&self, messages: Option<u64>, receipt: &Receipt) {
        if !receipt.duplicate {
            self.board.counts.dropped.fetch_add(messages.unwrap_or(1), Ordering::Relaxed);
        }
    }

    /// Where it stands.
    pub fn state(&self) -> SourceState {
        self.board.lock().state
    }

    /// The metrics of the connector's own.
    pub fn series(&self) -> Series {
        self.board.lock().series.clone()
    }

    /// Everything, for people.
    pub fn status(&self, name: SourceName, kind: &'static str, capabilities: Capabilities) -> SourceStatus {
        let now = self.board.clock.monotonic();
        let seen = self.board.lock();
        let open = seen.gap.map(|gap| Interval { from: gap.wall, until: None });
        let open_for = seen.gap.map_or(Duration::ZERO, |gap| now.saturating_sub(gap.monotonic));
        SourceStatus {
            name,
            kind,
            capabilities,
            state: seen.state,
            since: seen.since,
            subscriptions: seen.subscriptions.clone(),
            last_event_at: seen.last_event_at,
            lag: seen.lag,
            counts: self.board.counts.read(),
            last_error: seen.last_error.clone(),
            unmatched_topics: seen.unmatched.heaviest(),
            disconnected: seen.gaps.iter().copied().chain(open).collect(),
            disconnected_for: seen.gone + open_for,
            reconnects: seen.reconnects,
        }
    }
}

/// How many finished gaps are kept.
const GAPS_KEPT: usize = 32;

struct Board {
    clock: Arc<dyn Clock>,
    seen: Mutex<Seen>,
    counts: Counts,
}

impl Board {
    fn change(&self, change: impl FnOnce(&mut Seen, Now)) {
        let now = Now { wall: self.clock.now(), monotonic: self.clock.monotonic() };
        change(&mut self.lock(), now);
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        // Whoever panicked while holding it wrote plain values; they are still the best there is to show.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Copy)]
struct Now {
    wall: Timestamp,
    monotonic: Duration,
}

struct Seen {
    state: SourceState,
    since: Timestamp,
    subscriptions: Vec<String>,
    last_event_at: Option<Timestamp>,
    lag: Option<u64>,
    last_error: Option<(Timestamp, String)>,
    unmatched: TopTopics,
    gap: Option<Now>,
    gaps: VecDeque<Interval>,
    gone: Duration,
    /// The upstream was there and is gone.
    lost: bool,
    reconnects: u64,
    series: Series,
}

impl Seen {
    /// The source's own moves: nothing it says takes it out of what its owner put it into.
    fn between(&mut self, from: SourceState, to: SourceState, now: Now) {
        if self.state == from {
            self.enter(to, now);
        }
    }

    fn enter(&mut self, state: SourceState, now: Now) {
        if self.state == state {
            return;
        }
        match state {
            SourceState::Connecting => self.lost |= self.state == SourceState::Connected,
            SourceState::Connected => self.reconnects += u64::from(std::mem::take(&mut self.lost)),
            _ => {}
        }
        self.state = state;
        self.since = now.wall;
        // A source that is held or stopped misses messages too, but because somebody wants it so.
        let missing = matches!(state, SourceState::WaitingForFunctions | SourceState::Connecting);
        match (missing, self.gap) {
            (true, None) => self.gap = Some(now),
            (false, Some(gap)) => {
                self.gap = None;
                self.gone += now.monotonic.saturating_sub(gap.monotonic);
                if self.gaps.len() == GAPS_KEPT {
                    self.gaps.pop_front();
                }
                self.gaps.push_back(Interval { from: gap.wall, until: Some(now.wall) });
            }
            (true, Some(_)) | (false, None) => {}
        }
    }
}

#[derive(Default)]
struct Counts {
    received: AtomicU64,
    accepted: AtomicU64,
    unmatched: AtomicU64,
    duplicate: AtomicU64,
    refused: AtomicU64,
    quarantined: AtomicU64,
    dropped: AtomicU64,
}

impl Counts {
    fn read(&self) -> SourceCounts {
        // What became of messages is read before what came in, so that the parts never exceed the whole.
        let [accepted, unmatched, duplicate, refused, quarantined] =
            [&self.accepted, &self.unmatched, &self.duplicate, &self.refused, &self.quarantined]
                .map(|count| count.load(Ordering::Acquire));
        SourceCounts {
            received: self.received.load(Ordering::Acquire),
            accepted,
            unmatched,
            duplicate,
            refused,
            quarantined,
            dropped: self.dropped.load(Ordering::Acquire),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[derive(Debug, Default)]
    pub(crate) struct HeldClock(AtomicU64);

    impl HeldClock {
        fn pass(&self, seconds: u64) {
            self.0.fetch_add(seconds, Ordering::SeqCst);
        }
    }

    impl Clock for HeldClock {
        fn now(&self) -> Timestamp {
            Timestamp::EPOCH + self.monotonic()
        }

        fn monotonic(&self) -> Duration {
            Duration::from_secs(self.0.load(Ordering::SeqCst))
        }
    }

    const CAPABILITIES: Capabilities = Capabilities::NONE;

    fn board() -> (Arc<HeldClock>, HealthBoard) {
        let clock = Arc::new(HeldClock::default());
        (clock.clone(), HealthBoard::new(clock))
    }

    pub(crate) fn status(board: &HealthBoard) -> SourceStatus {
        board.status(SourceName::parse("bus").unwrap(), "nats", CAPABILITIES)
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn each_time_without_a_connection_is_recorded() {
        let (clock, board) = board();
        board.enter(SourceState::Connecting);
        clock.pass(5);
        board.health().connected();
        clock.pass(100);
        board.health().disconnected("the server went away");
        clock.pass(7);

        let open = status(&board);
        assert_eq!(open.disconnected[1], Interval { from: at(105), until: None });
        assert_eq!(open.disconnected_for, Duration::from_secs(12));
        assert_eq!(open.last_error, Some((at(105), "the server went away".to_owned())));
        assert_eq!(open.reconnects, 0, "the first connection is none, and it is not back yet");

        board.health().connected();
        let closed = status(&board);
        assert_eq!(closed.disconnected[0], Interval { from: at(0), until: Some(at(5)) });
        assert_eq!(closed.disconnected[1], Interval { from: at(105), until: Some(at(112)) });
        assert_eq!(closed.disconnected_for, Duration::from_secs(12));
        assert_eq!(closed.reconnects, 1);
    }

    #[test]
    fn a_source_cannot_talk_itself_out_of_a_pause() {
        let (_, board) = board();
        board.enter(SourceState::Connecting);
        board.health().connected();
        board.enter(SourceState::Paused);

        board.health().connected();
        board.health().disconnected("late");

        assert_eq!(board.state(), SourceState::Paused);
    }

    #[test]
    fn a_pause_is_no_time_without_a_connection() {
        let (clock, board) = board();
        board.enter(SourceState::Connecting);
        board.health().connected();
        board.enter(SourceState::Paused);
        clock.pass(3600);

        assert_eq!(status(&board).disconnected_for, Duration::ZERO);
    }

    #[test]
    fn only_the_latest_gaps_are_kept_and_all_of_them_counted() {
        let (clock, board) = board();
        board.enter(SourceState::Connecting);
        for _ in 0..50 {
            clock.pass(1);
            board.health().connected();
            board.health().disconnected("again");
        }
        board.health().connected();

        assert_eq!(status(&board).disconnected.len(), GAPS_KEPT);
        assert_eq!(status(&board).disconnected_for, Duration::from_secs(50));
    }

    #[test]
    fn each_answer_counts_once_by_what_it_says() {
        let (_, board) = board();
        let topic = Topic::parse("orders").unwrap();
        board.answered(&topic, &Receipt::default());
        board.answered(&topic, &Receipt { duplicate: true, ..Receipt::default() });
        board.quarantined(&Receipt::default());

        let status = status(&board);
        assert_eq!((status.counts.unmatched, status.counts.duplicate, status.counts.quarantined), (1, 1, 1));
        assert_eq!(status.counts.accepted, 0);
        assert_eq!(status.unmatched_topics, [("orders".to_owned(), 1)]);
    }

    #[test]
    fn what_nobody_asked_for_is_shown_with_its_topic() {
        let (_, board) = board();
        board.health().unwanted(&Topic::parse("orders").unwrap());

        let status = status(&board);
        assert_eq!((status.counts.received, status.counts.unmatched), (1, 1));
        assert_eq!(status.unmatched_topics, [("orders".to_owned(), 1)]);
    }
}
