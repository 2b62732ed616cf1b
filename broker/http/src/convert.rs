//! Nouns become wire shapes here, and wire shapes nouns. Nowhere else.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use broker_api as api;
use broker_api::{Moment, OneOrMany, OriginInfo, Problem, ProblemKind, Span, Time};
use broker_engine::LaneState;
use broker_model::attempt::{Attempt, AttemptHistory, Outcome};
use broker_model::event::Fingerprint;
use broker_model::function::{AnnotationProblem, Concurrency, OnDeadLetter};
use broker_model::ledger::{Record, Refusing, StoreHealth, Totals};
use broker_model::policy::DeadLetterRule;
use broker_model::source::SourceStatus;
use broker_model::timetable::ScheduleStatus;
use broker_model::{
    CloudEvent, DeadLetter, DedupKey, Event, Function, FunctionName, Headers, InvocationId, Origin, Reason,
    Receipt, SourceName, State, Target, Timestamp, Topic, Trigger, Wildcards,
};

/// What stands where a secret is.
const REDACTED: &str = "[redacted]";

/// Fields whose values are secrets of callers and functions.
const SECRET_FIELDS: [&str; 5] =
    ["authorization", "cookie", "proxy-authorization", "set-cookie", "x-amz-security-token"];

pub(crate) fn time(at: Timestamp) -> Time {
    Time::from_millis(at.as_millis())
}

pub(crate) fn id(id: InvocationId) -> Uuid {
    Uuid::from_u128(id.as_u128())
}

/// A duration as people read it: whole milliseconds, unless it is shorter.
fn span(duration: Duration) -> Span {
    match duration.as_millis() {
        0 => Span(Duration::from_micros(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))),
        millis => Span(Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))),
    }
}

pub(crate) fn whole_seconds(duration: Duration) -> Span {
    Span(Duration::from_secs(duration.as_secs()))
}

pub(crate) fn store(health: StoreHealth) -> api::StoreInfo {
    api::StoreInfo {
        durability: health.durability.into(),
        disk_bytes: health.disk_bytes,
        live_bytes: health.live_bytes,
        commits: health.commits,
        damaged: health.damaged,
        dedup_window: whole_seconds(health.dedup_window),
        refusing: health.refusing.map(|refusing| match refusing {
            Refusing::Full(why) => api::StoreRefusal { state: "full".into(), detail: why.into() },
            Refusing::Failed(why) => api::StoreRefusal { state: "failed".into(), detail: why.into() },
            Refusing::Closed => {
                api::StoreRefusal { state: "closed".into(), detail: "the store is closed".into() }
            }
        }),
    }
}

pub(crate) fn ledger(totals: &Totals) -> api::LedgerInfo {
    let some = |name: &'static str, count: u64| (count > 0).then(|| (name.to_owned(), count));
    api::LedgerInfo {
        accepted: totals.accepted_in_all(),
        redriven: totals.redriven,
        completed: totals.completed,
        dead: totals.dead_in_all(),
        cancelled: totals.cancelled,
        held: totals.held,
        drift: totals.drift(),
        dead_kept: totals.dead_kept,
        removed: totals.removed,
        accepted_by_origin: Origin::KINDS
            .iter()
            .zip(totals.accepted)
            .filter_map(|(kind, n)| some(kind, n))
            .collect(),
        dead_by_reason: Reason::ALL
            .iter()
            .zip(totals.dead)
            .filter_map(|(r, n)| some(r.as_str(), n))
            .collect(),
    }
}

