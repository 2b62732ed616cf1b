//! How much to ask a queue for.

/// How one queue gives, and what was asked of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Messages of each request on its way.
    asked: Vec<usize>,
    /// How many more requests than one may be on their way.
    more: usize,
    /// About the heaviest message of late. Unknown at first.
    heaviest: Option<u64>,
}

/// What may still be held, of all queues together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// Messages beyond those held.
    pub(crate) messages: usize,
    /// Bytes beyond those held.
    pub(crate) bytes: u64,
    /// Messages that were asked for and may yet come.
    pub(crate) asked: usize,
    /// Queues that share it.
    pub(crate) queues: usize,
}

impl Pace {
    /// How many messages the next request should ask for, if there is to be one.
    ///
    /// Each queue may have one request waiting whatever the others asked for, because most that wait bring nothing: the share
    /// of a queue bounds what they bring when all do. Further requests go by what is certainly free.
    pub(crate) fn next(&self, room: Room, batch: usize) -> Option<usize> {
        let messages = match self.asked.len() {
            0 => room.messages.min((room.messages / room.queues.max(1)).max(1)),
            polls if polls <= self.more => room.messages.saturating_sub(room.asked),
            _ => 0,
        };
        if messages == 0 || room.bytes == 0 {
            return None;
        }
        let fitting = match self.heaviest {
            // One, to learn how heavy they are.
            None => 1,
            Some(heaviest) => usize::try_from(room.bytes / heaviest.max(1)).unwrap_or(usize::MAX).max(1),
        };
        Some(messages.min(batch).min(fitting))
    }

    /// A request for so many messages is on its way.
    pub(crate) fn begin(&mut self, messages: usize) {
        self.asked.push(messages);
    }

    /// A request for so many came to nothing.
    pub(crate) fn failed(&mut self, asked: usize) {
        if let Some(at) = self.asked.iter().position(|messages| *messages == asked) {
            self.asked.swap_remove(at);
        }
    }

    /// A request for so many was answered. While the answers are about as full as can be, more requests may be on their way,
    /// up to `polls`; an empty one says that one is enough.
    pub(crate) fn answered(&mut self, asked: usize, weights: &[u64], batch: usize, polls: usize) {
        self.failed(asked);
        match weights.iter().max() {
            None => self.more = 0,
            Some(heaviest) => {
                if asked == batch && weights.len() * 2 >= asked {
                    self.more = (self.more + 1).min(polls - 1);
                }
                let before = self.heaviest.unwrap_or(0);
                self.heaviest = Some((*heaviest).max(before - before / 4));
            }
        }
    }

    /// Messages that were asked for and may yet come.
    pub(crate) fn asked(&self) -> usize {
        self.asked.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOM: Room = Room { messages: 1000, bytes: 1 << 24, asked: 0, queues: 1 };

    fn known() -> Pace {
        Pace { heaviest: Some(1000), ..Pace::default() }
    }

    #[test]
    fn the_first_request_learns_how_heavy_messages_are() {
        let mut pace = Pace::default();
        assert_eq!(pace.next(ROOM, 10), Some(1));
        pace.begin(1);
        assert_eq!(pace.next(ROOM, 10), None, "one waits");
        pace.answered(1, &[1 << 20], 10, 4);
        assert_eq!(pace.next(ROOM, 10), Some(10));
        assert_eq!(pace.next(Room { bytes: 5 << 20, ..ROOM }, 10), Some(5));
        assert_eq!(pace.next(Room { bytes: 1, ..ROOM }, 10), Some(1), "a giant goes alone");
        assert_eq!(pace.next(Room { bytes: 0, ..ROOM }, 10), None);
    }

    #[test]
    fn full_answers_make_more_requests_and_an_empty_one_leaves_one() {
        let mut pace = known();
        for requests in 1..=4 {
            while let Some(messages) = pace.next(ROOM, 10) {
                pace.begin(messages);
            }
            assert_eq!(pace.asked.len(), requests);
            pace.answered(10, &[10; 7], 10, 4);
        }
        pace.answered(10, &[], 10, 4);
        pace.answered(10, &[10; 3], 10, 4);
        assert_eq!(pace.next(ROOM, 10), None);
    }

    #[test]
    fn a_quiet_queue_keeps_one_request_whatever_the_others_ask_for() {
        let room = Room { messages: 64, asked: 64, queues: 20, ..ROOM };
        let mut pace = known();
        assert_eq!(pace.next(room, 10), Some(3));
        pace.begin(3);
        pace.more = 3;
        assert_eq!(pace.next(room, 10), None, "further ones need room");
        assert_eq!(pace.next(Room { asked: 60, ..room }, 10), Some(4));
        assert_eq!(known().next(Room { messages: 0, ..room }, 10), None, "nothing is free");
    }

    proptest! {
        #[test]
        fn what_may_come_stays_within_twice_the_bound(
            limit in 1usize..100,
            queues in 1usize..8,
            steps in proptest::collection::vec((0usize..8, 0usize..11, any::<bool>()), 1..200),
        ) {
            let mut paces = vec![known(); queues];
            let mut held = 0usize;
            for (queue, got, settle) in steps {
                let queue = queue % queues;
                if settle {
                    held = held.saturating_sub(got);
                }
                let asked: usize = paces.iter().map(Pace::asked).sum();
                let room = Room { messages: limit.saturating_sub(held), bytes: 1 << 24, asked, queues };
                if let Some(messages) = paces[queue].next(room, 10) {
                    paces[queue].begin(messages);
                } else if let Some(asked) = paces[queue].asked.first().copied() {
                    let got = got.min(asked);
                    held += got;
                    paces[queue].answered(asked, &vec![1; got], 10, 4);
                }
                let asked: usize = paces.iter().map(Pace::asked).sum();
                prop_assert!(held + asked <= 2 * limit.max(queues), "{held} + {asked} of {limit}");
            }
        }
    }
}
