//! A RabbitMQ message as an event.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use lapin::message::Delivery;
use lapin::types::{FieldTable, ShortString};

use connectors_sdk::{Event, EventForm, Quarantined, Timestamp};

use crate::{sieve, values};

/// In front of whatever the publisher wrote.
const PREFIX: &str = "X-Rabbitmq-";

/// Where the server keeps what happened to a dead-lettered message.
const DEATHS: &str = "x-death";

/// The event a message stands for: its queue is the topic, its body the body, unchanged. Where it was published, its id and
/// the publisher's properties and headers become header fields.
///
/// With `deduplicate` a message that has an id is recognised when it comes again. Publishers use ids twice, so the id alone
/// is not enough: what is a repeat is the same in its body, its timestamp and the times it was dead-lettered as well.
///
/// # Errors
/// The message as it goes to the dead letters, when its properties cannot be read or its queue's name is no topic.
pub(crate) fn event_from(
    form: &EventForm,
    queue: &str,
    message: Delivery,
    deduplicate: bool,
) -> Result<Event, Box<Quarantined>> {
    let properties = &message.properties;
    let id = properties.message_id().as_ref().map(ShortString::as_str);
    // The client grows the body frame by frame: what it reserved beyond it would be kept for as long as the message.
    let mut body = message.data;
    body.shrink_to_fit();
    let body = Bytes::from(body);
    let mut event = form.message(queue, body.clone()).own("X-Connector", "openfaasltd/rabbitmq-connector");
    if let Some(id) = id {
        event = event.own("X-Rabbitmq-Msg-Id", id);
    }
    event = event.own("X-Rabbitmq-Routing-Key", message.routing_key.to_string());
    if !message.exchange.as_str().is_empty() {
        event = event.own("X-Rabbitmq-Exchange", message.exchange.to_string());
    }
    if let Some(raw) = properties.headers().as_ref().and_then(sieve::unreadable) {
        let event = event.own("X-Rabbitmq-Properties", STANDARD.encode(raw));
        return Err(event.unreadable("a text among its properties is no UTF-8, which AMQP's are"));
    }
    if message.redelivered {
        event = event.own("X-Rabbitmq-Redelivered", "true");
    }
    if let Some(content_type) = properties.content_type() {
        event = event.content_type(content_type.to_string());
    }
    let text = |value: &Option<ShortString>| value.as_ref().map(ToString::to_string);
    let number = |value: &Option<u8>| value.map(|value| value.to_string());
    for (name, value) in [
        ("Content-Encoding", text(properties.content_encoding())),
        ("Correlation-Id", text(properties.correlation_id())),
        ("Reply-To", text(properties.reply_to())),
        ("Type", text(properties.kind())),
        ("App-Id", text(properties.app_id())),
        ("User-Id", text(properties.user_id())),
        ("Timestamp", properties.timestamp().map(|seconds| seconds.to_string())),
        ("Expiration", text(properties.expiration())),
        ("Priority", number(properties.priority())),
        ("Delivery-Mode", number(properties.delivery_mode())),
    ] {
        if let Some(value) = value {
            event = event.field(PREFIX, name, value);
        }
    }
    let headers = properties.headers().iter().flat_map(FieldTable::inner);
    for (name, value) in headers {
        event = event.field(PREFIX, name.as_str(), values::text(value));
    }
    if let Some(time) = properties.timestamp().and_then(moment) {
        event = event.time(time);
    }
    if let Some(id) = id.filter(|_| deduplicate) {
        let stamp = properties.timestamp().map_or_else(String::new, |seconds| seconds.to_string());
        let deaths = properties.headers().as_ref().and_then(|headers| headers.inner().get(DEATHS));
        let deaths = deaths.map_or_else(Vec::new, values::text);
        event = event.id(&[queue.as_bytes(), id.as_bytes(), stamp.as_bytes(), &deaths, &body]);
    }
    event.event()
}

/// Seconds as a moment; what is none of this age is milliseconds or nonsense, and left out.
fn moment(seconds: u64) -> Option<Timestamp> {
    const LATEST: u64 = 10_000_000_000;
    (seconds < LATEST).then(|| Timestamp::from_millis(seconds * 1000))
}

