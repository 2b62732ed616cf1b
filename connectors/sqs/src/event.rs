//! A message of SQS as an event.

use aws_sdk_sqs::types::{Message, MessageAttributeValue, MessageSystemAttributeName};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use bytes::Bytes;

use connectors_sdk::{Event, EventForm, Incoming, Quarantined, SnsKind, SnsMessage, Timestamp};

use crate::names::Queue;
use crate::settings::BodyForm;

/// What this connector says it is.
const CONNECTOR: &str = "openfaasltd/sqs-connector";

/// Base64 as senders write it: with padding or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A message as it was received, its body read as the settings say. Cheap to clone but for the attributes.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// What the message is called as long as it exists.
    pub(crate) id: String,
    /// What this receipt of it is called.
    pub(crate) handle: String,
    /// Its body; as it was sent where it is malformed.
    pub(crate) body: Bytes,
    /// Why the body is not what the settings say, where it is not.
    malformed: Option<String>,
    /// How often it was received, this time included.
    pub(crate) receives: u32,
    /// The group within which a FIFO queue keeps the order.
    pub(crate) group: Option<String>,
    sequence: Option<String>,
    sent: Option<Timestamp>,
    /// By their names.
    attributes: Vec<(String, MessageAttributeValue)>,
}

impl Received {
    /// What the client read. `None` without what every message has; there is nothing then to delete it by, either.
    pub(crate) fn from(message: Message, form: BodyForm) -> Option<Received> {
        let system = |name: MessageSystemAttributeName| {
            message.attributes.as_ref().and_then(|all| all.get(&name)).cloned()
        };
        let group = system(MessageSystemAttributeName::MessageGroupId);
        let sequence = system(MessageSystemAttributeName::SequenceNumber);
        let sent = system(MessageSystemAttributeName::SentTimestamp).and_then(|text| text.parse().ok());
        let receives = system(MessageSystemAttributeName::ApproximateReceiveCount)
            .and_then(|text| text.parse().ok())
            .unwrap_or(1);
        let mut attributes: Vec<_> = message.message_attributes.unwrap_or_default().into_iter().collect();
        attributes.sort_by(|(one, _), (other, _)| one.cmp(other));
        let text = message.body.unwrap_or_default();
        // What is held is held once, in the form in which it goes on.
        let decoded = (form == BodyForm::Base64).then(|| from_base64(text.as_bytes()));
        let (body, malformed) = match decoded {
            Some(Ok(bytes)) => (bytes, None),
            Some(Err(why)) => (text.into(), Some(why)),
            None => (text.into(), None),
        };
        Some(Received {
            id: message.message_id?,
            handle: message.receipt_handle?,
            body,
            malformed,
            receives,
            group,
            sequence,
            sent: sent.map(Timestamp::from_millis),
            attributes,
        })
    }

    /// What it weighs in memory.
    pub(crate) fn weight(&self) -> u64 {
        let attributes = self.attributes.iter().map(|(name, value)| {
            let text = value.string_value().map_or(0, str::len);
            name.len() + text + value.binary_value().map_or(0, |binary| binary.as_ref().len())
        });
        (self.body.len() + self.handle.len() + attributes.sum::<usize>()) as u64
    }
}

/// The event a message stands for, under one of its queue's names.
///
/// A message that SNS put into the queue, and one that S3 did, is told by header fields also where the body stays as it is.
///
/// # Errors
/// The message as it goes to the dead letters, when its body is not what the settings say.
pub(crate) fn event_from(
    form: &EventForm,
    body: BodyForm,
    queue: &Queue,
    name: &str,
    message: &Received,
) -> Result<Event, Box<Quarantined>> {
    let whole = || described(form, queue, name, message, message.body.clone());
    if let Some(why) = &message.malformed {
        return Err(whole().unreadable(why.as_str()));
    }
    if body == BodyForm::Sns {
        return match notification(&message.body) {
            Ok(mut sns) => {
                let text = std::mem::take(&mut sns.message);
                sns.describe(described(form, queue, name, message, text.into())).event()
            }
            Err(why) => Err(whole().unreadable(why)),
        };
    }
    match SnsMessage::in_body(&message.body) {
        Some(sns) => sns.describe(whole().notified(sns.message.as_bytes())).event(),
        None => whole().event(),
    }
}

fn described<'a>(
    form: &'a EventForm,
    queue: &Queue,
    name: &str,
    message: &Received,
    body: Bytes,
) -> Incoming<'a> {
    let mut incoming = form
        .message(name, body)
        .own("X-Connector", CONNECTOR)
        .own("X-Sqs-Message-Id", &message.id)
        .own("X-Sqs-Queue-Url", &*queue.url)
        // The name is part of it: under another name of the same queue it is another event.
        .id(&[name.as_bytes(), message.id.as_bytes()])
        .described(|event| event.id = Some(message.id.as_str().into()));
    if let (true, Some(group)) = (queue.fifo, &message.group) {
        incoming = incoming.own("X-Sqs-Message-Group-Id", group);
    }
    if let Some(sequence) = &message.sequence {
        incoming = incoming.own("X-Sqs-Sequence-Number", sequence);
    }
    if let Some(sent) = message.sent {
        incoming = incoming.time(sent);
    }
    message.attributes.iter().fold(incoming, |incoming, (name, value)| attribute(incoming, name, value))
}

fn attribute<'a>(incoming: Incoming<'a>, name: &str, value: &MessageAttributeValue) -> Incoming<'a> {
    const PREFIX: &str = "X-Sqs-Attr-";
    if let Some(binary) = value.binary_value() {
        let passes = incoming.passes(name);
        let incoming = incoming.field(PREFIX, name, STANDARD.encode(binary));
        return if passes { incoming.own(&format!("{PREFIX}{name}-Enc"), "b64") } else { incoming };
    }
    let text = value.string_value().unwrap_or_default().to_owned();
    if name.eq_ignore_ascii_case("content-type") {
        return incoming.content_type(text);
    }
    incoming.field(PREFIX, name, text)
}

/// Line breaks within are passed over, as MIME has them.
fn from_base64(body: &[u8]) -> Result<Bytes, String> {
    let text: Vec<u8> = body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    BASE64.decode(text).map(Bytes::from).map_err(|error| format!("the body is no base64: {error}"))
}

fn notification(body: &[u8]) -> Result<SnsMessage, String> {
    let message = SnsMessage::parse(body).map_err(|error| error.to_string())?;
    match message.kind {
        SnsKind::Notification => Ok(message),
        // It comes where the queue was subscribed from another account.
        kind => {
            Err(format!("SNS sent a {}, which somebody has to confirm by its SubscribeURL", kind.as_str()))
        }
    }
}

#[cfg(test)]
mod tests;
