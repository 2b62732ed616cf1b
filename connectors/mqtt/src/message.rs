//! A message as either version of the protocol brings it.

use bytes::Bytes;

/// A message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    /// The topic it was published to, never a filter.
    pub(crate) topic: String,
    /// The payload.
    pub(crate) payload: Bytes,
    /// How it was sent to us: no better than it was published, and than we subscribed.
    pub(crate) qos: Qos,
    /// The packet identifier; 0 with QoS 0.
    pub(crate) packet: u16,
    /// The server may have sent it before.
    pub(crate) again: bool,
    /// It was kept for new subscribers.
    pub(crate) retained: bool,
    /// Of the subscriptions for which it came, where the server says so.
    pub(crate) subscriptions: Vec<u32>,
    /// What MQTT 5 adds.
    pub(crate) properties: Properties,
}

impl Message {
    /// What it takes in memory, nearly.
    pub(crate) fn weight(&self) -> usize {
        let user = self.properties.user.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        self.payload.len() + self.topic.len() + user
    }
}

/// The properties of a message of MQTT 5 that a function may want.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Properties {
    /// In the order in which they were sent.
    pub(crate) user: Vec<(String, String)>,
    pub(crate) content_type: Option<String>,
    pub(crate) response_topic: Option<String>,
    pub(crate) correlation_data: Option<Bytes>,
    /// Seconds that were left when the server sent it.
    pub(crate) expiry: Option<u32>,
}

/// How hard a message is tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[allow(clippy::enum_variant_names, reason = "they are MQTT's own")]
pub(crate) enum Qos {
    /// Sent once, to whoever is connected.
    #[default]
    AtMostOnce,
    /// Sent until it is acknowledged.
    AtLeastOnce,
    /// The same, with a second exchange after which the server will not send it again.
    ExactlyOnce,
}

impl Qos {
    /// Its number.
    pub(crate) fn number(self) -> u8 {
        match self {
            Qos::AtMostOnce => 0,
            Qos::AtLeastOnce => 1,
            Qos::ExactlyOnce => 2,
        }
    }
}
