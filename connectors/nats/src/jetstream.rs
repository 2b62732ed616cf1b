//! Events from a JetStream stream, through a durable pull consumer.
//!
//! The stream must exist; the consumer is ours. A message is acknowledged, and the acknowledgement confirmed, once the
//! broker has it in custody. What is held longer is said to be in progress, what the broker refuses goes back with a delay,
//! and nothing is ever terminated. No more is asked for than there is room for.
//!
//! In reading order: `settings`, `filter` (which messages the consumer hands out; pure), `consumer` (made and kept as it is
//! wanted), `pulls` (what was asked for; pure), `held` (what is not settled; pure), and here the loop.

mod consumer;
mod filter;
mod held;
mod pulls;
mod settings;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use async_nats::jetstream::{AckKind, Context, ContextBuilder, Message as StreamMessage};
use async_nats::{Client, Message, Request, RequestErrorKind, Subject, Subscriber};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use connectors_sdk::source::Cause;
use connectors_sdk::{
    AckWindow, Capabilities, Event, Following, Quarantined, Resolved, Retries, Source, SourceContext,
    SourceError, SourceName, Timestamp, Wildcards,
};

use crate::connect::connect;
use crate::event::{Life, Place, event_from_stream};
use crate::settings::NatsSettings;

use consumer::{Found, Trouble, Wanted, tend};
use filter::Filter;
use held::Held;
use pulls::{Pulls, Room, Word, number_of, size_of};
pub(crate) use settings::JetStreamSettings;

/// How often stream and consumer are looked at: lag, foreign hands.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long one acknowledgement may wait for its confirmation before it is sent again.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(5);
/// How often it is sent. What stays unconfirmed comes again, and is recognised.
const SENT_AT_MOST: usize = 3;
/// How long the last words to the server may take.
const FAREWELL: Duration = Duration::from_secs(2);
/// When nothing came for so long, what was asked for has come.
const QUIET: Duration = Duration::from_millis(100);
/// How long a message that not even the dead letters take stays away.
const UNWANTED: Duration = Duration::from_secs(60);

/// One configured source that reads a stream.
pub(crate) struct JetStreamSource {
    name: SourceName,
    settings: NatsSettings,
    jetstream: JetStreamSettings,
}

impl JetStreamSource {
    pub(crate) fn new(name: SourceName, settings: NatsSettings, jetstream: JetStreamSettings) -> Self {
        JetStreamSource { name, settings, jetstream }
    }
}

#[async_trait]
impl Source for JetStreamSource {
    fn capabilities(&self) -> Capabilities {
        Capabilities { acknowledges: true, replays: true, ordered: false, decodes: false, shares: true }
    }

    async fn run(self: Box<Self>, ctx: SourceContext) -> Result<(), SourceError> {
        let (client, told) = tokio::select! {
            biased;
            () = ctx.shutdown.cancelled() => return Ok(()),
            connected = connect(&self.name, &self.settings, &ctx.health) => connected?,
        };
        let upstream = self.settings.upstream();
        let lost = |cause: Cause| SourceError::Lost { upstream, cause: Some(cause) };
        let (inbox_name, inbox) = new_inbox(&client).await.map_err(lost)?;
        let mut session = Session {
            following: self.settings.common.follow(&ctx),
            window: AckWindow::unordered(&ctx, self.settings.common.in_flight),
            context: ContextBuilder::new().timeout(self.settings.connect_timeout).build(client.clone()),
            up: true,
            client,
            told,
            inbox_name,
            inbox,
            reading: None,
            life: None,
            pulls: Pulls::default(),
            held: Held::default(),
            stash: VecDeque::new(),
            acks: FuturesUnordered::new(),
            tending: FuturesUnordered::new(),
            tend_again: false,
            look_at: Instant::now() + LOOK_EVERY,
            progress_at: Instant::now(),
            retries: Retries::asking(),
            quiet_until: None,
            last_word: None,
            source: *self,
            ctx,
        };
        session.run().await
    }
}

