//! What follows an attempt: waits, retries, ends, callbacks.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use broker_engine::EngineSettings;
use broker_engine::gateway::Exchange;
use broker_model::function::{Concurrency, OnDeadLetter};
use broker_model::{Body, Origin, Outcome, Reason, Record, State};

use crate::broker::{Broker, LONG, Start, function, secs};
use crate::script::{Reply, Script};
use testkit::time::eventually;

async fn start(script: &Arc<Script>) -> Broker {
    Broker::start(Start { gateway: Some(script.clone()), ..Start::default() }).await
}

fn text(record: &Record, name: &str) -> String {
    record.invocation.headers.text(name).unwrap_or("(absent)").to_owned()
}

#[tokio::test(start_paused = true)]
async fn a_call_runs_once_and_completes() {
    let script = Script::new(|_| Reply::status(200).body("done"));
    script.deploy("env", &[]);
    let broker = start(&script).await;

    let id = broker.call("env").await;
    let record = broker.reaches(id, State::Completed).await;

    let seen = script.seen();
    assert_eq!((seen.len(), seen[0].path.as_str(), seen[0].attempt()), (1, "/function/env/", 1));
    assert_eq!(seen[0].header("evoke-invocation-id"), Some(id.to_string().as_str()));
    assert_eq!(seen[0].header("x-call-id"), Some(record.invocation.call_id.as_str()));
    assert_eq!(seen[0].header("x-start-time").map(str::len), Some(19));
    assert!(seen[0].header("user-agent").unwrap().starts_with("evoke/"));
    assert!(seen[0].header("traceparent").is_some());
    assert_eq!(&record.attempts.latest().unwrap().excerpt[..], b"done");
    broker.assert_conserved();
}

#[tokio::test(start_paused = true)]
async fn a8_a_core_error_is_retried_though_its_code_is_not_listed() {
    let script = Script::in_turn([|| Reply::core(418), || Reply::status(200)]);
    script.deploy("env", &[]);
    let broker = start(&script).await;

    let id = broker.call("env").await;
    broker.reaches(id, State::Completed).await;

    assert_eq!(script.gaps(), [10]);
    assert_eq!(script.seen()[1].attempt(), 2);
}

#[tokio::test(start_paused = true)]
async fn a9_a_429_waits_as_long_as_retry_after_says_but_not_less_than_min_wait() {
    let script = Script::in_turn([
        || Reply::status(429).header("retry-after", "3"),
        || Reply::status(429).header("retry-after", "30"),
        || Reply::status(200),
    ]);
    script.deploy("env", &[]);
    let broker = start(&script).await;

    let id = broker.call("env").await;
    broker.reaches(id, State::Completed).await;

    assert_eq!(script.gaps(), [10, 30]);
}

#[tokio::test(start_paused = true)]
async fn a10_an_invalid_annotation_is_reported_and_the_default_used() {
    let script = Script::new(|_| Reply::status(500));
    script.deploy("env", &[("com.openfaas.retry.attempts", "x"), ("com.openfaas.retry.max_wait", "20s")]);
    let broker = start(&script).await;

    let id = broker.call("env").await;
    let record = broker.reaches(id, State::Dead).await;

    assert_eq!(record.attempts.len(), 101);
    let table = broker.engine.functions().table();
    let problems = &table.get(&function("env")).unwrap().problems;
    assert_eq!((problems.len(), &*problems[0].key), (1, "com.openfaas.retry.attempts"));
}

#[tokio::test(start_paused = true)]
async fn a11_exhausted_attempts_end_in_a_callback_and_a_dead_letter() {
    let script = Script::new(|_| Reply::status(503).body("no"));
    script.deploy("env", &[("com.openfaas.retry.attempts", "2"), ("com.openfaas.retry.min_wait", "1s")]);
    let broker = start(&script).await;

    let id = broker.submit("env", |call| call.callback_url = Some("later".into())).await;
    let record = broker.reaches(id, State::Dead).await;

    assert_eq!(record.dead_letter.unwrap().reason, Reason::Exhausted);
    assert_eq!(script.gaps(), [1, 2]);
    let callback = broker.followed(id).await.remove(0);
    assert_eq!((text(&callback, "x-retry"), text(&callback, "x-retry-max")), ("2".into(), "2".into()));
    assert_eq!(text(&callback, "x-function-status"), "503");
    assert_eq!(callback.invocation.body, Body::Inline("no".into()));
}

