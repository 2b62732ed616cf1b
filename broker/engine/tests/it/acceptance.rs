//! What is taken in, what is refused, and who waits.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use broker_engine::{EngineSettings, SubmitRefusal};
use broker_model::event::{DedupKey, Fingerprint};
use broker_model::intake::Quarantined;
use broker_model::queue::StoreError;
use broker_model::schedule::Instant;
use broker_model::{
    Body, CallId, Event, EventSink, Fire, Headers, Ledger, Partition, Position, Positions, Reason, Refusal,
    Schedule, ScheduleId, Schedules, SourceName, State, Timestamp,
};
use testkit::time::eventually;

use crate::broker::{Broker, LONG, Start, event, function, secs};
use crate::script::{Reply, Script};

async fn start(script: &Arc<Script>) -> Broker {
    Broker::start(Start { gateway: Some(script.clone()), ..Start::default() }).await
}

fn working() -> Arc<Script> {
    let script = Script::new(|_| Reply::status(200).header("content-type", "text/plain").body("done"));
    script.deploy("a", &[("topic", "orders")]);
    script.deploy("b", &[("evoke.topics", "@bus/ord*, orders"), ("com.openfaas.queue", "slow")]);
    script.deploy("env", &[]);
    script
}

#[tokio::test(start_paused = true)]
async fn an_event_becomes_one_invocation_for_each_function_that_wants_it() {
    let script = working();
    let broker = start(&script).await;

    let receipt = broker.engine.intake().publish(&event("orders")).await.unwrap();

    let names: Vec<_> = receipt.invocations.iter().map(|(function, _)| function.name()).collect();
    assert_eq!(names, ["a", "b"]);
    for (function, id) in &receipt.invocations {
        let record = broker.reaches(*id, State::Completed).await;
        let queue = if function.name() == "b" { "slow" } else { "faas-request" };
        assert_eq!(record.invocation.lane.queue.as_str(), queue);
    }
    let seen = script.seen();
    assert_eq!((seen[0].path.as_str(), seen[0].header("x-topic")), ("/function/a", Some("orders")));
    assert_eq!(seen[0].header("x-connector"), Some("connector-sdk"));
    assert_eq!(seen[0].header("ce-source"), Some("/evoke/bus"));
    assert_eq!(seen[0].header("x-call-id"), seen[1].header("x-call-id"));
    assert!(seen[0].header("x-start-time").is_none(), "the gateway gives an event its only one");
    broker.assert_conserved();
}

#[tokio::test(start_paused = true)]
async fn a_redelivered_event_makes_no_second_invocation() {
    let broker = start(&working()).await;
    let mut orders = event("orders");
    orders.dedup = Some(DedupKey { scope: "bus".into(), key: Fingerprint(1), request: Fingerprint(1) });

    let first = broker.engine.intake().publish(&orders).await.unwrap();
    let again = broker.engine.intake().publish(&orders).await.unwrap();

    assert!(again.duplicate && !first.duplicate);
    assert_eq!(again.invocations, first.invocations);
    orders.dedup.as_mut().unwrap().request = Fingerprint(2);
    assert!(matches!(broker.engine.intake().publish(&orders).await, Err(Refusal::KeyReused)));
}

#[tokio::test(start_paused = true)]
async fn an_event_with_a_position_is_known_by_it_alone() {
    let broker = start(&working()).await;
    let intake = broker.engine.intake();
    let partition = Partition::new(SourceName::parse("bus").unwrap(), "orders", "a", 0).unwrap();
    let partition = Arc::new(partition);
    // The key is the same for all, as when a rewound partition is read again inside the window.
    let key = DedupKey { scope: "bus".into(), key: Fingerprint(1), request: Fingerprint(1) };
    let at = |topic: &str, offset| Event {
        position: Some(Position { partition: partition.clone(), offset }),
        dedup: Some(key.clone()),
        ..event(topic)
    };

    let first = intake.publish(&at("orders", 0)).await.unwrap();
    let again = intake.publish(&at("orders", 0)).await.unwrap();
    let next = intake.publish(&at("orders", 1)).await.unwrap();
    let nobody = intake.publish(&at("nobody", 2)).await.unwrap();

    assert_eq!((first.invocations.len(), first.duplicate), (2, false));
    assert_eq!((again.invocations.len(), again.duplicate), (0, true));
    assert_eq!((next.invocations.len(), next.duplicate), (2, false));
    assert_eq!((nobody.invocations.len(), nobody.duplicate), (0, false));
    let marks = broker.store.marks(None);
    assert_eq!((marks.len(), marks[0].below), (1, 3), "what nobody wanted moves the mark as well");
    for id in first.invocations.iter().chain(&next.invocations).map(|(_, id)| *id) {
        broker.reaches(id, State::Completed).await;
    }
    broker.assert_conserved();
}

