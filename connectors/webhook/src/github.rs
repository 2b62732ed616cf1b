//! GitHub: an HMAC of the body, an event type and a delivery id in header fields.

use http::HeaderMap;
use secrecy::{ExposeSecret, SecretString};

use crate::denied::Denied;
use crate::event::{Message, Request};
use crate::guard::{is_signed, text, unhex};

const SIGNATURE: &str = "x-hub-signature-256";
const EVENT: &str = "x-github-event";

/// Sends away what cannot be GitHub's, before the body is read.
pub(crate) fn admit(is_open: bool, headers: &HeaderMap) -> Result<(), Denied> {
    if !is_open && text(headers, SIGNATURE).is_none() {
        return Err(Denied::Credentials);
    }
    match text(headers, EVENT) {
        Some(_) => Ok(()),
        None => Err(Denied::Incomplete("there is no X-GitHub-Event".to_owned())),
    }
}

/// Whether one of the secrets signed this body.
pub(crate) fn verify(secrets: &[SecretString], headers: &HeaderMap, body: &[u8]) -> Result<(), Denied> {
    let signature = text(headers, SIGNATURE).and_then(|text| unhex(text.strip_prefix("sha256=")?));
    let signature = signature.ok_or(Denied::Credentials)?;
    let signed = |secret: &SecretString| is_signed(secret.expose_secret().as_bytes(), &[body], &signature);
    if secrets.iter().any(signed) { Ok(()) } else { Err(Denied::Credentials) }
}

/// Whether it only asks whether somebody is there.
pub(crate) fn is_ping(headers: &HeaderMap) -> bool {
    text(headers, EVENT) == Some("ping")
}

/// The event. The delivery is recognised when it is sent again; one event goes to each hook by itself.
pub(crate) fn message(request: Request<'_>) -> Message {
    let headers = request.headers;
    let event = text(headers, EVENT).unwrap_or_default().to_owned();
    let id = text(headers, "x-github-delivery");
    let hook = text(headers, "x-github-hook-id").unwrap_or_default();
    request.message(Some(&event), |incoming| {
        let incoming = match id {
            Some(id) => incoming.id(&[request.endpoint.name.as_bytes(), hook.as_bytes(), id.as_bytes()]),
            None => incoming,
        };
        incoming.described(|description| {
            description.id = id.map(Into::into);
            description.kind = Some(format!("com.github.{event}").into());
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(signature: &str) -> HeaderMap {
        HeaderMap::from_iter([(SIGNATURE.parse().unwrap(), signature.parse().unwrap())])
    }

    /// The values of GitHub's documentation ("Validating webhook deliveries", "Testing the webhook payload validation").
    #[test]
    fn the_documented_signature_holds_and_no_other() {
        let signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        let secrets = ["another one".into(), "It's a Secret to Everybody".into()];

        assert_eq!(verify(&secrets, &headers(signature), b"Hello, World!"), Ok(()));
        let denied = Err(Denied::Credentials);
        assert_eq!(verify(&secrets, &headers(signature), b"Hello, World"), denied);
        assert_eq!(verify(&secrets[..1], &headers(signature), b"Hello, World!"), denied);
        assert_eq!(verify(&secrets, &HeaderMap::new(), b"Hello, World!"), denied);
        for wrong in ["", "sha256=", "sha256=75", "757107ea", "sha1=757107ea", "sha256=zz"] {
            assert_eq!(verify(&secrets, &headers(wrong), b"Hello, World!"), denied, "{wrong}");
        }
    }
}
