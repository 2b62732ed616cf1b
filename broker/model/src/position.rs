//! Marks for sources whose messages have positions in an order (invariant I3).
//!
//! A mark says which positions of one partition were received: all below a watermark, those done above it, and what was
//! last committed upstream. It recognises a redelivery however late it comes, because it does not expire. What it says is
//! true of one stream only, so it is *void* as soon as the upstream contradicts it: a recreated topic or a deliberate
//! rewind must never be mistaken for duplicates. Everything here is a pure rule; a store keeps the marks, and changes them
//! in the record that accepts ([`Positions`]).

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use crate::names::{NameError, SourceName};
use crate::queue::StoreError;
use crate::ranges::Ranges;

/// One ordered part of an upstream, as one source reads it: a partition of a topic, a stream, a shard.
///
/// Two incarnations of one name are two streams: what was received of one says nothing about the other.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    source: SourceName,
    stream: Box<str>,
    incarnation: Box<str>,
    number: u32,
}

impl Partition {
    /// The longest name of a stream.
    pub const MAX_STREAM: usize = 1024;
    /// The longest incarnation.
    pub const MAX_INCARNATION: usize = 128;

    /// The partition of this number of a stream.
    ///
    /// `incarnation` is what the upstream gives each stream anew: a topic's id, a creation time. Where it gives nothing it
    /// is empty, and a recreated stream is recognised by its offsets alone.
    ///
    /// # Errors
    /// [`NameError`] when the stream has no name, or either text is too long.
    pub fn new(source: SourceName, stream: &str, incarnation: &str, number: u32) -> Result<Self, NameError> {
        if stream.is_empty() {
            return Err(NameError::Empty);
        }
        for (text, max) in [(stream, Self::MAX_STREAM), (incarnation, Self::MAX_INCARNATION)] {
            if text.len() > max {
                return Err(NameError::TooLong { length: text.len(), max });
            }
        }
        Ok(Partition { source, stream: stream.into(), incarnation: incarnation.into(), number })
    }

    /// The source that reads it.
    pub fn source(&self) -> &SourceName {
        &self.source
    }

    /// The stream's name: a topic.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// Which stream of that name: its id or creation time; empty where the upstream does not say.
    pub fn incarnation(&self) -> &str {
        &self.incarnation
    }

    /// Its number within the stream.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Whether both are the same place upstream, of whatever incarnation.
    pub fn is_place_of(&self, other: &Partition) -> bool {
        (&self.source, &self.stream, self.number) == (&other.source, &other.stream, other.number)
    }
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}#{}", self.source, self.stream, self.number)?;
        if self.incarnation.is_empty() { Ok(()) } else { write!(f, "@{}", self.incarnation) }
    }
}

/// Where a message stands in its upstream. Cheap to clone: a source keeps one [`Partition`] for all its messages.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Position {
    /// The partition.
    pub partition: Arc<Partition>,
    /// The message's own offset in it. At most `u64::MAX - 1`.
    pub offset: u64,
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}:{}", self.partition, self.offset)
    }
}

/// What the upstream says of a partition, asked for anew when a source takes it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// The offset it has as committed for us: the one to go on with. `None` where nothing is committed.
    pub committed: Option<u64>,
    /// The first offset it still has.
    pub earliest: u64,
    /// The offset its next message will get. Never an old reading: a mark that lies beyond it is void.
    pub end: u64,
}

/// How to go on with a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    /// The offset to read from; `None` where nothing is known and the source's own starting point decides.
    ///
    /// At or above what is committed upstream: positions between were received, only the commit was lost.
    pub from: Option<u64>,
    /// Why the mark that was kept is no longer believed, where it is not. For the source to log as a warning.
    pub voided: Option<Voided>,
}

