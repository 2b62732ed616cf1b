//! What an operator does.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use broker_model::queue::{Cancelled, RedriveError};
use broker_model::{CallId, Reason, State};
use testkit::time::eventually;

use crate::broker::{Broker, LONG, Start, function, secs};
use crate::script::{Reply, Script};

async fn start(script: &Arc<Script>) -> Broker {
    Broker::start(Start { gateway: Some(script.clone()), ..Start::default() }).await
}

#[tokio::test(start_paused = true)]
async fn cancelling_a_running_call_stops_it_and_posts_no_callback() {
    let script = Script::new(|_| Reply::status(200).after(secs(3600)));
    let broker = start(&script).await;
    let id = broker.submit("env", |call| call.callback_url = Some("later".into())).await;
    eventually(LONG, "it to run", async || script.running.load(Ordering::SeqCst) == 1).await;

    let cancelled = broker.engine.control().cancel(id).await.unwrap();

    assert_eq!(cancelled, Cancelled::Delivering);
    eventually(secs(5), "the gateway to see it leave", async || script.left.load(Ordering::SeqCst) == 1)
        .await;
    assert_eq!(broker.find(id).await.state, State::Cancelled);
    assert!(broker.followed(id).await.is_empty());
    let next = broker.call("env").await;
    eventually(LONG, "its slot to be free", async || broker.find(next).await.state == State::Delivering)
        .await;
    broker.assert_conserved();
}

#[tokio::test(start_paused = true)]
async fn cancelling_by_call_id_takes_back_every_open_call_with_it() {
    let script = Script::new(|_| Reply::status(200).after(secs(3600)));
    let broker = start(&script).await;
    let mine = CallId::parse("mine").unwrap();
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(broker.submit("env", |call| call.call_id = Some(CallId::parse("mine").unwrap())).await);
    }
    let other = broker.call("env").await;

    assert_eq!(broker.engine.control().cancel_call(&mine).await.unwrap(), 3);

    for id in ids {
        assert_eq!(broker.find(id).await.state, State::Cancelled);
        assert_eq!(broker.engine.control().cancel(id).await.unwrap(), Cancelled::TooLate);
    }
    assert_eq!(broker.engine.control().cancel_call(&mine).await.unwrap(), 0);
    broker.reaches(other, State::Completed).await;
}

#[tokio::test(start_paused = true)]
async fn a_redriven_call_begins_a_new_life_and_calls_back_again() {
    let script = Script::in_turn([|| Reply::status(400), || Reply::status(200)]);
    let broker = start(&script).await;
    let control = broker.engine.control();
    let id = broker.submit("env", |call| call.callback_url = Some("later".into())).await;
    broker.reaches(id, State::Dead).await;

    assert_eq!(control.redrive(id).await.unwrap(), 2);
    let record = broker.reaches(id, State::Completed).await;

    assert_eq!((record.invocation.life, record.attempts.len()), (2, 1));
    assert_eq!(script.seen()[1].attempt(), 1);
    assert_eq!(broker.followed(id).await.len(), 2);
    assert!(matches!(control.redrive(id).await, Err(RedriveError::NotDead(_) | RedriveError::Unknown(_))));
    broker.assert_conserved();
}

#[tokio::test(start_paused = true)]
async fn all_dead_letters_of_a_function_and_reason_are_put_back() {
    let script =
        Script::new(|seen| if seen.at < secs(100) { Reply::status(400) } else { Reply::status(200) });
    let broker = start(&script).await;
    let control = broker.engine.control();
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(broker.call("env").await);
    }
    let other = broker.call("other").await;
    for id in ids.iter().chain([&other]) {
        broker.reaches(*id, State::Dead).await;
    }
    tokio::time::sleep(secs(101)).await;

    let none = control.redrive_function(&function("env"), Some(Reason::Exhausted)).await.unwrap();
    let all = control.redrive_function(&function("env"), Some(Reason::Rejected)).await.unwrap();

    assert_eq!((none.redriven, all.redriven, all.skipped), (0, 20, 0));
    for id in ids {
        broker.reaches(id, State::Completed).await;
    }
    assert_eq!(broker.find(other).await.state, State::Dead);
    assert!(control.remove(other).await.unwrap());
    assert!(!control.remove(other).await.unwrap());
    broker.assert_conserved();
}

#[tokio::test(start_paused = true)]
async fn a_paused_function_is_held_in_all_its_queues_and_over_a_restart() {
    let script = Script::new(|_| Reply::status(200));
    script.deploy("env", &[]);
    let broker = start(&script).await;
    broker.engine.control().pause_function(&function("env")).await.unwrap();
    let first = broker.call("env").await;
    script.deploy("env", &[("com.openfaas.queue", "slow")]);
    tokio::time::sleep(secs(30)).await;
    let second = broker.call("env").await;
    tokio::time::sleep(secs(600)).await;

    let lanes = broker.engine.functions().lane_states(&function("env"));
    assert_eq!(lanes.len(), 2);
    assert!(lanes.iter().all(|lane| lane.paused && lane.waiting == 1));
    assert!(
        lanes
            .iter()
            .all(|lane| lane.waiting_reason.map(broker_engine::WaitingReason::as_str) == Some("paused"))
    );
    assert_eq!(script.count(), 0);

    let (store, clock) = broker.kill().await;
    let broker = Broker::on(store, clock, Start { gateway: Some(script.clone()), ..Start::default() }).await;
    tokio::time::sleep(secs(600)).await;
    assert_eq!(script.count(), 0);

    broker.engine.control().resume_function(&function("env")).await.unwrap();
    broker.reaches(first, State::Completed).await;
    broker.reaches(second, State::Completed).await;
}
