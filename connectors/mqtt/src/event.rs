//! An MQTT message as an event.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use connectors_sdk::{Event, EventForm, Quarantined};

use crate::message::Message;

/// What the settings say about messages beyond what is said for every kind.
#[derive(Clone, Debug)]
pub(crate) struct MessageForm {
    /// What is said for every kind.
    pub(crate) form: EventForm,
    /// The topic of the event is what follows the first `/`.
    pub(crate) trim_channel_key: bool,
    /// The user property that tells one message from another.
    pub(crate) id_property: Option<String>,
}

/// The event a message stands for: its topic, its payload as the body, unchanged; its user properties as `X-Mqtt-<name>`. A
/// property that could pass for another's (`Response-Topic`) comes after ours of that name.
///
/// # Errors
/// The message as it goes to the dead letters, when its topic is none for us.
pub(crate) fn event_from(form: &MessageForm, message: &Message) -> Result<Event, Box<Quarantined>> {
    let properties = &message.properties;
    let mut event = form.form.message(name_of(form, &message.topic), message.payload.clone());
    if message.retained {
        event = event.own("X-Mqtt-Retain", "true");
    }
    if let Some(topic) = &properties.response_topic {
        event = event.own("X-Mqtt-Response-Topic", topic);
    }
    match &properties.correlation_data {
        None => {}
        Some(data) if is_text(data) => event = event.own("X-Mqtt-Correlation-Data", data),
        Some(data) => {
            event = event
                .own("X-Mqtt-Correlation-Data", STANDARD.encode(data))
                .own("X-Mqtt-Correlation-Data-Enc", "b64");
        }
    }
    if let Some(seconds) = properties.expiry {
        event = event.own("X-Mqtt-Message-Expiry", seconds.to_string());
    }
    if let Some(content_type) = &properties.content_type {
        event = event.content_type(content_type);
    }
    for (name, value) in &properties.user {
        event = event.field("X-Mqtt-", name, value);
        // The CloudEvents binding for MQTT writes attributes under their plain names.
        if name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
            event = event.attribute(name, value);
        }
    }
    let id = form.id_property.as_ref().and_then(|property| {
        properties.user.iter().find(|(name, _)| name == property).map(|(_, value)| value.as_bytes())
    });
    if let Some(id) = id {
        event = event.id(&[message.topic.as_bytes(), id]);
    }
    event.event()
}

/// The name of the topic as functions know it, before `topic_map`.
pub(crate) fn name_of<'a>(form: &MessageForm, topic: &'a str) -> &'a str {
    match topic.split_once('/') {
        Some((_, rest)) if form.trim_channel_key => rest,
        _ => topic,
    }
}

