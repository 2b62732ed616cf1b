//! A delivery as a request, an exchange as an outcome.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::StreamExt;
use http::HeaderMap;

use broker_model::attempt::{Answer, Asked};
use broker_model::dead_letter::AskedReason;
use broker_model::invocation::FunctionCall;
use broker_model::{Body, BodyReader, Invocation, Origin, Outcome, StoreError, Timestamp};

use super::client::OutBody;
use super::{CallRequest, Exchange, headers};

/// The request that runs a function.
pub(crate) fn request(
    invocation: &Invocation,
    call: &FunctionCall,
    body: OutBody,
    attempt: u32,
    timeout: Option<Duration>,
) -> CallRequest {
    CallRequest {
        path_and_query: path(call, &invocation.origin),
        headers: headers::to_function(invocation, attempt),
        body,
        timeout,
    }
}

/// Where the gateway has the function, with the caller's path and query byte for byte, but for segments no gateway takes.
///
/// A call without a path is sent to `/`, as OpenFaaS' worker does; an event has no path, as its connectors have it.
fn path(call: &FunctionCall, origin: &Origin) -> String {
    let is_call = matches!(origin, Origin::Call);
    let mut path = String::with_capacity(11 + call.written.len() + call.path_and_query.len());
    path.push_str("/function/");
    path.push_str(&call.written);
    if is_call && !call.path_and_query.starts_with('/') {
        path.push('/');
    }
    path.push_str(&clean(&call.path_and_query));
    path
}

/// Resolves `.`, `..` and empty segments, within the caller's part of the path and nowhere above it.
///
/// The gateway's router answers such a path with a redirect that no function ever sees, and a redirect is not followed:
/// the call would count as done without having run. All else (`%2F`) stays as it was written.
fn clean(path_and_query: &str) -> Cow<'_, str> {
    let (path, query) = match path_and_query.find('?') {
        Some(at) => path_and_query.split_at(at),
        None => (path_and_query, ""),
    };
    let is_dot = |segment: &str| segment == "." || segment.eq_ignore_ascii_case("%2e");
    let is_up = |segment: &str| {
        segment.len() <= 6
            && matches!(segment.to_ascii_lowercase().as_str(), ".." | ".%2e" | "%2e." | "%2e%2e")
    };
    let segments = || path.split('/').skip(1);
    let last = segments().count().saturating_sub(1);
    if segments()
        .enumerate()
        .all(|(n, segment)| (n == last || !segment.is_empty()) && !is_dot(segment) && !is_up(segment))
    {
        return Cow::Borrowed(path_and_query);
    }
    let mut kept: Vec<&str> = Vec::new();
    for segment in segments() {
        if is_up(segment) {
            kept.pop();
        } else if !segment.is_empty() && !is_dot(segment) {
            kept.push(segment);
        }
    }
    let mut cleaned = String::with_capacity(path_and_query.len());
    for segment in &kept {
        cleaned.push('/');
        cleaned.push_str(segment);
    }
    if kept.is_empty() || path.ends_with('/') {
        cleaned.push('/');
    }
    cleaned.push_str(query);
    Cow::Owned(cleaned)
}

/// A stored body as it is sent. Small ones are read whole, so that a try that left nothing on the wire can be repeated
/// with them.
pub(crate) async fn body(bodies: &dyn BodyReader, body: &Body) -> Result<OutBody, StoreError> {
    const WHOLE: u64 = 256 * 1024;
    match body {
        Body::Inline(bytes) => Ok(OutBody::Bytes(bytes.clone())),
        Body::Stored(stored) if stored.len <= WHOLE => Ok(OutBody::Bytes(whole(bodies, body).await?)),
        Body::Stored(stored) => Ok(OutBody::Stream(bodies.read(body).await?, stored.len)),
    }
}

/// A body in one piece.
pub(crate) async fn whole(bodies: &dyn BodyReader, body: &Body) -> Result<Bytes, StoreError> {
    if let Body::Inline(bytes) = body {
        return Ok(bytes.clone());
    }
    let mut chunks = bodies.read(body).await?;
    let mut whole = Vec::with_capacity(usize::try_from(body.len()).unwrap_or(0));
    while let Some(chunk) = chunks.next().await {
        whole.extend_from_slice(&chunk?);
    }
    Ok(whole.into())
}

/// What an exchange was, in the words of policy; `None` where it was no exchange at all, but a trouble of ours.
pub(crate) fn outcome(exchange: &Exchange, excerpt: &[u8], now: Timestamp) -> Option<Outcome> {
    Some(match exchange {
        Exchange::Answered { status, headers } => Outcome::Answered(answer(*status, headers, excerpt, now)),
        Exchange::Dropped(why) => Outcome::Dropped(why.clone()),
        Exchange::TimedOut => Outcome::TimedOut,
        Exchange::Unreachable(why) => Outcome::Unreachable(why.clone()),
        Exchange::Denied(why) => Outcome::Denied(why.clone()),
        Exchange::OutOfResources(_) | Exchange::BodyUnreadable(_) => return None,
    })
}

