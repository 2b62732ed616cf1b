//! The two doors: calls are submitted, events are published.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use sha2::{Digest as _, Sha256};

use broker_model::event::DedupKey;
use broker_model::intake::{Lost, Quarantined};
use broker_model::invocation::FunctionCall;
use broker_model::{
    Acceptance, Accepted, Attempt, Body, BodyReader, CallId, Clock, Draft, Event, EventSink, Fingerprint,
    FunctionName, Headers, InvocationId, InvocationQueue, Lane, LaneTarget, Ledger, Origin, QueueName,
    Reason, Receipt, Record, Refusal, State, StoreError, Target, Timestamp,
};

use crate::budget::Permit;
use crate::dispatch::Live;
use crate::functions;
use crate::gateway::headers;
use crate::gateway::targets::Refused;
use crate::metrics::{EventOutcome, Metrics};
use crate::settings::IntakeSettings;
use crate::waiting::Waiting;

/// One call, as it came over HTTP.
///
/// Header fields are given as they came: the intake drops those of one hop (`Connection`, `Transfer-Encoding`, …),
/// `Host`, `Content-Length`, `X-Call-Id` (kept as [`Submission::call_id`]) and those meant for Evoke
/// (`Idempotency-Key`, `Prefer`, `Evoke-*`), and adds `X-Start-Time`.
#[derive(Debug)]
pub struct Submission {
    /// The function, namespace included.
    pub function: FunctionName,
    /// Its name as the caller wrote it.
    pub written: Box<str>,
    /// What followed the name in the URL, raw: empty, or a path with its leading slash, and `?query`.
    pub path_and_query: Box<str>,
    /// The request's header fields.
    pub headers: Headers,
    /// The request's body, in hand or spooled.
    pub body: Body,
    /// `X-Call-Id`; a UUIDv4 is made where there is none.
    pub call_id: Option<CallId>,
    /// `X-Callback-Url`; empty counts as absent.
    pub callback_url: Option<Box<str>>,
    /// `Idempotency-Key`, scoped by function.
    pub idempotency_key: Option<Box<str>>,
    /// Not before this moment.
    pub due: Option<Timestamp>,
    /// How long it stays worth running.
    pub max_age: Option<Duration>,
    /// Waits up to this long, after the call is durable, for its final outcome.
    pub wait: Option<Duration>,
    /// The memory the body takes on its way in; given back once the call is durable, before any wait.
    pub memory: Option<Permit>,
}

/// The broker's word that a call is durable.
#[derive(Debug)]
pub struct Submitted {
    /// Its identity.
    pub id: InvocationId,
    /// Its call id: the caller's, the one made, or, for a duplicate, the first one's.
    pub call_id: CallId,
    /// The `X-Start-Time` the function will see.
    pub start_time: Timestamp,
    /// Whether the idempotency key was known: this is what the first one made.
    pub duplicate: bool,
    /// Whether the gateway lists the function; true while no list is known.
    pub function_listed: bool,
    /// The final outcome, when it was waited for and came in time.
    pub outcome: Option<FinalAnswer>,
}

/// How a call ended, for whoever waited.
///
/// It is the function's answer whole, except for a caller that came after that answer had begun: then nobody had asked
/// for more than what attempts keep, which is the first 1 KiB. A repeat that comes after the end is answered from the
/// ledger, which keeps the status and that beginning, and no header fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinalAnswer {
    /// `Completed`, `Dead` or `Cancelled`.
    pub state: State,
    /// The function's status; `None` when no answer came.
    pub status: Option<u16>,
    /// The function's header fields, without those of one hop; none from the ledger.
    pub headers: Headers,
    /// The function's body, at most `limits.response` and what `limits.in_flight` has room for, or what is known of it. It
    /// holds its share of the budget until it is dropped.
    pub body: Bytes,
    /// Whether the body was cut, or may have been.
    pub truncated: bool,
}

impl FinalAnswer {
    /// What the ledger knows of how a call ended; `None` while it has not.
    fn of_record(record: &Record) -> Option<FinalAnswer> {
        record.ended_at?;
        let last = record.final_attempt();
        let status = last.and_then(|attempt| attempt.outcome.status());
        let body =
            last.filter(|_| status.is_some()).map(|attempt| attempt.excerpt.clone()).unwrap_or_default();
        Some(FinalAnswer {
            state: record.state,
            status,
            headers: Headers::new(),
            truncated: body.len() >= Attempt::EXCERPT,
            body,
        })
    }
}