/// One connection's life.
struct Session {
    source: JetStreamSource,
    ctx: SourceContext,
    client: Client,
    context: Context,
    /// What the client says about the connection.
    told: mpsc::Receiver<async_nats::Event>,
    up: bool,
    following: Following,
    window: AckWindow<u64>,
    /// Where messages are sent to us.
    inbox_name: String,
    inbox: Subscriber,
    /// What the consumer hands out; nothing while it is not there.
    reading: Option<Reading>,
    /// Known once the consumer was found.
    life: Option<Known>,
    pulls: Pulls,
    /// Handed to us and not settled, by the window's tokens.
    held: Held,
    /// Of these, what is not in the window yet: larger than the room it was asked for.
    stash: VecDeque<Stashed>,
    /// Acknowledgements that wait for their confirmation.
    acks: FuturesUnordered<BoxFuture<'static, bool>>,
    /// A look at the consumer; there is never more than one.
    tending: FuturesUnordered<BoxFuture<'static, (Wanted, Result<Found, Trouble>)>>,
    tend_again: bool,
    look_at: Instant,
    /// When the server is to hear of what is held.
    progress_at: Instant,
    retries: Retries,
    /// Nothing is asked for until then.
    quiet_until: Option<Instant>,
    /// The client's last complaint.
    last_word: Option<String>,
}

/// What the consumer hands out.
struct Reading {
    filter: Filter,
    subjects: BTreeSet<String>,
}

/// What is known of stream and consumer.
#[derive(Clone, Copy)]
struct Known {
    life: Life,
    /// When the consumer that there is now was made.
    consumer: i128,
    /// All up to this message is settled.
    settled: u64,
}

struct Stashed {
    number: u64,
    weight: usize,
    event: Result<Event, Box<Quarantined>>,
}

/// Why the loop was left.
enum Exit {
    Stop,
    Error(SourceError),
}

impl Session {
    async fn run(&mut self) -> Result<(), SourceError> {
        match self.receive().await {
            Exit::Stop => {
                self.leave().await;
                Ok(())
            }
            // What is held comes again, and what of it is durable by then is recognised.
            Exit::Error(error) => {
                self.ctx.health.disconnected(connectors_sdk::describe(&error));
                if self.ctx.shutdown.is_cancelled() { Ok(()) } else { Err(error) }
            }
        }
    }

    async fn receive(&mut self) -> Exit {
        self.tend();
        loop {
            self.fill_window();
            if let Err(error) = self.ask().await {
                return Exit::Error(error);
            }
            let done = tokio::select! {
                biased;
                () = self.ctx.shutdown.cancelled() => return Exit::Stop,
                told = self.told.recv() => match told {
                    Some(event) => {
                        self.hear(event);
                        Ok(())
                    }
                    None => Err(self.lost()),
                },
                Some((wanted, found)) = self.tending.next(), if !self.tending.is_empty() => {
                    self.tended(wanted, found)
                }
                _ = self.following.changed() => self.wishes_changed().await,
                () = tokio::time::sleep_until(self.progress_at) => self.say_progress().await,
                Some(_) = self.acks.next(), if !self.acks.is_empty() => Ok(()),
                Some(resolved) = self.window.next(), if self.window.in_flight() > 0 => {
                    self.settle(resolved).await
                }
                () = tokio::time::sleep_until(self.look_at) => {
                    self.tend();
                    Ok(())
                }
                () = until(self.pulls.until()) => {
                    debug!(source = %self.source.name, "the server is silent about what was asked for");
                    self.pulls.forget();
                    self.tend();
                    Ok(())
                }
                () = until(self.quiet_until) => {
                    self.quiet_until = None;
                    Ok(())
                }
                message = self.inbox.next() => match message {
                    Some(message) => {
                        self.take(message).await
                    }
                    None => Err(self.lost()),
                },
            };
            if let Err(error) = done {
                return Exit::Error(error);
            }
        }
    }

    // --- the connection ---

    /// What the client says about it.
    fn hear(&mut self, event: async_nats::Event) {
        use async_nats::Event;
        match event {
            Event::Connected => {
                self.up = true;
                // The server forgot what was asked for on the connection before.
                self.pulls.begin_anew();
                self.tend();
            }
            Event::Disconnected => {
                self.up = false;
                warn!(source = %self.source.name, "source {} lost its connection", self.source.name);
                self.ctx.health.disconnected("the connection broke");
            }
            Event::ServerError(error) => {
                warn!(source = %self.source.name, %error, "the server complains to source {}", self.source.name);
                self.ctx.health.problem(&error);
                self.last_word = Some(error.to_string());
            }
            Event::ClientError(error) => {
                self.ctx.health.problem(&error);
                // That it gave up says less than why.
                if !matches!(error, async_nats::ClientError::MaxReconnects) {
                    self.last_word = Some(error.to_string());
                }
            }
            Event::LameDuckMode => info!(source = %self.source.name, "the server is about to leave"),
            Event::SlowConsumer(_) | Event::Draining | Event::Closed => {}
        }
    }

