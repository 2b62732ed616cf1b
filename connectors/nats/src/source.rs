//! The loop: messages in, events out, nothing held without a bound.

use std::collections::{BTreeSet, VecDeque};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use async_nats::{Client, Message, Subscriber};
use async_trait::async_trait;
use futures::stream::SelectAll;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use connectors_sdk::source::Cause;
use connectors_sdk::{
    AckWindow, Capabilities, Following, Resolved, Source, SourceContext, SourceError, SourceName, Wildcards,
    WindowLimits,
};

use crate::connect::connect;
use crate::event::event_from;
use crate::settings::NatsSettings;

/// One configured NATS source.
pub(crate) struct NatsSource {
    name: SourceName,
    settings: NatsSettings,
}

impl NatsSource {
    pub(crate) fn new(name: SourceName, settings: NatsSettings) -> Self {
        NatsSource { name, settings }
    }
}

#[async_trait]
impl Source for NatsSource {
    fn capabilities(&self) -> Capabilities {
        Capabilities { shares: true, ..Capabilities::NONE }
    }

    async fn run(self: Box<Self>, ctx: SourceContext) -> Result<(), SourceError> {
        let (client, told) = tokio::select! {
            biased;
            () = ctx.shutdown.cancelled() => return Ok(()),
            connected = connect(&self.name, &self.settings, &ctx.health) => connected?,
        };
        let window = AckWindow::unordered(&ctx, self.settings.common.in_flight).holding();
        let mut session = Session {
            waiting: Waiting::new(self.settings.waiting),
            following: self.settings.common.follow(&ctx),
            source: *self,
            ctx,
            client,
            told,
            window,
            subscriptions: SelectAll::new(),
            subscribed: BTreeSet::new(),
            last_word: None,
        };
        session.run().await
    }
}

/// One connection's life.
struct Session {
    source: NatsSource,
    ctx: SourceContext,
    client: Client,
    /// What the client says about the connection.
    told: mpsc::Receiver<async_nats::Event>,
    subscriptions: SelectAll<Subscription>,
    following: Following,
    /// The subjects asked for now; subscriptions that end are not among them.
    subscribed: BTreeSet<String>,
    /// Received, and not in the window yet.
    waiting: Waiting,
    window: AckWindow<()>,
    /// The client's last complaint, for the error when it gives up.
    last_word: Option<String>,
}

/// Why the loop was left.
enum Exit {
    Stop,
    Error(SourceError),
}

impl Session {
    async fn run(&mut self) -> Result<(), SourceError> {
        let exit = match self.listen().await {
            Ok(()) => {
                self.ctx.health.connected();
                info!(source = %self.source.name, "source {} is connected", self.source.name);
                self.receive().await
            }
            Err(exit) => exit,
        };
        // What was received is nowhere else any more: it is handed over before anything else, also after an error.
        match exit {
            Exit::Stop => {
                self.leave().await;
                self.hand_over().await;
                Ok(())
            }
            Exit::Error(error) => {
                self.ctx.health.disconnected(&error);
                self.subscriptions.clear();
                self.hand_over().await;
                if self.ctx.shutdown.is_cancelled() { Ok(()) } else { Err(error) }
            }
        }
    }

    async fn receive(&mut self) -> Exit {
        loop {
            self.fill_window();
            tokio::select! {
                biased;
                () = self.ctx.shutdown.cancelled() => return Exit::Stop,
                told = self.told.recv() => match told {
                    Some(event) => self.hear(event),
                    None => return Exit::Error(self.lost()),
                },
                _ = self.following.changed() => if let Err(exit) = self.listen().await { return exit },
                Some(resolved) = self.window.next(), if self.window.in_flight() > 0 => self.settle(resolved),
                Some(pulled) = self.subscriptions.next(), if !self.subscriptions.is_empty() => {
                    if let Err(error) = self.pull(pulled) {
                        return Exit::Error(error);
                    }
                }
            }
        }
    }

    /// Subscribes to what is wanted and not subscribed to, then leaves what is no longer wanted.
    async fn listen(&mut self) -> Result<(), Exit> {
        let shutdown = self.ctx.shutdown.clone();
        tokio::select! {
            biased;
            () = shutdown.cancelled() => Err(Exit::Stop),
            done = self.subscribe() => done.map_err(Exit::Error),
        }
    }

