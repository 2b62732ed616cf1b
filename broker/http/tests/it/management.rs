//! The routes of `/v1`.

use broker_demo_gateway::Function;
use reqwest::Method;
use serde_json::{Value, json};
use testkit::time::eventually;

use crate::fixture::{Broker, SOON, header};

fn items(listed: &Value) -> &Vec<Value> {
    listed["items"].as_array().expect("items")
}

#[tokio::test]
async fn info_shows_the_conservation_of_calls() {
    let broker = Broker::start().await;
    let done = broker.taken("/async-function/echo", &[], "x").await;
    let dead = broker.taken("/async-function/fail", &[], "x").await;
    let held = broker.taken("/async-function/echo", &[("Evoke-Delay", "1h")], "x").await;
    let gone = broker.taken("/async-function/echo", &[("Evoke-Delay", "1h")], "x").await;
    broker.api(Method::POST, &format!("/v1/invocations/{gone}/cancel"), None).await;
    broker.once(&done, "completed").await;
    broker.once(&dead, "dead").await;
    broker.once(&held, "waiting").await;

    let (status, info) = broker.get("/v1/info").await;

    assert_eq!(status, 200);
    assert_eq!(
        info["ledger"],
        json!({
            "accepted": 4, "redriven": 0, "completed": 1, "dead": 1, "cancelled": 1, "held": 1, "drift": 0,
            "dead_kept": 1, "removed": 0, "accepted_by_origin": {"call": 4}, "dead_by_reason": {"exhausted": 1},
        })
    );
    assert_eq!((&info["phase"], &info["gateway"]["functions"]), (&"ready".into(), &4.into()));
    assert_eq!(info["gateway"]["down"], Value::Null);

    broker.stop().await;
}

