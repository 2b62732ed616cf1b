//! The loop.

use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::FuturesUnordered;
use tokio::time::Instant;
use tracing::{debug, warn};

use connectors_sdk::{
    AckWindow, Capabilities, Following, Resolved, Retries, Source, SourceContext, SourceError, SourceName,
    Wildcards, WindowLimits, describe, source::Cause,
};

use crate::arrivals::{Arrival, Arrivals, Receipt};
use crate::client::{Answer, Client, Ending, Greeting, Incoming};
use crate::event::{event_from, name_of};
use crate::message::{Message, Qos};
use crate::settings::{AtStop, MqttSettings, Protocol, Retained};
use crate::subscriptions::Subscriptions;

/// How long a refusal of a subscription stands before it is asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// After so many connections in a row that did not last, another client of the same id is the likely reason.
const FLAPPING: u32 = 3;

/// How many topics are remembered that came without being asked for.
const STRAYS: usize = 256;

/// A source of MQTT messages.
pub(crate) struct MqttSource {
    name: SourceName,
    settings: MqttSettings,
}

impl MqttSource {
    pub(crate) fn new(name: SourceName, settings: MqttSettings) -> Self {
        MqttSource { name, settings }
    }
}

#[async_trait]
impl Source for MqttSource {
    fn capabilities(&self) -> Capabilities {
        let acknowledges = self.settings.qos != Qos::AtMostOnce;
        Capabilities {
            acknowledges,
            replays: acknowledges && !self.settings.clean,
            shares: self.settings.group.is_some(),
            ..Capabilities::NONE
        }
    }

    async fn run(self: Box<Self>, ctx: SourceContext) -> Result<(), SourceError> {
        let id = client_id(&self.name, &self.settings).await?;
        Session::new(self.name, self.settings, id, ctx).run().await
    }
}

/// The name of the session: the setting, or one that a replica has to itself as long as it has its host's name to itself.
async fn client_id(name: &SourceName, settings: &MqttSettings) -> Result<String, SourceError> {
    const HOST_NAME: &str = "/proc/sys/kernel/hostname";
    if let Some(id) = &settings.client_id {
        return Ok(id.clone());
    }
    let host = tokio::fs::read_to_string(HOST_NAME).await.map_err(|cause| SourceError::Unusable {
        key: "client_id".to_owned(),
        what: format!("it is not set, and {HOST_NAME} cannot be read; set it, another one for each replica"),
        cause: Some(cause.into()),
    })?;
    Ok(format!("evoke-{name}-{}", host.trim()))
}

/// The session at the server, over all its connections.
struct Session {
    name: SourceName,
    settings: MqttSettings,
    id: String,
    ctx: SourceContext,
    following: Following,
    window: AckWindow<Token>,
    /// What came and waits for room in the window.
    waiting: Waiting,
    arrivals: Arrivals,
    subscriptions: Subscriptions,
    /// Questions to the server that wait for an answer.
    asking: FuturesUnordered<BoxFuture<'static, Asked>>,
    /// When to ask again for what was refused.
    ask_again: Option<Instant>,
    strays: BTreeSet<String>,
    /// The connection, while it stands.
    client: Option<(Client, Greeting)>,
}

/// What comes back from the window with a message: its acknowledgement, where it wants one.
type Token = Option<Receipt>;

/// An answer of the server.
enum Asked {
    Subscribed {
        filter: String,
        number: u32,
        answer: Option<Answer>,
    },
    Ended {
        filter: String,
    },
    /// The end of a subscription that an earlier run left, if there was one of this name.
    Swept {
        topic: String,
        existed: Option<bool>,
    },
}

/// Why a connection is no longer served.
enum Exit {
    Stop,
    Lost(Ending),
}

