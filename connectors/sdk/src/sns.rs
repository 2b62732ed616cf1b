//! What Amazon SNS posts to a webhook and puts into a queue: its envelope, read but not believed.
//!
//! Nothing here checks a signature or fetches a URL; who takes envelopes from the open internet does both.

use std::fmt;

use serde_json::{Map, Value};

use crate::form::Incoming;

/// One message of SNS with its envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnsMessage {
    /// What SNS wants with it.
    pub kind: SnsKind,
    /// The same at each delivery of the same message.
    pub message_id: String,
    /// The topic it was published to.
    pub topic_arn: String,
    /// The publisher's subject, where there is one.
    pub subject: Option<String>,
    /// What was published; in a confirmation, a sentence for people.
    pub message: String,
    /// When it was published, as SNS writes it: it is part of what is signed.
    pub timestamp: String,
    /// The publisher's attributes, in their order.
    pub attributes: Vec<SnsAttribute>,
    /// `1` (SHA1) or `2` (SHA256). `None` where a stand-in for SNS does not sign.
    pub signature_version: Option<String>,
    /// The signature, in base64.
    pub signature: Option<String>,
    /// Where the certificate is said to be. Only a host of Amazon's may be asked for it.
    pub signing_cert_url: Option<String>,
    /// To be visited to confirm a subscription. Only a host of Amazon's may be.
    pub subscribe_url: Option<String>,
    /// To be visited to end the subscription.
    pub unsubscribe_url: Option<String>,
    /// Of a confirmation.
    pub token: Option<String>,
}

/// What SNS wants with a message: the envelope's `Type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnsKind {
    /// Something was published.
    Notification,
    /// Somebody subscribed this endpoint, which is to confirm it.
    SubscriptionConfirmation,
    /// The subscription was ended; visiting `SubscribeURL` would renew it.
    UnsubscribeConfirmation,
}

/// One attribute of the publisher's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnsAttribute {
    /// Its name.
    pub name: String,
    /// Its type: `String`, `String.Array`, `Number`, `Binary`.
    pub kind: String,
    /// Its value; a binary one in base64, as SNS writes it.
    pub value: String,
}

impl SnsKind {
    /// The word for it in an envelope, and in the header `x-amz-sns-message-type`.
    pub fn as_str(self) -> &'static str {
        match self {
            SnsKind::Notification => "Notification",
            SnsKind::SubscriptionConfirmation => "SubscriptionConfirmation",
            SnsKind::UnsubscribeConfirmation => "UnsubscribeConfirmation",
        }
    }

    fn read(text: &str) -> Option<Self> {
        [SnsKind::Notification, SnsKind::SubscriptionConfirmation, SnsKind::UnsubscribeConfirmation]
            .into_iter()
            .find(|kind| kind.as_str() == text)
    }
}

/// Why a body is no envelope of SNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotSns(String);

impl fmt::Display for NotSns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the body is no message of SNS: {}", self.0)
    }
}

impl std::error::Error for NotSns {}

impl SnsMessage {
    /// Reads an envelope where one is expected.
    ///
    /// # Errors
    /// [`NotSns`], with the first thing that is missing.
    pub fn parse(body: &[u8]) -> Result<Self, NotSns> {
        let object = match serde_json::from_slice(body) {
            Ok(Value::Object(object)) => object,
            Ok(_) => return Err(NotSns("it is JSON, but no object".to_owned())),
            Err(error) => return Err(NotSns(format!("it is no JSON ({error})"))),
        };
        let optional = |key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
        let required = |key: &str| optional(key).ok_or_else(|| NotSns(format!("it has no {key}")));
        let kind = required("Type")?;
        let message = SnsMessage {
            kind: SnsKind::read(&kind).ok_or_else(|| NotSns(format!("its Type is {kind:?}")))?,
            message_id: required("MessageId")?,
            topic_arn: required("TopicArn")?,
            subject: optional("Subject"),
            message: required("Message")?,
            timestamp: required("Timestamp")?,
            attributes: object
                .get("MessageAttributes")
                .and_then(Value::as_object)
                .map_or_else(Vec::new, attributes),
            signature_version: optional("SignatureVersion"),
            signature: optional("Signature"),
            signing_cert_url: optional("SigningCertURL"),
            subscribe_url: optional("SubscribeURL"),
            unsubscribe_url: optional("UnsubscribeURL"),
            token: optional("Token"),
        };
        match message.kind {
            SnsKind::Notification => Ok(message),
            SnsKind::SubscriptionConfirmation | SnsKind::UnsubscribeConfirmation => {
                required("SubscribeURL").and_then(|_| required("Token")).map(|_| message)
            }
        }
    }

