//! A source on a bench: its upstream, a sink that does as it is told, and whoever starts it again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use broker_model::{Demand, SourceName};
use bytes::Bytes;
use connectors_sdk::{SourceError, SourceState, SourceStatus, describe};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{Sent, Upstream};
use crate::source::{Mode, PATIENCE, Sink, demand_for};
use crate::time::eventually;

/// One source under test.
pub(super) struct Bench<U> {
    pub(super) upstream: Arc<U>,
    pub(super) sink: Arc<Sink>,
    pub(super) topics: Vec<String>,
    pub(super) name: SourceName,
    demand: watch::Sender<Demand>,
    settings: serde_json::Value,
    run: Option<Run>,
    /// It was cut off at some time: what it held then is in no count.
    was_cut_off: bool,
    probes: u32,
}

struct Run {
    stop: CancellationToken,
    task: AbortOnDropHandle<Outcome>,
}

/// A second source at the same upstream.
pub(super) struct Replica {
    run: Run,
}

impl Replica {
    pub(super) async fn stopped(self) {
        self.run.stop.cancel();
        let stopped = tokio::time::timeout(PATIENCE, self.run.task).await;
        stopped.expect("the replica stops when it is told to").expect("the replica does not panic");
    }
}

/// What the bench saw of one or more runs.
struct Outcome {
    errors: Vec<SourceError>,
}

impl<U: Upstream> Bench<U> {
    /// A source that listens to `topics` topics, connected.
    pub(super) async fn listening(topics: usize, in_flight: usize) -> Self {
        let mut bench = Bench::prepared(topics, in_flight).await;
        bench.start();
        bench.is_listening().await;
        bench
    }

    /// A source with a list of topics, not started.
    pub(super) async fn prepared(topics: usize, in_flight: usize) -> Self {
        Bench::<U>::with(topics, in_flight, true).await
    }

    /// A source that listens to what functions ask for, not started. Nothing is asked for yet.
    pub(super) async fn asking_functions(topics: usize, in_flight: usize) -> Self {
        Bench::<U>::with(topics, in_flight, false).await
    }

    async fn with(topics: usize, in_flight: usize, listed: bool) -> Self {
        let upstream = Arc::new(U::start().await);
        let mut names = Vec::new();
        for n in 0..topics {
            names.push(upstream.topic(n).await);
        }
        let settings = upstream.settings(listed.then_some(&names[..]), in_flight);
        let (demand, asked) = watch::channel(Demand::default());
        // Who cannot be told what is wanted sends everything, and the broker's door says what is nobody's.
        let asked = (!listed && upstream.leaves_it_to_the_broker()).then_some(asked);
        Bench {
            upstream,
            sink: Arc::new(Sink::asking(asked)),
            topics: names,
            name: SourceName::parse("under-test").expect("a source's name"),
            demand,
            settings,
            run: None,
            was_cut_off: false,
            probes: 0,
        }
    }

    pub(super) fn start(&mut self) {
        self.run = Some(self.spawn(self.sink.clone(), self.settings.clone()));
    }

    /// Starts a second source of the same settings beside the first, as another replica has it, and stops it at its end.
    pub(super) async fn replica(&self) -> Replica {
        let sink = Arc::new(self.sink.of_a_replica());
        let settings = self.upstream.settings_of_replica(self.settings.clone());
        let run = self.spawn(sink.clone(), settings);
        let connected = async || sink.board().state() == SourceState::Connected;
        eventually(PATIENCE, "the replica to be connected", connected).await;
        Replica { run }
    }

    fn spawn(&self, sink: Arc<Sink>, settings: serde_json::Value) -> Run {
        let connector = self.upstream.connector();
        let (name, board) = (self.name.clone(), sink.board().clone());
        let stop = CancellationToken::new();
        let ctx = sink.context(self.demand.subscribe(), &stop);
        let stopped = stop.clone();
        // What the runtime does, without its waits: a source that ends with an error is started again.
        let task = tokio::spawn(async move {
            let mut outcome = Outcome { errors: Vec::new() };
            board.enter(SourceState::Connecting);
            loop {
                let source = connector.build(&name, settings.clone()).expect("settings of the contract");
                match source.run(ctx.clone()).await {
                    Ok(()) => {
                        assert!(stopped.is_cancelled(), "the source ended without being told to");
                        return outcome;
                    }
                    Err(error) => {
                        board.health().disconnected(describe(&error));
                        outcome.errors.push(error);
                    }
                }
                tokio::select! {
                    () = stopped.cancelled() => return outcome,
                    () = tokio::time::sleep(Duration::from_millis(50)) => {}
                }
            }
        });
        Run { stop, task: AbortOnDropHandle::new(task) }
    }

    /// Cuts the source off in the middle of whatever it does, as the runtime does after the grace and a kill at any time.
    pub(super) async fn cut_off(&mut self) {
        if let Some(run) = self.run.take() {
            self.was_cut_off = true;
            run.task.abort();
            let _ = run.task.await;
        }
        self.sink.board().enter(SourceState::Paused);
    }

    /// Tells the source to stop; [`Bench::stopped`] waits for it.
    pub(super) fn tell_to_stop(&self) {
        if let Some(run) = &self.run {
            run.stop.cancel();
        }
    }

