//! One delivery: leased, sent, judged, settled.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use prometheus_client::metrics::counter::Counter;
use tracing::{debug, error, info, warn};

use broker_model::invocation::{CallbackCall, FunctionCall};
use broker_model::lease::{AfterInterruption, after_interruptions};
use broker_model::limit::Signal;
use broker_model::policy::{Circumstances, WaitReason};
use broker_model::queue::Settled;
use broker_model::{
    Acceptance, Attempt, Delivery, FunctionName, Headers, Invocation, Outcome, Reason, Settlement, State,
    StoreError, Target, Timestamp, Verdict,
};

use crate::dispatch::{Board, Live, Report, Shared, Slot, settlement};
use crate::functions::Rules;
use crate::gateway::answer::{AnswerSink, Kept, Wanted};
use crate::gateway::callbacks::NotTried;
use crate::gateway::headers::Told;
use crate::gateway::{Exchange, headers, invoke};
use crate::intake::FinalAnswer;

/// How long a delivery that met a trouble of ours waits before it is tried again.
const OUR_TROUBLE: Duration = Duration::from_secs(1);

/// Everything one delivery needs.
pub(super) struct Delivering {
    pub(super) shared: Arc<Shared>,
    pub(super) delivery: Delivery,
    pub(super) rules: Arc<Rules>,
    pub(super) board: Arc<Board>,
    pub(super) processed: Counter,
    pub(super) slot: Slot,
}

/// What is to be recorded, and what is told about it afterwards.
struct Judged {
    settlement: Settlement,
    end: Option<End>,
}

/// How a call ended.
struct End {
    state: State,
    reason: Option<Reason>,
    status: Option<u16>,
    duration: Duration,
    headers: Option<HeaderMap>,
    kept: Option<Kept>,
}

/// An exchange that was one, judged and about to be settled.
struct Exchanged {
    outcome: Outcome,
    started_at: Timestamp,
    duration: Duration,
    headers: Option<HeaderMap>,
    kept: Kept,
}

impl Delivering {
    /// Runs the delivery to its settlement. The slot is free as soon as the exchange has ended; the store is waited for
    /// without it.
    ///
    /// What is rare is boxed along the way: a future is as large as the largest of its parts, and is moved whole.
    pub(super) async fn run(mut self: Box<Self>) {
        let live = self.shared.live.load_full();
        let judged = self.judged(&live).await;
        // Everything that holds the slot has ended at the latest here.
        self.slot.give_back(Report::default());
        self.settle(judged, &live).await;
    }

    async fn judged(&mut self, live: &Live) -> Judged {
        let invocation = &self.delivery.invocation;
        let bound = live.settings.delivery.interruptions;
        if after_interruptions(self.delivery.interrupted, bound) == AfterInterruption::GiveUp {
            let detail = format!("the broker died {} times during it", self.delivery.interrupted);
            return Box::pin(self.dead(live, None, Reason::Interrupted, detail.into())).await;
        }
        if self.rules.policy.is_expired(invocation, self.shared.clock.now()) {
            let age = self.shared.clock.now().since(invocation.ages_from());
            let detail = format!("{} s old", age.as_secs());
            return Box::pin(self.dead(live, None, Reason::Expired, detail.into())).await;
        }
        match invocation.target.clone() {
            Target::Function(call) => self.run_function(live, call).await,
            Target::Callback(call) => Box::pin(self.tell(live, call)).await,
            Target::Nobody => {
                Box::pin(self.dead(live, None, Reason::Undecodable, "there is nobody to run".into())).await
            }
        }
    }

