//! The loop: messages in, events out, acknowledgements back.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::{BoxFuture, join_all};
use futures::stream::{FuturesUnordered, SelectAll};
use futures::{Stream, StreamExt};
use lapin::message::Delivery;
use lapin::options::BasicAckOptions;
use lapin::types::ShortString;
use lapin::{Acker, Channel, Consumer};
use tokio::time::error::Elapsed;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep, timeout};
use tracing::{debug, info, warn};

use connectors_sdk::{
    AckWindow, Backoff, Capabilities, Event, Family, Following, Jitter, Quarantined, Resolved, Retries,
    Source, SourceContext, SourceError, SourceName,
};

use crate::connect::Wire;
use crate::event::event_from;
use crate::prefetch::{Size, is_worth_a_change, prefetch};
use crate::queue::{self, Deliveries, Opened, Plan, Pulled};
use crate::settings::RabbitmqSettings;

static PROCESSED: Family = Family {
    name: "rabbitmq_connector_messages_processed_total",
    help: "Messages taken from a queue and acknowledged.",
    counter: true,
    labels: &["queue"],
};

static DEPTH: Family = Family {
    name: "rabbitmq_connector_queue_depth",
    help: "Messages in a queue that nobody has yet.",
    counter: false,
    labels: &["queue"],
};

/// How often each queue is looked at: how many messages wait in it, and whether its channel still stands.
const LOOK: Duration = Duration::from_secs(10);

/// The waits before a queue that is not there, or not for us, is asked for again.
const ABSENT: Backoff =
    Backoff { min: Duration::from_millis(500), max: Duration::from_secs(30), jitter: Jitter::Equal };

/// How long the server may take to answer about a queue, before the others no longer wait for it.
const ANSWER: Duration = Duration::from_secs(10);

/// How long the server may take to let our consumers go when we stop.
const LEAVING: Duration = Duration::from_secs(2);

/// One configured RabbitMQ source.
pub(crate) struct RabbitmqSource {
    name: SourceName,
    settings: RabbitmqSettings,
}

impl RabbitmqSource {
    pub(crate) fn new(name: SourceName, settings: RabbitmqSettings) -> Self {
        RabbitmqSource { name, settings }
    }
}

#[async_trait]
impl Source for RabbitmqSource {
    fn capabilities(&self) -> Capabilities {
        Capabilities { acknowledges: true, replays: true, ordered: false, decodes: true, shares: true }
    }

    async fn run(self: Box<Self>, ctx: SourceContext) -> Result<(), SourceError> {
        let wire = tokio::select! {
            biased;
            () = ctx.shutdown.cancelled() => return Ok(()),
            wire = Wire::open(&self.name, &self.settings, &ctx.health) => wire?,
        };
        Session::new(*self, ctx, wire).run().await
    }
}

/// One connection's life.
struct Session {
    source: RabbitmqSource,
    ctx: SourceContext,
    wire: Arc<Wire>,
    /// What the client says about the connection.
    told: Pin<Box<dyn Stream<Item = lapin::Event> + Send>>,
    following: Following,
    window: AckWindow<Token>,
    /// Every queue that is wanted or ours to make.
    queues: BTreeMap<Arc<str>, Queue>,
    /// The channels there are, by their lives. A queue whose channel is closed gets another with a new life: whatever
    /// belongs to an earlier one is stale.
    lives: HashMap<u64, Life>,
    last_life: u64,
    /// What the server was asked for and has not answered.
    asked: FuturesUnordered<BoxFuture<'static, Answer>>,
    deliveries: SelectAll<Deliveries>,
    /// The one message that is read and does not fit into the window yet.
    stash: Option<Stashed>,
    /// Acknowledgements on their way, each with the life of its channel.
    acks: FuturesUnordered<BoxFuture<'static, u64>>,
    look: Interval,
    connected: bool,
}

