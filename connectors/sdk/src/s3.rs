//! Notifications of S3 buckets, in whatever message they come.
//!
//! MinIO sends the same JSON to webhooks, Kafka, NATS, AMQP and MQTT, and AWS sends it to SQS and SNS. A message whose body
//! is such a notification gets header fields that say what happened to which object, so that a function needs to read no
//! JSON for it, and is described by them as a CloudEvent. Everything here is pure.

use std::time::{SystemTime, UNIX_EPOCH};

use broker_model::Timestamp;
use serde_json::Value;

use crate::form::Incoming;

/// Larger bodies are not looked into. A notification of one object is about a kilobyte.
pub const LARGEST: usize = 256 * 1024;

/// What S3 tells of no object: that notifications were configured.
const TEST: &str = "s3:TestEvent";

/// One thing that happened to one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Record {
    /// `s3:ObjectCreated:Put`; AWS leaves `s3:` out in its records, and here it is put before.
    pub event: String,
    /// The bucket.
    pub bucket: String,
    /// The object's key, decoded: what a GET is sent for, before it is written as a path. Empty in a `s3:TestEvent`, which is
    /// about no object.
    pub key: String,
    /// The version, in a bucket that keeps versions.
    pub version: Option<String>,
    /// Orders what happened to one key: compare as hexadecimal numbers.
    pub sequencer: Option<String>,
    /// The size in bytes, of what was created.
    pub size: Option<u64>,
    /// The entity tag, without quotes.
    pub etag: Option<String>,
    /// When it happened.
    pub time: Option<Timestamp>,
    /// The id of the request that did it.
    pub request: Option<String>,
}

impl S3Record {
    /// Reads one entry of `Records`; `None` when it is something else.
    pub fn read(record: &Value) -> Option<S3Record> {
        let text = |at: &str| record.pointer(at).and_then(Value::as_str).filter(|text| !text.is_empty());
        let name = text("/eventName")?;
        let event = if name.starts_with("s3:") { name.to_owned() } else { format!("s3:{name}") };
        // Other services of AWS use the same frame.
        let of_s3 = text("/eventSource").is_none_or(|source| source.ends_with(":s3"));
        let bucket = text("/s3/bucket/name")?;
        let key = decoded(text("/s3/object/key")?)?;
        of_s3.then_some(S3Record {
            event,
            bucket: bucket.to_owned(),
            key,
            version: text("/s3/object/versionId").map(str::to_owned),
            sequencer: text("/s3/object/sequencer").map(str::to_owned),
            size: record.pointer("/s3/object/size").and_then(Value::as_u64),
            etag: text("/s3/object/eTag").map(|tag| tag.trim_matches('"').to_owned()),
            time: text("/eventTime").and_then(time),
            request: text("/responseElements/x-amz-request-id").map(str::to_owned),
        })
    }

    /// Reads what S3 sends when somebody configures notifications, which is about a bucket alone: its key is empty.
    fn read_test(notification: &Value) -> Option<S3Record> {
        let text = |key: &str| notification.get(key)?.as_str().filter(|text| !text.is_empty());
        if text("Event") != Some(TEST) {
            return None;
        }
        Some(S3Record {
            event: TEST.to_owned(),
            bucket: text("Bucket")?.to_owned(),
            key: String::new(),
            version: None,
            sequencer: None,
            size: None,
            etag: None,
            time: text("Time").and_then(time),
            request: text("RequestId").map(str::to_owned),
        })
    }

    /// What tells it from everything else that happens, the same however often and whichever way it comes.
    ///
    /// Reading an object or changing its tags happens under the sequencer that MinIO gave it when it was made, however often:
    /// there the request and the time make the difference.
    pub fn identity(&self) -> [Vec<u8>; 7] {
        let text = |text: &Option<String>| text.as_deref().unwrap_or_default().as_bytes().to_vec();
        [
            self.bucket.as_bytes().to_vec(),
            self.key.as_bytes().to_vec(),
            text(&self.version),
            text(&self.sequencer),
            self.event.as_bytes().to_vec(),
            text(&self.request),
            self.time.map_or_else(Vec::new, |time| time.as_nanos().to_be_bytes().to_vec()),
        ]
    }
}

/// What a body says happened: its records, at least one. `None` for every body that is not such a notification and nothing
/// else, which for nearly all of them the first bytes tell.
pub fn in_body(body: &[u8]) -> Option<Vec<S3Record>> {
    if body.len() > LARGEST || !begins_as_one(body) {
        return None;
    }
    let notification: Value = serde_json::from_slice(body).ok()?;
    match notification.get("Records") {
        Some(records) => {
            let records = records.as_array().filter(|records| !records.is_empty())?;
            records.iter().map(S3Record::read).collect()
        }
        None => S3Record::read_test(&notification).map(|test| vec![test]),
    }
}

