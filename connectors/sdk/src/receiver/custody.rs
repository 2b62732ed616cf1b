//! What a request may do with the events it brings.

use std::sync::Arc;
use std::time::Duration;

use broker_model::intake::Quarantined;
use broker_model::{Event, EventSink, Receipt, Refusal, Retry};
use bytes::Bytes;
use http::{Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::QUEUE;
use super::answers::{answer, try_again};
use crate::health::Health;
use crate::source::SourceContext;
use crate::tracker::WindowLimits;

/// When to come again where the broker says only "soon".
const SOON: Duration = Duration::from_secs(5);

/// The way into custody for events that come with requests: at most `in_flight.messages` at once, each counted. Cheap
/// to clone.
#[derive(Clone)]
pub struct Custody {
    events: Arc<dyn EventSink>,
    health: Health,
    places: Arc<Semaphore>,
}

impl Custody {
    /// That of a source.
    pub fn new(ctx: &SourceContext, in_flight: WindowLimits) -> Self {
        Custody {
            events: ctx.events.clone(),
            health: ctx.health.clone(),
            places: Arc::new(Semaphore::new(in_flight.messages.get())),
        }
    }

    /// Publishes an event; resolves when it is durable.
    ///
    /// # Errors
    /// [`NotTaken`]: the sender must keep it.
    pub async fn event(&self, event: &Event) -> Result<Receipt, NotTaken> {
        let _place = self.place().await?;
        self.counted(self.events.publish(event)).await
    }

    /// Keeps a message that cannot be made into an event, as a dead letter.
    ///
    /// # Errors
    /// [`NotTaken`]: the sender must keep it.
    pub async fn unreadable(&self, message: &Quarantined) -> Result<Receipt, NotTaken> {
        let _place = self.place().await?;
        self.counted(self.events.quarantine(message)).await
    }

    async fn place(&self) -> Result<OwnedSemaphorePermit, NotTaken> {
        match timeout(QUEUE, Arc::clone(&self.places).acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            // It is never closed: only the time ran out.
            Ok(Err(_)) | Err(_) => Err(NotTaken::Busy),
        }
    }

    async fn counted(
        &self,
        taking: impl Future<Output = Result<Receipt, Refusal>>,
    ) -> Result<Receipt, NotTaken> {
        self.health.received(1);
        let taken = taking.await;
        if taken.is_err() {
            self.health.refused(1);
        }
        taken.map_err(NotTaken::Refused)
    }
}

/// Why an event stays with its sender.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NotTaken {
    /// Others are on their way (`in_flight.messages`).
    #[error("too much is on its way")]
    Busy,
    /// The broker's word.
    #[error(transparent)]
    Refused(Refusal),
}

impl NotTaken {
    /// What the sender is told.
    pub fn answer(&self) -> Response<Bytes> {
        let line = self.to_string();
        let refusal = match self {
            NotTaken::Busy => return try_again(SOON, &line),
            NotTaken::Refused(refusal) => refusal,
        };
        match (refusal.retry(), refusal) {
            (Retry::Never, Refusal::TooLarge { .. }) => answer(StatusCode::PAYLOAD_TOO_LARGE, &line),
            (Retry::Never, _) => answer(StatusCode::UNPROCESSABLE_ENTITY, &line),
            (Retry::Soon, _) => try_again(SOON, &line),
            (Retry::After(wait), _) => try_again(wait, &line),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_taken_later_is_503_and_what_never_will_be_is_not() {
        for (why, status, after) in [
            (NotTaken::Busy, 503, Some("5")),
            (NotTaken::Refused(Refusal::NoFunctionList), 503, Some("5")),
            (NotTaken::Refused(Refusal::Draining), 503, Some("5")),
            (NotTaken::Refused(Refusal::TooLarge { bytes: 2, limit: 1 }), 413, None),
            (NotTaken::Refused(Refusal::KeyReused), 422, None),
        ] {
            let answer = why.answer();
            let told = answer.headers().get("retry-after").map(|value| value.to_str().unwrap());
            assert_eq!((answer.status().as_u16(), told), (status, after), "{why}");
        }
    }
}
