//! CloudEvents over HTTP: binary (attributes in header fields), structured (an envelope of JSON) and batch.
//!
//! A function sees the same of each: the data as the body, the attributes as `ce-*`.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use connectors_sdk::{Timestamp, Wildcards};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::value::RawValue;

use crate::denied::Denied;
use crate::event::{Message, Request};
use crate::guard::text;

const STRUCTURED: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";

/// How a request holds its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Binary,
    Structured,
    Batch,
}

impl Mode {
    /// By its header fields, before the body is read.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Denied> {
        let content_type = text(headers, header::CONTENT_TYPE.as_str()).unwrap_or_default();
        let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match media_type.as_str() {
            STRUCTURED => return Ok(Mode::Structured),
            BATCH => return Ok(Mode::Batch),
            other if other.starts_with("application/cloudevents") => {
                return Err(Denied::ContentType("of CloudEvents' formats only JSON is read"));
            }
            _ => {}
        }
        if text(headers, "ce-specversion").is_none() {
            return Err(Denied::ContentType("there are neither ce-* fields nor an envelope of CloudEvents"));
        }
        for name in ["ce-id", "ce-source", "ce-type"] {
            if text(headers, name).is_none_or(str::is_empty) {
                return Err(Denied::Incomplete(format!("a CloudEvent has a {name}")));
            }
        }
        Ok(Mode::Binary)
    }
}

/// The events of a request. What cannot be read is kept: whoever sent it believes that it was an event.
pub(crate) fn messages(mode: Mode, request: &Request<'_>) -> Vec<Message> {
    match mode {
        Mode::Binary => vec![binary(request)],
        Mode::Structured => vec![structured(request, request.body.clone())],
        Mode::Batch => match serde_json::from_slice::<Vec<&RawValue>>(&request.body) {
            Ok(events) => events
                .into_iter()
                .map(|event| structured(request, request.body.slice_ref(event.get().as_bytes())))
                .collect(),
            Err(error) => {
                vec![request.unreadable(request.body.clone(), &format!("it is no list of JSON: {error}"))]
            }
        },
    }
}

fn binary(request: &Request<'_>) -> Message {
    let field = |name: &str| text(request.headers, name).unwrap_or_default();
    let (source, id) = (field("ce-source"), field("ce-id"));
    let time = text(request.headers, "ce-time").and_then(moment);
    request.message(Some(field("ce-type")), |incoming| {
        let incoming = incoming.id(&[request.endpoint.name.as_bytes(), source.as_bytes(), id.as_bytes()]);
        match time {
            Some(time) => incoming.time(time),
            None => incoming,
        }
    })
}

fn structured(request: &Request<'_>, body: Bytes) -> Message {
    let envelope = match Envelope::read(&body) {
        Ok(envelope) => envelope,
        Err(why) => return request.unreadable(body.clone(), &format!("it is no CloudEvent: {why}")),
    };
    let attribute = |name: &str| envelope.attributes.get(name).map_or("", String::as_str);
    let (source, id) = (attribute("source"), attribute("id"));
    let time = envelope.attributes.get("time").and_then(|text| moment(text));
    request.message_of(envelope.data.clone(), Some(attribute("type")), |mut incoming| {
        for (name, value) in &envelope.attributes {
            if name != "datacontenttype" && incoming.passes(&format!("ce-{name}")) {
                incoming = incoming.attribute(name, on_the_wire(value));
            }
        }
        if let Some(content_type) = &envelope.content_type {
            incoming = incoming.content_type(content_type.clone());
        }
        if let Some(time) = time {
            incoming = incoming.time(time);
        }
        incoming.id(&[request.endpoint.name.as_bytes(), source.as_bytes(), id.as_bytes()])
    })
}

/// An event in the JSON format.
#[derive(Debug, PartialEq, Eq)]
struct Envelope {
    attributes: BTreeMap<String, String>,
    content_type: Option<String>,
    /// As it was written, where it is JSON.
    data: Bytes,
}

