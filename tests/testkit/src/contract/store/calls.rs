//! Calls, attempts and settlements for the rules, in one word each.

use std::sync::Arc;
use std::time::Duration;

use broker_model::invocation::{CallbackCall, FunctionCall};
use broker_model::lane::LaneTarget;
use broker_model::schedule::Instant;
use broker_model::{
    Acceptance, Answer, Attempt, CallId, DedupKey, Draft, Fingerprint, Fire, FunctionName, Headers,
    InvocationId, Lane, Origin, Outcome, Partition, Position, QueueName, Reason, Schedule, ScheduleId,
    Settlement, SourceName, Target, Timestamp, Topic,
};
use bytes::Bytes;

pub(crate) fn function(name: &str) -> FunctionName {
    FunctionName::parse(name, "openfaas-fn").expect("the rules use plain names")
}

pub(crate) fn source(name: &str) -> SourceName {
    SourceName::parse(name).expect("the rules use plain names")
}

pub(crate) fn lane(name: &str) -> Lane {
    Lane { queue: QueueName::default(), target: LaneTarget::Function(function(name)) }
}

pub(crate) fn draft(lane: &Lane) -> Draft {
    let target = match &lane.target {
        LaneTarget::Function(function) => Target::Function(FunctionCall {
            function: function.clone(),
            written: function.name().into(),
            path_and_query: "/a%2Fb?x=1".into(),
            callback_url: None,
        }),
        LaneTarget::CallbackHosts(_) => {
            Target::Callback(CallbackCall { url: "http://caller.example/done".into() })
        }
    };
    Draft {
        lane: lane.clone(),
        target,
        call_id: CallId::parse("call").expect("a plain word is a call id"),
        due: None,
        max_age: None,
    }
}

/// One plain call.
pub(crate) fn to(lane: &Lane) -> Acceptance {
    fan_out(std::slice::from_ref(lane))
}

/// One request for many.
pub(crate) fn fan_out(lanes: &[Lane]) -> Acceptance {
    Acceptance {
        origin: Origin::Call,
        headers: Headers::from_iter([("content-type", "text/plain"), ("x-twice", "1"), ("x-twice", "2")]),
        body: Bytes::from_static(b"what was sent").into(),
        drafts: lanes.iter().map(draft).collect(),
        dedup: None,
        position: None,
        fire: None,
    }
}

pub(crate) fn with_body(lane: &Lane, body: impl Into<broker_model::Body>) -> Acceptance {
    Acceptance { body: body.into(), ..to(lane) }
}

pub(crate) fn with_call_id(lane: &Lane, call_id: &str) -> Acceptance {
    let mut acceptance = to(lane);
    acceptance.drafts[0].call_id = CallId::parse(call_id).expect("a plain word is a call id");
    acceptance
}

pub(crate) fn due(lane: &Lane, due: Timestamp) -> Acceptance {
    let mut acceptance = to(lane);
    acceptance.drafts[0].due = Some(due);
    acceptance
}

pub(crate) fn event(lanes: &[Lane]) -> Acceptance {
    let origin = Origin::Event {
        source: source("bus"),
        topic: Topic::parse("orders.created").expect("a plain word is a topic"),
    };
    Acceptance { origin, ..fan_out(lanes) }
}

/// A partition of a topic, in one of its incarnations.
pub(crate) fn partition(number: u32, incarnation: &str) -> Arc<Partition> {
    let partition = Partition::new(source("bus"), "orders", incarnation, number);
    Arc::new(partition.expect("the rules use plain names"))
}

/// An event at a position.
pub(crate) fn placed(partition: &Arc<Partition>, offset: u64) -> Acceptance {
    let position = Position { partition: partition.clone(), offset };
    Acceptance { position: Some(position), ..event(&[lane("a")]) }
}

/// A schedule of every minute, first seen at the minute of its anchor.
pub(crate) fn schedule(name: &str, anchor: u64) -> Schedule {
    let (function, expression) = (function(name), "* * * * *");
    let id = ScheduleId::derive(&function, expression, 0);
    Schedule { id, function, expression: expression.into(), anchor: minute(anchor) }
}

pub(crate) fn minute(n: u64) -> Timestamp {
    Timestamp::from_millis(1_767_225_600_000 + 60_000 * n)
}

/// The run of a schedule's minute.
pub(crate) fn fire(schedule: &Schedule, n: u64) -> Acceptance {
    let instant = Some(Instant { at: minute(n), after: minute(n - 1) });
    run(schedule, instant)
}

/// A run of a schedule, of an instant or by hand.
pub(crate) fn run(schedule: &Schedule, instant: Option<Instant>) -> Acceptance {
    let fire = Fire { schedule: schedule.id.clone(), function: schedule.function.clone(), instant };
    Acceptance { fire: Some(Box::new(fire)), ..event(&[lane(schedule.function.name())]) }
}

/// A message nobody could read.
pub(crate) fn undecodable() -> Acceptance {
    let lane = Lane { queue: QueueName::default(), target: LaneTarget::CallbackHosts(0) };
    let drafts = vec![Draft { target: Target::Nobody, ..draft(&lane) }];
    Acceptance { origin: Origin::Quarantine { source: source("bus") }, drafts, ..fan_out(&[]) }
}

pub(crate) fn callback_of(of: InvocationId) -> Acceptance {
    let target = LaneTarget::for_callback_host("caller.example");
    Acceptance {
        origin: Origin::Callback { of },
        body: Bytes::from_static(b"the result").into(),
        ..to(&Lane { queue: QueueName::default(), target })
    }
}

pub(crate) fn callback_lane() -> Lane {
    Lane { queue: QueueName::default(), target: LaneTarget::for_callback_host("caller.example") }
}

pub(crate) fn keyed(acceptance: Acceptance, scope: &str, key: u128, request: u128) -> Acceptance {
    let dedup = DedupKey { scope: scope.into(), key: Fingerprint(key), request: Fingerprint(request) };
    Acceptance { dedup: Some(dedup), ..acceptance }
}

pub(crate) fn attempt(number: u32, status: u16) -> Attempt {
    Attempt {
        number,
        started_at: Timestamp::from_millis(1_767_225_600_000 + u64::from(number)),
        duration: Duration::from_millis(25),
        outcome: Outcome::Answered(Answer { status, ..Answer::default() }),
        excerpt: Bytes::from_static(b"what it answered"),
    }
}

pub(crate) fn completed() -> Settlement {
    completed_then(Vec::new())
}

pub(crate) fn completed_then(then: Vec<Acceptance>) -> Settlement {
    Settlement::Completed { attempt: attempt(1, 200), then }
}

pub(crate) fn retry_in(seconds: u64) -> Settlement {
    Settlement::Retry { attempt: attempt(1, 500), wait: Duration::from_secs(seconds) }
}

pub(crate) fn retry(number: u32, wait: Duration) -> Settlement {
    Settlement::Retry { attempt: attempt(number, 500), wait }
}

pub(crate) fn released(wait: Duration) -> Settlement {
    Settlement::Released { wait }
}

pub(crate) fn dead() -> Settlement {
    dead_of(Reason::Exhausted)
}

pub(crate) fn dead_of(reason: Reason) -> Settlement {
    Settlement::Dead { attempt: Some(attempt(1, 500)), reason, detail: "status 500".into(), then: Vec::new() }
}