/// Why a call was not taken. Nothing was accepted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SubmitRefusal {
    /// The broker is stopping (503).
    #[error("the broker is draining")]
    Draining,
    /// The callback URL cannot be understood (400).
    #[error("the callback url cannot be used: {problem}")]
    BadCallback {
        /// What is wrong.
        problem: Box<str>,
    },
    /// The callback URL names an address Evoke does not call (400).
    #[error("the callback url names an address that is not called: {why}")]
    CallbackDenied {
        /// Which rule.
        why: Box<str>,
    },
    /// The path or query holds bytes that cannot be sent on (400).
    #[error("the path or query holds characters that cannot be sent on")]
    BadPath,
    /// Longer than `limits.body` (413).
    #[error("the body's {bytes} bytes exceed the limit of {limit} (limits.body)")]
    TooLarge {
        /// What came.
        bytes: u64,
        /// What is allowed.
        limit: u64,
    },
    /// The idempotency key was used for another request (422).
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// The store did not take it (429 at a bound, 507 full, 503 otherwise).
    #[error(transparent)]
    Store(StoreError),
}

/// The inbound side. Cheap to clone.
#[derive(Clone)]
pub struct Intake {
    parts: Arc<Parts>,
}

pub(crate) struct Parts {
    pub(crate) queue: Arc<dyn InvocationQueue>,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) bodies: Arc<dyn BodyReader>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) live: Arc<ArcSwap<Live>>,
    pub(crate) functions: Arc<functions::State>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) waiting: Arc<Waiting>,
    pub(crate) draining: AtomicBool,
}

impl Intake {
    pub(crate) fn new(parts: Parts) -> Self {
        Intake { parts: Arc::new(parts) }
    }

    /// Takes a call into custody; resolves when it is durable and, where asked, has ended or the wait is over.
    ///
    /// Dropped before it is durable, the call is either whole or not there; dropped while it waits, it stays accepted.
    ///
    /// # Errors
    /// [`SubmitRefusal`]: nothing was accepted.
    pub async fn submit(&self, submission: Submission) -> Result<Submitted, SubmitRefusal> {
        let parts = &*self.parts;
        if parts.draining.load(Ordering::SeqCst) {
            return Err(SubmitRefusal::Draining);
        }
        let live = parts.live.load_full();
        let limit = live.settings.intake.body_limit;
        if submission.body.len() > limit {
            return Err(SubmitRefusal::TooLarge { bytes: submission.body.len(), limit });
        }
        if !can_be_sent(&submission.path_and_query) {
            return Err(SubmitRefusal::BadPath);
        }
        let callback_url = submission.callback_url.filter(|url| !url.is_empty());
        if let Some(url) = &callback_url {
            live.callbacks.targets().check(url).map_err(|refused| match refused {
                Refused::Unparsable(problem) => SubmitRefusal::BadCallback { problem },
                Refused::Denied(why) => SubmitRefusal::CallbackDenied { why },
            })?;
        }
        let dedup = match &submission.idempotency_key {
            Some(key) => Some(
                self.dedup_of_call(
                    key,
                    &submission.function,
                    &submission.path_and_query,
                    callback_url.as_deref(),
                    &submission.body,
                )
                .await?,
            ),
            None => None,
        };
        let call_id = submission.call_id.unwrap_or_else(new_call_id);
        let start_time = parts.clock.now();
        let (queue, function_listed) = {
            let snapshot = parts.functions.snapshot();
            let listed = !snapshot.loaded || snapshot.table.get(&submission.function).is_some();
            (snapshot.rules(&submission.function).queue.clone(), listed)
        };
        let acceptance = Acceptance {
            origin: Origin::Call,
            headers: headers::stored_of_call(submission.headers, start_time),
            body: submission.body,
            drafts: vec![Draft {
                lane: Lane {
                    queue: queue.clone(),
                    target: LaneTarget::Function(submission.function.clone()),
                },
                target: Target::Function(FunctionCall {
                    function: submission.function,
                    written: submission.written,
                    path_and_query: submission.path_and_query,
                    callback_url,
                }),
                call_id: call_id.clone(),
                due: submission.due,
                max_age: submission.max_age,
            }],
            dedup,
            position: None,
            fire: None,
        };
        let arrival = submission.wait.map(|limit| (limit, parts.waiting.arrive()));
        let accepted = parts.queue.accept(acceptance).await.map_err(|error| match error {
            StoreError::KeyReused => SubmitRefusal::KeyReused,
            error => SubmitRefusal::Store(error),
        })?;
        // Whoever waits for a function keeps nobody else from being taken.
        drop(submission.memory);
        let duplicate = matches!(accepted, Accepted::Duplicate(_));
        let Some(&id) = accepted.ids().first() else {
            // A store that answers an acceptance of one draft with no id broke its contract.
            return Err(SubmitRefusal::Store(StoreError::Closed));
        };
        // From here on the answer of the first is given, so its call id is looked up.
        let first = if duplicate { parts.ledger.find(id).await.map_err(SubmitRefusal::Store)? } else { None };
        if !duplicate {
            parts.metrics.submitted(&queue, 1);
        }
        let outcome = match (arrival, &first) {
            (None, _) => None,
            (Some((limit, arrival)), None) if !duplicate => wait(arrival.wait_for(id), limit).await,
            // A repeat of a call that is past its retention: that it ended is all that is known.
            (Some(_), None) => None,
            (Some((limit, arrival)), Some(first)) => match FinalAnswer::of_record(first) {
                Some(answer) => Some(answer),
                None => wait(arrival.wait_for(id), limit).await,
            },
        };
        let (call_id, start_time) = match first {
            Some(first) => {
                (first.invocation.call_id, start_time_of(&first.invocation.headers).unwrap_or(start_time))
            }
            None => (call_id, start_time),
        };
        Ok(Submitted { id, call_id, start_time, duplicate, function_listed, outcome })
    }