/// Source of the table: the gateway's and provider's own error answers.
fn answer(status: u16, headers: &HeaderMap, excerpt: &[u8], now: Timestamp) -> Answer {
    let internal = headers.contains_key("x-openfaas-internal");
    let of_gateway = status == 404
        && !internal
        && !headers.contains_key("x-duration-seconds")
        && excerpt.starts_with(b"error finding function");
    let of_provider = status == 503 && internal && excerpt.starts_with(b"No endpoints available for");
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    Answer {
        status,
        internal,
        unknown_function: of_gateway || of_provider,
        retry_after: text("retry-after").and_then(|value| retry_after(value, now)),
        // The core's errors are not the function's word.
        asked: if internal { None } else { text("evoke-outcome").and_then(asked) },
    }
}

/// `Retry-After` as seconds or as a date; a date that has passed is no wait at all.
fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(value).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(date.saturating_sub(Duration::from_nanos(now.as_nanos())))
}

/// `Evoke-Outcome`; what is not understood is as if it were not there.
fn asked(value: &str) -> Option<Asked> {
    let mut parts = value.split(';').map(str::trim);
    let word = parts.next()?.to_ascii_lowercase();
    let mut parameter = None;
    for part in parts {
        let (name, value) = part.split_once('=')?;
        parameter = Some((name.trim().to_ascii_lowercase(), value.trim().trim_matches('"')));
    }
    match (word.as_str(), parameter) {
        ("done", _) => Some(Asked::Done),
        ("retry", None) => Some(Asked::Retry(None)),
        ("retry", Some((name, seconds))) if name == "after" => {
            Some(Asked::Retry(Some(Duration::from_secs(seconds.parse().ok()?))))
        }
        ("dead", None) => AskedReason::parse("unspecified").map(Asked::Dead),
        ("dead", Some((name, token))) if name == "reason" => AskedReason::parse(token).map(Asked::Dead),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use broker_model::FunctionName;

    use super::*;

    fn classify(status: u16, fields: &[(&'static str, &'static str)], body: &str) -> Answer {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, http::HeaderValue::from_static(value));
        }
        answer(status, &headers, body.as_bytes(), Timestamp::from_millis(1_700_000_000_000))
    }

    #[test]
    fn the_gateways_unknown_function_is_told_from_a_functions_own_404() {
        assert!(classify(404, &[], "error finding function x.openfaas-fn: not found").unknown_function);
        assert!(
            !classify(404, &[("x-duration-seconds", "0.1")], "error finding function x").unknown_function
        );
        assert!(!classify(404, &[], "no such order").unknown_function);
        let provider = classify(503, &[("x-openfaas-internal", "proxy")], "No endpoints available for: x.");
        assert!(provider.unknown_function && provider.internal);
        assert!(!classify(503, &[], "No endpoints available for: x.").unknown_function);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let wait = |value| classify(429, &[("retry-after", value)], "").retry_after;

        assert_eq!(wait("30"), Some(Duration::from_secs(30)));
        assert_eq!(wait("Tue, 14 Nov 2023 22:13:50 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(wait("Tue, 14 Nov 2023 22:13:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("99999999999999999999999"), Some(Duration::from_secs(u64::MAX)));
        for bad in ["soon", "-1", "", "1.5"] {
            assert_eq!(wait(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_functions_wish_is_read_and_nonsense_ignored() {
        assert_eq!(asked("retry;after=45"), Some(Asked::Retry(Some(Duration::from_secs(45)))));
        assert_eq!(asked("Retry"), Some(Asked::Retry(None)));
        assert_eq!(asked("done"), Some(Asked::Done));
        assert_eq!(asked("dead; reason=bad-schema"), AskedReason::parse("bad-schema").map(Asked::Dead));
        for bad in ["", "maybe", "retry;after=x", "retry;when=3", "dead;reason=two words", "dead;reason"] {
            assert_eq!(asked(bad), None, "{bad:?}");
        }
        let core = classify(500, &[("x-openfaas-internal", "proxy"), ("evoke-outcome", "done")], "");
        assert_eq!(core.asked, None);
    }

    #[test]
    fn the_callers_path_reaches_the_gateway_byte_for_byte() {
        let at = |path_and_query: &str, origin: &Origin| {
            let function = FunctionName::parse("env", "fn").unwrap();
            path(
                &FunctionCall {
                    function,
                    written: "env.fn".into(),
                    path_and_query: path_and_query.into(),
                    callback_url: None,
                },
                origin,
            )
        };

        assert_eq!(at("/a%2Fb/c?x=1&y=%3Cz%3E", &Origin::Call), "/function/env.fn/a%2Fb/c?x=1&y=%3Cz%3E");
        assert_eq!(at("", &Origin::Call), "/function/env.fn/");
        assert_eq!(at("?x=1", &Origin::Call), "/function/env.fn/?x=1");
        let event = Origin::Event {
            source: broker_model::SourceName::parse("bus").unwrap(),
            topic: broker_model::Topic::parse("t").unwrap(),
        };
        assert_eq!(at("", &event), "/function/env.fn");
    }

    #[test]
    fn segments_the_gateway_would_redirect_are_resolved_and_never_lead_above_the_function() {
        for (written, sent) in [
            ("/a//b", "/a/b"),
            ("/a/./b/", "/a/b/"),
            ("/a%2Fb/../c?x=/../y", "/c?x=/../y"),
            ("/../../other", "/other"),
            ("/%2E%2e/x", "/x"),
            ("/..", "/"),
            ("//", "/"),
            ("/a/", "/a/"),
            ("/...", "/..."),
            ("/.well-known/x", "/.well-known/x"),
            ("", ""),
        ] {
            assert_eq!(clean(written), sent, "{written}");
        }
    }
}
