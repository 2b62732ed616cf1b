//! Real sockets: the gateway client, the function list and callbacks against the demo gateway.

use std::time::Duration;

use broker_demo_gateway::{Answer, CallbackReceiver, DemoGateway, Door, Fault, Function, Route};
use broker_engine::gateway::listing::count_functions;
use broker_engine::{EngineSettings, SubmitRefusal};
use broker_model::function::OnDeadLetter;
use broker_model::{Body, BodyReader, CallId, Origin, Outcome, Reason, Record, State};
use bytes::Bytes;
use testkit::time::eventually;
use url::Url;

use crate::broker::{Broker, Start, function, secs};

const SOON: Duration = Duration::from_secs(20);

fn quick(function: Function) -> Function {
    function
        .annotation("com.openfaas.retry.min_wait", "10ms")
        .annotation("com.openfaas.retry.max_wait", "20ms")
        .annotation("com.openfaas.retry.attempts", "3")
}

fn settings(gateway: &DemoGateway) -> EngineSettings {
    let mut settings = EngineSettings::default();
    settings.gateway.url = Url::parse(&gateway.url()).expect("a url");
    settings.gateway.poll_interval = Duration::from_millis(100);
    settings
}

async fn start(gateway: &DemoGateway) -> Broker {
    Broker::start(Start { settings: settings(gateway), ..Start::default() }).await
}

async fn gateway(functions: impl IntoIterator<Item = Function>) -> DemoGateway {
    DemoGateway::start(functions).await.expect("a free port")
}

fn outcomes(record: &Record) -> Vec<Outcome> {
    record.attempts.kept().map(|attempt| attempt.outcome.clone()).collect()
}

#[tokio::test]
async fn a_call_reaches_its_function_as_openfaas_sends_it() {
    let gateway = gateway([Function::echo("env")]).await;
    let broker = start(&gateway).await;

    let id = broker
        .submit("env.openfaas-fn", |call| {
            call.path_and_query = "/a%2Fb//c?x=1&y=%3Cz%3E".into();
            call.call_id = Some(CallId::parse("abc").unwrap());
            call.callback_url = Some("relative".into());
            for (name, value) in [
                ("Content-Type", "text/plain"),
                ("X-Multi", "1"),
                ("X-Multi", "2"),
                ("Connection", "keep-alive, X-Hop"),
                ("X-Hop", "gone"),
                ("User-Agent", "curl/8"),
                ("Accept-Encoding", "gzip"),
                ("X-Callback-Url", "relative"),
            ] {
                call.headers.append(name, value);
            }
        })
        .await;
    broker.reaches(id, State::Completed).await;

    let call = gateway.calls("env").remove(0);
    assert_eq!(call.method.as_str(), "POST");
    assert_eq!(call.target, "/function/env.openfaas-fn/a%2Fb/c?x=1&y=%3Cz%3E");
    assert_eq!(call.text(), "hello");
    assert_eq!(call.call_id(), Some("abc"));
    assert_eq!(call.header_values("x-start-time").len(), 2, "ours and the gateway's");
    assert_eq!(call.header_values("x-multi"), ["1", "2"]);
    assert_eq!(call.header("x-callback-url"), Some("relative"));
    assert_eq!(call.header("accept-encoding"), Some("gzip"));
    assert_eq!(call.header("user-agent"), Some(concat!("evoke/", env!("CARGO_PKG_VERSION"))));
    assert_eq!(call.wire_headers.get("content-length").unwrap(), "5");
    assert!(call.wire_headers.get("x-hop").is_none() && call.wire_headers.get("connection").is_none());
    assert!(call.wire_headers.get("authorization").is_none());
}