/// Why a mark is void: it said something that this upstream contradicts. What it said is forgotten.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Voided {
    /// The stream is another one of the same name.
    #[error("the stream is another one: {was:?} before, {is:?} now")]
    AnotherStream {
        /// The incarnation of which positions were kept.
        was: Box<str>,
        /// The present one.
        is: Box<str>,
    },
    /// Something was committed once and nothing is now: the group was deleted, or its commit expired.
    #[error("nothing is committed upstream, where {ours} was")]
    CommitMissing {
        /// What was last committed.
        ours: u64,
    },
    /// Less is committed than was: somebody set the group back, and wants those messages again.
    #[error("{upstream} is committed upstream, less than the {ours} that was")]
    CommitBelow {
        /// What was last committed.
        ours: u64,
        /// What is committed now.
        upstream: u64,
    },
    /// A position lies where the upstream has none: beyond its end, or before the first it still has.
    #[error("position {position} is out of the upstream's range {earliest}..{end}")]
    OutOfRange {
        /// The position.
        position: u64,
        /// The first offset the upstream has.
        earliest: u64,
        /// The offset of its next message.
        end: u64,
    },
}

/// What was received of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    below: u64,
    above: Ranges,
    committed: Option<u64>,
}

impl Mark {
    /// A mark of which all below an offset is done, and so are these ranges above it.
    pub fn from_parts(below: u64, above: Ranges, committed: Option<u64>) -> Self {
        let mut mark = Mark { below: 0, above, committed };
        mark.raise(below);
        mark
    }

    /// The watermark: every position below it is done.
    pub fn below(&self) -> u64 {
        self.below
    }

    /// What is done above the watermark.
    pub fn above(&self) -> &Ranges {
        &self.above
    }

    /// What was last committed upstream, as far as known.
    pub fn committed(&self) -> Option<u64> {
        self.committed
    }

    /// Whether this offset was received.
    pub fn is_done(&self, offset: u64) -> bool {
        offset < self.below || self.above.contains(offset)
    }

    /// Counts an offset as received.
    pub fn take(&mut self, offset: u64) {
        if offset >= self.below {
            self.above.insert(offset..offset.saturating_add(1));
            self.settle();
        }
    }

    /// Counts everything below an offset as received.
    pub fn raise(&mut self, below: u64) {
        self.below = self.below.max(below);
        self.above.drop_below(self.below);
        self.settle();
    }

    /// The same with what was committed upstream: the offset to go on with.
    pub fn commit(&mut self, next: u64) {
        self.committed = Some(next);
        self.raise(next);
    }

    /// What of it is for people.
    pub fn status(&self, partition: &Arc<Partition>) -> MarkStatus {
        MarkStatus {
            partition: partition.clone(),
            below: self.below,
            ranges: self.above.len(),
            committed: self.committed,
        }
    }

    /// Whether an offset costs no further range.
    fn has_room_for(&self, offset: u64) -> bool {
        offset <= self.below || self.above.touches(offset)
    }

    fn settle(&mut self) {
        while let Some(end) = self.above.take_first_up_to(self.below) {
            self.below = self.below.max(end);
        }
    }

    /// The offset above the greatest one received.
    fn end(&self) -> u64 {
        self.above.end().unwrap_or(self.below)
    }

    /// Whether the upstream contradicts this mark of the same incarnation.
    fn contradicted_by(&self, upstream: &Upstream) -> Option<Voided> {
        match (self.committed, upstream.committed) {
            (Some(ours), None) => return Some(Voided::CommitMissing { ours }),
            (Some(ours), Some(upstream)) if upstream < ours => {
                return Some(Voided::CommitBelow { ours, upstream });
            }
            _ => {}
        }
        out_of_range(self.end(), upstream)
            .filter(|_| self.end() > upstream.end)
            .or_else(|| out_of_range(upstream.committed?.max(self.below), upstream))
    }
}

fn out_of_range(position: u64, upstream: &Upstream) -> Option<Voided> {
    let Upstream { earliest, end, .. } = *upstream;
    (position < earliest || position > end).then_some(Voided::OutOfRange { position, earliest, end })
}

/// One thing that happens to the marks beside receiving a message; a store records it and applies it in that order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MarkChange {
    /// A source took a partition up.
    Resumed {
        /// The partition. Marks of its place and another incarnation go.
        partition: Arc<Partition>,
        /// What was known of it is void.
        voided: bool,
        /// All below this is not for us to receive.
        below: u64,
        /// What is committed upstream.
        committed: Option<u64>,
    },
    /// A source committed upstream, and knows that it did.
    Committed {
        /// The partition.
        partition: Arc<Partition>,
        /// The offset to go on with.
        next: u64,
    },
    /// Everything known of a source is forgotten.
    Reset {
        /// The source.
        source: SourceName,
    },
}

