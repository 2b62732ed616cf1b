//! Notifications of buckets, as S3 puts them into a queue itself and through SNS. The bodies are those of AWS' documentation:
//! there is no S3 here to send them.

use connectors_sdk::Event;
use serde_json::{Value, json};

use crate::queues::{Letter, Owner};
use crate::rig::{JOBS, settings};
use crate::server;

const S3: &str = include_str!("../captures/s3.json");
const TEST: &str = include_str!("../captures/s3-test.json");
const SNS: &str = include_str!("../captures/sns.json");

/// What SNS puts into a queue of a message, without raw delivery.
fn enveloped(message: &str) -> String {
    let mut envelope: Value = serde_json::from_str(SNS).unwrap();
    envelope["Subject"] = json!("Amazon S3 Notification");
    envelope["Message"] = json!(message);
    envelope.to_string()
}

/// What a source with these settings makes of one message.
async fn event_of(queue: &str, letter: Letter, more: &Value) -> Event {
    let server = server().await;
    let owner = Owner::of(&server.url());
    let url = owner.create(queue, &[]).await;
    owner.send(&url, &[letter]).await;
    let mut settings = settings(&server.url(), more);
    settings["topics"] = json!([queue]);
    let rig = JOBS.start(settings);
    rig.has(1).await;
    rig.stopped().await.accepted().remove(0)
}

/// The fields with this prefix, each as often as it is there.
fn fields<'a>(event: &'a Event, prefix: &str) -> Vec<(&'a str, &'a str)> {
    let all = event.headers.iter().map(|(name, value)| (name, std::str::from_utf8(value).unwrap()));
    all.filter(|(name, _)| name.starts_with(prefix)).collect()
}

#[tokio::test]
async fn an_object_is_told_in_headers_whichever_way_its_notification_came() {
    let object = [
        ("x-s3-event-name", "s3:ObjectCreated:Put"),
        ("x-s3-bucket", "mybucket"),
        ("x-s3-key", "photos/HappyFace 1.jpg"),
        ("x-s3-version-id", "096fKKXTRTtl3on89fVO.nfljtsv6qko"),
        ("x-s3-sequencer", "0055AED6DCD90281E5"),
        ("x-s3-size", "1024"),
        ("x-s3-etag", "d41d8cd98f00b204e9800998ecf8427e"),
    ];
    // Raw delivery leaves the envelope out, and makes the publisher's attributes those of the message.
    let raw = Letter { attributes: vec![("store".to_owned(), "vienna".to_owned())], ..Letter::of(S3) };
    for (queue, letter, more, body) in [
        ("s3", Letter::of(S3), json!({}), S3),
        ("s3-sns", Letter::of(enveloped(S3)), json!({}), &*enveloped(S3)),
        ("s3-sns-taken-off", Letter::of(enveloped(S3)), json!({"body": "sns"}), S3),
        ("s3-sns-raw", raw, json!({}), S3),
    ] {
        let event = event_of(queue, letter, &more).await;

        assert_eq!(event.body, body, "{queue}: the body is not touched");
        assert_eq!(fields(&event, "x-s3-"), object, "{queue}");
        let described = event.cloud_event.as_ref().unwrap();
        assert_eq!(described.kind.as_deref(), Some("com.amazonaws.s3.ObjectCreated:Put"), "{queue}");
        assert_eq!(described.subject.as_deref(), Some("photos/HappyFace 1.jpg"), "{queue}");
        assert_eq!(event.topic.as_str(), queue, "the topic stays that of the queue");
        let sns = fields(&event, "x-sns-").contains(&("x-sns-subject", "Amazon S3 Notification"));
        assert_eq!(sns, queue == "s3-sns" || queue == "s3-sns-taken-off", "{queue}");
        let attribute = (queue == "s3-sns-raw").then_some("vienna");
        assert_eq!(event.headers.text("x-sqs-attr-store"), attribute, "{queue}");
    }
}

#[tokio::test]
async fn the_test_that_s3_sends_first_is_told_as_one_and_is_about_no_object() {
    for (queue, body) in [("s3-test", TEST.to_owned()), ("s3-test-sns", enveloped(TEST))] {
        let event = event_of(queue, Letter::of(body.clone()), &json!({})).await;

        assert_eq!(event.body, body);
        let expected = [("x-s3-event-name", "s3:TestEvent"), ("x-s3-bucket", "amzn-s3-demo-bucket")];
        assert_eq!(fields(&event, "x-s3-"), expected, "{queue}");
    }
}

#[tokio::test]
async fn what_another_service_sends_in_such_a_frame_and_what_is_switched_off_is_not_told() {
    let other = S3.replace("aws:s3", "aws:dynamodb");
    let event = event_of("not-s3", Letter::of(other), &json!({})).await;
    assert_eq!(fields(&event, "x-s3-"), []);

    let event = event_of("s3-off", Letter::of(enveloped(S3)), &json!({"s3_notifications": false})).await;
    assert_eq!(fields(&event, "x-s3-"), []);
    assert!(event.headers.text("x-sns-arn").is_some());
}
