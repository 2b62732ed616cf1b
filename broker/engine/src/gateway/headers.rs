//! Header fields: what is stored of a request, what a function is sent, what a callback carries.
//!
//! Stored with a call: the caller's fields in their order, without those of one hop, `Host`, `Content-Length`,
//! `X-Call-Id` (a field of the invocation) and those meant for Evoke; then `X-Start-Time`. Stored with an event:
//! `X-Connector`, `X-Topic`, the connector's own and CloudEvents' fields. Added at each delivery, so that they are of
//! that attempt: `User-Agent`, `X-Call-Id`, `Evoke-Invocation-Id`, `Evoke-Attempt`, `traceparent`.

use std::borrow::Cow;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use broker_model::event::DedupKey;
use broker_model::{CallId, CloudEvent, Event, Headers, Invocation, InvocationId, Timestamp};

/// Carried by every callback, so that the management API can refuse to be called with one.
pub const CALLBACK_MARK: &str = "evoke-callback";

/// How Evoke names itself.
pub const USER_AGENT: &str = concat!("evoke/", env!("CARGO_PKG_VERSION"));

/// Fields of one connection, never passed on. Source: RFC 9110 §7.6.1 and what OpenFaaS' gateway drops; `Expect` is
/// answered by the server that read the body.
const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "proxy-connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
];

/// Fields that are for Evoke. Those that start with `evoke-` are, too.
const OURS: [&str; 2] = ["idempotency-key", "prefer"];

/// The names a `Connection` field lists; they are of one hop as well.
fn listed<'a>(values: impl Iterator<Item = &'a [u8]>) -> Vec<String> {
    values
        .filter_map(|value| std::str::from_utf8(value).ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .filter(|name| !name.is_empty())
        .collect()
}

fn passes(name: &str, listed: &[String]) -> bool {
    !HOP_BY_HOP.contains(&name)
        && !matches!(name, "host" | "content-length")
        && !listed.iter().any(|listed| listed == name)
}

/// What is stored of a call's header fields.
pub(crate) fn stored_of_call(mut stored: Headers, start_time: Timestamp) -> Headers {
    let listed = listed(stored.iter().filter(|(name, _)| *name == "connection").map(|(_, value)| value));
    stored.retain(|name| {
        passes(name, &listed) && name != "x-call-id" && !OURS.contains(&name) && !name.starts_with("evoke-")
    });
    // Added, not set: a request that passed a gateway before has one already, and keeps both.
    stored.append("x-start-time", start_time.as_nanos().to_string());
    stored
}

/// What is stored of an event's header fields.
pub(crate) fn stored_of_event(event: &Event, cloud_events: bool) -> Headers {
    let listed =
        listed(event.headers.iter().filter(|(name, _)| *name == "connection").map(|(_, value)| value));
    let own =
        || event.headers.iter().filter(|(name, _)| passes(name, &listed) && !name.starts_with("evoke-"));
    let mut stored = Headers::new();
    // OpenFaaS' cron connector is the one that is not built on its connector SDK.
    if event.fire.is_none() {
        stored.append("x-connector", "connector-sdk");
    }
    stored.append("x-topic", field_text(event.topic.as_str()).as_bytes());
    for (name, value) in own() {
        if name != "x-topic" {
            stored.append(name, value);
        }
    }
    // A message that is a CloudEvent already keeps its own attributes.
    let described = event.cloud_event.as_ref().filter(|_| cloud_events);
    if let Some(CloudEvent { id, source, kind, subject }) = described
        && own().all(|(name, _)| !name.starts_with("ce-"))
    {
        let mut say = |name, own: &Option<Box<str>>, otherwise: &dyn Fn() -> String| {
            let text = own.as_deref().map_or_else(|| Cow::Owned(otherwise()), field_text);
            stored.append(name, text.as_bytes());
        };
        say("ce-specversion", &None, &|| "1.0".into());
        say("ce-id", id, &|| cloud_event_id(event.dedup.as_ref()));
        say("ce-source", source, &|| format!("/evoke/{}", event.source));
        say("ce-type", kind, &|| "evoke.event".into());
        say("ce-subject", subject, &|| field_text(event.topic.as_str()).into_owned());
        if let Some(time) = event.time.and_then(rfc3339) {
            stored.append("ce-time", time);
        }
    }
    stored
}

/// The same for every redelivery the source can recognise.
fn cloud_event_id(dedup: Option<&DedupKey>) -> String {
    match dedup {
        Some(dedup) => format!("{:032x}", dedup.key.0),
        None => random_uuid().to_string(),
    }
}

/// A UUIDv4 from the thread's own generator.
pub(crate) fn random_uuid() -> uuid::Uuid {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid()
}

fn rfc3339(time: Timestamp) -> Option<String> {
    jiff::Timestamp::from_nanosecond(i128::from(time.as_nanos())).ok().map(|time| time.to_string())
}

/// A text as a header value: control characters and `%` percent-encoded where there are any, all else as it is.
pub(crate) fn field_text(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|b| b >= 0x20 && b != 0x7f) {
        return Cow::Borrowed(text);
    }
    let mut encoded = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if c.is_ascii_control() || c == '%' {
            encoded.push_str(&format!("%{:02X}", u32::from(c)));
        } else {
            encoded.push(c);
        }
    }
    encoded.into()
}