/// The marks of all partitions, within bounds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    marks: HashMap<Arc<Partition>, Mark>,
    /// Ranges above the watermarks of all of them.
    ranges: usize,
}

impl Marks {
    /// The most partitions of which a mark is kept.
    pub const MOST_PARTITIONS: usize = 65_536;
    /// The most ranges done above the watermark of one partition. Reached, it is back-pressure: only what closes a gap is
    /// taken until the source has committed further.
    pub const MOST_RANGES: usize = 4096;
    /// The same for all partitions together.
    pub const MOST_RANGES_IN_ALL: usize = 65_536;

    /// The mark of a partition.
    pub fn get(&self, partition: &Partition) -> Option<&Mark> {
        self.marks.get(partition)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<Partition>, &Mark)> {
        self.marks.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.marks.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// Whether this position was received.
    pub fn is_done(&self, position: &Position) -> bool {
        self.get(&position.partition).is_some_and(|mark| mark.is_done(position.offset))
    }

    /// Whether a position may be received, with so many of others on their way to disk.
    ///
    /// # Errors
    /// [`StoreError::TooMany`] at a bound. Nothing is ever forgotten to make room.
    pub fn check_room(&self, position: &Position, on_their_way: usize) -> Result<(), StoreError> {
        match self.get(&position.partition) {
            None => self.check_new(on_their_way),
            Some(mark) if mark.has_room_for(position.offset) => Ok(()),
            Some(mark) => {
                let (own, all) = (mark.above.len() + on_their_way, self.ranges + on_their_way);
                if own < Self::MOST_RANGES && all < Self::MOST_RANGES_IN_ALL {
                    Ok(())
                } else {
                    let most =
                        if own < Self::MOST_RANGES { Self::MOST_RANGES_IN_ALL } else { Self::MOST_RANGES };
                    Err(StoreError::TooMany { what: "gaps between received positions", most })
                }
            }
        }
    }

    fn check_new(&self, on_their_way: usize) -> Result<(), StoreError> {
        if self.marks.len() + on_their_way < Self::MOST_PARTITIONS {
            Ok(())
        } else {
            Err(StoreError::TooMany { what: "marks of partitions", most: Self::MOST_PARTITIONS })
        }
    }

    /// Counts a position as received.
    pub fn take(&mut self, position: &Position) {
        self.change(&position.partition, |mark| mark.take(position.offset));
    }

    /// Notes a position that nobody wanted, where that costs little; it is the store's to write it or not.
    pub fn pass(&mut self, position: &Position) {
        if self.marks.contains_key(&position.partition) && self.check_room(position, 0).is_ok() {
            self.take(position);
        }
    }

    /// How a source goes on with a partition, and what that changes. Changes nothing itself.
    ///
    /// # Errors
    /// [`StoreError::TooMany`] when no mark of another partition can be kept.
    pub fn judge(
        &self,
        partition: &Arc<Partition>,
        upstream: &Upstream,
    ) -> Result<(Resume, MarkChange), StoreError> {
        let another = || {
            let mut others = self.marks.keys().filter(|other| other.is_place_of(partition));
            others.next().map(|other| Voided::AnotherStream {
                was: other.incarnation.clone(),
                is: partition.incarnation.clone(),
            })
        };
        let known = self.get(partition);
        let voided = match known {
            Some(mark) => mark.contradicted_by(upstream),
            None => another(),
        };
        if known.is_none() && voided.is_none() {
            self.check_new(0)?;
        }
        // A commit that the upstream cannot mean is none: whatever it still has is read again.
        let meant = upstream.committed.filter(|committed| *committed <= upstream.end);
        let start = match (meant, upstream.committed) {
            (Some(committed), _) => Some(committed.max(upstream.earliest)),
            (None, Some(_)) => Some(upstream.earliest),
            (None, None) => None,
        };
        let mut mark = known.filter(|_| voided.is_none()).cloned().unwrap_or_default();
        mark.raise(start.unwrap_or(0));
        let below = mark.below;
        let from = (start.is_some() || below > 0).then(|| below.max(upstream.earliest));
        let change = MarkChange::Resumed {
            partition: partition.clone(),
            voided: voided.is_some(),
            below: start.unwrap_or(0),
            committed: meant,
        };
        Ok((Resume { from, voided }, change))
    }

    /// Applies a change.
    pub fn apply(&mut self, change: &MarkChange) {
        match change {
            MarkChange::Resumed { partition, voided, below, committed } => {
                self.marks.retain(|other, mark| {
                    let stays = !other.is_place_of(partition) || (*other == *partition && !voided);
                    if !stays {
                        self.ranges -= mark.above.len();
                    }
                    stays
                });
                self.change(partition, |mark| {
                    mark.committed = *committed;
                    mark.raise(*below);
                });
            }
            MarkChange::Committed { partition, next } => self.change(partition, |mark| mark.commit(*next)),
            MarkChange::Reset { source } => {
                self.marks.retain(|partition, mark| {
                    let stays = partition.source != *source;
                    if !stays {
                        self.ranges -= mark.above.len();
                    }
                    stays
                });
            }
        }
    }

    /// Puts a mark as it was kept.
    pub fn put(&mut self, partition: Arc<Partition>, mark: Mark) {
        self.ranges += mark.above.len();
        if let Some(old) = self.marks.insert(partition, mark) {
            self.ranges -= old.above.len();
        }
    }

    fn change(&mut self, partition: &Arc<Partition>, how: impl FnOnce(&mut Mark)) {
        // Looked up before it is inserted, so that the usual case clones nothing.
        if !self.marks.contains_key(partition) {
            self.marks.insert(partition.clone(), Mark::default());
        }
        if let Some(mark) = self.marks.get_mut(partition) {
            self.ranges -= mark.above.len();
            how(mark);
            self.ranges += mark.above.len();
        }
    }
}

/// What is known of one partition, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkStatus {
    /// The partition.
    pub partition: Arc<Partition>,
    /// Every position below it was received.
    pub below: u64,
    /// How many stretches above it were received out of order.
    pub ranges: usize,
    /// What was last committed upstream, as far as known.
    pub committed: Option<u64>,
}