#[tokio::test(start_paused = true)]
async fn a_message_nobody_can_read_is_known_by_its_position() {
    let broker = start(&working()).await;
    let partition = Partition::new(SourceName::parse("bus").unwrap(), "orders", "a", 0).unwrap();
    let message = Quarantined {
        source: SourceName::parse("bus").unwrap(),
        topic: None,
        headers: Headers::new(),
        raw: "{".into(),
        why: "not JSON".into(),
        dedup: None,
        position: Some(Position { partition: Arc::new(partition), offset: 9 }),
    };

    let first = broker.engine.intake().quarantine(&message).await.unwrap();
    let again = broker.engine.intake().quarantine(&message).await.unwrap();

    assert_eq!((first.duplicate, again.duplicate), (false, true));
    assert_eq!(broker.store.totals().dead_in_all(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_run_of_a_schedule_goes_to_its_own_function_once() {
    let script = working();
    for name in ["report", "other"] {
        script.deploy(name, &[("topic", "cron-function"), ("schedule", "* * * * *")]);
    }
    let broker = start(&script).await;
    let id = ScheduleId::derive(&function("report"), "* * * * *", 0);
    let minute = |n: u64| Timestamp::from_millis(60_000 * n);
    let schedule = Schedule {
        id: id.clone(),
        function: function("report"),
        expression: "* * * * *".into(),
        anchor: minute(0),
    };
    broker.store.put_schedule(schedule).await.unwrap();
    let run = |instant| {
        let fire = Fire { schedule: id.clone(), function: function("report"), instant };
        Event { fire: Some(Box::new(fire)), ..event("cron-function") }
    };
    let instant = Some(Instant { at: minute(1), after: minute(0) });

    let first = broker.engine.intake().publish(&run(instant)).await.unwrap();
    let again = broker.engine.intake().publish(&run(instant)).await.unwrap();
    let by_hand = broker.engine.intake().publish(&run(None)).await.unwrap();

    assert!(again.duplicate && again.invocations.is_empty());
    for receipt in [&first, &by_hand] {
        let functions: Vec<_> = receipt.invocations.iter().map(|(function, _)| function.name()).collect();
        assert_eq!(functions, ["report"]);
        broker.reaches(receipt.invocations[0].1, State::Completed).await;
    }
    assert_eq!(broker.store.schedules()[0].last_fire, Some(minute(1)));
}

#[tokio::test(start_paused = true)]
async fn without_any_list_events_are_refused_and_calls_taken() {
    let script = working();
    script.lists.store(false, Ordering::SeqCst);
    let broker = Broker::without_list(Start { gateway: Some(script.clone()), ..Start::default() }).await;
    tokio::time::sleep(secs(600)).await;

    assert!(matches!(broker.engine.intake().publish(&event("orders")).await, Err(Refusal::NoFunctionList)));
    let submitted = broker.try_submit("env", |_| {}).await.unwrap();
    assert!(submitted.function_listed, "nobody can say that it is not");
    broker.reaches(submitted.id, State::Completed).await;

    script.lists.store(true, Ordering::SeqCst);
    broker.is_loaded().await;
    assert_eq!(broker.engine.intake().publish(&event("orders")).await.unwrap().invocations.len(), 2);
    assert!(!broker.try_submit("ghost", |_| {}).await.unwrap().function_listed);
}

#[tokio::test(start_paused = true)]
async fn with_a_list_from_disk_wanted_events_flow_and_others_are_given_back_for_a_minute() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("functions.json");
    let script = working();
    let start = |unmatched| {
        let mut settings = EngineSettings::default();
        settings.intake.unmatched = unmatched;
        Start { settings, gateway: Some(script.clone()), table_file: Some(file.clone()) }
    };
    drop(Broker::start(start(broker_config::Unmatched::Ack)).await);
    eventually(LONG, "the list on disk", async || file.exists()).await;
    script.lists.store(false, Ordering::SeqCst);

    for policy in [broker_config::Unmatched::Ack, broker_config::Unmatched::Hold] {
        let broker = Broker::without_list(start(policy)).await;
        let intake = broker.engine.intake();
        assert!(broker.engine.functions().loaded());
        assert_eq!(intake.publish(&event("orders")).await.unwrap().invocations.len(), 2);
        assert!(matches!(intake.publish(&event("nobody")).await, Err(Refusal::NoFunctionList)));

        tokio::time::sleep(secs(61)).await;
        let later = intake.publish(&event("nobody")).await;
        match policy {
            broker_config::Unmatched::Ack => assert!(later.unwrap().invocations.is_empty()),
            broker_config::Unmatched::Hold => assert!(matches!(later, Err(Refusal::NoFunctionList))),
        }
        assert!(broker.scrape().contains("evoke_events_total{source=\"bus\",outcome=\"refused\"}"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_nobody_can_read_is_kept_as_a_dead_letter() {
    let broker = start(&working()).await;
    let message = Quarantined {
        source: SourceName::parse("bus").unwrap(),
        topic: None,
        headers: Headers::new(),
        raw: "\u{0}garbage".into(),
        why: "not json".into(),
        dedup: None,
        position: None,
    };

    let receipt = broker.engine.intake().quarantine(&message).await.unwrap();

    assert!(receipt.invocations.is_empty());
    let filter = broker_model::ledger::Filter { reason: Some(Reason::Undecodable), ..Default::default() };
    let page = broker_model::ledger::Page { limit: 10, cursor: None };
    let dead = broker_model::Ledger::dead_letters(&broker.store, &filter, &page).await.unwrap().items;
    assert_eq!(dead[0].invocation.body, Body::Inline("\u{0}garbage".into()));
    broker.assert_conserved();
}

#[tokio::test(start_paused = true)]
async fn a_repeated_idempotency_key_answers_as_the_first_did() {
    let broker = start(&working()).await;
    let key = |call: &mut broker_engine::Submission| call.idempotency_key = Some("k".into());

    let first = broker
        .try_submit("env", |call| {
            key(call);
            call.call_id = Some(CallId::parse("mine").unwrap());
        })
        .await
        .unwrap();
    let again = broker.try_submit("env", key).await.unwrap();

    assert!(!first.duplicate && again.duplicate);
    assert_eq!((again.id, again.call_id.as_str(), again.start_time), (first.id, "mine", first.start_time));
    let other = broker.try_submit("env", |call| {
        key(call);
        call.body = Body::EMPTY;
    });
    assert!(matches!(other.await, Err(SubmitRefusal::KeyReused)));
    let elsewhere = broker.try_submit("a", key).await.unwrap();
    assert!(!elsewhere.duplicate, "keys are scoped by function");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_waits_gets_the_functions_answer() {
    let broker = start(&working()).await;

    let submitted = broker.try_submit("env", |call| call.wait = Some(secs(60))).await.unwrap();

    let answer = submitted.outcome.unwrap();
    assert_eq!((answer.state, answer.status, &answer.body[..]), (State::Completed, Some(200), &b"done"[..]));
    assert_eq!(answer.headers.text("content-type"), Some("text/plain"));
}

#[tokio::test(start_paused = true)]
async fn a_caller_waits_over_retries_and_no_longer_than_it_asked() {
    let script = Script::in_turn([|| Reply::status(500), || Reply::status(200).body("at last")]);
    script.deploy("env", &[]);
    let broker = start(&script).await;

    let patient = broker.try_submit("env", |call| call.wait = Some(secs(60))).await.unwrap();
    assert_eq!(&patient.outcome.unwrap().body[..], b"at last");

    let slow = Script::new(|_| Reply::status(200).after(secs(100)));
    slow.deploy("env", &[]);
    let broker = start(&slow).await;
    let began = tokio::time::Instant::now();
    let submitted = broker.try_submit("env", |call| call.wait = Some(secs(5))).await.unwrap();

    assert!(submitted.outcome.is_none());
    assert_eq!(began.elapsed().as_secs(), 5);
    broker.reaches(submitted.id, State::Completed).await;
}

#[tokio::test(start_paused = true)]
async fn a_repeat_that_waits_is_answered_with_what_is_kept_of_the_first_ones_end() {
    let script = Script::new(|seen| match seen.path.as_str() {
        "/function/fails/" => Reply::status(422).body("no"),
        "/function/long/" => Reply::status(200).header("content-type", "text/plain").body(vec![b'x'; 5000]),
        _ => Reply::status(201).body("done"),
    });
    for name in ["env", "fails", "long", "late"] {
        script.deploy(name, &[]);
    }
    let broker = start(&script).await;
    let wishes = |call: &mut broker_engine::Submission| {
        call.idempotency_key = Some("k".into());
        call.wait = Some(secs(60));
    };

    for (name, state, status, kept, cut) in [
        ("env", State::Completed, 201, 4, false),
        ("fails", State::Dead, 422, 2, false),
        ("long", State::Completed, 200, 1024, true),
    ] {
        let first = broker.try_submit(name, wishes).await.unwrap();
        let whole = first.outcome.expect("it ended in time");
        let began = tokio::time::Instant::now();
        let again = broker.try_submit(name, wishes).await.unwrap();
        let answer = again.outcome.expect("it has ended");

        assert!(again.duplicate && again.id == first.id);
        assert_eq!((answer.state, answer.status), (state, Some(status)), "{name}");
        assert_eq!((whole.state, whole.status), (state, Some(status)), "{name}");
        assert_eq!((answer.body.len(), answer.truncated), (kept, cut), "{name}");
        assert!(whole.body.starts_with(&answer.body) && !whole.truncated, "{name}");
        assert_eq!(began.elapsed(), secs(0), "{name}");
    }

    // What ended without an answer has none, whatever an attempt before it was told.
    let cancelled = broker.try_submit("late", |call| {
        call.idempotency_key = Some("k".into());
        call.due = Some(broker_model::Clock::now(&*broker.clock) + secs(600));
    });
    let id = cancelled.await.unwrap().id;
    broker.engine.control().cancel(id).await.unwrap();
    let answer = broker.try_submit("late", wishes).await.unwrap().outcome.expect("it has ended");
    assert_eq!((answer.state, answer.status, answer.body.len()), (State::Cancelled, None, 0));
}

#[tokio::test(start_paused = true)]
async fn a_repeat_that_comes_while_the_first_one_runs_has_its_answer() {
    let script = Script::new(|seen| {
        let reply = Reply::status(200).after(secs(30)).body("done");
        // In more than one piece.
        if seen.path.contains("long") { reply.body(vec![b'x'; 4996]) } else { reply }
    });
    for name in ["env", "long"] {
        script.deploy(name, &[]);
    }
    let broker = start(&script).await;
    for (name, length) in [("env", 4), ("long", 5000)] {
        let key = |call: &mut broker_engine::Submission| call.idempotency_key = Some("k".into());
        let first = broker.try_submit(name, key).await.unwrap();
        eventually(LONG, "it to run", async || script.running.load(Ordering::SeqCst) == 1).await;

        let again = broker.try_submit(name, |call| {
            key(call);
            call.wait = Some(secs(60));
        });
        let again = again.await.unwrap();

        let answer = again.outcome.expect("it ended in time");
        assert_eq!((again.id, answer.status), (first.id, Some(200)));
        assert_eq!((answer.body.len(), answer.truncated), (length, false), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_broke_off_is_no_body_for_whoever_waits() {
    let script = Script::new(|_| Reply::dropped().body("the beginning"));
    script.deploy("env", &[("com.openfaas.retry.attempts", "0")]);
    let broker = start(&script).await;

    let waited = broker.try_submit("env", |call| call.wait = Some(secs(60))).await.unwrap();

    let answer = waited.outcome.unwrap();
    assert_eq!((answer.state, answer.status, answer.body.len()), (State::Dead, None, 0));
}

#[tokio::test(start_paused = true)]
async fn a_waiting_caller_hears_of_a_cancel_and_of_a_death() {
    let script = Script::new(|seen| {
        if seen.path.contains("dies") {
            Reply::status(400).body("bad")
        } else {
            Reply::status(200).after(LONG)
        }
    });
    let broker = Arc::new(start(&script).await);

    let dead = broker.try_submit("dies", |call| call.wait = Some(secs(60))).await.unwrap().outcome.unwrap();
    assert_eq!((dead.state, dead.status, &dead.body[..]), (State::Dead, Some(400), &b"bad"[..]));

    let waiting = broker.clone();
    let caller = tokio::spawn(async move {
        let call_id = |call: &mut broker_engine::Submission| {
            call.wait = Some(secs(60));
            call.call_id = Some(CallId::parse("c").unwrap());
        };
        waiting.try_submit("env", call_id).await.unwrap().outcome.unwrap()
    });
    eventually(LONG, "it to run", async || script.running.load(Ordering::SeqCst) == 1).await;
    assert_eq!(broker.engine.control().cancel_call(&CallId::parse("c").unwrap()).await.unwrap(), 1);
    assert_eq!(caller.await.unwrap().state, State::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_taken_is_refused_before_anything_is_accepted() {
    let broker = start(&working()).await;
    type Change = fn(&mut broker_engine::Submission);
    type Expected = fn(&SubmitRefusal) -> bool;
    let cases: [(Change, Expected); 6] = [
        (
            |call| call.callback_url = Some("http://a b/".into()),
            |r| matches!(r, SubmitRefusal::BadCallback { .. }),
        ),
        (
            |call| call.callback_url = Some("http://169.254.169.254/".into()),
            |r| matches!(r, SubmitRefusal::CallbackDenied { .. }),
        ),
        (|call| call.path_and_query = "no-slash".into(), |r| matches!(r, SubmitRefusal::BadPath)),
        (|call| call.path_and_query = "/a b".into(), |r| matches!(r, SubmitRefusal::BadPath)),
        (
            |call| call.body = Body::Inline(vec![0; 64 * 1024 * 1024 + 1].into()),
            |r| matches!(r, SubmitRefusal::TooLarge { .. }),
        ),
        (|_| {}, |r| matches!(r, SubmitRefusal::Store(StoreError::Full { .. }))),
    ];

    for (n, (change, expected)) in cases.into_iter().enumerate() {
        if n == 5 {
            broker.store.refuse(Some(StoreError::Full { what: "disk".into(), waiting: 1, dead: 2 }));
        }
        let refused = broker.try_submit("env", change).await.unwrap_err();
        assert!(expected(&refused), "case {n}: {refused:?}");
    }
    assert!(matches!(
        broker.engine.intake().publish(&event("orders")).await,
        Err(Refusal::Store(StoreError::Full { .. }))
    ));
    broker.store.refuse(None);
    assert_eq!(broker_model::Ledger::totals(&broker.store).accepted_in_all(), 0);

    broker.call("env").await;
    broker.engine.intake().begin_draining();
    assert!(matches!(broker.try_submit("env", |_| {}).await, Err(SubmitRefusal::Draining)));
    assert!(matches!(broker.engine.intake().publish(&event("orders")).await, Err(Refusal::Draining)));
}

#[tokio::test(start_paused = true)]
async fn demand_changes_when_functions_do_and_only_then() {
    let script = working();
    let broker = start(&script).await;
    let mut demand = broker.engine.functions().demand();
    demand.borrow_and_update();
    tokio::time::sleep(secs(60)).await;
    assert!(!demand.has_changed().unwrap(), "the same list again is no news");

    script.deploy("c", &[("topic", "payments")]);

    demand.changed().await.unwrap();
    assert_eq!(demand.borrow().patterns.len(), 4);
}
