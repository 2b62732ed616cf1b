//! What SQS is still to be told of the messages of one queue, in batches.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use connectors_sdk::Retries;

use crate::hold::Serial;
use crate::names::Queue;
use crate::settings::Seconds;

/// The most entries of one request.
const BATCH: usize = 10;

/// The most requests of one kind on their way for one queue.
const REQUESTS: usize = 8;

/// A message to be hidden for so long from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hide {
    pub(crate) serial: Serial,
    pub(crate) time: Seconds,
    /// It goes back, and is ours no longer; else it is renewed.
    pub(crate) goes_back: bool,
}

/// What is to be told about one queue's messages.
#[derive(Debug)]
pub(crate) struct Outbox {
    pub(crate) queue: Arc<Queue>,
    /// Messages to be deleted.
    pub(crate) deletes: Batches<Serial>,
    /// Messages to be hidden for another time: renewed, or given back.
    pub(crate) times: Batches<Hide>,
    retries: Retries,
    rests_until: Instant,
}

impl Outbox {
    /// Nothing is to be told.
    pub(crate) fn new(queue: Arc<Queue>, now: Instant) -> Self {
        let (deletes, times) = (Batches::default(), Batches::default());
        Outbox { queue, deletes, times, retries: Retries::asking(), rests_until: now }
    }

    /// Whether everything is told, and answered.
    pub(crate) fn is_empty(&self) -> bool {
        self.deletes.is_empty() && self.times.is_empty()
    }

    /// Whether something may be told now.
    pub(crate) fn is_open(&self, now: Instant) -> bool {
        self.rests_until <= now
    }

    /// When something may be told again that waits for it.
    pub(crate) fn opens(&self, now: Instant) -> Option<Instant> {
        let waits = !self.is_open(now) && (self.deletes.waits() || self.times.waits());
        waits.then_some(self.rests_until)
    }

    /// An answer came.
    pub(crate) fn answered(&mut self) {
        self.retries.answered();
    }

    /// It came to nothing: the next waits. Answers how long.
    pub(crate) fn failed(&mut self, now: Instant) -> Duration {
        let wait = self.retries.failed();
        self.rests_until = self.rests_until.max(now + wait);
        wait
    }

    /// The way is whole again.
    pub(crate) fn reopen(&mut self, now: Instant) {
        self.rests_until = now;
    }
}

/// Things to be told in batches: a few at once when nothing else is on its way, many when there are many.
#[derive(Debug)]
pub(crate) struct Batches<T> {
    waiting: VecDeque<T>,
    requests: usize,
}

impl<T> Default for Batches<T> {
    fn default() -> Self {
        Batches { waiting: VecDeque::new(), requests: 0 }
    }
}

impl<T> Batches<T> {
    /// This is to be told.
    pub(crate) fn push(&mut self, thing: T) {
        self.waiting.push_back(thing);
    }

    /// The next batch, if there is to be one. It is on its way then, until [`Batches::returned`].
    pub(crate) fn begin(&mut self) -> Option<Vec<T>> {
        let worth = !self.waiting.is_empty() && (self.requests == 0 || self.waiting.len() >= BATCH);
        (worth && self.requests < REQUESTS).then(|| {
            self.requests += 1;
            self.waiting.drain(..BATCH.min(self.waiting.len())).collect()
        })
    }

    /// One that was on its way is answered, or failed.
    pub(crate) fn returned(&mut self) {
        self.requests -= 1;
    }

    /// Whether something is to be told.
    pub(crate) fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether nothing is to be told or on its way.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.requests == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_alone_goes_at_once_and_those_that_come_meanwhile_go_together() {
        let mut batches = Batches::default();
        batches.push(0);
        assert_eq!(batches.begin(), Some(vec![0]));
        (1..=9).for_each(|n| batches.push(n));
        assert_eq!(batches.begin(), None, "one is on its way");
        batches.push(10);
        assert_eq!(batches.begin(), Some((1..=10).collect()), "a whole batch does not wait");

        batches.push(11);
        batches.returned();
        assert_eq!(batches.begin(), None);
        batches.returned();
        assert_eq!(batches.begin(), Some(vec![11]));
        batches.returned();
        assert!(batches.is_empty());
    }

    #[test]
    fn requests_on_their_way_are_bounded() {
        let mut batches = Batches::default();
        (0..1_000).for_each(|n| batches.push(n));

        assert_eq!(std::iter::from_fn(|| batches.begin()).count(), REQUESTS);
        assert!(batches.waits());
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_failure_what_is_left_waits_longer_each_time() {
        let now = Instant::now();
        let queue = Arc::new(Queue::at("http://h/0/q").unwrap());
        let mut outbox = Outbox::new(queue, now);
        outbox.deletes.push(1);
        assert!(outbox.is_open(now) && outbox.opens(now).is_none());

        let waits: Vec<Duration> = (0..10).map(|_| outbox.failed(now)).collect();
        assert!(waits[9] > Duration::from_secs(2) && waits[9] <= Duration::from_secs(5));
        assert_eq!(outbox.opens(now), waits.iter().max().map(|longest| now + *longest));
        outbox.reopen(now);
        assert!(outbox.is_open(now));
    }
}
