//! Requests that do not become events: what the sender is told, and under which name it is counted.

use std::time::Duration;

use bytes::Bytes;
use connectors_sdk::Family;
use connectors_sdk::receiver::{Unread, answer, try_again};
use http::{HeaderValue, Response, StatusCode, header};

/// What was not taken, by endpoint and reason. Requests to no endpoint have an empty name.
pub(crate) static DENIED: Family = Family {
    name: "evoke_webhook_denied_total",
    help: "Requests to a webhook source that became no event, by reason",
    counter: true,
    labels: &["endpoint", "reason"],
};

/// When to come again once something of ours is repaired.
const REPAIRED: Duration = Duration::from_secs(30);

/// Why a request is sent away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// No endpoint has the path.
    Path,
    /// Only POST brings an event.
    Method,
    /// The token or signature is missing or wrong.
    Credentials,
    /// As [`Denied::Credentials`], where HTTP has a way to ask for them: the `WWW-Authenticate` of the answer.
    Unauthorized(&'static str),
    /// The signature is old, or of a time to come: it may be a replay.
    Stale,
    /// Something that belongs to such a request is not there, or is not what it should be.
    Incomplete(String),
    /// The body is in no form of this kind.
    ContentType(&'static str),
    /// Signed, but of a topic or an origin nobody configured.
    Foreign(&'static str),
    /// Something of ours is missing: a secret's file, a certificate of the sender's. It is not the sender's fault.
    Unusable(String),
    /// The body did not come.
    Unread(Unread),
}

impl Denied {
    /// The name under which it is counted.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Denied::Path => "path",
            Denied::Method => "method",
            Denied::Credentials | Denied::Unauthorized(_) => "credentials",
            Denied::Stale => "stale",
            Denied::Incomplete(_) => "incomplete",
            Denied::ContentType(_) => "content-type",
            Denied::Foreign(_) => "foreign",
            Denied::Unusable(_) => "unusable",
            Denied::Unread(Unread::TooLarge) => "too-large",
            Denied::Unread(Unread::TooSlow) => "too-slow",
            Denied::Unread(Unread::Broken) => "broken",
            Denied::Unread(Unread::Busy) => "busy",
            Denied::Unread(Unread::Stopping) => "stopping",
        }
    }

    /// What the source's status shows of it; `None` for what anybody on the internet can cause at will by a wrong address.
    pub(crate) fn problem(&self, endpoint: &str) -> Option<String> {
        let what = match self {
            Denied::Credentials | Denied::Unauthorized(_) => {
                "a request without the right token or signature; does the sender have the same secret?"
                    .to_owned()
            }
            Denied::Stale => "a signed request of another time; are both clocks right?".to_owned(),
            Denied::Incomplete(what) | Denied::Unusable(what) => what.clone(),
            Denied::ContentType(what) | Denied::Foreign(what) => (*what).to_owned(),
            Denied::Unread(Unread::TooLarge) => "a body larger than limits.body".to_owned(),
            Denied::Path | Denied::Method | Denied::Unread(_) => return None,
        };
        Some(format!("endpoint {endpoint}: {what}"))
    }

    /// What the sender is told. Not what would help to guess a secret.
    pub(crate) fn answer(&self) -> Response<Bytes> {
        match self {
            Denied::Path => answer(StatusCode::NOT_FOUND, "there is no such endpoint"),
            Denied::Method => {
                let mut answer = answer(StatusCode::METHOD_NOT_ALLOWED, "events come with POST");
                answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST, OPTIONS"));
                answer
            }
            Denied::Credentials => {
                answer(StatusCode::UNAUTHORIZED, "the token or signature is missing or wrong")
            }
            Denied::Unauthorized(ask) => {
                let mut answer = answer(StatusCode::UNAUTHORIZED, "the credentials are missing or wrong");
                answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(ask));
                answer
            }
            Denied::Stale => answer(StatusCode::UNAUTHORIZED, "the timestamp is too far from now"),
            Denied::Incomplete(what) => answer(StatusCode::BAD_REQUEST, what),
            Denied::ContentType(what) => answer(StatusCode::UNSUPPORTED_MEDIA_TYPE, what),
            Denied::Foreign(what) => answer(StatusCode::FORBIDDEN, what),
            Denied::Unusable(_) => try_again(REPAIRED, "something is amiss here"),
            // The receiver answers by itself.
            Denied::Unread(why) => answer(StatusCode::BAD_REQUEST, &why.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_status_and_its_name() {
        for (denied, status, reason) in [
            (Denied::Path, 404, "path"),
            (Denied::Method, 405, "method"),
            (Denied::Credentials, 401, "credentials"),
            (Denied::Unauthorized("Basic"), 401, "credentials"),
            (Denied::Stale, 401, "stale"),
            (Denied::Incomplete("x".into()), 400, "incomplete"),
            (Denied::ContentType("x"), 415, "content-type"),
            (Denied::Foreign("x"), 403, "foreign"),
            (Denied::Unusable("/var/secrets/x".into()), 503, "unusable"),
        ] {
            let answer = denied.answer();
            assert_eq!((answer.status().as_u16(), denied.reason()), (status, reason));
            assert!(!String::from_utf8_lossy(answer.body()).contains("/var"), "nothing of ours is told");
        }
        assert_eq!(Denied::Method.answer().headers()["allow"], "POST, OPTIONS");
    }
}