#[cfg(test)]
mod tests {
    use lapin::BasicProperties;
    use serde_json::{Value, json};

    use connectors_sdk::{Reader, SourceName, Wildcards};

    use super::*;

    // As they came from a real server (3.10.8); a test of the real server holds them equal to what comes today.
    const BARE: &str = include_str!("../tests/captures/bare.json");
    const WHOLE: &str = include_str!("../tests/captures/whole.json");
    const DEAD_LETTERED: &str = include_str!("../tests/captures/dead-lettered.json");

    fn captured(json: &str) -> Delivery {
        let message: Value = serde_json::from_str(json).unwrap();
        let text = |name: &str| message[name].as_str().unwrap();
        let data = STANDARD.decode(text("data")).unwrap();
        let redelivered = message["redelivered"].as_bool().unwrap();
        let mut delivery =
            Delivery::mock(1, text("exchange").into(), text("routing_key").into(), redelivered, data);
        delivery.properties = serde_json::from_value(message["properties"].clone()).unwrap();
        delivery
    }

    fn form(settings: Value) -> EventForm {
        let tasks = SourceName::parse("tasks").unwrap();
        EventForm::read(&mut Reader::new(settings), &tasks, "rabbitmq", Wildcards::Amqp)
    }

    fn event(message: Delivery) -> Event {
        event_from(&form(json!({})), "orders", message, true).unwrap()
    }

    fn fields(event: &Event) -> Vec<(&str, &str)> {
        event.headers.iter().map(|(name, value)| (name, std::str::from_utf8(value).unwrap())).collect()
    }

    #[test]
    fn a_message_without_properties_says_where_it_was_published() {
        let event = event(captured(BARE));

        assert_eq!((event.topic.as_str(), &event.body[..]), ("orders", &[0, 1, 2, 10, 13, 255][..]));
        assert_eq!(
            fields(&event),
            [("x-connector", "openfaasltd/rabbitmq-connector"), ("x-rabbitmq-routing-key", "orders")]
        );
        assert_eq!((event.wildcards, event.time, event.dedup), (Wildcards::Amqp, None, None));
    }

