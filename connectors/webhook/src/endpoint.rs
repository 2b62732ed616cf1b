//! One endpoint: a path, who may send to it, and what its events are about.

use std::time::Duration;

use connectors_sdk::Reader;
use http::HeaderName;

use crate::guard::Secrets;
use crate::sns::SnsRules;
use crate::standard;
use crate::token::{Credential, TokenRules};
use crate::topic::TopicForm;

/// An endpoint with its settings.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) name: String,
    /// Without a slash at its end, but for the path of everything, which is empty.
    pub(crate) path: String,
    pub(crate) topic: TopicForm,
    pub(crate) kind: Kind,
}

/// Who sends.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    GitHub { secrets: Secrets },
    GitLab { secrets: Secrets, tolerance: Duration },
    Standard { secrets: Secrets, tolerance: Duration },
    CloudEvents { credential: Credential, origins: Vec<String> },
    Sns(SnsRules),
    Token(TokenRules),
}

/// The kinds there are.
const KINDS: &str = "github, gitlab, standard-webhooks, cloudevents, sns, token";

/// How old a signed request may be, and how far ahead of our clock. That of Standard Webhooks.
const TOLERANCE: Duration = Duration::from_secs(300);

impl Endpoint {
    /// Reads its settings; `None` when something required is missing or wrong, which is noted.
    pub(crate) fn read(name: &str, prefix: &str, at: &mut Reader) -> Option<Self> {
        let path = path(name, prefix, at);
        let kind: Option<String> = at.required("kind", "github");
        let topic: Option<String> = at.optional("topic");
        let kind = kind.and_then(|kind| Kind::read(&kind, name, at));
        let default = if matches!(kind, Some(Kind::Sns(_))) { "event" } else { "path" };
        let topic = topic.unwrap_or_else(|| default.to_owned());
        let topic = match TopicForm::parse(&topic) {
            Ok(form) if form.needs_event() && kind.as_ref().is_some_and(|kind| !kind.names_events()) => {
                at.refuse(
                    "topic",
                    "nothing says what the event is",
                    "set event_header, or write topic: path",
                );
                None
            }
            Ok(form) => Some(form),
            Err(what) => {
                at.refuse(
                    "topic",
                    what,
                    "write path, event, or a text in which {path} and {event} may stand",
                );
                None
            }
        };
        Some(Endpoint { name: name.to_owned(), path: path?, topic: topic?, kind: kind? })
    }
}

fn path(name: &str, prefix: &str, at: &mut Reader) -> Option<String> {
    let path: String = at.or("path", format!("{prefix}{name}"));
    // The URL that senders are told stands for its path.
    let path = match url::Url::parse(&path) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => url.path().to_owned(),
        _ => path,
    };
    if !path.starts_with('/') {
        at.refuse("path", format!("{path:?} does not begin with a slash"), format!("write /{path}"));
        return None;
    }
    Some(path.trim_end_matches('/').to_owned())
}

impl Kind {
    fn read(kind: &str, endpoint: &str, at: &mut Reader) -> Option<Self> {
        Some(match kind {
            "github" => Kind::GitHub { secrets: Secrets::read(endpoint, at)? },
            "gitlab" => {
                let (secrets, tolerance) = signed(endpoint, at, |secret| {
                    if secret.starts_with(standard::SYMMETRIC) { standard::check(secret) } else { Ok(()) }
                });
                Kind::GitLab { secrets: secrets?, tolerance }
            }
            "standard-webhooks" => {
                let (secrets, tolerance) = signed(endpoint, at, standard::check);
                Kind::Standard { secrets: secrets?, tolerance }
            }
            "cloudevents" => {
                let credential = Credential::read(endpoint, at);
                let origins = at.or("origins", vec!["*".to_owned()]);
                Kind::CloudEvents { credential: credential?, origins }
            }
            "sns" => Kind::Sns(SnsRules::read(endpoint, at)?),
            "token" => Kind::Token(TokenRules::read(endpoint, at)?),
            other => {
                at.refuse("kind", format!("{other:?} is none"), format!("write one of {KINDS}"));
                // What every kind has is not wrong because of it.
                let _ = Secrets::optional(endpoint, at, |_| Ok(()));
                return None;
            }
        })
    }

    /// Whether there is an event type for a topic.
    fn names_events(&self) -> bool {
        !matches!(self, Kind::Token(TokenRules { event_header: None, .. }))
    }

    /// Whether messages come in an envelope that may be malformed.
    pub(crate) fn decodes(&self) -> bool {
        matches!(self, Kind::CloudEvents { .. })
    }
}

fn signed(
    endpoint: &str,
    at: &mut Reader,
    check: impl Fn(&str) -> Result<(), String>,
) -> (Option<Secrets>, Duration) {
    let secrets = Secrets::checked(endpoint, at, check);
    (secrets, tolerance(at, TOLERANCE))
}

/// Reads `tolerance`.
pub(crate) fn tolerance(at: &mut Reader, default: Duration) -> Duration {
    let tolerance = at.or("tolerance", default);
    if tolerance.is_zero() {
        at.refuse("tolerance", "it is nothing", "write a duration such as 5m");
    }
    tolerance
}

/// Reads the name of a header field.
pub(crate) fn header_name(at: &mut Reader, key: &str) -> Option<HeaderName> {
    let text: String = at.optional(key)?;
    let name = HeaderName::try_from(&text);
    if name.is_err() {
        at.refuse(key, format!("{text:?} is no name of a header field"), "write one such as X-Api-Key");
    }
    name.ok()
}