    async fn subscribe(&mut self) -> Result<(), SourceError> {
        // Overlapping subjects are all asked for: they share one queue group, and a server hands a message to one member of
        // a group, whatever its subject. None comes twice, on this replica or another.
        let wanted = self.following.now().on_the_wire(Wildcards::Nats);
        for subject in wanted.difference(&self.subscribed.clone()) {
            let group = self.source.settings.queue_group.clone();
            let subscriber = self
                .client
                .queue_subscribe(subject.clone(), group)
                .await
                .map_err(|cause| self.broken(cause))?;
            self.subscriptions.push(Subscription {
                subject: subject.clone(),
                subscriber,
                leaving: false,
                ended: false,
            });
            debug!(source = %self.source.name, %subject, "subscribed to {subject}");
        }
        for subscription in self.subscriptions.iter_mut() {
            if !subscription.leaving && !wanted.contains(&subscription.subject) {
                subscription.leaving = true;
                // What the server has sent already still comes, and ends the subscription's stream.
                if let Err(cause) = subscription.subscriber.drain().await {
                    return Err(SourceError::Lost {
                        upstream: self.source.settings.upstream(),
                        cause: Some(cause.into()),
                    });
                }
                debug!(source = %self.source.name, subject = %subscription.subject, "left {}", subscription.subject);
            }
        }
        self.ctx.health.subscribed(wanted.iter().cloned().collect());
        self.subscribed = wanted;
        Ok(())
    }

    /// What the client says about the connection.
    fn hear(&mut self, event: async_nats::Event) {
        use async_nats::Event;
        let health = &self.ctx.health;
        match event {
            Event::Connected => health.connected(),
            Event::Disconnected => {
                warn!(source = %self.source.name, "source {} lost its connection", self.source.name);
                health.disconnected("the connection broke");
            }
            Event::ServerError(error) => {
                warn!(source = %self.source.name, %error, "the server complains to source {}", self.source.name);
                health.problem(&error);
                self.last_word = Some(error.to_string());
            }
            Event::ClientError(error) => {
                health.problem(&error);
                // That it gave up says less than why.
                if !matches!(error, async_nats::ClientError::MaxReconnects) {
                    self.last_word = Some(error.to_string());
                }
            }
            Event::LameDuckMode => info!(source = %self.source.name, "the server is about to leave"),
            Event::SlowConsumer(_) | Event::Draining | Event::Closed => {}
        }
    }

    fn pull(&mut self, pulled: Pulled) -> Result<(), SourceError> {
        match pulled {
            Pulled::Message(message) => {
                if !self.waiting.push(message) {
                    // Never handed to the window, so counted here; newest first, as the client itself would drop.
                    self.ctx.health.received(1);
                    self.ctx.health.dropped(1);
                }
                Ok(())
            }
            Pulled::Ended { leaving: true } => Ok(()),
            Pulled::Ended { leaving: false } => Err(self.lost()),
        }
    }

    fn fill_window(&mut self) {
        while let Some(weight) = self.waiting.first_weight()
            && self.window.has_room(weight)
            && let Some(message) = self.waiting.pop()
        {
            match event_from(&self.source.settings.common.form, message) {
                Ok(event) => self.window.publish(event, ()),
                Err(unreadable) => self.window.quarantine(*unreadable, ()),
            }
        }
    }

    fn settle(&mut self, resolved: Resolved<()>) {
        match resolved {
            Resolved::Taken { .. } => {}
            // There is nobody to give it back to.
            Resolved::GiveBack { refusal, .. } | Resolved::Never { refusal, .. } => {
                self.ctx.health.dropped(1);
                self.ctx.health.problem(format!("a message was not taken: {refusal}"));
                warn!(source = %self.source.name, %refusal, "a message from NATS was not taken and is lost");
            }
        }
    }

    /// Tells the server to send no more, and takes what it has sent.
    async fn leave(&mut self) {
        if self.client.connection_state() == async_nats::connection::State::Connected
            && self.client.drain().await.is_ok()
        {
            while let Some(pulled) = self.subscriptions.next().await {
                // Every subscription ends now, and that is as it should be.
                if let Pulled::Message(message) = pulled {
                    let _ = self.pull(Pulled::Message(message));
                }
                self.fill_window();
            }
        }
        self.subscriptions.clear();
    }

