//! FIFO queues: within a group the order stays, whatever is refused on the way.

use connectors_sdk::SourceState;
use serde_json::json;
use testkit::source::PATIENCE;
use testkit::time::eventually;

use crate::queues::{Letter, Owner};
use crate::rig::{JOBS, settings};
use crate::server;

/// The bodies of one group in the order in which they were taken.
fn of_group(bodies: &[String], group: &str) -> Vec<String> {
    bodies.iter().filter(|body| body.starts_with(group)).cloned().collect()
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

    let rig = JOBS.start(settings.clone());
    rig.sink.refuse_first(2, "a3");
    rig.sink.refuse_first(1, "b0");
    rig.sink.refuse_first(1, "b7");
    rig.has(30).await;
    let rig = JOBS.start_before(rig.stopped().await, settings);
    rig.has(60).await;
    eventually(PATIENCE, "the queue to be empty", async || {
        let left = owner.count(&url).await;
        if left == (0, 0) { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    let sink = rig.stopped().await;
    let bodies = sink.bodies();

    for group in ["a", "b", "c"] {
        assert_eq!(of_group(&bodies, group), numbered(group, 0..20));
    }
    assert!(bodies.len() == 60 && sink.each_came_once());
}

#[tokio::test]
async fn a_group_that_is_refused_holds_up_no_other() {
    let server = server().await;
    let owner = Owner::of(&server.url());
    let url = owner.create("stuck-group.fifo", &[]).await;
    let rig = JOBS.start(settings(&server.url(), &json!({"topics": ["stuck-group.fifo"]})));
    rig.is(SourceState::Connected).await;
    rig.sink.refuse_first(u32::MAX, "a0");
    let letters: Vec<Letter> = (0..5)
        .flat_map(|number| ["a", "b"].map(|group| Letter::in_group(format!("{group}{number}"), group)))
        .collect();
    owner.send(&url, &letters).await;

    rig.has(5).await;
    rig.sees("the first of a to be offered again", |seen| seen.offers_of("a0") >= 2).await;
    assert_eq!(rig.stopped().await.bodies(), numbered("b", 0..5), "none of a before its first");
}
