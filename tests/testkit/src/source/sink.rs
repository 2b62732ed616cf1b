//! The broker's door, as a test wants it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::{self, Debug};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use broker_model::intake::{Lost, Quarantined};
use broker_model::names::FunctionName;
use broker_model::{Demand, Event, EventSink, Fingerprint, InvocationId, Position, Receipt, Refusal};
use bytes::Bytes;
use connectors_sdk::{HealthBoard, NoPositions, SourceContext};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::time::TestClock;

/// What the broker does with what it is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Takes it.
    Accept,
    /// Refuses each message this often before it takes it.
    RefuseFirst(u32),
    /// Refuses everything.
    Refuse,
    /// Takes each message after this long.
    Slow(Duration),
    /// Answers nobody until the mode changes.
    Hang,
    /// Takes what it is offered, and tells nobody until the mode changes.
    TakeAndHang,
}

/// What a redelivery has in common with the first time.
#[derive(PartialEq, Eq, Hash)]
enum Identity {
    Key(Fingerprint),
    Position(Position),
}

impl Identity {
    fn of(event: &Event) -> Option<Self> {
        let key = event.dedup.as_ref().map(|dedup| Identity::Key(dedup.key));
        event.position.clone().map(Identity::Position).or(key)
    }
}

/// Takes everything once, as a data directory does, unless it is told otherwise.
pub struct Sink {
    mode: watch::Sender<Mode>,
    seen: Arc<Mutex<Seen>>,
    board: HealthBoard,
    clock: Arc<TestClock>,
    /// What functions ask for, where the door decides by it; everything is wanted otherwise.
    asked: Option<watch::Receiver<Demand>>,
}

/// What came to the door.
#[derive(Default)]
pub struct Seen {
    /// What was taken, in that order.
    pub accepted: Vec<Event>,
    /// What could not be read, or will never be taken.
    pub quarantined: Vec<Quarantined>,
    /// What the source says was lost upstream.
    pub lost: Vec<Lost>,
    /// Messages recognised as received before.
    pub repeated: usize,
    /// Messages that wait for an answer.
    pub inside: usize,
    pub(crate) inside_bytes: usize,
    pub(crate) most_inside: usize,
    pub(crate) most_bytes: usize,
    /// How often each body was offered.
    offers: HashMap<Bytes, u32>,
    /// How often these bodies are refused at first.
    refusals: HashMap<Bytes, u32>,
    /// Bodies larger than this are refused for ever.
    limit: Option<usize>,
    known: HashSet<Identity>,
}

impl Seen {
    /// The bodies of what was taken, in that order.
    pub fn bodies(&self) -> Vec<String> {
        self.accepted.iter().map(|event| String::from_utf8_lossy(&event.body).into_owned()).collect()
    }

    /// Whether nothing came twice, known again or not. For messages of different bodies.
    pub fn each_came_once(&self) -> bool {
        let bodies: BTreeSet<&Bytes> = self.accepted.iter().map(|event| &event.body).collect();
        self.repeated == 0 && bodies.len() == self.accepted.len()
    }

    /// How often messages were offered.
    pub fn offered(&self) -> u32 {
        self.offers.values().sum()
    }

    /// How often a message with this body was.
    pub fn offers_of(&self, body: &str) -> u32 {
        self.offers.get(body.as_bytes()).copied().unwrap_or(0)
    }
}

/// Short: this is what a test that waits in vain shows.
impl Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bodies: Vec<String> =
            self.bodies().into_iter().filter(|body| body.len() < 100).take(20).collect();
        f.debug_struct("Seen")
            .field("accepted", &self.accepted.len())
            .field("some", &bodies)
            .field("repeated", &self.repeated)
            .field("inside", &self.inside)
            .field("quarantined", &self.quarantined.len())
            .field("lost", &self.lost.len())
            .field("offered", &self.offered())
            .finish_non_exhaustive()
    }
}

impl Default for Sink {
    fn default() -> Self {
        Sink::asking(None)
    }
}

impl Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sink").field(&*self.mode.borrow()).field(&*self.seen()).finish()
    }
}

/// One call that waits for its answer; leaves also when the call is dropped.
struct Inside<'a>(&'a Sink, usize);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let mut seen = self.0.seen();
        seen.inside -= 1;
        seen.inside_bytes -= self.1;
    }
}

