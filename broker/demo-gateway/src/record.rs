//! What functions saw: recorded calls, their counts, and waiting for them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::answer::Dropped;

/// One call as it reached a function (or the callback receiver).
#[derive(Clone, Debug)]
pub struct RecordedCall {
    /// The how-manieth call of this function, from 1, in the order in which bodies were complete.
    pub number: u64,
    /// `name.namespace`, or the receiver's name for a callback.
    pub function: String,
    /// The name as the caller wrote it.
    pub written: String,
    /// The method.
    pub method: Method,
    /// Path and query of the request line, as they came.
    pub target: String,
    /// The headers the function saw, after what a gateway adds and drops. Names in order of first appearance; the
    /// values of one name in their order, duplicates kept.
    pub headers: HeaderMap,
    /// The headers the caller sent, in the same order, with nothing added or dropped.
    pub wire_headers: HeaderMap,
    /// The beginning of the body, up to the configured bound; empty where bodies are not recorded.
    pub body: Bytes,
    /// The length of the whole body in bytes.
    pub body_len: u64,
    /// SHA-256 of the whole body; zeros where bodies are not recorded.
    pub body_sha256: [u8; 32],
    /// Which accepted connection it came on, from 1.
    pub connection: u64,
    /// When its head was read.
    pub arrived: Instant,
    /// The same on the wall clock.
    pub arrived_at: SystemTime,
    /// How it ended, so far.
    pub outcome: Outcome,
    /// How long after its arrival it ended; `None` while it runs.
    pub took: Option<Duration>,
}

/// How a call ended, seen from the function's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has not ended.
    Running,
    /// The head of this reply was handed to the connection; whether all of it arrived is not known here.
    Answered(StatusCode),
    /// The connection was closed on purpose, without a byte.
    Dropped,
    /// The caller left, or the connection was cut, before there was a reply.
    CallerLeft,
}

/// What was waited for did not happen in time.
#[derive(Clone, Debug, thiserror::Error)]
#[error("waited {within:?} in vain for {what}; {seen} seen")]
pub struct TooFew {
    /// What was waited for.
    pub what: String,
    /// How many there were at the end.
    pub seen: u64,
    /// How long was waited.
    pub within: Duration,
}

impl RecordedCall {
    /// The first value of a header the function saw, when it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// All values of a header the function saw, in order; values that are no text are left out.
    pub fn header_values(&self, name: &str) -> Vec<&str> {
        self.headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect()
    }

    /// `X-Call-Id`, which a call through the gateway always has.
    pub fn call_id(&self) -> Option<&str> {
        self.header("x-call-id")
    }

    /// The part of the body that was kept, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// The calls of one function, the newest kept, all counted.
pub(crate) struct CallLog {
    total: AtomicU64,
    /// How many of the total were forgotten on request. Numbers go on, so that a call that still runs stays itself.
    forgotten: AtomicU64,
    running: AtomicU64,
    peak: AtomicU64,
    calls: Mutex<VecDeque<RecordedCall>>,
    keep: usize,
    changed: Notify,
}

impl CallLog {
    pub(crate) fn new(keep: usize) -> Arc<Self> {
        Arc::new(Self {
            total: AtomicU64::new(0),
            forgotten: AtomicU64::new(0),
            running: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            calls: Mutex::default(),
            keep,
            changed: Notify::new(),
        })
    }

    pub(crate) fn count(&self) -> u64 {
        self.total.load(Ordering::Relaxed) - self.forgotten.load(Ordering::Relaxed)
    }

    pub(crate) fn running(&self) -> u64 {
        self.running.load(Ordering::Relaxed)
    }

    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    pub(crate) fn calls(&self) -> Vec<RecordedCall> {
        self.locked().iter().cloned().collect()
    }

    pub(crate) fn forget(&self) {
        let mut calls = self.locked();
        calls.clear();
        self.forgotten.store(self.total.load(Ordering::Relaxed), Ordering::Relaxed);
        self.peak.store(self.running(), Ordering::Relaxed);
    }