impl Session {
    fn new(name: SourceName, settings: MqttSettings, id: String, ctx: SourceContext) -> Self {
        let following = settings.common.follow(&ctx);
        // In order, because MQTT wants acknowledgements in the order in which messages came; and held, because nothing can be
        // given back.
        let window = AckWindow::ordered(&ctx, settings.common.in_flight);
        let waiting = Waiting::new(settings.waiting);
        let subscriptions = Subscriptions::new(settings.group.clone(), rand::random());
        Session {
            name,
            settings,
            id,
            ctx,
            following,
            window,
            waiting,
            arrivals: Arrivals::default(),
            subscriptions,
            asking: FuturesUnordered::new(),
            ask_again: None,
            strays: BTreeSet::new(),
            client: None,
        }
    }

    /// Connects, again and again, until told to stop. What is on its way into the store when a connection breaks goes on: the
    /// server sends it again, and it is known by then. Only a first connection that fails, and a server that will not have
    /// us, are left to the runtime.
    async fn run(mut self) -> Result<(), SourceError> {
        let mut retries = Retries::reconnecting();
        let mut first = true;
        loop {
            let (name, settings, id) = (self.name.clone(), self.settings.clone(), self.id.clone());
            let health = self.ctx.health.clone();
            let connecting = async move { Client::connect(&name, &settings, &id, &health).await };
            match self.meanwhile(connecting).await {
                None => break,
                Some(Ok((client, greeting))) => {
                    first = false;
                    retries.works();
                    match self.serve(client, greeting).await {
                        Exit::Stop => break,
                        Exit::Lost(ending) => self.lost(ending, retries.failures()),
                    }
                }
                Some(Err(error @ SourceError::Unreachable { .. })) if !first => {
                    self.ctx.health.disconnected(describe(&error));
                }
                Some(Err(error)) => return Err(error),
            }
            if self.meanwhile(tokio::time::sleep(retries.failed())).await.is_none() {
                break;
            }
        }
        self.leave().await;
        Ok(())
    }

