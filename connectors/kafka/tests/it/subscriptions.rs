//! Which topics: patterns, topics that come later, names that are none.

use std::collections::{BTreeMap, BTreeSet};

use connectors_sdk::{Demand, Topic, TopicPattern};
use serde_json::json;

use crate::cluster::{Place, Record, publish};
use crate::rig::{Rig, Store};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patterns_find_topics_that_are_made_later_and_nothing_else() {
    let place = Place::new("patterns.first", 1, &[]).await;
    place.server.create_topic("patterns-other", 1, &[]).await;
    let mut settings = place.settings();
    settings.as_object_mut().unwrap().remove("topics");
    let rig = Rig::start(settings, &Store::default());
    let exact = |text: &str| TopicPattern::exact(&Topic::parse(text).unwrap());
    let patterns =
        [exact("no topic: of Kafka"), exact("patterns-*"), TopicPattern::parse("patterns.*").unwrap()];
    rig.demand.send_replace(Demand { patterns: patterns.map(|pattern| (pattern, BTreeSet::new())).into() });
    let all = |topics: &[&str]| {
        topics.iter().map(|topic| ((*topic).to_owned(), vec![0])).collect::<BTreeMap<_, _>>()
    };
    place.observer.has_assigned(&all(&["patterns.first"])).await;

    place.server.create_topic("patterns.second", 1, &[]).await;
    publish(
        &place.producer,
        &["patterns.first", "patterns.second", "patterns-other"].map(|topic| Record::of(topic, topic)),
    )
    .await;
    rig.store.has(2).await;
    place.observer.has_assigned(&all(&["patterns.first", "patterns.second"])).await;
    let store = rig.store.clone();
    rig.stopped().await;

    assert_eq!(store.bodies().keys().collect::<Vec<_>>(), ["patterns.first", "patterns.second"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_not_there_is_said_and_read_once_it_is() {
    let place = Place::new("present", 1, &[]).await;
    let mut settings = place.settings();
    settings["topics"] = json!(["present", "absent"]);
    let rig = Rig::start(settings, &Store::default());
    place.publish(0..1, 0).await;
    rig.store.has(1).await;
    let (_, what) = rig.status().last_error.unwrap();
    assert!(what.contains("absent"), "{what}");

    place.server.create_topic("absent", 1, &[]).await;
    publish(&place.producer, &[Record::of("absent", "x")]).await;
    rig.store.has(2).await;
    rig.stopped().await;
}