/// What a function is sent with attempt `attempt` (1 for the first).
pub(crate) fn to_function(invocation: &Invocation, attempt: u32) -> HeaderMap {
    let mut map = as_stored(&invocation.headers);
    set(&mut map, "x-call-id", invocation.call_id.as_str());
    set(&mut map, "evoke-attempt", &attempt.to_string());
    trace(&mut map, invocation.id);
    map
}

/// What a callback's host is sent, besides a signature.
pub(crate) fn to_callback_host(invocation: &Invocation, attempt: u32) -> HeaderMap {
    let mut map = as_stored(&invocation.headers);
    set(&mut map, "evoke-attempt", &attempt.to_string());
    set(&mut map, CALLBACK_MARK, "1");
    map
}

fn as_stored(headers: &Headers) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(headers.len() + 8);
    for (name, value) in headers.iter() {
        if name == "user-agent" || HOP_BY_HOP.contains(&name) {
            continue;
        }
        // What cannot be a header any more (a damaged record) is left out: the call matters more.
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value))
        {
            map.append(name, value);
        }
    }
    map.insert(http::header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    map
}

fn set(map: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        map.insert(HeaderName::from_static(name), value);
    }
}

fn trace(map: &mut HeaderMap, id: InvocationId) {
    let shown = id.to_string();
    let caller = map.get("traceparent").and_then(|value| value.to_str().ok()).and_then(trace_of);
    let span: u64 = rand::random::<u64>() | 1;
    let traceparent = match caller {
        Some((trace, flags)) => format!("00-{trace}-{span:016x}-{flags}"),
        None => {
            map.remove("tracestate");
            format!("00-{:032x}-{span:016x}-01", id.as_u128())
        }
    };
    set(map, "traceparent", &traceparent);
    set(map, "evoke-invocation-id", &shown);
}

/// The trace id and flags of a valid `traceparent`. Source: W3C Trace Context, level 1.
fn trace_of(value: &str) -> Option<(String, String)> {
    let mut parts = value.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let valid = hex(version, 2)
        && version != "ff"
        && hex(trace, 32)
        && trace.bytes().any(|b| b != b'0')
        && hex(parent, 16)
        && parent.bytes().any(|b| b != b'0')
        && hex(flags, 2)
        && (version != "00" || parts.next().is_none());
    valid.then(|| (trace.to_owned(), flags.to_owned()))
}

/// What a callback tells besides the answer itself.
#[derive(Debug)]
pub(crate) struct Told<'a> {
    /// The function's status; `None` when no answer came.
    pub(crate) status: Option<u16>,
    /// How long the final attempt took.
    pub(crate) duration: Duration,
    /// The function as its caller wrote it.
    pub(crate) function: &'a str,
    /// The call's id.
    pub(crate) call_id: &'a CallId,
    /// How often it was retried.
    pub(crate) retries: u32,
    /// How often it could be retried.
    pub(crate) max_retries: u32,
    /// Whether the body was cut at `limits.response`.
    pub(crate) truncated: bool,
}

