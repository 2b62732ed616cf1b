//! A record, copied out of the client's memory in one piece.

use std::io::Write as _;

use bytes::Bytes;
use rdkafka::message::{Headers as _, Message};

use connectors_sdk::Timestamp;

/// The most digits an offset has.
const DIGITS: usize = 20;

/// One record. What is taken out of it shares its memory, and is valid without it.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// The value, the key, the offset in digits; then each header's name and value.
    bytes: Bytes,
    value: usize,
    key: Option<usize>,
    digits: usize,
    headers: Vec<(usize, usize)>,
    pub(crate) offset: u64,
    /// When its publisher, or the broker, says it was written.
    pub(crate) time: Option<Timestamp>,
}

impl Record {
    /// Copies it; `None` where it has no offset.
    pub(crate) fn of(message: &impl Message) -> Option<Record> {
        let offset = u64::try_from(message.offset()).ok()?;
        let value = message.payload().unwrap_or_default();
        let key = message.key();
        let headers = message.headers();
        let of_headers: usize = headers
            .into_iter()
            .flat_map(|headers| headers.iter())
            .map(|header| header.key.len() + header.value.map_or(0, <[u8]>::len))
            .sum();
        let mut bytes = Vec::with_capacity(value.len() + key.map_or(0, <[u8]>::len) + DIGITS + of_headers);
        bytes.extend_from_slice(value);
        bytes.extend_from_slice(key.unwrap_or_default());
        let before = bytes.len();
        // Writing to memory does not fail.
        let _ = write!(bytes, "{offset}");
        let digits = bytes.len() - before;
        let mut lengths = Vec::with_capacity(headers.map_or(0, |headers| headers.count()));
        for header in headers.into_iter().flat_map(|headers| headers.iter()) {
            let value = header.value.unwrap_or_default();
            bytes.extend_from_slice(header.key.as_bytes());
            bytes.extend_from_slice(value);
            lengths.push((header.key.len(), value.len()));
        }
        Some(Record {
            bytes: bytes.into(),
            value: value.len(),
            key: key.map(<[u8]>::len),
            digits,
            headers: lengths,
            offset,
            time: message
                .timestamp()
                .to_millis()
                .and_then(|millis| u64::try_from(millis).ok())
                .map(Timestamp::from_millis),
        })
    }

    /// The value; one without (a tombstone) is empty.
    pub(crate) fn value(&self) -> Bytes {
        self.bytes.slice(..self.value)
    }

    /// The key, where there is one.
    pub(crate) fn key(&self) -> Option<Bytes> {
        self.key.map(|length| self.bytes.slice(self.value..self.value + length))
    }

    /// The offset as text.
    pub(crate) fn digits(&self) -> Bytes {
        let at = self.value + self.key.unwrap_or_default();
        self.bytes.slice(at..at + self.digits)
    }

    /// The headers, in their order; one without a value is one with an empty value.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (&str, Bytes)> {
        let mut at = self.value + self.key.unwrap_or_default() + self.digits;
        self.headers.iter().map(move |(name, value)| {
            let (from, to) = (at + name, at + name + value);
            // It was text when it was copied.
            let name = std::str::from_utf8(&self.bytes[at..from]).unwrap_or_default();
            at = to;
            (name, self.bytes.slice(from..to))
        })
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::Timestamp as RecordTime;
    use rdkafka::message::{Header, OwnedHeaders, OwnedMessage};

    use super::*;

    fn message(
        value: Option<&[u8]>,
        key: Option<&[u8]>,
        headers: Option<OwnedHeaders>,
        offset: i64,
    ) -> OwnedMessage {
        let time = RecordTime::CreateTime(1_795_000_000_123);
        OwnedMessage::new(
            value.map(Into::into),
            key.map(Into::into),
            "orders".into(),
            time,
            2,
            offset,
            headers,
        )
    }

    #[test]
    fn each_part_is_found_again() {
        let headers = OwnedHeaders::new()
            .insert(Header { key: "tag", value: Some("a") })
            .insert(Header { key: "none", value: None::<&str> })
            .insert(Header { key: "tag", value: Some("bc") });
        let record = Record::of(&message(Some(b"value"), Some(b"key"), Some(headers), 1_234)).unwrap();

        assert_eq!((&record.value()[..], &record.digits()[..]), (&b"value"[..], &b"1234"[..]));
        assert_eq!(record.key().as_deref(), Some(&b"key"[..]));
        let headers: Vec<(&str, Bytes)> = record.headers().collect();
        assert_eq!(headers, [("tag", "a".into()), ("none", "".into()), ("tag", "bc".into())]);
        assert_eq!((record.offset, record.time), (1_234, Some(Timestamp::from_millis(1_795_000_000_123))));
    }

    #[test]
    fn what_is_not_there_is_not_there() {
        let record = Record::of(&message(None, None, None, 0)).unwrap();
        assert!(record.value().is_empty() && record.key().is_none() && record.headers().next().is_none());
        assert_eq!(&record.digits()[..], b"0");

        let record = Record::of(&message(None, Some(b""), None, i64::MAX)).unwrap();
        assert_eq!(record.key().as_deref(), Some(&b""[..]));
        assert_eq!(&record.digits()[..], b"9223372036854775807");

        assert!(Record::of(&message(None, None, None, -1001)).is_none());
    }
}