/// A function as the gateway lists it, `None` when it does not, with its schedules and the problems they have.
pub(crate) fn function(
    name: &FunctionName,
    listed: Option<&Function>,
    schedules: Vec<ScheduleStatus>,
    of_schedules: &[AnnotationProblem],
    lanes: &[LaneState],
) -> api::Function {
    let unlisted = Function { available_replicas: 0, ..Function::plain(name.clone(), name.as_str()) };
    let function = listed.unwrap_or(&unlisted);
    api::Function {
        name: name.as_str().into(),
        listed: listed.is_some(),
        available_replicas: function.available_replicas,
        topics: function.topics.iter().map(ToString::to_string).collect(),
        schedules: schedules.into_iter().map(schedule).collect(),
        queue: function.queue.as_ref().map(ToString::to_string),
        retry: api::FunctionRetry {
            attempts: function.attempts,
            codes: function.codes.clone(),
            min_wait: function.min_wait.map(Span),
            max_wait: function.max_wait.map(Span),
        },
        timeout: function.timeout.map(Span),
        max_age: function.max_age.map(Span),
        concurrency: function.concurrency.map(|concurrency| match concurrency {
            Concurrency::Adaptive => "adaptive".into(),
            Concurrency::Fixed(n) => n.to_string(),
        }),
        dead_letter: function.dead_letter.map(|rule| match rule {
            DeadLetterRule::All => "all".into(),
            DeadLetterRule::Exhausted => "exhausted".into(),
        }),
        on_dead_letter: function.on_dead_letter.as_ref().map(|target| match target {
            OnDeadLetter::Function(name) => name.to_string(),
            OnDeadLetter::Url(url) => without_password(url),
        }),
        problems: function
            .problems
            .iter()
            .chain(of_schedules)
            .map(|problem| api::AnnotationProblem {
                annotation: problem.key.to_string(),
                value: problem.value.to_string(),
                problem: problem.problem.to_string(),
            })
            .collect(),
        lanes: lanes.iter().map(lane).collect(),
        paused: lanes.iter().any(|lane| lane.paused),
    }
}

fn lane(lane: &LaneState) -> api::Lane {
    api::Lane {
        queue: lane.queue.to_string(),
        waiting: lane.waiting,
        delivering: lane.delivering,
        limit: lane.limit,
        paused: lane.paused,
        waiting_reason: lane.waiting_reason.map(|reason| reason.as_str().into()),
    }
}

pub(crate) fn trigger(trigger: &Trigger) -> api::Trigger {
    api::Trigger {
        pattern: trigger.pattern.as_str().into(),
        exact: trigger.pattern.is_exact(),
        source: trigger.pattern.source().map(ToString::to_string),
        function: trigger.function.as_str().into(),
    }
}

pub(crate) fn source(status: SourceStatus) -> api::Source {
    api::Source {
        name: status.name.to_string(),
        kind: status.kind.into(),
        state: status.state.as_str().into(),
        since: time(status.since),
        capabilities: api::SourceCapabilities {
            acknowledges: status.capabilities.acknowledges,
            replays: status.capabilities.replays,
            ordered: status.capabilities.ordered,
            decodes: status.capabilities.decodes,
            shares: status.capabilities.shares,
        },
        subscriptions: status.subscriptions,
        last_event_at: status.last_event_at.map(time),
        lag: status.lag,
        counts: api::SourceCounts {
            received: status.counts.received,
            accepted: status.counts.accepted,
            unmatched: status.counts.unmatched,
            duplicate: status.counts.duplicate,
            refused: status.counts.refused,
            quarantined: status.counts.quarantined,
            dropped: status.counts.dropped,
        },
        last_error: status.last_error.map(|(at, error)| api::SourceError { at: time(at), error }),
        unmatched_topics: status
            .unmatched_topics
            .into_iter()
            .map(|(topic, count)| api::UnmatchedTopic { topic, count })
            .collect(),
        disconnected: status
            .disconnected
            .iter()
            .map(|interval| api::Disconnection { from: time(interval.from), until: interval.until.map(time) })
            .collect(),
        disconnected_for: span(status.disconnected_for),
    }
}

pub(crate) fn schedule(status: ScheduleStatus) -> api::Schedule {
    let ScheduleStatus { state, rules, next } = status;
    api::Schedule {
        id: state.schedule.id.to_string(),
        function: state.schedule.function.to_string(),
        expression: state.schedule.expression.into(),
        asked: rules.is_some(),
        rules: rules.map(|rules| api::ScheduleRules {
            time_zone: rules.time_zone.into(),
            overlap: rules.overlap.into(),
            missed: rules.missed.into(),
            dst: rules.dst.into(),
            jitter: Span(rules.jitter),
        }),
        paused: state.paused,
        since: time(state.schedule.anchor),
        last_run: state.last_fire.map(time),
        next_run: next.map(time),
    }
}

