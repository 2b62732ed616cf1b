//! What is asked of one queue.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::{Stream, StreamExt};
use lapin::message::Delivery;
use lapin::options::{
    BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Consumer, ErrorKind};

use crate::connect::Wire;
use crate::declaration::Declaration;

/// What to do with a queue once there is a channel for it.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) queue: Arc<str>,
    /// Make it first, and its bindings.
    pub(crate) declaration: Option<Declaration>,
    /// Take messages from it, so many at once.
    pub(crate) prefetch: Option<u16>,
}

/// A queue as it was found.
pub(crate) struct Opened {
    pub(crate) channel: Channel,
    /// Where messages were asked for, and how many at once.
    pub(crate) consumer: Option<(Consumer, u16)>,
    /// The messages in it that nobody has yet.
    pub(crate) depth: u32,
}

/// Opens a channel of the queue's own, because whatever is wrong with a queue closes the channel it was said on.
pub(crate) async fn open(wire: &Wire, plan: Plan) -> lapin::Result<Opened> {
    let channel = wire.channel().await?;
    let depth = match &plan.declaration {
        None => depth(&channel, &plan.queue).await?,
        Some(declaration) => declare(&channel, &plan.queue, declaration).await?,
    };
    let consumer = match plan.prefetch {
        Some(prefetch) => Some((consume(&channel, &plan.queue, prefetch).await?, prefetch)),
        None => None,
    };
    Ok(Opened { channel, consumer, depth })
}

/// Makes the queue, or finds it as it would be made, and binds it.
async fn declare(channel: &Channel, queue: &str, declaration: &Declaration) -> lapin::Result<u32> {
    let made =
        channel.queue_declare(queue.into(), declaration.options(), declaration.arguments.clone()).await?;
    for (exchange, pattern) in &declaration.bindings {
        let options = QueueBindOptions::default();
        let (exchange, pattern) = (exchange.as_str().into(), pattern.as_str().into());
        channel.queue_bind(queue.into(), exchange, pattern, options, FieldTable::default()).await?;
    }
    Ok(made.message_count())
}

/// The messages in a queue that nobody has yet; an error where there is no such queue.
pub(crate) async fn depth(channel: &Channel, queue: &str) -> lapin::Result<u32> {
    let look = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    Ok(channel.queue_declare(queue.into(), look, FieldTable::default()).await?.message_count())
}

/// Asks for messages.
pub(crate) async fn consume(channel: &Channel, queue: &str, prefetch: u16) -> lapin::Result<Consumer> {
    // For the consumers made after it on this channel, each by itself: what quorum queues know as well.
    channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    // The server finds a name for the consumer.
    channel.basic_consume(queue.into(), ShortString::default(), options, FieldTable::default()).await
}

/// Asks for no more messages. Those that were sent by then still come.
pub(crate) async fn cancel(channel: &Channel, consumer: ShortString) -> lapin::Result<()> {
    channel.basic_cancel(consumer, BasicCancelOptions::default()).await
}

/// The messages of one consumer, and how they ended.
pub(crate) struct Deliveries {
    /// Which life of the queue they belong to.
    pub(crate) life: u64,
    consumer: Consumer,
    ended: bool,
}

/// What a consumer gives.
pub(crate) enum Pulled {
    /// A message.
    Message(Box<Delivery>),
    /// No more: we said so, the server did, or something broke.
    End(Option<lapin::Error>),
}

impl Deliveries {
    pub(crate) fn new(life: u64, consumer: Consumer) -> Self {
        Deliveries { life, consumer, ended: false }
    }
}

impl Stream for Deliveries {
    type Item = (u64, Pulled);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let pulled = match ready!(self.consumer.poll_next_unpin(cx)) {
            Some(Ok(delivery)) => Pulled::Message(Box::new(delivery)),
            Some(Err(error)) => Pulled::End(Some(error)),
            None => Pulled::End(None),
        };
        self.ended = matches!(pulled, Pulled::End(_));
        Poll::Ready(Some((self.life, pulled)))
    }
}

/// What the server says, without the client's words around it.
pub(crate) fn said(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(error) => error.get_message().to_string(),
        _ => error.to_string(),
    }
}

/// What is wrong with which queues, in one line for people.
pub(crate) fn troubles<'a>(troubled: impl Iterator<Item = (&'a str, &'a str)>) -> Option<String> {
    /// Named with their trouble; the rest is counted.
    const NAMED: usize = 10;
    let all: Vec<String> = troubled.map(|(queue, trouble)| format!("{queue}: {trouble}")).collect();
    if all.is_empty() {
        return None;
    }
    let more = all.len().saturating_sub(NAMED);
    let named = all[..all.len() - more].join("; ");
    Some(if more == 0 { named } else { format!("{named}; and {more} more queues") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_queue_in_trouble_is_named_up_to_a_bound() {
        assert_eq!(troubles(std::iter::empty()), None);
        assert_eq!(
            troubles([("a", "not found"), ("b", "refused")].into_iter()).unwrap(),
            "a: not found; b: refused"
        );
        let many = troubles(std::iter::repeat_n(("q", "x"), 13)).unwrap();
        assert!(many.ends_with("q: x; and 3 more queues"), "{many}");
    }
}