    // --- the consumer ---

    /// Begins to look at stream and consumer, and to make the consumer what it should be.
    fn tend(&mut self) {
        self.look_at = Instant::now() + LOOK_EVERY;
        if !self.tending.is_empty() {
            self.tend_again = true;
            return;
        }
        self.tend_again = false;
        let wanted = Wanted {
            settings: self.source.jetstream.clone(),
            subjects: self.following.now().on_the_wire(Wildcards::Nats),
            settled: self.life.map(|known| known.settled),
        };
        let context = self.context.clone();
        self.tending.push(Box::pin(async move {
            let found = tend(&context, &wanted).await;
            (wanted, found)
        }));
    }

    fn tended(&mut self, wanted: Wanted, found: Result<Found, Trouble>) -> Result<(), SourceError> {
        let again = std::mem::take(&mut self.tend_again);
        match found {
            Ok(found) => self.found(wanted, found)?,
            Err(Trouble::Ends(error)) => return Err(error),
            Err(Trouble::Passes(cause)) => self.not_found(cause)?,
        }
        if again {
            self.tend();
        }
        Ok(())
    }

    fn found(&mut self, wanted: Wanted, found: Found) -> Result<(), SourceError> {
        let name = &self.source.name;
        if let Some(known) = self.life
            && known.life.stream != found.stream
        {
            return Err(self.moved("the stream was made anew"));
        }
        if self.up {
            if self.reading.is_none() {
                info!(source = %name, "source {name} is connected");
            }
            self.ctx.health.subscribed(wanted.subjects.iter().cloned().collect());
            self.ctx.health.connected();
        }
        let Some(consumer) = found.consumer else {
            self.ctx.health.lag(Some(0));
            self.reading = None;
            return Ok(());
        };
        self.ctx.health.lag(Some(consumer.lag));
        let life = match self.life {
            // Ours goes on where it was. Whoever else made it wants to read from where that one begins.
            Some(known) if consumer.made || known.consumer == consumer.created => known.life,
            _ => Life { stream: found.stream, consumer: consumer.created },
        };
        if consumer.made && self.life.is_some() {
            warn!(source = %name, "the consumer of source {name} was gone, and is made again where it was");
            self.pulls.forget();
        }
        // The server may not know yet where a consumer begins that has handed out nothing.
        let before = self.life.filter(|known| known.life == life).map_or(0, |known| known.settled);
        let settled = consumer.settled.max(before);
        self.life = Some(Known { life, consumer: consumer.created, settled });
        self.reading = Some(Reading { filter: consumer.filter, subjects: wanted.subjects });
        Ok(())
    }

    fn not_found(&mut self, cause: Cause) -> Result<(), SourceError> {
        if !self.up {
            // It is looked for again once there is a connection.
            return Ok(());
        }
        if self.life.is_none() && self.reading.is_none() {
            while let Ok(event) = self.told.try_recv() {
                self.hear(event);
            }
            // A server that forbids to ask says so beside, and lets the question run out.
            let upstream = self.source.settings.upstream();
            return Err(match self.last_word.take() {
                Some(word) => SourceError::Refused { upstream, cause: word.into() },
                None => SourceError::Unreachable { upstream, cause },
            });
        }
        debug!(source = %self.source.name, "cannot look at the consumer: {cause}");
        self.ctx.health.problem(format!("cannot look at the consumer: {cause}"));
        self.look_at = Instant::now() + self.retries.failed();
        Ok(())
    }

    async fn wishes_changed(&mut self) -> Result<(), SourceError> {
        if self.following.now().on_the_wire(Wildcards::Nats).is_empty() {
            // What comes from now on is nobody's, and stays where it is.
            self.reading = None;
            self.stop_pulling().await;
            let (name, inbox) = new_inbox(&self.client).await.map_err(|cause| self.broken(cause))?;
            (self.inbox_name, self.inbox) = (name, inbox);
        }
        self.tend();
        Ok(())
    }

