//! FIFO queues: within a group the order stays, whatever is refused on the way.

use connectors_sdk::SourceState;
use serde_json::json;
use testkit::time::eventually;

use crate::queues::{Letter, Owner, PATIENCE};
use crate::rig::{Rig, settings};
use crate::server;

/// The bodies of one group in the order in which they were taken, each once.
fn of_group(bodies: &[String], group: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for body in bodies.iter().filter(|body| body.starts_with(group)) {
        if !all.contains(body) {
            all.push(body.clone());
        }
    }
    all
}

fn numbered(group: &str, numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("{group}{number}")).collect()
}

#[tokio::test]
async fn a_group_is_taken_in_its_order_over_refusals_and_a_stop() {
    let server = server().await;
    let owner = Owner::of(&server.url());
    let url = owner.create("ordered-groups.fifo", &[]).await;
    let letters: Vec<Letter> = (0..20)
        .flat_map(|number| ["a", "b", "c"].map(|group| Letter::in_group(format!("{group}{number}"), group)))
        .collect();
    owner.send(&url, &letters).await;
    let settings = settings(&server.url(), &json!({"topics": ["ordered-groups.fifo"], "wait_time": "1s"}));

    let rig = Rig::start(settings.clone());
    rig.broker.refuse("a3", 2);
    rig.broker.refuse("b0", 1);
    rig.broker.refuse("b7", 1);
    rig.broker.has(30).await;
    let broker = rig.stopped().await;
    let rig = Rig::before(broker, settings);
    rig.broker.has(60).await;
    eventually(PATIENCE, "the queue to be empty", async || {
        let left = owner.count(&url).await;
        if left == (0, 0) { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    let bodies = rig.stopped().await.bodies();

    for group in ["a", "b", "c"] {
        assert_eq!(of_group(&bodies, group), numbered(group, 0..20));
    }
    assert_eq!(bodies.len(), 60, "each once");
}

#[tokio::test]
async fn a_group_that_is_refused_holds_up_no_other() {
    let server = server().await;
    let owner = Owner::of(&server.url());
    let url = owner.create("stuck-group.fifo", &[]).await;
    let rig = Rig::start(settings(&server.url(), &json!({"topics": ["stuck-group.fifo"]})));
    rig.is(SourceState::Connected).await;
    rig.broker.refuse("a0", usize::MAX);
    let letters: Vec<Letter> = (0..5)
        .flat_map(|number| ["a", "b"].map(|group| Letter::in_group(format!("{group}{number}"), group)))
        .collect();
    owner.send(&url, &letters).await;

    rig.broker.has(5).await;
    rig.broker.is_offered("a0", 2).await;
    assert_eq!(rig.stopped().await.bodies(), numbered("b", 0..5), "none of a before its first");
}
