//! What a store sends as events: one for each record.

use bytes::Bytes;
use connectors_sdk::{Event, EventForm, Quarantined, S3Record};
use serde_json::{Value, json};

use crate::identity::{Creation, Identity};
use crate::listing::{self, Object};
use crate::names;

/// The header of an event that no notification told: it was found by listing.
const RECONCILED: &str = "X-S3-Reconciled";

const NOT_OF_S3: &str = "a record of the notification is none of S3";

/// One record of a notification.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) record: S3Record,
    /// The notification with this record alone.
    body: Bytes,
}

impl Told {
    /// The event's whole name at the store.
    pub(crate) fn topic(&self) -> String {
        names::topic(&self.record)
    }
}

/// The records of a notification that was sent; none in one that only says that the store is there.
///
/// # Errors
/// What is wrong with it, for people.
pub(crate) fn records(body: &Bytes) -> Result<Vec<Told>, String> {
    let records = values(body)?;
    let one = records.len() == 1;
    let read = |value: Value| {
        let record = S3Record::read(&value).ok_or(NOT_OF_S3)?;
        // What came with one record stays as it is, byte for byte.
        let body = if one { body.clone() } else { alone(&record, &value) };
        Ok(Told { record, body })
    };
    records.into_iter().map(read).collect()
}

/// The records of a line of the stream, in the form of a notification that was sent: in the stream keys are not encoded, and
/// a function should not have to know which way its event came.
///
/// # Errors
/// What is wrong with it, for people.
pub(crate) fn streamed(line: &Bytes) -> Result<Vec<Told>, String> {
    let read = |mut value: Value| {
        if let Some(Value::String(key)) = value.pointer_mut("/s3/object/key") {
            *key = listing::encoded(key);
        }
        let record = S3Record::read(&value).ok_or(NOT_OF_S3)?;
        let body = alone(&record, &value);
        Ok(Told { record, body })
    };
    values(line)?.into_iter().map(read).collect()
}

fn values(body: &Bytes) -> Result<Vec<Value>, String> {
    let mut notification: Value =
        serde_json::from_slice(body).map_err(|error| format!("the notification is no JSON: {error}"))?;
    match notification.get_mut("Records").map(Value::take) {
        Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(records)) => Ok(records),
        _ => Err("the notification has no Records".to_owned()),
    }
}

fn alone(record: &S3Record, value: &Value) -> Bytes {
    let key = format!("{}/{}", record.bucket, record.key);
    json!({ "EventName": record.event, "Key": key, "Records": [value] }).to_string().into()
}

/// The event of a record. The header fields come with the notification: see [`connectors_sdk::s3`].
///
/// # Errors
/// The message as it goes to the dead letters.
pub(crate) fn event_from(
    form: &EventForm,
    told: &Told,
    identity: &Identity,
) -> Result<Event, Box<Quarantined>> {
    form.message(&told.topic(), told.body.clone())
        .content_type("application/json")
        .id(&parts(identity))
        .event()
}

fn parts(identity: &Identity) -> Vec<&[u8]> {
    identity.iter().map(Vec::as_slice).collect()
}

/// A notification that cannot be read, as it goes to the dead letters: whole.
pub(crate) fn unreadable(form: &EventForm, body: Bytes, why: String) -> Box<Quarantined> {
    form.message("", body).unreadable(why)
}

/// What a notification would have said of an object that is there.
pub(crate) fn reconciled(bucket: &str, object: &Object) -> Told {
    let event = object.event();
    let time = jiff::Timestamp::from_millisecond(i64::try_from(object.modified).unwrap_or(0))
        .unwrap_or_default()
        .strftime("%Y-%m-%dT%H:%M:%S.%3fZ")
        .to_string();
    let value = json!({
        "eventVersion": "2.0",
        "eventSource": "minio:s3",
        "eventTime": time,
        "eventName": event,
        "s3": {
            "s3SchemaVersion": "1.0",
            "bucket": { "name": bucket, "arn": format!("arn:aws:s3:::{bucket}") },
            "object": { "key": listing::encoded(&object.key), "size": object.size, "eTag": object.etag },
        },
    });
    let record = S3Record {
        event: event.to_owned(),
        bucket: bucket.to_owned(),
        key: object.key.clone(),
        version: None,
        sequencer: None,
        size: Some(object.size),
        etag: Some(object.etag.clone()),
        time: Some(connectors_sdk::Timestamp::from_millis(object.modified)),
        request: None,
    };
    let body = alone(&record, &value);
    Told { record, body }
}

/// The event of an object that was found by listing, marked so. It is the same as that of the notification, had there been
/// one: told and found, it is told once.
///
/// # Errors
/// The message as it goes to the dead letters.
pub(crate) fn reconciled_event(
    form: &EventForm,
    told: &Told,
    creation: &Creation,
) -> Result<Event, Box<Quarantined>> {
    form.message(&told.topic(), told.body.clone())
        .content_type("application/json")
        .own(RECONCILED, "true")
        .own("ce-reconciled", "true")
        .id(&parts(&creation.identity()))
        .event()
}

