//! What a caller of the front is told.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::{Either, Full};

use broker_config::BodyOverLimit;
use broker_engine::{FinalAnswer, SubmitRefusal, Submitted};
use broker_model::names::NameError;
use broker_model::{State, StoreError};

use crate::route::{Reply, plain};

use super::UploadError;
use super::target::PathError;
use super::wishes::BadHeader;

const CALL_ID: HeaderName = HeaderName::from_static("x-call-id");
const START_TIME: HeaderName = HeaderName::from_static("x-start-time");
const SERVED_BY: HeaderName = HeaderName::from_static("x-served-by");
const INVOCATION_ID: HeaderName = HeaderName::from_static("evoke-invocation-id");
const DURABILITY: HeaderName = HeaderName::from_static("evoke-durability");
const DUPLICATE: HeaderName = HeaderName::from_static("evoke-duplicate");
const WARNING: HeaderName = HeaderName::from_static("evoke-warning");
const STATE: HeaderName = HeaderName::from_static("evoke-state");
const TRUNCATED: HeaderName = HeaderName::from_static("evoke-truncated");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Why a call is not taken.
#[derive(Debug, Clone)]
pub(crate) enum Refused {
    Draining,
    Path(PathError),
    Name(NameError),
    Header(BadHeader),
    Upload(UploadError),
    Submit(SubmitRefusal),
}

/// The answer to a call that is durable: 202, or what the function said when that was waited for and came.
pub(crate) fn accepted(
    submitted: Submitted,
    durability: &'static str,
    wait: Option<Duration>,
) -> Response<Reply> {
    let mut response = match submitted.outcome {
        Some(outcome) => finished(outcome, wait.unwrap_or_default()),
        None => {
            let mut response = Response::new(Either::Left(Full::new(Bytes::new())));
            *response.status_mut() = StatusCode::ACCEPTED;
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
            response
        }
    };
    let headers = response.headers_mut();
    if let Ok(call_id) = HeaderValue::from_str(submitted.call_id.as_str()) {
        headers.insert(CALL_ID, call_id);
    }
    headers.insert(START_TIME, HeaderValue::from(submitted.start_time.as_nanos()));
    headers.insert(SERVED_BY, HeaderValue::from_static(concat!("evoke/", env!("CARGO_PKG_VERSION"))));
    if let Ok(id) = HeaderValue::try_from(submitted.id.to_string()) {
        headers.insert(INVOCATION_ID, id);
    }
    headers.insert(DURABILITY, HeaderValue::from_static(durability));
    if submitted.duplicate {
        headers.insert(DUPLICATE, HeaderValue::from_static("true"));
    }
    if !submitted.function_listed {
        headers.insert(WARNING, HeaderValue::from_static("function-not-listed"));
    }
    response
}