    async fn run_function(&mut self, live: &Live, call: FunctionCall) -> Judged {
        let shared = self.shared.clone();
        let invocation = &self.delivery.invocation;
        let body = match invoke::body(&*shared.bodies, &invocation.body).await {
            Ok(body) => body,
            Err(error) => return Box::pin(self.body_unreadable(live, error)).await,
        };
        let wanted = Wanted {
            by_callback: call.callback_url.is_some(),
            by_waiter: Some((shared.waiting.clone(), invocation.id)),
        };
        let mut sink = AnswerSink::new(
            wanted,
            live.settings.response_limit,
            shared.budget.clone(),
            shared.bodies.clone(),
        );
        let request = invoke::request(invocation, &call, body, self.delivery.made + 1, self.rules.timeout);
        let (began, started_at) = (shared.clock.monotonic(), shared.clock.now());
        if self.delivery.made == 0 {
            shared.metrics.wait.observe(started_at.since(invocation.ages_from()).as_secs_f64());
        }
        let exchange = live.gateway.call(request, &mut sink).await;
        let duration = shared.clock.monotonic().saturating_sub(began);
        let excerpt = sink.excerpt();
        let Some(outcome) = invoke::outcome(&exchange, &excerpt, shared.clock.now()) else {
            return Box::pin(self.our_trouble(live, exchange)).await;
        };
        let seen = self.circumstances(live, &call.function, &outcome).await;
        let verdict = self.rules.policy.judge(&outcome, seen);
        self.slot.give_back(report(&outcome, &verdict));
        self.board.count(outcome.class());
        if !matches!(outcome, Outcome::Unreachable(_)) {
            shared.metrics.attempt_duration.observe(duration.as_secs_f64());
        }
        let headers = answer_headers(exchange);
        let exchanged = Exchanged { outcome, started_at, duration, headers, kept: sink.finish().await };
        self.judge(live, verdict, exchanged).await
    }

    /// What policy needs to know besides the answer. Asks the gateway where an answer says it does not know the function.
    async fn circumstances(&self, live: &Live, function: &FunctionName, outcome: &Outcome) -> Circumstances {
        let now = self.shared.clock.monotonic();
        let mut seen =
            Circumstances { made: self.delivery.made, random: rand::random(), ..Circumstances::default() };
        match outcome {
            Outcome::Answered(answer) if answer.is_no_capacity() => {
                seen.without_capacity_for = self.board.without_capacity(now);
            }
            Outcome::Answered(answer) if answer.unknown_function => {
                self.board.with_capacity();
                seen.absent_for = match self.board.absent_for(now) {
                    Some(absent) => absent,
                    None => match live.gateway.knows(function).await {
                        Ok(known) => self.board.confirmed(known, now),
                        Err(why) => {
                            debug!(%function, why, "the gateway cannot say whether it knows {function}");
                            None
                        }
                    },
                };
            }
            Outcome::Answered(_) => {
                self.board.with_capacity();
                self.board.present();
            }
            Outcome::Dropped(_) | Outcome::TimedOut => self.board.with_capacity(),
            Outcome::Unreachable(_) | Outcome::Denied(_) => {}
        }
        seen
    }

    async fn tell(&mut self, live: &Live, call: CallbackCall) -> Judged {
        let shared = self.shared.clone();
        let wanted = Wanted { by_callback: false, by_waiter: None };
        let mut sink = AnswerSink::new(
            wanted,
            live.settings.response_limit,
            shared.budget.clone(),
            shared.bodies.clone(),
        );
        let (began, started_at) = (shared.clock.monotonic(), shared.clock.now());
        let invocation = &self.delivery.invocation;
        let attempt = self.delivery.made + 1;
        let posted =
            live.callbacks.post(invocation, &call, attempt, &shared.bodies, started_at, &mut sink).await;
        let exchange = match posted {
            Ok(exchange) => exchange,
            Err(NotTried::Body(error)) => return self.body_unreadable(live, error).await,
            Err(NotTried::Secret(why)) => {
                error!(why, "callbacks cannot be signed and wait (callbacks.sign)");
                return released(Duration::from_secs(10));
            }
        };
        let duration = shared.clock.monotonic().saturating_sub(began);
        let Some(outcome) = invoke::outcome(&exchange, &sink.excerpt(), shared.clock.now()) else {
            return self.our_trouble(live, exchange).await;
        };
        let seen =
            Circumstances { made: self.delivery.made, random: rand::random(), ..Circumstances::default() };
        let verdict = self.rules.policy.judge_callback(&outcome, seen);
        self.slot.give_back(report(&outcome, &verdict));
        self.board.count(outcome.class());
        let headers = answer_headers(exchange);
        let exchanged = Exchanged { outcome, started_at, duration, headers, kept: sink.finish().await };
        self.judge(live, verdict, exchanged).await
    }