/// A queue, whatever became of it.
struct Queue {
    /// Messages of it are.
    wanted: bool,
    /// The life of its channel, there or asked for.
    life: u64,
    /// The server has said something about it.
    answered: bool,
    retries: Retries,
    trouble: Option<String>,
}

/// A channel on which a queue's messages come.
struct Life {
    queue: Arc<str>,
    channel: Channel,
    consumer: ShortString,
    prefetch: u16,
    size: Size,
    /// Messages since the prefetch was set.
    received: u64,
    /// Messages in the window, or whose acknowledgement is on its way.
    held: usize,
    depth: u32,
    looking: bool,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Taking,
    /// The consumer is about to end, and one with this prefetch follows.
    Resizing(u16),
    /// Nothing more is taken; the channel stays for what is held.
    Leaving,
}

/// What the server answered.
struct Answer {
    queue: Arc<str>,
    life: u64,
    said: Said,
}

enum Said {
    Opened(Result<lapin::Result<Opened>, Elapsed>),
    Cancelled(lapin::Result<()>),
    Consuming(lapin::Result<Consumer>),
    Depth(lapin::Result<u32>),
    Closed,
}

/// What comes back with a resolved message.
struct Token {
    queue: Arc<str>,
    life: u64,
    acker: Acker,
}

struct Stashed {
    token: Token,
    event: Result<Event, Box<Quarantined>>,
}

/// Why the loop was left.
enum Exit {
    Stop,
    Error(SourceError),
}

impl Session {
    fn new(source: RabbitmqSource, ctx: SourceContext, wire: Wire) -> Self {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // What is refused stays in the window and is tried again: given back, RabbitMQ would send it again at once, and count
        // against the limit of deliveries that a queue may have.
        let window = AckWindow::unordered(&ctx, source.settings.common.in_flight).holding();
        Session {
            told: Box::pin(wire.told()),
            following: source.settings.common.follow(&ctx),
            window,
            source,
            ctx,
            wire: Arc::new(wire),
            queues: BTreeMap::new(),
            lives: HashMap::new(),
            last_life: 0,
            asked: FuturesUnordered::new(),
            deliveries: SelectAll::new(),
            stash: None,
            acks: FuturesUnordered::new(),
            look,
            connected: false,
        }
    }

    async fn run(mut self) -> Result<(), SourceError> {
        self.listen();
        match self.receive().await {
            Exit::Stop => {
                self.leave_all().await;
                self.hand_over().await;
                self.wire.close().await;
                Ok(())
            }
            // What is in flight is let go: the server has it still, and gives it again.
            Exit::Error(error) => Err(error),
        }
    }

    async fn receive(&mut self) -> Exit {
        loop {
            self.fill_window();
            let reads = self.stash.is_none() && self.window.has_room(0) && !self.deliveries.is_empty();
            let done = tokio::select! {
                biased;
                () = self.ctx.shutdown.cancelled() => return Exit::Stop,
                Some(event) = self.told.next() => self.hear(event),
                Some(answer) = self.asked.next(), if !self.asked.is_empty() => self.answered(answer),
                _ = self.following.changed() => {
                    self.listen();
                    Ok(())
                }
                _ = self.look.tick() => self.look_at_queues(),
                Some(resolved) = self.window.next(), if self.window.in_flight() > 0 => {
                    self.settle(resolved);
                    Ok(())
                }
                Some(life) = self.acks.next(), if !self.acks.is_empty() => {
                    self.let_go(life);
                    Ok(())
                }
                Some((life, pulled)) = self.deliveries.next(), if reads => self.pull(life, pulled),
            };
            if let Err(error) = done {
                return Exit::Error(error);
            }
        }
    }

    // --- queues ---

