//! GitLab: a token in a header field, or since GitLab 19 a signature in the form of Standard Webhooks.

use std::time::Duration;

use connectors_sdk::Timestamp;
use http::HeaderMap;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::denied::Denied;
use crate::event::{Message, Request};
use crate::guard::{is_one_of, text};
use crate::standard;

const TOKEN: &str = "x-gitlab-token";
const EVENT: &str = "x-gitlab-event";

/// Sends away what cannot be GitLab's, before the body is read.
pub(crate) fn admit(is_open: bool, headers: &HeaderMap) -> Result<(), Denied> {
    if !is_open && text(headers, TOKEN).is_none() && !standard::is_signed(headers) {
        return Err(Denied::Credentials);
    }
    match text(headers, EVENT) {
        Some(_) => Ok(()),
        None => Err(Denied::Incomplete("there is no X-Gitlab-Event".to_owned())),
    }
}

/// Whether one of the secrets is the token, or one of those that are signing tokens (`whsec_…`) signed this body lately.
pub(crate) fn verify(
    secrets: &[SecretString],
    headers: &HeaderMap,
    body: &[u8],
    now: Timestamp,
    tolerance: Duration,
) -> Result<(), Denied> {
    let signing = |secret: &&SecretString| secret.expose_secret().starts_with(standard::SYMMETRIC);
    let (signing, tokens): (Vec<&SecretString>, Vec<&SecretString>) = secrets.iter().partition(signing);
    let tokens: Vec<SecretString> = tokens.into_iter().cloned().collect();
    if text(headers, TOKEN).is_some_and(|token| is_one_of(token.as_bytes(), &tokens)) {
        return Ok(());
    }
    let signing: Vec<SecretString> = signing.into_iter().cloned().collect();
    if signing.is_empty() || !standard::is_signed(headers) {
        return Err(Denied::Credentials);
    }
    standard::verify(&signing, headers, body, now, tolerance)
}

/// The event type as GitLab's bodies name it: `Merge Request Hook` is `merge_request`.
fn event_type(header: &str) -> String {
    header.strip_suffix(" Hook").unwrap_or(header).to_lowercase().replace(' ', "_")
}

/// The event. `Idempotency-Key` is the same at each retry; older versions say only which event it is, and events that a
/// webhook causes share that, so the body tells them apart.
pub(crate) fn message(request: Request<'_>) -> Message {
    let headers = request.headers;
    let event = event_type(text(headers, EVENT).unwrap_or_default());
    let endpoint = request.endpoint.name.as_bytes();
    let key = text(headers, "idempotency-key").or_else(|| text(headers, "webhook-id"));
    let uuid = text(headers, "x-gitlab-event-uuid");
    let digest = Sha256::digest(&request.body);
    request.message(Some(&event), |incoming| {
        let incoming = match (key, uuid) {
            (Some(key), _) => incoming.id(&[endpoint, key.as_bytes()]),
            (None, Some(uuid)) => incoming.id(&[endpoint, uuid.as_bytes(), &digest]),
            (None, None) => incoming,
        };
        incoming.described(|description| {
            description.id = key.or(uuid).map(Into::into);
            description.kind = Some(format!("com.gitlab.{event}").into());
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_types_are_named_as_the_bodies_name_them() {
        for (header, event) in
            [("Push Hook", "push"), ("Merge Request Hook", "merge_request"), ("Tag Push Hook", "tag_push")]
        {
            assert_eq!(event_type(header), event);
        }
    }

    #[test]
    fn the_token_or_a_signature_will_do() {
        let (now, minute) = (Timestamp::from_millis(1_614_265_330_000), Duration::from_secs(60));
        let signing: SecretString = standard::tests::SECRET.into();
        let secrets = ["s3cret".into(), signing.clone()];
        let of = |fields: &[(&'static str, &str)]| {
            HeaderMap::from_iter(
                fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())),
            )
        };
        let verify = |headers: &HeaderMap, secrets: &[SecretString]| {
            verify(secrets, headers, standard::tests::BODY, now, minute)
        };

        assert_eq!(verify(&of(&[(TOKEN, "s3cret")]), &secrets), Ok(()));
        assert_eq!(verify(&of(&standard::tests::HEADERS), &secrets), Ok(()));
        let denied = Err(Denied::Credentials);
        assert_eq!(verify(&of(&[(TOKEN, "s3cre")]), &secrets), denied);
        assert_eq!(verify(&of(&standard::tests::HEADERS), &secrets[..1]), denied);
        // A signing token is never sent, so it is no token.
        assert_eq!(verify(&of(&[(TOKEN, signing.expose_secret())]), &secrets), denied);
    }
}
