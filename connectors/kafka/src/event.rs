//! A Kafka record as an event.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use rdkafka::message::{Headers as _, Message};

use connectors_sdk::{Event, EventForm, Partition, Position, Quarantined, Timestamp};

/// The event a record stands for: its topic, its value as the body, unchanged; a record without a value (a tombstone) has
/// an empty body. Its key and headers become `X-Kafka-Key` and `X-Kafka-<name>`; a key that is no printable text comes in
/// base64, with `X-Kafka-Key-Enc: b64`. A header without a value is one with an empty value.
///
/// # Errors
/// The record as it goes to the dead letters, when its topic's name is none for us.
pub(crate) fn event_from<M: Message>(
    form: &EventForm,
    partition: &Arc<Partition>,
    record: &M,
) -> Result<Event, Box<Quarantined>> {
    let offset = u64::try_from(record.offset()).unwrap_or_default();
    let mut message = form
        .message(record.topic(), Bytes::copy_from_slice(record.payload().unwrap_or_default()))
        .own("X-Connector", "openfaasltd/kafka-connector")
        .own("X-Kafka-Partition", record.partition().to_string())
        .own("X-Kafka-Offset", offset.to_string())
        .position(Position { partition: partition.clone(), offset });
    match record.key() {
        None => {}
        Some(key) if is_text(key) => message = message.own("X-Kafka-Key", key),
        Some(key) => {
            message = message.own("X-Kafka-Key", STANDARD.encode(key)).own("X-Kafka-Key-Enc", "b64");
        }
    }
    for header in record.headers().into_iter().flat_map(|headers| headers.iter()) {
        let value = header.value.unwrap_or_default();
        if header.key.eq_ignore_ascii_case("content-type") {
            message = message.content_type(value);
        } else {
            message = message.field("X-Kafka-", header.key, value);
        }
    }
    if let Some(millis) = record.timestamp().to_millis().and_then(|millis| u64::try_from(millis).ok()) {
        message = message.time(Timestamp::from_millis(millis));
    }
    message.event()
}

/// Whether a key can stand in a header as it is.
fn is_text(key: &[u8]) -> bool {
    std::str::from_utf8(key).is_ok_and(|text| !text.chars().any(char::is_control))
}

#[cfg(test)]
mod tests {
    use rdkafka::Timestamp as RecordTime;
    use rdkafka::message::{Header, OwnedHeaders, OwnedMessage};
    use serde_json::{Value, json};

    use connectors_sdk::{Reader, SourceName, Wildcards};

    use super::*;

    /// A record in the form in which the client hands it over; `records.rs` of the tests has the same from a real broker.
    fn captured(json: &str) -> OwnedMessage {
        let record: Value = serde_json::from_str(json).unwrap();
        let bytes = |value: &Value| value.as_str().map(|text| STANDARD.decode(text).unwrap());
        let mut headers = OwnedHeaders::new();
        for header in record["headers"].as_array().into_iter().flatten() {
            let value = bytes(&header["value"]);
            headers = headers.insert(Header { key: header["key"].as_str().unwrap(), value: value.as_ref() });
        }
        OwnedMessage::new(
            bytes(&record["value"]),
            bytes(&record["key"]),
            record["topic"].as_str().unwrap().to_owned(),
            RecordTime::CreateTime(record["timestamp"].as_i64().unwrap()),
            i32::try_from(record["partition"].as_i64().unwrap()).unwrap(),
            record["offset"].as_i64().unwrap(),
            record["headers"].is_array().then_some(headers),
        )
    }

    fn event_of(json: &str, settings: Value) -> Event {
        let source = SourceName::parse("events").unwrap();
        let form = EventForm::read(&mut Reader::new(settings), &source, "kafka", Wildcards::Glob);
        let record = captured(json);
        let partition = Partition::new(source, record.topic(), "a-cluster", 2).unwrap().into();
        event_from(&form, &partition, &record).unwrap()
    }

    fn fields(event: &Event) -> Vec<(&str, &str)> {
        event.headers.iter().map(|(name, value)| (name, std::str::from_utf8(value).unwrap())).collect()
    }

    const PLAIN: &str = include_str!("../tests/captures/plain.json");
    const WITH_HEADERS: &str = include_str!("../tests/captures/headers.json");
    const TOMBSTONE: &str = include_str!("../tests/captures/tombstone.json");

    #[test]
    fn a_record_keeps_its_value_and_says_where_it_stands() {
        let event = event_of(PLAIN, json!({"content_type": "text/plain"}));

        assert_eq!(event.topic.as_str(), "orders.created");
        assert_eq!(event.body, vec![0, 1, 2, 10, 13, 255]);
        assert_eq!(event.time, Some(Timestamp::from_millis(1_795_000_000_123)));
        assert_eq!(
            fields(&event),
            [
                ("x-connector", "openfaasltd/kafka-connector"),
                ("x-kafka-partition", "2"),
                ("x-kafka-offset", "17"),
                ("x-kafka-key", "customer-7"),
                ("content-type", "text/plain"),
            ]
        );
        let position = event.position.clone().unwrap();
        assert_eq!((position.offset, position.partition.incarnation()), (17, "a-cluster"));
        assert_eq!(event.cloud_event.unwrap().id.as_deref(), Some("orders.created:2:17@a-cluster"));
    }

    #[test]
    fn headers_keep_every_value_and_a_binary_key_is_encoded() {
        let event = event_of(WITH_HEADERS, json!({"content_type": "text/plain"}));

        assert_eq!(
            fields(&event),
            [
                ("x-connector", "openfaasltd/kafka-connector"),
                ("x-kafka-partition", "2"),
                ("x-kafka-offset", "18"),
                ("x-kafka-key", "AAH/"),
                ("x-kafka-key-enc", "b64"),
                ("x-kafka-tag", "a"),
                ("x-kafka-tag", "b"),
                ("x-kafka-odd-name!", "v"),
                ("x-kafka-empty", ""),
                ("x-kafka-none", ""),
                ("x-kafka-key", "not the key"),
                ("content-type", "application/json"),
            ]
        );
    }

    #[test]
    fn a_tombstone_has_an_empty_body_and_an_empty_key_is_a_key() {
        let event = event_of(TOMBSTONE, json!({}));

        assert!(event.body.is_empty());
        assert_eq!(event.headers.text("x-kafka-key"), Some(""));
        assert!(event.headers.get("x-kafka-key-enc").is_none());
    }

    #[test]
    fn keys_that_no_header_can_hold_are_binary() {
        assert!(is_text("Zürich 7".as_bytes()));
        for binary in [&b"a\nb"[..], b"\0", b"\xff", b"\x7f"] {
            assert!(!is_text(binary), "{binary:?}");
        }
    }
}
