//! Callers that wait for a call's end (`Prefer: wait`).
//!
//! The store makes the id when it accepts, so a call may be delivered and settled before its caller can say that it
//! waits for it. Therefore a caller arrives before its call is accepted; while one arrives, every end is kept for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use broker_model::InvocationId;

use crate::intake::FinalAnswer;

/// How many bytes of ends are kept for callers that are still arriving; beyond it they get a plain 202.
const KEPT: usize = 16 * 1024 * 1024;

#[derive(Debug, Default)]
pub(crate) struct Waiting {
    inner: Mutex<Inner>,
    /// Callers that arrive or wait; read without the lock by every delivery.
    callers: AtomicUsize,
}

#[derive(Debug, Default)]
struct Inner {
    arriving: usize,
    waiters: HashMap<InvocationId, Vec<oneshot::Sender<FinalAnswer>>>,
    ended: HashMap<InvocationId, FinalAnswer>,
    ended_bytes: usize,
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A caller is about to have a call accepted.
    pub(crate) fn arrive(self: &Arc<Self>) -> Arrival {
        self.callers.fetch_add(1, Ordering::SeqCst);
        self.lock().arriving += 1;
        Arrival { waiting: self.clone(), registered: false }
    }

    /// Whether somebody waits, or may come to wait, for this call. Asked when its answer begins.
    pub(crate) fn may_want(&self, id: InvocationId) -> bool {
        if self.callers.load(Ordering::SeqCst) == 0 {
            return false;
        }
        let inner = self.lock();
        inner.arriving > 0 || inner.waiters.contains_key(&id)
    }

    /// A call has ended, durably.
    pub(crate) fn ended(&self, id: InvocationId, answer: impl FnOnce() -> FinalAnswer) {
        if self.callers.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut inner = self.lock();
        if let Some(waiters) = inner.waiters.remove(&id) {
            let answer = answer();
            for waiter in waiters {
                let _ = waiter.send(answer.clone());
            }
        } else if inner.arriving > 0 {
            let answer = answer();
            let bytes = answer.body.len() + answer.headers.bytes() + 256;
            if inner.ended_bytes + bytes <= KEPT {
                inner.ended_bytes += bytes;
                inner.ended.insert(id, answer);
            }
        }
    }
}

/// A caller whose call is being accepted.
pub(crate) struct Arrival {
    waiting: Arc<Waiting>,
    registered: bool,
}

impl Arrival {
    /// The call has this id: waits for its end, or has it already.
    pub(crate) fn wait_for(mut self, id: InvocationId) -> Waiter {
        let (told, end) = oneshot::channel();
        let mut inner = self.waiting.lock();
        match inner.ended.get(&id) {
            Some(answer) => {
                let _ = told.send(answer.clone());
            }
            None => inner.waiters.entry(id).or_default().push(told),
        }
        drop(inner);
        self.registered = true;
        Waiter { waiting: self.waiting.clone(), id, end }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let mut inner = self.waiting.lock();
        inner.arriving -= 1;
        if inner.arriving == 0 {
            inner.ended = HashMap::new();
            inner.ended_bytes = 0;
        }
        drop(inner);
        if !self.registered {
            self.waiting.callers.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// A caller that waits for the end of a call.
pub(crate) struct Waiter {
    waiting: Arc<Waiting>,
    id: InvocationId,
    end: oneshot::Receiver<FinalAnswer>,
}

impl Waiter {
    /// The end; `None` when it will not be told. Safe to cancel.
    pub(crate) async fn end(&mut self) -> Option<FinalAnswer> {
        (&mut self.end).await.ok()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.end.close();
        let mut inner = self.waiting.lock();
        if let Some(waiters) = inner.waiters.get_mut(&self.id) {
            waiters.retain(|waiter| !waiter.is_closed());
            if waiters.is_empty() {
                inner.waiters.remove(&self.id);
            }
        }
        drop(inner);
        self.waiting.callers.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use broker_model::{Headers, State};
    use bytes::Bytes;
    use futures::FutureExt;

    use super::*;

    fn answer() -> FinalAnswer {
        FinalAnswer {
            state: State::Completed,
            status: Some(200),
            headers: Headers::new(),
            body: Bytes::from_static(b"done"),
            truncated: false,
        }
    }

    fn id(n: u128) -> InvocationId {
        InvocationId::from_u128(n)
    }

    #[test]
    fn a_call_that_ends_before_its_caller_knows_its_id_is_still_told() {
        let waiting = Arc::new(Waiting::default());
        let arrival = waiting.arrive();
        assert!(waiting.may_want(id(1)));

        waiting.ended(id(1), answer);
        let mut waiter = arrival.wait_for(id(1));

        assert_eq!(waiter.end().now_or_never(), Some(Some(answer())));
    }

    #[test]
    fn a_waiter_is_told_once_it_ends_and_leaves_nothing_behind() {
        let waiting = Arc::new(Waiting::default());
        let mut waiter = waiting.arrive().wait_for(id(1));
        assert!(waiting.may_want(id(1)) && !waiting.may_want(id(2)));
        assert_eq!(waiter.end().now_or_never(), None);

        waiting.ended(id(1), answer);

        assert_eq!(waiter.end().now_or_never(), Some(Some(answer())));
        drop(waiter);
        drop(waiting.arrive());
        drop(waiting.arrive().wait_for(id(3)));
        assert_eq!(waiting.callers.load(Ordering::SeqCst), 0);
        assert!(waiting.lock().waiters.is_empty() && waiting.lock().ended.is_empty());
    }

    #[test]
    fn nobody_waiting_costs_no_answer() {
        let waiting = Waiting::default();

        waiting.ended(id(1), || panic!("nobody wants it"));

        assert!(!waiting.may_want(id(1)));
    }
}
