//! Positions of ordered sources: received once, however late they come again, and void where the upstream contradicts.

use std::time::Duration;

use broker_model::position::MarkStatus;
use broker_model::{
    Accepted, InvocationQueue, Position, Positions, Reason, Resume, StoreError, Totals, Upstream, Voided,
};

use bytes::Bytes;

use super::bench::{Bench, End, Engine};
use super::calls::{self, lane, partition, placed};
use crate::reference::Bounds;

/// What an upstream of 100 messages says.
fn upstream(committed: impl Into<Option<u64>>) -> Upstream {
    Upstream { committed: committed.into(), earliest: 0, end: 100 }
}

impl<E: Engine> Bench<E> {
    async fn take_up(&self, number: u32, upstream: Upstream) -> Resume {
        self.store.take_up(&partition(number, "a"), upstream).await.expect("a healthy store remembers marks")
    }

    async fn committed(&self, number: u32, next: u64) {
        self.store.committed(&partition(number, "a"), next).await.expect("a healthy store remembers marks");
    }

    async fn receive(&self, number: u32, offset: u64) {
        self.accept(placed(&partition(number, "a"), offset)).await;
    }
}

pub(crate) async fn a_position_makes_one_invocation<E: Engine>() {
    let bench = Bench::<E>::new().await;
    bench.take_up(0, upstream(7)).await;
    bench.receive(0, 7).await;
    bench.receive(0, 9).await;

    for again in [9, 7] {
        bench.assert_duplicate(placed(&partition(0, "a"), again), "it was received").await;
    }
    // Also when the call has ended meanwhile.
    let delivery = bench.lease_one(&lane("a")).await;
    bench.settle(&delivery, calls::completed()).await;
    bench.assert_duplicate(placed(&partition(0, "a"), 7), "its call has ended").await;

    // The one between, and the same offset elsewhere, were not.
    bench.receive(0, 8).await;
    bench.receive(1, 7).await;
    let status = |number, below, ranges, committed| MarkStatus {
        partition: partition(number, "a"),
        below,
        ranges,
        committed,
    };
    let expected = vec![status(0, 10, 0, Some(7)), status(1, 0, 1, None)];
    bench
        .until("the marks", async || {
            let marks = bench.store.marks(Some(&calls::source("bus")));
            if marks == expected { Ok(()) } else { Err(format!("{marks:?}")) }
        })
        .await;
}

pub(crate) async fn concurrent_repeats_of_a_position_make_one_invocation<E: Engine>() {
    let bench = Bench::<E>::new().await;
    for offset in 0..8 {
        let answers: Vec<_> = (0..16)
            .map(|_| {
                let store = bench.store.clone();
                tokio::spawn(async move { store.accept(placed(&partition(0, "a"), offset)).await })
            })
            .collect();
        let answers = futures::future::join_all(answers).await;

        let first = answers.iter().filter(|answer| matches!(answer, Ok(Ok(Accepted::New(_))))).count();
        let others = answers.iter().filter(|answer| matches!(answer, Ok(Ok(Accepted::Duplicate(_))))).count();
        assert_eq!((first, others), (1, 15), "{answers:?}");
    }
    bench.expect_totals(&Totals { accepted: [0, 8, 0, 0, 0], held: 8, ..Totals::default() }).await;
}

pub(crate) async fn positions_outlive_a_close_and_a_kill<E: Engine>() {
    let mut bench = Bench::<E>::new().await;
    bench.take_up(0, upstream(5)).await;
    let mut received = Vec::new();
    for (round, end) in [End::Closed, End::Killed, End::Closed, End::Killed].into_iter().enumerate() {
        for offset in [7 + 3 * round as u64, 5 + 3 * round as u64] {
            bench.receive(0, offset).await;
            received.push(offset);
        }
        bench = bench.reopen(end).await;
        for offset in &received {
            bench
                .assert_duplicate(placed(&partition(0, "a"), *offset), "it was received before the end")
                .await;
        }
    }
    bench.receive(0, 6).await;
    assert_eq!(bench.even().await.held, 9);
}

pub(crate) async fn positions_do_not_expire<E: Engine>() {
    let window = Duration::from_secs(600);
    let bench = Bench::<E>::bounded(Bounds { dedup_window: window, ..Bounds::default() }).await;
    bench.receive(0, 3).await;

    bench.pass(1000 * window).await;

    bench.assert_duplicate(placed(&partition(0, "a"), 3), "a week is no reason to forget").await;
}

