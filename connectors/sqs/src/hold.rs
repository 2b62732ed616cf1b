//! What is held: messages that SQS hides for us until we delete them or give them back, and the order among them.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::event::Received;
use crate::names::Queue;
use crate::settings::Seconds;

/// From its receipt on, a message is hidden no longer than this, however often that is renewed.
const LONGEST: Duration = Duration::from_hours(12);

/// The longest a message that is refused again and again stays hidden each time.
const LONGEST_WAIT: Duration = Duration::from_mins(5);

/// Names a held message as long as it is held. The same message received again is another.
pub(crate) type Serial = u64;

/// One message.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) queue: Arc<Queue>,
    pub(crate) message: Received,
    /// How many of its events are on their way into the broker.
    pub(crate) publishing: usize,
    /// One of them was refused: the wait that the broker asked for.
    pub(crate) give_back: Option<Duration>,
    received: Instant,
    /// When others may see it again.
    visible: Instant,
    /// When that is to be put off.
    due: Option<Instant>,
}

/// Where order is kept: a group of a FIFO queue.
type Lane = (Box<str>, String);

/// Everything that is held. Knows the time only as it is told.
#[derive(Debug)]
pub(crate) struct Hold {
    visibility: Seconds,
    held: HashMap<Serial, Held>,
    next: Serial,
    bytes: u64,
    /// What may be published now, in the order in which it came.
    ready: VecDeque<Serial>,
    /// For each group of which a message is ready or being published: those that must wait for it.
    behind: HashMap<Lane, VecDeque<Serial>>,
    dues: BTreeSet<(Instant, Serial)>,
}

impl Hold {
    /// Nothing is held.
    pub(crate) fn new(visibility: Seconds) -> Self {
        Hold {
            visibility,
            held: HashMap::new(),
            next: 0,
            bytes: 0,
            ready: VecDeque::new(),
            behind: HashMap::new(),
            dues: BTreeSet::new(),
        }
    }

    /// How many messages are held.
    pub(crate) fn messages(&self) -> usize {
        self.held.len()
    }

    /// What they weigh.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A held message.
    pub(crate) fn get(&self, serial: Serial) -> Option<&Held> {
        self.held.get(&serial)
    }

    /// The same, to say what became of it.
    pub(crate) fn get_mut(&mut self, serial: Serial) -> Option<&mut Held> {
        self.held.get_mut(&serial)
    }

    /// A message came in answer to a request made at `asked`: SQS hides it since some moment after that.
    pub(crate) fn take(
        &mut self,
        queue: Arc<Queue>,
        message: Received,
        asked: Instant,
        now: Instant,
    ) -> Serial {
        let serial = self.next;
        self.next += 1;
        self.bytes += message.weight();
        let lane = lane_of(&queue, &message);
        let due = now + self.visibility.duration() / 2;
        self.dues.insert((due, serial));
        let held = Held {
            queue,
            message,
            publishing: 0,
            give_back: None,
            received: asked,
            visible: now + self.visibility.duration(),
            due: Some(due),
        };
        self.held.insert(serial, held);
        match lane.and_then(|lane| self.behind.insert_or_get(lane)) {
            Some(behind) => behind.push_back(serial),
            None => self.ready.push_back(serial),
        }
        serial
    }

    /// The weight of what may be published next.
    pub(crate) fn first_weight(&self) -> Option<u64> {
        let first = self.ready.front()?;
        self.held.get(first).map(|held| held.message.weight())
    }

    /// What may be published next. What others may see again by now is let go of instead, and with it what is behind it: it
    /// comes again, in its order.
    pub(crate) fn pop_ready(&mut self, now: Instant) -> Option<Serial> {
        while let Some(serial) = self.ready.pop_front() {
            match self.held.get(&serial) {
                Some(held) if now < held.visible => return Some(serial),
                Some(_) => {
                    for late in self.with_those_behind(serial) {
                        self.forget(late);
                    }
                }
                None => {}
            }
        }
        None
    }

    /// The broker has it: what is behind it may follow. It is held until it is deleted.
    pub(crate) fn taken(&mut self, serial: Serial) {
        let Some(held) = self.held.get_mut(&serial) else { return };
        if let Some(due) = held.due.take() {
            self.dues.remove(&(due, serial));
        }
        let Some(lane) = lane_of(&held.queue, &held.message) else { return };
        if let Some(behind) = self.behind.get_mut(&lane) {
            match behind.pop_front() {
                Some(next) => self.ready.push_back(next),
                None => {
                    self.behind.remove(&lane);
                }
            }
        }
    }

    /// It goes back, and with it what is behind it, so that they come again in their order. Answers them in that order.
    pub(crate) fn give_back(&mut self, serial: Serial) -> Vec<Serial> {
        let all = self.with_those_behind(serial);
        for serial in &all {
            self.stop_renewing(*serial);
        }
        all
    }

