//! What was asked for and has not come. Pure.

use std::time::Duration;

use async_nats::{HeaderMap, StatusCode};
use serde_json::json;
use tokio::time::Instant;

/// How long one request stands.
const STANDS: Duration = Duration::from_secs(30);
/// How often the server says that it still knows of it.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// After how long without a word it is forgotten: two heartbeats and a half.
const SILENCE: Duration = Duration::from_millis(12_500);
/// The share of the window's bytes that is worth a request.
const WORTH: u64 = 16;

/// The requests for messages: one at a time, for no more than there is room for.
///
/// On a new connection the first is for one message, and each that came whole doubles the next. What breaks the connection
/// (a message that the client cannot read) takes with it what came behind it: this way it soon comes alone.
#[derive(Debug)]
pub(crate) struct Pulls {
    last: u64,
    open: Option<Pull>,
    /// The most to ask for at once.
    most: usize,
    /// The next message is larger than what the last request had room for: it is asked for alone.
    large: bool,
}

#[derive(Debug)]
struct Pull {
    left: usize,
    came: usize,
    heard: Instant,
}

/// What there is room for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) messages: usize,
    /// Bytes, now and at most.
    pub(crate) bytes: (u64, u64),
    /// Nothing is held.
    pub(crate) empty: bool,
}

/// A request to send.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Asking {
    /// Where the answers are to go below the inbox; tells late ones of an earlier request from those of this one.
    pub(crate) number: u64,
    pub(crate) payload: String,
}

/// What a word of the server means that is no message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// The request still stands, or is over as requests are.
    Usual,
    /// The consumer is not where it was: look after it.
    Look(String),
}

impl Default for Pulls {
    fn default() -> Self {
        Pulls { last: 0, open: None, most: 1, large: false }
    }
}

impl Pulls {
    /// The request to send now, where there is room that is worth one.
    pub(crate) fn ask(&mut self, room: Room, now: Instant) -> Option<Asking> {
        let Room { messages, bytes: (bytes, most), empty } = room;
        let worth = bytes.saturating_mul(WORTH) >= most && !self.large;
        if self.open.is_some() || messages == 0 || !(empty || worth) {
            return None;
        }
        let batch = if self.large { 1 } else { messages.min(self.most) };
        let mut request = json!({
            "batch": batch,
            "expires": STANDS.as_nanos() as u64,
            "idle_heartbeat": HEARTBEAT.as_nanos() as u64,
        });
        if !self.large {
            request["max_bytes"] = bytes.into();
        }
        self.last += 1;
        self.open = Some(Pull { left: batch, came: 0, heard: now });
        Some(Asking { number: self.last, payload: request.to_string() })
    }

    /// A message came.
    pub(crate) fn came(&mut self, now: Instant) {
        self.large = false;
        if let Some(open) = &mut self.open {
            open.heard = now;
            open.came += 1;
            open.left = open.left.saturating_sub(1);
            if open.left == 0 {
                self.open = None;
                self.most = self.most.saturating_mul(2);
            }
        }
    }

    /// A word came about the request of this number.
    pub(crate) fn heard(
        &mut self,
        number: u64,
        status: StatusCode,
        description: Option<&str>,
        now: Instant,
    ) -> Word {
        let Some(open) = self.open.as_mut().filter(|_| number == self.last) else { return Word::Usual };
        let description = description.unwrap_or_default();
        if status == StatusCode::IDLE_HEARTBEAT {
            open.heard = now;
            return Word::Usual;
        }
        let nothing_came = open.came == 0;
        self.open = None;
        match status {
            StatusCode::NOT_FOUND | StatusCode::TIMEOUT => Word::Usual,
            _ if description.eq_ignore_ascii_case("Message Size Exceeds MaxBytes") => {
                self.large = nothing_came;
                Word::Usual
            }
            status => Word::Look(format!("{status} {description}").trim_end().to_owned()),
        }
    }

    /// When the silence has lasted too long; nothing while nothing is asked for.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.open.as_ref().map(|open| open.heard + SILENCE)
    }

    /// The server knows nothing of it any more.
    pub(crate) fn forget(&mut self) {
        self.open = None;
    }

    /// There is a new connection.
    pub(crate) fn begin_anew(&mut self) {
        *self = Pulls { last: self.last, ..Pulls::default() };
    }
}

/// The number of the request that a word is about, from the end of the subject it came to.
pub(crate) fn number_of(subject: &str) -> Option<u64> {
    subject.rsplit('.').next()?.parse().ok()
}

