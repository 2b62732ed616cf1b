//! How messages of one source become events: what is the same for every kind of upstream.

use std::borrow::Cow;

use broker_model::event::CloudEvent;
use broker_model::intake::{Lost, Quarantined};
use broker_model::names::NameError;
use broker_model::position::Position;
use broker_model::{DedupKey, Event, Headers, SourceName, Timestamp, Topic, Wildcards};
use bytes::Bytes;

use crate::dedup::dedup_key;
use crate::header_policy::HeaderPolicy;
use crate::s3;
use crate::settings::Reader;
use crate::topic_map::TopicMap;

/// What memory is taken for at once: enough for what most messages say.
const FIELDS: usize = 8;
const FIELD_BYTES: usize = 256;

/// The settings every source has for that: `content_type`, `headers`, `topic_map`, `cloud_events`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventForm {
    source: SourceName,
    kind: &'static str,
    wildcards: Wildcards,
    content_type: Option<Box<str>>,
    headers: HeaderPolicy,
    topic_map: TopicMap,
    cloud_events: bool,
    /// Notifications of S3 are recognised.
    s3: bool,
}

impl EventForm {
    /// Reads the settings. `kind` and `wildcards` are the connector's.
    pub fn read(at: &mut Reader, source: &SourceName, kind: &'static str, wildcards: Wildcards) -> Self {
        EventForm {
            source: source.clone(),
            kind,
            wildcards,
            content_type: at.content_type().map(Into::into),
            headers: HeaderPolicy::read(at),
            topic_map: TopicMap::read(at),
            cloud_events: at.or("cloud_events", true),
            s3: true,
        }
    }

    /// Reads `s3_notifications`, for sources whose messages are others' to write.
    pub(crate) fn read_s3(&mut self, at: &mut Reader) {
        self.s3 = at.or("s3_notifications", true);
    }

    /// The source's name.
    pub fn source(&self) -> &SourceName {
        &self.source
    }

    /// The grammar of its topics' wildcards.
    pub fn wildcards(&self) -> Wildcards {
        self.wildcards
    }

    /// Its renamed topics.
    pub fn topic_map(&self) -> &TopicMap {
        &self.topic_map
    }

    /// A message that came under this name of the upstream (a subject, a queue, a topic), to be described further.
    pub fn message(&self, name: &str, body: impl Into<Bytes>) -> Incoming<'_> {
        Incoming {
            form: self,
            topic: Topic::parse(&self.topic_map.topic(name)),
            headers: Headers::with_capacity(FIELDS, FIELD_BYTES),
            content_type: None,
            attributes: Headers::new(),
            cloud_event: CloudEvent {
                kind: Some(format!("evoke.{}.message", self.kind).into()),
                ..CloudEvent::default()
            },
            body: body.into(),
            time: None,
            dedup: None,
            position: None,
        }
    }

    /// Messages that the upstream discarded before they could be read, as one dead letter. `what` says which, for people;
    /// `parts` identify the range, so that it is recorded once.
    pub fn lost(
        &self,
        name: &str,
        messages: Option<u64>,
        what: impl Into<Box<str>>,
        parts: &[&[u8]],
    ) -> Lost {
        Lost {
            source: self.source.clone(),
            topic: Topic::parse(&self.topic_map.topic(name)).ok(),
            messages,
            what: what.into(),
            dedup: Some(dedup_key(&self.source, parts)),
        }
    }
}

/// One message on its way to being an event.
#[derive(Clone, Debug)]
pub struct Incoming<'a> {
    form: &'a EventForm,
    topic: Result<Topic, NameError>,
    headers: Headers,
    content_type: Option<Box<[u8]>>,
    /// CloudEvents attributes of the message's own.
    attributes: Headers,
    cloud_event: CloudEvent,
    body: Bytes,
    time: Option<Timestamp>,
    dedup: Option<DedupKey>,
    position: Option<Position>,
}