    /// Refuses everything from now on.
    pub fn begin_draining(&self) {
        self.parts.draining.store(true, Ordering::SeqCst);
    }

    async fn dedup_of_call(
        &self,
        key: &str,
        function: &FunctionName,
        path_and_query: &str,
        callback_url: Option<&str>,
        body: &Body,
    ) -> Result<DedupKey, SubmitRefusal> {
        let mut request = Digest::new();
        request.part(path_and_query.as_bytes());
        request.part(callback_url.unwrap_or_default().as_bytes());
        match body {
            Body::Inline(bytes) => request.hash.update(bytes),
            Body::Stored(_) => {
                let mut chunks = self.parts.bodies.read(body).await.map_err(SubmitRefusal::Store)?;
                while let Some(chunk) = chunks.next().await {
                    request.hash.update(&chunk.map_err(SubmitRefusal::Store)?);
                }
            }
        }
        let mut scoped = Digest::new();
        scoped.part(function.as_str().as_bytes());
        scoped.part(key.as_bytes());
        Ok(DedupKey { scope: "http".into(), key: scoped.fingerprint(), request: request.fingerprint() })
    }

    fn admit(&self, bytes: u64) -> Result<(), Refusal> {
        if self.parts.draining.load(Ordering::SeqCst) {
            return Err(Refusal::Draining);
        }
        let limit = self.parts.live.load().settings.intake.body_limit;
        if bytes > limit { Err(Refusal::TooLarge { bytes, limit }) } else { Ok(()) }
    }