    /// Asks for the queues that are wanted or ours to make, and leaves the others.
    fn listen(&mut self) {
        let wanted: BTreeSet<Arc<str>> =
            self.following.now().exact.iter().map(|name| name.as_str().into()).collect();
        let declared = self.source.settings.declared.keys().map(|name| Arc::from(name.as_str()));
        let all: BTreeSet<Arc<str>> = wanted.iter().cloned().chain(declared).collect();
        for name in &all {
            let is_wanted = wanted.contains(name);
            match self.queues.get_mut(name) {
                Some(queue) if queue.wanted == is_wanted => {}
                Some(queue) => {
                    queue.wanted = is_wanted;
                    let life = queue.life;
                    self.leave(life);
                    // Whatever was asked for before is stale: its messages are wanted now, or no longer.
                    self.ask_for(name, Duration::ZERO);
                }
                None => {
                    self.queues.insert(name.clone(), Queue::new(is_wanted));
                    self.ask_for(name, Duration::ZERO);
                }
            }
        }
        let gone: Vec<Arc<str>> = self.queues.keys().filter(|name| !all.contains(*name)).cloned().collect();
        for name in gone {
            if let Some(queue) = self.queues.remove(&name) {
                self.leave(queue.life);
            }
        }
        self.show();
    }

    /// Asks for a queue, after this wait, on a channel of its own.
    fn ask_for(&mut self, name: &Arc<str>, wait: Duration) {
        let most = self.fitting(Size::unknown());
        let Some(queue) = self.queues.get_mut(name) else { return };
        self.last_life += 1;
        let life = self.last_life;
        queue.life = life;
        let plan = Plan {
            queue: name.clone(),
            declaration: self.source.settings.declared.get(&**name).cloned(),
            prefetch: queue.wanted.then_some(most),
        };
        let wire = self.wire.clone();
        self.ask(name.clone(), life, async move {
            sleep(wait).await;
            Said::Opened(timeout(ANSWER, queue::open(&wire, plan)).await)
        });
    }

    /// The prefetch for messages of this size, beside the other queues.
    fn fitting(&self, size: Size) -> u16 {
        // Those that are not there share nothing.
        let sharing = self.queues.values().filter(|queue| queue.wanted && queue.trouble.is_none()).count();
        prefetch(self.source.settings.common.in_flight, sharing, size)
    }

    fn ask(&self, queue: Arc<str>, life: u64, question: impl Future<Output = Said> + Send + 'static) {
        self.asked.push(Box::pin(async move { Answer { queue, life, said: question.await } }));
    }

    fn answered(&mut self, Answer { queue, life, said }: Answer) -> Result<(), SourceError> {
        match said {
            Said::Opened(opened) => return self.opened(&queue, life, opened),
            Said::Cancelled(Ok(())) => self.end_if_done(life),
            Said::Consuming(Ok(consumer)) => {
                if let Some(of) = self.lives.get_mut(&life) {
                    of.consumer = consumer.tag();
                    of.received = 0;
                    let left_meanwhile = of.phase == Phase::Leaving;
                    if let Phase::Resizing(prefetch) = of.phase {
                        of.prefetch = prefetch;
                        of.phase = Phase::Taking;
                    }
                    self.deliveries.push(Deliveries::new(life, consumer));
                    if left_meanwhile {
                        self.leave(life);
                    }
                }
            }
            Said::Depth(Ok(depth)) => {
                if let Some(of) = self.lives.get_mut(&life) {
                    of.looking = false;
                    of.depth = depth;
                }
                self.show_depth(&queue, depth);
            }
            Said::Cancelled(Err(error)) | Said::Consuming(Err(error)) | Said::Depth(Err(error)) => {
                return self.broken(life, error);
            }
            Said::Closed => {}
        }
        Ok(())
    }