/// Whether data can stand in a header as it is.
fn is_text(data: &[u8]) -> bool {
    std::str::from_utf8(data).is_ok_and(|text| !text.chars().any(char::is_control))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use connectors_sdk::{Reader, SourceName, Topic, Wildcards};
    use serde_json::{Value, json};

    use super::*;
    use crate::client::testing::{captured_v4, captured_v5};

    // The packets of PUBLISH as the real server (2.0.11) sent them, in base64.
    const PLAIN_V4: &str = include_str!("../tests/captures/plain-v4.b64");
    const PLAIN: &str = include_str!("../tests/captures/plain-v5.b64");
    const PROPERTIES: &str = include_str!("../tests/captures/properties-v5.b64");
    const RETAINED: &str = include_str!("../tests/captures/retained-v5.b64");
    const CLOUD_EVENT: &str = include_str!("../tests/captures/cloud-event-v5.b64");

    fn form(settings: Value) -> MessageForm {
        let things = SourceName::parse("things").unwrap();
        MessageForm {
            form: EventForm::read(&mut Reader::new(settings), &things, "mqtt", Wildcards::Mqtt),
            trim_channel_key: false,
            id_property: None,
        }
    }

    fn event(message: &Message) -> Event {
        event_from(&form(json!({})), message).unwrap()
    }

    fn fields(event: &Event) -> Vec<(&str, &str)> {
        event.headers.iter().map(|(name, value)| (name, std::str::from_utf8(value).unwrap())).collect()
    }

    #[test]
    fn both_versions_bring_the_same_plain_message() {
        for message in [captured_v4(PLAIN_V4), captured_v5(PLAIN)] {
            let event = event(&message);

            assert_eq!(event.topic.as_str(), "home/kitchen/temperature");
            assert_eq!(event.body, vec![0, 1, 2, 10, 13, 255]);
            assert_eq!((event.wildcards, event.time, &event.dedup), (Wildcards::Mqtt, None, &None));
            assert!(event.headers.is_empty(), "{:?}", event.headers);
        }
    }

    #[test]
    fn properties_become_headers_in_their_order() {
        assert_eq!(
            fields(&event(&captured_v5(PROPERTIES))),
            [
                ("x-mqtt-response-topic", "home/answers"),
                ("x-mqtt-correlation-data", "AAEC/w=="),
                ("x-mqtt-correlation-data-enc", "b64"),
                ("x-mqtt-message-expiry", "3600"),
                ("x-mqtt-tag", "b"),
                ("x-mqtt-tag", "a"),
                ("x-mqtt-odd-name-", "größe"),
                ("x-mqtt-x-callback-url", "http://elsewhere"),
                ("content-type", "application/json"),
            ]
        );
    }

    #[test]
    fn a_retained_message_says_so() {
        assert_eq!(fields(&event(&captured_v5(RETAINED))), [("x-mqtt-retain", "true")]);
    }

    #[test]
    fn attributes_of_a_cloud_event_are_recognised_by_their_plain_names() {
        let event = event(&captured_v5(CLOUD_EVENT));

        for (name, value) in
            [("ce-id", "17"), ("ce-source", "/kitchen"), ("ce-type", "t"), ("ce-specversion", "1.0")]
        {
            assert_eq!(event.headers.get(name), Some(value.as_bytes()), "{name}");
        }
    }

    #[test]
    fn a_property_can_tell_one_message_from_another() {
        let form = MessageForm { id_property: Some("tag".into()), ..form(json!({})) };
        let mut message = captured_v5(PROPERTIES);
        let dedup = |message: &Message| event_from(&form, message).unwrap().dedup.unwrap().key;
        let first = dedup(&message);

        message.again = true;
        message.packet += 1;
        assert_eq!(dedup(&message), first, "it comes again");
        message.properties.user[0].1 = "c".into();
        assert_ne!(dedup(&message), first);
    }

    #[test]
    fn the_channel_key_is_trimmed_where_it_is_asked_for() {
        let form = MessageForm { trim_channel_key: true, ..form(json!({"topic_map": {"b/c": "orders"}})) };

        for (topic, expected) in [("key/a", "a"), ("key/b/c", "orders"), ("alone", "alone")] {
            let message = Message { topic: topic.into(), ..Message::default() };
            assert_eq!(event_from(&form, &message).unwrap().topic.as_str(), expected);
        }
    }

    #[test]
    fn text_that_correlates_is_passed_on_as_it_is() {
        let mut message = captured_v5(PROPERTIES);
        message.properties.correlation_data = Some(Bytes::from_static(b"order 7"));

        assert_eq!(fields(&event(&message))[1], ("x-mqtt-correlation-data", "order 7"));
        assert_eq!(fields(&event(&message))[2].0, "x-mqtt-message-expiry");
    }

    #[test]
    fn a_topic_that_is_none_for_us_is_kept_whole() {
        let message =
            Message { topic: "x".repeat(Topic::MAX + 1), payload: "body".into(), ..Message::default() };

        let kept = event_from(&form(json!({})), &message).unwrap_err();

        assert_eq!(kept.raw, "body");
        assert!(kept.why.contains("no topic"), "{}", kept.why);
    }
}
