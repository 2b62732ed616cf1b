use aws_sdk_sqs::primitives::Blob;
use connectors_sdk::{Reader, SourceName, Wildcards};
use serde_json::{Value, json};

use super::*;

// Each as ElasticMQ 1.7.1 gave it.
const PLAIN: &str = include_str!("../../tests/captures/plain.json");
const ATTRIBUTES: &str = include_str!("../../tests/captures/attributes.json");
const GROUP: &str = include_str!("../../tests/captures/group.json");
const BASE64_BODY: &str = include_str!("../../tests/captures/base64.json");
// Bodies as the documentation of AWS has them.
const SNS: &str = include_str!("../../tests/captures/sns.json");
const S3: &str = include_str!("../../tests/captures/s3.json");

/// What the client makes of a captured message.
fn captured(json: &str) -> Message {
    let message: Value = serde_json::from_str(json).unwrap();
    let text = |key: &str| message[key].as_str().map(str::to_owned);
    let mut builder = Message::builder()
        .set_message_id(text("MessageId"))
        .set_receipt_handle(text("ReceiptHandle"))
        .set_body(text("Body"));
    for (name, value) in message["Attributes"].as_object().unwrap() {
        builder = builder.attributes(name.as_str().into(), value.as_str().unwrap());
    }
    for (name, value) in message["MessageAttributes"].as_object().into_iter().flatten() {
        let text = |key: &str| value[key].as_str();
        let binary = text("BinaryValue").map(|base64| Blob::new(STANDARD.decode(base64).unwrap()));
        let attribute = MessageAttributeValue::builder()
            .data_type(text("DataType").unwrap())
            .set_string_value(text("StringValue").map(str::to_owned))
            .set_binary_value(binary)
            .build();
        builder = builder.message_attributes(name, attribute.unwrap());
    }
    builder.build()
}

/// The plain message with another body.
fn with_body(body: &str) -> Message {
    let mut message = captured(PLAIN);
    message.body = Some(body.to_owned());
    message
}

fn queue(name: &str) -> Queue {
    Queue::at(&format!("http://127.0.0.1:9324/000000000000/{name}")).unwrap()
}

fn event_of(
    queue: &Queue,
    message: Message,
    body: BodyForm,
    settings: Value,
) -> Result<Event, Box<Quarantined>> {
    let mut at = Reader::new(settings);
    let form = EventForm::read(&mut at, &SourceName::parse("jobs").unwrap(), "sqs", Wildcards::Glob);
    let received = Received::from(message, body).unwrap();
    event_from(&form, body, queue, &queue.name, &received)
}

fn event(message: Message, body: BodyForm) -> Event {
    event_of(&queue("orders"), message, body, json!({})).unwrap()
}

fn fields(event: &Event) -> Vec<(&str, &str)> {
    event.headers.iter().map(|(name, value)| (name, std::str::from_utf8(value).unwrap())).collect()
}

#[test]
fn the_queue_is_the_topic_and_the_body_is_unchanged() {
    let event = event(captured(PLAIN), BodyForm::AsIs);

    assert_eq!(
        (event.topic.as_str(), &event.body[..]),
        ("orders", "größer als ein Byte \u{1f980}".as_bytes())
    );
    assert_eq!(
        fields(&event),
        [
            ("x-connector", "openfaasltd/sqs-connector"),
            ("x-sqs-message-id", "e1a8c081-710d-4297-a023-18edcfd06e49"),
            ("x-sqs-queue-url", "http://127.0.0.1:9324/000000000000/orders"),
        ]
    );
    assert_eq!(event.time, Some(Timestamp::from_millis(1_795_943_835_433)));
    assert_eq!(event.cloud_event.unwrap().id.as_deref(), Some("e1a8c081-710d-4297-a023-18edcfd06e49"));
}

#[test]
fn a_redelivery_is_recognised_and_another_queue_or_message_is_another_event() {
    let first = event(captured(PLAIN), BodyForm::AsIs);
    let mut again = captured(PLAIN);
    again.receipt_handle = Some("another".to_owned());
    let count = MessageSystemAttributeName::ApproximateReceiveCount;
    again.attributes.as_mut().unwrap().insert(count, "7".to_owned());

    assert_eq!(event(again, BodyForm::AsIs).dedup, first.dedup);
    let elsewhere = event_of(&queue("invoices"), captured(PLAIN), BodyForm::AsIs, json!({})).unwrap();
    assert_ne!(elsewhere.dedup, first.dedup);
    assert_ne!(event(captured(ATTRIBUTES), BodyForm::AsIs).dedup, first.dedup);
}

