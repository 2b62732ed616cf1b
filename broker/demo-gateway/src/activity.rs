//! What functions see, as a live stream of lines for people.

use std::fmt;
use std::time::Duration;

use http::StatusCode;
use tokio::sync::broadcast;

/// A slow reader loses the oldest of more than this, and is told how many.
const KEPT: usize = 1024;

/// Something a function or the callback receiver saw. `Display` makes one line of it, without a time.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activity {
    /// A call reached a function.
    Called {
        /// `name.namespace`
        function: String,
        /// `X-Call-Id`
        call_id: String,
        /// `X-Topic`, for a call that an event caused.
        topic: Option<String>,
        /// Length of the body in bytes.
        body_len: u64,
    },
    /// A call ended.
    Ended {
        /// `name.namespace`
        function: String,
        /// `X-Call-Id`
        call_id: String,
        /// The status; `None` when the connection was dropped on purpose or the caller left.
        status: Option<StatusCode>,
        /// From arrival to the head of the answer.
        took: Duration,
    },
    /// The callback receiver got a result and answered.
    CalledBack {
        /// The receiver's name, from the path.
        name: String,
        /// `X-Call-Id`, empty when the callback had none.
        call_id: String,
        /// `X-Function-Status`
        function_status: Option<String>,
        /// What the receiver answered; `None` when it dropped the connection.
        status: Option<StatusCode>,
    },
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answer = |status: &Option<StatusCode>| match status {
            Some(status) => status.as_u16().to_string(),
            None => "no answer".to_owned(),
        };
        match self {
            Self::Called { function, call_id, topic, body_len } => {
                let topic = topic.as_ref().map(|topic| format!(" from {topic}")).unwrap_or_default();
                write!(f, "{function} <- call {call_id}{topic}, {body_len} bytes")
            }
            Self::Ended { function, call_id, status, took } => {
                write!(f, "{function} -> call {call_id}: {} after {} ms", answer(status), took.as_millis())
            }
            Self::CalledBack { name, call_id, function_status, status } => {
                let result = function_status.as_deref().unwrap_or("none");
                write!(
                    f,
                    "callback {name} <- call {call_id}: function status {result}, answered {}",
                    answer(status)
                )
            }
        }
    }
}

/// The sending end.
#[derive(Clone, Debug)]
pub(crate) struct Feed(broadcast::Sender<Activity>);

impl Feed {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(KEPT))
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Activity> {
        self.0.subscribe()
    }

    /// Tells whoever listens; makes nothing when nobody does.
    pub(crate) fn tell(&self, activity: impl FnOnce() -> Activity) {
        if self.0.receiver_count() > 0 {
            // The last listener may have left just now.
            let _ = self.0.send(activity());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_activity_reads_as_one_line() {
        let called = Activity::Called {
            function: "audit.openfaas-fn".into(),
            call_id: "abc".into(),
            topic: Some("orders.created".into()),
            body_len: 4,
        };
        let ended = Activity::Ended {
            function: "audit.openfaas-fn".into(),
            call_id: "abc".into(),
            status: None,
            took: Duration::from_millis(12),
        };

        assert_eq!(called.to_string(), "audit.openfaas-fn <- call abc from orders.created, 4 bytes");
        assert_eq!(ended.to_string(), "audit.openfaas-fn -> call abc: no answer after 12 ms");
    }
}