    async fn publish_event(&self, event: &Event) -> Result<Receipt, Refusal> {
        let parts = &*self.parts;
        self.admit(event.body.len() as u64)?;
        let settings = parts.live.load();
        let IntakeSettings { unmatched, cloud_events, .. } = settings.settings.intake;
        drop(settings);
        let drafts: Vec<Draft> = {
            let snapshot = parts.functions.snapshot();
            if !snapshot.loaded {
                return Err(Refusal::NoFunctionList);
            }
            let call_id = new_call_id_of_event(event);
            let wanted = match &event.fire {
                // A schedule runs its own function, and the topic it shares with all others says nothing.
                Some(fire) => vec![fire.function.clone()],
                None => snapshot.triggers.matching(event),
            };
            wanted.into_iter().map(|function| draft_of_event(&snapshot, function, &call_id)).collect()
        };
        if drafts.is_empty() {
            return match (parts.functions.unmatched_is_known(), unmatched) {
                (functions::Unmatched::Known, _)
                | (functions::Unmatched::ByPolicy, broker_config::Unmatched::Ack) => {
                    if let Some(position) = &event.position {
                        parts.queue.pass(position);
                    }
                    Ok(Receipt::default())
                }
                (functions::Unmatched::NotYet, _)
                | (functions::Unmatched::ByPolicy, broker_config::Unmatched::Hold) => {
                    Err(Refusal::NoFunctionList)
                }
            };
        }
        let functions: Vec<FunctionName> =
            drafts.iter().filter_map(|draft| draft.target.function().cloned()).collect();
        let queues: Vec<_> = drafts.iter().map(|draft| draft.lane.queue.clone()).collect();
        let headers = headers::stored_of_event(event, cloud_events);
        let acceptance = Acceptance {
            origin: Origin::Event { source: event.source.clone(), topic: event.topic.clone() },
            headers,
            body: event.body.clone().into(),
            drafts,
            // The mark takes the place of the key: what it is void for must not be held up by a key that is not.
            dedup: event.dedup.clone().filter(|_| event.position.is_none()),
            position: event.position.clone(),
            fire: event.fire.clone(),
        };
        match parts.queue.accept(acceptance).await.map_err(refusal)? {
            Accepted::New(ids) => {
                for queue in &queues {
                    parts.metrics.submitted(queue, 1);
                }
                Ok(Receipt { invocations: functions.into_iter().zip(ids).collect(), duplicate: false })
            }
            // The first time other functions may have wanted it: its invocations are those of then.
            Accepted::Duplicate(ids) => {
                let mut invocations = Vec::with_capacity(ids.len());
                for id in ids {
                    let known = parts.ledger.find(id).await.ok().flatten();
                    if let Some(function) =
                        known.and_then(|record| record.invocation.target.function().cloned())
                    {
                        invocations.push((function, id));
                    }
                }
                Ok(Receipt { invocations, duplicate: true })
            }
        }
    }
}

#[async_trait]
impl EventSink for Intake {
    async fn publish(&self, event: &Event) -> Result<Receipt, Refusal> {
        let result = self.publish_event(event).await;
        let outcome = match &result {
            Ok(receipt) if receipt.duplicate => EventOutcome::Duplicate,
            Ok(receipt) if receipt.invocations.is_empty() => EventOutcome::Unmatched,
            Ok(_) => EventOutcome::Accepted,
            Err(_) => EventOutcome::Refused,
        };
        self.parts.metrics.event(event.source.as_str(), outcome);
        result
    }

    async fn quarantine(&self, message: &Quarantined) -> Result<Receipt, Refusal> {
        self.bury(message, Reason::Undecodable, EventOutcome::Quarantined).await
    }

    async fn lost(&self, range: &Lost) -> Result<Receipt, Refusal> {
        // There is no message left: the dead letter says which ones are missing.
        let Lost { source, topic, messages: _, what, dedup } = range.clone();
        let (headers, raw) = (Headers::new(), Bytes::new());
        let message = Quarantined { source, topic, headers, raw, why: what, dedup, position: None };
        self.bury(&message, Reason::LostUpstream, EventOutcome::Lost).await
    }
}

impl Intake {
    /// Keeps what can run for nobody as a dead letter: accepted and dead in one record.
    async fn bury(
        &self,
        message: &Quarantined,
        reason: Reason,
        buried_as: EventOutcome,
    ) -> Result<Receipt, Refusal> {
        if self.parts.draining.load(Ordering::SeqCst) {
            return Err(Refusal::Draining);
        }
        let mut headers = message.headers.clone();
        if let Some(topic) = &message.topic {
            headers.set("x-topic", headers::field_text(topic.as_str()).as_bytes());
        }
        let acceptance = Acceptance {
            origin: Origin::Quarantine { source: message.source.clone() },
            headers,
            body: message.raw.clone().into(),
            drafts: vec![Draft {
                // Dead from the start, it never waits in its lane.
                lane: Lane { queue: QueueName::default(), target: LaneTarget::CallbackHosts(0) },
                target: Target::Nobody,
                call_id: new_call_id(),
                due: None,
                max_age: None,
            }],
            dedup: message.dedup.clone().filter(|_| message.position.is_none()),
            position: message.position.clone(),
            fire: None,
        };
        let buried = self.parts.queue.bury(acceptance, reason, &message.why).await;
        let outcome = match &buried {
            Ok(Accepted::New(_)) => buried_as,
            Ok(Accepted::Duplicate(_)) => EventOutcome::Duplicate,
            Err(_) => EventOutcome::Refused,
        };
        self.parts.metrics.event(message.source.as_str(), outcome);
        let accepted = buried.map_err(refusal)?;
        Ok(Receipt { invocations: Vec::new(), duplicate: matches!(accepted, Accepted::Duplicate(_)) })
    }
}

