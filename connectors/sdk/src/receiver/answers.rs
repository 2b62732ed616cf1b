//! What senders are told.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use broker_model::Receipt;

/// A status with a line for people. It never holds what the sender sent.
pub fn answer(status: StatusCode, line: &str) -> Response<Bytes> {
    with_body(status, "text/plain; charset=utf-8", format!("{line}\n"))
}

/// What was sent is durable: how many invocations come of it.
pub fn received(receipts: &[Receipt]) -> Response<Bytes> {
    let invocations: usize = receipts.iter().map(|receipt| receipt.invocations.len()).sum();
    let body = serde_json::json!({ "invocations": invocations }).to_string();
    let mut answer = with_body(StatusCode::ACCEPTED, "application/json", body);
    if !receipts.is_empty() && receipts.iter().all(|receipt| receipt.duplicate) {
        answer.headers_mut().insert("evoke-duplicate", HeaderValue::from_static("true"));
    }
    answer
}

/// Not now: the sender is to send it again, not before `after`.
pub fn try_again(after: Duration, line: &str) -> Response<Bytes> {
    let mut answer = answer(StatusCode::SERVICE_UNAVAILABLE, line);
    let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    answer
}

fn with_body(status: StatusCode, content_type: &'static str, body: String) -> Response<Bytes> {
    let mut answer = Response::new(Bytes::from(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

#[cfg(test)]
mod tests {
    use broker_model::{FunctionName, InvocationId};

    use super::*;

    fn receipt(invocations: u128, duplicate: bool) -> Receipt {
        let function = FunctionName::parse("f", "fn").unwrap();
        let invocations = (0..invocations).map(|n| (function.clone(), InvocationId::from_u128(n))).collect();
        Receipt { invocations, duplicate }
    }

    #[test]
    fn what_is_durable_is_202_with_the_number_of_its_invocations() {
        for (receipts, body, duplicate) in [
            (vec![], r#"{"invocations":0}"#, false),
            (vec![receipt(0, false)], r#"{"invocations":0}"#, false),
            (vec![receipt(2, false), receipt(1, true)], r#"{"invocations":3}"#, false),
            (vec![receipt(2, true)], r#"{"invocations":2}"#, true),
        ] {
            let answer = received(&receipts);
            assert_eq!((answer.status(), &answer.body()[..]), (StatusCode::ACCEPTED, body.as_bytes()));
            assert_eq!(answer.headers().contains_key("evoke-duplicate"), duplicate);
        }
    }

    #[test]
    fn a_wait_is_told_in_whole_seconds_never_none() {
        for (after, told) in [(0, "1"), (999, "1"), (1_000, "1"), (1_001, "2")] {
            let answer = try_again(Duration::from_millis(after), "later");
            assert_eq!(answer.headers()["retry-after"], told);
        }
    }
}