    // --- messages ---

    /// Asks for as many messages as there is room for.
    async fn ask(&mut self) -> Result<(), SourceError> {
        if !self.up || self.reading.is_none() || self.quiet_until.is_some() || !self.stash.is_empty() {
            return Ok(());
        }
        let limits = self.source.settings.common.in_flight;
        let most = limits.messages.get();
        let room = Room {
            messages: self.window.room().min(most.saturating_sub(self.acks.len())),
            bytes: (limits.bytes.bytes().saturating_sub(self.held.bytes()), limits.bytes.bytes()),
            empty: self.held.is_empty(),
        };
        let Some(asking) = self.pulls.ask(room, Instant::now()) else { return Ok(()) };
        let JetStreamSettings { stream, consumer, .. } = &self.source.jetstream;
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
        let inbox = format!("{}.{}", self.inbox_name, asking.number);
        let sent = self.client.publish_with_reply(subject, inbox, asking.payload.into()).await;
        sent.map_err(|cause| self.broken(cause))
    }

    async fn take(&mut self, message: Message) -> Result<(), SourceError> {
        let now = Instant::now();
        if let Some(status) = message.status {
            let Some(number) = number_of(&message.subject) else { return Ok(()) };
            let word = self.pulls.heard(number, status, message.description.as_deref(), now);
            match word {
                Word::Usual => self.retries.answered(),
                Word::Look(word) => {
                    debug!(source = %self.source.name, "the server says {word}");
                    self.quiet_until = Some(now + self.retries.failed());
                    self.tend();
                }
            }
            return Ok(());
        }
        let Some(reply) = message.reply.clone() else { return Ok(()) };
        let (Some(known), Some(reading)) = (self.life, &self.reading) else {
            return self.say(reply, AckKind::Nak(None)).await;
        };
        self.pulls.came(now);
        self.retries.answered();
        if !reading.filter.passes(&reading.subjects, &message.subject) {
            self.acknowledge(reply);
            return Ok(());
        }
        let bytes = size_of(&message);
        let message = StreamMessage { message, context: self.context.clone() };
        let Ok(info) = message.info() else {
            debug!(source = %self.source.name, "a message does not say where it stands");
            return Ok(());
        };
        let place = Place {
            stream: &self.source.jetstream.stream,
            life: known.life,
            sequence: info.stream_sequence,
            taken: Timestamp::from_millis(
                u64::try_from(info.published.unix_timestamp_nanos() / 1_000_000).unwrap_or_default(),
            ),
        };
        let event = event_from_stream(&self.source.settings.common.form, message.message, place);
        let weight = match &event {
            Ok(event) => event.body.len() + event.headers.bytes(),
            Err(unreadable) => unreadable.raw.len() + unreadable.headers.bytes(),
        };
        let number = self.held.take(reply, bytes, now);
        self.stash.push_back(Stashed { number, weight, event });
        Ok(())
    }

    fn fill_window(&mut self) {
        while let Some(first) = self.stash.front()
            && self.window.has_room(first.weight)
            && let Some(Stashed { number, event, .. }) = self.stash.pop_front()
        {
            match event {
                Ok(event) => self.window.publish(event, number),
                Err(unreadable) => self.window.quarantine(*unreadable, number),
            }
        }
    }

    async fn settle(&mut self, resolved: Resolved<u64>) -> Result<(), SourceError> {
        match resolved {
            Resolved::Taken { token, .. } => {
                if let Some(message) = self.held.settle(token) {
                    self.acknowledge(message.reply);
                }
                Ok(())
            }
            Resolved::GiveBack { token, after, .. } => {
                // Others may take what we cannot. To ask for more meanwhile would only turn the stream over.
                self.quiet_until = Some(Instant::now() + after);
                self.give_back(token, Some(after)).await
            }
            Resolved::Never { token, refusal } => {
                warn!(source = %self.source.name, %refusal, "a message could not even be kept as a dead letter");
                self.ctx.health.problem(refusal);
                self.give_back(token, Some(UNWANTED)).await
            }
        }
    }

    // --- words to the server ---

    fn acknowledge(&self, reply: Subject) {
        self.acks.push(Box::pin(confirmed(self.client.clone(), reply)));
    }

