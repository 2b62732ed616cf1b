//! Many messages on their way into custody at once.
//!
//! One message at a time would run at the rate of single syncs; a window keeps many in flight and tells the source, as
//! receipts come, which of them the upstream may forget.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;

use broker_model::intake::{Lost, Quarantined};
use broker_model::{Backoff, Event, EventSink, Jitter, Receipt, Refusal, Retry};

use crate::dead_letter::dead_letter;
use crate::health::Health;
use crate::source::SourceContext;
use crate::tracker::{Order, Ticket, Tracker, WindowLimits};

/// What a message came to. `token` is what the source gave with it: a delivery tag, an offset, nothing.
#[derive(Debug)]
pub enum Resolved<A> {
    /// It is in the broker's custody: the upstream may forget it.
    Taken {
        /// The source's own.
        token: A,
        /// The broker's word.
        receipt: Receipt,
    },
    /// It was not taken: give it back to the upstream, which should not offer it again before `after`.
    GiveBack {
        /// The source's own.
        token: A,
        /// The wait.
        after: Duration,
        /// The broker's word.
        refusal: Refusal,
    },
    /// It will never be taken, however often it is offered, and not even as a dead letter.
    Never {
        /// The source's own.
        token: A,
        /// The broker's word.
        refusal: Refusal,
    },
}

/// Publishes concurrently, within bounds, and resolves as receipts come: in any order, or up to what is contiguous.
///
/// Publishing goes on only while [`AckWindow::next`] is awaited; await it in the same `select!` as the upstream. Dropped,
/// it drops what is in flight: each of those was accepted whole or not at all, and none was acknowledged.
pub struct AckWindow<A> {
    events: Arc<dyn EventSink>,
    health: Health,
    tracker: Tracker<Settled<A>>,
    publishing: FuturesUnordered<BoxFuture<'static, (Ticket, Settled<A>)>>,
    resolved: VecDeque<Settled<A>>,
    /// Each lane in use, with what ends it.
    lanes: HashMap<u64, CancellationToken>,
    on_refusal: OnRefusal,
    refused_in_a_row: u32,
    closing: CancellationToken,
}

/// What a message came to, unless its lane was abandoned meanwhile.
#[derive(Debug)]
struct Settled<A> {
    lane: CancellationToken,
    resolved: Option<Resolved<A>>,
}

/// What to do with a refused message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnRefusal {
    /// The upstream takes it back and offers it again.
    GiveBack,
    /// The upstream cannot: it stays in the window, which fills and so pushes back, and is tried again.
    Hold,
}

/// How a refused message waits.
const AGAIN: Backoff =
    Backoff { min: Duration::from_millis(100), max: Duration::from_secs(5), jitter: Jitter::Equal };

