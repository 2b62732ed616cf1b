//! The byte budget of everything in flight.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bounds the bytes held in memory for bodies and answers (`limits.in_flight`). Cheap to clone.
///
/// Whoever will hold bytes takes a permit first and drops it with the bytes. Large uploads share one half, so that any
/// number of them leaves room for small calls.
#[derive(Clone, Debug)]
pub struct Budget {
    whole: Arc<Semaphore>,
    large: Arc<Semaphore>,
    capacity: u32,
}

/// Bytes that may be held until this is dropped.
#[derive(Debug)]
pub struct Permit {
    _whole: OwnedSemaphorePermit,
    _large: Option<OwnedSemaphorePermit>,
}

impl Budget {
    /// From this size on a body counts as large.
    pub const LARGE: usize = 256 * 1024;

    /// A budget of `bytes`, at least 1 MiB and at most 4 GiB.
    pub fn new(bytes: u64) -> Self {
        let capacity = u32::try_from(bytes).unwrap_or(u32::MAX).max(1024 * 1024);
        Budget {
            whole: Arc::new(Semaphore::new(capacity as usize)),
            large: Arc::new(Semaphore::new(capacity as usize / 2)),
            capacity,
        }
    }

    /// Waits until `bytes` may be held. What exceeds the budget by itself waits for all of its share and then passes.
    ///
    /// Waiters are served in order. Safe to cancel.
    pub async fn take(&self, bytes: usize) -> Permit {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let large = if bytes as usize >= Self::LARGE {
            Some(acquire(&self.large, bytes.min(self.capacity / 2)).await)
        } else {
            None
        };
        let share = if large.is_some() { self.capacity / 2 } else { self.capacity };
        Permit { _whole: acquire(&self.whole, bytes.min(share)).await, _large: large }
    }

    /// As [`Budget::take`], always out of the half that large uploads share: for what may take long to arrive.
    pub async fn take_for_upload(&self, bytes: usize) -> Permit {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.capacity / 2);
        let large = acquire(&self.large, bytes).await;
        Permit { _whole: acquire(&self.whole, bytes).await, _large: Some(large) }
    }

    /// Takes `bytes` of the half that large uploads share if they are free now; `None` means: spool to disk, or do
    /// without. For answers: how long one is held is up to whoever reads it.
    pub fn try_take_for_answer(&self, bytes: usize) -> Option<Permit> {
        let bytes = u32::try_from(bytes).ok()?;
        let large = self.large.clone().try_acquire_many_owned(bytes).ok()?;
        let whole = self.whole.clone().try_acquire_many_owned(bytes).ok()?;
        Some(Permit { _whole: whole, _large: Some(large) })
    }

    /// Bytes not held now.
    pub fn free(&self) -> u64 {
        self.whole.available_permits() as u64
    }

    /// Bytes in all.
    pub fn capacity(&self) -> u64 {
        u64::from(self.capacity)
    }
}

async fn acquire(semaphore: &Arc<Semaphore>, bytes: u32) -> OwnedSemaphorePermit {
    semaphore.clone().acquire_many_owned(bytes).await.expect("this semaphore is never closed")
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn large_uploads_leave_half_to_small_calls() {
        let budget = Budget::new(8 * 1024 * 1024);
        let mut held = Vec::new();
        for _ in 0..16 {
            held.push(budget.take(Budget::LARGE).now_or_never().expect("room in the large half"));
        }

        assert!(budget.take(Budget::LARGE).now_or_never().is_none(), "the large half is taken");
        assert!(budget.take(64 * 1024).now_or_never().is_some(), "a small call passes");
        assert_eq!(budget.free(), 4 * 1024 * 1024);
    }

    #[tokio::test]
    async fn a_body_larger_than_the_budget_passes_alone() {
        let budget = Budget::new(1024 * 1024);

        let permit = budget.take(64 * 1024 * 1024).now_or_never().expect("passes");

        assert!(budget.take(64 * 1024 * 1024).now_or_never().is_none());
        drop(permit);
        assert_eq!(budget.free(), budget.capacity());
    }
}