/// Whether the first key is one a notification begins with.
fn begins_as_one(body: &[u8]) -> bool {
    let Some(object) = body.trim_ascii_start().strip_prefix(b"{") else { return false };
    let first = object.trim_ascii_start();
    [&b"\"Records\""[..], b"\"EventName\"", b"\"Key\"", b"\"Service\""]
        .iter()
        .any(|key| first.starts_with(key))
}

/// Undoes the encoding of keys: as in a form, with `+` for a blank. `None` when what comes out is no text.
fn decoded(key: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(key.len());
    let mut rest = key.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (high, low) = (digit(rest.next())?, digit(rest.next())?);
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

fn time(text: &str) -> Option<Timestamp> {
    let time: SystemTime = humantime::parse_rfc3339(text).ok()?;
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    Some(Timestamp::from_nanos(u64::try_from(since.as_nanos()).ok()?))
}

/// Says in header fields what the first record says, and how many there are where there are more.
pub(crate) fn describe<'a>(mut incoming: Incoming<'a>, records: &[S3Record]) -> Incoming<'a> {
    let Some(record) = records.first() else { return incoming };
    incoming = incoming.own("X-S3-Event-Name", &record.event).own("X-S3-Bucket", &record.bucket);
    let optional = [
        ("X-S3-Key", Some(record.key.clone()).filter(|key| !key.is_empty())),
        ("X-S3-Version-Id", record.version.clone()),
        ("X-S3-Sequencer", record.sequencer.clone()),
        ("X-S3-Size", record.size.map(|size| size.to_string())),
        ("X-S3-Etag", record.etag.clone()),
        ("X-S3-Records", (records.len() > 1).then(|| records.len().to_string())),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            incoming = incoming.own(name, value);
        }
    }
    if let Some(time) = record.time {
        incoming = incoming.time(time);
    }
    let (kind, subject) = (record.event.trim_start_matches("s3:"), &record.key);
    incoming.described(|event| {
        // The type and subject of CloudEvents' own adapter for S3.
        event.kind = Some(format!("com.amazonaws.s3.{kind}").into());
        event.subject = Some(subject.as_str()).filter(|key| !key.is_empty()).map(Into::into);
        if let (None, Some(sequencer)) = (&event.id, &record.sequencer) {
            let version = record.version.as_deref().unwrap_or_default();
            let mut id = format!("{}/{subject}:{version}:{sequencer}:{kind}", record.bucket);
            if let Some(request) = &record.request {
                id = format!("{id}:{request}");
            }
            event.id = Some(id.into());
        }
    })
}

#[cfg(test)]
mod tests {
    use broker_model::{SourceName, Wildcards};
    use serde_json::json;

    use super::*;
    use crate::form::EventForm;
    use crate::settings::Reader;

    fn record(name: &str, source: &str, key: &str) -> Value {
        json!({
            "eventVersion": "2.0", "eventSource": source, "eventTime": "2026-11-29T07:08:09.123Z",
            "eventName": name, "responseElements": {"x-amz-request-id": "18B"},
            "s3": {
                "bucket": {"name": "photos"},
                "object": {"key": key, "size": 5, "eTag": "e", "versionId": "v", "sequencer": "18A"},
            },
        })
    }

    /// As AWS' documentation has it.
    const TEST_EVENT: &str = r#"{"Service":"Amazon S3","Event":"s3:TestEvent","Time":"2014-10-13T15:57:02.089Z","Bucket":"amzn-s3-demo-bucket","RequestId":"5582815E1AEA5ADF","HostId":"8cLeGAmw098X5cv4Zkwcmo8vvZa3eH3eKxsPzbB9wrR+YstdA6Knx4Ip8EXAMPLE"}"#;

    fn body(records: &[Value]) -> Vec<u8> {
        json!({"EventName": "s3:ObjectCreated:Put", "Key": "photos/x", "Records": records}).to_string().into()
    }

    #[test]
    fn minios_and_amazons_records_are_read_alike_and_keys_are_decoded() {
        let minio = in_body(&body(&[record("s3:ObjectCreated:Put", "minio:s3", "in%2Fa+b%2B%C3%BC.txt")]));
        let amazon = in_body(&body(&[record("ObjectCreated:Put", "aws:s3", "in/a+b%2B%C3%BC.txt")]));

        assert_eq!(minio, amazon);
        let [record] = &minio.unwrap()[..] else { panic!("one") };
        assert_eq!((record.key.as_str(), record.event.as_str()), ("in/a b+ü.txt", "s3:ObjectCreated:Put"));
        assert_eq!(record.time.map(Timestamp::as_millis), Some(1_795_936_089_123));
        let time = 1_795_936_089_123_000_000_u64.to_be_bytes();
        assert_eq!(
            record.identity(),
            [&b"photos"[..], "in/a b+ü.txt".as_bytes(), b"v", b"18A", b"s3:ObjectCreated:Put", b"18B", &time]
        );
    }