    /// Recognises an envelope where there may be one: `None` for every other body, without much work for most.
    pub fn in_body(body: &[u8]) -> Option<Self> {
        let may_be = body.trim_ascii_start().starts_with(b"{") && contains(body, b"\"TopicArn\"");
        if may_be { Self::parse(body).ok() } else { None }
    }

    /// What SNS signed: some of the fields, by the order of their names, each name and value on a line of its own.
    pub fn string_to_sign(&self) -> String {
        let last = [("Timestamp", Some(&self.timestamp))];
        let (topic, kind) = (("TopicArn", Some(&self.topic_arn)), self.kind.as_str().to_owned());
        let first = [("Message", Some(&self.message)), ("MessageId", Some(&self.message_id))];
        let fields: Vec<(&str, Option<&String>)> = match self.kind {
            SnsKind::Notification => {
                let subject = [("Subject", self.subject.as_ref())];
                first.into_iter().chain(subject).chain(last).chain([topic, ("Type", Some(&kind))]).collect()
            }
            SnsKind::SubscriptionConfirmation | SnsKind::UnsubscribeConfirmation => {
                let url = [("SubscribeURL", self.subscribe_url.as_ref())];
                let token = [("Token", self.token.as_ref()), topic, ("Type", Some(&kind))];
                first.into_iter().chain(url).chain(last).chain(token).collect()
            }
        };
        let mut text = String::new();
        for (name, value) in fields {
            if let Some(value) = value {
                text.extend([name, "\n", value, "\n"]);
            }
        }
        text
    }

    /// Puts what the envelope says into the header fields of OpenFaaS' SNS connector: `X-Sns-Message-Id`, `X-Sns-Arn`,
    /// `X-Sns-Subject`, and for each attribute that `headers` lets pass `X-Sns-Attr-<name>` and `X-Sns-Attr-<name>-Type`.
    ///
    /// Of a bucket's notification that came through SNS nothing is said here: where the message is the event's body it is
    /// recognised there, and where the envelope stays [`Incoming::notified`] says it.
    #[must_use]
    pub fn describe<'a>(&self, incoming: Incoming<'a>) -> Incoming<'a> {
        let mut incoming =
            incoming.own("X-Sns-Message-Id", &self.message_id).own("X-Sns-Arn", &self.topic_arn);
        if let Some(subject) = &self.subject {
            incoming = incoming.own("X-Sns-Subject", subject);
        }
        for SnsAttribute { name, kind, value } in &self.attributes {
            if incoming.passes(name) {
                incoming =
                    incoming.field("X-Sns-Attr-", name, value).own(&format!("X-Sns-Attr-{name}-Type"), kind);
            }
        }
        incoming
    }
}

