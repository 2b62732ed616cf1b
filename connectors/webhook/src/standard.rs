//! Standard Webhooks: a signature over id, time and body, which no one can replay later.

use std::time::Duration;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use connectors_sdk::Timestamp;
use http::HeaderMap;
use secrecy::{ExposeSecret, SecretString};

use crate::denied::Denied;
use crate::event::{Message, Request};
use crate::guard::{self, text};

/// What a shared secret begins with.
pub(crate) const SYMMETRIC: &str = "whsec_";

/// What a sender's public key begins with.
const PUBLIC: &str = "whpk_";

/// Base64 as senders write it: some pad, some do not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a signature is checked with.
enum Key {
    Shared(Vec<u8>),
    Public(Vec<u8>),
}

impl Key {
    fn parse(secret: &str) -> Result<Self, String> {
        let decoded = |text: &str| {
            BASE64
                .decode(text)
                .map_err(|_| format!("what stands behind {SYMMETRIC} or {PUBLIC} is not base64"))
        };
        match secret.strip_prefix(PUBLIC) {
            Some(key) => decoded(key).map(Key::Public),
            None => decoded(secret.strip_prefix(SYMMETRIC).unwrap_or(secret)).map(Key::Shared),
        }
    }
}

/// Says why a text is no secret of this kind.
pub(crate) fn check(secret: &str) -> Result<(), String> {
    Key::parse(secret).map(|_| ())
}

/// A field under its name in the specification, or under that of Svix, from which the specification came.
fn field<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    text(headers, &format!("webhook-{name}")).or_else(|| text(headers, &format!("svix-{name}")))
}

/// Whether there is a signature, right or wrong.
pub(crate) fn is_signed(headers: &HeaderMap) -> bool {
    field(headers, "signature").is_some()
}

/// Sends away what is not signed, or not signed now, before the body is read.
pub(crate) fn admit(
    is_open: bool,
    headers: &HeaderMap,
    now: Timestamp,
    tolerance: Duration,
) -> Result<(), Denied> {
    if field(headers, "id").is_none() {
        return Err(Denied::Incomplete("there is no webhook-id".to_owned()));
    }
    if is_open {
        return Ok(());
    }
    if !is_signed(headers) {
        return Err(Denied::Credentials);
    }
    timely(headers, now, tolerance)
}

fn timely(headers: &HeaderMap, now: Timestamp, tolerance: Duration) -> Result<(), Denied> {
    let seconds = field(headers, "timestamp").and_then(|text| text.parse::<u64>().ok());
    let signed = seconds.map(|seconds| Timestamp::from_millis(seconds.saturating_mul(1000)));
    is_near(signed.ok_or(Denied::Credentials)?, now, tolerance)
}

/// Whether a signature's time is near enough to now, on either side.
pub(crate) fn is_near(signed: Timestamp, now: Timestamp, tolerance: Duration) -> Result<(), Denied> {
    if now.since(signed).max(signed.since(now)) <= tolerance { Ok(()) } else { Err(Denied::Stale) }
}

/// Whether one of the secrets made one of the signatures, lately.
pub(crate) fn verify(
    secrets: &[SecretString],
    headers: &HeaderMap,
    body: &[u8],
    now: Timestamp,
    tolerance: Duration,
) -> Result<(), Denied> {
    timely(headers, now, tolerance)?;
    let fields = ["id", "timestamp", "signature"].map(|name| field(headers, name));
    let [Some(id), Some(timestamp), Some(signatures)] = fields else { return Err(Denied::Credentials) };
    let parts = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body];
    for secret in secrets {
        let key = Key::parse(secret.expose_secret()).map_err(Denied::Unusable)?;
        // Several while a sender exchanges its secret; versions we do not know are passed over.
        let signed =
            signatures.split_ascii_whitespace().any(|signature| match (signature.split_once(','), &key) {
                (Some(("v1", code)), Key::Shared(key)) => {
                    BASE64.decode(code).is_ok_and(|code| guard::is_signed(key, &parts, &code))
                }
                (Some(("v1a", code)), Key::Public(key)) => BASE64.decode(code).is_ok_and(|code| {
                    UnparsedPublicKey::new(&ED25519, key).verify(&parts.concat(), &code).is_ok()
                }),
                _ => false,
            });
        if signed {
            return Ok(());
        }
    }
    Err(Denied::Credentials)
}

/// The event. Its type is what the body says under `type`, as the specification recommends.
pub(crate) fn message(request: Request<'_>) -> Message {
    let id = field(request.headers, "id").unwrap_or_default();
    let event = event_type(&request.body);
    request.message(event.as_deref(), |incoming| {
        incoming.id(&[request.endpoint.name.as_bytes(), id.as_bytes()]).described(|description| {
            description.id = Some(id.into());
            if let Some(event) = &event {
                description.kind = Some(event.as_str().into());
            }
        })
    })
}