    /// Waits for something while there is no connection; `None` when told to stop.
    async fn meanwhile<T>(&mut self, task: impl Future<Output = T> + Send) -> Option<T> {
        let shutdown = self.ctx.shutdown.clone();
        tokio::pin!(task);
        loop {
            self.fill_window();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return None,
                Some(resolved) = self.window.next(), if self.window.in_flight() > 0 => self.settle(resolved),
                done = &mut task => return Some(done),
            }
        }
    }

    async fn serve(&mut self, client: Client, greeting: Greeting) -> Exit {
        debug!(source = %self.name, id = self.id, ?greeting, "connected to {}", self.settings.upstream());
        self.client = Some((client, greeting));
        self.arrivals.connected(greeting.resumed);
        self.subscriptions.connected(greeting.resumed);
        self.ask();
        self.say_subscribed();
        let shutdown = self.ctx.shutdown.clone();
        loop {
            self.fill_window();
            let (reads, ask_again) = (self.reads(), self.ask_again);
            let Some((client, _)) = &mut self.client else { return Exit::Stop };
            // Answers go before messages: which copy of a message to take depends on what was granted by then.
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Exit::Stop,
                _ = self.following.changed() => self.ask(),
                Some(asked) = self.asking.next(), if !self.asking.is_empty() => self.answered(asked),
                Some(resolved) = self.window.next(), if self.window.in_flight() > 0 => self.settle(resolved),
                incoming = client.next(), if reads => {
                    if let Some(ending) = self.hear(incoming) {
                        return Exit::Lost(ending);
                    }
                }
                () = at(ask_again) => {
                    self.subscriptions.forget_refusals();
                    self.ask();
                }
            }
        }
    }

    /// Whether to read from the connection. Without acknowledgements nobody keeps what is not read.
    fn reads(&self) -> bool {
        self.settings.qos == Qos::AtMostOnce || self.waiting.messages.is_empty()
    }

    /// Subscribes to what is wanted and not subscribed to, and ends what is no longer wanted.
    fn ask(&mut self) {
        let wanted = self.following.now().on_the_wire(Wildcards::Mqtt);
        self.ask_for(&wanted);
        self.say_subscribed();
    }

    fn ask_for(&mut self, wanted: &BTreeSet<String>) {
        let Some((client, greeting)) = &self.client else { return };
        let change = self.subscriptions.want(wanted);
        self.ask_again = None;
        for (filter, number) in change.subscribe {
            let on_the_wire = self.subscriptions.on_the_wire(&filter);
            let numbered = greeting.numbers.then_some(number);
            let answer = client.subscribe(on_the_wire, numbered, self.settings.qos, self.settings.retained);
            self.asking
                .push(async move { Asked::Subscribed { filter, number, answer: answer.await } }.boxed());
        }
        for filter in change.unsubscribe {
            let answer = client.unsubscribe(self.subscriptions.on_the_wire(&filter));
            self.asking.push(answer.map(move |_| Asked::Ended { filter }).boxed());
        }
    }

    fn answered(&mut self, asked: Asked) {
        match asked {
            // The connection is gone, which is the next thing we hear.
            Asked::Subscribed { answer: None, .. } | Asked::Swept { existed: None, .. } => {}
            Asked::Subscribed { filter, number, answer: Some(answer) } => {
                match &answer {
                    Ok(granted) if *granted < self.settings.qos => {
                        let (granted, asked) = (granted.number(), self.settings.qos.number());
                        self.problem(format!("{filter}: the server grants QoS {granted} instead of {asked}"));
                    }
                    Ok(_) => debug!(source = %self.name, %filter, "subscribed to {filter}"),
                    Err(why) => self.problem(format!("{filter}: the server refuses the subscription: {why}")),
                }
                self.subscriptions.answered(&filter, number, answer.map(|_| ()));
            }
            Asked::Ended { filter } => {
                debug!(source = %self.name, %filter, "left {filter}");
                self.subscriptions.ended(&filter);
            }
            Asked::Swept { existed: Some(true), topic } => {
                debug!(source = %self.name, %topic, "ended a subscription of an earlier run");
            }
            Asked::Swept { existed: Some(false), topic } => self.problem(format!(
                "{topic} comes for a subscription that an earlier configuration left in the session; \
                 set clean: true for one start"
            )),
        }
        self.say_subscribed();
    }

    fn say_subscribed(&mut self) {
        self.ctx.health.subscribed(self.subscriptions.granted());
        if self.asking.is_empty() {
            self.ctx.health.connected();
        }
        if self.ask_again.is_none() && self.subscriptions.refused().next().is_some() {
            self.ask_again = Some(Instant::now() + ASK_AGAIN);
        }
    }

    /// Takes in what the server says; how the connection ended, when it did.
    fn hear(&mut self, incoming: Incoming) -> Option<Ending> {
        match incoming {
            Incoming::Message(message) => self.take_in(message),
            Incoming::Released(packet) => self.arrivals.released(packet),
            Incoming::Ended(ending) => return Some(ending),
            Incoming::Greeting(_) => {}
        }
        None
    }

    fn take_in(&mut self, message: Box<Message>) {
        self.sweep(&message.topic);
        let ignored = message.retained && self.settings.retained == Retained::Ignore;
        // What is retained came before there was anything it could be a copy of.
        let copy = !message.retained && self.subscriptions.is_copy(&message.topic, &message.subscriptions);
        if ignored || copy {
            return self.acknowledge(message.packet, message.qos);
        }
        let receipt = match message.qos {
            Qos::AtMostOnce => None,
            qos => match self.arrivals.came(message.packet, qos, message.again) {
                Arrival::New(receipt) => Some(receipt),
                Arrival::Held => return,
                Arrival::Known => return self.acknowledge(message.packet, qos),
            },
        };
        let bounded = self.settings.qos == Qos::AtMostOnce;
        if !self.waiting.push((receipt, message), bounded) {
            // Never handed to the window, so counted here.
            self.ctx.health.received(1);
            self.ctx.health.dropped(1);
        }
    }

    /// Ends what an earlier run subscribed to under the name of this topic, which nobody asked for in this one. Where it was a
    /// pattern only the server knows its name.
    fn sweep(&mut self, topic: &str) {
        let stray = !self.subscriptions.meet(topic) && self.strays.len() < STRAYS;
        let Some((client, _)) = self.client.as_ref().filter(|_| stray) else { return };
        if self.settings.protocol == Protocol::V5 && self.strays.insert(topic.to_owned()) {
            let (answer, topic) =
                (client.unsubscribe(self.subscriptions.on_the_wire(topic)), topic.to_owned());
            self.asking.push(async move { Asked::Swept { topic, existed: answer.await } }.boxed());
        }
    }

    fn fill_window(&mut self) {
        while let Some(weight) = self.waiting.first_weight()
            && self.window.has_room(weight)
            && let Some((receipt, message)) = self.waiting.pop()
        {
            self.publish(receipt, message);
        }
    }

    fn publish(&mut self, receipt: Option<Receipt>, message: Box<Message>) {
        let (form, limit) = (&self.settings.form, self.settings.max_packet_size);
        let size = message.weight();
        if size as u64 > limit.bytes() {
            let what =
                format!("a message of {size} bytes on {}, beyond max_packet_size ({limit})", message.topic);
            self.ctx.health.problem(&what);
            let parts: [&[u8]; 2] = [&rand::random::<u128>().to_be_bytes(), message.topic.as_bytes()];
            let lost = form.form.lost(name_of(form, &message.topic), Some(1), what, &parts);
            return self.window.lost_on(0, lost, receipt);
        }
        match event_from(form, &message) {
            Ok(event) => self.window.publish(event, receipt),
            Err(unreadable) => self.window.quarantine(*unreadable, receipt),
        }
    }

    fn settle(&mut self, resolved: Resolved<Token>) {
        match resolved {
            Resolved::Taken { token: Some(receipt), .. } => {
                if self.arrivals.stored(receipt) {
                    self.acknowledge(receipt.packet, receipt.qos);
                }
            }
            Resolved::Taken { .. } => {}
            // Told to stop, or not even a dead letter. What is not acknowledged comes again with the session.
            Resolved::GiveBack { token, refusal, .. } | Resolved::Never { token, refusal } => {
                if token.is_none() {
                    self.ctx.health.dropped(1);
                }
                self.problem(format!("a message was not taken: {refusal}"));
            }
        }
    }

    fn acknowledge(&mut self, packet: u16, qos: Qos) {
        if let Some((client, _)) = &self.client {
            client.acknowledge(packet, qos);
            self.arrivals.acknowledged(packet, qos);
        }
    }

    fn problem(&self, what: String) {
        warn!(source = %self.name, "source {}: {what}", self.name);
        self.ctx.health.problem(what);
    }

    fn lost(&mut self, ending: Ending, failures: u32) {
        self.client = None;
        self.asking.clear();
        self.arrivals.lost();
        let cause: Cause = match ending {
            Ending::TakenOver => format!(
                "another client has taken over the session {:?}; set client_id, another one for each replica",
                self.id
            )
            .into(),
            Ending::Broken(cause) if failures >= FLAPPING => format!(
                "{}; {failures} times in a row, as when another client has the client id {:?}",
                describe(&*cause),
                self.id
            )
            .into(),
            Ending::Broken(cause) | Ending::Refused(cause) => cause,
        };
        let error = SourceError::Lost { upstream: self.settings.upstream(), cause: Some(cause) };
        warn!(source = %self.name, error = %describe(&error), "source {} lost its connection", self.name);
        self.ctx.health.disconnected(describe(&error));
    }

    /// Takes no more, finishes what was begun, and says good-bye.
    async fn leave(&mut self) {
        if self.settings.qos == Qos::AtMostOnce || self.settings.at_stop == AtStop::Leave {
            self.leave_topics().await;
        }
        if self.settings.qos != Qos::AtMostOnce {
            // Not begun, and not acknowledged: it comes again.
            self.waiting.messages.clear();
        }
        // A refusal is final from here on: there is no later.
        self.window.close();
        loop {
            self.fill_window();
            if self.window.in_flight() == 0 {
                break;
            }
            tokio::select! {
                biased;
                Some(resolved) = self.window.next() => self.settle(resolved),
                // Read on, or acknowledgements would wait behind what is not read. Messages are passed over.
                () = passed_over(&mut self.client) => {}
            }
        }
        if let Some((client, _)) = &self.client {
            client.disconnect();
            let said_good_bye = async {
                while self.client.is_some() {
                    passed_over(&mut self.client).await
                }
            };
            let _ = tokio::time::timeout(self.settings.connect_timeout, said_good_bye).await;
        }
    }

    /// Ends all subscriptions, and takes what still comes until the server has done so.
    async fn leave_topics(&mut self) {
        self.ask_for(&BTreeSet::new());
        while !self.asking.is_empty() {
            self.fill_window();
            let reads = self.reads();
            let Some((client, _)) = &mut self.client else { return };
            tokio::select! {
                biased;
                Some(asked) = self.asking.next() => {
                    if let Asked::Ended { filter } = asked {
                        self.subscriptions.ended(&filter);
                    }
                }
                Some(resolved) = self.window.next(), if self.window.in_flight() > 0 => self.settle(resolved),
                incoming = client.next(), if reads => {
                    if let Some(ending) = self.hear(incoming) {
                        return self.lost(ending, 0);
                    }
                }
            }
        }
    }
}