    /// Makes the verdict a settlement.
    async fn judge(&self, live: &Live, verdict: Verdict, exchanged: Exchanged) -> Judged {
        match verdict {
            Verdict::Retry(wait) => Judged {
                settlement: Settlement::Retry { attempt: self.attempt(&exchanged), wait },
                end: None,
            },
            // The hold of all lanes does the waiting: when it ends, this call is the first to go.
            Verdict::Wait(_, WaitReason::GatewayUnreachable) => released(Duration::ZERO),
            Verdict::Wait(wait, WaitReason::NoCapacity | WaitReason::FunctionUnknown) => released(wait),
            Verdict::Complete => {
                let attempt = self.attempt(&exchanged);
                let then = self.callback(&exchanged).into_iter().collect();
                Judged {
                    settlement: Settlement::Completed { attempt, then },
                    end: Some(exchanged.end(State::Completed, None)),
                }
            }
            Verdict::DeadLetter(reason, detail) => {
                Box::pin(self.dead(live, Some(exchanged), reason, detail)).await
            }
        }
    }

    async fn dead(&self, live: &Live, last: Option<Exchanged>, reason: Reason, detail: Box<str>) -> Judged {
        let invocation = &self.delivery.invocation;
        let mut then: Vec<Acceptance> = match &last {
            Some(exchanged) => self.callback(exchanged),
            None => self.callback_without_answer(),
        }
        .into_iter()
        .collect();
        if let Some(to) = &self.rules.on_dead_letter {
            let functions = &self.shared.functions;
            let namespace = &live.settings.gateway.default_namespace;
            let bodies = &*self.shared.bodies;
            let death =
                settlement::Death { reason, detail: &detail, last: last.as_ref().map(|last| &last.outcome) };
            then.extend(settlement::copy(invocation, to, death, functions, namespace, bodies).await);
        }
        let attempt = last.as_ref().map(|last| self.attempt(last));
        let end = match last {
            Some(exchanged) => exchanged.end(State::Dead, Some(reason)),
            None => End {
                state: State::Dead,
                reason: Some(reason),
                status: None,
                duration: Duration::ZERO,
                headers: None,
                kept: None,
            },
        };
        Judged { settlement: Settlement::Dead { attempt, reason, detail, then }, end: Some(end) }
    }

    fn callback(&self, exchanged: &Exchanged) -> Option<Acceptance> {
        self.callback_with(
            exchanged.headers.as_ref(),
            exchanged.outcome.status(),
            exchanged.duration,
            exchanged.kept.truncated,
            exchanged.kept.body.clone(),
        )
    }

    fn callback_without_answer(&self) -> Option<Acceptance> {
        self.callback_with(None, None, Duration::ZERO, false, broker_model::Body::EMPTY)
    }

    fn callback_with(
        &self,
        answer: Option<&HeaderMap>,
        status: Option<u16>,
        duration: Duration,
        truncated: bool,
        body: broker_model::Body,
    ) -> Option<Acceptance> {
        let invocation = &self.delivery.invocation;
        let Target::Function(call) = &invocation.target else { return None };
        let told = Told {
            status,
            duration,
            function: &call.written,
            call_id: &invocation.call_id,
            retries: self.delivery.made,
            max_retries: self.rules.policy.attempts,
            truncated,
        };
        // Without a whole answer there is no body: a beginning would pass for the result.
        let body = if status.is_some() { body } else { broker_model::Body::EMPTY };
        settlement::callback(invocation, call, answer, &told, body)
    }

    fn attempt(&self, exchanged: &Exchanged) -> Attempt {
        Attempt {
            number: self.delivery.made + 1,
            started_at: exchanged.started_at,
            duration: exchanged.duration,
            outcome: exchanged.outcome.clone(),
            excerpt: exchanged.kept.excerpt.clone(),
        }
    }

    async fn body_unreadable(&self, live: &Live, error: StoreError) -> Judged {
        match error {
            StoreError::Damaged { .. } | StoreError::NoBody => {
                error!(invocation.id = %self.delivery.invocation.id, %error, "the body of a call cannot be read");
                self.dead(live, None, Reason::Damaged, error.to_string().into()).await
            }
            _ => {
                warn!(invocation.id = %self.delivery.invocation.id, %error, "the body of a call cannot be read now");
                released(OUR_TROUBLE)
            }
        }
    }

    async fn our_trouble(&mut self, live: &Live, exchange: Exchange) -> Judged {
        match exchange {
            Exchange::BodyUnreadable(error) => self.body_unreadable(live, error).await,
            Exchange::OutOfResources(why) => {
                self.slot.give_back(Report { out_of_resources: Some(why), ..Report::default() });
                released(OUR_TROUBLE)
            }
            _ => released(OUR_TROUBLE),
        }
    }