impl Envelope {
    fn read(body: &Bytes) -> Result<Self, String> {
        let fields: BTreeMap<String, &RawValue> =
            serde_json::from_slice(body).map_err(|error| format!("it is no object of JSON: {error}"))?;
        let mut attributes = BTreeMap::new();
        for (name, value) in &fields {
            if name == "data" || name == "data_base64" {
                continue;
            }
            if !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) || name.is_empty() {
                return Err(format!("{name:?} is no name of an attribute"));
            }
            match serde_json::from_str(value.get()) {
                Ok(serde_json::Value::String(text)) => attributes.insert(name.clone(), text),
                Ok(serde_json::Value::Bool(_) | serde_json::Value::Number(_)) => {
                    attributes.insert(name.clone(), value.get().to_owned())
                }
                Ok(serde_json::Value::Null) => None,
                _ => return Err(format!("{name} is no attribute: it has parts")),
            };
        }
        for name in ["specversion", "id", "source", "type"] {
            if attributes.get(name).is_none_or(String::is_empty) {
                return Err(format!("it has no {name}"));
            }
        }
        if attributes["specversion"] != "1.0" {
            return Err(format!("its version is {}, and only 1.0 is read", attributes["specversion"]));
        }
        let content_type = attributes.get("datacontenttype").cloned();
        let is_json = content_type.as_deref().is_none_or(is_json);
        let data = match (fields.get("data"), fields.get("data_base64")) {
            (Some(_), Some(_)) => return Err("it has both data and data_base64".to_owned()),
            (None, Some(data)) => {
                let text: String = serde_json::from_str(data.get()).map_err(|_| "data_base64 is no text")?;
                STANDARD.decode(text).map_err(|_| "data_base64 is not base64")?.into()
            }
            // A text that is no JSON stands there as a string.
            (Some(data), None) if !is_json => match serde_json::from_str::<String>(data.get()) {
                Ok(text) => text.into(),
                Err(_) => body.slice_ref(data.get().as_bytes()),
            },
            (Some(data), None) => body.slice_ref(data.get().as_bytes()),
            (None, None) => Bytes::new(),
        };
        let default = || fields.contains_key("data").then(|| "application/json".to_owned());
        Ok(Envelope { attributes, content_type: content_type.or_else(default), data })
    }
}

fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type.ends_with("/json") || media_type.ends_with("+json")
}

/// An attribute as the binary mode writes it: what is not plain in percent.
fn on_the_wire(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'"' | b'%' => text.push_str(&format!("%{byte:02X}")),
            0x21..=0x7e => text.push(char::from(byte)),
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text
}

/// A moment as RFC 3339 writes it.
pub(crate) fn moment(text: &str) -> Option<Timestamp> {
    let moment: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(moment.as_nanosecond()).ok().map(Timestamp::from_nanos)
}