#[tokio::test(start_paused = true)]
async fn a7_without_an_answer_the_callback_says_503_and_is_empty() {
    let script = Script::new(|_| Reply::dropped());
    script.deploy("env", &[("com.openfaas.retry.attempts", "0")]);
    let broker = start(&script).await;

    let id = broker.submit("env", |call| call.callback_url = Some("later".into())).await;
    broker.reaches(id, State::Dead).await;

    let callback = broker.followed(id).await.remove(0);
    assert_eq!(text(&callback, "x-function-status"), "503");
    assert_eq!(text(&callback, "x-function-name"), "env");
    assert_eq!(callback.invocation.body, Body::EMPTY);
    let dead = broker.reaches(callback.invocation.id, State::Dead).await;
    assert_eq!(dead.dead_letter.unwrap().reason, Reason::CallbackDenied, "a relative url cannot be called");
}

#[tokio::test(start_paused = true)]
async fn an_expired_function_token_is_final() {
    let script = Script::new(|_| Reply::core(401));
    script.deploy("env", &[]);
    let broker = start(&script).await;

    let id = broker.call("env").await;
    let record = broker.reaches(id, State::Dead).await;

    assert_eq!((record.dead_letter.unwrap().reason, script.count()), (Reason::Rejected, 1));
}

#[tokio::test(start_paused = true)]
async fn a_functions_own_429_counts_and_the_cores_does_not_for_an_hour() {
    let own = Script::new(|_| Reply::status(429));
    own.deploy("env", &[("com.openfaas.retry.attempts", "3")]);
    let broker = start(&own).await;
    let id = broker.call("env").await;
    assert_eq!(broker.reaches(id, State::Dead).await.attempts.len(), 4);
    drop(broker);

    let core = Script::new(|_| Reply::core(429));
    core.deploy("env", &[("com.openfaas.retry.attempts", "3")]);
    let broker = start(&core).await;
    let id = broker.call("env").await;
    let record = broker.reaches(id, State::Dead).await;

    assert_eq!(record.attempts.len(), 4, "only those after the hour");
    let lasted = core.seen().last().unwrap().at;
    assert!(lasted > secs(3600), "{lasted:?}");
    assert!(core.count() < 400, "{} calls: a function without room is not hammered", core.count());
}

#[tokio::test(start_paused = true)]
async fn a_function_without_room_is_spared_and_its_backlog_runs_when_there_is_room() {
    // Two run at once; each further one is told that there is no room.
    let running = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let busy = running.clone();
    let script = Script::new(move |_| {
        if busy.fetch_add(1, Ordering::SeqCst) >= 2 {
            busy.fetch_sub(1, Ordering::SeqCst);
            return Reply::core(429);
        }
        let done = busy.clone();
        tokio::spawn(async move {
            tokio::time::sleep(secs(1)).await;
            done.fetch_sub(1, Ordering::SeqCst);
        });
        Reply::status(200).after(secs(1))
    });
    script.deploy("env", &[("evoke.concurrency", "16")]);
    let broker = start(&script).await;

    let mut ids = Vec::new();
    for _ in 0..100 {
        ids.push(broker.call("env").await);
    }
    for id in ids {
        broker.reaches(id, State::Completed).await;
    }

    let refused = script.count() - 100;
    assert!(refused < 300, "{refused} calls went where there was no room");
    broker.assert_conserved();
}

#[tokio::test(start_paused = true)]
async fn a_function_steers_its_outcome() {
    let script = Script::in_turn([
        || Reply::status(200).header("evoke-outcome", "retry;after=45"),
        || Reply::status(500).header("evoke-outcome", "done"),
        || Reply::status(200).header("evoke-outcome", "dead;reason=bad-schema"),
    ]);
    script.deploy("env", &[]);
    let broker = start(&script).await;

    let id = broker.call("env").await;
    broker.reaches(id, State::Completed).await;
    let id = broker.call("env").await;
    let record = broker.reaches(id, State::Dead).await;

    assert_eq!(script.gaps()[0], 45);
    let letter = record.dead_letter.unwrap();
    assert_eq!((letter.reason, &*letter.detail), (Reason::Asked, "bad-schema"));
}

