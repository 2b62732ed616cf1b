//! An upstream in memory that acknowledges and offers again: the contract proves itself on it, and must catch it lying.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use broker_model::intake::Quarantined;
use broker_model::{DedupKey, Event, Headers, SourceName, Topic, Wildcards};
use bytes::Bytes;
use connectors_sdk::{
    AckWindow, Capabilities, Connector, Reader, Resolved, SettingsError, Source, SourceContext, SourceError,
    Topics, WindowLimits, dedup_key,
};
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{Sent, Upstream};

/// How a source of this upstream misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    None,
    /// Acknowledges what it receives before it is taken.
    AcknowledgesEarly,
    /// Forgets what is refused.
    DropsWhatIsRefused,
    /// Takes its window for a suggestion.
    IgnoresItsWindow,
    /// Lets go of what it holds when it is told to stop.
    DropsAtStop,
    /// Does not hear of new demand.
    IsDeaf,
    /// Passes bodies on without their last byte.
    CutsBodies,
    /// Gives each delivery an identity of its own.
    NamesDeliveries,
    /// Waits for better times when it is told to stop.
    WaitsAtStop,
    /// Gives what it reads to the other replica, too.
    Doubles,
    /// Ends at a message it cannot read.
    EndsAtTheUnreadable,
}

/// A queue of messages, each kept until it is acknowledged.
#[derive(Default)]
struct Broker {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    down: bool,
    /// Grows with each connection that is broken.
    cuts: u64,
    waiting: VecDeque<Sent>,
    /// What each source listens to.
    listening: BTreeMap<u64, BTreeSet<String>>,
    acknowledged: u64,
    doubled: BTreeSet<Bytes>,
}

const UNREADABLE: &[u8] = b"\xffunreadable";

impl Broker {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state());
        self.changed.notify_waiters();
        result
    }

    async fn until<T>(&self, mut ready: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(value) = ready(&mut self.state()) {
                return value;
            }
            changed.await;
        }
    }
}

/// What a source holds of an upstream; gives it back when it goes.
struct Held {
    broker: Arc<Broker>,
    message: Option<Sent>,
}

impl Held {
    fn acknowledge(mut self) {
        self.message = None;
        self.broker.change(|state| state.acknowledged += 1);
    }

    fn forget(mut self) {
        self.message = None;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(message) = self.message.take() {
            self.broker.change(|state| state.waiting.push_front(message));
        }
    }
}

struct MemoryConnector;

/// Settings are values, so brokers are found by number.
type Brokers = BTreeMap<u64, (Arc<Broker>, Lie)>;

fn brokers() -> MutexGuard<'static, Brokers> {
    static BROKERS: OnceLock<Mutex<Brokers>> = OnceLock::new();
    BROKERS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

static SOURCES: AtomicU64 = AtomicU64::new(0);

const CAPABILITIES: Capabilities =
    Capabilities { acknowledges: true, replays: true, ordered: false, decodes: true, shares: true };

impl Connector for MemoryConnector {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn wildcards(&self) -> Wildcards {
        Wildcards::Glob
    }

    fn build(&self, name: &SourceName, settings: Value) -> Result<Box<dyn Source>, SettingsError> {
        let mut at = Reader::new(settings);
        let number: Option<std::num::NonZeroUsize> = at.required("broker", "1");
        let topics = at.topics(|_| Ok(()));
        let limits = at.in_flight();
        let name = name.clone();
        at.finish(|| {
            let (broker, lie) = brokers().get(&(number?.get() as u64))?.clone();
            let id = SOURCES.fetch_add(1, Ordering::Relaxed);
            Some(Box::new(MemorySource { id, name, broker, lie, topics, limits }) as Box<dyn Source>)
        })
    }
}

struct MemorySource {
    id: u64,
    name: SourceName,
    broker: Arc<Broker>,
    lie: Lie,
    topics: Topics,
    limits: WindowLimits,
}

/// A connection ends with its source, however that ends.
impl Drop for MemorySource {
    fn drop(&mut self) {
        self.broker.change(|state| state.listening.remove(&self.id));
    }
}

impl MemorySource {
    fn double(&self, message: &Sent) {
        self.broker.change(|state| {
            if !state.doubled.contains(&message.body) {
                state.doubled.insert(message.body.clone());
                state.waiting.push_back(message.clone());
            }
        });
    }

    fn lost(&self) -> SourceError {
        SourceError::Lost { upstream: "memory".into(), cause: None }
    }