impl Incoming<'_> {
    /// What the connector says itself (`X-Kafka-Offset`). A value that HTTP cannot carry is left out, because the call
    /// would fail at every attempt.
    #[must_use]
    pub fn own(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        if carriable(value) {
            self.headers.append(&token(name), value);
        }
        self
    }

    /// A header field or attribute of the message, when `headers` lets it pass: `Order-Id` as `<prefix>Order-Id`, so that
    /// no publisher can pass for the gateway or a caller. One that holds a CloudEvents attribute in a protocol's binding
    /// (`ce-id`, `ce_id`, `cloudEvents:id`) becomes `ce-id` as well.
    #[must_use]
    pub fn field(mut self, prefix: &str, name: &str, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        if carriable(value) && self.form.headers.passes(name) {
            if let Some(attribute) = attribute(name) {
                self.attributes.append(attribute, value);
            }
            self.headers.append(&token(&format!("{prefix}{name}")), value);
        }
        self
    }

    /// Whether `headers` lets a field of this name pass, for what goes with a field without being one.
    pub fn passes(&self, name: &str) -> bool {
        self.form.headers.passes(name)
    }

    /// A CloudEvents attribute of the message, where its binding says so otherwise than by a header's name.
    #[must_use]
    pub fn attribute(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        if carriable(value) {
            self.attributes.append(&token(name), value);
        }
        self
    }

    /// The message's own Content-Type; where it says none, `content_type` of the settings stands.
    #[must_use]
    pub fn content_type(mut self, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        if carriable(value) && !value.is_empty() {
            self.content_type = Some(value.into());
        }
        self
    }

    /// When the upstream says it happened.
    #[must_use]
    pub fn time(mut self, time: Timestamp) -> Self {
        self.time = Some(time);
        self
    }

    /// What identifies the message at its upstream; see [`dedup_key`].
    #[must_use]
    pub fn id(mut self, parts: &[&[u8]]) -> Self {
        self.dedup = Some(dedup_key(&self.form.source, parts));
        self
    }

    /// Where the message stands upstream, for sources whose messages have positions; instead of [`Incoming::id`]. Gives the
    /// event its CloudEvents id as well, so that a redelivery has the same one.
    #[must_use]
    pub fn position(mut self, position: Position) -> Self {
        let Position { partition, offset } = &position;
        let at = if partition.incarnation().is_empty() { "" } else { "@" };
        let id =
            format!("{}:{}:{offset}{at}{}", partition.stream(), partition.number(), partition.incarnation());
        self.cloud_event.id = Some(id.into());
        self.position = Some(position);
        self
    }

    /// How it is described as a CloudEvent where it does not do so itself; `kind` is the attribute `type`, and the default
    /// `evoke.<kind>.message`.
    #[must_use]
    pub fn described(mut self, describe: impl FnOnce(&mut CloudEvent)) -> Self {
        describe(&mut self.cloud_event);
        self
    }

    /// Says in header fields what a notification of S3 in `body` says, where it is one: for bodies within another envelope.
    /// The message's own body needs no asking.
    #[must_use]
    pub fn notified(self, body: &[u8]) -> Self {
        match self.form.s3.then(|| s3::in_body(body)).flatten() {
            Some(records) => s3::describe(self, &records),
            None => self,
        }
    }

    /// The event.
    ///
    /// # Errors
    /// The message as it goes to the dead letters, when its name is no topic.
    pub fn event(self) -> Result<Event, Box<Quarantined>> {
        let body = self.body.clone();
        self.notified(&body).whole()
    }

    fn whole(mut self) -> Result<Event, Box<Quarantined>> {
        let topic = match &self.topic {
            Ok(topic) => topic.clone(),
            Err(error) => {
                let why = format!("its name is no topic: {error}");
                return Err(self.unreadable(why));
            }
        };
        let headers = self.all_headers();
        Ok(Event {
            source: self.form.source.clone(),
            topic,
            wildcards: self.form.wildcards,
            headers,
            body: self.body,
            time: self.time,
            dedup: self.dedup,
            position: self.position,
            fire: None,
            cloud_event: self.form.cloud_events.then_some(self.cloud_event),
        })
    }

    /// The message as it goes to the dead letters, whole.
    pub fn unreadable(mut self, why: impl Into<Box<str>>) -> Box<Quarantined> {
        let headers = self.all_headers();
        Box::new(Quarantined {
            source: self.form.source.clone(),
            topic: self.topic.ok(),
            headers,
            raw: self.body,
            why: why.into(),
            dedup: self.dedup,
            position: self.position,
        })
    }

    fn all_headers(&mut self) -> Headers {
        let mut headers = std::mem::take(&mut self.headers);
        let default = self.form.content_type.as_deref().map(str::as_bytes);
        if let Some(value) = self.content_type.as_deref().or(default) {
            headers.append("content-type", value);
        }
        // Half an event description is none.
        if ["specversion", "id", "source", "type"].into_iter().all(|name| self.attributes.get(name).is_some())
        {
            for (name, value) in self.attributes.iter() {
                headers.append(&format!("ce-{name}"), value);
            }
        }
        headers
    }
}

/// The CloudEvents attribute a field holds, in the bindings of Kafka, NATS and AMQP.
fn attribute(name: &str) -> Option<&str> {
    let after = |prefix: &str| {
        let (begin, rest) = name.split_at_checked(prefix.len())?;
        begin.eq_ignore_ascii_case(prefix).then_some(rest)
    };
    let attribute = ["ce-", "ce_", "cloudevents:", "cloudevents_"].into_iter().find_map(after)?;
    let is_name = !attribute.is_empty() && attribute.bytes().all(|b| b.is_ascii_alphanumeric());
    is_name.then_some(attribute)
}

/// Whether HTTP can carry the value.
fn carriable(value: &[u8]) -> bool {
    value.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control())
}