    async fn give_back(&mut self, number: u64, after: Option<Duration>) -> Result<(), SourceError> {
        match self.held.settle(number) {
            Some(message) => self.say(message.reply, AckKind::Nak(after)).await,
            None => Ok(()),
        }
    }

    /// The server hears of what is held well before `ack_wait` is over.
    async fn say_progress(&mut self) -> Result<(), SourceError> {
        let (every, now) = (self.source.jetstream.ack_wait / 3, Instant::now());
        self.progress_at = now + every;
        // What came since the last time may wait for the next, if that is soon enough.
        for reply in self.held.silent_for(every / 2, now) {
            self.say(reply, AckKind::Progress).await?;
        }
        Ok(())
    }

    async fn say(&mut self, reply: Subject, what: AckKind) -> Result<(), SourceError> {
        self.client.publish(reply, Bytes::from(what)).await.map_err(|cause| self.broken(cause))
    }

    // --- the end ---

    /// Asks for no more, finishes what was begun, and gives back the rest.
    async fn leave(&mut self) {
        self.stop_pulling().await;
        // A refusal is final now: there is no later here.
        self.window.close();
        while self.window.in_flight() > 0 {
            let said = tokio::select! {
                biased;
                Some(resolved) = self.window.next() => self.settle(resolved).await,
                Some(_) = self.acks.next(), if !self.acks.is_empty() => Ok(()),
                () = tokio::time::sleep_until(self.progress_at) => self.say_progress().await,
            };
            if said.is_err() {
                return;
            }
        }
        let farewell = async {
            while self.acks.next().await.is_some() {}
            let _ = self.client.flush().await;
        };
        if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
            debug!(source = %self.source.name, "the server confirms nothing any more");
        }
    }

    /// Tells the server to send no more; what it had sent by then goes back at once.
    async fn stop_pulling(&mut self) {
        self.pulls.forget();
        let mut back: Vec<Subject> = Vec::new();
        for stashed in std::mem::take(&mut self.stash) {
            back.extend(self.held.settle(stashed.number).map(|message| message.reply));
        }
        // What the server is about to send when it hears that nobody listens is given to nobody, and counts as delivered. So
        // what was asked for comes first.
        let coming = async {
            while let Ok(Some(message)) = tokio::time::timeout(QUIET, self.inbox.next()).await {
                back.extend(message.reply.filter(|_| message.status.is_none()));
            }
        };
        let _ = tokio::time::timeout(FAREWELL, coming).await;
        if self.up && self.inbox.drain().await.is_ok() {
            let rest = async {
                while let Some(message) = self.inbox.next().await {
                    back.extend(message.reply.filter(|_| message.status.is_none()));
                }
            };
            let _ = tokio::time::timeout(FAREWELL, rest).await;
        }
        for reply in back {
            if self.say(reply, AckKind::Nak(None)).await.is_err() {
                return;
            }
        }
    }

    // --- errors ---

    fn lost(&mut self) -> SourceError {
        let cause = self.last_word.take().map(Cause::from);
        SourceError::Lost { upstream: self.source.settings.upstream(), cause }
    }

    fn broken(&self, cause: impl Into<Cause>) -> SourceError {
        SourceError::Lost { upstream: self.source.settings.upstream(), cause: Some(cause.into()) }
    }

    fn moved(&self, what: &str) -> SourceError {
        self.broken(format!("{what}: it is read from its start, as the settings say"))
    }
}

/// Acknowledges, and waits until the server has heard it. Sent again when it is not confirmed: one that got lost would
/// bring the message again, on a replica where it is not known.
async fn confirmed(client: Client, reply: Subject) -> bool {
    for _ in 0..SENT_AT_MOST {
        let ack = Request::new().payload(Bytes::from(AckKind::Ack)).timeout(Some(CONFIRMED_WITHIN));
        match client.send_request(reply.clone(), ack).await {
            Ok(_) => return true,
            // The consumer is gone.
            Err(error) if error.kind() == RequestErrorKind::NoResponders => return false,
            Err(_) => {}
        }
    }
    false
}

async fn new_inbox(client: &Client) -> Result<(String, Subscriber), Cause> {
    let name = client.new_inbox();
    let inbox = client.subscribe(format!("{name}.*")).await?;
    Ok((name, inbox))
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
