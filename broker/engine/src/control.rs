//! What an operator may do.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use broker_model::ledger::{Filter, Page};
use broker_model::queue::{Cancelled, Pausable, RedriveError};
use broker_model::{
    CallId, FunctionName, Headers, InvocationId, InvocationQueue, Ledger, Reason, State, StoreError, Target,
};

use crate::dispatch::Message;
use crate::intake::FinalAnswer;
use crate::waiting::Waiting;

/// How many records are looked at together.
const PAGE: usize = 1000;

/// The operator's side. Cheap to clone.
#[derive(Clone)]
pub struct Control {
    pub(crate) queue: Arc<dyn InvocationQueue>,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) waiting: Arc<Waiting>,
    pub(crate) dispatcher: mpsc::UnboundedSender<Message>,
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
    /// Takes an invocation back; durable. A delivery under way is told to stop, and its connection is closed.
    ///
    /// # Errors
    /// [`StoreError`] when the store can no longer serve.
    pub async fn cancel(&self, id: InvocationId) -> Result<Cancelled, StoreError> {
        let cancelled = self.queue.cancel(id).await?;
        if cancelled == Cancelled::Delivering {
            self.tell(Message::Stop(id));
        }
        if matches!(cancelled, Cancelled::Waiting | Cancelled::Delivering) {
            self.waiting.ended(id, || FinalAnswer {
                state: State::Cancelled,
                status: None,
                headers: Headers::new(),
                body: Bytes::new(),
                truncated: false,
            });
        }
        Ok(cancelled)
    }

    /// Takes back every waiting, retrying or running function call with this call id; how many there were.
    ///
    /// # Errors
    /// [`StoreError`] when the store can no longer serve; some may be cancelled already.
    pub async fn cancel_call(&self, call_id: &CallId) -> Result<usize, StoreError> {
        let filter = Filter { call_id: Some(call_id.clone()), ..Filter::default() };
        let mut page = Page { limit: PAGE, cursor: None };
        let mut open = Vec::new();
        loop {
            let listed = self.ledger.list(&filter, &page).await?;
            open.extend(
                listed
                    .items
                    .into_iter()
                    .filter(|record| matches!(record.state, State::Waiting | State::Delivering))
                    .filter(|record| matches!(record.invocation.target, Target::Function(_)))
                    .map(|record| record.invocation.id),
            );
            match listed.next {
                Some(next) => page.cursor = Some(next),
                None => break,
            }
        }
        let mut cancelled = 0;
        for id in open {
            if matches!(self.cancel(id).await?, Cancelled::Waiting | Cancelled::Delivering) {
                cancelled += 1;
            }
        }
        Ok(cancelled)
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
    /// What dies while it works is left for the next time.
    ///
    /// # Errors
    /// [`StoreError`] when the store can no longer serve; some may be put back already.
    pub async fn redrive_function(
        &self,
        function: &FunctionName,
        reason: Option<Reason>,
    ) -> Result<RedriveCounts, StoreError> {
        let filter = Filter { function: Some(function.clone()), reason, ..Filter::default() };
        let mut page = Page { limit: PAGE, cursor: None };
        let mut counts = RedriveCounts::default();
        loop {
            let listed = self.ledger.dead_letters(&filter, &page).await?;
            for record in listed.items {
                match self.queue.redrive(record.invocation.id).await {
                    Ok(_) => counts.redriven += 1,
                    Err(RedriveError::Store(error)) => return Err(error),
                    Err(_) => counts.skipped += 1,
                }
            }
            match listed.next {
                Some(next) => page.cursor = Some(next),
                None => return Ok(counts),
            }
        }
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
    pub async fn pause_function(&self, function: &FunctionName) -> Result<(), StoreError> {
        self.queue.pause(Pausable::Function(function.clone())).await?;
        self.tell(Message::Paused(function.clone()));
        Ok(())
    }

    /// Lets a function's deliveries run again; durable.
    ///
    /// # Errors
    /// [`StoreError`] when the store can no longer serve.
    pub async fn resume_function(&self, function: &FunctionName) -> Result<(), StoreError> {
        self.queue.resume(Pausable::Function(function.clone())).await?;
        self.tell(Message::Resumed(function.clone()));
        Ok(())
    }

    fn tell(&self, message: Message) {
        // A dispatcher that has been drained delivers nothing that could be told.
        let _ = self.dispatcher.send(message);
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Control")
    }
}