impl<A: Send + 'static> AckWindow<A> {
    /// For upstreams that acknowledge each message by itself and take one back: a refused message is given back.
    pub fn unordered(ctx: &SourceContext, limits: WindowLimits) -> Self {
        Self::new(ctx, Order::Any, OnRefusal::GiveBack, limits)
    }

    /// For upstreams that acknowledge up to a position: a message resolves once all before it on its lane are settled, and
    /// a refused one is held and tried again, because nothing behind it could be acknowledged anyway.
    pub fn ordered(ctx: &SourceContext, limits: WindowLimits) -> Self {
        Self::new(ctx, Order::InLane, OnRefusal::Hold, limits)
    }

    /// Holds refused messages instead of giving them back, for upstreams that cannot take one back.
    #[must_use]
    pub fn holding(mut self) -> Self {
        self.on_refusal = OnRefusal::Hold;
        self
    }

    fn new(ctx: &SourceContext, order: Order, on_refusal: OnRefusal, limits: WindowLimits) -> Self {
        AckWindow {
            events: ctx.events.clone(),
            health: ctx.health.clone(),
            tracker: Tracker::new(order, limits),
            publishing: FuturesUnordered::new(),
            resolved: VecDeque::new(),
            lanes: HashMap::new(),
            on_refusal,
            refused_in_a_row: 0,
            closing: CancellationToken::new(),
        }
    }

    /// Whether a message of so many bytes may be published now. At `false`, stop reading from the upstream.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.tracker.has_room(bytes as u64)
    }

    /// How many more messages may be published now, whatever their size; for upstreams that are asked for so many.
    pub fn room(&self) -> usize {
        if self.has_room(0) { self.tracker.limits().messages.get() - self.tracker.messages() } else { 0 }
    }

    /// Messages in flight, those included that are settled and wait for others before them, and those that
    /// [`AckWindow::next`] has still to give.
    pub fn in_flight(&self) -> usize {
        self.tracker.messages() + self.resolved.len()
    }

    /// Begins to publish an event. `token` comes back when it resolves.
    ///
    /// An event that the broker will never take (it is too large, or its id was another's) becomes a dead letter in its
    /// place, and is taken as such: it cannot run, and must not be lost either.
    pub fn publish(&mut self, event: Event, token: A) {
        self.publish_on(0, event, token);
    }

    /// As [`AckWindow::publish`], on a lane (a partition) of its own. Lanes mean nothing to an unordered window.
    pub fn publish_on(&mut self, lane: u64, event: Event, token: A) {
        self.begin(lane, weight(&event), Message::Event(Box::new(event)), token);
    }

    /// Begins to put a message into custody that could not be read.
    pub fn quarantine(&mut self, message: Quarantined, token: A) {
        self.quarantine_on(0, message, token);
    }

    /// As [`AckWindow::quarantine`], on a lane of its own.
    pub fn quarantine_on(&mut self, lane: u64, message: Quarantined, token: A) {
        let weight = message.raw.len() + message.headers.bytes();
        self.begin(lane, weight, Message::Unreadable(Box::new(message)), token);
    }

    /// Begins to record messages that the upstream discarded, in their place among the others of the lane.
    pub fn lost_on(&mut self, lane: u64, range: Lost, token: A) {
        self.begin(lane, 0, Message::Lost(Box::new(range)), token);
    }

    /// Lets go of everything in flight on a lane that is no longer ours (a partition given to another replica): what is
    /// being published is dropped, and nothing of it resolves. Use another number for the lane when it comes back, because
    /// what is on its way to being dropped may still be counted under the old one.
    pub fn abandon(&mut self, lane: u64) {
        if let Some(lane) = self.lanes.remove(&lane) {
            lane.cancel();
        }
    }

    /// Waits for the next message to resolve; `None` when nothing is in flight. Safe to cancel.
    pub async fn next(&mut self) -> Option<Resolved<A>> {
        loop {
            while let Some(settled) = self.resolved.pop_front() {
                match settled.resolved.filter(|_| !settled.lane.is_cancelled()) {
                    Some(resolved) => return Some(self.counted(resolved)),
                    None => self.health.refused(1),
                }
            }
            let (ticket, settled) = self.publishing.next().await?;
            self.resolved.extend(self.tracker.settle(ticket, settled));
        }
    }

    /// Ends the waits of held messages: from here on a refused one is given back at once. What is being published goes on.
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.closing.is_cancelled()
    }

    fn begin(&mut self, lane: u64, weight: usize, message: Message, token: A) {
        if !matches!(message, Message::Lost(_)) {
            self.health.received(1);
        }
        let abandoned = self.lanes.entry(lane).or_default().clone();
        let ticket = self.tracker.begin(lane, weight as u64);
        let events = self.events.clone();
        let on_refusal = self.on_refusal;
        let closing = self.closing.clone();
        self.publishing.push(Box::pin(async move {
            let outcome = tokio::select! {
                biased;
                outcome = offer(&*events, message, on_refusal, &closing) => outcome,
                () = abandoned.cancelled() => return (ticket, Settled { lane: abandoned, resolved: None }),
            };
            let resolved = match outcome {
                Ok(receipt) => Resolved::Taken { token, receipt },
                Err(refusal) => match refusal.retry() {
                    Retry::Never => Resolved::Never { token, refusal },
                    Retry::Soon => Resolved::GiveBack { token, after: Duration::ZERO, refusal },
                    Retry::After(after) => Resolved::GiveBack { token, after, refusal },
                },
            };
            (ticket, Settled { lane: abandoned, resolved: Some(resolved) })
        }));
    }

    /// Counts what becomes of a message, and makes the wait longer the longer nothing is taken.
    fn counted(&mut self, mut resolved: Resolved<A>) -> Resolved<A> {
        match &mut resolved {
            Resolved::Taken { .. } => self.refused_in_a_row = 0,
            Resolved::GiveBack { after, .. } => {
                self.health.refused(1);
                self.refused_in_a_row = self.refused_in_a_row.saturating_add(1);
                *after = AGAIN.wait(self.refused_in_a_row, rand::random()).max(*after);
            }
            Resolved::Never { .. } => self.health.refused(1),
        }
        resolved
    }
}

/// What is on its way. Boxed, because the future that carries it is moved.
enum Message {
    Event(Box<Event>),
    Unreadable(Box<Quarantined>),
    Lost(Box<Lost>),
}

/// Offers a message until it is taken, will never be, or is to be given back.
async fn offer(
    events: &dyn EventSink,
    mut message: Message,
    on_refusal: OnRefusal,
    closing: &CancellationToken,
) -> Result<Receipt, Refusal> {
    let mut refusals = 0;
    loop {
        let answer = match &message {
            Message::Event(event) => events.publish(event).await,
            Message::Unreadable(message) => events.quarantine(message).await,
            Message::Lost(range) => events.lost(range).await,
        };
        let refusal = match answer {
            Ok(receipt) => return Ok(receipt),
            Err(refusal) => refusal,
        };
        let at_least = match refusal.retry() {
            Retry::Never => {
                let Message::Event(event) = message else { return Err(refusal) };
                message = Message::Unreadable(Box::new(dead_letter(*event, &refusal)));
                continue;
            }
            Retry::Soon => Duration::ZERO,
            Retry::After(wait) => wait,
        };
        if on_refusal == OnRefusal::GiveBack {
            return Err(refusal);
        }
        refusals += 1;
        let wait = AGAIN.wait(refusals, rand::random()).max(at_least);
        tokio::select! {
            biased;
            () = closing.cancelled() => return Err(refusal),
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// What an event weighs against the window's bound on bytes.
fn weight(event: &Event) -> usize {
    event.body.len() + event.headers.bytes() + event.topic.as_str().len()
}

#[cfg(test)]
mod tests;