    #[test]
    fn every_property_and_header_becomes_a_field() {
        let event = event(captured(WHOLE));

        assert_eq!(
            fields(&event),
            [
                ("x-connector", "openfaasltd/rabbitmq-connector"),
                ("x-rabbitmq-msg-id", "m-7"),
                ("x-rabbitmq-routing-key", "order.eu.paid"),
                ("x-rabbitmq-exchange", "shop"),
                ("x-rabbitmq-redelivered", "true"),
                ("x-rabbitmq-content-encoding", "identity"),
                ("x-rabbitmq-correlation-id", "c-7"),
                ("x-rabbitmq-reply-to", "answers"),
                ("x-rabbitmq-type", "order.paid"),
                ("x-rabbitmq-app-id", "shop"),
                ("x-rabbitmq-user-id", "guest"),
                ("x-rabbitmq-timestamp", "1795000000"),
                ("x-rabbitmq-expiration", "3600000"),
                ("x-rabbitmq-priority", "4"),
                ("x-rabbitmq-delivery-mode", "2"),
                ("x-rabbitmq-order-id", "7"),
                ("x-rabbitmq-odd-name!", "v"),
                ("x-rabbitmq-tags", r#"["a","b"]"#),
                ("content-type", "application/json"),
            ]
        );
        assert_eq!(event.time, Some(Timestamp::from_millis(1_795_000_000_000)));
    }

    #[test]
    fn what_happened_to_a_dead_lettered_message_is_seen() {
        let event = event(captured(DEAD_LETTERED));

        let deaths: Value = serde_json::from_str(event.headers.text("x-rabbitmq-x-death").unwrap()).unwrap();
        assert_eq!((&deaths[0]["queue"], &deaths[0]["count"]), (&json!("retries"), &json!(1)));
        assert_eq!(event.headers.text("x-rabbitmq-x-first-death-reason"), Some("expired"));
    }

    #[test]
    fn policy_and_content_type_of_the_settings_are_kept() {
        let form = form(json!({"headers": {"deny": ["order-*", "user-id"]}, "content_type": "text/plain"}));
        let whole = event_from(&form, "orders", captured(WHOLE), true).unwrap();
        let bare = event_from(&form, "orders", captured(BARE), true).unwrap();

        assert!(
            whole.headers.get("x-rabbitmq-order-id").is_none()
                && whole.headers.get("x-rabbitmq-user-id").is_none()
        );
        assert!(whole.headers.get("x-rabbitmq-msg-id").is_some(), "our own word is not the publisher's");
        assert_eq!(whole.headers.text("content-type"), Some("application/json"));
        assert_eq!(bare.headers.text("content-type"), Some("text/plain"));
    }

    #[test]
    fn a_message_with_an_id_is_recognised_when_it_comes_again() {
        let first = event(captured(WHOLE));
        let mut again = captured(WHOLE);
        again.redelivered = !again.redelivered;

        assert!(first.dedup.is_some());
        assert_eq!(event(again).dedup, first.dedup);
    }

    #[test]
    fn an_id_that_is_used_again_is_no_repeat() {
        let first = event(captured(WHOLE)).dedup;
        let with = |change: fn(&mut Delivery)| {
            let mut message = captured(WHOLE);
            change(&mut message);
            event(message).dedup
        };

        assert_ne!(with(|message| message.data.push(b'!')), first, "another body");
        assert_ne!(
            with(|message| message.properties = message.properties.clone().with_timestamp(1)),
            first,
            "another moment"
        );
        let died = captured(DEAD_LETTERED).properties.headers().clone().unwrap();
        let mut twice = captured(WHOLE);
        twice.properties = twice.properties.with_headers(died);
        assert_ne!(event(twice).dedup, first, "it went round through a dead-letter exchange");
        let elsewhere = event_from(&form(json!({})), "other", captured(WHOLE), true).unwrap();
        assert_ne!(elsewhere.dedup, first, "a copy in another queue is another message");
    }

    #[test]
    fn without_deduplication_ids_mean_nothing() {
        let event = event_from(&form(json!({})), "orders", captured(WHOLE), false).unwrap();

        assert_eq!(event.dedup, None);
        assert_eq!(event.headers.text("x-rabbitmq-msg-id"), Some("m-7"));
    }

    #[test]
    fn a_time_that_is_none_is_left_out() {
        let at = |seconds| {
            let mut message = captured(BARE);
            message.properties = BasicProperties::default().with_timestamp(seconds);
            event(message)
        };

        assert_eq!(at(0).time, Some(Timestamp::EPOCH));
        let in_milliseconds = at(1_795_000_000_000);
        assert_eq!(in_milliseconds.time, None);
        assert_eq!(in_milliseconds.headers.text("x-rabbitmq-timestamp"), Some("1795000000000"));
        assert_eq!(at(u64::MAX).time, None);
    }

    #[test]
    fn a_message_whose_properties_cannot_be_read_is_kept_with_their_bytes() {
        let mut headers = FieldTable::default();
        headers.insert(
            "evoke-unreadable-properties".into(),
            lapin::types::AMQPValue::ByteArray(vec![0, 128, 2, 0xff, b'x'].into()),
        );
        let mut message = captured(BARE);
        message.properties = BasicProperties::default().with_headers(headers);

        let kept = event_from(&form(json!({})), "orders", message, true).unwrap_err();

        assert_eq!(kept.raw.len(), 6);
        assert!(kept.why.contains("UTF-8"), "{}", kept.why);
        assert_eq!(kept.headers.text("x-rabbitmq-properties"), Some("AIAC/3g="));
        assert_eq!(kept.topic.unwrap().as_str(), "orders");
    }

    #[test]
    fn a_queue_whose_name_is_no_topic_is_kept_whole() {
        let kept = event_from(&form(json!({})), "", captured(BARE), true).unwrap_err();

        assert_eq!(kept.raw.len(), 6);
        assert!(kept.why.contains("no topic"), "{}", kept.why);
    }
}