/// Reads one thing and forgets it; the connection with it, when that was its end. Never done without a connection.
async fn passed_over(client: &mut Option<(Client, Greeting)>) {
    match client {
        None => std::future::pending().await,
        Some((connection, _)) => {
            if let Incoming::Ended(_) = connection.next().await {
                *client = None;
            }
        }
    }
}

/// Waits for a moment; for ever where there is none.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Messages that wait for the window, in the order in which they came.
struct Waiting {
    limits: WindowLimits,
    messages: VecDeque<(Option<Receipt>, Box<Message>)>,
    bytes: u64,
}

impl Waiting {
    fn new(limits: WindowLimits) -> Self {
        Waiting { limits, messages: VecDeque::new(), bytes: 0 }
    }

    /// `false` when it is to keep its bounds and there is no room: the message is dropped.
    fn push(&mut self, (receipt, message): (Option<Receipt>, Box<Message>), bounded: bool) -> bool {
        let weight = message.weight() as u64;
        let room = self.messages.len() < self.limits.messages.get()
            && (self.messages.is_empty() || self.bytes + weight <= self.limits.bytes.bytes());
        if room || !bounded {
            self.bytes += weight;
            self.messages.push_back((receipt, message));
        }
        room || !bounded
    }

    fn first_weight(&self) -> Option<usize> {
        self.messages.front().map(|(_, message)| message.weight())
    }

    fn pop(&mut self) -> Option<(Option<Receipt>, Box<Message>)> {
        let (receipt, message) = self.messages.pop_front()?;
        self.bytes -= message.weight() as u64;
        Some((receipt, message))
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use connectors_sdk::ByteSize;

    use super::*;

    fn message(bytes: usize) -> (Option<Receipt>, Box<Message>) {
        (None, Box::new(Message { payload: vec![0; bytes].into(), ..Message::default() }))
    }

    #[test]
    fn what_waits_is_bounded_where_nobody_else_can_keep_it() {
        let messages = NonZeroUsize::new(2).unwrap();
        let mut waiting = Waiting::new(WindowLimits { messages, bytes: ByteSize::from_bytes(100) });

        assert!(waiting.push(message(1_000), true), "alone, anything may wait");
        assert!(!waiting.push(message(1), true));
        assert!(waiting.push(message(1), false), "it is not acknowledged");
        assert_eq!(waiting.first_weight(), Some(1_000));
        waiting.pop();
        waiting.pop();
        assert_eq!(waiting.bytes, 0);
    }
}