impl std::fmt::Debug for Intake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Intake").field("draining", &self.parts.draining).finish()
    }
}

fn refusal(error: StoreError) -> Refusal {
    match error {
        StoreError::KeyReused => Refusal::KeyReused,
        error => Refusal::Store(error),
    }
}

fn draft_of_event(snapshot: &functions::Snapshot, function: FunctionName, call_id: &CallId) -> Draft {
    let reference = snapshot.table.get(&function).map(|function| function.reference.clone());
    Draft {
        lane: Lane {
            queue: snapshot.rules(&function).queue.clone(),
            target: LaneTarget::Function(function.clone()),
        },
        target: Target::Function(FunctionCall {
            written: reference.unwrap_or_else(|| function.as_str().into()),
            function,
            path_and_query: "".into(),
            callback_url: None,
        }),
        call_id: call_id.clone(),
        due: None,
        max_age: None,
    }
}

/// Waits for a call's end, no longer than asked.
async fn wait(mut waiter: crate::waiting::Waiter, limit: Duration) -> Option<FinalAnswer> {
    tokio::time::timeout(limit, waiter.end()).await.ok().flatten()
}

/// Whether the gateway will get exactly these bytes.
fn can_be_sent(path_and_query: &str) -> bool {
    if path_and_query.is_empty() {
        return true;
    }
    if !path_and_query.starts_with(['/', '?']) {
        return false;
    }
    let target = if path_and_query.starts_with('?') {
        format!("/{path_and_query}")
    } else {
        path_and_query.to_owned()
    };
    http::uri::PathAndQuery::from_maybe_shared(Bytes::from(target.clone()))
        .is_ok_and(|parsed| parsed.as_str() == target)
}

fn new_call_id() -> CallId {
    CallId::parse(&headers::random_uuid().to_string()).expect("a UUID is printable ASCII of 36 bytes")
}

/// A caller that gave its event a call id keeps it; all functions that run for one event share one.
fn new_call_id_of_event(event: &Event) -> CallId {
    event.headers.text("x-call-id").and_then(|text| CallId::parse(text).ok()).unwrap_or_else(new_call_id)
}

fn start_time_of(headers: &Headers) -> Option<Timestamp> {
    let (_, last) = headers.iter().filter(|(name, _)| *name == "x-start-time").last()?;
    std::str::from_utf8(last).ok()?.parse().ok().map(Timestamp::from_nanos)
}

/// A fingerprint in the making: parts are told from each other by their lengths.
struct Digest {
    hash: Sha256,
}

impl Digest {
    fn new() -> Self {
        Digest { hash: Sha256::new() }
    }

    fn part(&mut self, bytes: &[u8]) {
        self.hash.update((bytes.len() as u64).to_be_bytes());
        self.hash.update(bytes);
    }

    fn fingerprint(self) -> Fingerprint {
        let digest = self.hash.finalize();
        let mut half = [0; 16];
        half.copy_from_slice(&digest[..16]);
        Fingerprint(u128::from_be_bytes(half))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_taken_only_when_it_can_be_sent_byte_for_byte() {
        for good in ["", "/", "/a%2Fb/../c", "?x=1", "/a?x=%3Cz%3E&y", "//x", "/%zz"] {
            assert!(can_be_sent(good), "{good:?}");
        }
        for bad in ["a", "/a b", "/a#b", "/\u{0}", "/a\nb"] {
            assert!(!can_be_sent(bad), "{bad:?}");
        }
    }

    #[test]
    fn fingerprints_keep_parts_apart() {
        let of = |parts: &[&str]| {
            let mut digest = Digest::new();
            parts.iter().for_each(|part| digest.part(part.as_bytes()));
            digest.fingerprint()
        };

        assert_eq!(of(&["a", "b"]), of(&["a", "b"]));
        assert_ne!(of(&["a", "b"]), of(&["ab", ""]));
    }
}