#[tokio::test]
async fn a7_callbacks_carry_the_answer_with_its_status_over_success_failure_and_no_answer() {
    let gateway = gateway([
        Function::in_turn(
            "good",
            [Answer::ok("result").with_header("x-own", "1").with_header("content-encoding", "gzip")],
        ),
        quick(Function::in_turn("bad", [Answer::status(500).with_body("oops")])),
        quick(Function::in_turn("gone", [Answer::drop_connection()])),
    ])
    .await;
    let receiver = CallbackReceiver::start().await.unwrap();
    let broker = start(&gateway).await;

    for name in ["good", "bad", "gone"] {
        broker
            .submit(name, |call| {
                call.call_id = Some(CallId::parse(name).unwrap());
                call.callback_url = Some(format!("{}?t=1", receiver.url(name)).into());
            })
            .await;
    }

    let good = receiver.wait_for("good", 1, SOON).await.unwrap().remove(0);
    assert_eq!((good.method.as_str(), good.text().as_str()), ("POST", "result"));
    assert!(good.target.ends_with("?t=1"));
    for (name, value) in [
        ("x-function-status", "200"),
        ("x-function-name", "good"),
        ("x-call-id", "good"),
        ("x-retry", "0"),
        ("x-retry-max", "100"),
        ("x-own", "1"),
        ("content-encoding", "gzip"),
        ("user-agent", concat!("evoke/", env!("CARGO_PKG_VERSION"))),
        (broker_engine::CALLBACK_MARK, "1"),
    ] {
        assert_eq!(good.header(name), Some(value), "{name}");
    }
    let seconds = good.header("x-duration-seconds").unwrap();
    assert_eq!(seconds.split('.').nth(1).map(str::len), Some(6), "{seconds}");
    assert!(good.header("x-callback-url").is_none());

    let bad = receiver.wait_for("bad", 1, SOON).await.unwrap().remove(0);
    assert_eq!((bad.header("x-function-status"), bad.text().as_str()), (Some("500"), "oops"));
    assert_eq!((bad.header("x-retry"), bad.header("x-retry-max")), (Some("3"), Some("3")));
    let gone = receiver.wait_for("gone", 1, SOON).await.unwrap().remove(0);
    assert_eq!((gone.header("x-function-status"), gone.body_len), (Some("503"), 0));
    assert_eq!(gone.header("content-length"), Some("0"));
}