    fn event(&self, sent: &Sent) -> Result<Event, Box<Quarantined>> {
        let topic = Topic::parse(&sent.topic).unwrap();
        let headers: Headers = sent.headers.iter().map(|(name, value)| (name, value.clone())).collect();
        if sent.body == UNREADABLE {
            return Err(Box::new(Quarantined {
                source: self.name.clone(),
                topic: Some(topic),
                headers,
                raw: sent.body.clone(),
                why: "its first byte is 255".into(),
                dedup: None,
                position: None,
            }));
        }
        let length = sent.body.len().saturating_sub(usize::from(self.lie == Lie::CutsBodies));
        Ok(Event {
            source: self.name.clone(),
            topic,
            wildcards: Wildcards::Glob,
            headers,
            body: sent.body.slice(..length),
            time: None,
            dedup: Some(self.identity(sent)),
            position: None,
            fire: None,
            cloud_event: None,
        })
    }

    /// Bodies are told apart by their bytes in every case of the contract.
    fn identity(&self, sent: &Sent) -> DedupKey {
        static DELIVERIES: AtomicU64 = AtomicU64::new(0);
        let delivery = match self.lie {
            Lie::NamesDeliveries | Lie::Doubles => DELIVERIES.fetch_add(1, Ordering::Relaxed),
            _ => 0,
        };
        dedup_key(&self.name, &[&sent.body, &delivery.to_be_bytes()])
    }

    fn listen(&self, ctx: &mut SourceContext) {
        let wanted: BTreeSet<String> = match &self.topics {
            Topics::List(topics) => topics.iter().cloned().collect(),
            Topics::FromFunctions => {
                let demand = ctx.demand.borrow_and_update();
                demand.for_source(&self.name).map(|pattern| pattern.as_str().to_owned()).collect()
            }
        };
        ctx.health.subscribed(wanted.iter().cloned().collect());
        self.broker.change(|state| state.listening.insert(self.id, wanted));
    }

    fn settle(&self, resolved: Resolved<Held>) {
        match resolved {
            Resolved::Taken { token, .. } if self.lie == Lie::AcknowledgesEarly => token.forget(),
            Resolved::Taken { token, .. } | Resolved::Never { token, .. } => token.acknowledge(),
            Resolved::GiveBack { token, .. } if self.lie == Lie::DropsWhatIsRefused => token.forget(),
            Resolved::GiveBack { token, .. } => drop(token),
        }
    }
}

#[async_trait]
impl Source for MemorySource {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    async fn run(self: Box<Self>, mut ctx: SourceContext) -> Result<(), SourceError> {
        let window = AckWindow::unordered(&ctx, self.limits);
        let mut window: AckWindow<Held> =
            if self.lie == Lie::WaitsAtStop { window.holding() } else { window };
        let cuts = {
            let state = self.broker.state();
            if state.down {
                return Err(SourceError::Unreachable {
                    upstream: "memory".into(),
                    cause: "it is down".into(),
                });
            }
            state.cuts
        };
        self.listen(&mut ctx);
        ctx.health.connected();
        let mut demand = ctx.demand.clone();
        loop {
            let room = window.has_room(64 * 1024) || self.lie == Lie::IgnoresItsWindow;
            tokio::select! {
                biased;
                () = ctx.shutdown.cancelled() => break,
                Ok(()) = demand.changed(), if self.lie != Lie::IsDeaf => self.listen(&mut ctx),
                Some(resolved) = window.next(), if window.in_flight() > 0 => self.settle(resolved),
                message = self.broker.until(|state| {
                    if state.down || state.cuts != cuts {
                        return Some(None);
                    }
                    let ours = state.listening.get(&self.id)?;
                    let at = state.waiting.iter().position(|sent| ours.contains(&sent.topic))?;
                    if room { state.waiting.remove(at).map(Some) } else { None }
                }) => {
                    let Some(message) = message else { return Err(self.lost()) };
                    if self.lie == Lie::AcknowledgesEarly {
                        self.broker.change(|state| state.acknowledged += 1);
                    }
                    let event = self.event(&message);
                    if self.lie == Lie::Doubles {
                        self.double(&message);
                    }
                    let held = Held { broker: self.broker.clone(), message: Some(message) };
                    match event {
                        Ok(event) => window.publish(event, held),
                        Err(_) if self.lie == Lie::EndsAtTheUnreadable => {
                            held.acknowledge();
                            return Err(self.lost());
                        }
                        Err(unreadable) => window.quarantine(*unreadable, held),
                    }
                }
            }
        }
        self.broker.change(|state| state.listening.remove(&self.id));
        if self.lie != Lie::WaitsAtStop {
            window.close();
        }
        if self.lie != Lie::DropsAtStop {
            while let Some(resolved) = window.next().await {
                self.settle(resolved);
            }
        }
        Ok(())
    }
}

struct Memory<const LIE: u8> {
    broker: Arc<Broker>,
    number: u64,
}

impl<const LIE: u8> Memory<LIE> {
    const LIE: Lie = [
        Lie::None,
        Lie::AcknowledgesEarly,
        Lie::DropsWhatIsRefused,
        Lie::IgnoresItsWindow,
        Lie::DropsAtStop,
        Lie::IsDeaf,
        Lie::CutsBodies,
        Lie::NamesDeliveries,
        Lie::WaitsAtStop,
        Lie::Doubles,
        Lie::EndsAtTheUnreadable,
    ][LIE as usize];
}