    /// What waits to be published goes back, of all queues or of the one with this path.
    pub(crate) fn give_back_waiting(&mut self, path: Option<&str>) -> Vec<Serial> {
        let of_it = |held: &Held| path.is_none_or(|path| &*held.queue.path == path);
        let ready: Vec<Serial> = self.ready.iter().copied().collect();
        let mut all = Vec::new();
        for serial in ready {
            if self.held.get(&serial).is_some_and(of_it) {
                self.ready.retain(|other| *other != serial);
                all.extend(self.give_back(serial));
            }
        }
        // Those behind a message that is being published.
        for ((queue, _), behind) in &mut self.behind {
            if path.is_none_or(|path| **queue == *path) {
                all.extend(behind.drain(..));
            }
        }
        for serial in &all {
            self.stop_renewing(*serial);
        }
        all
    }

    /// It is deleted, given back, or visible to others.
    pub(crate) fn forget(&mut self, serial: Serial) {
        self.stop_renewing(serial);
        if let Some(held) = self.held.remove(&serial) {
            self.bytes -= held.message.weight();
        }
    }

    /// What is to be renewed by now, each with the time for which it is to be hidden then.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<(Serial, Seconds)> {
        let mut all = Vec::new();
        while let Some((due, serial)) = self.dues.first().copied()
            && due <= now
        {
            self.stop_renewing(serial);
            let visibility = self.visibility;
            let Some(held) = self.held.get(&serial) else { continue };
            if let Some(time) = within_the_longest(visibility, now.saturating_duration_since(held.received)) {
                self.renew_at(serial, now + visibility.duration() / 2);
                all.push((serial, time));
            }
        }
        all
    }

    /// When the next renewal is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.dues.first().map(|(due, _)| *due)
    }

    /// It is hidden for so long from the moment the request was made.
    pub(crate) fn renewed(&mut self, serial: Serial, asked: Instant, time: Seconds) {
        if let Some(held) = self.held.get_mut(&serial) {
            held.visible = asked + time.duration();
        }
    }

    /// The renewal did not come through: again at that time.
    pub(crate) fn renew_at(&mut self, serial: Serial, due: Instant) {
        self.stop_renewing(serial);
        if let Some(held) = self.held.get_mut(&serial) {
            held.due = Some(due);
            self.dues.insert((due, serial));
        }
    }

    /// SQS says that it is no longer hidden for us.
    pub(crate) fn lapsed(&mut self, serial: Serial, now: Instant) {
        self.stop_renewing(serial);
        if let Some(held) = self.held.get_mut(&serial) {
            held.visible = now;
        }
    }

    /// For how long a refused message is to be hidden: as long as the broker asked for, and longer the more often it was
    /// received, because a queue may give up on a message after a number of receipts.
    pub(crate) fn wait_of(&self, serial: Serial, after: Duration, now: Instant) -> Seconds {
        let Some(held) = self.held.get(&serial) else { return Seconds(0) };
        let again = held.message.receives.saturating_sub(1).min(16);
        let wait = after.max((Duration::from_secs(1) * (1 << again)).min(LONGEST_WAIT));
        within_the_longest(Seconds::up(wait), now.saturating_duration_since(held.received))
            .unwrap_or(Seconds(0))
    }

    fn stop_renewing(&mut self, serial: Serial) {
        if let Some(due) = self.held.get_mut(&serial).and_then(|held| held.due.take()) {
            self.dues.remove(&(due, serial));
        }
    }

    fn with_those_behind(&mut self, serial: Serial) -> Vec<Serial> {
        let lane = self.held.get(&serial).and_then(|held| lane_of(&held.queue, &held.message));
        let behind = lane.and_then(|lane| self.behind.remove(&lane));
        std::iter::once(serial).chain(behind.into_iter().flatten()).collect()
    }
}

/// `time`, or what is left of the longest; `None` when nothing is.
fn within_the_longest(time: Seconds, held_for: Duration) -> Option<Seconds> {
    let left = i32::try_from(LONGEST.saturating_sub(held_for).as_secs()).unwrap_or(i32::MAX);
    (left > 0).then(|| time.min(Seconds(left)))
}

fn lane_of(queue: &Queue, message: &Received) -> Option<Lane> {
    // Standard queues may have groups too, for fairness; they say nothing of order there.
    let group = message.group.as_ref().filter(|_| queue.fifo)?;
    Some((queue.path.clone(), group.clone()))
}

/// A map of lanes in which to be there means to be busy.
trait Lanes {
    /// What waits in a busy lane; a free one is busy from now on.
    fn insert_or_get(&mut self, lane: Lane) -> Option<&mut VecDeque<Serial>>;
}

impl Lanes for HashMap<Lane, VecDeque<Serial>> {
    fn insert_or_get(&mut self, lane: Lane) -> Option<&mut VecDeque<Serial>> {
        use std::collections::hash_map::Entry;
        match self.entry(lane) {
            Entry::Occupied(busy) => Some(busy.into_mut()),
            Entry::Vacant(free) => {
                free.insert(VecDeque::new());
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