/// What a message takes of `max_bytes`: the server counts its subjects and headers with it.
pub(crate) fn size_of(message: &async_nats::Message) -> u64 {
    let headers: usize = message
        .headers
        .iter()
        .flat_map(HeaderMap::iter)
        .flat_map(|(name, values)| {
            let name = AsRef::<[u8]>::as_ref(name).len();
            values.iter().map(move |value| name + value.as_str().len() + 4)
        })
        .sum();
    (message.subject.len() + message.payload.len() + headers) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(messages: usize, bytes: u64) -> Room {
        Room { messages, bytes: (bytes, 1600), empty: messages == 8 }
    }

    fn status(code: u16) -> StatusCode {
        StatusCode::try_from(code).unwrap()
    }

    /// On a connection that has proved itself.
    fn proven() -> Pulls {
        Pulls { most: usize::MAX, ..Pulls::default() }
    }

    fn asked(pulls: &mut Pulls, room: Room) -> Option<serde_json::Value> {
        pulls.ask(room, Instant::now()).map(|asking| serde_json::from_str(&asking.payload).unwrap())
    }

    #[test]
    fn no_more_is_asked_for_than_there_is_room_for_and_one_request_at_a_time() {
        let (mut pulls, now) = (proven(), Instant::now());
        let request = asked(&mut pulls, room(2, 300)).unwrap();
        assert_eq!((&request["batch"], &request["max_bytes"]), (&2.into(), &300.into()));
        assert_eq!(asked(&mut pulls, room(8, 1000)), None, "one stands");

        pulls.came(now);
        assert_eq!(asked(&mut pulls, room(8, 1000)), None, "one message of two");
        pulls.came(now);
        assert!(asked(&mut pulls, room(8, 1000)).is_some());
    }

    #[test]
    fn a_few_bytes_are_worth_no_request() {
        let mut pulls = proven();

        assert_eq!(asked(&mut pulls, room(0, 1600)), None);
        assert_eq!(asked(&mut pulls, room(4, 99)), None);
        assert!(asked(&mut pulls, room(1, 100)).is_some());
    }

    #[test]
    fn a_message_too_large_for_the_room_comes_alone_once_nothing_is_held() {
        let (mut pulls, now) = (proven(), Instant::now());
        asked(&mut pulls, room(4, 300));
        assert_eq!(pulls.heard(1, status(409), Some("Message Size Exceeds MaxBytes"), now), Word::Usual);
        assert_eq!(asked(&mut pulls, room(4, 900)), None, "it waits for all of the room");

        let alone = asked(&mut pulls, room(8, 1000)).unwrap();
        assert_eq!((&alone["batch"], alone.get("max_bytes")), (&1.into(), None));
        pulls.came(now);
        assert_eq!(asked(&mut pulls, room(8, 1000)).unwrap()["batch"], 8);

        pulls.came(now);
        pulls.heard(3, status(409), Some("Message Size Exceeds MaxBytes"), now);
        assert!(
            asked(&mut pulls, room(4, 300)).is_some(),
            "some came: what is left of the room was too little"
        );
    }

    #[test]
    fn the_words_of_a_server_are_understood() {
        let (mut pulls, now) = (proven(), Instant::now());
        for (code, text, word) in [
            (408, "Request Timeout", Word::Usual),
            (404, "No Messages", Word::Usual),
            (409, "Consumer Deleted", Word::Look("409 Consumer Deleted".to_owned())),
            (409, "Leadership Change", Word::Look("409 Leadership Change".to_owned())),
            (503, "", Word::Look("503".to_owned())),
        ] {
            let number = pulls.ask(room(8, 1000), now).unwrap().number;
            assert_eq!(pulls.heard(number, status(100), Some("Idle Heartbeat"), now), Word::Usual);
            assert_eq!(pulls.heard(number - 1, status(409), Some("of an earlier one"), now), Word::Usual);
            assert!(pulls.until().is_some(), "it still stands");
            assert_eq!(pulls.heard(number, status(code), Some(text), now), word);
            assert!(pulls.until().is_none(), "{code} {text}");
        }
    }

    #[test]
    fn a_new_connection_is_trusted_step_by_step() {
        let (mut pulls, now) = (Pulls::default(), Instant::now());
        let mut batches = || {
            let mut batches = Vec::new();
            for _ in 0..4 {
                let batch = asked(&mut pulls, room(8, 1000)).unwrap()["batch"].as_u64().unwrap();
                (0..batch).for_each(|_| pulls.came(now));
                batches.push(batch);
            }
            pulls.begin_anew();
            batches
        };

        assert_eq!(batches(), [1, 2, 4, 8]);
        assert_eq!(batches(), [1, 2, 4, 8]);
    }

    #[test]
    fn silence_has_an_end_and_each_word_puts_it_off() {
        let (mut pulls, now) = (proven(), Instant::now());
        pulls.ask(room(8, 1000), now);
        assert_eq!(pulls.until(), Some(now + SILENCE));

        pulls.heard(1, status(100), None, now + HEARTBEAT);
        assert_eq!(pulls.until(), Some(now + HEARTBEAT + SILENCE));
        pulls.forget();
        assert_eq!((pulls.until(), pulls.ask(room(8, 1000), now).unwrap().number), (None, 2));
    }

    #[test]
    fn a_number_is_the_end_of_a_subject() {
        assert_eq!(number_of("_INBOX.abc.17"), Some(17));
        assert_eq!(number_of("_INBOX.abc"), None);
    }
}