#[async_trait]
impl<const LIE: u8> Upstream for Memory<LIE> {
    async fn start() -> Self {
        let broker = Arc::new(Broker::default());
        let mut brokers = brokers();
        let number = brokers.len() as u64 + 1;
        brokers.insert(number, (broker.clone(), Self::LIE));
        Memory { broker, number }
    }

    fn connector(&self) -> &'static dyn Connector {
        &MemoryConnector
    }

    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn settings(&self, topics: Option<&[String]>, in_flight: usize) -> Value {
        let mut settings = json!({"broker": self.number, "in_flight": {"messages": in_flight}});
        if let Some(topics) = topics {
            settings["topics"] = json!(topics);
        }
        settings
    }

    async fn topic(&self, n: usize) -> String {
        format!("topic-{n}")
    }

    async fn publish(&self, messages: &[Sent]) {
        self.broker.change(|state| state.waiting.extend(messages.iter().cloned()));
    }

    fn expected(&self, sent: &Sent) -> Headers {
        sent.headers.iter().map(|(name, value)| (name, value.clone())).collect()
    }

    async fn listening(&self, topics: &[String]) {
        let wanted: BTreeSet<String> = topics.iter().cloned().collect();
        let there = self.broker.until(|state| {
            let listened: BTreeSet<String> = state.listening.values().flatten().cloned().collect();
            (listened == wanted).then_some(())
        });
        tokio::time::timeout(Duration::from_secs(10), there).await.expect("the source listens");
    }

    async fn down(&self) {
        self.broker.change(|state| {
            state.down = true;
            state.listening.clear();
        });
    }

    async fn up(&self) {
        self.broker.change(|state| state.down = false);
    }

    async fn cut(&self) {
        self.broker.change(|state| {
            state.cuts += 1;
            state.listening.clear();
        });
    }

    async fn acknowledged(&self) -> Option<u64> {
        Some(self.broker.state().acknowledged)
    }

    async fn publish_unreadable(&self, topic: &str) -> bool {
        let body = Bytes::from_static(UNREADABLE);
        self.publish(&[Sent { topic: topic.to_owned(), headers: Vec::new(), body }]).await;
        true
    }
}

mod an_honest_source {
    type Honest = super::Memory<0>;

    // Every case but the one of memory: this upstream is in the same process, and keeps what is published.
    crate::source_contract! { Honest:
        delivers_bodies_and_headers_exactly
        takes_only_the_topics_it_is_told
        follows_what_functions_ask_for
        acknowledges_only_after_the_receipt
        offers_again_what_was_refused
        pushes_back_while_the_sink_hangs
        survives_restarts_of_its_upstream_under_load
        survives_cut_connections
        starts_before_its_upstream
        hands_over_what_it_holds_when_it_stops
        leaves_its_upstream_while_it_is_held
        keeps_what_it_cannot_read
        survives_thousands_of_malformed_messages
        waits_for_a_slow_broker
        repeats_nothing_already_received
        stops_while_everything_is_refused
        is_given_again_what_it_held_when_it_was_cut_off
        shares_the_work_between_replicas
    }
}

mod a_lying_source {
    use super::Memory;
    use crate::contract::source::cases;

    macro_rules! is_caught {
        ($($name:ident: $lie:literal by $case:ident $saying:literal)*) => {
            $(
                #[tokio::test(start_paused = true)]
                #[should_panic(expected = $saying)]
                async fn $name() {
                    cases::$case::<Memory<$lie>>().await;
                }
            )*
        };
    }

    // Time is paused, so that the case's whole patience costs nothing.
    is_caught! {
        that_acknowledges_early_is_caught: 1 by acknowledges_only_after_the_receipt "right: Some(0)"
        that_drops_what_is_refused_is_caught: 2 by offers_again_what_was_refused "messages to be accepted"
        that_ignores_its_window_is_caught: 3 by pushes_back_while_the_sink_hangs "messages to be on their way"
        that_drops_at_its_stop_is_caught: 4 by hands_over_what_it_holds_when_it_stops "some is unaccounted for"
        that_is_deaf_to_demand_is_caught: 5 by follows_what_functions_ask_for "the source listens"
        that_names_deliveries_is_caught: 7 by repeats_nothing_already_received "the redeliveries"
        that_waits_at_its_stop_is_caught: 8 by stops_while_everything_is_refused "the source stops"
        that_gives_messages_to_both_is_caught: 9 by shares_the_work_between_replicas "both replicas got"
        that_ends_at_the_unreadable_is_caught: 10 by survives_thousands_of_malformed_messages "the dead letters"
        that_cuts_bodies_is_caught: 6 by delivers_bodies_and_headers_exactly "the body as it was sent"
    }
}