/// The marks of sources whose messages have positions, as a source and an operator reach them.
///
/// Receiving moves them: a position is counted in the record that accepts its message
/// ([`crate::Acceptance::position`]). A source uses them so:
/// 1. when it takes a partition up, it asks the upstream for its offsets and calls [`Positions::take_up`], and reads on
///    where that says; it publishes nothing of the partition before;
/// 2. after the upstream has confirmed a commit it calls [`Positions::committed`], never before: a mark that is ahead of
///    the upstream would be void at the next start. It commits only offsets below which it has a receipt for every message
///    it got, unwanted ones included.
#[async_trait]
pub trait Positions: Send + Sync {
    /// Takes a partition up: holds the mark against what the upstream says and decides where to go on. Durable before it
    /// returns.
    ///
    /// # Errors
    /// [`StoreError`] when the store takes nothing, or keeps no more marks; nothing changed.
    async fn take_up(&self, partition: &Arc<Partition>, upstream: Upstream) -> Result<Resume, StoreError>;

    /// Remembers what the upstream has confirmed as committed: the offset to go on with. Durable before it returns.
    ///
    /// # Errors
    /// [`StoreError`] when the store can no longer serve. A mark that lags behind its upstream does no harm.
    async fn committed(&self, partition: &Arc<Partition>, next: u64) -> Result<(), StoreError>;

    /// Forgets every mark of a source, so that whatever its upstream gives again is accepted again; how many there were.
    /// Durable before it returns.
    ///
    /// # Errors
    /// [`StoreError`] when the store can no longer serve.
    async fn reset_positions(&self, source: &SourceName) -> Result<usize, StoreError>;

