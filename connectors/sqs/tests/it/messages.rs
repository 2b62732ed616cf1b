//! What a function gets of a message.

use connectors_sdk::Event;
use serde_json::{Value, json};

use crate::queues::{Letter, Owner};
use crate::rig::{JOBS, settings};
use crate::server;

fn fields<'a>(event: &'a Event, prefix: &str) -> Vec<(&'a str, &'a str)> {
    let all = event.headers.iter().map(|(name, value)| (name, std::str::from_utf8(value).unwrap()));
    all.filter(|(name, _)| name.starts_with(prefix)).collect()
}

/// What a source with these settings makes of these messages of one queue.
async fn events_of(queue: &str, letters: &[Letter], more: Value) -> Vec<Event> {
    let server = server().await;
    let owner = Owner::of(&server.url());
    let url = owner.create(queue, &[]).await;
    owner.send(&url, letters).await;
    let mut more = more;
    more["topics"] = json!([queue]);
    let rig = JOBS.start(settings(&server.url(), &more));
    rig.has(letters.len()).await;
    let mut events = rig.stopped().await.accepted();
    let place = |event: &Event| letters.iter().position(|letter| event.body == letter.body);
    events.sort_by_key(place);
    events
}

/// What SNS puts into a queue, as its documentation has it: there is no SNS here to do it.
const ENVELOPE: &str = include_str!("../captures/sns.json");

#[tokio::test]
async fn text_and_attributes_arrive_as_they_were_sent() {
    let letters = [
        Letter::of("größer als ein Byte \u{1f980}\r\n"),
        Letter {
            attributes: [("Order-Id", "7"), ("secret", "s"), ("Content-Type", "text/x"), ("ce_id", "1")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
            ..Letter::of("{}")
        },
    ];
    let events = events_of("plain", &letters, json!({"headers": {"deny": "secret"}})).await;

    assert_eq!(events[0].body, letters[0].body);
    assert_eq!(fields(&events[0], "x-sqs-attr"), []);
    assert_eq!(fields(&events[1], "x-sqs-attr"), [("x-sqs-attr-order-id", "7"), ("x-sqs-attr-ce_id", "1")]);
    assert_eq!(events[1].headers.text("content-type"), Some("text/x"));
    assert!(events.iter().all(|event| event.time.is_some() && event.topic.as_str() == "plain"));
    assert_ne!(events[0].dedup, events[1].dedup);
}

#[tokio::test]
async fn an_envelope_of_sns_is_told_by_headers_and_taken_off_where_that_is_said() {
    let letters = [Letter::of(ENVELOPE)];
    let whole = events_of("sns-whole", &letters, json!({})).await;
    let taken_off = events_of("sns-taken-off", &letters, json!({"body": "sns"})).await;

    assert_eq!(whole[0].body, ENVELOPE, "the body is not touched");
    assert_eq!(taken_off[0].body, r#"{"order": 7}"#);
    let expected = [
        ("x-sns-message-id", "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324"),
        ("x-sns-arn", "arn:aws:sns:us-west-2:123456789012:MyTopic"),
        ("x-sns-subject", "My First Message"),
        ("x-sns-attr-store", "vienna"),
        ("x-sns-attr-store-type", "String"),
    ];
    assert_eq!(fields(&whole[0], "x-sns"), expected);
    assert_eq!(fields(&taken_off[0], "x-sns"), expected);
}

#[tokio::test]
async fn where_an_envelope_is_expected_another_body_is_kept_as_a_dead_letter() {
    let server = server().await;
    let owner = Owner::of(&server.url());
    let url = owner.create("no-sns", &[]).await;
    let rig = JOBS.start(settings(&server.url(), &json!({"topics": ["no-sns"], "body": "sns"})));
    let bodies =
        ["no JSON", "{}", &ENVELOPE.replace("Notification\"", "SubscriptionConfirmation\""), ENVELOPE];
    owner.send(&url, &bodies.map(Letter::of)).await;

    rig.has(1).await;
    rig.sees("the dead letters", |seen| seen.quarantined.len() == 3).await;
    let sink = rig.stopped().await;
    let mut kept: Vec<String> = Vec::new();
    for letter in sink.quarantined() {
        assert!(letter.why.contains("SNS"), "{}", letter.why);
        kept.push(String::from_utf8(letter.raw.to_vec()).unwrap());
    }
    assert!(bodies[..3].iter().all(|&body| kept.contains(&body.to_owned())), "{kept:?}");
    assert_eq!(owner.count(&url).await, (0, 0));
}

#[tokio::test]
async fn a_message_that_is_refused_for_ever_becomes_a_dead_letter() {
    let server = server().await;
    let owner = Owner::of(&server.url());
    let url = owner.create("too-large", &[]).await;
    let rig = JOBS.start(settings(&server.url(), &json!({"topics": ["too-large"]})));
    rig.sink.limit(100);
    owner.send(&url, &[Letter::of("x".repeat(101)), Letter::of("small")]).await;

    rig.has(1).await;
    rig.sees("the dead letter", |seen| seen.quarantined.len() == 1).await;
    let kept = rig.stopped().await.quarantined()[0].clone();
    assert_eq!(kept.raw.len(), 101);
    assert!(kept.why.contains("limits.body"));
    assert_eq!(owner.count(&url).await, (0, 0));
}

#[tokio::test]
async fn a_queue_is_asked_for_by_its_name_and_by_its_url() {
    let server = server().await;
    let owner = Owner::of(&server.url());
    let url = owner.create("by-both", &[]).await;
    owner.create("by-nobody", &[]).await;
    // The minimal entry, as the README has it.
    let rig = JOBS.start(settings(&server.url(), &json!({})));
    rig.functions_want(&["by-both", &url, "another.kind's.topic"]);
    owner.send(&url, &[Letter::of("1")]).await;

    rig.has(2).await;
    let mut asked = rig.status().subscriptions;
    asked.sort_unstable();
    assert_eq!(asked, ["by-both".to_owned(), url.clone()]);
    let accepted = rig.stopped().await.accepted();
    let mut topics: Vec<&str> = accepted.iter().map(|event| event.topic.as_str()).collect();
    topics.sort_unstable();
    assert_eq!(topics, ["by-both", &url]);
    assert_ne!(accepted[0].dedup, accepted[1].dedup, "two events of one message");
    assert_eq!(owner.count(&url).await, (0, 0));
}