#[tokio::test]
async fn functions_show_annotations_their_problems_and_lanes() {
    let broker = Broker::with(|plan| {
        plan.functions = vec![
            Function::echo("good").annotation("topic", "a,b").annotation("com.openfaas.retry.min_wait", "2s"),
            Function::echo("odd").annotation("com.openfaas.retry.attempts", "x"),
        ];
    })
    .await;

    let (_, listed) = broker.get("/v1/functions").await;
    let (status, good) = broker.get("/v1/functions/good").await;
    let (_, odd) = broker.get("/v1/functions/odd.openfaas-fn").await;
    let (missing, problem) = broker.get("/v1/functions/nobody").await;

    assert_eq!(
        items(&listed).iter().map(|f| f["name"].as_str().unwrap()).collect::<Vec<_>>(),
        ["good.openfaas-fn", "odd.openfaas-fn"]
    );
    assert_eq!(
        (status, &good["topics"], &good["retry"]["min_wait"]),
        (200, &json!(["a", "b"]), &"2s".into())
    );
    assert_eq!(odd["problems"][0]["annotation"], "com.openfaas.retry.attempts");
    assert_eq!(odd["problems"][0]["value"], "x");
    assert_eq!((missing, &problem["type"]), (404, &"/problems/function-not-found".into()));
    assert!(problem["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()));

    broker.stop().await;
}

#[tokio::test]
async fn a_paused_function_waits_and_a_resumed_one_runs() {
    let broker = Broker::start().await;

    let paused = broker.api(Method::POST, "/v1/functions/echo/pause", None).await;
    let id = broker.taken("/async-function/echo", &[], "x").await;
    let (_, shown) = broker.get("/v1/functions/echo").await;
    let (_, waiting) = broker.get(&format!("/v1/invocations/{id}")).await;
    let resumed = broker.api(Method::POST, "/v1/functions/echo/resume", None).await;

    assert_eq!(paused, (200, json!({"name": "echo.openfaas-fn", "paused": true})));
    assert_eq!((&shown["paused"], &shown["lanes"][0]["waiting"]), (&true.into(), &1.into()));
    assert_eq!(waiting["waiting_reason"], "paused");
    assert_eq!(resumed, (200, json!({"name": "echo.openfaas-fn", "paused": false})));
    broker.once(&id, "completed").await;
    assert_eq!(broker.api(Method::POST, "/v1/functions/nobody/pause", None).await.0, 404);

    broker.stop().await;
}

#[tokio::test]
async fn triggers_and_sources_are_listed() {
    let broker = Broker::start().await;

    assert_eq!(
        broker.get("/v1/triggers").await.1,
        json!({
            "items": [{"pattern": "orders.created", "exact": true, "source": null, "function": "echo.openfaas-fn"}],
            "next": null,
        })
    );
    let (status, bus) = broker.get("/v1/sources/bus").await;
    assert_eq!(status, 200);
    assert_eq!(items(&broker.get("/v1/sources").await.1)[0], bus);
    assert_eq!((&bus["state"], &bus["since"]), (&"connected".into(), &"2023-11-14T22:13:20.000Z".into()));
    assert_eq!(bus["unmatched_topics"], json!([{"topic": "orders.lost", "count": 2}]));
    assert_eq!(
        broker.api(Method::POST, "/v1/sources/bus/pause", None).await,
        (200, json!({"name": "bus", "paused": true}))
    );
    assert_eq!(
        broker.api(Method::POST, "/v1/sources/bus/resume", None).await,
        (200, json!({"name": "bus", "paused": false}))
    );
    *broker.sources.held_by_configuration.lock().unwrap() = true;
    assert_eq!(
        broker.api(Method::POST, "/v1/sources/bus/resume", None).await,
        (200, json!({"name": "bus", "paused": true, "held_by": "configuration"}))
    );
    assert_eq!(
        broker.api(Method::POST, "/v1/sources/bus/reset-position", None).await,
        (200, json!({"name": "bus", "partitions": 3}))
    );
    assert_eq!(*broker.sources.told.lock().unwrap(), ["pause", "resume", "resume", "reset"]);
    for (method, path) in [
        (Method::GET, "/v1/sources/other"),
        (Method::POST, "/v1/sources/other/pause"),
        (Method::POST, "/v1/sources/a%2Fb/resume"),
        (Method::POST, "/v1/sources/other/reset-position"),
    ] {
        let (status, problem) = broker.api(method, path, None).await;
        assert_eq!((status, &problem["type"]), (404, &"/problems/source-not-found".into()), "{path}");
    }

    broker.stop().await;
}

#[tokio::test]
async fn a_list_is_filtered_and_comes_in_parts() {
    let broker = Broker::start().await;
    let later = |id| [("Evoke-Delay", "1h"), ("X-Call-Id", id)];
    for n in 0..5 {
        broker.taken("/async-function/echo", &later(["a", "b"][n % 2]), "x").await;
    }
    broker.taken("/async-function/env", &later("a"), "x").await;

    let mut seen = Vec::new();
    let mut path = "/v1/invocations?function=echo&state=waiting&limit=2".to_owned();
    let base = path.clone();
    loop {
        let (status, part) = broker.get(&path).await;
        assert_eq!(status, 200);
        assert!(items(&part).len() <= 2);
        seen.extend(items(&part).iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        match part["next"].as_str() {
            Some(next) => path = format!("{base}&cursor={next}"),
            None => break,
        }
    }
    let (_, of_call) = broker.get("/v1/invocations?call_id=a").await;

    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 5);
    assert_eq!(items(&of_call).len(), 4);

    broker.stop().await;
}

#[tokio::test]
async fn what_is_not_known_is_refused_and_what_is_known_is_named() {
    let broker = Broker::start().await;

    for (path, said) in [
        ("/v1/invocations?colour=red", "known are function, state, call_id, limit, cursor"),
        ("/v1/invocations?since=2026-01-01T00:00:00Z", "known are function, state, call_id, limit, cursor"),
        ("/v1/dead-letters?status=500", "known are function, reason, call_id, limit, cursor"),
        ("/v1/info?x=1", "takes no parameters"),
        ("/v1/functions/echo?x=1", "takes no parameters"),
    ] {
        let (status, problem) = broker.get(path).await;
        assert_eq!((status, &problem["type"]), (400, &"/problems/unknown-parameter".into()), "{path}");
        assert!(problem["detail"].as_str().unwrap().contains(said), "{path}: {problem}");
    }
    for (path, said) in [
        ("/v1/invocations?state=lost", "waiting, delivering, completed, dead, cancelled"),
        ("/v1/dead-letters?reason=bad-luck", "exhausted, rejected"),
        ("/v1/invocations?limit=0", "from 1 to 1000"),
        ("/v1/invocations?function=a%2Fb", "function: "),
        ("/v1/invocations/not-an-id", "id: "),
        ("/v1/functions/%ff", "UTF-8"),
        ("/v1/functions?cursor=x", "cursor: "),
    ] {
        let (status, problem) = broker.get(path).await;
        assert_eq!((status, &problem["type"]), (400, &"/problems/invalid-parameter".into()), "{path}");
        assert!(problem["detail"].as_str().unwrap().contains(said), "{path}: {problem}");
    }
    let (status, problem) = broker.get("/v1/nothing").await;
    assert_eq!((status, &problem["type"]), (404, &"/problems/no-such-route".into()));
    let wrong = broker.request(Method::DELETE, "/v1/info").send().await.unwrap();
    assert_eq!((wrong.status().as_u16(), header(&wrong, "allow")), (405, Some("GET,HEAD")));
    assert_eq!(wrong.json::<Value>().await.unwrap()["type"], "/problems/method-not-allowed");

    broker.stop().await;
}

#[tokio::test]
async fn every_list_has_the_same_bounds() {
    let broker = Broker::start().await;
    for n in 0..3 {
        broker.taken("/async-function/fail", &[], &format!("{n}")).await;
    }
    eventually(SOON, "dead letters", async || items(&broker.get("/v1/dead-letters").await.1).len() == 3)
        .await;

    for list in ["functions", "triggers", "sources", "schedules", "invocations", "dead-letters"] {
        for wrong in [
            "limit=0",
            "limit=1001",
            "limit=-1",
            "limit=",
            "limit=x",
            "limit=99999999999999999999",
            "cursor=",
            "cursor=x",
            "cursor=-1",
            "cursor=99999999999999999999999",
        ] {
            let (status, problem) = broker.get(&format!("/v1/{list}?{wrong}")).await;
            let parameter = wrong.split('=').next().unwrap();
            assert_eq!(
                (status, &problem["type"]),
                (400, &"/problems/invalid-parameter".into()),
                "{list} {wrong}"
            );
            assert!(problem["detail"].as_str().unwrap().starts_with(parameter), "{list} {wrong}: {problem}");
        }
        let (status, all) = broker.get(&format!("/v1/{list}?limit=1000")).await;
        assert_eq!((status, &all["next"]), (200, &Value::Null), "{list}");
        // Item by item it is the same list.
        let (mut path, mut found) = (format!("/v1/{list}?limit=1"), Vec::new());
        loop {
            let (status, part) = broker.get(&path).await;
            assert_eq!(status, 200, "{path}");
            assert!(items(&part).len() <= 1, "{path}");
            found.extend(items(&part).iter().cloned());
            match part["next"].as_str() {
                Some(next) => path = format!("/v1/{list}?limit=1&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(&found, items(&all), "{list}");
        assert!(!found.is_empty() || list == "schedules", "{list}");
    }

    broker.stop().await;
}

#[tokio::test]
async fn one_invocation_shows_its_timeline_without_secrets_and_its_body_raw() {
    let broker = Broker::start().await;
    let fields = [
        ("Authorization", "Bearer s3cret"),
        ("Cookie", "s3cret"),
        ("Content-Type", "text/html"),
        ("X-A", "1"),
    ];
    let id = broker.taken("/async-function/fail/p?x=1", &fields, "<script>").await;

    let shown = broker.once(&id, "dead").await;
    let body = broker.request(Method::GET, &format!("/v1/invocations/{id}/body")).send().await.unwrap();

    assert!(!shown.to_string().contains("s3cret"), "{shown}");
    assert_eq!(shown["headers"]["authorization"], json!(["[redacted]"]));
    assert_eq!(shown["headers"]["x-a"], json!(["1"]));
    assert_eq!((&shown["written"], &shown["path_and_query"]), (&"fail".into(), &"/p?x=1".into()));
    let timeline = shown["timeline"].as_array().unwrap();
    let events: Vec<&str> = timeline.iter().map(|moment| moment["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["accepted", "attempt", "dead"]);
    assert_eq!((&timeline[1]["status"], &timeline[1]["excerpt"]), (&500.into(), &"always 500\n".into()));
    assert_eq!(timeline[2]["reason"], "exhausted");
    assert_eq!(header(&body, "content-type"), Some("application/octet-stream"));
    assert_eq!(header(&body, "evoke-content-type"), Some("text/html"));
    assert_eq!(header(&body, "x-content-type-options"), Some("nosniff"));
    assert_eq!(body.text().await.unwrap(), "<script>");

    broker.stop().await;
}

#[tokio::test]
async fn a_call_is_cancelled_once() {
    let broker = Broker::start().await;
    let waiting = broker.taken("/async-function/echo", &[("Evoke-Delay", "1h")], "x").await;
    let running = broker.taken("/async-function/slow", &[], "x").await;
    broker.gateway.wait_for_calls("slow", 1, SOON).await.unwrap();
    let cancel =
        async |id: &str| broker.api(Method::POST, &format!("/v1/invocations/{id}/cancel"), None).await;

    assert_eq!(cancel(&waiting).await, (202, json!({"id": waiting, "was": "waiting"})));
    assert_eq!(cancel(&running).await, (202, json!({"id": running, "was": "delivering"})));
    let (status, problem) = cancel(&waiting).await;
    assert_eq!((status, &problem["type"]), (409, &"/problems/already-ended".into()));
    let (status, problem) = cancel("0190aaaa-bbbb-7ccc-8ddd-eeeeffff0001").await;
    assert_eq!((status, &problem["type"]), (404, &"/problems/invocation-not-found".into()));
    eventually(SOON, "the delivery to stop", async || broker.gateway.running("slow") == 0).await;

    broker.stop().await;
}

#[tokio::test]
async fn a_dead_letter_is_put_back_or_removed() {
    let broker = Broker::start().await;
    let id = broker.taken("/async-function/fail", &[], "why").await;
    broker.once(&id, "dead").await;
    let path = format!("/v1/dead-letters/{id}");

    let (_, listed) = broker.get("/v1/dead-letters?function=fail&reason=exhausted").await;
    let (_, shown) = broker.get(&path).await;
    let body =
        broker.request(Method::GET, &format!("{path}/body")).send().await.unwrap().text().await.unwrap();
    assert_eq!(items(&listed).len(), 1);
    assert_eq!(items(&broker.get("/v1/dead-letters?reason=expired").await.1).len(), 0);
    assert_eq!(
        (&shown["reason"], &shown["status"], &shown["redrivable"]),
        (&"exhausted".into(), &500.into(), &true.into())
    );
    assert_eq!(body, "why");

    let redriven = broker.api(Method::POST, &format!("{path}/redrive"), None).await;
    assert_eq!(redriven, (202, json!({"id": id, "life": 2})));
    let again = eventually(SOON, "the second life to end", async || {
        let (_, shown) = broker.get(&path).await;
        if shown["life"] == 2 { Ok(shown) } else { Err(shown.to_string()) }
    })
    .await;
    assert_eq!(again["timeline"][1]["event"], "redriven");

    assert_eq!(broker.api(Method::DELETE, &path, None).await, (204, Value::Null));
    for (method, path) in [
        (Method::DELETE, path.clone()),
        (Method::GET, path.clone()),
        (Method::GET, format!("{path}/body")),
        (Method::POST, format!("{path}/redrive")),
    ] {
        let (status, problem) = broker.api(method.clone(), &path, None).await;
        assert_eq!(
            (status, &problem["type"]),
            (404, &"/problems/dead-letter-not-found".into()),
            "{method} {path}"
        );
    }

    broker.stop().await;
}

#[tokio::test]
async fn all_dead_letters_of_a_function_are_counted_and_put_back() {
    let broker = Broker::start().await;
    for n in 0..3 {
        let id = broker.taken("/async-function/fail", &[], &n.to_string()).await;
        broker.once(&id, "dead").await;
    }
    broker.gateway.deploy(Function::echo("fail"));
    let redrive = async |body: Value| broker.api(Method::POST, "/v1/dead-letters/redrive", Some(body)).await;

    let dry = redrive(json!({"filter": {"function": "fail"}, "dry_run": true})).await;
    let other = redrive(json!({"filter": {"function": "fail", "reason": "expired"}})).await;
    let done = redrive(json!({"filter": {"function": "fail", "reason": "exhausted"}})).await;

    assert_eq!(dry, (200, json!({"redriven": 3, "skipped": 0, "dry_run": true})));
    assert_eq!(other, (202, json!({"redriven": 0, "skipped": 0, "dry_run": false})));
    assert_eq!(done, (202, json!({"redriven": 3, "skipped": 0, "dry_run": false})));
    eventually(SOON, "all three to complete", async || {
        let (_, info) = broker.get("/v1/info").await;
        if info["ledger"]["completed"] == 3 { Ok(()) } else { Err(info["ledger"].to_string()) }
    })
    .await;
    for (body, said) in [
        (json!({"filter": {}}), "missing field `function`"),
        (json!({"filter": {"function": "fail", "colour": 1}}), "unknown field `colour`"),
        (json!({"filter": {"function": "a/b"}}), "filter.function: "),
        (json!({"filter": {"function": "fail", "reason": "x"}}), "filter.reason: "),
    ] {
        let (status, problem) = redrive(body).await;
        assert_eq!((status, &problem["type"]), (400, &"/problems/invalid-body".into()));
        assert!(problem["detail"].as_str().unwrap().contains(said), "{problem}");
    }

    broker.stop().await;
}

#[tokio::test]
async fn a_published_event_runs_those_who_want_it() {
    let broker = Broker::with(|plan| {
        plan.functions.push(Function::echo("wild").annotation("evoke.topics", "@bus/orders.>"));
    })
    .await;
    let publish = async |body: Value| broker.api(Method::POST, "/v1/events", Some(body)).await;
    let names = |receipt: &Value| -> Vec<String> {
        let started = receipt["invocations"].as_array().expect("invocations");
        started.iter().map(|one| one["function"].as_str().expect("a name").to_owned()).collect()
    };

    let (status, from_api) =
        publish(json!({"topic": "orders.created", "body": "1", "headers": {"x-a": "1"}})).await;
    let (_, from_bus) =
        publish(json!({"topic": "orders.created", "source": "bus", "body_base64": "/w=="})).await;
    let (unwanted, nobody) = publish(json!({"topic": "nobody"})).await;

    assert_eq!(status, 202);
    assert_eq!(names(&from_api), ["echo.openfaas-fn"]);
    assert_eq!(names(&from_bus), ["echo.openfaas-fn", "wild.openfaas-fn"]);
    assert_eq!((unwanted, nobody), (202, json!({"invocations": [], "duplicate": false})));
    let calls = broker.gateway.wait_for_calls("echo", 2, SOON).await.unwrap();
    let first = calls.iter().find(|call| call.text() == "1").expect("the first event");
    assert_eq!((first.header("x-topic"), first.header("x-a")), (Some("orders.created"), Some("1")));

    let keyed = json!({"topic": "orders.created", "idempotency_key": "k", "body": "2"});
    let (_, first) = publish(keyed.clone()).await;
    let (_, repeat) = publish(keyed).await;
    let (status, reused) =
        publish(json!({"topic": "orders.created", "idempotency_key": "k", "body": "3"})).await;
    assert_eq!((&repeat["invocations"], &repeat["duplicate"]), (&first["invocations"], &true.into()));
    assert_eq!((status, &reused["type"]), (422, &"/problems/idempotency-key-reused".into()));

    broker.stop().await;
}

#[tokio::test]
async fn an_event_that_is_no_json_of_ours_is_refused() {
    let broker = Broker::with(|plan| plan.http.body_limit = 1000).await;
    let post = async |content_type: &str, body: &str| {
        let request = broker.request(Method::POST, "/v1/events").header("content-type", content_type);
        let answer = request.body(body.to_owned()).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json::<Value>().await.unwrap()["type"].as_str().unwrap().to_owned())
    };
    let invalid = (400, "/problems/invalid-body".to_owned());

    assert_eq!(post("application/json", "{").await, invalid);
    assert_eq!(post("application/json; charset=utf-8", "[]").await, invalid);
    assert_eq!(post("application/json", r#"{"topic":"t","colour":1}"#).await, invalid);
    assert_eq!(post("application/json", r#"{"body":"t"}"#).await, invalid);
    assert_eq!(
        post("text/plain", r#"{"topic":"t"}"#).await,
        (415, "/problems/unsupported-media-type".into())
    );
    let long = format!(r#"{{"topic":"t","body":"{}"}}"#, "x".repeat(1001));
    assert_eq!(post("application/json", &long).await, (413, "/problems/body-too-large".into()));
    assert_eq!(broker.get("/v1/info").await.1["ledger"]["accepted"], 0);

    broker.stop().await;
}

#[tokio::test]
async fn readiness_shows_each_part_and_follows_the_store() {
    let broker = Broker::start().await;

    let (status, ready) = broker.get("/readyz").await;

    assert_eq!((status, &ready["ready"]), (200, &true.into()));
    let parts: Vec<(&str, &str)> = ready["parts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| (part["name"].as_str().unwrap(), part["state"].as_str().unwrap()))
        .collect();
    assert_eq!(parts, [("store", "ok"), ("gateway", "ok"), ("functions", "ok"), ("source/bus", "connected")]);
    assert_eq!(broker.get("/healthz").await, (200, json!({"status": "alive"})));
    let post = broker.request(Method::POST, "/readyz").send().await.unwrap();
    assert_eq!(post.status(), 405);

    broker.stop().await;
}