/// An invocation as lists show it; `lanes` are those of its function, where it calls one.
pub(crate) fn invocation(record: &Record, lanes: &[LaneState], now: Timestamp) -> api::Invocation {
    let invocation = &record.invocation;
    api::Invocation {
        id: id(invocation.id),
        state: record.state.as_str().into(),
        target: invocation.target.kind().into(),
        function: invocation.target.function().map(ToString::to_string),
        call_id: invocation.call_id.to_string(),
        origin: origin(&invocation.origin),
        queue: invocation.lane.queue.to_string(),
        life: invocation.life,
        attempts: record.attempts.len() as u64,
        body_bytes: invocation.body.len(),
        accepted_at: time(invocation.accepted_at),
        next_attempt_at: record.next_attempt_at.map(time),
        ended_at: record.ended_at.map(time),
        waiting_reason: waiting_reason(record, lanes, now).map(Into::into),
        reason: record.dead_letter.as_ref().map(|dead| dead.reason.as_str().into()),
    }
}

/// Why one invocation waits: its own wait comes before what holds its lane.
fn waiting_reason(record: &Record, lanes: &[LaneState], now: Timestamp) -> Option<&'static str> {
    if record.state != State::Waiting {
        return None;
    }
    if record.next_attempt_at.is_some_and(|at| at > now) {
        return Some(if record.attempts.is_empty() { "scheduled" } else { "retrying" });
    }
    let lane = lanes.iter().find(|lane| lane.queue == record.invocation.lane.queue)?;
    lane.waiting_reason.map(broker_engine::WaitingReason::as_str)
}

fn origin(origin: &Origin) -> OriginInfo {
    match origin {
        Origin::Call => OriginInfo::Call,
        Origin::Event { source, topic } => {
            OriginInfo::Event { source: source.to_string(), topic: topic.to_string() }
        }
        Origin::Callback { of } => OriginInfo::Callback { of: id(*of) },
        Origin::DeadLetter { of } => OriginInfo::DeadLetter { of: id(*of) },
        Origin::Quarantine { source } => OriginInfo::Quarantine { source: source.to_string() },
    }
}

/// An invocation whole but for its body.
pub(crate) fn detail(record: &Record, lanes: &[LaneState], now: Timestamp) -> api::InvocationDetail {
    let call = &record.invocation;
    let (written, path_and_query, callback_url) = match &call.target {
        Target::Function(function) => (
            Some(function.written.to_string()),
            Some(function.path_and_query.to_string()),
            function.callback_url.as_deref().map(without_password),
        ),
        Target::Callback(callback) => (None, None, Some(without_password(&callback.url))),
        Target::Nobody => (None, None, None),
    };
    api::InvocationDetail {
        invocation: invocation(record, lanes, now),
        written,
        path_and_query,
        callback_url,
        due: call.due.map(time),
        max_age: call.max_age.map(Span),
        interrupted: record.interrupted,
        headers: headers(&call.headers),
        timeline: timeline(record),
    }
}

fn timeline(record: &Record) -> Vec<Moment> {
    let call = &record.invocation;
    let mut moments = vec![Moment::Accepted { at: time(call.accepted_at) }];
    if call.life > 1 {
        moments.push(Moment::Redriven { at: time(call.life_began_at), life: call.life });
    }
    let counts: BTreeMap<String, u32> =
        record.attempts.counted().map(|(class, count)| (class.as_str().to_owned(), count)).collect();
    for (index, made) in record.attempts.kept().enumerate() {
        if index == AttemptHistory::FIRST && !counts.is_empty() {
            moments.push(Moment::Attempts { counts: counts.clone() });
        }
        moments.push(attempt(made));
    }
    match (record.state, &record.dead_letter, record.ended_at) {
        (State::Dead, Some(dead), _) => moments.push(Moment::Dead {
            at: time(dead.died_at),
            reason: dead.reason.as_str().into(),
            detail: dead.detail.to_string(),
        }),
        (State::Completed, _, Some(at)) => moments.push(Moment::Completed { at: time(at) }),
        (State::Cancelled, _, Some(at)) => moments.push(Moment::Cancelled { at: time(at) }),
        _ => {}
    }
    moments
}

