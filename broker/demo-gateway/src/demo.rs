//! The functions of `evoke demo`.

use std::time::Duration;

use crate::answer::Answer;
use crate::function::{Function, FunctionCall};

/// The functions a stranger meets first: the four of the tour, one that prints its environment, and some that want
/// events. Retry waits are short, so that something happens while one watches.
///
/// | function | answers | wants |
/// |---|---|---|
/// | `echo` | the body it got | |
/// | `flaky` | 500 twice per call id, then as `echo` | |
/// | `slow` | as `echo`, after 3 s | |
/// | `fail` | always 500; given up on after 3 retries | |
/// | `env` | the request headers it saw | |
/// | `orders-mailer` | 202 | `orders.created` |
/// | `orders-invoice` | 503 with `Retry-After` once per call id, then 200 | `orders.created`, `orders.paid` |
/// | `orders-schema` | 422 unless the body is a JSON object with an `id`: a dead letter without any retry | `orders.created` |
/// | `clock` | 200 | to run every five minutes |
/// | `audit` | 200, one call at a time | every topic that begins with `orders.` or `payments.` |
pub fn demo_functions() -> Vec<Function> {
    vec![
        Function::echo("echo").label("demo", "tour"),
        retries(Function::flaky("flaky", 2).label("demo", "tour"), "5", "1s", "4s"),
        Function::slow("slow", Duration::from_secs(3)).label("demo", "tour").max_inflight(4),
        retries(Function::fail("fail", 500).label("demo", "tour"), "3", "1s", "2s"),
        Function::env("env").label("demo", "tour"),
        retries(Function::answering("orders-mailer", mail), "5", "1s", "10s")
            .label("demo", "orders")
            .annotation("topic", "orders.created"),
        retries(Function::flaky_with("orders-invoice", 1, warming_up()), "5", "1s", "10s")
            .label("demo", "orders")
            .annotation("topic", "orders.created, orders.paid"),
        retries(Function::answering("orders-schema", check), "5", "1s", "10s")
            .label("demo", "orders")
            .annotation("topic", "orders.created"),
        Function::sink("clock")
            .label("demo", "schedules")
            .annotation("topic", "cron-function")
            .annotation("schedule", "@every 5m"),
        Function::sink("audit")
            .label("demo", "orders")
            .annotation("evoke.topics", "orders.*, payments.*")
            .annotation("evoke.concurrency", "1"),
    ]
}

fn retries(function: Function, attempts: &str, min_wait: &str, max_wait: &str) -> Function {
    function
        .annotation("com.openfaas.retry.attempts", attempts)
        .annotation("com.openfaas.retry.min_wait", min_wait)
        .annotation("com.openfaas.retry.max_wait", max_wait)
}

fn warming_up() -> Answer {
    Answer::status(503).with_body("the tax service is waking up\n").retry_after("2")
}

async fn mail(call: FunctionCall) -> Answer {
    let text = serde_json::json!({ "mailed": order_id(&call), "topic": call.header("x-topic") }).to_string();
    Answer::json(text).with_status(202)
}

async fn check(call: FunctionCall) -> Answer {
    match order_id(&call) {
        Some(_) => Answer::json("{\"valid\":true}"),
        None => Answer::json("{\"valid\":false,\"expected\":\"an object with an id\"}").with_status(422),
    }
}

fn order_id(call: &FunctionCall) -> Option<serde_json::Value> {
    let body: serde_json::Value = serde_json::from_slice(&call.body).ok()?;
    body.get("id").cloned()
}