fn finished(outcome: FinalAnswer, wait: Duration) -> Response<Reply> {
    // Without an answer of the function the state says what happened; 503 is what its callback would carry.
    let status = match (outcome.status, outcome.state) {
        (Some(status), _) => StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY),
        (None, State::Cancelled) => StatusCode::CONFLICT,
        (None, _) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut response = Response::new(Either::Left(Full::new(outcome.body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    copy(&outcome.headers, headers);
    headers.insert(STATE, HeaderValue::from_static(outcome.state.as_str()));
    if let Ok(applied) = HeaderValue::try_from(format!("wait={}", wait.as_secs())) {
        headers.insert(PREFERENCE_APPLIED, applied);
    }
    if outcome.truncated {
        headers.insert(TRUNCATED, HeaderValue::from_static("true"));
    }
    response
}

/// The function's own fields; the length is made anew, because the body may have been cut.
fn copy(from: &broker_model::Headers, to: &mut HeaderMap) {
    for (name, value) in from.iter() {
        if name == "content-length" {
            continue;
        }
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value))
        else {
            continue;
        };
        to.append(name, value);
    }
}

/// The answer to a call that is not taken.
pub(crate) fn refused(refusal: &Refused, over_limit: BodyOverLimit) -> Response<Reply> {
    let (status, reason, retry_after) = judge(refusal, over_limit);
    let mut response = plain(status, format!("Error queuing request: {reason}\n"));
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if matches!(refusal, Refused::Draining | Refused::Submit(SubmitRefusal::Draining)) {
        // So that the next try goes to whoever is there by then.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn judge(refusal: &Refused, over_limit: BodyOverLimit) -> (StatusCode, String, Option<u64>) {
    let too_large = match over_limit {
        BodyOverLimit::ContentTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        BodyOverLimit::InternalServerError => StatusCode::INTERNAL_SERVER_ERROR,
    };
    match refusal {
        Refused::Draining | Refused::Submit(SubmitRefusal::Draining) => {
            (StatusCode::SERVICE_UNAVAILABLE, "the broker is draining".into(), Some(5))
        }
        Refused::Path(error @ PathError::Dots(_)) => (StatusCode::NOT_FOUND, error.to_string(), None),
        Refused::Path(error @ PathError::Escape(_)) => (StatusCode::BAD_REQUEST, error.to_string(), None),
        Refused::Name(error) => {
            (StatusCode::NOT_FOUND, format!("no function can have this name: {error}"), None)
        }
        Refused::Header(error) => (StatusCode::BAD_REQUEST, error.to_string(), None),
        Refused::Upload(error) => {
            let (status, retry_after) = match error {
                UploadError::TooLarge { .. } => (too_large, None),
                UploadError::Broken(_) => (StatusCode::BAD_REQUEST, None),
                UploadError::TooSlow => (StatusCode::REQUEST_TIMEOUT, None),
                UploadError::Busy => (StatusCode::SERVICE_UNAVAILABLE, Some(5)),
                UploadError::Store(error) => store(error),
            };
            (status, error.to_string(), retry_after)
        }
        Refused::Submit(refusal) => {
            let (status, retry_after) = match refusal {
                SubmitRefusal::BadCallback { .. }
                | SubmitRefusal::CallbackDenied { .. }
                | SubmitRefusal::BadPath => (StatusCode::BAD_REQUEST, None),
                SubmitRefusal::TooLarge { .. } => (too_large, None),
                SubmitRefusal::KeyReused => (StatusCode::UNPROCESSABLE_ENTITY, None),
                SubmitRefusal::Store(error) => store(error),
                SubmitRefusal::Draining => (StatusCode::SERVICE_UNAVAILABLE, Some(5)),
            };
            (status, refusal.to_string(), retry_after)
        }
    }
}

fn store(error: &StoreError) -> (StatusCode, Option<u64>) {
    match error {
        StoreError::TooManyWaiting { .. } | StoreError::TooMany { .. } => {
            (StatusCode::TOO_MANY_REQUESTS, Some(1))
        }
        StoreError::Full { .. } => (StatusCode::INSUFFICIENT_STORAGE, Some(1)),
        StoreError::KeyReused => (StatusCode::UNPROCESSABLE_ENTITY, None),
        StoreError::Rebuilding { .. } => (StatusCode::SERVICE_UNAVAILABLE, Some(1)),
        StoreError::Failed { .. } | StoreError::Closed => (StatusCode::SERVICE_UNAVAILABLE, Some(5)),
        StoreError::Damaged { .. }
        | StoreError::NoBody
        | StoreError::NoSchedule(_)
        | StoreError::BadCursor => (StatusCode::INTERNAL_SERVER_ERROR, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_of_the_store_has_its_status() {
        let full = StoreError::Full { what: "min_free".into(), waiting: 7, dead: 2 };
        for (error, status, retry_after) in [
            (StoreError::TooManyWaiting { waiting: 9 }, 429, Some("1")),
            (full, 507, Some("1")),
            (StoreError::KeyReused, 422, None),
            (StoreError::Failed { what: "a sync", cause: "I/O error".into() }, 503, Some("5")),
            (StoreError::Closed, 503, Some("5")),
        ] {
            let refusal = Refused::Submit(SubmitRefusal::Store(error));
            let response = refused(&refusal, BodyOverLimit::ContentTooLarge);

            assert_eq!(response.status(), status, "{refusal:?}");
            assert_eq!(
                response.headers().get("retry-after").map(|value| value.to_str().unwrap()),
                retry_after,
                "{refusal:?}"
            );
        }
    }

    #[test]
    fn a_body_over_the_limit_answers_500_by_the_compatibility_switch() {
        let refusal = Refused::Upload(UploadError::TooLarge { limit: 10 });

        assert_eq!(refused(&refusal, BodyOverLimit::ContentTooLarge).status(), 413);
        assert_eq!(refused(&refusal, BodyOverLimit::InternalServerError).status(), 500);
    }
}