fn attempt(made: &Attempt) -> Moment {
    let error = match &made.outcome {
        Outcome::Answered(_) => None,
        Outcome::TimedOut => Some("no answer in time".into()),
        Outcome::Dropped(why) | Outcome::Unreachable(why) | Outcome::Denied(why) => Some(why.to_string()),
    };
    let text = std::str::from_utf8(&made.excerpt).ok();
    Moment::Attempt {
        at: time(made.started_at),
        number: made.number,
        class: made.outcome.class().as_str().into(),
        status: made.outcome.status(),
        duration: span(made.duration),
        error,
        excerpt: text.filter(|text| !text.is_empty()).map(Into::into),
        excerpt_base64: text.is_none().then(|| BASE64_STANDARD.encode(&made.excerpt)),
    }
}

/// A dead letter as lists show it; `None` when the record is none.
pub(crate) fn dead_letter(record: &Record, now: Timestamp) -> Option<api::DeadLetter> {
    let dead = died(record)?;
    Some(api::DeadLetter {
        invocation: invocation(record, &[], now),
        detail: dead.detail.to_string(),
        status: last_status(record),
        died_at: time(dead.died_at),
        redrivable: dead.reason.is_redrivable(),
    })
}

/// A dead letter whole but for its body; `None` when the record is none.
pub(crate) fn dead_letter_detail(record: &Record, now: Timestamp) -> Option<api::DeadLetterDetail> {
    let dead = died(record)?;
    Some(api::DeadLetterDetail {
        invocation: detail(record, &[], now),
        detail: dead.detail.to_string(),
        status: last_status(record),
        died_at: time(dead.died_at),
        redrivable: dead.reason.is_redrivable(),
    })
}

fn died(record: &Record) -> Option<&DeadLetter> {
    record.dead_letter.as_ref().filter(|_| record.state == State::Dead)
}

fn last_status(record: &Record) -> Option<u16> {
    record.attempts.latest().and_then(|attempt| attempt.outcome.status())
}

/// Header fields with the secrets in them hidden. Bytes that are no text are shown escaped.
fn headers(fields: &Headers) -> api::HeaderMap {
    let mut shown = api::HeaderMap::new();
    for (name, value) in fields.iter() {
        let value = match std::str::from_utf8(value) {
            _ if SECRET_FIELDS.contains(&name) => REDACTED.into(),
            Ok(url) if name == "x-callback-url" => without_password(url),
            Ok(text) => text.to_owned(),
            Err(_) => value.escape_ascii().to_string(),
        };
        shown.entry(name.to_owned()).or_default().push(value);
    }
    shown
}

/// A URL with its user and password hidden. What is no URL holds no password anybody would send.
fn without_password(url: &str) -> String {
    let Some(start) = url.find("://").map(|at| at + "://".len()) else { return url.to_owned() };
    let (scheme, rest) = url.split_at(start);
    let authority = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..authority].rfind('@') {
        Some(at) => format!("{scheme}{REDACTED}{}", &rest[at..]),
        None => url.to_owned(),
    }
}

pub(crate) fn receipt(receipt: Receipt) -> api::Receipt {
    api::Receipt {
        invocations: receipt
            .invocations
            .into_iter()
            .map(|(function, invocation)| api::Started { function: function.to_string(), id: id(invocation) })
            .collect(),
        duplicate: receipt.duplicate,
    }
}