    fn opened(
        &mut self,
        name: &Arc<str>,
        life: u64,
        opened: Result<lapin::Result<Opened>, Elapsed>,
    ) -> Result<(), SourceError> {
        // Nobody waits for it any more; its channel is closed as it is dropped.
        let Some(queue) = self.queues.get_mut(name).filter(|queue| queue.life == life) else { return Ok(()) };
        queue.answered = true;
        match opened {
            Ok(Ok(Opened { channel, consumer, depth })) => {
                if queue.trouble.take().is_some() {
                    info!(source = %self.source.name, queue = %name, "queue {name} is there");
                }
                queue.retries.works();
                if let Some((consumer, prefetch)) = consumer {
                    let taking = Life {
                        queue: name.clone(),
                        channel,
                        consumer: consumer.tag(),
                        prefetch,
                        size: Size::unknown(),
                        received: 0,
                        held: 0,
                        depth,
                        looking: false,
                        phase: Phase::Taking,
                    };
                    self.lives.insert(life, taking);
                    self.deliveries.push(Deliveries::new(life, consumer));
                    self.show_depth(name, depth);
                    debug!(source = %self.source.name, queue = %name, "messages of queue {name} are asked for");
                }
                self.show();
            }
            Ok(Err(error)) => {
                if !self.wire.stands() {
                    return Err(self.lost(Some(error)));
                }
                self.in_trouble(name, queue::said(&error));
            }
            // A quorum queue whose majority is away is not refused: it is not answered about.
            Err(_) => self.in_trouble(name, format!("no answer about it within {ANSWER:?}")),
        }
        Ok(())
    }

    /// Notes what is wrong with a queue, and asks for it again later. The others go on.
    fn in_trouble(&mut self, name: &Arc<str>, trouble: String) {
        let Some(queue) = self.queues.get_mut(name) else { return };
        if queue.trouble.is_none() {
            warn!(source = %self.source.name, queue = %name, "no messages of queue {name} for now: {trouble}");
        }
        queue.trouble = Some(trouble);
        let wait = queue.retries.failed();
        self.ask_for(name, wait);
        let troubled =
            self.queues.iter().filter_map(|(name, queue)| Some((&**name, queue.trouble.as_deref()?)));
        if let Some(line) = queue::troubles(troubled) {
            self.ctx.health.problem(line);
        }
        self.show();
    }

    /// Says what is listened to; and, once everything wanted was answered, that the source is connected.
    fn show(&mut self) {
        let taking = self.lives.values().filter(|life| life.phase != Phase::Leaving);
        let mut names: Vec<String> = taking.map(|life| life.queue.to_string()).collect();
        names.sort();
        self.ctx.health.subscribed(names);
        if !self.connected && self.queues.values().all(|queue| queue.answered) {
            self.connected = true;
            self.ctx.health.connected();
            info!(source = %self.source.name, "source {} is connected", self.source.name);
        }
    }

    fn show_depth(&self, queue: &str, depth: u32) {
        self.ctx.health.gauge(&DEPTH, &[queue], depth.into());
        let taking = self.lives.values().filter(|life| life.phase != Phase::Leaving);
        self.ctx.health.lag(Some(taking.map(|life| u64::from(life.depth)).sum()));
    }

    fn look_at_queues(&mut self) -> Result<(), SourceError> {
        if !self.wire.stands() {
            return Err(self.lost(None));
        }
        let mut asked = Vec::new();
        for (number, life) in &mut self.lives {
            if life.phase != Phase::Leaving && !std::mem::replace(&mut life.looking, true) {
                asked.push((*number, life.queue.clone(), life.channel.clone()));
            }
        }
        for (life, queue, channel) in asked {
            let name = queue.clone();
            self.ask(queue, life, async move { Said::Depth(queue::depth(&channel, &name).await) });
        }
        Ok(())
    }

    /// Takes no more of a queue. Its channel stays until what is held of it is acknowledged; what was sent and not read
    /// goes back with the channel.
    fn leave(&mut self, life: u64) {
        let Some(of) = self.lives.get_mut(&life) else { return };
        of.phase = Phase::Leaving;
        let (queue, channel, consumer) = (of.queue.clone(), of.channel.clone(), of.consumer.clone());
        if self.stash.as_ref().is_some_and(|stash| stash.token.life == life) {
            self.stash = None;
        }
        self.ctx.health.forget(&DEPTH, &[("queue", &queue)]);
        self.ask(queue, life, async move { Said::Cancelled(queue::cancel(&channel, consumer).await) });
    }

