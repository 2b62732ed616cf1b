//! A request as an event: what its topic is, and which of its header fields a function sees.

use bytes::Bytes;
use connectors_sdk::{Event, EventForm, Incoming, Quarantined};
use http::{HeaderMap, HeaderName, header};
use percent_encoding::percent_decode_str;

use crate::endpoint::{Endpoint, Kind};
use crate::token::Way;

/// A whole request to an endpoint, by a sender who may.
#[derive(Clone)]
pub(crate) struct Request<'a> {
    pub(crate) form: &'a EventForm,
    pub(crate) endpoint: &'a Endpoint,
    /// The path behind the prefix, decoded; the endpoint's name where nothing is behind it.
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: Bytes,
}

/// What a request brings.
#[derive(Debug)]
pub(crate) enum Brought {
    Messages(Vec<Message>),
    /// No event: a question, a confirmation.
    Nothing(&'static str),
}

/// What came of a request, or of one part of a batch.
#[derive(Debug)]
pub(crate) struct Message {
    /// What it is about, before `topic_map`.
    pub(crate) topic: String,
    /// The event, or what could not be made into one.
    pub(crate) outcome: Result<Event, Box<Quarantined>>,
}

impl Request<'_> {
    /// The event of the whole body, about its path or the event type; `describe` says what identifies it.
    pub(crate) fn message<'s>(
        &'s self,
        event: Option<&str>,
        describe: impl FnOnce(Incoming<'s>) -> Incoming<'s>,
    ) -> Message {
        self.message_of(self.body.clone(), event, |incoming| describe(self.with_fields(incoming)))
    }

    /// The event of a part of the body, without the request's own header fields but those of where it came.
    pub(crate) fn message_of<'s>(
        &'s self,
        body: Bytes,
        event: Option<&str>,
        describe: impl FnOnce(Incoming<'s>) -> Incoming<'s>,
    ) -> Message {
        match self.endpoint.topic.of(self.path, event) {
            Some(topic) => {
                let incoming = describe(self.with_place(self.form.message(&topic, body)));
                Message { outcome: incoming.event(), topic }
            }
            None => self.unreadable(body, "its topic is its event type, and it says none"),
        }
    }

    /// A body, or a part of it, that cannot be made into an event; about its path.
    pub(crate) fn unreadable(&self, body: Bytes, why: &str) -> Message {
        let topic = self.path.to_owned();
        let incoming = self.with_place(self.form.message(&topic, body));
        let incoming = match text_of(self.headers, &header::CONTENT_TYPE) {
            Some(value) => incoming.content_type(value),
            None => incoming,
        };
        Message { outcome: Err(incoming.unreadable(why)), topic }
    }

    fn with_place<'s>(&'s self, incoming: Incoming<'s>) -> Incoming<'s> {
        let incoming =
            incoming.own("X-Webhook-Endpoint", &*self.endpoint.name).own("X-Webhook-Path", self.path);
        match self.query.and_then(harmless) {
            Some(query) => incoming.own("X-Webhook-Query", query),
            None => incoming,
        }
    }

    fn with_fields<'s>(&'s self, mut incoming: Incoming<'s>) -> Incoming<'s> {
        for (name, value) in self.headers {
            let value = Bytes::copy_from_slice(value.as_bytes());
            incoming = match fate(&self.endpoint.kind, name) {
                Fate::Dropped => incoming,
                Fate::ContentType => incoming.content_type(value),
                Fate::Kept => incoming.field("", name.as_str(), value),
                Fate::Attribute(attribute) if incoming.passes(name.as_str()) => {
                    incoming.attribute(attribute, value)
                }
                Fate::Attribute(_) => incoming,
                Fate::Prefixed => incoming.field("X-Webhook-", name.as_str(), value),
            };
        }
        incoming
    }
}

/// What becomes of a header field of the sender's.
#[derive(Debug, PartialEq, Eq)]
enum Fate<'a> {
    /// It is about the exchange, or secret, or would pass for one of ours.
    Dropped,
    /// It is the event's Content-Type.
    ContentType,
    /// It has a name that only this kind of sender uses.
    Kept,
    /// It is this attribute of a CloudEvent.
    Attribute(&'a str),
    /// It gets a prefix, so that no sender passes for the gateway.
    Prefixed,
}

/// About the exchange, not about the event.
const OF_THE_EXCHANGE: [&str; 20] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "expect",
    "te",
    "trailer",
    "upgrade",
    "keep-alive",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "forwarded",
    "via",
    "x-real-ip",
    "cookie",
    "endpoint",
    "path",
    "query",
];

/// A name with one of these words holds what nobody else may know, or what proves that somebody knows it.
const SECRET: [&str; 9] =
    ["authorization", "signature", "token", "secret", "password", "api-key", "apikey", "hmac", "credential"];

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET.iter().any(|word| name.contains(word))
}