/// The event a request asks to publish.
///
/// # Errors
/// A problem that names the key that cannot be used.
pub(crate) fn event(
    request: api::PublishEvent,
    wildcards: impl FnOnce(&SourceName) -> Wildcards,
    now: Timestamp,
) -> Result<Event, Problem> {
    let bad = |key: &str, why: &dyn std::fmt::Display| {
        Problem::new(ProblemKind::InvalidBody, format!("{key}: {why}"))
    };
    let topic = Topic::parse(&request.topic).map_err(|error| bad("topic", &error))?;
    let source = SourceName::parse(request.source.as_deref().unwrap_or(SourceName::API))
        .map_err(|error| bad("source", &error))?;
    let body = match (request.body, request.body_base64) {
        (Some(_), Some(_)) => return Err(bad("body", &"stands beside body_base64; send one of the two")),
        (Some(text), None) => Bytes::from(text),
        (None, Some(base64)) => {
            Bytes::from(BASE64_STANDARD.decode(base64).map_err(|error| bad("body_base64", &error))?)
        }
        (None, None) => Bytes::new(),
    };
    let mut headers = Headers::new();
    for (name, values) in request.headers {
        if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            return Err(bad("headers", &format_args!("{name:?} is no name of a header")));
        }
        let values = match values {
            OneOrMany::One(value) => vec![value],
            OneOrMany::Many(values) => values,
        };
        for value in values {
            if http::HeaderValue::from_bytes(value.as_bytes()).is_err() {
                return Err(bad("headers", &format_args!("the value of {name:?} cannot be a header's")));
            }
            headers.append(&name, value);
        }
    }
    if let Some(content_type) = request.content_type {
        if http::HeaderValue::from_bytes(content_type.as_bytes()).is_err() {
            return Err(bad("content_type", &"cannot be a header's value"));
        }
        headers.set("content-type", content_type);
    }
    let dedup = match request.idempotency_key.as_deref() {
        None => None,
        Some("") => return Err(bad("idempotency_key", &"is empty")),
        Some(key) => Some(DedupKey {
            scope: "http".into(),
            key: fingerprint([b"event" as &[u8], source.as_str().as_bytes(), key.as_bytes()]),
            request: request_fingerprint(&topic, &headers, &body),
        }),
    };
    let cloud_event = Some(CloudEvent::default());
    Ok(Event {
        wildcards: wildcards(&source),
        source,
        topic,
        headers,
        body,
        time: Some(now),
        dedup,
        position: None,
        fire: None,
        cloud_event,
    })
}

fn request_fingerprint(topic: &Topic, headers: &Headers, body: &Bytes) -> Fingerprint {
    let fields = headers.iter().flat_map(|(name, value)| [name.as_bytes(), value]);
    fingerprint([topic.as_str().as_bytes(), &body[..]].into_iter().chain(fields))
}

