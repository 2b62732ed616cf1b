//! One source without the runtime, as the tests of a connector's own run it against the real upstream.
//!
//! A test says what is under test once, starts it with settings, and has a [`Rig`]: the run, and before it the broker's door,
//! a [`Sink`] that does as it is told.
//!
//! ```ignore
//! const BUS: UnderTest = UnderTest { connector: &Nats, name: "bus" };
//!
//! let rig = BUS.connected(json!({"url": server.url(), "topics": ["orders.>"]})).await;
//! rig.sink.mode(Mode::Hang);
//! publisher.publish("orders.created", "1".into()).await.unwrap();
//! rig.holds(1).await;
//! rig.sink.mode(Mode::Accept);
//! rig.has(1).await;
//! rig.stopped().await;
//! ```
//!
//! Nobody starts it again: a source that ends with an error has ended ([`Rig::error`]). What every source does over any
//! number of errors is in [`contract::source`](crate::contract::source), before the same sink.

mod sink;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use broker_model::{Demand, SourceName, Topic, TopicPattern};
use connectors_sdk::{Capabilities, Connector, SourceError, SourceState, SourceStatus};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

pub use self::sink::{Mode, Seen, Sink};
use crate::time::eventually;

/// How long anything may take. Nothing takes a tenth of it; the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Which source the tests of a connector run.
#[allow(missing_debug_implementations, reason = "a connector has nothing to print")]
#[derive(Clone, Copy)]
pub struct UnderTest {
    /// The connector.
    pub connector: &'static dyn Connector,
    /// The name of the source in a configuration.
    pub name: &'static str,
}

impl UnderTest {
    /// Starts it with these settings.
    pub fn start(&self, settings: Value) -> Rig {
        self.start_before(Arc::default(), settings)
    }

    /// Starts it, and waits until it is connected.
    pub async fn connected(&self, settings: Value) -> Rig {
        let rig = self.start(settings);
        rig.is(SourceState::Connected).await;
        rig
    }

    /// Starts it before the sink of another run, which knows what it has taken.
    ///
    /// # Panics
    /// When the settings are wrong.
    pub fn start_before(&self, sink: Arc<Sink>, settings: Value) -> Rig {
        let name = SourceName::parse(self.name).expect("a source's name");
        let source = self.connector.build(&name, settings).unwrap_or_else(|error| panic!("{error}"));
        let demand = watch::channel(Demand::default()).0;
        let stop = CancellationToken::new();
        sink.board().enter(SourceState::Connecting);
        let about = (name, self.connector.kind(), source.capabilities());
        let running = source.run(sink.context(demand.subscribe(), &stop));
        Rig { about, demand, stop, task: AbortOnDropHandle::new(tokio::spawn(running)), sink }
    }
}

/// One run of a source; cut off when it is dropped.
#[derive(Debug)]
pub struct Rig {
    /// The broker's door.
    pub sink: Arc<Sink>,
    /// What functions ask for.
    pub demand: watch::Sender<Demand>,
    about: (SourceName, &'static str, Capabilities),
    stop: CancellationToken,
    task: AbortOnDropHandle<Result<(), SourceError>>,
}

impl Rig {
    /// Functions now ask for exactly these topics.
    pub fn functions_want(&self, topics: &[&str]) {
        self.demand.send_replace(demand_for(topics));
    }

    /// How the source does.
    pub fn status(&self) -> SourceStatus {
        let (name, kind, capabilities) = self.about.clone();
        self.sink.board().status(name, kind, capabilities)
    }

    /// The last thing that went wrong; empty before that.
    pub fn complaint(&self) -> String {
        self.status().last_error.map_or_else(String::new, |(_, what)| what)
    }

    /// The metrics of the connector's own, by their names and labels.
    pub fn metrics(&self) -> BTreeMap<(&'static str, String), i64> {
        let series = self.sink.board().series();
        series.iter().map(|(of, labels, value)| ((of.name, labels.concat()), value)).collect()
    }

    /// Waits until it is in this state.
    pub async fn is(&self, state: SourceState) {
        let is = |status: &SourceStatus| status.state == state;
        self.shows(&format!("the source to be {state:?}"), is).await;
    }