    /// Closes a channel that is left and of which nothing is held.
    fn end_if_done(&mut self, life: u64) {
        if self.lives.get(&life).is_none_or(|of| of.phase != Phase::Leaving || of.held > 0) {
            return;
        }
        if let Some(Life { queue, channel, .. }) = self.lives.remove(&life) {
            self.window.abandon(life);
            self.ask(queue, life, async move {
                // Closed already, or with the connection: closed either way.
                let _ = channel.close(200, "OK".into()).await;
                Said::Closed
            });
        }
    }

    /// A channel is closed: the server has all of its messages again, so that what is in flight is stale.
    fn broken(&mut self, life: u64, error: lapin::Error) -> Result<(), SourceError> {
        if !self.wire.stands() {
            return Err(self.lost(Some(error)));
        }
        let Some(of) = self.lives.remove(&life) else { return Ok(()) };
        self.window.abandon(life);
        if self.stash.as_ref().is_some_and(|stash| stash.token.life == life) {
            self.stash = None;
        }
        if of.phase != Phase::Leaving {
            self.ctx.health.forget(&DEPTH, &[("queue", &of.queue)]);
            self.in_trouble(&of.queue, queue::said(&error));
        }
        Ok(())
    }

    // --- messages ---

    fn pull(&mut self, life: u64, pulled: Pulled) -> Result<(), SourceError> {
        match pulled {
            Pulled::Message(message) => self.take(life, *message),
            Pulled::End(Some(error)) => return self.broken(life, error),
            Pulled::End(None) => self.consumer_ended(life),
        }
        Ok(())
    }

    fn consumer_ended(&mut self, life: u64) {
        let Some(of) = self.lives.get_mut(&life) else { return };
        let (queue, channel) = (of.queue.clone(), of.channel.clone());
        match of.phase {
            Phase::Leaving => {}
            Phase::Resizing(prefetch) => {
                let name = queue.clone();
                self.ask(queue, life, async move {
                    Said::Consuming(queue::consume(&channel, &name, prefetch).await)
                });
            }
            // The server did it: the queue was deleted, or its node is gone. What we have of it nobody else has, perhaps, so
            // it is finished.
            Phase::Taking => {
                of.phase = Phase::Leaving;
                self.ctx.health.forget(&DEPTH, &[("queue", &queue)]);
                self.end_if_done(life);
                self.in_trouble(&queue, "the server ended it: the queue was deleted or moved".to_owned());
            }
        }
    }

    fn take(&mut self, life: u64, message: Delivery) {
        // Of a queue that is left, what was sent too much goes back with its channel.
        let Some(of) = self.lives.get_mut(&life).filter(|of| of.phase != Phase::Leaving) else { return };
        of.size.saw(message.data.len());
        of.received += 1;
        let (queue, acker) = (of.queue.clone(), message.acker.clone());
        self.resize_if_worth_it(life);
        let settings = &self.source.settings;
        let event = event_from(&settings.common.form, &queue, message, settings.deduplicate);
        self.stash = Some(Stashed { token: Token { queue, life, acker }, event });
    }

    /// Asks for a queue's messages anew where another prefetch fits them better. The messages sent so far come first.
    fn resize_if_worth_it(&mut self, life: u64) {
        let Some(of) = self.lives.get(&life).filter(|of| of.phase == Phase::Taking) else { return };
        let fitting = self.fitting(of.size);
        if !is_worth_a_change(of.prefetch, fitting, of.received) {
            return;
        }
        debug!(source = %self.source.name, queue = %of.queue, "queue {}: prefetch {fitting}", of.queue);
        let (queue, channel, consumer) = (of.queue.clone(), of.channel.clone(), of.consumer.clone());
        self.ask(queue, life, async move { Said::Cancelled(queue::cancel(&channel, consumer).await) });
        if let Some(of) = self.lives.get_mut(&life) {
            of.phase = Phase::Resizing(fitting);
        }
    }

