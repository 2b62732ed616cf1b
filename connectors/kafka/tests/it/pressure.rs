//! What does not fit waits upstream, and who leaves is gone.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use testkit::contract::source::scale;
use testkit::time::eventually;

use crate::cluster::{PATIENCE, Place, Record, publish};
use crate::rig::{Rig, Store};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_backlog_waits_upstream_while_nothing_is_taken() {
    let place = Place::new("backlog", 2, &[]).await;
    let backlog = scale(100_000, 1_000_000);
    let record = Record::of(&place.topic, vec![7; 200]);
    for n in 0..backlog / 10_000 {
        publish(&place.producer, &vec![record.clone().on((n % 2) as i32); 10_000]).await;
    }
    let store = Store::default();
    store.close();
    let before = resident();
    let mut settings = place.settings();
    settings["buffer"] = json!("4MiB");
    let rig = Rig::start(settings, &store);

    eventually(PATIENCE, "the window to be full", async || store.offered() == 1024).await;
    eventually(PATIENCE, "the lag", async || rig.status().lag == Some(u64::from(backlog))).await;
    let grown = resident().saturating_sub(before);

    // The window, the client's buffer, its fetches on their way, and what other tests of this process do meanwhile.
    assert!(grown < 100 << 20, "grew by {} MiB", grown >> 20);
    assert_eq!(store.offered(), 1024);
    store.open();
    store.has(5_000).await;
    assert!(rig.metric("kafka_connector_messages_consumed") > 0);
    assert!(rig.metric("kafka_connector_messages_offset") > 0);
    assert_eq!(rig.metric("kafka_connector_consumer_group_connect"), 1);
    rig.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_told_to_stop_has_committed_and_left() {
    let place = Place::new("left", 1, &[]).await;
    let mut settings = place.settings();
    settings["commit_interval"] = json!("1h");
    let rig = Rig::start(settings, &Store::default());
    place.publish(0..500, 0).await;
    rig.store.has(500).await;

    tokio::time::timeout(Duration::from_secs(20), rig.stopped()).await.unwrap();

    // At once: whoever ends the process now leaves no member behind for whom the others would wait.
    assert_eq!(place.observer.assigned().await, Ok(BTreeMap::new()));
    assert_eq!(place.observer.committed(&place.topic).await, Ok(vec![Some(500)]));
}

/// Bytes of memory this process holds.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}