/// What a callback carries: every field of the answer but those of one hop, and those of the contract over them.
///
/// Without an answer there is nothing to copy and the status is 503, as OpenFaaS' worker has it.
pub(crate) fn of_callback(answer: Option<&HeaderMap>, told: &Told<'_>) -> Headers {
    let mut headers = answer.map(of_answer).unwrap_or_default();
    headers.remove("x-callback-url");
    headers.set("x-duration-seconds", format!("{:.6}", told.duration.as_secs_f64()));
    headers.set("x-function-status", format!("{:03}", told.status.unwrap_or(503)));
    headers.set("x-function-name", told.function);
    headers.set("x-call-id", told.call_id.as_str());
    headers.set("x-retry", told.retries.to_string());
    headers.set("x-retry-max", told.max_retries.to_string());
    if told.truncated {
        headers.set("evoke-truncated", "true");
    }
    headers
}

/// An answer's fields without those of one hop.
pub(crate) fn of_answer(answer: &HeaderMap) -> Headers {
    let listed: Vec<String> = answer
        .get_all(http::header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    answer
        .iter()
        .filter(|(name, _)| passes(name.as_str(), &listed))
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .collect()
}

/// Basic auth from a URL's user and password, percent-decoded; `None` where it has neither.
pub(crate) fn basic_authorization(url: &Url) -> Option<HeaderValue> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let mut plain = percent_decoded(url.username());
    plain.push(b':');
    plain.extend(percent_decoded(url.password().unwrap_or_default()));
    let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(plain))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match (bytes[at], hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                at += 3;
            }
            (byte, _) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use broker_model::event::Fingerprint;
    use broker_model::topic::Wildcards;
    use broker_model::{SourceName, Topic};

    use super::*;

    fn names(headers: &Headers) -> Vec<&str> {
        headers.iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn a_stored_call_keeps_what_is_the_functions_and_nothing_of_the_hop_or_ours() {
        let headers: Headers = [
            ("Host", "gw"),
            ("Connection", "keep-alive, X-Secret-Hop"),
            ("X-Secret-Hop", "1"),
            ("Content-Length", "4"),
            ("Transfer-Encoding", "chunked"),
            ("Expect", "100-continue"),
            ("Idempotency-Key", "k"),
            ("Evoke-Invocation-Id", "forged"),
            ("Prefer", "wait=1"),
            ("X-Call-Id", "abc"),
            ("X-Callback-Url", "http://x"),
            ("X-Multi", "1"),
            ("X-Multi", "2"),
            ("X-Timeout", "5s"),
        ]
        .into_iter()
        .collect();

        let stored = stored_of_call(headers, Timestamp::from_nanos(17));

        assert_eq!(names(&stored), ["x-callback-url", "x-multi", "x-multi", "x-timeout", "x-start-time"]);
        assert_eq!(stored.text("x-start-time"), Some("17"));
    }

    fn event() -> Event {
        Event {
            source: SourceName::parse("bus").unwrap(),
            topic: Topic::parse("orders.created").unwrap(),
            wildcards: Wildcards::Nats,
            headers: [("X-Connector", "openfaasltd/x"), ("Content-Type", "text/plain")].into_iter().collect(),
            body: Bytes::new(),
            time: Some(Timestamp::from_millis(1_700_000_000_000)),
            dedup: Some(DedupKey { scope: "bus".into(), key: Fingerprint(7), request: Fingerprint(0) }),
            position: None,
            fire: None,
            cloud_event: Some(CloudEvent::default()),
        }
    }

    #[test]
    fn an_event_is_stored_with_the_sdks_fields_first_and_the_connectors_behind() {
        let stored = stored_of_event(&event(), true);

        let connectors: Vec<_> = stored.iter().filter(|(n, _)| *n == "x-connector").map(|(_, v)| v).collect();
        assert_eq!(connectors, ["connector-sdk".as_bytes(), b"openfaasltd/x"]);
        assert_eq!(stored.text("x-topic"), Some("orders.created"));
        assert_eq!(stored.text("ce-id"), Some("00000000000000000000000000000007"));
        assert_eq!(stored.text("ce-source"), Some("/evoke/bus"));
        assert_eq!(stored.text("ce-time"), Some("2023-11-14T22:13:20Z"));
    }

    #[test]
    fn cloud_event_fields_are_left_out_when_switched_off_or_already_there() {
        assert!(stored_of_event(&event(), false).get("ce-id").is_none());
        let undescribed = Event { cloud_event: None, ..event() };
        assert!(stored_of_event(&undescribed, true).get("ce-id").is_none(), "its source leaves them out");

        let mut own = event();
        own.headers.append("ce-id", "theirs");
        let stored = stored_of_event(&own, true);
        assert_eq!(stored.text("ce-id"), Some("theirs"));
        assert!(stored.get("ce-source").is_none());
    }

    #[test]
    fn a_connector_describes_its_events_in_its_own_words() {
        let cloud_event = CloudEvent {
            id: Some("17".into()),
            source: Some("urn:bucket".into()),
            kind: Some("s3.ObjectCreated".into()),
            subject: Some("a\nb".into()),
        };
        let stored = stored_of_event(&Event { cloud_event: Some(cloud_event), ..event() }, true);

        let said = ["ce-id", "ce-source", "ce-type", "ce-subject"].map(|name| stored.text(name).unwrap());
        assert_eq!(said, ["17", "urn:bucket", "s3.ObjectCreated", "a%0Ab"]);
    }

    #[test]
    fn a_topic_with_control_characters_is_percent_encoded() {
        assert_eq!(field_text("a\nb%c"), "a%0Ab%25c");
        assert_eq!(field_text("50%"), "50%");
    }

    #[test]
    fn a_callers_trace_goes_on_and_an_invalid_one_begins_anew() {
        let valid = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(trace_of(valid), Some(("0af7651916cd43dd8448eb211c80319c".into(), "01".into())));
        for bad in
            ["", "00-0-0-0", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", &format!("{valid}-x")]
        {
            assert_eq!(trace_of(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a7_a_callback_carries_the_answer_and_the_contracts_fields_over_it() {
        let mut answer = HeaderMap::new();
        for (name, value) in [
            ("content-type", "text/plain"),
            ("content-length", "5"),
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("x-duration-seconds", "9.9"),
            ("x-start-time", "17"),
        ] {
            answer.append(name, HeaderValue::from_static(value));
        }
        let call_id = CallId::parse("abc").unwrap();
        let told = Told {
            status: Some(200),
            duration: Duration::from_millis(1250),
            function: "env.openfaas-fn",
            call_id: &call_id,
            retries: 2,
            max_retries: 100,
            truncated: false,
        };

        let headers = of_callback(Some(&answer), &told);

        assert_eq!(headers.text("x-duration-seconds"), Some("1.250000"));
        assert_eq!(headers.text("x-function-status"), Some("200"));
        assert_eq!(headers.text("x-function-name"), Some("env.openfaas-fn"));
        assert_eq!((headers.text("x-retry"), headers.text("x-retry-max")), (Some("2"), Some("100")));
        assert_eq!(headers.text("x-start-time"), Some("17"));
        assert_eq!(headers.iter().filter(|(name, _)| *name == "set-cookie").count(), 2);
        for gone in ["content-length", "connection", "x-hop", "evoke-truncated"] {
            assert!(headers.get(gone).is_none(), "{gone}");
        }
        let without = of_callback(None, &Told { status: None, truncated: true, ..told });
        assert_eq!(without.text("x-function-status"), Some("503"));
        assert_eq!(without.text("evoke-truncated"), Some("true"));
        assert!(without.get("content-type").is_none());
    }

    #[test]
    fn userinfo_becomes_basic_auth() {
        let url = Url::parse("https://user:p%40ss@cb.example.com/").unwrap();

        assert_eq!(basic_authorization(&url).unwrap().to_str().unwrap(), "Basic dXNlcjpwQHNz");
        assert!(basic_authorization(&Url::parse("http://x/").unwrap()).is_none());
    }
}
