//! A plain sender: a token in a header field, and nothing signed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use connectors_sdk::Reader;
use http::{HeaderMap, HeaderName, header};
use secrecy::SecretString;

use crate::denied::Denied;
use crate::endpoint::header_name;
use crate::event::{Message, Request};
use crate::guard::{Secrets, is_one_of, text};

/// How a sender shows its secret. Never in the URL: addresses stand in the logs of everything in between.
#[derive(Clone, Debug)]
pub(crate) struct Credential {
    pub(crate) secrets: Secrets,
    pub(crate) way: Way,
}

/// In which field.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    /// `Authorization: Bearer …`
    Bearer,
    /// `Authorization: Basic …`, with this name.
    Basic(String),
    /// In a field of its own, as it is.
    Header(HeaderName),
}

impl Credential {
    /// Reads `secret`, and `username` or `header`; `None` once what is wrong is noted.
    pub(crate) fn read(endpoint: &str, at: &mut Reader) -> Option<Self> {
        let secrets = Secrets::read(endpoint, at);
        let username: Option<String> = at.optional("username");
        let header = header_name(at, "header");
        let way = match (username, header) {
            (Some(_), Some(_)) => {
                at.refuse("header", "username is set, too", "keep one of the two");
                return None;
            }
            (Some(username), None) => Way::Basic(username),
            (None, Some(header)) => Way::Header(header),
            (None, None) => Way::Bearer,
        };
        Some(Credential { secrets: secrets?, way })
    }

    /// Whether a sender shows one of the secrets.
    pub(crate) async fn verify(&self, headers: &HeaderMap) -> Result<(), Denied> {
        if self.secrets.is_open() {
            return Ok(());
        }
        let secrets = self.secrets.reveal().await?;
        if self.way.is_shown(headers, &secrets) { Ok(()) } else { Err(self.way.denied()) }
    }
}

impl Way {
    fn is_shown(&self, headers: &HeaderMap, secrets: &[SecretString]) -> bool {
        let credentials = |scheme: &str| {
            let (said, credentials) = text(headers, header::AUTHORIZATION.as_str())?.split_once(' ')?;
            said.eq_ignore_ascii_case(scheme).then(|| credentials.trim())
        };
        match self {
            Way::Header(name) => {
                text(headers, name.as_str()).is_some_and(|token| is_one_of(token.as_bytes(), secrets))
            }
            Way::Bearer => credentials("Bearer").is_some_and(|token| is_one_of(token.as_bytes(), secrets)),
            Way::Basic(username) => {
                let pair = credentials("Basic").and_then(|text| STANDARD.decode(text).ok());
                let shown = pair.as_ref().and_then(|pair| {
                    let colon = pair.iter().position(|byte| *byte == b':')?;
                    Some((&pair[..colon], &pair[colon + 1..]))
                });
                shown.is_some_and(|(name, password)| {
                    // Both are looked at, whatever the first one says.
                    is_one_of(name, &[username.as_str().into()]) & is_one_of(password, secrets)
                })
            }
        }
    }

    fn denied(&self) -> Denied {
        match self {
            Way::Header(_) => Denied::Credentials,
            Way::Bearer => Denied::Unauthorized("Bearer"),
            Way::Basic(_) => Denied::Unauthorized("Basic realm=\"evoke\""),
        }
    }
}

/// The settings of a plain sender.
#[derive(Clone, Debug)]
pub(crate) struct TokenRules {
    pub(crate) credential: Credential,
    /// Where the event type stands, for a topic made of it.
    pub(crate) event_header: Option<HeaderName>,
    /// Where stands what is the same at each retry.
    pub(crate) id_header: HeaderName,
}

impl TokenRules {
    /// Reads them.
    pub(crate) fn read(endpoint: &str, at: &mut Reader) -> Option<Self> {
        let credential = Credential::read(endpoint, at);
        let event_header = header_name(at, "event_header");
        let id_header = header_name(at, "id_header");
        let id_header = id_header.unwrap_or(HeaderName::from_static("idempotency-key"));
        Some(TokenRules { credential: credential?, event_header, id_header })
    }
}

/// The event.
pub(crate) fn message(rules: &TokenRules, request: Request<'_>) -> Message {
    let event = rules.event_header.as_ref().and_then(|name| text(request.headers, name.as_str()));
    let id = text(request.headers, rules.id_header.as_str());
    request.message(event, |incoming| match id {
        Some(id) => incoming
            .id(&[request.endpoint.name.as_bytes(), id.as_bytes()])
            .described(|description| description.id = Some(id.into())),
        None => incoming,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(way: Way, name: &'static str, value: &str) -> bool {
        let headers = HeaderMap::from_iter([(HeaderName::from_static(name), value.parse().unwrap())]);
        way.is_shown(&headers, &["new".into(), "s3cret".into()])
    }

    #[test]
    fn a_secret_is_shown_in_one_way_only() {
        let key = || Way::Header(HeaderName::from_static("x-key"));
        let joe = || Way::Basic("joe".into());
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));

        assert!(shown(Way::Bearer, "authorization", "Bearer s3cret"));
        assert!(shown(Way::Bearer, "authorization", "bearer new"));
        assert!(shown(key(), "x-key", "s3cret"));
        assert!(shown(joe(), "authorization", &basic("joe:s3cret")));
        for wrong in ["Bearer", "Bearer ", "Bearer s3cre", "Basic s3cret", "s3cret"] {
            assert!(!shown(Way::Bearer, "authorization", wrong), "{wrong}");
        }
        for wrong in ["joe:", "joe", "jo:s3cret", ":s3cret", "joe:s3cret:"] {
            assert!(!shown(joe(), "authorization", &basic(wrong)), "{wrong}");
        }
        assert!(!shown(key(), "authorization", "Bearer s3cret"));
        assert!(!shown(joe(), "authorization", "Bearer s3cret"));
    }
}
