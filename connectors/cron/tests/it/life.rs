//! Schedules over restarts, kills, clocks that are set, and refusals, on simulated time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use broker_model::ledger::{Filter, Page};
use broker_model::{Clock, FunctionName, InvocationQueue, Ledger, ScheduleWishes, Schedules, TimetableBoard};
use connectors_sdk::{HealthBoard, SourceError, TimetableError};
use proptest::prelude::*;
use testkit::time::{TestClock, breathe};

use crate::rig::{World, minutes, wish};

fn report(policies: &[(&str, &str)]) -> ScheduleWishes {
    wish("report", "*/5 * * * *", policies)
}

#[tokio::test(start_paused = true)]
async fn each_instant_runs_once_within_its_second() {
    let world = World::new();
    let rig = world.start(report(&[]));
    minutes(61).await;
    rig.stop().await;

    assert_eq!(world.minutes(), (1..=12).map(|n| 5 * n).collect::<Vec<_>>());
    for ran in world.ran() {
        assert!(ran.accepted.since(ran.instant.unwrap()) < Duration::from_secs(1), "{ran:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a16_three_expressions_run_each_at_its_own_times_and_the_wrong_one_is_reported() {
    let world = World::new();
    let rig =
        world.start(wish("f", "*/5 * * * *; @every 90m; CRON_TZ=Asia/Tokyo 0 9 * * 1-5; 0 0 * * 7", &[]));
    let timetable = rig.timetable().await;
    assert_eq!(timetable.list().len(), 3);
    let problems = timetable.problems(&FunctionName::parse("f", "fn").unwrap());
    assert_eq!((problems.len(), &*problems[0].value), (1, "0 0 * * 7"));
    // From Thursday, 2026-01-01T00:00Z, to the next midnight, which is 9:00 on Friday in Tokyo.
    minutes(24 * 60 + 1).await;
    rig.stop().await;

    let all = world.minutes();
    assert_eq!(all.len(), 288 + 16 + 1);
    let mut schedules: Vec<usize> = Vec::new();
    for id in timetable.list().iter().map(|status| status.state.schedule.id.to_string()) {
        schedules.push(world.ran().iter().filter(|ran| ran.schedule == id).count());
    }
    schedules.sort_unstable();
    assert_eq!(schedules, [1, 16, 288]);
}

#[tokio::test(start_paused = true)]
async fn a_schedule_that_can_be_seen_is_asked_for_and_can_be_run_and_paused() {
    let world = World::new();
    world.slow.store(true, Ordering::SeqCst);
    let rig = world.start(report(&[]));
    let (timetable, id) = rig.only().await;

    assert!(timetable.list()[0].rules.is_some());
    assert_eq!(timetable.next(&id, 1).unwrap().len(), 1);
    timetable.run(&id).await.unwrap();
    assert!(timetable.pause(&id).await.unwrap());
    minutes(11).await;
    rig.stop().await;

    assert_eq!(world.ran().iter().map(|ran| ran.instant).collect::<Vec<_>>(), [None]);
}

#[tokio::test(start_paused = true)]
async fn after_a_stop_the_policy_says_what_runs() {
    for (policy, made_up) in
        [("latest", vec![25]), ("skip", vec![]), ("all", vec![10, 15, 20, 25]), ("all 2", vec![20, 25])]
    {
        let world = World::new();
        let wishes = report(&[("missed", policy)]);
        let rig = world.start(wishes.clone());
        minutes(6).await;
        rig.stop().await;
        minutes(23).await;
        let world = world.after_a_kill();
        let rig = world.start(wishes);
        minutes(2).await;
        rig.stop().await;

        let expected: Vec<u64> = [5].into_iter().chain(made_up).chain([30]).collect();
        assert_eq!(world.minutes(), expected, "{policy}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_missed_by_more_than_an_hour_is_passed_over() {
    let world = World::new();
    let wishes = wish("nightly", "0 2 * * *", &[]);
    let rig = world.start(wishes.clone());
    minutes(1).await;
    rig.kill().await;
    minutes(3 * 60 + 1).await;
    let rig = world.start(wishes);
    minutes(1).await;
    rig.stop().await;

    assert_eq!(world.minutes(), Vec::<u64>::new());
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_ahead_misses_as_a_stop_does() {
    let world = World::new();
    let rig = world.start(report(&[]));
    minutes(6).await;
    world.clock.jump_ahead(Duration::from_secs(3 * 3600));
    minutes(5).await;
    rig.stop().await;

    assert_eq!(world.minutes(), [5, 185, 190]);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_repeats_nothing_and_silences_nothing() {
    let world = World::new();
    let rig = world.start(report(&[]));
    minutes(61).await;
    let before = world.minutes();
    world.clock.jump_back(Duration::from_secs(2 * 3600));
    // It is 59 minutes before the beginning now.
    minutes(130).await;
    rig.stop().await;

    let all: Vec<_> = world.ran().iter().map(|ran| ran.instant).collect();
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "each instant once: {all:?}");
    // It was set from minute 61 to -59; what had not run at -55, -50 … runs, 5 to 60 had, and 65 and 70 are new.
    assert_eq!(all.len(), before.len() + 12 + 2);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_was_ahead_before_a_restart_silences_nothing() {
    let world = World::new();
    world.clock.jump_ahead(Duration::from_secs(10 * 3600));
    let rig = world.start(report(&[]));
    minutes(6).await;
    rig.stop().await;
    world.clock.jump_back(Duration::from_secs(10 * 3600));
    let world = world.after_a_kill();
    let rig = world.start(report(&[]));
    minutes(10).await;
    rig.stop().await;

    assert_eq!(world.minutes(), [605, 10, 15]);
}

#[tokio::test(start_paused = true)]
async fn where_clocks_are_set_the_policy_says_what_runs() {
    // The night to 2026-03-29, when 2:00 to 3:00 is skipped in Vienna; and to 2026-10-25, when it comes twice.
    let (spring, autumn) = (87 * 24, 297 * 24);
    for (policy, in_spring, in_autumn) in [("openfaas", 0, 2), ("skip", 0, 1), ("once", 1, 1)] {
        for (hours, runs) in [(spring, in_spring), (autumn, in_autumn)] {
            let world = World::new();
            world.clock.jump_ahead(Duration::from_secs((hours - 6) * 3600));
            let policies = [("dst", policy), ("time-zone", "Europe/Vienna")];
            let rig = world.start(wish("f", "30 2 * * *", &policies));
            minutes(12 * 60).await;
            rig.stop().await;
            assert_eq!(world.ran().len(), runs, "{policy}, {hours}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_counts_from_its_first_sight_over_restarts() {
    let world = World::new();
    minutes(7).await;
    let wishes = wish("f", "@every 10m", &[]);
    for _ in 0..3 {
        let rig = world.start(wishes.clone());
        minutes(13).await;
        rig.kill().await;
    }

    assert_eq!(world.minutes(), [17, 27, 37]);
}

#[tokio::test(start_paused = true)]
async fn jitter_moves_a_run_to_the_same_moment_before_and_after_a_restart() {
    let jittered = report(&[("jitter", "4m")]);
    let moments = async |kill_at: Option<u64>| {
        let world = World::new();
        let mut rig = world.start(jittered.clone());
        let mut passed = 0;
        if let Some(at) = kill_at {
            tokio::time::sleep(Duration::from_secs(at)).await;
            rig.kill().await;
            rig = world.start(jittered.clone());
            passed = at;
        }
        tokio::time::sleep(Duration::from_secs(3600 - passed)).await;
        rig.stop().await;
        world.ran()
    };

    let undisturbed = moments(None).await;
    assert!(undisturbed.iter().any(|ran| ran.accepted.since(ran.instant.unwrap()) > Duration::from_secs(10)));
    for at in [301, 400, 660, 1000] {
        assert_eq!(moments(Some(at)).await, undisturbed, "killed after {at} s");
    }
}

#[tokio::test(start_paused = true)]
async fn without_overlap_a_run_waits_for_nothing_and_is_passed_over() {
    let wishes = report(&[("overlap", "skip")]);
    let world = World::new();
    let rig = world.start(wishes.clone());
    minutes(16).await;
    assert_eq!(world.minutes(), [5], "the first is held all the time");

    // A restart does not forget it.
    rig.stop().await;
    let world = world.after_a_kill();
    let rig = world.start(wishes);
    minutes(5).await;
    assert_eq!(world.minutes(), [5]);

    end_all(&world).await;
    minutes(5).await;
    rig.stop().await;
    assert_eq!(world.minutes(), [5, 25]);
}

async fn end_all(world: &World) {
    let page = Page { limit: 10, cursor: None };
    for record in world.store.list(&Filter::default(), &page).await.expect("a healthy store").items {
        world.store.cancel(record.invocation.id).await.expect("a healthy store");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_outlives_a_restart_and_a_resume_goes_on_from_then() {
    let world = World::new();
    let rig = world.start(report(&[("missed", "all")]));
    let (timetable, id) = rig.only().await;
    minutes(6).await;
    assert!(timetable.pause(&id).await.unwrap());
    minutes(10).await;
    rig.kill().await;
    let world = world.after_a_kill();
    let rig = world.start(report(&[("missed", "all")]));
    let (timetable, id) = rig.only().await;
    assert!(timetable.list()[0].state.paused);
    assert_eq!(timetable.list()[0].next, None);
    minutes(10).await;
    assert!(timetable.resume(&id).await.unwrap());
    minutes(5).await;
    rig.stop().await;

    assert_eq!(world.minutes(), [5, 30]);
}

#[tokio::test(start_paused = true)]
async fn a_backfill_runs_what_has_not_run_and_no_more() {
    let world = World::new();
    let rig = world.start(report(&[("missed", "skip")]));
    let (timetable, id) = rig.only().await;
    minutes(6).await;
    timetable.pause(&id).await.unwrap();
    minutes(20).await;
    let (from, now) = (TestClock::BEGINNING, world.clock.now());

    let first = timetable.backfill(&id, from, now).await.unwrap();
    let again = timetable.backfill(&id, from, now).await.unwrap();

    assert_eq!((first.ran, first.ran_before), (5, 1), "0, 10, 15, 20, 25; 5 had run");
    assert_eq!((again.ran, again.ran_before), (0, 6));
    assert_eq!(world.minutes(), [5, 0, 10, 15, 20, 25]);
    let ahead = timetable.backfill(&id, from, now + Duration::from_secs(60)).await;
    assert!(matches!(ahead, Err(TimetableError::Range(_))), "{ahead:?}");
    world.clock.jump_ahead(Duration::from_secs(5 * 1001 * 60));
    let much = timetable.backfill(&id, from, world.clock.now()).await;
    assert!(matches!(much, Err(TimetableError::Range(_))), "{much:?}");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_run_by_hand_is_one_more_and_takes_no_instants_place() {
    let world = World::new();
    let rig = world.start(report(&[]));
    let (timetable, id) = rig.only().await;
    minutes(5).await;
    breathe().await;
    assert_eq!(timetable.run(&id).await.unwrap().invocations.len(), 1);
    assert_eq!(timetable.run(&id).await.unwrap().invocations.len(), 1);
    minutes(6).await;
    rig.stop().await;

    assert_eq!((world.minutes(), world.ran().len()), (vec![5, 10], 4));
}

#[tokio::test(start_paused = true)]
async fn next_times_are_shown_as_they_will_come() {
    let world = World::new();
    let rig = world.start(report(&[]));
    let (timetable, id) = rig.only().await;
    let next = timetable.next(&id, 3).unwrap();
    assert_eq!(timetable.list()[0].next, Some(next[0]));
    minutes(16).await;
    rig.stop().await;

    assert_eq!(world.ran().into_iter().filter_map(|ran| ran.instant).collect::<Vec<_>>(), next);
}

#[tokio::test(start_paused = true)]
async fn refused_runs_are_offered_again_until_they_are_taken() {
    let world = World::new();
    let rig = world.start(report(&[]));
    world.refusing.store(true, Ordering::SeqCst);
    minutes(8).await;
    world.refusing.store(false, Ordering::SeqCst);
    minutes(3).await;
    rig.stop().await;

    assert_eq!(world.minutes(), [5, 10]);
}

#[tokio::test(start_paused = true)]
async fn a_schedule_is_kept_for_an_hour_after_the_last_function_asked_for_it() {
    let world = World::new();
    let wishes = wish("f", "@every 10m", &[("missed", "all")]);
    let rig = world.start(wishes.clone());
    minutes(11).await;
    rig.wishes.send_replace(Arc::default());
    minutes(30).await;
    assert_eq!(world.store.schedules().len(), 1);
    assert!(rig.timetable().await.list()[0].rules.is_none());
    // It comes back with its anchor, and what it did not ask for it has not missed.
    rig.wishes.send_replace(Arc::new(wishes));
    minutes(10).await;
    assert_eq!(world.minutes(), [10, 50]);

    rig.wishes.send_replace(Arc::default());
    minutes(62).await;
    rig.stop().await;
    assert_eq!(world.store.schedules().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_changed_policy_keeps_the_schedule_and_a_changed_expression_is_another() {
    let world = World::new();
    let rig = world.start(report(&[]));
    let (timetable, id) = rig.only().await;
    timetable.pause(&id).await.unwrap();
    rig.wishes.send_replace(Arc::new(report(&[("overlap", "skip")])));
    breathe().await;
    let (_, same) = rig.only().await;
    assert_eq!((same, &*timetable.list()[0].rules.clone().unwrap().overlap), (id.clone(), "skip"));
    rig.wishes.send_replace(Arc::new(wish("report", "*/7 * * * *", &[])));
    breathe().await;

    let asked: Vec<_> = timetable.list().into_iter().filter(|status| status.rules.is_some()).collect();
    assert_eq!(asked.len(), 1);
    assert_ne!(asked[0].state.schedule.id, id);
    assert!(matches!(timetable.run(&id).await, Err(TimetableError::Unasked(_))));
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_second_source_runs_nothing_until_the_first_has_stopped() {
    let world = World::new();
    let board = Arc::new(TimetableBoard::default());
    let health = || HealthBoard::new(world.clock.clone());
    let first = world.start_on(&board, "one", report(&[]), health());
    breathe().await;
    let second = world.start_on(&board, "two", report(&[]), health());
    let refused = second.task.await.unwrap();
    assert!(
        matches!(&refused, Err(SourceError::Unusable { what, .. }) if what.contains("source one")),
        "{refused:?}"
    );

    first.stop().await;
    let third = world.start_on(&board, "two", report(&[]), health());
    minutes(6).await;
    third.stop().await;
    assert_eq!(world.minutes(), [5]);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_schedules_of_one_instant_all_run() {
    let world = World::new();
    let mut wishes = ScheduleWishes::new();
    for n in 0..1000 {
        wishes.extend(wish(&format!("f{n}"), "0 * * * *", &[]));
    }
    let rig = world.start(wishes);
    minutes(61).await;
    rig.stop().await;

    assert_eq!(world.minutes(), [60; 1000]);
}

#[tokio::test(start_paused = true)]
async fn what_became_of_instants_is_counted() {
    let world = World::new();
    let rig = world.start(report(&[("overlap", "skip")]));
    minutes(16).await;
    world.clock.jump_ahead(Duration::from_secs(3600));
    minutes(1).await;
    let (timetable, id) = rig.only().await;
    timetable.run(&id).await.unwrap();
    let series = rig.board.series();
    let counts: Vec<_> = series.iter().map(|(_, labels, value)| (labels.join(" "), value)).collect();
    rig.stop().await;

    let expected = [("by-hand", 1), ("missed", 11), ("overlap", 3), ("ran", 1)];
    assert_eq!(counts, expected.map(|(outcome, count)| (format!("clock {outcome}"), count)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// However often and whenever the process dies or the clock is set: no instant runs twice; and every instant that a
    /// living process saw come runs.
    #[test]
    fn kills_and_jumps_at_any_moment_never_double(
        steps in proptest::collection::vec((1u64..900, 0u8..6, 1u64..7200), 1..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut world = World::new();
            let wishes = wish("f", "* * * * *; @every 97s", &[("missed", "all 1000"), ("jitter", "20s")]);
            let mut rig = world.start(wishes.clone());
            for (seconds, what, jump) in steps {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                match what {
                    0 => world.clock.jump_ahead(Duration::from_secs(jump)),
                    1 => world.clock.jump_back(Duration::from_secs(jump)),
                    2 | 3 => {
                        rig.kill().await;
                        world = world.after_a_kill();
                        rig = world.start(wishes.clone());
                    }
                    _ => {}
                }
            }
            rig.stop().await;
            let mut seen = BTreeSet::new();
            for ran in world.ran() {
                assert!(seen.insert((ran.schedule.clone(), ran.instant)), "{ran:?} ran twice");
            }
        });
    }
}