impl Sink {
    /// One that takes only what is asked for, where that is given.
    pub(crate) fn asking(asked: Option<watch::Receiver<Demand>>) -> Sink {
        let clock = TestClock::start();
        let board = HealthBoard::new(clock.clone());
        Sink { mode: watch::channel(Mode::Accept).0, seen: Arc::default(), board, clock, asked }
    }

    /// The same door for a second source, whose health is its own.
    pub(crate) fn of_a_replica(&self) -> Sink {
        Sink {
            mode: self.mode.clone(),
            seen: self.seen.clone(),
            board: HealthBoard::new(self.clock.clone()),
            clock: self.clock.clone(),
            asked: self.asked.clone(),
        }
    }

    /// Does so from now on.
    pub fn mode(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Refuses larger bodies for ever.
    pub fn limit(&self, bytes: usize) {
        self.seen().limit = Some(bytes);
    }

    /// Refuses a message with this body so often before it takes it.
    pub fn refuse_first(&self, times: u32, body: &str) {
        self.seen().refusals.insert(Bytes::copy_from_slice(body.as_bytes()), times);
    }

    /// What came so far. Nothing comes while it is held.
    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was taken so far, in that order.
    pub fn accepted(&self) -> Vec<Event> {
        self.seen().accepted.clone()
    }

    /// The bodies of it.
    pub fn bodies(&self) -> Vec<String> {
        self.seen().bodies()
    }

    /// What could not be read, or will never be taken.
    pub fn quarantined(&self) -> Vec<Quarantined> {
        self.seen().quarantined.clone()
    }

    /// What the source says was lost upstream.
    pub fn lost(&self) -> Vec<Lost> {
        self.seen().lost.clone()
    }

    /// How often messages were offered.
    pub fn offered(&self) -> u32 {
        self.seen().offered()
    }

    /// Whether nothing came twice, known again or not. For messages of different bodies.
    pub fn each_came_once(&self) -> bool {
        self.seen().each_came_once()
    }

    /// Where the source before it says how it does.
    pub(crate) fn board(&self) -> &HealthBoard {
        &self.board
    }

    /// All that a source before it reaches.
    pub(crate) fn context(
        self: &Arc<Self>,
        demand: watch::Receiver<Demand>,
        stop: &CancellationToken,
    ) -> SourceContext {
        SourceContext {
            events: self.clone(),
            demand,
            positions: Arc::new(NoPositions),
            schedules: None,
            health: self.board.health(),
            shutdown: stop.clone(),
            clock: self.clock.clone(),
        }
    }

    fn enter(&self, bytes: usize) -> Inside<'_> {
        let mut seen = self.seen();
        seen.inside += 1;
        seen.inside_bytes += bytes;
        seen.most_inside = seen.most_inside.max(seen.inside);
        seen.most_bytes = seen.most_bytes.max(seen.inside_bytes);
        Inside(self, bytes)
    }

    async fn unless_hanging(&self) -> Mode {
        self.no_longer(Mode::Hang).await
    }

    async fn no_longer(&self, hanging: Mode) -> Mode {
        let mut mode = self.mode.subscribe();
        // The sender lives as long as the sink.
        mode.wait_for(|mode| *mode != hanging).await.map_or(Mode::Accept, |mode| *mode)
    }

    /// Whether a function wants it.
    fn is_wanted(&self, event: &Event) -> bool {
        self.asked.as_ref().is_none_or(|asked| {
            let demand = asked.borrow();
            let mut patterns = demand.for_source(&event.source);
            patterns.any(|pattern| pattern.matches(&event.source, event.wildcards, &event.topic))
        })
    }

    /// Takes an event that is offered for the so-manieth time, or does not. What nobody wants is nobody's: there is no
    /// invocation.
    fn take(&self, event: &Event, offer: u32, mode: Mode) -> Result<Receipt, Refusal> {
        if !self.is_wanted(event) {
            let receipt = Receipt::default();
            self.board.answered(&event.topic, &receipt);
            return Ok(receipt);
        }
        let mut seen = self.seen();
        let bytes = event.body.len();
        if let Some(limit) = seen.limit.filter(|limit| bytes > *limit) {
            return Err(Refusal::TooLarge { bytes: bytes as u64, limit: limit as u64 });
        }
        let refusals = match mode {
            Mode::Refuse => u32::MAX,
            Mode::RefuseFirst(refusals) => refusals,
            _ => seen.refusals.get(&event.body).copied().unwrap_or(0),
        };
        if offer <= refusals {
            return Err(Refusal::NoFunctionList);
        }
        let function = FunctionName::parse("f", "fn").expect("a function's name");
        let id = InvocationId::from_u128(seen.accepted.len() as u128);
        let duplicate = Identity::of(event).is_some_and(|identity| !seen.known.insert(identity));
        let receipt = Receipt { invocations: vec![(function, id)], duplicate };
        self.board.answered(&event.topic, &receipt);
        if duplicate {
            seen.repeated += 1;
        } else {
            seen.accepted.push(event.clone());
        }
        Ok(receipt)
    }
}