    fn fill_window(&mut self) {
        let weight = |stash: &Stashed| match &stash.event {
            Ok(event) => event.body.len() + event.headers.bytes(),
            Err(message) => message.raw.len() + message.headers.bytes(),
        };
        let Some(Stashed { token, event }) = self.stash.take_if(|stash| self.window.has_room(weight(stash)))
        else {
            return;
        };
        if let Some(of) = self.lives.get_mut(&token.life) {
            of.held += 1;
        }
        match event {
            Ok(event) => self.window.publish_on(token.life, event, token),
            Err(unreadable) => self.window.quarantine_on(token.life, *unreadable, token),
        }
    }

    fn settle(&mut self, resolved: Resolved<Token>) {
        match resolved {
            Resolved::Taken { token: Token { queue, life, acker, .. }, .. } => {
                self.ctx.health.count(&PROCESSED, &[&queue], 1);
                if self.lives.contains_key(&life) {
                    self.acks.push(Box::pin(async move {
                        // Where the channel is closed, the server has the message again, and that is said elsewhere.
                        let _ = acker.ack(BasicAckOptions::default()).await;
                        life
                    }));
                }
            }
            // Refused for good by a stop: it goes back with its channel.
            Resolved::GiveBack { token, .. } => self.let_go(token.life),
            Resolved::Never { token, refusal } => {
                // Given back it would come again at once. So it stays unacknowledged, until its channel is closed.
                warn!(source = %self.source.name, queue = %token.queue, %refusal, "a message could not even be kept as a dead letter");
                self.ctx.health.problem(refusal);
                self.let_go(token.life);
            }
        }
    }

    /// A message of this life is no longer held.
    fn let_go(&mut self, life: u64) {
        if let Some(of) = self.lives.get_mut(&life) {
            of.held = of.held.saturating_sub(1);
        }
        self.end_if_done(life);
    }

    // --- the connection ---

    fn hear(&mut self, event: lapin::Event) -> Result<(), SourceError> {
        match event {
            // Errors of single channels are said here too; their queues deal with them.
            lapin::Event::Error(error) if !self.wire.stands() => return Err(self.lost(Some(error))),
            // It stops publishers, and we are none: messages come as before.
            lapin::Event::ConnectionBlocked(reason) => {
                warn!(source = %self.source.name, %reason, "the server of source {} is short of something", self.source.name);
                self.ctx.health.problem(format!("the server is short of something: {reason}"));
            }
            _ => {}
        }
        Ok(())
    }

    fn lost(&self, error: Option<lapin::Error>) -> SourceError {
        let cause = error.map(|error| queue::said(&error).into());
        SourceError::Lost { upstream: self.source.settings.upstream(), cause }
    }

    /// Tells the server to send no more, and lets go of what it has sent and nobody has begun.
    async fn leave_all(&mut self) {
        let taking = self.lives.values().filter(|life| life.phase == Phase::Taking);
        let cancels = taking.map(|life| queue::cancel(&life.channel, life.consumer.clone()));
        // Whether it hears us or not: nothing more is read.
        let _ = timeout(LEAVING, join_all(cancels)).await;
        self.asked.clear();
        self.deliveries.clear();
        self.stash = None;
    }

    /// Waits until everything begun is taken and acknowledged. A refusal is final now: there is no later.
    async fn hand_over(&mut self) {
        self.window.close();
        while self.window.in_flight() > 0 || !self.acks.is_empty() {
            tokio::select! {
                Some(resolved) = self.window.next(), if self.window.in_flight() > 0 => self.settle(resolved),
                Some(_) = self.acks.next(), if !self.acks.is_empty() => {}
                // What was in flight belonged to a channel that is closed.
                else => {}
            }
        }
    }
}

impl Queue {
    fn new(wanted: bool) -> Self {
        Queue { wanted, life: 0, answered: false, retries: Retries::new(ABSENT), trouble: None }
    }
}