fn attributes(object: &Map<String, Value>) -> Vec<SnsAttribute> {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    object
        .iter()
        .filter_map(|(name, value)| {
            Some(SnsAttribute {
                name: name.clone(),
                kind: text(value, "Type")?,
                value: text(value, "Value")?,
            })
        })
        .collect()
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use broker_model::{SourceName, Wildcards};
    use serde_json::json;

    use super::*;
    use crate::form::EventForm;
    use crate::settings::Reader;

    fn notification() -> Value {
        json!({
            "Type": "Notification",
            "MessageId": "165545c9-2a5c-472c-8df2-7ff2be2b3b1b",
            "TopicArn": "arn:aws:sns:us-west-2:123456789012:orders",
            "Subject": "An order",
            "Message": "{\"id\": 7}",
            "Timestamp": "2026-04-26T20:45:04.751Z",
            "SignatureVersion": "2",
            "Signature": "c2lnbmVk",
            "SigningCertURL": "https://sns.us-west-2.amazonaws.com/SimpleNotificationService-1.pem",
            "UnsubscribeURL": "https://sns.us-west-2.amazonaws.com/?Action=Unsubscribe",
            "MessageAttributes": {
                "store": {"Type": "String", "Value": "vienna"},
                "blob": {"Type": "Binary", "Value": "AAEC"},
            },
        })
    }

    fn confirmation() -> Value {
        json!({
            "Type": "SubscriptionConfirmation",
            "MessageId": "2a5c",
            "Token": "t0ken",
            "TopicArn": "arn:aws:sns:us-west-2:123456789012:orders",
            "Message": "You have chosen to subscribe",
            "SubscribeURL": "https://sns.us-west-2.amazonaws.com/?Action=ConfirmSubscription",
            "Timestamp": "2026-04-26T20:45:04.751Z",
        })
    }

    fn read(envelope: &Value) -> Result<SnsMessage, NotSns> {
        SnsMessage::parse(envelope.to_string().as_bytes())
    }

    fn without(mut envelope: Value, key: &str) -> Value {
        envelope.as_object_mut().unwrap().shift_remove(key);
        envelope
    }

    #[test]
    fn a_notification_is_read_with_its_attributes() {
        let message = read(&notification()).unwrap();

        assert_eq!(message.kind, SnsKind::Notification);
        assert_eq!(
            (message.message.as_str(), message.subject.as_deref()),
            (r#"{"id": 7}"#, Some("An order"))
        );
        assert_eq!(message.attributes[0].name, "store");
        assert_eq!(
            (message.attributes[1].kind.as_str(), message.attributes[1].value.as_str()),
            ("Binary", "AAEC")
        );
        assert_eq!((message.token, message.subscribe_url), (None, None));
    }

    #[test]
    fn what_is_signed_are_these_fields_in_this_order() {
        assert_eq!(
            read(&notification()).unwrap().string_to_sign(),
            "Message\n{\"id\": 7}\nMessageId\n165545c9-2a5c-472c-8df2-7ff2be2b3b1b\nSubject\nAn order\n\
             Timestamp\n2026-04-26T20:45:04.751Z\nTopicArn\narn:aws:sns:us-west-2:123456789012:orders\n\
             Type\nNotification\n"
        );
        assert!(!read(&without(notification(), "Subject")).unwrap().string_to_sign().contains("Subject"));
        assert_eq!(
            read(&confirmation()).unwrap().string_to_sign(),
            "Message\nYou have chosen to subscribe\nMessageId\n2a5c\n\
             SubscribeURL\nhttps://sns.us-west-2.amazonaws.com/?Action=ConfirmSubscription\n\
             Timestamp\n2026-04-26T20:45:04.751Z\nToken\nt0ken\n\
             TopicArn\narn:aws:sns:us-west-2:123456789012:orders\nType\nSubscriptionConfirmation\n"
        );
    }

    #[test]
    fn what_is_missing_is_said() {
        for key in ["Type", "MessageId", "TopicArn", "Message", "Timestamp"] {
            let error = read(&without(notification(), key)).unwrap_err().to_string();
            assert_eq!(error, format!("the body is no message of SNS: it has no {key}"));
        }
        for key in ["SubscribeURL", "Token"] {
            assert!(read(&without(confirmation(), key)).unwrap_err().to_string().contains(key));
        }
        assert!(SnsMessage::parse(b"<xml/>").unwrap_err().to_string().contains("no JSON"));
        assert!(SnsMessage::parse(b"[]").unwrap_err().to_string().contains("no object"));
    }

    #[test]
    fn other_bodies_are_not_taken_for_one() {
        assert!(SnsMessage::in_body(notification().to_string().as_bytes()).is_some());
        let nearly = [json!({"TopicArn": "x"}).to_string(), json!([notification()]).to_string(), "{}".into()];
        for body in nearly {
            assert_eq!(SnsMessage::in_body(body.as_bytes()), None, "{body}");
        }
    }

    #[test]
    fn the_envelope_becomes_header_fields_by_the_header_policy() {
        let mut at = Reader::new(json!({"headers": {"deny": "blob"}}));
        let form = EventForm::read(&mut at, &SourceName::parse("bus").unwrap(), "webhook", Wildcards::Glob);
        let message = read(&notification()).unwrap();
        let event = message.describe(form.message("t", message.message.clone())).event().unwrap();

        let fields: Vec<(&str, &str)> =
            event.headers.iter().map(|(name, value)| (name, std::str::from_utf8(value).unwrap())).collect();
        assert_eq!(
            fields,
            [
                ("x-sns-message-id", "165545c9-2a5c-472c-8df2-7ff2be2b3b1b"),
                ("x-sns-arn", "arn:aws:sns:us-west-2:123456789012:orders"),
                ("x-sns-subject", "An order"),
                ("x-sns-attr-store", "vienna"),
                ("x-sns-attr-store-type", "String"),
            ]
        );
    }
}