pub(crate) async fn a_buried_position_is_recognised_again<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let position = Position { partition: partition(0, "a"), offset: 4 };
    let message = broker_model::Acceptance { position: Some(position), ..calls::undecodable() };
    let buried = bench.store.bury(message.clone(), Reason::Undecodable, "not JSON").await;
    assert!(matches!(buried, Ok(Accepted::New(_))), "{buried:?}");

    let bench = bench.reopen(End::Killed).await;

    let again = bench.store.bury(message, Reason::Undecodable, "not JSON").await;
    assert!(matches!(again, Ok(Accepted::Duplicate(_))), "{again:?}");
    assert_eq!(bench.even().await.dead_in_all(), 1);
}

pub(crate) async fn a_refused_position_stays_free<E: Engine>() {
    let bench = Bench::<E>::bounded(Bounds { waiting: 1, ..Bounds::default() }).await;
    let delivery = bench.delivering(&lane("b")).await;
    let refused = bench.store.accept(placed(&partition(0, "a"), 0)).await;
    assert!(matches!(refused, Err(StoreError::TooManyWaiting { .. })), "{refused:?}");

    bench.settle(&delivery, calls::completed()).await;

    bench.receive(0, 0).await;
    // A repeat is no new work, so no bound refuses it.
    bench.assert_duplicate(placed(&partition(0, "a"), 0), "it was received").await;
}

pub(crate) async fn what_nobody_wanted_may_come_again<E: Engine>() {
    let bench = Bench::<E>::new().await;
    bench.take_up(0, upstream(0)).await;
    bench.receive(0, 0).await;
    bench.store.pass(&Position { partition: partition(0, "a"), offset: 1 });

    // Its neighbours are what they were, and it made nothing so far.
    bench.receive(0, 2).await;
    let bench = bench.reopen(End::Killed).await;
    let again = bench.store.accept(placed(&partition(0, "a"), 1)).await;
    assert!(matches!(again, Ok(Accepted::New(_) | Accepted::Duplicate(_))), "{again:?}");
    bench.assert_duplicate(placed(&partition(0, "a"), 1), "it was received at last").await;
    for offset in [0, 2] {
        bench.assert_duplicate(placed(&partition(0, "a"), offset), "it was received").await;
    }
}

pub(crate) async fn what_is_below_the_commit_is_received<E: Engine>() {
    let bench = Bench::<E>::new().await;
    bench.take_up(0, upstream(10)).await;
    bench.assert_duplicate(placed(&partition(0, "a"), 9), "it was committed before we came").await;
    bench.receive(0, 12).await;

    // 10 and 11 never came: they were compacted away.
    bench.committed(0, 12).await;

    let bench = bench.reopen(End::Killed).await;
    for offset in [10, 11, 12] {
        bench.assert_duplicate(placed(&partition(0, "a"), offset), "it was committed").await;
    }
    bench.receive(0, 13).await;
    assert_eq!(bench.take_up(0, upstream(12)).await, Resume { from: Some(14), voided: None });
}

pub(crate) async fn a_partition_goes_on_where_it_was_received<E: Engine>() {
    let bench = Bench::<E>::new().await;
    assert_eq!(bench.take_up(0, upstream(None)).await, Resume { from: None, voided: None });
    bench.receive(0, 40).await;

    // Nothing was ever committed: there is nothing to miss.
    let bench = bench.reopen(End::Killed).await;
    assert_eq!(bench.take_up(0, upstream(None)).await, Resume { from: None, voided: None });
    bench.assert_duplicate(placed(&partition(0, "a"), 40), "it was received").await;

    // The note of a commit may be lost, and others may have gone on meanwhile.
    assert_eq!(bench.take_up(0, upstream(40)).await, Resume { from: Some(41), voided: None });
    assert_eq!(bench.take_up(0, upstream(60)).await, Resume { from: Some(60), voided: None });
    assert_eq!(
        bench.take_up(0, upstream(59)).await.voided,
        Some(Voided::CommitBelow { ours: 60, upstream: 59 })
    );
}