fn event_type(body: &[u8]) -> Option<String> {
    let fields: std::collections::BTreeMap<String, &serde_json::value::RawValue> =
        serde_json::from_slice(body).ok()?;
    serde_json::from_str(fields.get("type")?.get()).ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The test vector of the reference implementations of Standard Webhooks.
    pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const TIMESTAMP: &str = "1614265330";
    pub(crate) const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    pub(crate) const HEADERS: [(&str, &str); 3] =
        [("webhook-id", ID), ("webhook-timestamp", TIMESTAMP), ("webhook-signature", SIGNATURE)];

    fn now(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn headers(prefix: &str, timestamp: &str, signature: &str) -> HeaderMap {
        let fields = [("id", ID), ("timestamp", timestamp), ("signature", signature)];
        let field = |(name, value): (&str, &str)| {
            (format!("{prefix}{name}").parse().unwrap(), value.parse().unwrap())
        };
        HeaderMap::from_iter(fields.map(field))
    }

    fn verified(secrets: &[&str], headers: &HeaderMap, body: &[u8], at: u64) -> Result<(), Denied> {
        let secrets: Vec<SecretString> = secrets.iter().map(|secret| (*secret).into()).collect();
        verify(&secrets, headers, body, now(at), Duration::from_secs(300))
    }

    #[test]
    fn the_reference_signature_holds_and_no_other() {
        let signed = headers("webhook-", TIMESTAMP, SIGNATURE);

        assert_eq!(verified(&[SECRET], &signed, BODY, 1_614_265_330), Ok(()));
        assert_eq!(
            verified(&[SECRET.strip_prefix(SYMMETRIC).unwrap()], &signed, BODY, 1_614_265_330),
            Ok(())
        );
        assert_eq!(verified(&[SECRET], &headers("svix-", TIMESTAMP, SIGNATURE), BODY, 1_614_265_330), Ok(()));
        let denied = Err(Denied::Credentials);
        assert_eq!(verified(&[SECRET], &signed, br#"{"test": 2432232315}"#, 1_614_265_330), denied);
        assert_eq!(verified(&["whsec_plJ3nmyCDGBKInavdOK15jsl"], &signed, BODY, 1_614_265_330), denied);
        let other_time = headers("webhook-", "1614265331", SIGNATURE);
        assert_eq!(verified(&[SECRET], &other_time, BODY, 1_614_265_330), denied);
        for wrong in ["v1", "v1,", "v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", "v1a,g0hM", ""] {
            let wrong = headers("webhook-", TIMESTAMP, wrong);
            assert_eq!(verified(&[SECRET], &wrong, BODY, 1_614_265_330), denied);
        }
    }

    #[test]
    fn while_secrets_are_exchanged_either_will_do() {
        let several = headers(
            "webhook-",
            TIMESTAMP,
            &format!("v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc= v2,x {SIGNATURE}"),
        );

        assert_eq!(
            verified(&["whsec_plJ3nmyCDGBKInavdOK15jsl", SECRET], &several, BODY, 1_614_265_330),
            Ok(())
        );
    }

    #[test]
    fn a_signature_of_another_time_is_a_replay() {
        let signed = headers("webhook-", TIMESTAMP, SIGNATURE);
        for (at, verdict) in [
            (1_614_265_330 + 300, Ok(())),
            (1_614_265_330 - 300, Ok(())),
            (1_614_265_330 + 301, Err(Denied::Stale)),
            (1_614_265_330 - 301, Err(Denied::Stale)),
        ] {
            assert_eq!(verified(&[SECRET], &signed, BODY, at), verdict, "{at}");
        }
    }

    #[test]
    fn a_public_key_checks_signatures_made_with_the_private_one() {
        use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let key = format!("{PUBLIC}{}", BASE64.encode(pair.public_key().as_ref()));
        let text = [ID.as_bytes(), b".", TIMESTAMP.as_bytes(), b".", BODY].concat();
        let signature = format!("v1a,{}", BASE64.encode(pair.sign(&text).as_ref()));
        let signed = headers("webhook-", TIMESTAMP, &signature);

        assert_eq!(verified(&[&key], &signed, BODY, 1_614_265_330), Ok(()));
        assert_eq!(verified(&[&key], &signed, b"{}", 1_614_265_330), Err(Denied::Credentials));
    }

    #[test]
    fn the_event_type_is_the_bodys_own() {
        assert_eq!(event_type(br#"{"type": "invoice.p\u0061id", "n": 1}"#).as_deref(), Some("invoice.paid"));
        for none in ["{}", r#"{"type": 7}"#, "[]", "text"] {
            assert_eq!(event_type(none.as_bytes()), None, "{none}");
        }
    }
}
