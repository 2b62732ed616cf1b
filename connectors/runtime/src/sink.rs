//! The door each source gets: the broker's own, with a counter beside it.

use std::sync::Arc;

use async_trait::async_trait;

use connectors_sdk::{Event, EventSink, HealthBoard, Lost, Quarantined, Receipt, Refusal};

/// Counts what the broker answers to one source.
pub(crate) struct CountedSink {
    pub(crate) inner: Arc<dyn EventSink>,
    pub(crate) board: HealthBoard,
}

#[async_trait]
impl EventSink for CountedSink {
    async fn publish(&self, event: &Event) -> Result<Receipt, Refusal> {
        let receipt = self.inner.publish(event).await?;
        self.board.answered(&event.topic, &receipt);
        Ok(receipt)
    }

    async fn quarantine(&self, message: &Quarantined) -> Result<Receipt, Refusal> {
        let receipt = self.inner.quarantine(message).await?;
        self.board.quarantined(&receipt);
        Ok(receipt)
    }

    async fn lost(&self, range: &Lost) -> Result<Receipt, Refusal> {
        let receipt = self.inner.lost(range).await?;
        self.board.lost(range.messages, &receipt);
        Ok(receipt)
    }
}