#[test]
fn attributes_are_fields_by_the_header_policy() {
    let settings = json!({"headers": {"deny": "secret"}});
    let event = event_of(&queue("orders"), captured(ATTRIBUTES), BodyForm::AsIs, settings).unwrap();

    assert_eq!(
        fields(&event)[3..],
        [
            ("x-sqs-attr-order-id", "7"),
            ("x-sqs-attr-blob", "AAEC/w=="),
            ("x-sqs-attr-blob-enc", "b64"),
            ("x-sqs-attr-ce_id", "42"),
            ("content-type", "application/json"),
        ]
    );
    let settings = json!({"headers": {"allow": "order-*"}});
    let event = event_of(&queue("orders"), captured(ATTRIBUTES), BodyForm::AsIs, settings).unwrap();
    assert!(!fields(&event).iter().any(|(name, _)| name.starts_with("x-sqs-attr-blob")));
}

#[test]
fn a_message_of_a_group_says_which_and_where_in_it() {
    let event = event_of(&queue("orders.fifo"), captured(GROUP), BodyForm::AsIs, json!({})).unwrap();

    assert_eq!(event.topic.as_str(), "orders.fifo");
    assert_eq!(
        fields(&event)[3..],
        [("x-sqs-message-group-id", "customer-7"), ("x-sqs-sequence-number", "0")]
    );
}

#[test]
fn base64_is_decoded_however_it_is_written() {
    let every_byte: Vec<u8> = (0..=255).collect();
    assert_eq!(event(captured(BASE64_BODY), BodyForm::Base64).body, every_byte);
    assert_eq!(event(with_body("AAEC\r\nA/8\n"), BodyForm::Base64).body, vec![0, 1, 2, 3, 255]);
    assert!(event(with_body("\n"), BodyForm::Base64).body.is_empty());

    let kept = event_of(&queue("orders"), with_body("größer"), BodyForm::Base64, json!({})).unwrap_err();
    assert_eq!((&kept.raw[..], kept.why.contains("no base64")), ("größer".as_bytes(), true));
    assert!(kept.dedup.is_some() && kept.headers.text("x-sqs-message-id").is_some());
}

#[test]
fn an_envelope_of_sns_is_told_and_taken_off_where_that_is_said() {
    let whole = event(with_body(SNS), BodyForm::AsIs);
    let message = event(with_body(SNS), BodyForm::Sns);

    assert_eq!((&whole.body[..], &message.body[..]), (SNS.as_bytes(), &br#"{"order": 7}"#[..]));
    for event in [whole, message] {
        assert_eq!(event.headers.text("x-sns-arn"), Some("arn:aws:sns:us-west-2:123456789012:MyTopic"));
        assert_eq!(event.headers.text("x-sns-attr-store"), Some("vienna"));
    }
    for (body, why) in [("no JSON", "no JSON"), ("{\"TopicArn\": 1}", "no Type")] {
        assert_eq!(event(with_body(body), BodyForm::AsIs).body, body, "an envelope that nobody expects");
        let kept = event_of(&queue("orders"), with_body(body), BodyForm::Sns, json!({})).unwrap_err();
        assert!(kept.raw == body && kept.why.contains(why), "{}", kept.why);
    }
    let confirmation = SNS
        .replace("\"Notification\"", "\"SubscriptionConfirmation\"")
        .replace("\"UnsubscribeURL\"", "\"Token\" : \"t\",\n  \"SubscribeURL\"");
    let kept = event_of(&queue("orders"), with_body(&confirmation), BodyForm::Sns, json!({})).unwrap_err();
    assert!(kept.why.contains("SubscribeURL"), "{}", kept.why);
}

#[test]
fn a_notification_of_s3_is_told_also_within_an_envelope_of_sns() {
    let mut envelope: Value = serde_json::from_str(SNS).unwrap();
    envelope["Message"] = json!(S3);
    let envelope = envelope.to_string();
    for (body, form, expected) in [
        (S3, BodyForm::AsIs, S3),
        (envelope.as_str(), BodyForm::AsIs, &envelope),
        (&envelope, BodyForm::Sns, S3),
    ] {
        let event = event(with_body(body), form);
        assert_eq!(event.body, expected, "the body is not touched");
        assert_eq!(event.headers.text("x-s3-bucket"), Some("mybucket"));
        assert_eq!(event.headers.text("x-s3-key"), Some("photos/HappyFace 1.jpg"));
        assert_eq!(event.headers.text("x-s3-event-name"), Some("s3:ObjectCreated:Put"));
    }
}

#[test]
fn a_message_that_cannot_be_told_again_is_none() {
    let mut message = captured(PLAIN);
    message.receipt_handle = None;
    assert!(Received::from(message, BodyForm::AsIs).is_none());
}