/// The answer to who asks whether it may send here (CloudEvents' "Abuse Protection for Webhooks").
pub(crate) fn handshake(origins: &[String], headers: &HeaderMap) -> Result<Response<Bytes>, Denied> {
    let origin = text(headers, "webhook-request-origin").unwrap_or_default();
    let asked = origin.to_ascii_lowercase();
    if !origins.iter().any(|allowed| Wildcards::Glob.matches(&allowed.to_ascii_lowercase(), &asked)) {
        return Err(Denied::Foreign("this origin may not send here"));
    }
    let mut answer = Response::new(Bytes::new());
    *answer.status_mut() = StatusCode::OK;
    let fields = answer.headers_mut();
    fields.insert(header::ALLOW, HeaderValue::from_static("POST, OPTIONS"));
    if let Ok(origin) = HeaderValue::from_str(origin) {
        fields.insert("webhook-allowed-origin", origin);
    }
    // What is too much is told by 503 and Retry-After.
    fields.insert("webhook-allowed-rate", HeaderValue::from_static("*"));
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(text: &str) -> Result<Envelope, String> {
        Envelope::read(&Bytes::copy_from_slice(text.as_bytes()))
    }

    fn with(more: &str) -> String {
        format!(r#"{{"specversion": "1.0", "id": "7", "source": "/s", "type": "t"{more}}}"#)
    }

    fn data(more: &str) -> String {
        String::from_utf8(envelope(&with(more)).unwrap().data.to_vec()).unwrap()
    }

    #[test]
    fn data_is_handed_on_as_it_was_written() {
        assert_eq!(
            data(r#", "data": {"n": 1.10,  "big": 123456789012345678901}"#),
            r#"{"n": 1.10,  "big": 123456789012345678901}"#
        );
        assert_eq!(data(r#", "data": "text""#), r#""text""#, "JSON that is a string");
        assert_eq!(data(r#", "datacontenttype": "text/plain", "data": "a\nb""#), "a\nb");
        assert_eq!(data(r#", "datacontenttype": "image/png", "data_base64": "AAEC""#), "\0\u{1}\u{2}");
        assert_eq!(data(""), "");
    }

    #[test]
    fn the_content_type_is_that_of_the_data() {
        for (more, content_type) in [
            (r#", "data": 1"#, Some("application/json")),
            (r#", "datacontenttype": "text/plain", "data": "x""#, Some("text/plain")),
            ("", None),
        ] {
            assert_eq!(envelope(&with(more)).unwrap().content_type.as_deref(), content_type);
        }
    }

    #[test]
    fn attributes_are_texts_numbers_and_truths() {
        let read = envelope(&with(r#", "subject": "ü", "n": 7, "b": true, "none": null"#)).unwrap();
        let attributes: Vec<&str> = read.attributes.keys().map(String::as_str).collect();

        assert_eq!(attributes, ["b", "id", "n", "source", "specversion", "subject", "type"]);
        assert_eq!((read.attributes["n"].as_str(), read.attributes["b"].as_str()), ("7", "true"));
        assert_eq!(on_the_wire("a ü\"%~"), "a%20%C3%BC%22%25~");
    }

    #[test]
    fn what_is_no_cloud_event_is_said() {
        for (wrong, why) in [
            ("[]".to_owned(), "no object"),
            ("{".to_owned(), "no object"),
            (r#"{"specversion": "1.0"}"#.to_owned(), "no id"),
            (with(r#", "specversion": "0.3""#), "version"),
            (with(r#", "ext": {}"#), "parts"),
            (with(r#", "no-name": "x""#), "name of an attribute"),
            (with(r#", "data": 1, "data_base64": "AA==""#), "both"),
            (with(r#", "data_base64": "???""#), "base64"),
        ] {
            let error = envelope(&wrong).unwrap_err();
            assert!(error.contains(why), "{wrong}: {error}");
        }
    }

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        HeaderMap::from_iter(
            fields.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))),
        )
    }

    #[test]
    fn the_mode_is_known_by_the_header_fields() {
        let whole = [("ce-specversion", "1.0"), ("ce-id", "7"), ("ce-source", "/s"), ("ce-type", "t")];
        let of = |content_type: &'static str| Mode::of(&headers(&[("content-type", content_type)]));

        assert_eq!(of("application/CloudEvents+JSON; charset=utf-8"), Ok(Mode::Structured));
        assert_eq!(of(BATCH), Ok(Mode::Batch));
        assert_eq!(Mode::of(&headers(&whole)), Ok(Mode::Binary));
        assert!(matches!(of("application/cloudevents+avro"), Err(Denied::ContentType(_))));
        assert!(matches!(of("application/json"), Err(Denied::ContentType(_))));
        assert!(matches!(Mode::of(&headers(&whole[..3])), Err(Denied::Incomplete(_))));
    }

    #[test]
    fn who_may_send_is_told_so() {
        let asks =
            headers(&[("webhook-request-origin", "Events.example.com"), ("webhook-request-rate", "120")]);
        let answer = handshake(&["*.example.com".to_owned()], &asks).unwrap();

        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["webhook-allowed-origin"], "Events.example.com");
        assert_eq!(answer.headers()["webhook-allowed-rate"], "*");
        assert!(matches!(handshake(&["other.org".to_owned()], &asks), Err(Denied::Foreign(_))));
    }
}
