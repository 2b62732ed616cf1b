//! Schedules: one run for an instant, whatever the clock and the process do.

use broker_model::queue::Pausable;
use broker_model::schedule::{Schedule, ScheduleState};
use broker_model::{Accepted, InvocationQueue, ScheduleId, Schedules, StoreError, Totals};

use super::bench::{Bench, End, Engine};
use super::calls::{self, fire, lane, minute, schedule};
use crate::reference::Bounds;

impl<E: Engine> Bench<E> {
    async fn put(&self, schedule: &Schedule) -> ScheduleState {
        let kept = self.store.put_schedule(schedule.clone()).await;
        kept.expect("a healthy store remembers schedules")
    }
}

pub(crate) async fn an_instant_runs_once<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let (report, other) = (schedule("report", 0), schedule("other", 0));
    bench.put(&report).await;
    bench.put(&other).await;
    bench.accept(fire(&report, 1)).await;

    bench.assert_duplicate(fire(&report, 1), "it ran").await;

    bench.accept(fire(&report, 2)).await;
    bench.accept(fire(&other, 1)).await;
    bench.assert_duplicate(fire(&report, 1), "it ran").await;
    let state = &bench.store.schedules()[1];
    assert_eq!((&state.schedule, state.last_fire), (&report, Some(minute(2))));
    assert_eq!(state.decided, minute(2));
}

pub(crate) async fn concurrent_runs_of_an_instant_make_one_invocation<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let report = schedule("report", 0);
    bench.put(&report).await;
    for n in 1..9 {
        let answers: Vec<_> = (0..16)
            .map(|_| {
                let (store, acceptance) = (bench.store.clone(), fire(&report, n));
                tokio::spawn(async move { store.accept(acceptance).await })
            })
            .collect();
        let answers = futures::future::join_all(answers).await;

        let first = answers.iter().filter(|answer| matches!(answer, Ok(Ok(Accepted::New(_))))).count();
        let others = answers.iter().filter(|answer| matches!(answer, Ok(Ok(Accepted::Duplicate(_))))).count();
        assert_eq!((first, others), (1, 15), "{answers:?}");
    }
    bench.expect_totals(&Totals { accepted: [0, 8, 0, 0, 0], held: 8, ..Totals::default() }).await;
}

pub(crate) async fn instants_outlive_a_close_and_a_kill<E: Engine>() {
    let mut bench = Bench::<E>::new().await;
    let report = schedule("report", 0);
    bench.put(&report).await;
    for (round, end) in (0..).zip([End::Closed, End::Killed, End::Closed, End::Killed]) {
        // One is missed each time.
        bench.accept(fire(&report, 2 * round + 1)).await;
        bench = bench.reopen(end).await;
        for n in 0..=round {
            bench.assert_duplicate(fire(&report, 2 * n + 1), "it ran before the end").await;
        }
    }
    assert_eq!(bench.store.schedules()[0].last_fire, Some(minute(7)));
    bench.accept(fire(&report, 4)).await;
}

pub(crate) async fn a_missed_instant_runs_once_when_it_is_made_up_for<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let report = schedule("report", 0);
    bench.put(&report).await;
    bench.accept(fire(&report, 1)).await;
    bench.accept(fire(&report, 5)).await;

    // A backfill of the whole range, which dies half way and begins again.
    for n in [2, 3] {
        bench.accept(fire(&report, n)).await;
    }
    let bench = bench.reopen(End::Killed).await;
    for n in [1, 2, 3, 5] {
        bench.assert_duplicate(fire(&report, n), "it ran").await;
    }
    bench.accept(fire(&report, 4)).await;

    let state = &bench.store.schedules()[0];
    assert_eq!((state.decided, state.last_fire), (minute(5), Some(minute(5))));
}

pub(crate) async fn a_clock_set_back_repeats_no_instant_and_silences_none<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let report = schedule("report", 0);
    bench.put(&report).await;
    // The clock was two hours ahead for a while.
    bench.accept(fire(&report, 120)).await;

    bench.accept(fire(&report, 1)).await;

    bench.assert_duplicate(fire(&report, 120), "it ran when the clock was ahead").await;
}