/// A name as HTTP can write it: what it cannot becomes `-`.
fn token(name: &str) -> Cow<'_, str> {
    if name.bytes().all(|byte| is_of_token(byte.into())) {
        return Cow::Borrowed(name);
    }
    name.chars().map(|c| if is_of_token(c) { c } else { '-' }).collect()
}

/// Source: RFC 9110 §5.6.2.
fn is_of_token(c: char) -> bool {
    c.is_ascii_alphanumeric()
        || matches!(
            c,
            '!' | '#' | '$' | '%' | '&' | '\'' | '*' | '+' | '-' | '.' | '^' | '_' | '`' | '|' | '~'
        )
}

#[cfg(test)]
mod tests {
    use broker_model::position::Partition;
    use serde_json::{Value, json};

    use super::*;

    fn form(settings: Value) -> EventForm {
        let mut at = Reader::new(settings);
        let name = SourceName::parse("bus").unwrap();
        let form = EventForm::read(&mut at, &name, "kafka", Wildcards::Glob);
        at.finish(|| Some(form)).unwrap()
    }

    fn fields(headers: &Headers) -> Vec<(&str, &str)> {
        headers.iter().map(|(name, value)| (name, std::str::from_utf8(value).unwrap())).collect()
    }

    #[test]
    fn a_message_becomes_an_event_with_its_topic_body_and_fields() {
        let form = form(json!({"topic_map": {"orders-v1": "orders"}, "headers": {"deny": "secret"}}));
        let event = form
            .message("orders-v1", "body")
            .own("X-Kafka-Offset", "7")
            .field("X-Kafka-", "Order Id", "1")
            .field("X-Kafka-", "secret", "s")
            .field("X-Kafka-", "odd", "a\nb")
            .time(Timestamp::EPOCH)
            .id(&[b"0", b"7"])
            .event()
            .unwrap();

        assert_eq!(
            (event.topic.as_str(), &event.body[..], event.source.as_str()),
            ("orders", &b"body"[..], "bus")
        );
        assert_eq!(fields(&event.headers), [("x-kafka-offset", "7"), ("x-kafka-order-id", "1")]);
        assert_eq!(event.time, Some(Timestamp::EPOCH));
        assert_eq!(event.dedup, Some(dedup_key(form.source(), &[b"0", b"7"])));
        assert_eq!(event.cloud_event.unwrap().kind.as_deref(), Some("evoke.kafka.message"));
    }

    #[test]
    fn a_position_names_the_event_the_same_at_each_redelivery() {
        let form = form(json!({}));
        let partition = Partition::new(form.source().clone(), "orders", "t0", 3).unwrap();
        let position = Position { partition: partition.into(), offset: 17 };
        let event = form.message("orders", "").position(position.clone()).event().unwrap();

        assert_eq!(event.cloud_event.unwrap().id.as_deref(), Some("orders:3:17@t0"));
        assert_eq!((event.position, event.dedup), (Some(position.clone()), None));
        let kept = form.message("orders", "").position(position.clone()).unreadable("no JSON");
        assert_eq!(kept.position, Some(position));
    }

    #[test]
    fn the_messages_content_type_goes_before_the_settings() {
        let form = form(json!({"content_type": "text/plain"}));

        assert_eq!(fields(&form.message("a", "").event().unwrap().headers), [("content-type", "text/plain")]);
        let own = form.message("a", "").content_type("application/json").event().unwrap();
        assert_eq!(fields(&own.headers), [("content-type", "application/json")]);
    }

    #[test]
    fn a_message_that_is_a_cloud_event_keeps_its_attributes_and_half_of_one_is_none() {
        let form = form(json!({"cloud_events": false}));
        let whole =
            [("ce_specversion", "1.0"), ("cloudEvents:id", "7"), ("ce-source", "/s"), ("ce_type", "t")];
        let event = |fields: &[(&str, &'static str)]| {
            fields
                .iter()
                .fold(form.message("a", ""), |m, (name, value)| m.field("x-", name, *value))
                .event()
                .unwrap()
        };

        assert_eq!(event(&whole).headers.text("ce-id"), Some("7"));
        assert_eq!(event(&whole).headers.text("x-ce_type"), Some("t"), "and what it was stays");
        assert_eq!(event(&whole[..3]).headers.get("ce-id"), None);
        assert_eq!(event(&whole).cloud_event, None, "switched off");
    }

    #[test]
    fn what_cannot_be_read_is_kept_whole() {
        let form = form(json!({}));
        let kept = form.message("a", "raw").own("X-Sqs-Message-Id", "7").id(&[b"7"]).unreadable("no JSON");

        assert_eq!(
            (&kept.raw[..], &*kept.why, kept.topic.as_ref().unwrap().as_str()),
            (&b"raw"[..], "no JSON", "a")
        );
        assert_eq!(kept.headers.text("x-sqs-message-id"), Some("7"));
        assert!(kept.dedup.is_some());
        assert!(form.message("", "raw").event().unwrap_err().why.contains("no topic"));
    }
}