    /// Waits until everything received is taken. When told to stop, a refusal is final: there is no later.
    async fn hand_over(&mut self) {
        loop {
            self.fill_window();
            if self.window.in_flight() == 0 {
                return;
            }
            tokio::select! {
                biased;
                Some(resolved) = self.window.next() => self.settle(resolved),
                () = self.ctx.shutdown.cancelled(), if !self.window.is_closed() => self.window.close(),
            }
        }
    }

    fn lost(&mut self) -> SourceError {
        let cause = self.last_word.take().map(Cause::from);
        SourceError::Lost { upstream: self.source.settings.upstream(), cause }
    }

    fn broken(&self, cause: impl Into<Cause>) -> SourceError {
        SourceError::Lost { upstream: self.source.settings.upstream(), cause: Some(cause.into()) }
    }
}

impl Drop for Session {
    /// Cut off in the middle: what only waited is certainly lost, of what is in the window nobody can know.
    fn drop(&mut self) {
        let lost = self.waiting.messages.len() as u64;
        if lost > 0 {
            self.ctx.health.received(lost);
            self.ctx.health.dropped(lost);
        }
    }
}

/// One subscription as a stream that says how it ended.
struct Subscription {
    subject: String,
    subscriber: Subscriber,
    leaving: bool,
    ended: bool,
}

enum Pulled {
    Message(Message),
    Ended { leaving: bool },
}

impl Stream for Subscription {
    type Item = Pulled;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Pulled>> {
        if self.ended {
            return Poll::Ready(None);
        }
        match ready!(self.subscriber.poll_next_unpin(cx)) {
            Some(message) => Poll::Ready(Some(Pulled::Message(message))),
            None => {
                self.ended = true;
                Poll::Ready(Some(Pulled::Ended { leaving: self.leaving }))
            }
        }
    }
}

/// Messages that wait for the window, in the order in which they came, within bounds.
///
/// The client drops what its own queue cannot hold, without a word about how much memory that queue may take; so it is
/// emptied at once, into this.
struct Waiting {
    limits: WindowLimits,
    messages: VecDeque<Message>,
    bytes: u64,
}

impl Waiting {
    fn new(limits: WindowLimits) -> Self {
        Waiting { limits, messages: VecDeque::new(), bytes: 0 }
    }

    /// `false` when there is no room: the message is dropped.
    fn push(&mut self, message: Message) -> bool {
        let weight = message.length as u64;
        let room = self.messages.len() < self.limits.messages.get()
            && (self.messages.is_empty() || self.bytes + weight <= self.limits.bytes.bytes());
        if room {
            self.bytes += weight;
            self.messages.push_back(message);
        }
        room
    }

    fn first_weight(&self) -> Option<usize> {
        self.messages.front().map(|message| message.length)
    }

    fn pop(&mut self) -> Option<Message> {
        let message = self.messages.pop_front()?;
        self.bytes -= message.length as u64;
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use connectors_sdk::ByteSize;

    use super::*;

    fn message(length: usize) -> Message {
        let mut message: Message =
            serde_json::from_str(include_str!("../tests/captures/plain.json")).unwrap();
        message.length = length;
        message
    }

    #[test]
    fn what_waits_is_bounded_by_number_and_by_bytes() {
        let messages = NonZeroUsize::new(3).unwrap();
        let mut waiting = Waiting::new(WindowLimits { messages, bytes: ByteSize::from_bytes(100) });

        assert!(waiting.push(message(1_000)), "alone, anything may wait");
        assert!(!waiting.push(message(1)));
        assert_eq!(waiting.pop().map(|m| m.length), Some(1_000));
        assert!(waiting.push(message(60)));
        assert!(!waiting.push(message(41)));
        assert!(waiting.push(message(40)));
        waiting.pop();
        assert!(waiting.push(message(1)) && waiting.push(message(1)));
        assert!(!waiting.push(message(1)), "three wait");
        assert_eq!(waiting.bytes, 42);
    }
}