fn fate<'a>(kind: &Kind, name: &'a HeaderName) -> Fate<'a> {
    let text = name.as_str();
    let of_the_credential = match kind {
        Kind::Token(token) => matches!(&token.credential.way, Way::Header(header) if header == name),
        Kind::CloudEvents { credential, .. } => {
            matches!(&credential.way, Way::Header(header) if header == name)
        }
        _ => false,
    };
    let dropped = of_the_credential
        || is_secret(text)
        || OF_THE_EXCHANGE.contains(&text)
        || ["x-forwarded-", "proxy-", "sec-"].iter().any(|prefix| text.starts_with(prefix));
    if dropped {
        return Fate::Dropped;
    }
    let of_this_kind = match kind {
        Kind::GitHub { .. } => text.starts_with("x-github-"),
        Kind::GitLab { .. } => text.starts_with("x-gitlab-") || text.starts_with("webhook-"),
        Kind::Standard { .. } => text.starts_with("webhook-") || text.starts_with("svix-"),
        Kind::CloudEvents { .. } => {
            if let Some(attribute) = text.strip_prefix("ce-") {
                return Fate::Attribute(attribute);
            }
            false
        }
        Kind::Sns(_) | Kind::Token(_) => false,
    };
    match text {
        "content-type" => Fate::ContentType,
        "content-encoding" => Fate::Kept,
        _ if of_this_kind => Fate::Kept,
        _ => Fate::Prefixed,
    }
}

/// A query without what may be a secret in it.
fn harmless(query: &str) -> Option<String> {
    let parameters = query.split('&').filter(|parameter| {
        let name = parameter.split('=').next().unwrap_or_default();
        !is_secret(&percent_decode_str(name).decode_utf8_lossy())
    });
    let query = parameters.collect::<Vec<_>>().join("&");
    if query.is_empty() { None } else { Some(query) }
}

fn text_of(headers: &HeaderMap, name: &HeaderName) -> Option<Bytes> {
    headers.get(name).map(|value| Bytes::copy_from_slice(value.as_bytes()))
}

#[cfg(test)]
mod tests {
    use connectors_sdk::{Reader, SourceName, Wildcards};
    use serde_json::{Value, json};

    use super::*;

    fn read(settings: Value) -> Endpoint {
        let mut at = Reader::new(settings);
        let endpoint = Endpoint::read("here", "/", &mut at);
        at.finish(|| endpoint).unwrap()
    }

    /// What a function sees of a request with these header fields.
    fn seen(endpoint: Value, form: Value, fields: &[(&str, &str)]) -> Vec<(String, String)> {
        let endpoint = read(endpoint);
        let form = EventForm::read(
            &mut Reader::new(form),
            &SourceName::parse("hooks").unwrap(),
            "webhook",
            Wildcards::Glob,
        );
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let request = Request {
            form: &form,
            endpoint: &endpoint,
            path: "here/there",
            query: Some("tenant=7&access_token=s3cret&to%6ben=s3cret"),
            headers: &headers,
            body: Bytes::from_static(b"body"),
        };
        let event = request.message(None, |incoming| incoming).outcome.unwrap();
        let headers = event.headers.iter();
        let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
        headers.map(|(name, value)| (name.to_owned(), text(value))).skip(2).collect()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn secrets_and_what_is_about_the_exchange_never_reach_a_function() {
        let token = json!({"kind": "token", "secret": "s", "header": "x-key"});
        let fields = [
            ("host", "h"),
            ("authorization", "Bearer s3cret"),
            ("x-key", "s3cret"),
            ("x-hub-signature-256", "sha256=1"),
            ("stripe-signature", "t=1"),
            ("x-gitlab-token", "s3cret"),
            ("x-shopify-hmac-sha256", "1"),
            ("cookie", "session=1"),
            ("x-forwarded-for", "10.0.0.1"),
            ("query", "all"),
            ("content-type", "text/x"),
            ("content-encoding", "gzip"),
            ("x-call-id", "forged"),
            ("order-id", "7"),
            ("order-id", "8"),
        ];
        assert_eq!(
            seen(token, json!({}), &fields),
            pairs(&[
                ("x-webhook-query", "tenant=7"),
                ("content-encoding", "gzip"),
                ("x-webhook-x-call-id", "forged"),
                ("x-webhook-order-id", "7"),
                ("x-webhook-order-id", "8"),
                ("content-type", "text/x"),
            ])
        );
    }

    #[test]
    fn fields_that_are_the_senders_own_keep_their_names_and_follow_the_policy() {
        let github = json!({"kind": "github", "secret": "s"});
        let policy = json!({"headers": {"deny": ["user-agent", "X-GitHub-Hook-*"]}});
        let fields =
            [("x-github-event", "push"), ("x-github-hook-id", "1"), ("user-agent", "GitHub-Hookshot/1")];

        assert_eq!(
            seen(github, policy, &fields),
            pairs(&[("x-webhook-query", "tenant=7"), ("x-github-event", "push")])
        );
    }
}