    /// Counts a call and nothing else.
    pub(crate) fn tick(&self) {
        self.total.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    /// Counts a call and, unless `record` gives none, keeps it. The guard must be told how it ends.
    pub(crate) fn begin(self: &Arc<Self>, record: impl FnOnce(u64) -> Option<RecordedCall>) -> Running {
        let running = self.running.fetch_add(1, Ordering::Relaxed) + 1;
        self.peak.fetch_max(running, Ordering::Relaxed);
        let mut calls = self.locked();
        // Counted under the lock: the numbers of the kept calls then ascend, which `end` relies on.
        let number = self.total.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some(call) = record(number) {
            if calls.len() >= self.keep {
                calls.pop_front();
            }
            calls.push_back(call);
        }
        drop(calls);
        self.changed.notify_waiters();
        Running { log: self.clone(), number, ended: false }
    }

    fn end(&self, number: u64, outcome: Outcome) {
        let mut calls = self.locked();
        if let Ok(index) = calls.binary_search_by_key(&number, |call| call.number) {
            let call = &mut calls[index];
            call.outcome = outcome;
            call.took = Some(call.arrived.elapsed());
        }
        drop(calls);
        self.running.fetch_sub(1, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    /// Waits until `done`, which is asked again after each change.
    pub(crate) async fn wait(
        &self,
        what: impl FnOnce() -> String,
        within: Duration,
        done: impl Fn(&Self) -> bool,
    ) -> Result<(), TooFew> {
        let seen = async {
            loop {
                let mut changed = std::pin::pin!(self.changed.notified());
                // Enabled before looking, so that a change between looking and waiting wakes it.
                changed.as_mut().enable();
                if done(self) {
                    return;
                }
                changed.await;
            }
        };
        timeout(within, seen).await.map_err(|_| TooFew { what: what(), seen: self.count(), within })
    }

    fn locked(&self) -> MutexGuard<'_, VecDeque<RecordedCall>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call in progress. Dropped without `end`, it says that the caller left.
pub(crate) struct Running {
    log: Arc<CallLog>,
    pub(crate) number: u64,
    ended: bool,
}

impl Running {
    pub(crate) fn end(mut self, outcome: Outcome) {
        self.ended = true;
        self.log.end(self.number, outcome);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            self.log.end(self.number, Outcome::CallerLeft);
        }
    }
}

/// A body that was read to its end.
pub(crate) struct ReadBody {
    /// All of it, or its first bytes where only those were wanted.
    pub(crate) bytes: Bytes,
    pub(crate) len: u64,
    pub(crate) sha256: [u8; 32],
}

/// Reads a body to its end, keeping at most `keep` bytes of it in memory.
pub(crate) async fn read(mut body: Incoming, keep: usize, hash: bool) -> Result<ReadBody, Dropped> {
    let mut kept = BytesMut::new();
    let mut len = 0;
    let mut sha = Sha256::new();
    while let Some(frame) = body.frame().await {
        // A caller that breaks off while it sends has made no call; nobody is left to answer.
        let Ok(data) = frame.map_err(|_| Dropped)?.into_data() else { continue };
        len += data.len() as u64;
        if hash {
            sha.update(&data);
        }
        let room = keep - kept.len();
        kept.extend_from_slice(&data[..data.len().min(room)]);
    }
    let sha256 = if hash { sha.finalize().into() } else { [0; 32] };
    Ok(ReadBody { bytes: kept.freeze(), len, sha256 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(number: u64) -> RecordedCall {
        RecordedCall {
            number,
            function: "f.openfaas-fn".into(),
            written: "f".into(),
            method: Method::POST,
            target: "/function/f".into(),
            headers: HeaderMap::new(),
            wire_headers: HeaderMap::new(),
            body: Bytes::new(),
            body_len: 0,
            body_sha256: [0; 32],
            connection: 1,
            arrived: Instant::now(),
            arrived_at: SystemTime::now(),
            outcome: Outcome::Running,
            took: None,
        }
    }

    #[test]
    fn the_newest_calls_are_kept_and_all_are_counted() {
        let log = CallLog::new(2);
        let running: Vec<_> = (0..3).map(|_| log.begin(|number| Some(call(number)))).collect();

        for run in running {
            run.end(Outcome::Answered(StatusCode::OK));
        }

        let kept: Vec<_> = log.calls().iter().map(|call| (call.number, call.outcome)).collect();
        let ok = Outcome::Answered(StatusCode::OK);
        assert_eq!(kept, [(2, ok), (3, ok)]);
        assert_eq!((log.count(), log.running(), log.peak()), (3, 0, 3));
    }

    #[test]
    fn a_call_nobody_answered_was_left_by_its_caller() {
        let log = CallLog::new(2);

        drop(log.begin(|number| Some(call(number))));

        assert_eq!(log.calls()[0].outcome, Outcome::CallerLeft);
        assert!(log.calls()[0].took.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_in_vain_says_what_for() {
        let log = CallLog::new(2);
        log.tick();

        let error =
            log.wait(|| "2 calls of \"f\"".into(), Duration::from_secs(3), |log| log.count() >= 2).await;

        let text = error.unwrap_err().to_string();
        assert_eq!(text, "waited 3s in vain for 2 calls of \"f\"; 1 seen");
    }
}
