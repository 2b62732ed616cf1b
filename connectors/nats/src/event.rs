//! A NATS message as an event.

use async_nats::{HeaderMap, Message};

use connectors_sdk::{Event, EventForm, Incoming, Quarantined, Timestamp};

/// The event a message stands for: its concrete subject is the topic, its payload the body, unchanged. The reply subject is
/// ignored: an event is not a request. Core NATS never sends a message again, so there is no id to recognise it by.
///
/// Header fields come in the order of their names, because the client keeps no other; values of one name in their own order.
///
/// # Errors
/// The message as it goes to the dead letters, when its subject is no topic.
pub(crate) fn event_from(form: &EventForm, message: Message) -> Result<Event, Box<Quarantined>> {
    let event = form.message(message.subject.as_str(), message.payload);
    with_fields(event, message.headers.as_ref()).event()
}

/// Where a message stands in a stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) stream: &'a str,
    pub(crate) life: Life,
    pub(crate) sequence: u64,
    /// When the stream took it.
    pub(crate) taken: Timestamp,
}

/// Which stream of its name it is, and which reading of it, by the instants at which stream and consumer were made: what
/// was received of one says nothing about another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) stream: i128,
    pub(crate) consumer: i128,
}

/// The event a message of a stream stands for: as [`event_from`], with its stream and sequence, by which each redelivery is
/// recognised. Replicas and overlapping subjects do not matter: a message has one sequence.
///
/// # Errors
/// As [`event_from`].
pub(crate) fn event_from_stream(
    form: &EventForm,
    message: Message,
    place: Place<'_>,
) -> Result<Event, Box<Quarantined>> {
    let Place { stream, life, sequence, taken } = place;
    let event = form
        .message(message.subject.as_str(), message.payload)
        .own("X-Nats-Stream", stream)
        .own("X-Nats-Sequence", sequence.to_string())
        .time(taken)
        .id(&[
            stream.as_bytes(),
            &life.stream.to_be_bytes(),
            &life.consumer.to_be_bytes(),
            &sequence.to_be_bytes(),
        ])
        .described(|event| event.id = Some(format!("{stream}:{sequence}@{}", life.stream).into()));
    with_fields(event, message.headers.as_ref()).event()
}

/// The publisher's header fields.
fn with_fields<'a>(event: Incoming<'a>, headers: Option<&HeaderMap>) -> Incoming<'a> {
    let mut fields: Vec<(&str, &str)> = headers
        .into_iter()
        .flat_map(HeaderMap::iter)
        .flat_map(|(name, values)| values.iter().map(move |value| (name.as_ref(), value.as_str())))
        .collect();
    // Stable: what one name was given keeps its order.
    fields.sort_by_key(|(name, _)| name.to_ascii_lowercase());
    fields.into_iter().fold(event, |event, (name, value)| {
        let value = value.as_bytes();
        if name.eq_ignore_ascii_case("content-type") {
            event.content_type(value)
        } else {
            event.field("x-nats-", name, value)
        }
    })
}

#[cfg(test)]
mod tests {
    use connectors_sdk::{Reader, SourceName, Topic, Wildcards};
    use serde_json::json;

    use super::*;

    fn captured(json: &str) -> Message {
        serde_json::from_str(json).unwrap()
    }

    fn form(content_type: Option<&str>) -> EventForm {
        let settings = content_type.map_or_else(|| json!({}), |text| json!({ "content_type": text }));
        let bus = SourceName::parse("bus").unwrap();
        EventForm::read(&mut Reader::new(settings), &bus, "nats", Wildcards::Nats)
    }

    fn event(json: &str, content_type: Option<&str>) -> Event {
        event_from(&form(content_type), captured(json)).unwrap()
    }

    fn fields(event: &Event) -> Vec<(&str, &str)> {
        event.headers.iter().map(|(name, value)| (name, std::str::from_utf8(value).unwrap())).collect()
    }

    // Each as it came from a real server (2.9.10), written down by serde.
    const PLAIN: &str = include_str!("../tests/captures/plain.json");
    const WITH_HEADERS: &str = include_str!("../tests/captures/headers.json");
    const REQUEST: &str = include_str!("../tests/captures/request.json");

    #[test]
    fn the_concrete_subject_is_the_topic_and_the_payload_is_unchanged() {
        let event = event(PLAIN, None);

        assert_eq!(event.topic.as_str(), "orders.created");
        assert_eq!(event.body, vec![0, 1, 2, 10, 13, 255]);
        assert!(event.headers.is_empty());
        assert_eq!((event.wildcards, event.time, event.dedup), (Wildcards::Nats, None, None));
    }

    #[test]
    fn headers_carry_their_origin_and_keep_every_value() {
        let event = event(WITH_HEADERS, Some("text/plain"));

        assert_eq!(
            fields(&event),
            [
                ("x-nats-authorization", "Bearer x"),
                ("x-nats-nats-msg-id", "42"),
                ("x-nats-odd-name-", "v"),
                ("x-nats-order-id", "7"),
                ("x-nats-tag", "a"),
                ("x-nats-tag", "b"),
                ("x-nats-x-callback-url", "http://elsewhere"),
                ("content-type", "application/json"),
            ]
        );
    }

    #[test]
    fn a_configured_content_type_stands_where_the_message_says_none() {
        assert_eq!(fields(&event(PLAIN, Some("text/plain"))), [("content-type", "text/plain")]);
    }

    #[test]
    fn a_reply_subject_and_an_empty_payload_change_nothing() {
        let event = event(REQUEST, None);

        assert_eq!(event.topic.as_str(), "orders.asked");
        assert!(event.body.is_empty() && event.headers.is_empty());
    }

    #[test]
    fn a_value_http_cannot_carry_is_left_out() {
        let mut message = captured(PLAIN);
        let mut headers = HeaderMap::new();
        headers.insert("good", "a\tb");
        headers.insert("bad", "a\u{1}b");
        message.headers = Some(headers);
        let event = event_from(&form(None), message).unwrap();

        assert_eq!(fields(&event), [("x-nats-good", "a\tb")]);
    }

    #[test]
    fn a_subject_that_is_no_topic_is_kept_whole() {
        let mut message = captured(PLAIN);
        message.subject = "x".repeat(Topic::MAX + 1).into();

        let kept = event_from(&form(None), message).unwrap_err();

        assert_eq!(kept.raw.len(), 6);
        assert!(kept.why.contains("no topic"), "{}", kept.why);
    }
}