    /// Waits until the source has stopped as it should, and checks what it counted.
    pub(super) async fn stopped(&mut self) {
        if self.stopped_whatever_it_lost().await && self.upstream.capabilities().replays {
            assert_eq!(self.status().counts.dropped, 0, "a protocol that replays loses nothing");
        }
    }

    /// The same where losses are to be expected. Whether it was running.
    pub(super) async fn stopped_whatever_it_lost(&mut self) -> bool {
        self.tell_to_stop();
        let Some(run) = self.run.take() else { return false };
        let outcome = tokio::time::timeout(PATIENCE, run.task)
            .await
            .expect("the source stops when it is told to")
            .expect("the source does not panic");
        let counts = self.status().counts;
        let taken = counts.accepted + counts.unmatched + counts.duplicate + counts.quarantined;
        assert!(taken + counts.refused <= counts.received, "more came out than in: {counts:?}");
        // A run that ended in an error may have let go of what it held, for the upstream to offer again.
        if outcome.errors.is_empty() && !self.was_cut_off {
            assert!(
                counts.received <= taken + counts.refused + counts.dropped,
                "some is unaccounted for: {counts:?}"
            );
        }
        if !self.upstream.capabilities().replays {
            let bodies: Vec<Bytes> =
                self.sink.seen().accepted.iter().map(|event| event.body.clone()).collect();
            let distinct: BTreeSet<&Bytes> = bodies.iter().collect();
            assert_eq!(distinct.len(), bodies.len(), "a protocol that does not replay brings nothing twice");
        }
        self.sink.board().enter(SourceState::Paused);
        true
    }

    pub(super) fn status(&self) -> SourceStatus {
        self.sink.board().status(
            self.name.clone(),
            self.upstream.connector().kind(),
            self.upstream.capabilities(),
        )
    }

    pub(super) async fn is_listening(&self) {
        self.is_connected().await;
        self.upstream.listening(&self.topics).await;
    }

    pub(super) async fn is_connected(&self) {
        eventually(PATIENCE, "the source to be connected", async || {
            let status = self.status();
            if status.state == SourceState::Connected { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await;
    }

    pub(super) fn mode(&self, mode: Mode) {
        self.sink.mode(mode);
    }

    /// Functions now want exactly these topics.
    pub(super) fn functions_want(&self, topics: &[&str]) {
        self.demand.send_replace(demand_for(topics));
    }

    /// Publishes numbered messages on the first topic.
    pub(super) async fn publish(&self, numbers: impl IntoIterator<Item = u32>) {
        let messages: Vec<Sent> = numbers.into_iter().map(|n| numbered(&self.topics[0], n)).collect();
        self.upstream.publish(&messages).await;
    }

    /// The numbers that were accepted so far.
    pub(super) fn accepted(&self) -> BTreeSet<u32> {
        self.sink.seen().accepted.iter().filter_map(|event| number_of(&event.body)).collect()
    }

    /// Whether each number was accepted no more than once.
    pub(super) fn nothing_twice(&self) -> bool {
        let seen = self.sink.seen();
        let numbers: Vec<u32> = seen.accepted.iter().filter_map(|event| number_of(&event.body)).collect();
        numbers.iter().collect::<BTreeSet<_>>().len() == numbers.len()
    }

    /// Waits until at least all these numbers are accepted.
    pub(super) async fn has_accepted(&self, numbers: impl IntoIterator<Item = u32>) {
        let wanted: BTreeSet<u32> = numbers.into_iter().collect();
        eventually(PATIENCE, "messages to be accepted", async || {
            let accepted = self.accepted();
            let missing: Vec<&u32> = wanted.difference(&accepted).take(5).collect();
            if missing.is_empty() {
                Ok(())
            } else {
                Err(format!("missing {missing:?} and maybe more; {:?}", self.status()))
            }
        })
        .await;
    }

    /// Publishes until something published from now on arrives: the way from upstream to sink is whole.
    pub(super) async fn reaches(&mut self, topic: &str) {
        let first = self.probes;
        let mut next = first;
        eventually(PATIENCE, "a message to come through", async || {
            let body = Bytes::from(format!("probe {next}"));
            next += 1;
            self.upstream.publish(&[Sent { topic: topic.to_owned(), headers: Vec::new(), body }]).await;
            let seen = self.sink.seen();
            seen.accepted.iter().any(|event| {
                let text = std::str::from_utf8(&event.body).ok();
                let number = text.and_then(|text| text.strip_prefix("probe ")?.parse::<u32>().ok());
                number.is_some_and(|number| number >= first)
            })
        })
        .await;
        self.probes = next;
    }

    pub(super) async fn holds(&self, messages: usize) {
        eventually(PATIENCE, "messages to be on their way", async || {
            let inside = self.sink.seen().inside;
            if inside == messages { Ok(()) } else { Err(format!("{inside} instead of {messages}")) }
        })
        .await;
    }
}

/// A message whose body is its number.
pub(super) fn numbered(topic: &str, number: u32) -> Sent {
    Sent { topic: topic.to_owned(), headers: Vec::new(), body: number.to_string().into() }
}

fn number_of(body: &[u8]) -> Option<u32> {
    std::str::from_utf8(body).ok()?.parse().ok()
}
