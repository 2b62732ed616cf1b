//! A NATS message as an event.

use async_nats::{HeaderMap, Message};

use connectors_sdk::{Event, Headers, Quarantined, SourceName, Topic, Wildcards};

/// The event a message stands for: its concrete subject is the topic, its payload the body, unchanged. The reply subject is
/// ignored: an event is not a request.
///
/// # Errors
/// The message as it goes to the dead letters, when its subject is no topic.
pub(crate) fn event_from(
    source: &SourceName,
    content_type: Option<&str>,
    message: Message,
) -> Result<Event, Box<Quarantined>> {
    let headers = headers_from(message.headers.as_ref(), content_type);
    match Topic::parse(message.subject.as_str()) {
        Ok(topic) => Ok(Event {
            source: source.clone(),
            topic,
            wildcards: Wildcards::Nats,
            headers,
            body: message.payload,
            time: None,
            // Core NATS never sends a message again, so there is nothing to recognise.
            dedup: None,
            position: None,
            fire: None,
        }),
        Err(error) => Err(Box::new(Quarantined {
            source: source.clone(),
            topic: None,
            headers,
            raw: message.payload,
            why: format!("its subject is no topic: {error}").into(),
            dedup: None,
            position: None,
        })),
    }
}

/// A message's headers as the function sees them: `Order-Id` as `x-nats-order-id`, so that no publisher can pass for
/// the gateway or a caller; `Content-Type` as itself.
///
/// In the order of their names, because the client keeps no other; values of one name in their own order. A value that
/// HTTP cannot carry is left out: the call would fail at every attempt.
fn headers_from(wire: Option<&HeaderMap>, content_type: Option<&str>) -> Headers {
    const CONTENT_TYPE: &str = "content-type";
    let mut named: Vec<(String, &str)> = wire
        .into_iter()
        .flat_map(HeaderMap::iter)
        .flat_map(|(name, values)| {
            let name: &str = name.as_ref();
            values.iter().map(move |value| (name.to_ascii_lowercase(), value.as_str()))
        })
        .filter(|(_, value)| carriable(value))
        .collect();
    // Stable: what one name was given keeps its order.
    named.sort_by(|a, b| a.0.cmp(&b.0));

    let mut headers = Headers::new();
    for (name, value) in &named {
        let value = value.as_bytes().to_vec();
        if name == CONTENT_TYPE {
            headers.set(CONTENT_TYPE, value);
        } else {
            headers.append(&format!("x-nats-{}", token(name)), value);
        }
    }
    if let (None, Some(default)) = (headers.get(CONTENT_TYPE), content_type) {
        headers.append(CONTENT_TYPE, default.as_bytes().to_vec());
    }
    headers
}

fn carriable(value: &str) -> bool {
    value.bytes().all(|byte| byte == b'\t' || !byte.is_ascii_control())
}

/// A header's name as HTTP can write it: NATS allows any printable character but the colon.
fn token(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c) { c } else { '-' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(json: &str) -> Message {
        serde_json::from_str(json).unwrap()
    }

    fn event(json: &str, content_type: Option<&str>) -> Event {
        event_from(&SourceName::parse("bus").unwrap(), content_type, captured(json)).unwrap()
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
                ("content-type", "application/json"),
                ("x-nats-nats-msg-id", "42"),
                ("x-nats-odd-name-", "v"),
                ("x-nats-order-id", "7"),
                ("x-nats-tag", "a"),
                ("x-nats-tag", "b"),
                ("x-nats-x-callback-url", "http://elsewhere"),
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
        let event = event_from(&SourceName::parse("bus").unwrap(), None, message).unwrap();

        assert_eq!(fields(&event), [("x-nats-good", "a\tb")]);
    }

    #[test]
    fn a_subject_that_is_no_topic_is_kept_whole() {
        let mut message = captured(PLAIN);
        message.subject = "x".repeat(Topic::MAX + 1).into();

        let kept = event_from(&SourceName::parse("bus").unwrap(), None, message).unwrap_err();

        assert_eq!(kept.raw.len(), 6);
        assert!(kept.why.contains("65537 bytes"), "{}", kept.why);
    }
}
