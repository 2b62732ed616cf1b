//! What OpenFaaS' callers, functions and dashboards rely on, row by row of the drop-in checklist.

use std::time::Duration;

use broker_demo_gateway::{
    Answer, CallbackReceiver, DemoGateway, Door, Fault, Function, RecordedCall, Route,
};
use http::Method;
use jiff::Timestamp;
use serde_json::Value;
use testkit::time::eventually;
use uuid::Uuid;

use crate::broker::{Broker, SOON, Setup, attempt_of, invocation_of, send};

async fn beside(functions: impl IntoIterator<Item = Function>) -> (DemoGateway, Broker) {
    let gateway = DemoGateway::start(functions).await.unwrap();
    let broker = Setup::beside(&gateway).start().await;
    (gateway, broker)
}

async fn one_call(gateway: &DemoGateway, function: &str) -> RecordedCall {
    gateway.wait_for_calls(function, 1, SOON).await.unwrap().remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a1_a_call_without_ids_is_accepted_with_a_random_id_and_its_start_time() {
    let (gateway, broker) = beside([Function::echo("env")]).await;

    let answer = send(broker.call("env")).await;

    assert_eq!((answer.status, answer.body.len()), (202, 0), "{answer:?}");
    assert_eq!(answer.header("content-length"), "0");
    let call_id = Uuid::parse_str(answer.header("x-call-id")).unwrap();
    assert_eq!(call_id.get_version_num(), 4, "{call_id}");
    let start_time = answer.header("x-start-time");
    assert!(start_time.len() == 19 && start_time.bytes().all(|b| b.is_ascii_digit()), "{start_time}");
    assert!(answer.header("x-served-by").starts_with("evoke/"));
    assert_eq!(answer.header("evoke-durability"), "fsync");
    assert_eq!(answer.invocation().get_version_num(), 7);
    let call = one_call(&gateway, "env").await;
    assert_eq!(call.call_id(), Some(answer.header("x-call-id")));
    assert_eq!(
        call.header_values("x-start-time")[0],
        start_time,
        "first the time of the call, then the gateway's"
    );
    assert_eq!((call.method.as_str(), invocation_of(&call)), ("POST", answer.invocation()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a2_a_call_id_of_the_callers_own_reaches_function_and_callback() {
    let (gateway, broker) = beside([Function::echo("env")]).await;
    let callbacks = CallbackReceiver::start().await.unwrap();

    let call = broker.call("env/a%2Fb/c?x=1&y=%3Cz%3E").header("X-Call-Id", "abc");
    let answer = send(call.header("X-Callback-Url", callbacks.url("done")).header("X-Multi", "1")).await;

    assert_eq!((answer.status, answer.header("x-call-id")), (202, "abc"));
    let call = one_call(&gateway, "env").await;
    assert_eq!(call.header_values("x-call-id"), ["abc"]);
    assert_eq!(call.target, "/function/env/a%2Fb/c?x=1&y=%3Cz%3E", "path and query byte for byte");
    assert_eq!(call.header("x-callback-url"), Some(&*callbacks.url("done")), "functions read it");
    assert!(call.wire_headers["user-agent"].to_str().unwrap().starts_with("evoke/"));
    assert_eq!(call.header("x-multi"), Some("1"));
    let callback = &callbacks.wait_for("done", 1, SOON).await.unwrap()[0];
    assert_eq!(callback.header_values("x-call-id"), ["abc"]);
    broker.quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a3_only_post_calls_and_delete_cancels_by_call_id() {
    let (gateway, broker) = beside([Function::echo("env")]).await;
    for method in [Method::PUT, Method::GET, Method::PATCH, Method::HEAD, Method::OPTIONS] {
        let answer = send(broker.request(method.clone(), "/async-function/env")).await;
        assert_eq!((answer.status, answer.body.len()), (405, 0), "{method}: {answer:?}");
    }
    let cancel = async || send(broker.request(Method::DELETE, "/async-function/twice")).await.status;
    let call = || broker.call("env").header("X-Call-Id", "twice").header("Evoke-Delay", "1h");
    let (first, second) = (broker.accepted(call()).await, broker.accepted(call()).await);

    assert_eq!(cancel().await, 202);

    for id in [first, second] {
        assert_eq!(broker.invocation(id).await["state"], "cancelled");
    }
    assert_eq!(cancel().await, 404, "nothing with this id waits any more");
    assert_eq!(broker.quiet().await["cancelled"], 2);
    assert_eq!(gateway.call_count("env"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a4_a_callback_url_that_is_none_is_refused_and_nothing_is_accepted() {
    let (gateway, broker) = beside([Function::echo("env")]).await;
    for url in ["http://a b/", "http://[::1", "http://a/%zz", "http://169.254.169.254/latest/meta-data"] {
        let answer = send(broker.call("env").header("X-Callback-Url", url)).await;
        assert_eq!(answer.status, 400, "{url}: {answer:?}");
        assert!(answer.text().starts_with("Error queuing request: "), "{url}: {}", answer.text());
    }
    assert_eq!((broker.ledger("accepted").await, gateway.call_count("env")), (0, 0));

    let relative = broker.accepted(broker.call("env").header("X-Callback-Url", "foo")).await;
    let empty = broker.accepted(broker.call("env").header("X-Callback-Url", "")).await;

    broker.wait_for_state(relative, "completed").await;
    broker.wait_for_state(empty, "completed").await;
    let dead =
        eventually(SOON, "the dead callback", async || broker.items("/v1/dead-letters").await.pop()).await;
    assert_eq!(
        (&dead["target"], &dead["reason"]),
        (&Value::from("callback"), &Value::from("callback-denied"))
    );
    assert_eq!(dead["origin"]["of"], relative.to_string());
    assert_eq!(broker.quiet().await["dead"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a7_a_callback_tells_how_the_function_ended() {
    let good = Answer::ok("pong")
        .with_header("content-type", "text/x-pong")
        .with_header("set-cookie", "a=1")
        .with_header("set-cookie", "b=2")
        .with_header("x-duration-seconds", "9");
    let (_gateway, broker) = beside([
        Function::in_turn("good", [good]),
        Function::fail("bad", 500).annotation("com.openfaas.retry.attempts", "0"),
        Function::in_turn("gone", [Answer::drop_connection()]).annotation("com.openfaas.retry.attempts", "0"),
    ])
    .await;
    let callbacks = CallbackReceiver::start().await.unwrap();
    for written in ["good.openfaas-fn", "bad", "gone"] {
        let url = callbacks.url(written);
        broker
            .accepted(broker.call(written).header("X-Call-Id", written).header("X-Callback-Url", url))
            .await;
    }
    let told = async |name: &str| callbacks.wait_for(name, 1, SOON).await.unwrap().remove(0);

    let good = told("good.openfaas-fn").await;
    assert_eq!((good.method.as_str(), &*good.text()), ("POST", "pong"));
    assert_eq!(good.header("x-function-status"), Some("200"));
    assert_eq!(good.header("x-function-name"), Some("good.openfaas-fn"), "as the caller wrote it");
    assert_eq!(good.header("x-call-id"), Some("good.openfaas-fn"));
    assert_eq!((good.header("x-retry"), good.header("x-retry-max")), (Some("0"), Some("100")));
    let durations = good.header_values("x-duration-seconds");
    let (whole, fraction) = durations[0].split_once('.').unwrap();
    assert!(durations.len() == 1 && whole.len() < 3 && fraction.len() == 6, "{durations:?}");
    assert_eq!(good.header("content-type"), Some("text/x-pong"));
    assert_eq!(good.header_values("set-cookie"), ["a=1", "b=2"]);
    assert!(
        good.header("x-served-by").unwrap().starts_with("openfaas-ce/"),
        "the answer's own headers are passed on"
    );
    assert!(good.header("user-agent").unwrap().starts_with("evoke/"));
    assert_eq!(good.header("x-callback-url"), None);
    assert_eq!(good.header("transfer-encoding"), None);

    let bad = told("bad").await;
    assert_eq!((bad.header("x-function-status"), &*bad.text()), (Some("500"), "always 500\n"));

    let gone = told("gone").await;
    assert_eq!((gone.header("x-function-status"), gone.body_len), (Some("503"), 0));
    assert_eq!(gone.header("x-served-by"), None, "there was no answer to copy from");
    let reasons: Vec<Value> =
        broker.items("/v1/dead-letters").await.iter().map(|dead| dead["reason"].clone()).collect();
    assert_eq!(reasons, ["exhausted", "exhausted"]);
    broker.quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a8_an_error_of_openfaas_core_is_retried_whatever_its_code_but_for_401() {
    let core =
        [Answer::process_unreachable(), Answer::exec_timeout(), Answer::pod_unreachable("f"), Answer::ok("")];
    let (gateway, broker) = beside([
        Function::in_turn("core", core).annotation("com.openfaas.retry.codes", "429"),
        Function::fail("own", 500).annotation("com.openfaas.retry.codes", "429"),
        Function::in_turn("token", [Answer::function_auth_missing()]),
    ])
    .await;

    let core = broker.accepted(broker.call("core")).await;
    let own = broker.accepted(broker.call("own")).await;
    let token = broker.accepted(broker.call("token")).await;

    broker.wait_for_state(core, "completed").await;
    assert_eq!(gateway.call_count("core"), 4);
    for (id, function) in [(own, "own"), (token, "token")] {
        assert_eq!(broker.wait_for_state(id, "dead").await["reason"], "rejected");
        assert_eq!(gateway.call_count(function), 1, "{function}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a9_retry_after_is_waited_for_but_never_less_than_min_wait() {
    let slow_down = |name: &str, seconds: &str| {
        Function::in_turn(name, [Answer::status(429).retry_after(seconds)])
            .annotation("com.openfaas.retry.min_wait", "10s")
            .annotation("com.openfaas.retry.max_wait", "20s")
    };
    let (_gateway, broker) = beside([slow_down("less", "3"), slow_down("more", "30")]).await;

    for (function, expected) in [("less", 10.0), ("more", 30.0)] {
        let id = broker.accepted(broker.call(function)).await;
        let waits = eventually(SOON, "a planned retry", async || {
            let seen = broker.invocation(id).await;
            seen["next_attempt_at"].is_string().then_some(seen)
        })
        .await;

        let moment = |value: &Value| value.as_str().unwrap().parse::<Timestamp>().unwrap();
        let attempts: Vec<&Value> = waits["timeline"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|moment| moment["event"] == "attempt")
            .collect();
        let planned =
            moment(&waits["next_attempt_at"]).duration_since(moment(&attempts[0]["at"])).as_secs_f64();
        assert_eq!((attempts.len(), &waits["waiting_reason"]), (1, &Value::from("retrying")));
        // The wait begins at the answer, the attempt a little before.
        assert!(
            (expected - 0.1..expected + 5.0).contains(&planned),
            "{function}: {planned} s between {waits}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a10_an_annotation_that_cannot_be_used_is_reported_and_the_default_serves() {
    let gateway = DemoGateway::start([Function::fail("env", 500)
        .annotation("com.openfaas.retry.attempts", "x")
        .annotation("com.openfaas.retry.min_wait", "10")
        .annotation("evoke.colour", "red")])
    .await
    .unwrap();
    let broker = Setup::beside(&gateway).set("delivery.retry.attempts", "1").start().await;
    let callbacks = CallbackReceiver::start().await.unwrap();

    let id = broker.accepted(broker.call("env").header("X-Callback-Url", callbacks.url("end"))).await;

    broker.wait_for_state(id, "dead").await;
    assert_eq!(gateway.call_count("env"), 2);
    assert_eq!(callbacks.wait_for("end", 1, SOON).await.unwrap()[0].header("x-retry-max"), Some("1"));
    let function = broker.get("/v1/functions/env").await;
    let mut reported: Vec<(&str, &str)> = function["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|problem| (problem["annotation"].as_str().unwrap(), problem["value"].as_str().unwrap()))
        .collect();
    reported.sort_unstable();
    assert_eq!(
        reported,
        [
            ("com.openfaas.retry.attempts", "x"),
            ("com.openfaas.retry.min_wait", "10"),
            ("evoke.colour", "red")
        ]
    );
    assert_eq!(function["retry"]["attempts"], Value::Null);
    assert!(broker.samples().await.contains(&"evoke_annotation_problems 3".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a11_a_call_out_of_attempts_says_so_in_its_callback_and_is_kept() {
    let (gateway, broker) =
        beside([Function::fail("env", 503).annotation("com.openfaas.retry.attempts", "2")]).await;
    let callbacks = CallbackReceiver::start().await.unwrap();

    let call = broker
        .call("env")
        .header("X-Callback-Url", callbacks.url("end"))
        .header("Authorization", "Bearer s3cret");
    let id = broker.accepted(call.header("X-Order", "7").body("precious")).await;

    let callback = callbacks.wait_for("end", 1, SOON).await.unwrap().remove(0);
    assert_eq!((callback.header("x-retry"), callback.header("x-retry-max")), (Some("2"), Some("2")));
    let attempts: Vec<String> = gateway.calls("env").iter().map(|call| attempt_of(call).to_owned()).collect();
    assert_eq!(attempts, ["1", "2", "3"]);
    let dead = broker.get(&format!("/v1/dead-letters/{id}")).await;
    assert_eq!(
        (&dead["reason"], &dead["status"], &dead["redrivable"]),
        (&"exhausted".into(), &503.into(), &true.into())
    );
    assert_eq!(dead["headers"]["x-order"][0], "7");
    assert_eq!(dead["headers"]["authorization"][0], "[redacted]");
    let tried: Vec<&Value> =
        dead["timeline"].as_array().unwrap().iter().filter(|moment| moment["event"] == "attempt").collect();
    assert_eq!(tried.len(), 3);
    assert_eq!(tried[2]["excerpt"], "always 503\n");
    assert_eq!(
        send(broker.request(Method::GET, &format!("/v1/dead-letters/{id}/body"))).await.text(),
        "precious"
    );
    let wire = gateway.calls("env").remove(0);
    assert_eq!(wire.header("authorization"), Some("Bearer s3cret"), "redacted for people only");
    broker.quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a12_topics_are_a_trimmed_list_and_each_runs_the_function_once() {
    let (gateway, broker) = beside([Function::sink("env").annotation("topic", " a , b,,a ")]).await;

    for (topic, wanted) in [("a", 1), ("b", 1), ("A", 0), ("a.b", 0)] {
        let receipt = broker.publish(topic, topic).await;
        assert_eq!(receipt["invocations"].as_array().unwrap().len(), wanted, "{topic}: {receipt}");
    }

    let calls = gateway.wait_for_calls("env", 2, SOON).await.unwrap();
    let mut topics: Vec<&str> = calls.iter().filter_map(|call| call.header("x-topic")).collect();
    topics.sort_unstable();
    assert_eq!(topics, ["a", "b"]);
    let triggers = broker.items("/v1/triggers").await;
    let patterns: Vec<(&Value, &Value)> =
        triggers.iter().map(|trigger| (&trigger["pattern"], &trigger["exact"])).collect();
    assert_eq!(patterns, [(&"a".into(), &true.into()), (&"b".into(), &true.into())]);
    assert_eq!(broker.quiet().await["accepted"], 2);
}

/// The event is still wanted by the one function there was.
async fn still_wanted(broker: &Broker, when: &str) {
    let receipt = broker.publish("orders.created", when).await;
    assert_eq!(receipt["invocations"].as_array().map(Vec::len), Some(1), "{when}: {receipt}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a13_no_incomplete_function_list_ends_the_broker_or_removes_a_function() {
    let (gateway, broker) = beside([Function::sink("env").annotation("topic", "orders.created")]).await;
    let faults = [
        ("401", Fault::unauthorized()),
        ("500", Fault::status(500)),
        ("an HTML page", Fault::html()),
        ("half a list", Fault::Half),
        ("no JSON", Fault::json("{\"functions\":")),
        ("an object", Fault::json("{}")),
        ("a dropped connection", Fault::drop_connection()),
        ("silence", Fault::Hang),
    ];
    let mut sent = 0;
    for (what, fault) in faults {
        for route in [Route::Namespaces, Route::List] {
            let asked = gateway.requests(&route);
            gateway.faults().always(route.clone(), fault.clone());
            // A list that hangs is asked for once; the others again and again.
            let times = if what == "silence" { 1 } else { 4 };
            gateway.wait_for_requests(&route, asked + times, SOON).await.unwrap();

            still_wanted(&broker, what).await;
            sent += 1;

            gateway.faults().clear_all();
        }
    }
    // Complete and empty lists: only the third in a row removes what is not in it.
    for empty in [Fault::null(), Fault::empty_list()] {
        let asked = gateway.requests(&Route::List);
        gateway.faults().times(Route::List, 2, empty);
        gateway.wait_for_requests(&Route::List, asked + 2, SOON).await.unwrap();
        still_wanted(&broker, "an empty list twice").await;
        sent += 1;
        gateway.wait_for_requests(&Route::List, asked + 4, SOON).await.unwrap();
    }

    gateway.go_down().await.unwrap();
    eventually(SOON, "the list to be stale", async || {
        let parts = broker.get("/readyz").await["parts"].take();
        parts.as_array().unwrap().iter().any(|part| part["name"] == "functions" && part["state"] == "stale")
    })
    .await;
    still_wanted(&broker, "no gateway").await;
    sent += 1;
    gateway.come_back().await.unwrap();

    gateway.wait_for_calls("env", sent, SOON).await.unwrap();
    assert_eq!(broker.quiet().await["completed"], sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a13_a_function_goes_after_three_complete_lists_without_it() {
    let (gateway, broker) = beside([Function::sink("env").annotation("topic", "orders.created")]).await;

    gateway.remove("env");

    eventually(SOON, "the function to be gone", async || broker.items("/v1/functions").await.is_empty())
        .await;
    let receipt = broker.publish("orders.created", "").await;
    assert_eq!(receipt["invocations"], Value::Array(Vec::new()));
    let answer = send(broker.call("env").header("Evoke-Delay", "1h")).await;
    assert_eq!((answer.status, answer.header("evoke-warning")), (202, "function-not-listed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a14_functions_are_called_by_name_alone_unless_the_provider_lists_namespaces() {
    let wanting = |namespace: Option<&str>| {
        let function = Function::sink("env").annotation("topic", "orders.created");
        match namespace {
            Some(namespace) => function.namespace(namespace),
            None => function,
        }
    };
    for (what, fault) in [("[]", None), ("null", Some(Fault::null())), ("404", Some(Fault::status(404)))] {
        let gateway = DemoGateway::builder().namespaces([]).function(wanting(None)).start().await.unwrap();
        if let Some(fault) = fault {
            gateway.faults().always(Route::Namespaces, fault);
        }
        let broker = Setup::beside(&gateway).start().await;

        broker.publish("orders.created", what).await;

        assert_eq!(one_call(&gateway, "env").await.written, "env", "{what}");
        broker.quiet().await;
    }

    let namespaces = DemoGateway::builder().namespaces(["a", "b"]);
    let gateway = namespaces.functions([wanting(Some("a")), wanting(Some("b"))]).start().await.unwrap();
    let broker = Setup::beside(&gateway).start().await;

    let receipt = broker.publish("orders.created", "both").await;

    assert_eq!(receipt["invocations"].as_array().unwrap().len(), 2, "{receipt}");
    for function in ["env.a", "env.b"] {
        assert_eq!(one_call(&gateway, function).await.written, function);
    }
    broker.quiet().await;
}

/// The label names of a sample, and its value.
fn parsed<'a>(sample: &'a str, name: &str) -> Option<(Vec<&'a str>, f64)> {
    let rest = sample.strip_prefix(name)?;
    let (labels, value) = match rest.strip_prefix('{') {
        Some(rest) => rest.split_once("} ")?,
        None => ("", rest.strip_prefix(' ')?),
    };
    Some((labels.split(',').filter(|label| !label.is_empty()).collect(), value.parse().ok()?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a16_a_schedule_annotation_is_read_and_run_as_openfaas_does() {
    let gateway = DemoGateway::start([Function::echo("report")
        .annotation("topic", "payment.created, cron-function")
        .annotation("schedule", "*/5 * * * *; @every 90m; CRON_TZ=Asia/Tokyo 0 9 * * 1-5; 0 0 * * 7")])
    .await
    .unwrap();
    let broker = Setup::beside(&gateway).config("sources: { clock: { cron: {} } }").start().await;
    let schedules = eventually(SOON, "three schedules", async || {
        let schedules = broker.items("/v1/schedules").await;
        if schedules.len() == 3 { Ok(schedules) } else { Err(format!("{schedules:?}")) }
    })
    .await;

    let mut read: Vec<_> = schedules
        .iter()
        .map(|schedule| {
            [&schedule["expression"], &schedule["rules"]["time_zone"]].map(|text| text.as_str().unwrap())
        })
        .collect();
    read.sort_unstable();
    assert_eq!(
        read,
        [["*/5 * * * *", "UTC"], ["@every 90m", "UTC"], ["CRON_TZ=Asia/Tokyo 0 9 * * 1-5", "Asia/Tokyo"]]
    );
    let problems = broker.get("/v1/functions/report").await["problems"].take();
    assert_eq!((problems.as_array().unwrap().len(), &problems[0]["value"]), (1, &"0 0 * * 7".into()));
    assert!(problems[0]["problem"].as_str().unwrap().contains("Sunday is 0"), "{problems}");

    let run = format!("/v1/schedules/{}/run", schedules[0]["id"].as_str().unwrap());
    assert_eq!(send(broker.request(Method::POST, &run)).await.status, 202);
    let call = one_call(&gateway, "report").await;
    assert_eq!((call.method.as_str(), call.body.len()), ("POST", 0));
    assert_eq!(call.header_values("x-topic"), ["cron-function"]);
    assert_eq!(call.header_values("x-connector"), ["cron-connector"]);
    assert_eq!(call.header("content-type"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a17_the_metrics_are_those_the_dashboards_know() {
    let (function, _never) = crate::broker::held("busy");
    let (gateway, broker) = beside([
        Function::echo("env"),
        Function::echo("mail").annotation("com.openfaas.queue", "slow-jobs"),
        Function::echo("paused"),
        function,
    ])
    .await;
    send(broker.request(Method::POST, "/v1/functions/paused/pause")).await;
    for function in ["env", "env.openfaas-fn", "mail", "busy", "paused"] {
        broker.accepted(broker.call(function)).await;
    }
    // Scheduled calls do not count: functions must be able to scale to zero.
    broker.accepted(broker.call("env").header("Evoke-Delay", "1h")).await;
    gateway.wait_for_calls("env", 2, SOON).await.unwrap();
    gateway.wait_for_calls("busy", 1, SOON).await.unwrap();
    eventually(SOON, "three to be completed", async || broker.ledger("completed").await == 3).await;

    let samples = broker.samples().await;

    let value = |name: &str, labels: &[&str]| {
        let found = samples.iter().filter_map(|sample| parsed(sample, name)).find(|(found, _)| {
            let mut found = found.clone();
            found.sort_unstable();
            found == labels
        });
        found.unwrap_or_else(|| panic!("no {name} with {labels:?} in\n{}", samples.join("\n"))).1
    };
    let of = |function: &'static str, queue: &'static str| [function, queue];
    let env = of("function_name=\"env.openfaas-fn\"", "queue_name=\"faas-request\"");
    let busy = of("function_name=\"busy.openfaas-fn\"", "queue_name=\"faas-request\"");
    let mail = of("function_name=\"mail.openfaas-fn\"", "queue_name=\"slow-jobs\"");
    assert_eq!(value("queue_worker_pending_messages", &env), 0.0);
    assert_eq!(value("queue_worker_pending_messages", &mail), 0.0);
    assert_eq!(value("queue_worker_function_invocation_inflight", &env), 0.0);
    assert_eq!(value("queue_worker_function_invocation_inflight", &busy), 1.0);
    assert_eq!(value("queue_worker_messages_submitted_total", &["queue_name=\"faas-request\""]), 5.0);
    assert_eq!(value("queue_worker_messages_submitted_total", &["queue_name=\"slow-jobs\""]), 1.0);
    assert_eq!(value("queue_worker_messages_processed_total", &["queue_name=\"faas-request\""]), 2.0);
    assert_eq!(value("queue_worker_messages_processed_total", &["queue_name=\"slow-jobs\""]), 1.0);
    assert_eq!(value("queue_worker_nats_reconnect_total", &[]), 0.0);
    assert_eq!(value("evoke_accepted_total", &["origin=\"call\""]), 6.0);
    assert_eq!(value("evoke_completed_total", &[]), 3.0);
    assert_eq!(value("evoke_held", &[]), 3.0);
    assert_eq!(value("evoke_ledger_drift", &[]), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a18_a_call_that_was_running_at_a_kill_runs_again_once_with_its_retry_count() {
    let (second, gate) = crate::broker::held("env");
    drop(second);
    let waits = gate.clone();
    let function = Function::answering("env", move |call| {
        let gate = waits.clone();
        async move {
            if call.header("evoke-attempt") == Some("1") {
                return Answer::status(500);
            }
            gate.acquire().await.expect("never closed").forget();
            Answer::ok("at last")
        }
    });
    let (gateway, mut broker) = beside([function]).await;
    let callbacks = CallbackReceiver::start().await.unwrap();
    let id =
        broker.accepted(broker.call("env").header("X-Callback-Url", callbacks.url("end")).body("x")).await;
    gateway.wait_for_calls("env", 2, SOON).await.unwrap();
    // That a call has begun is written with the next commit: this one.
    broker.accepted(broker.call("later").header("Evoke-Delay", "1h").header("X-Call-Id", "later")).await;

    broker.kill();
    broker.come_back().await;

    let calls = gateway.wait_for_calls("env", 3, SOON).await.unwrap();
    let attempts: Vec<&str> = calls.iter().map(attempt_of).collect();
    assert_eq!(
        attempts,
        ["1", "2", "2"],
        "the retry that was cut short is made again, and is no further one"
    );
    assert!(calls.iter().all(|call| invocation_of(call) == id && call.text() == "x"));
    gate.add_permits(1);
    let callback = callbacks.wait_for("end", 1, SOON).await.unwrap().remove(0);
    assert_eq!((callback.header("x-retry"), &*callback.text()), (Some("1"), "at last"));
    let ended = broker.wait_for_state(id, "completed").await;
    assert_eq!(ended["interrupted"], 1);
    assert_eq!(send(broker.request(Method::DELETE, "/async-function/later")).await.status, 202);
    broker.quiet().await;
    assert_eq!(gateway.call_count("env"), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_the_gateway_drops_without_a_byte_is_one_attempt() {
    let (gateway, broker) =
        beside([Function::in_turn("env", [Answer::drop_connection().after(Duration::from_secs(1))])
            .annotation("com.openfaas.retry.attempts", "1")])
        .await;

    let id = broker.accepted(broker.call("env")).await;

    let dead = broker.wait_for_state(id, "dead").await;
    assert_eq!(dead["reason"], "exhausted");
    assert_eq!(gateway.call_count("env"), 2, "the first try and one retry");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_closes_before_it_takes_a_byte_is_no_attempt() {
    let (gateway, broker) = beside([Function::echo("env")]).await;
    gateway.set_door(Door::CloseAtOnce);
    gateway.finish_connections();

    let id = broker.accepted(broker.call("env")).await;
    let accepted = gateway.accepted_connections();
    eventually(SOON, "some tries", async || gateway.accepted_connections() > accepted + 3).await;
    gateway.set_door(Door::Serve);

    broker.wait_for_state(id, "completed").await;
    assert_eq!(broker.quiet().await["dead"], 0);
}
