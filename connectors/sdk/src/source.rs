//! One configured, running subscription.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use broker_model::source::Capabilities;
use broker_model::{Clock, Demand, Event, EventSink, Positions, Receipt, Refusal, Retry};

use crate::health::Health;
use crate::schedules::ScheduleAccess;

/// One configured subscription, ready to run.
#[async_trait]
pub trait Source: Send {
    /// What the protocol can do with these settings. What it cannot is documented and counted.
    fn capabilities(&self) -> Capabilities;

    /// Runs until [`SourceContext::shutdown`], then gives back what it holds and returns `Ok`.
    ///
    /// End, stop and error are three exits: `Ok` means that it was told to stop, everything else is an error, also an
    /// upstream that ends its stream without a word. It is started again after a wait by the runtime, never by itself. It
    /// may be aborted when it does not stop in time: what was not acknowledged must then come again.
    ///
    /// # Errors
    /// [`SourceError`]: the upstream was lost, refuses us, or something it needs is not there.
    async fn run(self: Box<Self>, ctx: SourceContext) -> Result<(), SourceError>;
}

/// Everything a source can reach.
#[derive(Clone)]
pub struct SourceContext {
    /// Takes events into custody. Most sources hand it to an [`crate::AckWindow`].
    pub events: Arc<dyn EventSink>,
    /// What functions ask for, for sources with `topics: from-functions`; changes while the source runs.
    pub demand: watch::Receiver<Demand>,
    /// What was received of partitions, for sources whose messages have positions.
    pub positions: Arc<dyn Positions>,
    /// Schedules, for the source that runs them; `None` where nobody keeps any.
    pub schedules: Option<ScheduleAccess>,
    /// Where it says how it does.
    pub health: Health,
    /// Told to stop. Nothing may be begun after it.
    pub shutdown: CancellationToken,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl SourceContext {
    /// Publishes one event and counts it, for sources that need no window: one message, one answer.
    ///
    /// # Errors
    /// [`Refusal`]: nothing was taken.
    pub async fn publish(&self, event: &Event) -> Result<Receipt, Refusal> {
        self.health.received(1);
        let answer = self.events.publish(event).await;
        if answer.is_err() {
            self.health.refused(1);
        }
        answer
    }
}

/// Whatever the client library says.
pub type Cause = Box<dyn Error + Send + Sync>;

/// Why a source stopped without being told to.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// No connection could be made.
    #[error("cannot reach {upstream}")]
    Unreachable {
        /// Which upstream, without credentials.
        upstream: String,
        /// The client's word.
        #[source]
        cause: Cause,
    },
    /// The upstream answers, and will not have us: credentials, permissions.
    #[error("{upstream} refuses us")]
    Refused {
        /// Which upstream, without credentials.
        upstream: String,
        /// The client's word.
        #[source]
        cause: Cause,
    },
    /// There was a connection, and it is gone.
    #[error("the connection to {upstream} is lost")]
    Lost {
        /// Which upstream, without credentials.
        upstream: String,
        /// The client's word, where there is one.
        #[source]
        cause: Option<Cause>,
    },
    /// Something the settings name is not as it should be: a file that cannot be read, a stream that is not there.
    #[error("{key}: {what}")]
    Unusable {
        /// The setting, as `tls.ca_file`.
        key: String,
        /// What is wrong with it.
        what: String,
        /// The cause, where there is one.
        #[source]
        cause: Option<Cause>,
    },
    /// Nothing will change by trying again; somebody must change the settings.
    #[error("{key}: {what}")]
    Misconfigured {
        /// The setting.
        key: String,
        /// What is wrong with it, and the remedy.
        what: String,
    },
}

impl SourceError {
    /// When to start the source again.
    pub fn retry(&self) -> Retry {
        match self {
            // A secret may be mounted late, and permissions are given on the other side: both deserve another try.
            SourceError::Unreachable { .. }
            | SourceError::Refused { .. }
            | SourceError::Lost { .. }
            | SourceError::Unusable { .. } => Retry::Soon,
            SourceError::Misconfigured { .. } => Retry::Never,
        }
    }
}

/// An error with its causes, in one line for people.
pub fn describe(error: &dyn Error) -> impl fmt::Display {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // Many errors repeat their cause in their own words; once is enough.
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_described_with_its_causes_once() {
        let cause = std::io::Error::other("connection refused");
        let error = SourceError::Unreachable { upstream: "nats://h:4222".into(), cause: Box::new(cause) };

        assert_eq!(describe(&error).to_string(), "cannot reach nats://h:4222: connection refused");
        assert_eq!(error.retry(), Retry::Soon);
    }
}