#[tokio::test]
async fn callbacks_are_retried_signed_and_sent_with_their_urls_credentials() {
    let gateway = gateway([Function::echo("env")]).await;
    let receiver = CallbackReceiver::start().await.unwrap();
    receiver.fail_next("cb", 1, 503);
    let mut settings = settings(&gateway);
    settings.delivery.policy.backoff.min = Duration::from_millis(10);
    settings.callbacks.sign =
        Some(broker_config::SecretSource::Inline("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned().into()));
    let broker = Broker::start(Start { settings, ..Start::default() }).await;

    let url = receiver.url("cb").replace("http://", "http://user:p%40ss@");
    broker.submit("env", |call| call.callback_url = Some(url.into())).await;

    let received = receiver.wait_for("cb", 2, SOON).await.unwrap();
    assert_eq!(received[1].header("authorization"), Some("Basic dXNlcjpwQHNz"));
    assert_eq!(received[0].header("webhook-id"), received[1].header("webhook-id"));
    assert!(received[1].header("webhook-signature").unwrap().starts_with("v1,"));
    assert!(received[1].header("webhook-timestamp").is_some());
}

#[tokio::test]
async fn a_connection_that_ends_without_a_byte_is_one_attempt() {
    let gateway = gateway([Function::in_turn("env", [Answer::drop_connection(), Answer::ok("")])
        .annotation("com.openfaas.retry.min_wait", "10ms")])
    .await;
    let broker = start(&gateway).await;

    let id = broker.call("env").await;
    let record = broker.reaches(id, State::Completed).await;

    assert!(
        matches!(outcomes(&record)[..], [Outcome::Dropped(_), Outcome::Answered(_)]),
        "{:?}",
        outcomes(&record)
    );
    assert_eq!(gateway.call_count("env"), 2);
}

#[tokio::test]
async fn a_kept_connection_that_ends_without_a_byte_is_one_attempt_too() {
    let gateway = gateway([quick(Function::in_turn(
        "env",
        [Answer::ok(""), Answer::drop_connection().after(Duration::from_millis(200)), Answer::ok("")],
    ))])
    .await;
    let broker = start(&gateway).await;
    let first = broker.call("env").await;
    broker.reaches(first, State::Completed).await;

    let id = broker.call("env").await;
    let record = broker.reaches(id, State::Completed).await;

    let calls = gateway.calls("env");
    assert_eq!(calls[0].connection, calls[1].connection, "the second went over the connection of the first");
    assert!(
        matches!(outcomes(&record)[..], [Outcome::Dropped(_), Outcome::Answered(_)]),
        "{:?}",
        outcomes(&record)
    );
    assert_eq!(calls.len(), 3, "the function saw as many calls as there were attempts");
}

#[tokio::test]
async fn a_dead_letter_is_told_to_a_url_signed_and_in_the_same_record() {
    let gateway = gateway([Function::in_turn("env", [Answer::status(400).with_body("bad schema")])]).await;
    let receiver = CallbackReceiver::start().await.unwrap();
    receiver.fail_next("dead", 1, 503);
    let mut settings = settings(&gateway);
    settings.delivery.policy.backoff.min = Duration::from_millis(10);
    settings.delivery.on_dead_letter = Some(OnDeadLetter::Url(receiver.url("dead").into()));
    settings.callbacks.sign =
        Some(broker_config::SecretSource::Inline("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned().into()));
    let broker = Broker::start(Start { settings, ..Start::default() }).await;

    let id = broker
        .submit("env", |call| {
            call.headers.append("content-type", "text/plain");
            call.headers.append("authorization", "Bearer s3cret");
        })
        .await;
    broker.reaches(id, State::Dead).await;
    let copies = broker.followed(id).await;
    assert_eq!(copies.len(), 1, "there as soon as it is dead");
    assert_eq!(copies[0].invocation.origin, Origin::DeadLetter { of: id });

    let told = receiver.wait_for("dead", 2, SOON).await.unwrap().remove(1);
    broker.reaches(copies[0].invocation.id, State::Completed).await;
    assert_eq!((told.method.as_str(), told.text().as_str()), ("POST", "hello"));
    for (name, value) in [
        ("content-type", "text/plain"),
        ("evoke-dead-letter-id", id.to_string().as_str()),
        ("evoke-dead-letter-reason", "rejected"),
        ("evoke-dead-letter-detail", "status 400"),
        ("evoke-dead-letter-target", "function"),
        ("x-function-name", "env"),
        ("x-function-status", "400"),
        ("webhook-id", copies[0].invocation.id.to_string().as_str()),
        (broker_engine::CALLBACK_MARK, "1"),
    ] {
        assert_eq!(told.header(name), Some(value), "{name}");
    }
    assert!(told.header("webhook-signature").unwrap().starts_with("v1,"));
    assert!(told.header("authorization").is_none(), "what the caller told the function is not passed on");
    assert_eq!(receiver.count("dead"), 2);
    broker.assert_conserved();
}

#[tokio::test]
async fn dead_letters_go_to_no_address_that_callbacks_may_not_reach() {
    let gateway = gateway([
        quick(Function::in_turn("env", [Answer::status(400)])),
        quick(Function::in_turn("own", [Answer::status(400)])),
    ])
    .await;
    let receiver = CallbackReceiver::start().await.unwrap();
    gateway.annotate("env", "evoke.on-dead-letter", "http://169.254.169.254/latest");
    gateway.annotate("own", "evoke.on-dead-letter", &receiver.url("own"));
    let mut settings = settings(&gateway);
    // The receiver plays our own management API.
    settings.callbacks.own_listeners = vec![receiver.addr()];
    let broker = Broker::start(Start { settings, ..Start::default() }).await;

    for name in ["env", "own"] {
        let id = broker.call(name).await;
        broker.reaches(id, State::Dead).await;
        let copy = broker.followed(id).await.remove(0).invocation.id;
        let dead = broker.reaches(copy, State::Dead).await;
        assert_eq!(dead.dead_letter.unwrap().reason, Reason::CallbackDenied, "{name}");
        assert!(broker.followed(copy).await.is_empty(), "a copy that dies is told to nobody");
    }
    assert_eq!(receiver.count("own"), 0);
    broker.assert_conserved();
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_dropped() {
    let gateway =
        gateway([quick(Function::in_turn("env", [Answer::cut("begin", 100), Answer::ok("whole")]))]).await;
    let broker = start(&gateway).await;

    let id = broker.call("env").await;
    let record = broker.reaches(id, State::Completed).await;

    assert!(matches!(outcomes(&record)[0], Outcome::Dropped(_)));
}

#[tokio::test]
async fn connections_are_reused_and_one_that_went_stale_costs_no_attempt() {
    let gateway = gateway([Function::echo("env")]).await;
    let broker = start(&gateway).await;
    for _ in 0..10 {
        let id = broker.call("env").await;
        broker.reaches(id, State::Completed).await;
    }
    let connections: std::collections::BTreeSet<u64> =
        gateway.calls("env").iter().map(|call| call.connection).collect();
    assert_eq!(connections.len(), 1);

    gateway.cut_connections();
    tokio::task::yield_now().await;
    for _ in 0..5 {
        let id = broker.call("env").await;
        assert_eq!(broker.reaches(id, State::Completed).await.attempts.len(), 1);
    }
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_not_followed() {
    let gateway = gateway([
        Function::in_turn("env", [Answer::status(302).with_header("location", "/function/other")]),
        Function::echo("other"),
    ])
    .await;
    let receiver = CallbackReceiver::start().await.unwrap();
    let broker = start(&gateway).await;

    broker.submit("env", |call| call.callback_url = Some(receiver.url("cb").into())).await;

    let callback = receiver.wait_for("cb", 1, SOON).await.unwrap().remove(0);
    assert_eq!(callback.header("x-function-status"), Some("302"));
    assert_eq!(gateway.call_count("other"), 0);
}

#[tokio::test]
async fn a_large_body_is_streamed_from_the_store_unchanged() {
    let gateway = gateway([Function::echo("env")]).await;
    let broker = start(&gateway).await;
    let mut spool = broker.store.spool().await.unwrap();
    for n in 0..32u8 {
        spool.write(Bytes::from(vec![n; 64 * 1024])).await.unwrap();
    }
    let body = spool.finish().await.unwrap();
    assert!(matches!(body, Body::Stored(_)));

    let id = broker.submit("env", |call| call.body = body).await;
    broker.reaches(id, State::Completed).await;

    let call = gateway.calls("env").remove(0);
    assert_eq!(call.body_len, 2 * 1024 * 1024);
    assert_eq!(call.wire_headers.get("content-length").unwrap(), "2097152");
}

#[tokio::test]
async fn an_endless_answer_ends_at_the_limit() {
    let gateway =
        gateway([Function::in_turn("env", [Answer::trickle(vec![b'x'; 1024], Duration::ZERO, u64::MAX)])])
            .await;
    let mut settings = settings(&gateway);
    settings.response_limit = 64 * 1024;
    let broker = Broker::start(Start { settings, ..Start::default() }).await;
    let receiver = CallbackReceiver::start().await.unwrap();

    broker.submit("env", |call| call.callback_url = Some(receiver.url("cb").into())).await;

    let callback = receiver.wait_for("cb", 1, SOON).await.unwrap().remove(0);
    assert_eq!((callback.body_len, callback.header("evoke-truncated")), (64 * 1024, Some("true")));
}

#[tokio::test]
async fn a_gateway_that_hangs_is_left_at_the_functions_timeout() {
    let gateway = gateway([quick(Function::echo("env"))
        .annotation("evoke.timeout", "100ms")
        .annotation("com.openfaas.retry.attempts", "0")])
    .await;
    let broker = start(&gateway).await;
    gateway.faults().always(Route::Function, Fault::Hang);

    let id = broker.call("env").await;
    let record = broker.reaches(id, State::Dead).await;

    assert_eq!(outcomes(&record), [Outcome::TimedOut]);
}

#[tokio::test]
async fn a_gateway_that_goes_and_comes_back_costs_nothing() {
    let gateway = gateway([Function::echo("env").annotation("com.openfaas.retry.attempts", "0")]).await;
    let broker = start(&gateway).await;
    gateway.go_down().await.unwrap();

    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(broker.call("env").await);
    }
    eventually(SOON, "the gateway to be known as down", async || {
        broker.engine.functions().gateway_down().is_some()
    })
    .await;
    gateway.come_back().await.unwrap();

    for id in ids {
        assert_eq!(broker.reaches(id, State::Completed).await.attempts.len(), 1);
    }
    assert_eq!(gateway.call_count("env"), 20);
}

#[tokio::test]
async fn tls_that_fails_is_an_unreachable_gateway() {
    let gateway = gateway([Function::echo("env")]).await;
    let mut settings = settings(&gateway);
    settings.gateway.url = Url::parse(&gateway.url().replace("http:", "https:")).unwrap();
    let broker = Broker::without_list(Start { settings, ..Start::default() }).await;

    let id = broker.call("env").await;
    let down =
        eventually(SOON, "the gateway to be down", async || broker.engine.functions().gateway_down()).await;

    assert!(down.last_error.contains("tls"), "{}", down.last_error);
    assert!(broker.find(id).await.attempts.is_empty());
}

#[tokio::test]
async fn a13_no_answer_of_the_gateway_but_a_list_changes_the_table() {
    let gateway = gateway([Function::echo("env").annotation("topic", "t")]).await;
    let broker = start(&gateway).await;
    let functions = broker.engine.functions();
    let known = |functions: &broker_engine::Functions| functions.table().get(&function("env")).is_some();

    for (route, fault, says) in [
        (Route::List, Fault::html(), "HTML"),
        (Route::List, Fault::Half, "functions"),
        (Route::List, Fault::unauthorized(), "401"),
        (Route::List, Fault::status(404), "404"),
        (Route::Namespaces, Fault::status(502), "502"),
        (Route::Namespaces, Fault::html(), "HTML"),
        (Route::List, Fault::drop_connection(), "cannot ask"),
    ] {
        gateway.faults().always(route.clone(), fault);
        eventually(SOON, says, async || {
            functions.last_problem().is_some_and(|last| last.problem.contains(says))
        })
        .await;
        gateway.faults().clear(&route);
        eventually(SOON, "a list again", async || functions.last_problem().is_none()).await;
        assert!(known(&functions), "{says}");
    }
    for empty in [Fault::null(), Fault::empty_list()] {
        gateway.faults().times(Route::List, 2, empty);
        let before = gateway.requests(&Route::List);
        gateway.wait_for_requests(&Route::List, before + 4, SOON).await.unwrap();
        assert!(known(&functions), "two empty lists remove nothing");
    }
    gateway.faults().always(Route::List, Fault::null());
    eventually(SOON, "the function to be gone after three lists without it", async || !known(&functions))
        .await;
}

#[tokio::test]
async fn a14_references_follow_the_namespaces_that_are_listed() {
    let gateway = DemoGateway::builder()
        .namespaces(["openfaas-fn", "dev"])
        .function(Function::echo("env"))
        .function(Function::echo("other").namespace("dev"))
        .start()
        .await
        .unwrap();
    let broker = start(&gateway).await;
    let references = || -> Vec<String> {
        broker
            .engine
            .functions()
            .table()
            .functions
            .values()
            .map(|function| function.reference.to_string())
            .collect()
    };
    assert_eq!(references(), ["env.openfaas-fn", "other.dev"]);

    for none in [Fault::json("[]"), Fault::null(), Fault::status(404)] {
        gateway.faults().always(Route::Namespaces, none);
        eventually(SOON, "bare names", async || references().first().is_some_and(|first| first == "env"))
            .await;
        gateway.faults().always(Route::Namespaces, Fault::json(r#"["openfaas-fn"]"#));
        eventually(SOON, "whole names", async || {
            references().first().is_some_and(|first| first == "env.openfaas-fn")
        })
        .await;
    }
    gateway.faults().always(Route::Namespaces, Fault::json(r#"["openfaas-fn","dev"]"#));
    eventually(SOON, "both again", async || references().len() == 2).await;
    gateway.faults().always(Route::ListOf("dev".into()), Fault::status(500));
    eventually(SOON, "the failing namespace to be named", async || {
        broker.engine.functions().last_problem().is_some_and(|last| last.problem.contains("\"dev\""))
    })
    .await;
    assert_eq!(references().len(), 2);
}

#[tokio::test]
async fn credentials_may_be_mounted_late_and_never_reach_a_function() {
    let gateway = DemoGateway::builder()
        .basic_auth("admin", "s3cret")
        .function(Function::echo("env"))
        .start()
        .await
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (user, password) = (directory.path().join("user"), directory.path().join("password"));
    let mut settings = settings(&gateway);
    settings.gateway.credentials = Some(broker_config::Credentials {
        username: broker_config::SecretSource::File(user.clone()),
        password: broker_config::SecretSource::File(password.clone()),
    });
    let gateway_settings = settings.gateway.clone();
    let broker = Broker::without_list(Start { settings, ..Start::default() }).await;
    let functions = broker.engine.functions();
    let mut loading = functions.loading();
    assert!(!*loading.borrow());
    assert!(count_functions(&gateway_settings).await.unwrap_err().to_string().contains("cannot read"));
    let says = |what: &'static str| {
        let functions = functions.clone();
        async move { functions.last_problem().is_some_and(|last| last.problem.contains(what)) }
    };
    eventually(SOON, "the missing file", async || says("cannot read").await).await;

    std::fs::write(&user, "admin\n").unwrap();
    std::fs::write(&password, "wrong\n").unwrap();
    eventually(SOON, "the refusal", async || says("401").await).await;
    std::fs::write(&password, "s3cret\n").unwrap();
    loading.wait_for(|loaded| *loaded).await.unwrap();
    assert_eq!(count_functions(&gateway_settings).await.unwrap(), 1);
    let id = broker.call("env").await;
    broker.reaches(id, State::Completed).await;

    assert!(gateway.calls("env")[0].wire_headers.get("authorization").is_none());
    assert!(!functions.last_problem().is_some_and(|last| last.problem.contains("s3cret")));
}

#[tokio::test]
async fn denied_callbacks_are_refused_as_literals_and_dead_as_names() {
    let gateway = gateway([Function::echo("env")]).await;
    let receiver = CallbackReceiver::start().await.unwrap();
    let mut settings = settings(&gateway);
    settings.callbacks.own_listeners = vec![receiver.addr()];
    settings.callbacks.deny = vec![broker_config::HostRule::parse("denied.example").unwrap()];
    let broker = Broker::start(Start { settings, ..Start::default() }).await;

    // The receiver plays our own management API.
    let literal = broker.try_submit("env", |call| call.callback_url = Some(receiver.url("cb").into())).await;
    assert!(matches!(literal, Err(SubmitRefusal::CallbackDenied { .. })));

    let by_name = receiver.url("cb").replace("127.0.0.1", "localhost");
    for url in [by_name.as_str(), "foo", "ftp://x/"] {
        let id = broker.submit("env", |call| call.callback_url = Some(url.into())).await;
        broker.reaches(id, State::Completed).await;
        let callback = broker.followed(id).await.remove(0);
        let dead = broker.reaches(callback.invocation.id, State::Dead).await;
        assert_eq!(dead.dead_letter.unwrap().reason, Reason::CallbackDenied, "{url}");
    }
    assert_eq!(receiver.count("cb"), 0);
    broker.assert_conserved();
}

#[tokio::test]
async fn a_server_that_closes_at_once_after_accepting_is_an_attempt_each_time() {
    let gateway = gateway([quick(Function::echo("env"))]).await;
    let broker = start(&gateway).await;
    gateway.cut_connections();
    gateway.set_door(Door::CloseAtOnce);

    let id = broker.call("env").await;
    let ended = tokio::time::timeout(SOON, async {
        eventually(secs(3600), "an end or a hold", async || {
            broker.find(id).await.state == State::Dead || broker.engine.functions().gateway_down().is_some()
        })
        .await;
    });
    ended.await.expect("it does not go round for ever");

    gateway.set_door(Door::Serve);
    let record = broker.find(id).await;
    assert!(record.attempts.len() <= 4);
}
