//! What of one partition was read, what of it is durable, and what may be committed. Pure.

use connectors_sdk::{Resume, Upstream, Voided};

/// One partition of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The next offset to read. Records below it were handed over, or are none.
    read: u64,
    /// All below it is durable.
    durable: u64,
    /// Something was given back: nothing behind it may be committed any more.
    stopped: bool,
    /// Handed over and not settled.
    in_flight: usize,
    /// What the group has committed, as far as we know.
    committed: Option<u64>,
    /// What it was last asked to commit, whether it did or not.
    asked: Option<u64>,
}

/// Where a group may stand by our own doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ours {
    known: Option<u64>,
    asked: Option<u64>,
}

impl Ours {
    /// Whether it may stand here. What it was asked to commit it may have done though we never heard of it.
    pub(crate) fn may_be(self, committed: Option<u64>) -> bool {
        (self.known.min(self.asked)..=self.known.max(self.asked)).contains(&committed)
    }
}

impl Progress {
    /// Reading goes on at `read`, where the group has committed `committed`.
    pub(crate) fn at(read: u64, committed: Option<u64>) -> Self {
        Progress { read, durable: read, stopped: false, in_flight: 0, committed, asked: committed }
    }

    pub(crate) fn read(&self) -> u64 {
        self.read
    }

    /// Where the group may stand now.
    pub(crate) fn ours(&self) -> Ours {
        Ours { known: self.committed, asked: self.asked }
    }

    /// Where it may have stood at any moment since it could stand at `then`.
    pub(crate) fn ours_since(&self, then: Ours) -> Ours {
        Ours { known: then.known, asked: self.asked }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// A record is handed over, or a range recorded as lost, up to but without `next`. `false` when it was before: a client
    /// that fetches anew may give a record twice.
    pub(crate) fn begin(&mut self, offset: u64, next: u64) -> bool {
        let new = offset >= self.read;
        if new {
            self.read = next;
            self.in_flight += 1;
        }
        new
    }

    /// What was handed over up to `next`, and all before it, is durable. What comes after something that was given back is
    /// durable too, but must be read again with it.
    pub(crate) fn taken(&mut self, next: u64) {
        self.in_flight -= 1;
        if !self.stopped {
            self.durable = self.durable.max(next);
        }
    }

    /// It was given back, and must be read again.
    pub(crate) fn given_back(&mut self) {
        self.in_flight -= 1;
        self.stopped = true;
    }

    /// It was read, and is another's to hand over.
    pub(crate) fn dropped(&mut self) {
        self.in_flight -= 1;
    }

    /// The offset to commit, where the group does not have it yet.
    pub(crate) fn to_commit(&self) -> Option<u64> {
        (self.committed != Some(self.durable)).then_some(self.durable)
    }

    /// The group is asked to commit it.
    pub(crate) fn asking(&mut self, next: u64) {
        self.asked = Some(next);
    }

    /// The group has it. `false` when that is nothing new.
    pub(crate) fn confirmed(&mut self, next: u64) -> bool {
        self.committed.replace(next) != Some(next)
    }
}

/// The range that the upstream discarded before we could read it, when a partition is taken up: from the offset we would
/// have gone on with to the first one there still is.
pub(crate) fn lost_before(upstream: &Upstream, resume: &Resume) -> Option<(u64, u64)> {
    let wanted = match resume.voided {
        // Further than what is committed: the commit was lost, but the records were received.
        Some(Voided::OutOfRange { position, earliest, .. }) if position < earliest => position,
        _ => upstream.committed?,
    };
    (wanted < upstream.earliest).then_some((wanted, upstream.earliest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(committed: Option<u64>, earliest: u64) -> Upstream {
        Upstream { committed, earliest, end: 100 }
    }

    #[test]
    fn what_is_durable_is_committed_once() {
        let mut progress = Progress::at(5, Some(5));
        assert_eq!(progress.to_commit(), None);

        assert!(progress.begin(5, 6) && progress.begin(9, 10), "a gap is none of ours");
        assert!(!progress.begin(9, 10), "given twice");
        assert_eq!((progress.read(), progress.in_flight(), progress.to_commit()), (10, 2, None));

        progress.taken(6);
        assert_eq!(progress.to_commit(), Some(6));
        progress.taken(10);
        assert_eq!(progress.to_commit(), Some(10));
        assert!(progress.confirmed(10) && !progress.confirmed(10));
        assert_eq!((progress.to_commit(), progress.in_flight()), (None, 0));
    }

    #[test]
    fn a_group_that_stands_where_it_was_asked_to_is_in_no_other_hands() {
        let mut progress = Progress::at(5, Some(5));
        let all = |ours: Ours| (0..20).filter(|at| ours.may_be(Some(*at))).collect::<Vec<_>>();
        let looked = progress.ours();
        assert_eq!((all(looked), looked.may_be(None)), (vec![5], false));

        // The answer to a commit is lost: the group may have it or not.
        progress.asking(7);
        assert_eq!(all(progress.ours()), [5, 6, 7]);
        progress.asking(8);
        assert!(progress.confirmed(8));
        assert_eq!(all(progress.ours()), [8]);
        // Who asked before that was answered at any moment since.
        assert_eq!(all(progress.ours_since(looked)), [5, 6, 7, 8]);
    }

    #[test]
    fn a_group_that_had_nothing_may_have_what_it_was_asked_to_commit() {
        let mut progress = Progress::at(7, None);
        assert!(progress.ours().may_be(None) && !progress.ours().may_be(Some(7)));
        progress.asking(7);
        assert!(progress.ours().may_be(None) && progress.ours().may_be(Some(7)));
        assert!(!progress.ours().may_be(Some(8)));

        // A topic that was made anew: the group is set back by us.
        let mut progress = Progress::at(0, Some(700));
        progress.asking(3);
        assert!(progress.ours().may_be(Some(700)) && progress.ours().may_be(Some(3)));
        assert!(!progress.ours().may_be(None));
    }

    #[test]
    fn a_starting_point_is_committed_where_the_group_had_none() {
        assert_eq!(Progress::at(7, None).to_commit(), Some(7));
        assert_eq!(Progress::at(7, Some(3)).to_commit(), Some(7));
    }

    #[test]
    fn what_was_given_back_stops_the_commits() {
        let mut progress = Progress::at(0, Some(0));
        progress.begin(0, 1);
        progress.begin(1, 2);
        progress.begin(2, 3);
        progress.taken(1);
        progress.given_back();
        progress.taken(3);

        assert_eq!(progress.to_commit(), Some(1));
    }

    #[test]
    fn the_upstreams_first_offset_says_what_is_lost() {
        let resume = |voided| Resume { from: None, voided };
        assert_eq!(lost_before(&upstream(Some(5), 9), &resume(None)), Some((5, 9)));
        assert_eq!(lost_before(&upstream(Some(9), 9), &resume(None)), None);
        assert_eq!(lost_before(&upstream(None, 9), &resume(None)), None, "a new group has lost nothing");

        let received_further = Voided::OutOfRange { position: 7, earliest: 9, end: 100 };
        assert_eq!(lost_before(&upstream(Some(5), 9), &resume(Some(received_further))), Some((7, 9)));
        let recreated = Voided::OutOfRange { position: 700, earliest: 0, end: 100 };
        assert_eq!(lost_before(&upstream(Some(700), 0), &resume(Some(recreated))), None);
    }
}