    /// Waits until the last thing that went wrong is described with these words.
    pub async fn complains(&self, words: &str) {
        self.shows(&format!("a complaint with {words:?}"), |status| {
            status.last_error.as_ref().is_some_and(|(_, what)| what.contains(words))
        })
        .await;
    }

    /// Waits until its status is as wanted.
    pub async fn shows(&self, what: &str, is: impl Fn(&SourceStatus) -> bool) {
        eventually(PATIENCE, what, async || {
            let status = self.status();
            if is(&status) { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await;
    }

    /// Waits until at least so many messages are accepted.
    pub async fn has(&self, messages: usize) {
        let enough = |seen: &Seen| seen.accepted.len() >= messages;
        self.sees(&format!("{messages} messages"), enough).await;
    }

    /// Waits until a message with this body is accepted.
    pub async fn has_taken(&self, body: &str) {
        let there = |seen: &Seen| seen.accepted.iter().any(|event| event.body == body.as_bytes());
        self.sees(&format!("{body:?}"), there).await;
    }

    /// Waits until messages with these bodies are accepted, in any order, and no other.
    pub async fn has_just(&self, bodies: &[&str]) {
        let mut wanted = bodies.to_vec();
        wanted.sort_unstable();
        self.sees(&format!("{bodies:?}"), |seen| {
            let mut found = seen.bodies();
            found.sort_unstable();
            found == wanted
        })
        .await;
    }

    /// Waits until so many messages wait for an answer.
    pub async fn holds(&self, messages: usize) {
        let so_many = |seen: &Seen| seen.inside == messages;
        self.sees(&format!("{messages} messages on their way"), so_many).await;
    }

    /// Waits until messages were offered at least so often.
    pub async fn is_offered(&self, times: u32) {
        self.sees(&format!("{times} offers"), |seen| seen.offered() >= times).await;
    }

    /// Waits until the sink has seen what is wanted.
    pub async fn sees(&self, what: &str, is: impl Fn(&Seen) -> bool) {
        eventually(PATIENCE, what, async || {
            let seen = self.sink.seen();
            if is(&seen) { Ok(()) } else { Err(format!("{seen:?} {:?}", self.status())) }
        })
        .await;
    }

    /// Stops it, and hands out what it had before it.
    ///
    /// # Panics
    /// When it does not stop, or stops with an error.
    pub async fn stopped(self) -> Arc<Sink> {
        self.stop.cancel();
        let ended = tokio::time::timeout(PATIENCE, self.task).await;
        let outcome = ended.expect("the source stops when it is told to").expect("the source does not panic");
        outcome.expect("a source that is told to stop ends without an error");
        self.sink
    }

    /// Cuts it off in the middle of whatever it does, as the runtime does after the grace and a kill at any time.
    pub async fn cut_off(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// The error with which it ends by itself.
    ///
    /// # Panics
    /// When it does not.
    pub async fn error(self) -> SourceError {
        let ended = tokio::time::timeout(PATIENCE, self.task).await;
        let outcome = ended.expect("the source ends by itself").expect("the source does not panic");
        outcome.expect_err("nobody told it to stop")
    }
}

/// The demand of functions that ask for exactly these topics.
///
/// # Panics
/// When one is none.
pub fn demand_for(topics: &[&str]) -> Demand {
    let exact = |topic: &&str| TopicPattern::exact(&Topic::parse(topic).expect("a topic"));
    Demand { patterns: topics.iter().map(|topic| (exact(topic), BTreeSet::new())).collect() }
}

/// Settings with more of them, which win; what is a group in both is made one.
pub fn with(settings: Value, more: Value) -> Value {
    match (settings, more) {
        (Value::Object(mut all), Value::Object(more)) => {
            for (key, more) in more {
                let value = all.remove(&key).unwrap_or_default();
                all.insert(key, with(value, more));
            }
            Value::Object(all)
        }
        (_, more) => more,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn more_settings_win_and_leave_the_rest_of_their_group() {
        let base =
            json!({"url": "a", "topics": ["a", "b"], "jetstream": {"stream": "ORDERS", "ack_wait": "3s"}});
        let more = json!({"topics": ["c"], "jetstream": {"ack_wait": "1s"}, "qos": 1});

        let expected = json!({
            "url": "a", "topics": ["c"], "jetstream": {"stream": "ORDERS", "ack_wait": "1s"}, "qos": 1,
        });
        assert_eq!(with(base, more), expected);
    }
}
