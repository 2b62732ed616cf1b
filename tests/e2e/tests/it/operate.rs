//! What an operator does to a running broker: the command line, the API, reloading, and starting it wrongly.

use std::path::Path;
use std::time::Duration;

use broker_demo_gateway::{DemoGateway, Function};
use http::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use testkit::process::Program;
use testkit::servers::NatsServer;
use testkit::time::eventually;

use crate::broker::{Broker, SOON, SUBSCRIBER, Setup, address, evoke, evoke_binary, evoke_in, held, send};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_is_listed_shown_redriven_and_removed_from_the_command_line() {
    let gateway =
        DemoGateway::start([Function::fail("fail", 500).annotation("com.openfaas.retry.attempts", "1")])
            .await
            .unwrap();
    let broker = Setup::beside(&gateway).start().await;
    let invoked =
        broker.evoke(&["--output", "json", "invoke", "fail", "--data", "precious", "-H", "X-Order: 7"]).await;
    assert_eq!(invoked.code, 0, "{invoked:?}");
    let id = serde_json::from_str::<Value>(&invoked.out).unwrap()["id"].as_str().unwrap().to_owned();
    broker.wait_for_state(id.parse().unwrap(), "dead").await;

    let listed = broker.evoke(&["dead-letters", "list", "--function", "fail", "--reason", "exhausted"]).await;
    assert!(listed.code == 0 && listed.out.contains(&id) && listed.out.contains("exhausted"), "{listed:?}");
    let others = broker.evoke(&["dead-letters", "list", "--reason", "expired"]).await;
    assert!(others.code == 0 && !others.out.contains(&id), "{others:?}");
    let shown = broker.evoke(&["dead-letters", "show", &id]).await;
    assert!(shown.code == 0 && shown.out.contains("always 500"), "{shown:?}");
    assert_eq!(broker.evoke(&["dead-letters", "body", &id]).await.out, "precious");

    let counted = broker
        .evoke(&["--output", "json", "dead-letters", "redrive", "--function", "fail", "--dry-run"])
        .await;
    assert_eq!(
        serde_json::from_str::<Value>(&counted.out).unwrap(),
        json!({"redriven": 1, "skipped": 0, "dry_run": true})
    );
    assert_eq!(broker.evoke(&["dead-letters", "redrive", &id]).await.code, 0);
    let again = eventually(SOON, "its second death", async || {
        let seen = broker.invocation(id.parse().unwrap()).await;
        if seen["state"] == "dead" && seen["life"] == 2 { Ok(seen) } else { Err(seen.to_string()) }
    })
    .await;
    assert_eq!(again["attempts"], 2, "attempts start again");
    let all = broker.evoke(&["--output", "json", "dead-letters", "redrive", "--function", "fail"]).await;
    assert_eq!(serde_json::from_str::<Value>(&all.out).unwrap()["redriven"], 1, "{all:?}");
    eventually(SOON, "its third death", async || {
        let seen = broker.invocation(id.parse().unwrap()).await;
        seen["state"] == "dead" && seen["life"] == 3
    })
    .await;
    assert_eq!(gateway.call_count("fail"), 6, "three lives of two attempts");

    assert_eq!(
        broker.evoke(&["dead-letters", "remove", &id]).await.code,
        2,
        "data is removed with --yes only"
    );
    assert_eq!(broker.evoke(&["dead-letters", "remove", &id, "--yes"]).await.code, 0);
    assert_eq!(broker.evoke(&["dead-letters", "show", &id]).await.code, 3);
    let ledger = broker.quiet().await;
    assert_eq!((&ledger["dead"], &ledger["redriven"], &ledger["removed"]), (&3.into(), &2.into(), &1.into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_function_waits_over_a_restart_and_its_calls_can_be_read_and_taken_back() {
    let (function, let_go) = held("work");
    let gateway =
        DemoGateway::start([function.annotation("evoke.concurrency", "4"), Function::echo("other")])
            .await
            .unwrap();
    let mut broker = Setup::beside(&gateway).start().await;

    assert_eq!(broker.evoke(&["functions", "pause", "work"]).await.code, 0);
    let kept = broker.accepted(broker.call("work").body("kept").header("X-Call-Id", "mine")).await;
    let taken_back = broker.accepted(broker.call("work").body("taken back")).await;
    broker.kill();
    broker.come_back().await;
    broker.listed().await;
    let other = broker.accepted(broker.call("other")).await;
    broker.wait_for_state(other, "completed").await;

    let function = broker.get("/v1/functions/work").await;
    assert_eq!(
        (&function["paused"], &function["lanes"][0]["waiting"]),
        (&true.into(), &2.into()),
        "{function}"
    );
    assert_eq!(broker.invocation(kept).await["waiting_reason"], "paused");
    let id = kept.to_string();
    assert_eq!(broker.evoke(&["invocations", "body", &id]).await.out, "kept");
    let listed = broker.evoke(&["invocations", "list", "--call-id", "mine", "--state", "waiting"]).await;
    assert!(listed.out.contains(&id) && !listed.out.contains(&taken_back.to_string()), "{listed:?}");
    assert_eq!(broker.evoke(&["invocations", "cancel", &taken_back.to_string()]).await.code, 0);
    assert_eq!(gateway.call_count("work"), 0);

    assert_eq!(broker.evoke(&["functions", "resume", "work"]).await.code, 0);
    gateway.wait_for_calls("work", 1, SOON).await.unwrap();
    let running = broker.accepted(broker.call("work").body("running")).await;
    gateway.wait_for_calls("work", 2, SOON).await.unwrap();
    assert_eq!(
        broker.evoke(&["invocations", "cancel", &running.to_string()]).await.code,
        0,
        "also while it runs"
    );
    let_go.add_permits(1);
    broker.wait_for_state(kept, "completed").await;
    for id in [taken_back, running] {
        assert_eq!(broker.invocation(id).await["state"], "cancelled");
    }
    let ledger = broker.quiet().await;
    assert_eq!((&ledger["completed"], &ledger["cancelled"]), (&2.into(), &2.into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_output_is_what_the_api_says_byte_for_byte() {
    let nats = NatsServer::start().await;
    let gateway = DemoGateway::start([
        Function::echo("env").annotation("topic", "orders.created").annotation("evoke.colour", "red"),
        Function::fail("fail", 404),
    ])
    .await
    .unwrap();
    let setup =
        Setup::beside(&gateway).config(&format!("sources: {{ bus: {{ nats: {{ url: {} }} }} }}", nats.url()));
    let broker = setup.start().await;
    eventually(SOON, "the source", async || broker.get("/v1/sources/bus").await["state"] == "connected")
        .await;
    let done = broker.accepted(broker.call("env").body("x")).await;
    let dead = broker.accepted(broker.call("fail").body("y")).await;
    broker.wait_for_state(done, "completed").await;
    broker.wait_for_state(dead, "dead").await;
    // Two polls without a change: the list's own age is no part of these answers.
    let (done, dead) = (done.to_string(), dead.to_string());

    for (command, path) in [
        (vec!["functions", "list"], "/v1/functions".to_owned()),
        (vec!["functions", "show", "env"], "/v1/functions/env".to_owned()),
        (vec!["triggers", "list"], "/v1/triggers".to_owned()),
        (vec!["sources", "list"], "/v1/sources".to_owned()),
        (vec!["sources", "show", "bus"], "/v1/sources/bus".to_owned()),
        (vec!["invocations", "list"], "/v1/invocations".to_owned()),
        (vec!["invocations", "list", "--limit", "1"], "/v1/invocations?limit=1".to_owned()),
        (vec!["invocations", "show", &done], format!("/v1/invocations/{done}")),
        (vec!["dead-letters", "list"], "/v1/dead-letters".to_owned()),
        (vec!["dead-letters", "show", &dead], format!("/v1/dead-letters/{dead}")),
    ] {
        let said = broker.evoke(&[&["--output", "json"], &*command].concat()).await;

        let answer = send(broker.request(Method::GET, &path)).await;
        assert_eq!((said.code, answer.status), (0, 200), "{command:?}: {said:?}");
        assert_eq!(said.out.trim_end(), answer.text().trim_end(), "{command:?}");
    }
    let info: Value = serde_json::from_str(&broker.evoke(&["--output", "json", "info"]).await.out).unwrap();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&info), keys(&broker.info().await));
    assert_eq!(info["ledger"], broker.info().await["ledger"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_published_to_the_functions_that_want_them() {
    let gateway = DemoGateway::start([
        Function::sink("mail").annotation("topic", "orders.created"),
        Function::sink("audit").annotation("evoke.topics", "orders.*"),
        Function::sink("shop").annotation("evoke.topics", "@shop/*.created"),
    ])
    .await
    .unwrap();
    let broker = Setup::beside(&gateway).start().await;

    let said = broker.evoke(&["publish", "orders.created", "--data", "one", "--idempotency-key", "k"]).await;
    assert!(said.code == 0 && said.out.contains("mail") && said.out.contains("audit"), "{said:?}");
    let again = broker.evoke(&["publish", "orders.created", "--data", "one", "--idempotency-key", "k"]).await;
    assert_eq!(again.out, said.out, "the same invocations");
    let scoped = broker.evoke(&["publish", "users.created", "--source", "shop", "--data", "two"]).await;
    assert!(scoped.out.contains("shop") && !scoped.out.contains("audit"), "{scoped:?}");
    assert_eq!(broker.evoke(&["publish", "nobody.wants"]).await.code, 0);

    for (function, count) in [("mail", 1), ("audit", 1), ("shop", 1)] {
        gateway.wait_for_calls(function, count, SOON).await.unwrap();
    }
    let ledger = broker.quiet().await;
    assert_eq!(
        (&ledger["accepted"], &ledger["completed"]),
        (&3.into(), &3.into()),
        "no call for repeats or unwanted ones"
    );
    let seen = gateway.calls("mail").remove(0);
    assert_eq!((seen.header("x-topic"), &*seen.text()), (Some("orders.created"), "one"));
    assert_eq!(seen.header("ce-specversion"), Some("1.0"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes_say_what_kind_of_thing_went_wrong() {
    let gateway = DemoGateway::start([Function::echo("env"), Function::fail("fail", 404)]).await.unwrap();
    let broker = Setup::beside(&gateway).start().await;
    let done = broker.accepted(broker.call("env")).await;
    broker.wait_for_state(done, "completed").await;
    let done = done.to_string();
    let unknown = "01890a5d-ac96-774b-bcce-b302099a8057";

    for (arguments, code) in [
        (vec!["info"], 0),
        (vec!["invoke", "env", "--wait", "20s", "--data", "ping"], 0),
        (vec!["invocations", "cancel", &done], 1),
        (vec!["invoke", "fail", "--wait", "20s"], 1),
        (vec!["invocations", "list", "--state", "lost"], 1),
        (vec!["invocations", "list", "--colour", "red"], 2),
        (vec!["nonsense"], 2),
        (vec!["dead-letters", "redrive"], 2),
        (vec!["functions", "show", "nobody"], 3),
        (vec!["sources", "pause", "nobody"], 3),
        (vec!["invocations", "show", unknown], 3),
        (vec!["dead-letters", "redrive", unknown], 3),
        (vec!["dead-letters", "show", &done], 3),
    ] {
        let said = broker.evoke(&arguments).await;
        assert_eq!(said.code, code, "{arguments:?}: {said:?}");
        assert!(code == 0 || !said.err.is_empty(), "{arguments:?} says why");
    }
    let nobody = format!("http://{}", address());
    let said = evoke(&["--url", &nobody, "info"]).await;
    assert_eq!(said.code, 4, "{said:?}");
    let said = evoke(&["serve", "--set", "gateway.ulr=http://x"]).await;
    assert_eq!(said.code, 64, "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_problem_of_a_configuration_is_reported_at_once_with_exit_code_64() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("evoke.yaml");
    std::fs::write(
        &file,
        "gateway:\n  ulr: http://gateway:8080\n  poll_interval: 10\nlimits: { body: lots }\n\
         delivery: { retry: { codes: [42] } }\nsources:\n  bus: { nats: { url: \"nats://x:4222\", topcis: [a] } }\n  \
         fax: { telefax: {} }\n",
    )
    .unwrap();
    let path = file.to_str().unwrap();

    for command in ["check", "serve"] {
        let said = evoke(&[command, "--config", path, "--set", "log.levle=info"]).await;

        assert_eq!(said.code, 64, "{said:?}");
        for (place, key, remedy) in [
            (":2:", "gateway.ulr", "gateway.url"),
            (":3:", "gateway.poll_interval", "10s"),
            (":4:", "limits.body", "64MiB"),
            (":5:", "delivery.retry.codes", ""),
            (":7:", "topcis", "topics"),
            (":8:", "telefax", "nats"),
            ("--set log.levle", "log.levle", "log.level"),
        ] {
            let said = said.err.split("\n\n").find(|problem| problem.contains(key));
            let problem = said.unwrap_or_else(|| panic!("{command}: nothing about {key}"));
            assert!(problem.contains(place) && problem.contains(remedy), "{command}: {key}: {problem}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reference_is_a_configuration_that_works() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("evoke.yaml");
    let reference = evoke(&["config", "reference"]).await;
    assert_eq!((reference.code, &*reference.err), (0, ""));
    std::fs::write(&file, &reference.out).unwrap();

    let checked = evoke(&["check", "--config", file.to_str().unwrap()]).await;

    assert_eq!(checked.code, 0, "{checked:?}");
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/evoke.yaml");
    assert_eq!(std::fs::read_to_string(kept).unwrap(), reference.out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn config_show_says_where_each_value_came_from_and_hides_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("evoke.yaml");
    std::fs::write(&file, "limits: { waiting: 7 }\napi: { token: hunter2 }\n").unwrap();
    let environment =
        [("EVOKE_LIMITS__BODY", "3MiB"), ("max_retry_attempts", "9"), ("gateway_url", "http://gateway:8080")];

    let said = evoke_in(
        &["config", "show", "--config", file.to_str().unwrap(), "--set", "log.level=debug"],
        &environment,
    )
    .await;

    assert_eq!(said.code, 0, "{said:?}");
    for (key, value, origin) in [
        ("limits.waiting", "7", "evoke.yaml:1:"),
        ("limits.body", "3MiB", "EVOKE_LIMITS__BODY"),
        ("delivery.retry.attempts", "9", "max_retry_attempts"),
        ("gateway.url", "http://gateway:8080", "gateway_url"),
        ("log.level", "debug", "--set log.level"),
        ("shutdown.grace", "25s", "built-in"),
        ("api.token", "[redacted]", "evoke.yaml:2:"),
    ] {
        let line = said.out.lines().find(|line| line.split_whitespace().next() == Some(key));
        let line = line.unwrap_or_else(|| panic!("no {key} in\n{}", said.out));
        assert!(line.contains(value) && line.contains(origin), "{line}");
    }
    assert!(!said.out.contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completions_are_made_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let said = evoke(&["completions", shell]).await;

        assert_eq!(said.code, 0, "{shell}");
        assert!(said.out.contains("dead-letters") && said.out.contains("evoke"), "{shell}");
    }
    assert_eq!(evoke(&["completions", "telex"]).await.code, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_with_online_asks_the_gateway() {
    let gateway = DemoGateway::builder()
        .function(Function::echo("env"))
        .basic_auth("admin", "s3cret")
        .start()
        .await
        .unwrap();
    let url = format!("gateway.url={}", gateway.url());
    let check = async |password: &str| {
        let password = format!("gateway.credentials.password={password}");
        let credentials = ["--set", "gateway.credentials.username=admin", "--set", &password];
        evoke(&[&["check", "--online", "--set", &url], &credentials[..]].concat()).await
    };

    let right = check("s3cret").await;
    assert!(right.code == 0 && right.out.contains("lists 1 function"), "{right:?}");
    let wrong = check("wrong").await;
    assert!(wrong.code == 1 && wrong.err.contains("401"), "{wrong:?}");
    gateway.go_down().await.unwrap();
    assert_eq!(check("s3cret").await.code, 1);
}

/// Reads the configuration again, and waits until it says so.
async fn reload(broker: &Broker, said: &str) {
    let before = broker.log().iter().filter(|line| line.contains(said)).count();
    broker.signal(Signal::HUP);
    eventually(SOON, said, async || broker.log().iter().filter(|line| line.contains(said)).count() > before)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_takes_over_retry_defaults_and_sources_and_a_wrong_one_changes_nothing() {
    let nats = NatsServer::start().await;
    let gateway = DemoGateway::start([
        Function::fail("fail", 500),
        Function::sink("env").annotation("topic", "orders.created"),
    ])
    .await
    .unwrap();
    let mut broker = Setup::beside(&gateway).config("delivery: { retry: { attempts: 0 } }\n").start().await;
    let file = broker.setup().config_file();
    let tries = async || {
        let before = gateway.call_count("fail");
        let id = broker.accepted(broker.call("fail")).await;
        broker.wait_for_state(id, "dead").await;
        gateway.call_count("fail") - before
    };
    let sources = async || broker.items("/v1/sources").await.len();
    assert_eq!((tries().await, sources().await), (1, 0));
    let process = broker.id();

    let source = format!("sources: {{ bus: {{ nats: {{ url: {} }} }} }}\n", nats.url());
    std::fs::write(&file, format!("delivery: {{ retry: {{ attempts: 2 }} }}\n{source}")).unwrap();
    reload(&broker, "configuration read again").await;

    assert_eq!((tries().await, sources().await), (3, 1));
    eventually(SOON, "the source", async || broker.get("/v1/sources/bus").await["state"] == "connected")
        .await;
    nats.subscribed(SUBSCRIBER, &["orders.created"]).await;

    std::fs::write(
        &file,
        "delivery: { retry: { attempts: 5 } }\nsources: {}\nnonsense: 1\nlog: { level: loud }\n",
    )
    .unwrap();
    reload(&broker, "the configuration is not used").await;

    assert_eq!((tries().await, sources().await), (3, 1), "the old one serves whole");
    std::fs::write(&file, "delivery: { retry: { attempts: 1 } }\n").unwrap();
    reload(&broker, "configuration read again").await;
    assert_eq!((tries().await, sources().await), (2, 0));
    nats.subscribed(SUBSCRIBER, &[]).await;
    assert_eq!(broker.id(), process, "never restarted");
    broker.quiet().await;
    broker.expect_error("the configuration is not used");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_waits_a_minute_for_the_data_directory_and_gives_up_with_75() {
    let gateway = DemoGateway::start([Function::echo("env")]).await.unwrap();
    let broker = Setup::beside(&gateway).start().await;
    let mut second = broker.setup().elsewhere().spawn();

    let ended = second.wait(Duration::from_secs(120));

    assert_eq!(ended.code(), Some(75), "{:?}", second.log());
    let said = second.log().join("\n");
    assert!(said.contains("in use by another process"), "{said}");
    let id = broker.accepted(broker.call("env")).await;
    broker.wait_for_state(id, "completed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_takes_over_when_the_first_lets_go() {
    let gateway = DemoGateway::start([Function::echo("env")]).await.unwrap();
    let mut first = Setup::beside(&gateway).start().await;
    let id = first.accepted(first.call("env").header("Evoke-Delay", "1h")).await;
    let mut second = first.setup().elsewhere().spawn();
    // It waits for the lock before it answers anything.
    tokio::time::sleep(Duration::from_millis(300)).await;

    first.terminate();

    second.ready().await;
    assert_eq!(second.invocation(id).await["state"], "waiting");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_is_taken_names_its_key_and_the_remedy() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (key, other) in [("listen.http", "listen.metrics"), ("listen.metrics", "listen.http")] {
        let mut process = Program::new(evoke_binary())
            .arguments(["serve", "--set", &format!("{key}={}", taken.local_addr().unwrap())])
            .arguments(["--set", &format!("{other}={}", address())])
            .arguments(["--set", &format!("store.embedded.path={}/data", folder.path().display())])
            .start();

        assert_eq!(process.wait(SOON).code(), Some(1));

        let said = process.log().join("\n");
        assert!(said.contains(key) && said.contains("--set") && said.contains("in use"), "{said}");
    }
    assert!(!folder.path().join("data").exists(), "nothing was made");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_settles_is_one_line_without_bodies_or_header_values() {
    let gateway = DemoGateway::start([Function::echo("env")]).await.unwrap();
    let broker = Setup::beside(&gateway).start().await;

    let call = broker.call("env").header("Authorization", "Bearer s3cret").header("X-Call-Id", "mine");
    let id = broker.accepted(call.body("hidden words")).await;

    broker.wait_for_state(id, "completed").await;
    let line = broker.wait_for_line(&id.to_string(), SOON);
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["level"], &line["function"]), (&"INFO".into(), &"env.openfaas-fn".into()), "{line}");
    let all = broker.log().join("\n");
    assert!(!all.contains("s3cret") && !all.contains("hidden words"), "{all}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quiet_leaves_the_results_of_every_command_and_nothing_beside_them() {
    let event = Function::sink("event").annotation("topic", "orders.created");
    let gateway =
        DemoGateway::start([Function::echo("env"), Function::fail("fail", 400), event]).await.unwrap();
    let broker = Setup::beside(&gateway).start().await;
    let mut dead = Vec::new();
    for _ in 0..3 {
        let id = broker.accepted(broker.call("fail").body("x")).await;
        broker.wait_for_state(id, "dead").await;
        dead.push(id.to_string());
    }
    let waits = broker.accepted(broker.call("env").header("Evoke-Delay", "1h")).await.to_string();
    let file = broker.setup().config_file();
    let file = file.to_str().unwrap();

    // Whether there is a result to print, and what says it.
    for (result, line) in [
        (true, "info"),
        (true, "functions list --limit 1"),
        (true, "functions show env"),
        (true, "functions pause event"),
        (true, "functions resume event"),
        (true, "triggers list"),
        (false, "sources list"),
        (false, "schedules list"),
        (true, "invoke env --data x"),
        (true, "invoke env --data x --wait 30s"),
        (true, "invoke nobody --data x --wait 1s"),
        (true, "publish orders.created --data x"),
        (false, "publish nobody.wants --data x"),
        (true, "invocations list --limit 1"),
        (true, &format!("invocations show {waits}")),
        (true, &format!("invocations body {}", dead[0])),
        (true, &format!("invocations cancel {waits}")),
        (true, "dead-letters list --limit 1"),
        (false, "dead-letters list --function env"),
        (true, &format!("dead-letters show {}", dead[0])),
        (true, &format!("dead-letters body {}", dead[0])),
        (true, &format!("dead-letters redrive {}", dead[1])),
        (true, "dead-letters redrive --function fail --dry-run"),
        (false, &format!("dead-letters remove {} --yes", dead[2])),
        (false, &format!("check --config {file}")),
        (true, &format!("config show --config {file}")),
        (true, "config reference"),
        (true, "completions bash"),
    ] {
        let line: Vec<&str> = ["--quiet"].into_iter().chain(line.split(' ')).collect();

        let said = broker.evoke(&line).await;

        assert_eq!((said.code, said.err.as_str()), (0, ""), "{line:?}: {said:?}");
        assert_eq!(!said.out.is_empty(), result, "{line:?}: {said:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_is_held_while_its_configuration_or_an_operator_holds_it() {
    let nats = NatsServer::start().await;
    let event = Function::sink("event").annotation("topic", "orders.created");
    let gateway = DemoGateway::start([event]).await.unwrap();
    let config = |paused: bool| {
        format!("sources: {{ bus: {{ nats: {{ url: {} }}, paused: {paused} }} }}\n", nats.url())
    };
    let broker = Setup::beside(&gateway).config(&config(true)).start().await;
    let file = broker.setup().config_file();
    let state = async || broker.get("/v1/sources/bus").await["state"].take();
    let becomes = async |wanted: &str| {
        eventually(SOON, wanted, async || {
            let seen = state().await;
            if seen == wanted { Ok(()) } else { Err(seen.to_string()) }
        })
        .await;
    };
    becomes("paused").await;

    // The operator's word is lifted; the configuration's is not theirs.
    assert_eq!(broker.evoke(&["sources", "pause", "bus"]).await.code, 0);
    std::fs::write(&file, config(false)).unwrap();
    reload(&broker, "configuration read again").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(state().await, "paused", "the operator holds it still");
    assert_eq!(broker.evoke(&["sources", "resume", "bus"]).await.code, 0);
    becomes("connected").await;

    std::fs::write(&file, config(true)).unwrap();
    reload(&broker, "configuration read again").await;
    becomes("paused").await;
    let resumed = broker.evoke(&["sources", "resume", "bus"]).await;
    assert_eq!(resumed.code, 0, "{resumed:?}");
    assert!(resumed.out.contains("configuration"), "{resumed:?}");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(state().await, "paused", "the configuration holds it still");
    std::fs::write(&file, config(false)).unwrap();
    reload(&broker, "configuration read again").await;
    becomes("connected").await;
}
