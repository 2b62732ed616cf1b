//! What a gateway does to headers on the way to a function and back.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

pub(crate) const CALL_ID: HeaderName = HeaderName::from_static("x-call-id");
const DURATION: HeaderName = HeaderName::from_static("x-duration-seconds");
pub(crate) const SERVED_BY: HeaderName = HeaderName::from_static("x-served-by");
const START_TIME: HeaderName = HeaderName::from_static("x-start-time");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Headers that belong to one connection, and `Content-Length`, because the body is sent on in chunks.
const NOT_PASSED_ON: [HeaderName; 10] = [
    header::CONNECTION,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::CONTENT_LENGTH,
];

/// What the reply has to say about the request.
pub(crate) struct Passage {
    /// Only a call id that was made here stands on the reply.
    made_call_id: Option<HeaderValue>,
    start_time: HeaderValue,
    request_type: Option<HeaderValue>,
}

/// The headers a function sees for those a caller sent.
pub(crate) fn to_function(
    wire: &HeaderMap,
    peer: SocketAddr,
    agent: &HeaderValue,
    now: SystemTime,
) -> (HeaderMap, Passage) {
    // Copied one by one, because removing from a header map changes the order of the others. The host is not a
    // header to a function: it would see the name of its own service there.
    let mut headers = HeaderMap::with_capacity(wire.keys_len() + 5);
    for (name, value) in wire {
        if name != header::HOST && !NOT_PASSED_ON.contains(name) {
            headers.append(name, value.clone());
        }
    }
    let host = wire.get(header::HOST).cloned();
    let made_call_id = match headers.get(&CALL_ID) {
        Some(id) if !id.is_empty() => None,
        _ => Some(text(Uuid::new_v4().to_string())),
    };
    if let Some(id) = &made_call_id {
        headers.insert(CALL_ID, id.clone());
    }
    // Added, not set: a call that passed a gateway before shows both times.
    let nanos = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let start_time = text(nanos.to_string());
    headers.append(START_TIME, start_time.clone());
    if !headers.contains_key(&FORWARDED_HOST)
        && let Some(host) = host
    {
        headers.insert(FORWARDED_HOST, host);
    }
    if !headers.contains_key(&FORWARDED_FOR) {
        headers.insert(FORWARDED_FOR, text(peer.to_string()));
    }
    if !headers.contains_key(header::USER_AGENT) {
        headers.insert(header::USER_AGENT, agent.clone());
    }
    let request_type = headers.get(header::CONTENT_TYPE).cloned();
    (headers, Passage { made_call_id, start_time, request_type })
}

/// Adds to a function's reply what watchdog, provider and gateway add; `measured` is absent for replies of the core.
pub(crate) fn to_caller(
    reply: &mut HeaderMap,
    passage: Passage,
    served_by: &HeaderValue,
    measured: Option<Duration>,
) {
    if let Some(took) = measured
        && !reply.contains_key(&DURATION)
    {
        reply.insert(DURATION, text(format!("{:.6}", took.as_secs_f64())));
    }
    if !reply.contains_key(header::CONTENT_TYPE) {
        let kind = passage.request_type.unwrap_or(HeaderValue::from_static("text/plain"));
        reply.insert(header::CONTENT_TYPE, kind);
    }
    if let Some(id) = passage.made_call_id {
        reply.insert(CALL_ID, id);
    }
    reply.append(START_TIME, passage.start_time);
    reply.insert(SERVED_BY, served_by.clone());
}

fn text(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("only digits, letters and punctuation: made by the callers above")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(wire: &[(&'static str, &'static str)]) -> (HeaderMap, HeaderMap) {
        let mut headers = HeaderMap::new();
        for (name, value) in wire {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let peer = SocketAddr::from(([10, 0, 0, 7], 5555));
        let now = UNIX_EPOCH + Duration::from_nanos(1_700_000_000_000_000_017);
        let (seen, passage) = to_function(&headers, peer, &HeaderValue::from_static("gw/1"), now);
        let mut reply = HeaderMap::new();
        to_caller(&mut reply, passage, &HeaderValue::from_static("gw/1"), Some(Duration::from_millis(1250)));
        (seen, reply)
    }

    #[test]
    fn a_call_without_id_gets_one_that_stands_on_the_reply_as_well() {
        let (seen, reply) = pass(&[("x-call-id", "")]);

        assert_eq!(Uuid::parse_str(seen["x-call-id"].to_str().unwrap()).unwrap().get_version_num(), 4);
        assert_eq!(seen["x-call-id"], reply["x-call-id"]);
    }

    #[test]
    fn an_id_of_the_caller_is_kept_and_not_echoed() {
        let (seen, reply) = pass(&[("x-call-id", "abc")]);

        assert_eq!(seen["x-call-id"], "abc");
        assert!(!reply.contains_key("x-call-id"));
    }

    #[test]
    fn the_start_time_is_added_behind_an_earlier_one() {
        let (seen, reply) = pass(&[("x-start-time", "17")]);

        let times: Vec<_> = seen.get_all("x-start-time").iter().collect();
        assert_eq!(times, ["17", "1700000000000000017"]);
        assert_eq!(reply["x-start-time"], "1700000000000000017");
    }

    #[test]
    fn what_belongs_to_one_connection_is_not_passed_on() {
        let (seen, _) = pass(&[
            ("connection", "close"),
            ("keep-alive", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("content-length", "4"),
            ("upgrade", "x"),
            ("proxy-authorization", "secret"),
            ("authorization", "mine"),
        ]);

        let mut names: Vec<_> = seen.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["authorization", "user-agent", "x-call-id", "x-forwarded-for", "x-start-time"]);
    }

    #[test]
    fn forwarding_headers_are_set_only_when_absent() {
        let (seen, _) = pass(&[("host", "gateway:8080"), ("x-forwarded-for", "1.2.3.4")]);

        assert_eq!(seen["x-forwarded-host"], "gateway:8080");
        assert_eq!(seen["x-forwarded-for"], "1.2.3.4");
    }

    #[test]
    fn a_reply_without_content_type_has_that_of_the_request_or_plain_text() {
        assert_eq!(pass(&[("content-type", "image/png")]).1["content-type"], "image/png");
        let (_, reply) = pass(&[]);
        assert_eq!(reply["content-type"], "text/plain");
        assert_eq!(reply["x-duration-seconds"], "1.250000");
        assert_eq!(reply["x-served-by"], "gw/1");
    }
}