/// 128 bits that stand for the parts, each with its length, so that no two lists of parts read alike.
fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Fingerprint {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let digest: [u8; 32] = hash.finalize().into();
    Fingerprint(digest[..16].iter().fold(0, |bits, byte| (bits << 8) | u128::from(*byte)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use broker_model::attempt::Answer;
    use broker_model::invocation::{CallbackCall, FunctionCall};
    use broker_model::{Body, CallId, Invocation, Lane, LaneTarget, QueueName};

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn record(target: Target) -> Record {
        let function = FunctionName::parse("env", "openfaas-fn").unwrap();
        Record {
            invocation: Invocation {
                id: InvocationId::from_u128(0x0190_aaaa_bbbb_7ccc_8ddd_eeee_ffff_0001),
                life: 1,
                lane: Lane { queue: QueueName::default(), target: LaneTarget::Function(function) },
                target,
                origin: Origin::Call,
                call_id: CallId::parse("abc").unwrap(),
                headers: [
                    ("content-type", "text/plain"),
                    ("authorization", "Bearer s3cret"),
                    ("cookie", "s3cret"),
                    ("x-multi", "1"),
                    ("x-multi", "2"),
                    ("x-callback-url", "http://u:s3cret@cb/x"),
                ]
                .into_iter()
                .collect(),
                body: Body::Inline(Bytes::from_static(b"test")),
                accepted_at: NOW,
                life_began_at: NOW,
                due: None,
                max_age: None,
            },
            state: State::Waiting,
            attempts: AttemptHistory::default(),
            interrupted: 0,
            next_attempt_at: None,
            ended_at: None,
            dead_letter: None,
        }
    }

    fn call() -> Target {
        Target::Function(FunctionCall {
            function: FunctionName::parse("env", "openfaas-fn").unwrap(),
            written: "env".into(),
            path_and_query: "/a%2Fb?x=1".into(),
            callback_url: Some("http://u:s3cret@cb/x".into()),
        })
    }

    fn failed(number: u32, excerpt: &'static [u8]) -> Attempt {
        Attempt {
            number,
            started_at: NOW,
            duration: Duration::from_millis(1_234),
            outcome: Outcome::Answered(Answer { status: 500, ..Answer::default() }),
            excerpt: Bytes::from_static(excerpt),
        }
    }

    #[test]
    fn an_invocation_looks_like_this() {
        let shown = serde_json::to_value(detail(&record(call()), &[], NOW)).unwrap();

        assert_eq!(
            shown,
            json!({
                "id": "0190aaaa-bbbb-7ccc-8ddd-eeeeffff0001",
                "state": "waiting",
                "target": "function",
                "function": "env.openfaas-fn",
                "call_id": "abc",
                "origin": {"kind": "call"},
                "queue": "faas-request",
                "life": 1,
                "attempts": 0,
                "body_bytes": 4,
                "accepted_at": "2023-11-14T22:13:20.000Z",
                "next_attempt_at": null,
                "ended_at": null,
                "waiting_reason": null,
                "reason": null,
                "written": "env",
                "path_and_query": "/a%2Fb?x=1",
                "callback_url": "http://[redacted]@cb/x",
                "due": null,
                "max_age": null,
                "interrupted": 0,
                "headers": {
                    "content-type": ["text/plain"],
                    "authorization": ["[redacted]"],
                    "cookie": ["[redacted]"],
                    "x-multi": ["1", "2"],
                    "x-callback-url": ["http://[redacted]@cb/x"],
                },
                "timeline": [{"event": "accepted", "at": "2023-11-14T22:13:20.000Z"}],
            })
        );
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut dead = record(call());
        dead.invocation.life = 2;
        dead.state = State::Dead;
        dead.ended_at = Some(NOW);
        (1..=30).for_each(|number| dead.attempts.push(failed(number, b"no")));
        dead.dead_letter = Some(DeadLetter {
            id: dead.invocation.id,
            reason: Reason::Exhausted,
            detail: "status 500".into(),
            died_at: NOW,
        });
        let shown = dead_letter_detail(&dead, NOW).unwrap();

        let read: api::DeadLetterDetail =
            serde_json::from_str(&serde_json::to_string(&shown).unwrap()).unwrap();

        assert_eq!(read, shown);
        assert_eq!(read.status, Some(500));
        let events: Vec<String> = serde_json::to_value(&read.invocation.timeline)
            .unwrap()
            .as_array()
            .unwrap()
            .iter()
            .map(|moment| moment["event"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(events[..6], ["accepted", "redriven", "attempt", "attempt", "attempt", "attempts"]);
        assert_eq!(events.last().map(String::as_str), Some("dead"));
        assert_eq!(events.len(), 2 + 3 + 1 + 20 + 1);
    }

    #[test]
    fn an_answer_that_is_no_text_is_shown_in_base64() {
        let text = serde_json::to_value(attempt(&failed(1, b"oops"))).unwrap();
        let binary = serde_json::to_value(attempt(&failed(1, b"\xff\x00"))).unwrap();

        assert_eq!((text["excerpt"].as_str(), text.get("excerpt_base64")), (Some("oops"), None));
        assert_eq!((binary.get("excerpt"), binary["excerpt_base64"].as_str()), (None, Some("/wA=")));
        assert_eq!(text["duration"], "1s234ms");
    }

    #[test]
    fn the_own_wait_of_a_call_comes_before_what_holds_its_lane() {
        let lanes = [LaneState {
            queue: QueueName::default(),
            waiting: 1,
            scheduled: 0,
            delivering: 0,
            limit: 1,
            paused: true,
            waiting_reason: Some(broker_engine::WaitingReason::Paused),
        }];
        let mut waiting = record(call());
        let reason = |record: &Record| invocation(record, &lanes, NOW).waiting_reason;

        assert_eq!(reason(&waiting).as_deref(), Some("paused"));
        waiting.next_attempt_at = Some(NOW + Duration::from_secs(1));
        assert_eq!(reason(&waiting).as_deref(), Some("scheduled"));
        waiting.attempts.push(failed(1, b""));
        assert_eq!(reason(&waiting).as_deref(), Some("retrying"));
        waiting.state = State::Delivering;
        assert_eq!(reason(&waiting), None);
    }

    #[test]
    fn a_callback_shows_its_target_without_the_password() {
        let callback = Target::Callback(CallbackCall { url: "https://a:s3cret@cb.example/x?y=@".into() });

        let shown = detail(&record(callback), &[], NOW);

        assert_eq!(shown.callback_url.as_deref(), Some("https://[redacted]@cb.example/x?y=@"));
        assert_eq!((shown.invocation.target.as_str(), shown.invocation.function), ("callback", None));
        assert_eq!(without_password("http://cb/x@y"), "http://cb/x@y");
    }

    fn read(request: serde_json::Value) -> Result<Event, String> {
        let request: api::PublishEvent =
            serde_json::from_value(request).map_err(|error| error.to_string())?;
        event(request, |_| Wildcards::Glob, NOW).map_err(|problem| problem.detail)
    }

    #[test]
    fn a_request_becomes_an_event() {
        let event = read(json!({
            "topic": "orders.created", "source": "bus", "headers": {"X-A": "1", "x-b": ["2", "3"]},
            "content_type": "application/json", "body": "{}",
        }))
        .unwrap();

        assert_eq!((event.source.as_str(), event.topic.as_str()), ("bus", "orders.created"));
        assert_eq!(event.body, "{}");
        assert_eq!(event.headers.text("x-a"), Some("1"));
        assert_eq!(event.headers.iter().filter(|(name, _)| *name == "x-b").count(), 2);
        assert_eq!(event.headers.text("content-type"), Some("application/json"));
        assert_eq!(event.dedup, None);
        assert_eq!(read(json!({"topic": "t"})).unwrap().source.as_str(), "api");
        assert_eq!(read(json!({"topic": "t", "body_base64": "/wA="})).unwrap().body, &b"\xff\x00"[..]);
    }

    #[test]
    fn a_request_that_cannot_be_an_event_says_which_key_is_wrong() {
        for (request, said) in [
            (json!({"topic": ""}), "topic: "),
            (json!({"topic": "t", "source": "a/b"}), "source: "),
            (json!({"topic": "t", "body": "a", "body_base64": "YQ=="}), "body: stands beside"),
            (json!({"topic": "t", "body_base64": "%"}), "body_base64: "),
            (json!({"topic": "t", "headers": {"a b": "1"}}), "headers: "),
            (json!({"topic": "t", "headers": {"a": "1\n2"}}), "headers: "),
            (json!({"topic": "t", "idempotency_key": ""}), "idempotency_key: "),
            (json!({"topic": "t", "colour": 1}), "unknown field `colour`"),
        ] {
            let error = read(request).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn the_same_key_with_another_request_has_another_fingerprint() {
        let dedup = |topic: &str, body: &str, source: &str| {
            let request = json!({"topic": topic, "body": body, "source": source, "idempotency_key": "k"});
            read(request).unwrap().dedup.unwrap()
        };
        let first = dedup("t", "b", "s");

        assert_eq!(dedup("t", "b", "s"), first);
        assert_eq!(dedup("t", "c", "s").key, first.key);
        assert_ne!(dedup("t", "c", "s").request, first.request);
        assert_ne!(dedup("tb", "", "s").request, first.request);
        assert_ne!(dedup("t", "b", "other").key, first.key);
    }
}