#[async_trait]
impl EventSink for Sink {
    async fn publish(&self, event: &Event) -> Result<Receipt, Refusal> {
        let _inside = self.enter(event.body.len());
        let offer = {
            let mut seen = self.seen();
            let offers = seen.offers.entry(event.body.clone()).or_default();
            *offers += 1;
            *offers
        };
        let mode = self.unless_hanging().await;
        if let Mode::Slow(time) = mode {
            tokio::time::sleep(time).await;
        }
        let taken = self.take(event, offer, mode);
        if mode == Mode::TakeAndHang {
            self.no_longer(mode).await;
        }
        taken
    }

    async fn quarantine(&self, message: &Quarantined) -> Result<Receipt, Refusal> {
        let _inside = self.enter(message.raw.len());
        self.unless_hanging().await;
        let receipt = Receipt::default();
        self.board.quarantined(&receipt);
        self.seen().quarantined.push(message.clone());
        Ok(receipt)
    }

    async fn lost(&self, range: &Lost) -> Result<Receipt, Refusal> {
        self.unless_hanging().await;
        let receipt = Receipt::default();
        self.board.lost(range.messages, &receipt);
        self.seen().lost.push(range.clone());
        Ok(receipt)
    }
}

#[cfg(test)]
mod tests {
    use broker_model::{SourceName, Topic, Wildcards};
    use connectors_sdk::dedup_key;

    use super::*;

    /// A message with this body and, where its upstream gives it one, an id.
    fn event(body: &str, id: Option<&str>) -> Event {
        let source = SourceName::parse("bus").unwrap();
        Event {
            dedup: id.map(|id| dedup_key(&source, &[id.as_bytes()])),
            source,
            topic: Topic::parse("orders").unwrap(),
            wildcards: Wildcards::Glob,
            headers: Default::default(),
            body: Bytes::copy_from_slice(body.as_bytes()),
            time: None,
            position: None,
            fire: None,
            cloud_event: None,
        }
    }

    #[tokio::test]
    async fn what_is_known_again_is_not_taken_again_and_shows() {
        let sink = Sink::default();
        for (body, id) in [("1", Some("a")), ("2", None), ("1", Some("a"))] {
            sink.publish(&event(body, id)).await.unwrap();
        }
        assert_eq!((sink.bodies(), sink.seen().repeated), (vec!["1".to_owned(), "2".to_owned()], 1));
        assert!(!sink.each_came_once());
    }

    #[tokio::test]
    async fn what_cannot_be_known_again_is_taken_again_and_shows() {
        let sink = Sink::default();
        sink.publish(&event("1", None)).await.unwrap();
        assert!(sink.each_came_once());

        sink.publish(&event("1", None)).await.unwrap();

        assert_eq!((sink.bodies().len(), sink.seen().repeated), (2, 0));
        assert!(!sink.each_came_once());
    }

    #[tokio::test]
    async fn one_message_is_refused_as_often_as_said_and_no_other() {
        let sink = Sink::default();
        sink.refuse_first(2, "1");
        sink.limit(3);

        for _ in 0..2 {
            assert!(matches!(sink.publish(&event("1", None)).await, Err(Refusal::NoFunctionList)));
            sink.publish(&event("2", None)).await.unwrap();
        }
        sink.publish(&event("1", None)).await.unwrap();

        assert!(matches!(
            sink.publish(&event("long", None)).await,
            Err(Refusal::TooLarge { bytes: 4, limit: 3 })
        ));
        assert_eq!(sink.bodies(), ["2", "2", "1"]);
        assert_eq!(sink.seen().offers_of("1"), 3);
        assert_eq!(sink.offered(), 6);
    }
}