pub(crate) async fn what_the_upstream_contradicts_is_void<E: Engine>() {
    let out = |position, earliest, end| Voided::OutOfRange { position, earliest, end };
    let cases = [
        (upstream(None), None, Voided::CommitMissing { ours: 12 }),
        (upstream(3), Some(3), Voided::CommitBelow { ours: 12, upstream: 3 }),
        (Upstream { end: 20, ..upstream(12) }, Some(12), out(21, 0, 20)),
        (Upstream { earliest: 50, ..upstream(12) }, Some(50), out(12, 50, 100)),
    ];
    let bench = Bench::<E>::new().await;
    for (number, (upstream_now, from, voided)) in (0..).zip(cases) {
        bench.take_up(number, upstream(10)).await;
        for offset in [10, 11, 20] {
            bench.receive(number, offset).await;
        }
        bench.committed(number, 12).await;
        assert_eq!(bench.take_up(number, upstream(12)).await, Resume { from: Some(12), voided: None });

        let resume = bench.take_up(number, upstream_now).await;

        assert_eq!(resume, Resume { from, voided: Some(voided) });
        for offset in [from.unwrap_or(0).max(10), 60] {
            bench.receive(number, offset).await;
        }
    }
}

pub(crate) async fn a_recreated_stream_is_read_anew<E: Engine>() {
    let bench = Bench::<E>::new().await;
    bench.take_up(0, upstream(0)).await;
    bench.receive(0, 0).await;

    let resume = bench.store.take_up(&partition(0, "b"), upstream(None)).await;

    let another = Voided::AnotherStream { was: "a".into(), is: "b".into() };
    assert_eq!(resume.ok(), Some(Resume { from: None, voided: Some(another) }));
    bench.accept(placed(&partition(0, "b"), 0)).await;
    let marks: Vec<_> = bench.store.marks(None).into_iter().map(|mark| mark.partition).collect();
    assert_eq!(marks, [partition(0, "b")]);
}

pub(crate) async fn a_void_mark_stays_void_over_a_kill<E: Engine>() {
    let bench = Bench::<E>::new().await;
    bench.take_up(0, upstream(0)).await;
    for offset in 0..5 {
        bench.receive(0, offset).await;
    }
    bench.committed(0, 5).await;
    bench.take_up(0, upstream(2)).await;

    let bench = bench.reopen(End::Killed).await;

    bench.assert_duplicate(placed(&partition(0, "a"), 1), "it is below what is committed").await;
    for offset in 2..5 {
        bench.receive(0, offset).await;
    }
    assert_eq!(bench.take_up(0, upstream(2)).await, Resume { from: Some(5), voided: None });
}

pub(crate) async fn a_reset_forgets_the_marks_of_one_source<E: Engine>() {
    let bench = Bench::<E>::new().await;
    bench.receive(0, 1).await;
    bench.receive(1, 1).await;

    assert_eq!(bench.store.reset_positions(&calls::source("other")).await.ok(), Some(0));
    bench.assert_duplicate(placed(&partition(0, "a"), 1), "another source was reset").await;
    assert_eq!(bench.store.reset_positions(&calls::source("bus")).await.ok(), Some(2));

    assert_eq!(bench.store.marks(None), []);
    bench.receive(0, 1).await;
    let bench = bench.reopen(End::Killed).await;
    bench.receive(1, 1).await;
    bench.assert_duplicate(placed(&partition(0, "a"), 1), "it was received after the reset").await;
}

pub(crate) async fn marks_outlive_the_calls_they_came_with<E: Engine>() {
    let bench = Bench::<E>::new().await;
    bench.take_up(0, upstream(0)).await;
    // Much more than what an engine may keep in one piece, all of it done and gone.
    for offset in 0..40 {
        let mut acceptance = placed(&partition(0, "a"), 2 * offset);
        acceptance.body = Bytes::from(vec![7; 64 << 10]).into();
        bench.accept(acceptance).await;
        let delivery = bench.lease_one(&lane("a")).await;
        bench.settle(&delivery, calls::completed()).await;
    }

    let bench = bench.reopen(End::Killed).await;

    for offset in 0..40 {
        bench.assert_duplicate(placed(&partition(0, "a"), 2 * offset), "it was received").await;
        bench.receive(0, 2 * offset + 1).await;
    }
    assert_eq!(bench.take_up(0, upstream(0)).await, Resume { from: Some(80), voided: None });
}