    #[test]
    fn whatever_happens_to_an_object_again_is_another_event() {
        // MinIO's sequencer is that of the object, whoever reads it and however often.
        let get = record("s3:ObjectAccessed:Get", "minio:s3", "a");
        let (mut again, mut unnamed, mut later) = (get.clone(), get.clone(), get.clone());
        again["responseElements"]["x-amz-request-id"] = json!("18C");
        unnamed["responseElements"] = json!({});
        later["responseElements"] = json!({});
        later["eventTime"] = json!("2026-11-29T07:08:09.124Z");
        let all = [&get, &again, &unnamed, &later].map(|record| S3Record::read(record).unwrap().identity());

        let distinct: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), 4);
        assert_eq!(S3Record::read(&get).unwrap().identity(), all[0]);
    }

    #[test]
    fn the_event_of_a_test_is_about_a_bucket_alone() {
        let told = event(json!({}), TEST_EVENT.into());
        let fields: Vec<(&str, &[u8])> = told.headers.iter().collect();

        assert_eq!(
            fields,
            [("x-s3-event-name", &b"s3:TestEvent"[..]), ("x-s3-bucket", b"amzn-s3-demo-bucket")]
        );
        let described = told.cloud_event.unwrap();
        assert_eq!(described.kind.as_deref(), Some("com.amazonaws.s3.TestEvent"));
        assert_eq!((described.subject, described.id), (None, None));
        assert_eq!(told.time.map(Timestamp::as_millis), Some(1_413_215_822_089));
        for other in
            [TEST_EVENT.replace("s3:TestEvent", "s3:Other"), TEST_EVENT.replace("\"Bucket\"", "\"B\"")]
        {
            assert_eq!(in_body(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn what_is_not_whole_a_notification_is_none() {
        let of_sns = json!({"Records": [{"EventSource": "aws:sns", "Sns": {}}]}).to_string();
        let half = body(&[record("s3:ObjectCreated:Put", "minio:s3", "a"), json!({})]);
        let other = body(&[record("INSERT", "aws:dynamodb", "a")]);
        let large =
            [&body(&[record("s3:ObjectCreated:Put", "minio:s3", "a")])[..], &[b' '; LARGEST]].concat();
        let not_utf8 = body(&[record("s3:ObjectCreated:Put", "minio:s3", "%ff")]);
        let nothing: [&[u8]; 9] = [
            b"",
            b"{}",
            b"{\"Records\":null}",
            b"{\"Records\":[]}",
            b"{\"Records\": [",
            of_sns.as_bytes(),
            &half,
            &other,
            &not_utf8,
        ];
        for body in nothing {
            assert_eq!(in_body(body), None, "{}", String::from_utf8_lossy(body));
        }
        assert_eq!(in_body(&large), None);
    }

    #[test]
    fn only_a_body_that_begins_as_one_is_parsed() {
        assert!(begins_as_one(b" {\n \"Records\": []}") && begins_as_one(b"{\"EventName\":1}"));
        assert!(!begins_as_one(b"{\"id\":1,\"Records\":[]}") && !begins_as_one(b"[]"));
    }

    fn event(settings: Value, body: Vec<u8>) -> broker_model::Event {
        let mut at = Reader::new(settings);
        let name = SourceName::parse("bus").unwrap();
        let mut form = EventForm::read(&mut at, &name, "kafka", Wildcards::Glob);
        form.read_s3(&mut at);
        at.finish(|| Some(form)).unwrap().message("orders", body).event().unwrap()
    }

    #[test]
    fn a_message_of_any_kind_that_is_a_notification_says_so() {
        let record = record("s3:ObjectCreated:Put", "minio:s3", "in%2Fa");
        let event = event(json!({}), body(&[record.clone(), record]));
        let header = |name: &str| event.headers.text(name);

        assert_eq!(header("x-s3-event-name"), Some("s3:ObjectCreated:Put"));
        assert_eq!((header("x-s3-bucket"), header("x-s3-key")), (Some("photos"), Some("in/a")));
        assert_eq!((header("x-s3-version-id"), header("x-s3-sequencer")), (Some("v"), Some("18A")));
        assert_eq!((header("x-s3-size"), header("x-s3-etag")), (Some("5"), Some("e")));
        assert_eq!(header("x-s3-records"), Some("2"));
        assert_eq!(event.topic.as_str(), "orders", "the topic stays");
        let described = event.cloud_event.unwrap();
        assert_eq!(described.kind.as_deref(), Some("com.amazonaws.s3.ObjectCreated:Put"));
        assert_eq!(described.subject.as_deref(), Some("in/a"));
        assert_eq!(described.id.as_deref(), Some("photos/in/a:v:18A:ObjectCreated:Put:18B"));
        assert_eq!(event.time.map(Timestamp::as_millis), Some(1_795_936_089_123));
    }

    #[test]
    fn it_may_be_switched_off() {
        let event = event(
            json!({"s3_notifications": false}),
            body(&[record("s3:ObjectCreated:Put", "minio:s3", "a")]),
        );

        assert!(event.headers.is_empty());
        assert_eq!(event.cloud_event.unwrap().kind.as_deref(), Some("evoke.kafka.message"));
    }
}
