//! The settings below `jetstream`.

use std::num::NonZeroUsize;
use std::time::Duration;

use serde_json::Value;

use connectors_sdk::{Reader, Setting, SourceName, Timestamp};

/// Which stream, and how its messages are held meanwhile.
#[derive(Clone, Debug)]
pub(crate) struct JetStreamSettings {
    pub(crate) stream: String,
    /// The durable consumer, which is ours.
    pub(crate) consumer: String,
    /// Where the consumer begins when it is made.
    pub(crate) start: Start,
    /// How long the server waits for a word of ours before it gives a message to somebody else.
    pub(crate) ack_wait: Duration,
    /// The most messages the server hands out to all replicas before it hears of them.
    pub(crate) max_ack_pending: NonZeroUsize,
}

/// Where a new consumer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    All,
    New,
    Sequence(u64),
    At(Timestamp),
}

impl Setting for Start {
    const EXPECTED: &'static str =
        "all, new, the number of a message, or a moment such as \"2026-11-22T08:00:00Z\"";

    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) if text == "all" => Some(Start::All),
            Value::String(text) if text == "new" => Some(Start::New),
            Value::String(text) => {
                let moment: jiff::Timestamp = text.parse().ok()?;
                Some(Start::At(Timestamp::from_millis(u64::try_from(moment.as_millisecond()).ok()?)))
            }
            number => number.as_u64().filter(|number| *number > 0).map(Start::Sequence),
        }
    }
}

/// In-progress words go out every third of `ack_wait`: below this, each hiccup would give messages to others.
const SHORTEST_ACK_WAIT: Duration = Duration::from_secs(1);

impl JetStreamSettings {
    /// Reads them. `None` without a stream; what else is wrong is noted in the reader.
    pub(crate) fn read(at: &mut Reader, source: &SourceName) -> Option<Self> {
        let stream: Option<String> = at.required("stream", "ORDERS");
        let consumer = at.or("consumer", format!("evoke-{source}"));
        let start = at.or("start", Start::All);
        let ack_wait = at.or("ack_wait", Duration::from_secs(30));
        let max_ack_pending =
            at.or("max_ack_pending", const { NonZeroUsize::new(8192).expect("8192 is not zero") });
        for (key, name) in [("stream", stream.as_ref()), ("consumer", Some(&consumer))] {
            if name.is_some_and(|name| !is_name(name)) {
                at.refuse(
                    key,
                    format!("{:?} is no name in JetStream", name.map_or("", String::as_str)),
                    "write a name without spaces, dots, slashes and wildcards",
                );
            }
        }
        if ack_wait < SHORTEST_ACK_WAIT {
            at.refuse("ack_wait", "it is less than a second", "write a duration from 1s, such as 30s");
        }
        Some(JetStreamSettings { stream: stream?, consumer, start, ack_wait, max_ack_pending })
    }
}

/// Whether it can be the name of a stream or consumer, which is one token of a subject and the name of a folder.
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 255
        && !text.contains(|c: char| c.is_whitespace() || c.is_control() || ".*>/\\".contains(c))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(settings: Value) -> Result<JetStreamSettings, Vec<String>> {
        let mut at = Reader::new(settings);
        let read = JetStreamSettings::read(&mut at, &SourceName::parse("bus").unwrap());
        at.finish(|| read).map_err(|error| error.problems.into_iter().map(|problem| problem.key).collect())
    }

    #[test]
    fn a_stream_is_enough_and_the_consumer_is_named_after_the_source() {
        let settings = read(json!({"stream": "ORDERS"})).unwrap();

        assert_eq!((settings.consumer.as_str(), settings.start), ("evoke-bus", Start::All));
    }

    #[test]
    fn every_starting_point_is_understood() {
        let start =
            |value: Value| read(json!({"stream": "S", "start": value})).map(|settings| settings.start);

        assert_eq!(start(json!("new")), Ok(Start::New));
        assert_eq!(start(json!(17)), Ok(Start::Sequence(17)));
        let moment = Start::At(Timestamp::from_millis(1_795_334_400_000));
        assert_eq!(start(json!("2026-11-22T08:00:00Z")), Ok(moment));
        for wrong in [json!("last"), json!(0), json!(-1), json!(true)] {
            assert_eq!(start(wrong), Err(vec!["start".to_owned()]));
        }
    }

    #[test]
    fn what_no_server_would_take_is_refused() {
        let odd =
            json!({"stream": "two words", "consumer": "a.b", "ack_wait": "900ms", "max_ack_pending": 0});

        assert_eq!(read(odd).unwrap_err(), ["max_ack_pending", "stream", "consumer", "ack_wait"]);
        assert_eq!(read(json!({})).unwrap_err(), ["stream"]);
    }
}