#[cfg(test)]
mod tests {
    use connectors_sdk::{Reader, SourceName, Wildcards};

    use super::*;

    fn form() -> EventForm {
        EventForm::read(
            &mut Reader::new(json!({})),
            &SourceName::parse("files").unwrap(),
            "minio",
            Wildcards::S3,
        )
    }

    /// As the real store's webhook, its stream and its targets have the same event: one captured notification each.
    const WEBHOOK: &[u8] = include_bytes!("../tests/captures/webhook.json");
    const STREAM: &[u8] = include_bytes!("../tests/captures/stream.json");

    fn event_of(told: &Told) -> Event {
        event_from(&form(), told, &told.record.identity().to_vec()).unwrap()
    }

    fn record(key: &str, sequencer: &str) -> Value {
        json!({
            "eventVersion": "2.0", "eventSource": "minio:s3", "eventTime": "2026-11-29T07:08:09.123Z",
            "eventName": "s3:ObjectCreated:Put",
            "s3": {"bucket": {"name": "photos"}, "object": {"key": key, "eTag": "e", "sequencer": sequencer}},
        })
    }

    fn notification(records: &[Value]) -> Bytes {
        json!({"EventName": "s3:ObjectCreated:Put", "Key": "photos/x", "Records": records}).to_string().into()
    }

    #[test]
    fn one_record_keeps_its_notification_byte_for_byte() {
        let body = notification(&[record("in%2Fa+b", "1")]);
        let told = records(&body).unwrap();
        let event = event_of(&told[0]);

        assert_eq!((told.len(), &event.body), (1, &body));
        assert_eq!(event.topic.as_str(), "photos:s3:ObjectCreated:Put/in/a b");
        assert_eq!(event.headers.text("x-s3-key"), Some("in/a b"));
        assert_eq!(event.headers.text("content-type"), Some("application/json"));
    }

    #[test]
    fn several_records_are_an_event_each_with_an_identity_of_its_own() {
        let told = records(&notification(&[record("a", "1"), record("a", "2"), record("b", "1")])).unwrap();
        let events: Vec<Event> = told.iter().map(event_of).collect();

        let keys: std::collections::HashSet<_> = events.iter().map(|event| event.dedup.clone()).collect();
        assert_eq!((events.len(), keys.len()), (3, 3));
        assert_eq!(records(&events[2].body).unwrap()[0].record.key, "b");
        assert!(events.iter().all(|event| event.headers.get("x-s3-records").is_none()));
    }

    #[test]
    fn by_the_stream_an_event_is_the_same_as_by_webhook() {
        let sent = records(&Bytes::from_static(WEBHOOK)).unwrap();
        let streamed = streamed(&Bytes::from_static(STREAM)).unwrap();

        for told in [&sent[0], &streamed[0]] {
            let event = event_of(told);
            assert_eq!(event.headers.text("x-s3-key"), Some("in/a b+ü%.txt"));
            assert_eq!(event.topic.as_str(), "photos:s3:ObjectCreated:Put/in/a b+ü%.txt");
        }
        let shape = |told: &Told| {
            let body: Value = serde_json::from_slice(&told.body).unwrap();
            (
                body["EventName"].clone(),
                body["Key"].clone(),
                body["Records"][0]["s3"]["object"]["key"].clone(),
            )
        };
        assert_eq!(shape(&sent[0]), shape(&streamed[0]));
        assert_eq!((sent.len(), streamed.len()), (1, 1));
        assert!(super::streamed(&Bytes::from_static(b"{\"Records\":null}")).unwrap().is_empty());
        assert!(
            super::streamed(&Bytes::from_static(b"{\"Records\":[{}]}")).unwrap_err().contains("none of S3")
        );
    }

    #[test]
    fn what_is_no_notification_is_told_and_one_without_records_is_nothing() {
        assert!(records(&Bytes::from_static(b"{\"Records\":null}")).unwrap().is_empty());
        for (body, why) in [("{", "no JSON"), ("{}", "no Records"), ("{\"Records\":[{}]}", "none of S3")] {
            let error = records(&Bytes::copy_from_slice(body.as_bytes())).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        let kept = unreadable(&form(), Bytes::from_static(b"x"), "why".into());
        assert_eq!((&kept.raw[..], kept.topic), (&b"x"[..], None));
    }

    #[test]
    fn an_object_that_was_found_is_told_as_a_notification_would_and_marked() {
        let object =
            Object { key: "in/a b+ü".into(), size: 5, etag: "e".into(), modified: 1_795_936_089_123 };
        let told = reconciled("photos", &object);
        let creation = Creation::found("photos", &object);
        let event = reconciled_event(&form(), &told, &creation).unwrap();

        assert_eq!(records(&event.body).unwrap()[0].record, told.record);
        assert_eq!(event.headers.text("x-s3-reconciled"), Some("true"));
        assert_eq!(event.headers.text("ce-reconciled"), Some("true"));
        assert_eq!(event.topic.as_str(), "photos:s3:ObjectCreated:Put/in/a b+ü");
        let notified = event_from(&form(), &told, &creation.identity()).unwrap();
        assert_eq!(event.dedup, notified.dedup);
    }
}
