//! The messages that the server has handed to us and not heard of yet. Pure.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::Subject;
use tokio::time::Instant;

/// What is held, by a number of our own.
#[derive(Debug, Default)]
pub(crate) struct Held {
    messages: HashMap<u64, Message>,
    last: u64,
    bytes: u64,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Message {
    /// Where the server listens for what becomes of it.
    pub(crate) reply: Subject,
    bytes: u64,
    /// When the server last heard of it.
    heard: Instant,
}

impl Held {
    /// A message came.
    pub(crate) fn take(&mut self, reply: Subject, bytes: u64, now: Instant) -> u64 {
        self.last += 1;
        self.bytes += bytes;
        self.messages.insert(self.last, Message { reply, bytes, heard: now });
        self.last
    }

    /// It is settled.
    pub(crate) fn settle(&mut self, number: u64) -> Option<Message> {
        let message = self.messages.remove(&number)?;
        self.bytes -= message.bytes;
        Some(message)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Those of which the server has not heard for so long; it hears of them now.
    pub(crate) fn silent_for(&mut self, silence: Duration, now: Instant) -> Vec<Subject> {
        let silent =
            self.messages.values_mut().filter(|message| now.duration_since(message.heard) >= silence);
        silent
            .map(|message| {
                message.heard = now;
                message.reply.clone()
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_hears_of_what_is_held_for_long() {
        let (mut held, began) = (Held::default(), Instant::now());
        let second = Duration::from_secs(1);
        let early = held.take("early".into(), 100, began);
        held.take("late".into(), 10, began + second);
        assert_eq!((held.bytes(), held.silent_for(2 * second, began + second)), (110, vec![]));

        assert_eq!(held.silent_for(2 * second, began + 2 * second), ["early".into()]);
        assert_eq!(held.silent_for(2 * second, began + 3 * second), ["late".into()]);
        assert_eq!(held.settle(early).unwrap().reply, "early".into());
        assert!(held.settle(early).is_none());
        assert_eq!((held.bytes(), held.is_empty()), (10, false));
        assert_eq!(held.silent_for(second, began + 9 * second), ["late".into()]);
    }
}