    /// The marks there are, of one source or of all, by partition.
    fn marks(&self, source: Option<&SourceName>) -> Vec<MarkStatus>;
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};

    use proptest::prelude::*;

    use super::*;

    fn partition(incarnation: &str) -> Arc<Partition> {
        let source = SourceName::parse("orders").unwrap();
        Arc::new(Partition::new(source, "orders.created", incarnation, 3).unwrap())
    }

    fn at(offset: u64) -> Position {
        Position { partition: partition("a"), offset }
    }

    fn upstream(committed: impl Into<Option<u64>>) -> Upstream {
        Upstream { committed: committed.into(), earliest: 0, end: 1000 }
    }

    fn resume(marks: &mut Marks, upstream: Upstream) -> Resume {
        let (resume, change) = marks.judge(&partition("a"), &upstream).unwrap();
        marks.apply(&change);
        resume
    }

    /// Resumed at 10, received 10, 11 and 20, committed 12.
    fn marks() -> Marks {
        let mut marks = Marks::default();
        assert_eq!(resume(&mut marks, upstream(10)), Resume { from: Some(10), voided: None });
        for offset in [11, 10, 20] {
            marks.take(&at(offset));
        }
        marks.apply(&MarkChange::Committed { partition: partition("a"), next: 12 });
        marks
    }

    #[test]
    fn a_position_is_done_below_the_watermark_and_in_the_set_above_it() {
        let marks = marks();

        let done: Vec<u64> = (0..30).filter(|offset| marks.is_done(&at(*offset))).collect();

        assert_eq!(done, (0..12).chain([20]).collect::<Vec<_>>());
        assert_eq!(marks.get(&partition("a")).unwrap().below(), 12);
    }

    #[test]
    fn a_commit_passes_over_what_never_came() {
        let mut marks = marks();

        marks.apply(&MarkChange::Committed { partition: partition("a"), next: 20 });

        assert_eq!(marks.get(&partition("a")).unwrap().below(), 21);
        assert_eq!(marks.ranges, 0);
    }

    #[test]
    fn a_lost_commit_voids_nothing_and_nothing_is_read_again() {
        let mut marks = marks();
        marks.take(&at(12));

        // The upstream has at least what we know of, as when we died between its word and our note of it.
        assert_eq!(resume(&mut marks, upstream(12)), Resume { from: Some(13), voided: None });
        assert_eq!(resume(&mut marks, upstream(15)), Resume { from: Some(15), voided: None });
        assert!(marks.is_done(&at(20)));
        // What was done above the commit joins it.
        assert_eq!(resume(&mut marks, upstream(20)).from, Some(21));
    }

    #[test]
    fn what_the_upstream_contradicts_is_void() {
        let end = |end| Upstream { end, ..upstream(12) };
        let earliest = |earliest| Upstream { earliest, ..upstream(12) };
        let out = |position, earliest, end| Voided::OutOfRange { position, earliest, end };
        let cases = [
            (upstream(None), None, Voided::CommitMissing { ours: 12 }),
            (upstream(11), Some(11), Voided::CommitBelow { ours: 12, upstream: 11 }),
            (end(20), Some(12), out(21, 0, 20)),
            (end(5), Some(0), out(21, 0, 5)),
            (earliest(13), Some(13), out(12, 13, 1000)),
        ];
        for (upstream, from, voided) in cases {
            let mut marks = marks();
            assert_eq!(resume(&mut marks, upstream), Resume { from, voided: Some(voided) });
            assert!(!marks.is_done(&at(20)), "{upstream:?}");
            assert!(!marks.is_done(&at(from.unwrap_or(0))), "{upstream:?}");
            assert_eq!(marks.ranges, 0);
        }
    }

    #[test]
    fn a_recreated_stream_begins_anew() {
        let mut marks = marks();

        let (resume, change) = marks.judge(&partition("b"), &upstream(None)).unwrap();
        marks.apply(&change);

        assert_eq!(resume.voided, Some(Voided::AnotherStream { was: "a".into(), is: "b".into() }));
        assert_eq!(resume.from, None);
        assert_eq!(marks.len(), 1);
        assert!(!marks.is_done(&Position { partition: partition("b"), offset: 10 }));
        assert!(!marks.is_done(&at(10)));
    }

    #[test]
    fn a_stream_that_was_never_committed_is_not_missing_its_commit() {
        let mut marks = Marks::default();
        assert_eq!(resume(&mut marks, upstream(None)), Resume { from: None, voided: None });
        marks.take(&at(7));

        assert_eq!(resume(&mut marks, upstream(None)), Resume { from: None, voided: None });
        assert!(marks.is_done(&at(7)));
        assert!(!marks.is_done(&at(6)));
    }

    #[test]
    fn a_loss_to_retention_is_said_once() {
        let mut marks = marks();
        let lost = Upstream { earliest: 100, ..upstream(12) };

        assert!(resume(&mut marks, lost).voided.is_some());

        assert_eq!(resume(&mut marks, lost), Resume { from: Some(100), voided: None });
    }

    #[test]
    fn a_reset_forgets_one_source() {
        let mut marks = marks();
        let other = Partition::new(SourceName::parse("other").unwrap(), "t", "", 0).unwrap();
        let kept = Position { partition: Arc::new(other), offset: 4 };
        marks.take(&kept);

        marks.apply(&MarkChange::Reset { source: SourceName::parse("orders").unwrap() });

        assert!(!marks.is_done(&at(10)));
        assert!(marks.is_done(&kept));
        assert_eq!((marks.len(), marks.ranges), (1, 1));
    }

    #[test]
    fn at_the_bound_only_what_closes_a_gap_is_taken() {
        let mut marks = Marks::default();
        let most = Marks::MOST_RANGES as u64;
        (1..=most).for_each(|n| marks.take(&at(2 * n)));

        assert!(matches!(
            marks.check_room(&at(2 * most + 2), 0),
            Err(StoreError::TooMany { most: Marks::MOST_RANGES, .. })
        ));
        for offset in [0, 1, 2, 2 * most + 1] {
            assert!(marks.check_room(&at(offset), 0).is_ok(), "{offset}");
        }
        // What nobody wants is noted only where it costs nothing.
        marks.pass(&at(2 * most + 2));
        assert!(!marks.is_done(&at(2 * most + 2)));
        marks.pass(&at(3));
        assert!(marks.is_done(&at(3)));
        // The source commits, and there is room again.
        marks.apply(&MarkChange::Committed { partition: partition("a"), next: 100 });
        assert!(marks.check_room(&at(2 * most + 2), 0).is_ok());
        assert_eq!(marks.ranges, marks.get(&partition("a")).unwrap().above().len());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Grow { messages: u8, hole: bool },
        Deliver { nth: u16, wanted: bool },
        Commit { noted: bool },
        Crash,
        Rebalance,
        Rewind { to: u16 },
        DeleteGroup,
        Recreate,
        Retain { up_to: u16 },
        Reset,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1..8u8, any::<bool>()).prop_map(|(messages, hole)| Step::Grow { messages, hole }),
            24 => (any::<u16>(), prop::bool::weighted(0.7))
                .prop_map(|(nth, wanted)| Step::Deliver { nth, wanted }),
            5 => prop::bool::weighted(0.8).prop_map(|noted| Step::Commit { noted }),
            3 => Just(Step::Crash),
            3 => Just(Step::Rebalance),
            1 => any::<u16>().prop_map(|to| Step::Rewind { to }),
            1 => Just(Step::DeleteGroup),
            1 => Just(Step::Recreate),
            1 => any::<u16>().prop_map(|up_to| Step::Retain { up_to }),
            1 => Just(Step::Reset),
        ]
    }

    /// An upstream, a source that reads it at will, and a store whose memory may go; with what really happened beside.
    #[derive(Default)]
    struct World {
        incarnation: u32,
        messages: BTreeSet<u64>,
        earliest: u64,
        end: u64,
        committed: Option<u64>,
        /// What a running process knows, and what its disk does.
        live: Marks,
        disk: Marks,
        /// Where the session began, and what it has a receipt for.
        from: u64,
        received: HashSet<u64>,
        /// Made into invocations, or seen and unwanted, since whoever may want them again last said so.
        accepted: HashSet<u64>,
        unwanted: HashSet<u64>,
        disturbed: bool,
    }

    impl World {
        fn partition(&self) -> Arc<Partition> {
            partition(&self.incarnation.to_string())
        }

        fn apply(&mut self, change: &MarkChange) {
            self.live.apply(change);
            self.disk.apply(change);
        }

        fn again(&mut self) {
            self.accepted.clear();
            self.unwanted.clear();
            self.disturbed = true;
        }

        fn session(&mut self) -> Result<(), TestCaseError> {
            let upstream = Upstream { committed: self.committed, earliest: self.earliest, end: self.end };
            let (resume, change) = self.live.judge(&self.partition(), &upstream).unwrap();
            self.apply(&change);
            prop_assert!(resume.voided.is_none() || self.disturbed, "{:?}", resume);
            if resume.voided.is_some() {
                self.accepted.clear();
                self.unwanted.clear();
            }
            self.disturbed = false;
            self.from = resume.from.unwrap_or(self.earliest);
            // Whatever is passed over was received before, or committed by others.
            for offset in self.messages.range(..self.from) {
                let committed = self.committed.is_some_and(|committed| *offset < committed);
                let known = self.accepted.contains(offset) || self.unwanted.contains(offset);
                prop_assert!(committed || known || *offset < self.earliest, "{} is never read", offset);
            }
            self.received.clear();
            Ok(())
        }

        fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
            match step {
                Step::Grow { messages, hole } => {
                    self.end += u64::from(hole);
                    self.messages.extend(self.end..self.end + u64::from(messages));
                    self.end += u64::from(messages);
                }
                Step::Deliver { nth, wanted } => {
                    let there: Vec<u64> = self.messages.range(self.from..).copied().collect();
                    if there.is_empty() {
                        return Ok(());
                    }
                    let offset = there[usize::from(nth) % there.len()];
                    let position = Position { partition: self.partition(), offset };
                    if self.live.is_done(&position) {
                        let seen = self.accepted.contains(&offset) || self.unwanted.contains(&offset);
                        prop_assert!(seen, "{} is swallowed", offset);
                    } else if wanted {
                        prop_assert!(!self.accepted.contains(&offset), "{} is accepted twice", offset);
                        self.live.take(&position);
                        self.disk.take(&position);
                        self.accepted.insert(offset);
                    } else {
                        self.live.pass(&position);
                        self.unwanted.insert(offset);
                    }
                    self.received.insert(offset);
                }
                Step::Commit { noted } => {
                    let missing = self.messages.range(self.from..).find(|o| !self.received.contains(o));
                    let next = missing.copied().unwrap_or(self.end);
                    if next <= self.from {
                        return Ok(());
                    }
                    self.committed = Some(next);
                    if noted {
                        self.apply(&MarkChange::Committed { partition: self.partition(), next });
                    }
                }
                Step::Crash => {
                    self.live = self.disk.clone();
                    self.session()?;
                }
                Step::Rebalance => self.session()?,
                // A group can only be set back while nobody is in it; below what we know of is what can be seen.
                Step::Rewind { to } => {
                    let known = self.live.get(&self.partition()).and_then(Mark::committed).unwrap_or(0);
                    let range = known.saturating_sub(self.earliest);
                    if range > 0 {
                        self.committed = Some(self.earliest + u64::from(to) % range);
                        self.again();
                        self.session()?;
                    }
                }
                Step::DeleteGroup => {
                    if self.live.get(&self.partition()).and_then(Mark::committed).is_some() {
                        self.committed = None;
                        self.again();
                        self.session()?;
                    }
                }
                Step::Recreate => {
                    self.incarnation += 1;
                    (self.earliest, self.end, self.committed) = (0, 3, None);
                    self.messages = (0..3).collect();
                    self.again();
                    self.session()?;
                }
                Step::Retain { up_to } => {
                    self.earliest += u64::from(up_to) % (self.end - self.earliest + 1);
                    self.messages = self.messages.split_off(&self.earliest);
                    self.disturbed = true;
                    self.session()?;
                }
                Step::Reset => {
                    let source = SourceName::parse("orders").unwrap();
                    self.apply(&MarkChange::Reset { source });
                    self.again();
                    self.session()?;
                }
            }
            Ok(())
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        #[test]
        fn nothing_unseen_is_swallowed_and_nothing_seen_is_accepted_twice(
            steps in prop::collection::vec(step(), 1..120),
        ) {
            let mut world = World::default();
            world.session()?;
            for step in steps {
                world.take(step)?;
            }
            let ranges = |marks: &Marks| marks.iter().map(|(_, mark)| mark.above().len()).sum::<usize>();
            prop_assert_eq!(world.live.ranges, ranges(&world.live));
            prop_assert_eq!(world.disk.ranges, ranges(&world.disk));
        }
    }
}