#[tokio::test(start_paused = true)]
async fn a_function_that_never_answers_ends_at_its_timeout_as_one_attempt() {
    let script = Script::new(|_| Reply::status(200).after(LONG));
    script.deploy("env", &[("evoke.timeout", "30s"), ("com.openfaas.retry.attempts", "1")]);
    let broker = start(&script).await;

    let id = broker.call("env").await;
    let record = broker.reaches(id, State::Dead).await;

    assert_eq!(script.gaps(), [40]);
    let kept: Vec<_> = record.attempts.kept().map(|attempt| attempt.outcome.clone()).collect();
    assert_eq!(kept, [Outcome::TimedOut, Outcome::TimedOut]);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_drops_the_connection_after_a_minute_is_one_attempt_each_time() {
    let script = Script::in_turn([|| Reply::dropped().after(secs(60)), || Reply::status(200)]);
    script.deploy("env", &[]);
    let broker = start(&script).await;

    let id = broker.call("env").await;
    let record = broker.reaches(id, State::Completed).await;

    assert_eq!((record.attempts.len(), script.count()), (2, 2));
    assert_eq!(script.gaps(), [70], "its minute, and the wait before the first retry");
    assert!(broker.engine.functions().gateway_down().is_none());
}

#[tokio::test(start_paused = true)]
async fn an_answer_over_the_limit_is_cut_and_says_so() {
    let script = Script::new(|_| Reply::status(200).body("0123456789").body("abcdefghij").body("never read"));
    script.deploy("env", &[]);
    let settings = EngineSettings { response_limit: 15, ..EngineSettings::default() };
    let broker = Broker::start(Start { settings, gateway: Some(script.clone()), ..Start::default() }).await;

    let id = broker.submit("env", |call| call.callback_url = Some("later".into())).await;
    broker.reaches(id, State::Completed).await;

    let callback = broker.followed(id).await.remove(0);
    assert_eq!(text(&callback, "evoke-truncated"), "true");
    assert_eq!(callback.invocation.body, Body::Inline("0123456789abcde".into()));
}

#[tokio::test(start_paused = true)]
async fn a_large_answer_goes_over_disk_whole() {
    let script = Script::new(|_| (0..64).fold(Reply::status(200), |reply, n| reply.body(vec![n; 16 * 1024])));
    script.deploy("env", &[]);
    let broker = start(&script).await;

    let id = broker.submit("env", |call| call.callback_url = Some("later".into())).await;
    broker.reaches(id, State::Completed).await;

    let callback = broker.followed(id).await.remove(0);
    assert!(matches!(callback.invocation.body, Body::Stored(_)), "{:?}", callback.invocation.body);
    assert_eq!(callback.invocation.body.len(), 1024 * 1024);
    assert_eq!(broker.engine.budget().free(), broker.engine.budget().capacity());
}

#[tokio::test(start_paused = true)]
async fn a_function_whose_4xx_is_an_answer_completes_with_it() {
    let script = Script::new(|_| Reply::status(404).body("no such order"));
    script.deploy("env", &[("evoke.dead-letter", "exhausted")]);
    let broker = start(&script).await;

    let id = broker.submit("env", |call| call.callback_url = Some("later".into())).await;
    broker.reaches(id, State::Completed).await;

    assert_eq!(text(&broker.followed(id).await.remove(0), "x-function-status"), "404");
}

#[tokio::test(start_paused = true)]
async fn an_unknown_function_waits_five_minutes_before_its_calls_are_dead() {
    let script =
        Script::new(|_| Reply::status(404).body("error finding function ghost.openfaas-fn: not found"));
    let broker = start(&script).await;

    let ids = [broker.call("ghost").await, broker.call("ghost").await, broker.call("ghost").await];
    for id in ids {
        let record = broker.reaches(id, State::Dead).await;
        assert_eq!(record.dead_letter.unwrap().reason, Reason::FunctionMissing);
        assert_eq!(record.attempts.len(), 1, "waiting for it was no attempt");
    }

    let lasted = script.seen().last().unwrap().at;
    assert!(lasted >= secs(300) && lasted < secs(900), "{lasted:?}");
    broker.assert_conserved();
}

#[tokio::test(start_paused = true)]
async fn a_function_that_comes_back_within_five_minutes_runs() {
    let script = Script::new(|seen| {
        if seen.at < secs(200) {
            Reply::core(503).body("No endpoints available for: ghost.")
        } else {
            Reply::status(200)
        }
    });
    let broker = start(&script).await;

    let id = broker.call("ghost").await;
    tokio::time::sleep(secs(201)).await;
    script.deploy("ghost", &[]);
    let record = broker.reaches(id, State::Completed).await;

    assert_eq!(record.attempts.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_cannot_say_whether_it_knows_a_function_costs_an_attempt() {
    let script = Script::in_turn([
        || Reply::status(404).body("error finding function env.openfaas-fn: provider is away"),
        || Reply::status(200),
    ]);
    script.deploy("env", &[]);
    let broker = start(&script).await;
    script.lists.store(false, Ordering::SeqCst);

    let id = broker.call("env").await;
    let record = broker.reaches(id, State::Completed).await;

    assert_eq!(record.attempts.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_lane_whose_calls_all_fail_sends_one_probe_at_a_time() {
    let script =
        Script::new(|seen| if seen.at < secs(1800) { Reply::status(500) } else { Reply::status(200) });
    script.deploy("env", &[("evoke.concurrency", "10")]);
    let broker = start(&script).await;

    let mut ids = Vec::new();
    for _ in 0..50 {
        ids.push(broker.call("env").await);
    }
    tokio::time::sleep(secs(1700)).await;
    let reason = broker.engine.functions().lane_states(&function("env"))[0].waiting_reason;
    for id in ids {
        broker.reaches(id, State::Completed).await;
    }

    assert_eq!(reason.map(broker_engine::WaitingReason::as_str), Some("failing"));
    assert!(script.count() < 150, "{} calls", script.count());
}

#[tokio::test(start_paused = true)]
async fn the_probes_of_a_failing_lane_go_round_its_calls() {
    let script = Script::new(|_| Reply::status(500));
    script.deploy("env", &[("evoke.concurrency", "4"), ("com.openfaas.retry.max_wait", "60s")]);
    let broker = start(&script).await;
    let mut ids = Vec::new();
    for _ in 0..30 {
        ids.push(broker.call("env").await);
    }

    // Twenty failures trip it; an hour of one probe a minute is two rounds of all thirty.
    eventually(LONG, "the lane to be spared", async || script.count() >= 20).await;
    tokio::time::sleep(secs(3600)).await;

    let mut attempts = Vec::new();
    for id in &ids {
        attempts.push(broker.find(*id).await.attempts.len());
    }
    let (fewest, most) = (attempts.iter().min().unwrap(), attempts.iter().max().unwrap());
    assert!(*fewest >= 2 && most - fewest <= 1, "attempts of each: {attempts:?}");
    assert_eq!(script.running.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_slow_function_never_delays_another() {
    let script = Script::new(|seen| {
        if seen.path.starts_with("/function/slow") {
            Reply::status(200).after(secs(3600))
        } else {
            Reply::status(200)
        }
    });
    script.deploy("slow", &[("evoke.concurrency", "200")]);
    script.deploy("quick", &[]);
    let broker = start(&script).await;

    for _ in 0..2000 {
        broker.call("slow").await;
    }
    let began = tokio::time::Instant::now();
    for _ in 0..20 {
        let id = broker.call("quick").await;
        broker.reaches(id, State::Completed).await;
    }

    assert!(began.elapsed() < secs(30), "{:?}", began.elapsed());
    assert_eq!(script.running.load(Ordering::SeqCst), 200);
}

#[tokio::test(start_paused = true)]
async fn functions_share_the_global_limit_in_turn() {
    let script = Script::new(|_| Reply::status(200).after(secs(1)));
    for name in ["a", "b", "c"] {
        script.deploy(name, &[("evoke.concurrency", "100")]);
    }
    let mut settings = EngineSettings::default();
    settings.delivery.max_concurrency = 12.try_into().unwrap();
    let broker = Broker::start(Start { settings, gateway: Some(script.clone()), ..Start::default() }).await;
    for name in ["a", "b", "c"] {
        broker.engine.control().pause_function(&function(name)).await.unwrap();
        for _ in 0..100 {
            broker.call(name).await;
        }
    }
    tokio::time::sleep(secs(1)).await;
    for name in ["a", "b", "c"] {
        broker.engine.control().resume_function(&function(name)).await.unwrap();
    }

    eventually(LONG, "90 calls", async || script.count() >= 90).await;

    assert_eq!(script.peak.load(Ordering::SeqCst), 12);
    for name in ["a", "b", "c"] {
        let path = format!("/function/{name}/");
        let count = script.seen().iter().take(90).filter(|seen| seen.path == path).count();
        assert!((20..=45).contains(&count), "{name}: {count} of 90");
    }
}

#[tokio::test(start_paused = true)]
async fn a_sleeping_function_gets_one_wake_call() {
    let script =
        Script::new(|seen| Reply::status(200).after(if seen.at < secs(60) { secs(60) } else { secs(1) }));
    script.deploy_with("env", 0, &[]);
    let broker = start(&script).await;

    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(broker.call("env").await);
    }
    tokio::time::sleep(secs(30)).await;
    assert_eq!(script.count(), 1);

    for id in ids {
        broker.reaches(id, State::Completed).await;
    }
    assert!(script.peak.load(Ordering::SeqCst) >= 4);
}

#[tokio::test(start_paused = true)]
async fn an_old_call_expires_when_it_would_run_and_not_before() {
    let script = Script::new(|_| Reply::status(200));
    script.deploy("env", &[("evoke.max-age", "1h")]);
    let broker = start(&script).await;
    let control = broker.engine.control();
    control.pause_function(&function("env")).await.unwrap();

    let id = broker.submit("env", |call| call.callback_url = Some("later".into())).await;
    let patient = broker.submit("env", |call| call.max_age = Some(secs(10 * 3600))).await;
    tokio::time::sleep(secs(2 * 3600)).await;
    assert_eq!(broker.find(id).await.state, State::Waiting, "nothing expires while paused");
    control.resume_function(&function("env")).await.unwrap();

    let record = broker.reaches(id, State::Dead).await;
    assert_eq!(record.dead_letter.unwrap().reason, Reason::Expired);
    assert!(record.attempts.is_empty());
    assert_eq!(text(&broker.followed(id).await.remove(0), "x-function-status"), "503");
    broker.reaches(patient, State::Completed).await;
    assert_eq!(script.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_is_told_to_a_function_once_and_not_in_circles() {
    let script = Script::new(|_| Reply::status(400).body("bad"));
    script.deploy("env", &[("evoke.on-dead-letter", "alarm")]);
    script.deploy("alarm", &[("evoke.on-dead-letter", "alarm"), ("com.openfaas.queue", "alarms")]);
    let broker = start(&script).await;

    let id = broker.submit("env", |call| call.headers.append("content-type", "text/plain")).await;
    broker.reaches(id, State::Dead).await;

    let copy = broker.followed(id).await.remove(0);
    let copy = broker.reaches(copy.invocation.id, State::Dead).await;
    assert_eq!(copy.invocation.origin, Origin::DeadLetter { of: id });
    assert_eq!(copy.invocation.lane.queue.as_str(), "alarms");
    let seen = script.seen().pop().unwrap();
    assert_eq!(seen.path, "/function/alarm");
    assert_eq!(seen.header("evoke-dead-letter-reason"), Some("rejected"));
    assert_eq!(seen.header("evoke-dead-letter-id"), Some(id.to_string().as_str()));
    assert_eq!(
        (seen.header("x-function-name"), seen.header("x-function-status")),
        (Some("env"), Some("400"))
    );
    assert_eq!(seen.header("content-type"), Some("text/plain"));
    assert!(broker.followed(copy.invocation.id).await.is_empty());
    broker.assert_conserved();
}

#[tokio::test(start_paused = true)]
async fn want_of_files_or_ports_is_our_error_and_nobodys_attempt() {
    let script = Script::new(|seen| {
        if seen.at < secs(5) {
            Reply::of(Exchange::OutOfResources("too many open files".into()))
        } else {
            Reply::status(200)
        }
    });
    script.deploy("env", &[("evoke.concurrency", "50"), ("com.openfaas.retry.attempts", "0")]);
    let broker = start(&script).await;

    let mut ids = Vec::new();
    for _ in 0..50 {
        ids.push(broker.call("env").await);
    }
    for id in ids {
        assert_eq!(broker.reaches(id, State::Completed).await.attempts.len(), 1);
    }

    assert!(broker.engine.functions().gateway_down().is_none());
    assert!(!broker.scrape().contains("evoke_out_of_resources_total 0"));
}

#[tokio::test(start_paused = true)]
async fn a_reload_changes_what_follows() {
    let script = Script::new(|_| Reply::status(400));
    script.deploy("env", &[]);
    let broker = start(&script).await;
    let mut settings = EngineSettings::default();
    settings.delivery.on_dead_letter = Some(OnDeadLetter::Function("alarm".into()));
    settings.delivery.concurrency = Concurrency::Fixed(7.try_into().unwrap());

    broker.engine.reload(settings).unwrap();
    let id = broker.call("env").await;
    broker.reaches(id, State::Dead).await;

    assert_eq!(broker.followed(id).await.len(), 1);
    assert_eq!(broker.engine.functions().lane_states(&function("env"))[0].limit, 7);
}

#[tokio::test(start_paused = true)]
async fn waits_are_unharmed_by_clock_jumps_and_due_times_follow_the_wall_clock() {
    let script = Script::in_turn([|| Reply::status(500), || Reply::status(200)]);
    script.deploy("env", &[]);
    let broker = start(&script).await;
    let id = broker.call("env").await;
    eventually(LONG, "the first attempt", async || script.count() == 1).await;

    broker.clock.jump_back(secs(86_400));
    broker.reaches(id, State::Completed).await;
    assert_eq!(script.gaps(), [10]);

    let due = broker_model::Clock::now(&*broker.clock) + secs(3600);
    let later = broker.submit("env", |call| call.due = Some(due)).await;
    tokio::time::sleep(secs(60)).await;
    assert_eq!(broker.find(later).await.state, State::Waiting);
    broker.clock.jump_ahead(secs(3600));
    let began = tokio::time::Instant::now();
    broker.reaches(later, State::Completed).await;
    assert!(began.elapsed() < secs(120), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn beyond_the_bound_functions_share_the_metrics_of_other() {
    let script = Script::new(|_| Reply::status(200));
    for name in ["a", "b", "c"] {
        script.deploy(name, &[]);
    }
    let settings = EngineSettings { metric_functions: 1, ..EngineSettings::default() };
    let broker = Broker::start(Start { settings, gateway: Some(script.clone()), ..Start::default() }).await;
    for name in ["a", "b", "c"] {
        let id = broker.call(name).await;
        broker.reaches(id, State::Completed).await;
    }

    let text = broker.scrape();

    for line in [
        "evoke_attempts_total{function=\"a.openfaas-fn\",class=\"success\"} 1",
        "evoke_attempts_total{function=\"other\",class=\"success\"} 2",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("b.openfaas-fn") && !text.contains("c.openfaas-fn"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn the_metrics_have_openfaas_names_and_follow_the_lanes() {
    let script = Script::new(|_| Reply::status(200));
    script.deploy("env", &[]);
    script.deploy("idle", &[("com.openfaas.queue", "slow")]);
    let broker = start(&script).await;
    let id = broker.call("env").await;
    broker.reaches(id, State::Completed).await;
    broker.engine.control().pause_function(&function("env")).await.unwrap();
    broker.call("env").await;
    let unlisted =
        broker.submit("ghost", |call| call.due = Some(broker_model::Clock::now(&*broker.clock) + LONG)).await;
    assert_eq!(broker.find(unlisted).await.state, State::Waiting);

    let text = broker.scrape();

    for line in [
        "queue_worker_pending_messages{queue_name=\"faas-request\",function_name=\"env.openfaas-fn\"} 0",
        "queue_worker_pending_messages{queue_name=\"slow\",function_name=\"idle.openfaas-fn\"} 0",
        "queue_worker_pending_messages{queue_name=\"faas-request\",function_name=\"other\"} 0",
        "queue_worker_function_invocation_inflight{queue_name=\"faas-request\",function_name=\"env.openfaas-fn\"} 0",
        "queue_worker_messages_processed_total{queue_name=\"faas-request\"} 1",
        "queue_worker_messages_submitted_total{queue_name=\"faas-request\"} 3",
        "evoke_accepted_total{origin=\"call\"} 3",
        "evoke_completed_total 1",
        "evoke_held 2",
        "evoke_ledger_drift 0",
        "evoke_attempts_total{function=\"env.openfaas-fn\",class=\"success\"} 1",
        "evoke_attempt_duration_seconds_count 1",
        "evoke_wait_seconds_count 1",
        "evoke_functions 2",
        "evoke_gateway_down 0",
    ] {
        assert!(text.lines().any(|have| have == line), "no line {line:?} in\n{text}");
    }
    assert!(!text.contains("ghost"), "a function nobody lists has no label of its own");
}
