//! The bookkeeping of an acknowledgement window: what is in flight, and what may be acknowledged when.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroUsize;

use crate::byte_size::ByteSize;

/// In which order messages may be acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Each as soon as it is settled (SQS, AMQP, MQTT, JetStream).
    Any,
    /// Within a lane (a partition), only once all before it are settled too (Kafka).
    InLane,
}

/// The bounds of a window. Whatever is reached first closes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowLimits {
    /// The most messages in flight.
    pub messages: NonZeroUsize,
    /// The most bytes in flight. A single message larger than this goes alone.
    pub bytes: ByteSize,
}

impl Default for WindowLimits {
    fn default() -> Self {
        WindowLimits {
            messages: const { NonZeroUsize::new(1024).expect("1024 is not zero") },
            bytes: ByteSize::from_mebibytes(16),
        }
    }
}

/// A message in flight. Given back once, by [`Tracker::settle`].
#[derive(Debug)]
pub struct Ticket {
    lane: u64,
    serial: u64,
    weight: u64,
}

/// What is in flight. Knows nothing of time, tasks or the upstream.
///
/// In [`Order::InLane`] a settled message keeps its place, though not its bytes, until all before it are settled: the
/// bound on messages bounds what is remembered, too.
#[derive(Debug)]
pub struct Tracker<T> {
    order: Order,
    limits: WindowLimits,
    messages: usize,
    bytes: u64,
    lanes: HashMap<u64, LaneOfFlight<T>>,
}

#[derive(Debug)]
struct LaneOfFlight<T> {
    /// The serial number of the first entry.
    first: u64,
    entries: VecDeque<Option<T>>,
}

impl<T> Tracker<T> {
    /// Nothing in flight.
    pub fn new(order: Order, limits: WindowLimits) -> Self {
        Tracker { order, limits, messages: 0, bytes: 0, lanes: HashMap::new() }
    }

    /// Whether a message of `weight` bytes may begin.
    pub fn has_room(&self, weight: u64) -> bool {
        self.messages < self.limits.messages.get()
            && (self.messages == 0 || self.bytes.saturating_add(weight) <= self.limits.bytes.bytes())
    }

    /// Its bounds.
    pub fn limits(&self) -> WindowLimits {
        self.limits
    }

    /// How many messages are in flight.
    pub fn messages(&self) -> usize {
        self.messages
    }

    /// How many bytes are in flight.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A message begins its flight. Whether there is room is the caller's question to ask.
    pub fn begin(&mut self, lane: u64, weight: u64) -> Ticket {
        self.messages += 1;
        self.bytes += weight;
        let serial = match self.order {
            Order::Any => 0,
            Order::InLane => {
                let lane = self
                    .lanes
                    .entry(lane)
                    .or_insert_with(|| LaneOfFlight { first: 0, entries: VecDeque::new() });
                lane.entries.push_back(None);
                lane.first + lane.entries.len() as u64 - 1
            }
        };
        Ticket { lane, serial, weight }
    }

    /// A message is settled as `value`; answers what may be told to the upstream now, in the order of the beginnings.
    pub fn settle(&mut self, ticket: Ticket, value: T) -> Vec<T> {
        self.bytes -= ticket.weight;
        let released = match self.order {
            Order::Any => vec![value],
            Order::InLane => self.release(&ticket, value),
        };
        self.messages -= released.len();
        released
    }