pub(crate) async fn a_run_by_hand_is_the_run_of_no_instant<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let report = schedule("report", 0);
    bench.put(&report).await;

    bench.accept(calls::run(&report, None)).await;
    bench.accept(calls::run(&report, None)).await;

    let state = &bench.store.schedules()[0];
    assert_eq!((state.decided, state.last_fire), (minute(0), None));
    bench.accept(fire(&report, 1)).await;
}

pub(crate) async fn an_unknown_schedule_runs_nothing<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let report = schedule("report", 0);

    let refused = bench.store.accept(fire(&report, 1)).await;

    assert!(matches!(&refused, Err(StoreError::NoSchedule(id)) if *id == report.id), "{refused:?}");
    bench.expect_totals(&Totals::default()).await;
}

pub(crate) async fn a_refused_run_leaves_its_instant_free<E: Engine>() {
    let bench = Bench::<E>::bounded(Bounds { waiting: 1, ..Bounds::default() }).await;
    let report = schedule("report", 0);
    bench.put(&report).await;
    let delivery = bench.delivering(&lane("b")).await;
    let refused = bench.store.accept(fire(&report, 1)).await;
    assert!(matches!(refused, Err(StoreError::TooManyWaiting { .. })), "{refused:?}");

    bench.settle(&delivery, calls::completed()).await;

    bench.accept(fire(&report, 1)).await;
}

pub(crate) async fn a_schedule_keeps_its_anchor<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let first = bench.put(&schedule("report", 0)).await;
    let expected =
        ScheduleState { schedule: schedule("report", 0), paused: false, decided: minute(0), last_fire: None };
    assert_eq!(first, expected);
    bench.accept(fire(&schedule("report", 0), 1)).await;

    for end in [End::Closed, End::Killed] {
        let bench = Bench::<E>::new().await;
        bench.put(&schedule("report", 0)).await;
        let bench = bench.reopen(end).await;
        assert_eq!(bench.put(&schedule("report", 9)).await, expected, "after {end:?}");
        assert_eq!(bench.store.schedules(), std::slice::from_ref(&expected));
    }
    let again = bench.put(&schedule("report", 9)).await;
    assert_eq!((again.schedule.anchor, again.last_fire), (minute(0), Some(minute(1))));
}

pub(crate) async fn a_removed_schedule_is_forgotten_whole<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let report = schedule("report", 0);
    bench.put(&report).await;
    bench.accept(fire(&report, 1)).await;
    bench.store.pause(Pausable::Schedule(report.id.clone())).await.expect("a healthy store pauses");

    assert_eq!(bench.store.remove_schedule(&report.id).await.ok(), Some(true));
    assert_eq!(bench.store.remove_schedule(&report.id).await.ok(), Some(false));

    let bench = bench.reopen(End::Killed).await;
    assert_eq!((bench.store.schedules(), bench.store.paused()), (Vec::new(), Vec::new()));
    let kept = bench.put(&schedule("report", 7)).await;
    assert_eq!((kept.schedule.anchor, kept.paused, kept.last_fire), (minute(7), false, None));
}

pub(crate) async fn what_was_passed_over_is_remembered<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let report = schedule("report", 0);
    bench.put(&report).await;
    assert_eq!(bench.store.pass_over(&report.id, minute(6)).await.ok(), Some(true));
    assert_eq!(bench.store.pass_over(&report.id, minute(5)).await.ok(), Some(true));
    let unknown = ScheduleId::parse("unknown").expect("a plain word is an id");
    assert_eq!(bench.store.pass_over(&unknown, minute(5)).await.ok(), Some(false));

    let bench = bench.reopen(End::Killed).await;

    let state = &bench.store.schedules()[0];
    assert_eq!((state.decided, state.last_fire), (minute(6), None));
    // It did not run, so it may.
    bench.accept(fire(&report, 3)).await;
    assert_eq!(bench.store.schedules()[0].last_fire, Some(minute(3)));
}

pub(crate) async fn pauses_of_schedules_are_remembered<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let report = schedule("report", 0);
    bench.put(&report).await;
    let what = Pausable::Schedule(report.id.clone());
    bench.store.pause(what.clone()).await.expect("a healthy store pauses");

    let bench = bench.reopen(End::Killed).await;
    assert!(bench.store.schedules()[0].paused);
    // The store only remembers it.
    bench.accept(fire(&report, 1)).await;

    bench.store.resume(what).await.expect("a healthy store resumes");
    let bench = bench.reopen(End::Killed).await;
    assert!(!bench.store.schedules()[0].paused);
}