    async fn settle(self: Box<Self>, judged: Judged, live: &Live) {
        let Delivering { shared, delivery, processed, .. } = &*self;
        match shared.queue.settle(delivery.lease, judged.settlement).await {
            Ok(Settled::Done(_)) => {
                if let Some(end) = judged.end {
                    processed.inc();
                    if live.settings.log_settled {
                        log(delivery, &end);
                    }
                    shared.waiting.ended(delivery.invocation.id, || end.answer());
                }
            }
            Ok(Settled::Superseded) => {
                debug!(invocation.id = %delivery.invocation.id, "settled by somebody else before");
            }
            Err(error) => {
                error!(
                    invocation.id = %delivery.invocation.id, %error,
                    "a delivery cannot be settled and will be repeated after a restart"
                );
            }
        }
    }
}

fn released(wait: Duration) -> Judged {
    Judged { settlement: Settlement::Released { wait }, end: None }
}

fn answer_headers(exchange: Exchange) -> Option<HeaderMap> {
    match exchange {
        Exchange::Answered { headers, .. } => Some(headers),
        _ => None,
    }
}

/// What the dispatcher learns from an exchange.
fn report(outcome: &Outcome, verdict: &Verdict) -> Report {
    let reached = match outcome {
        Outcome::Answered(_) | Outcome::Dropped(_) | Outcome::TimedOut => Some(Ok(())),
        Outcome::Unreachable(why) => Some(Err(why.clone())),
        Outcome::Denied(_) => None,
    };
    let mut report = Report { signal: Some(Signal::of(outcome)), reached, ..Report::default() };
    match verdict {
        Verdict::Wait(wait, WaitReason::NoCapacity) => report.no_capacity = Some(*wait),
        Verdict::Wait(wait, WaitReason::FunctionUnknown) => report.unknown = Some(*wait),
        Verdict::Wait(_, WaitReason::GatewayUnreachable) => {}
        Verdict::Complete => report.failed = Some(false),
        // A function that refuses an input works: only what would be tried again says that it does not.
        Verdict::DeadLetter(Reason::Rejected | Reason::Asked, _) => report.failed = Some(false),
        // Of a function that is gone every call is the same: the next ones need not be spared.
        Verdict::DeadLetter(Reason::FunctionMissing, _) => {}
        Verdict::DeadLetter(..) | Verdict::Retry(_) => report.failed = Some(true),
    }
    report
}

impl Exchanged {
    fn end(self, state: State, reason: Option<Reason>) -> End {
        End {
            state,
            reason,
            status: self.outcome.status(),
            duration: self.duration,
            headers: self.headers,
            kept: Some(self.kept),
        }
    }
}

impl End {
    fn answer(&self) -> FinalAnswer {
        // Without a whole answer there is no body: a beginning would pass for the result.
        let (body, truncated) = match self.kept.as_ref().filter(|_| self.status.is_some()) {
            Some(Kept { for_waiter: Some(body), cut_for_waiter, .. }) => (body.clone(), *cut_for_waiter),
            // A caller that came when the answer had begun gets what is known of it.
            Some(kept) => (kept.excerpt.clone(), !kept.excerpt_is_all),
            None => (Bytes::new(), false),
        };
        FinalAnswer {
            state: self.state,
            status: self.status,
            headers: self.headers.as_ref().map_or_else(Headers::new, headers::of_answer),
            body,
            truncated,
        }
    }
}

/// The one line of a settled call, as operators of OpenFaaS' worker are used to grep.
fn log(delivery: &Delivery, end: &End) {
    let Invocation { id, call_id, target, lane, life, .. } = &delivery.invocation;
    let function = target.function().map(FunctionName::as_str).unwrap_or("callback");
    let attempts = delivery.made + u32::from(end.kept.is_some());
    info!(
        invocation.id = %id,
        call_id = %call_id,
        function,
        queue = %lane.queue,
        state = end.state.as_str(),
        reason = end.reason.map(Reason::as_str),
        status = end.status,
        attempts,
        life,
        duration = ?end.duration,
        "{function} {}",
        end.state.as_str()
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, F: Future>(_: fn(A) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_delivery_is_small_enough_to_be_moved_about() {
        let size = size_of_future(Delivering::run);
        assert!(size <= 2048, "{size} bytes");
    }
}