    fn release(&mut self, ticket: &Ticket, value: T) -> Vec<T> {
        let Some(lane) = self.lanes.get_mut(&ticket.lane) else {
            debug_assert!(false, "a ticket's lane lives as long as the ticket");
            return vec![value];
        };
        let at = usize::try_from(ticket.serial - lane.first).unwrap_or(usize::MAX);
        if let Some(entry) = lane.entries.get_mut(at) {
            *entry = Some(value);
        }
        let mut released = Vec::new();
        while let Some(Some(_)) = lane.entries.front() {
            released.extend(lane.entries.pop_front().flatten());
            lane.first += 1;
        }
        if lane.entries.is_empty() {
            self.lanes.remove(&ticket.lane);
        }
        released
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits(messages: usize, bytes: u64) -> WindowLimits {
        WindowLimits { messages: NonZeroUsize::new(messages).unwrap(), bytes: ByteSize::from_bytes(bytes) }
    }

    #[test]
    fn a_hole_holds_back_what_follows_it() {
        let mut tracker = Tracker::new(Order::InLane, limits(8, 100));
        let [a, b, c] = [1, 1, 1].map(|weight| tracker.begin(7, weight));

        assert!(tracker.settle(b, "b").is_empty());
        assert!(tracker.settle(c, "c").is_empty());
        assert_eq!((tracker.messages(), tracker.bytes()), (3, 1));
        assert_eq!(tracker.settle(a, "a"), ["a", "b", "c"]);
        assert_eq!((tracker.messages(), tracker.bytes()), (0, 0));
    }

    #[test]
    fn lanes_do_not_wait_for_each_other() {
        let mut tracker = Tracker::new(Order::InLane, limits(8, 100));
        let _stuck = tracker.begin(1, 1);
        let other = tracker.begin(2, 1);

        assert_eq!(tracker.settle(other, "other"), ["other"]);
    }

    #[test]
    fn either_bound_closes_the_window_and_a_giant_goes_alone() {
        let mut tracker = Tracker::<()>::new(Order::Any, limits(2, 100));
        assert!(tracker.has_room(1_000_000), "alone, anything may go");
        let giant = tracker.begin(0, 1_000_000);
        assert!(!tracker.has_room(0));
        tracker.settle(giant, ());

        let _one = tracker.begin(0, 60);
        assert!(!tracker.has_room(41));
        assert!(tracker.has_room(40));
        let _two = tracker.begin(0, 1);
        assert!(!tracker.has_room(0));
    }

    proptest! {
        #[test]
        fn everything_begun_is_released_once_in_the_order_of_its_lane(
            steps in proptest::collection::vec((0u64..3, 0u64..50, any::<bool>(), any::<usize>()), 0..200),
            in_lane: bool,
        ) {
            let order = if in_lane { Order::InLane } else { Order::Any };
            let bounds = limits(16, 300);
            let mut tracker = Tracker::new(order, bounds);
            let mut flying: Vec<(Ticket, (u64, usize))> = Vec::new();
            let mut begun = [0usize; 3];
            let mut released: Vec<(u64, usize)> = Vec::new();
            let mut settled = std::collections::HashSet::new();

            for (lane, weight, begin, pick) in steps {
                if begin && tracker.has_room(weight) {
                    flying.push((tracker.begin(lane, weight), (lane, begun[lane as usize])));
                    begun[lane as usize] += 1;
                } else if !flying.is_empty() {
                    let (ticket, value) = flying.swap_remove(pick % flying.len());
                    settled.insert(value);
                    released.extend(tracker.settle(ticket, value));
                }
                prop_assert!(tracker.messages() <= bounds.messages.get());
                prop_assert!(tracker.bytes() <= bounds.bytes.bytes());
                prop_assert!(released.iter().all(|value| settled.contains(value)));
            }
            for (ticket, value) in flying.drain(..).rev() {
                released.extend(tracker.settle(ticket, value));
            }

            prop_assert_eq!((tracker.messages(), tracker.bytes()), (0, 0));
            prop_assert!(tracker.lanes.is_empty());
            for lane in 0..3 {
                let of_lane: Vec<usize> = released.iter().filter(|(l, _)| *l == lane).map(|(_, n)| *n).collect();
                let mut sorted = of_lane.clone();
                sorted.sort_unstable();
                prop_assert_eq!(&sorted, &(0..begun[lane as usize]).collect::<Vec<_>>());
                if in_lane {
                    prop_assert_eq!(of_lane, sorted);
                }
            }
        }
    }
}
