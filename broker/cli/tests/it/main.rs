//! The commands against a broker made of canned answers: what is asked, what is printed, what the exit code says.

mod broker;

use broker::Broker;
use broker_cli::{Command, Global, Screen};
use clap::Parser;

#[derive(Parser)]
#[command(name = "evoke")]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What a command printed, and its exit code.
#[derive(Debug, PartialEq, Eq)]
struct Ran {
    results: String,
    remarks: String,
    code: u8,
}

async fn evoke(url: &str, line: &[&str]) -> Ran {
    let arguments = Arguments::try_parse_from(["evoke", "--url", url].iter().chain(line)).expect("a command");
    let (mut results, mut remarks) = (Vec::new(), Vec::new());
    let mut screen = Screen::new(&arguments.global, &mut results, &mut remarks);
    let code = broker_cli::run_on(arguments.command, &arguments.global, &mut screen).await;
    drop(screen);
    let text = |bytes| String::from_utf8(bytes).expect("what is printed is UTF-8");
    Ran { results: text(results), remarks: text(remarks), code }
}

const ID: &str = "0190aaaa-bbbb-7ccc-8ddd-eeeeffff0001";

const DEAD: &str = r#"{"items":[{"id":"0190aaaa-bbbb-7ccc-8ddd-eeeeffff0001","state":"dead","target":"function","function":"env.openfaas-fn","call_id":"abc","origin":{"kind":"event","source":"bus","topic":"orders.created"},"queue":"faas-request","life":1,"attempts":4,"body_bytes":2,"accepted_at":"2023-11-14T22:13:20.000Z","next_attempt_at":null,"ended_at":"2023-11-14T22:14:20.000Z","waiting_reason":null,"reason":"exhausted","detail":"status 500 \u001b[2J","status":500,"died_at":"2023-11-14T22:14:20.000Z","redrivable":true}],"next":"c1"}"#;

#[tokio::test]
async fn a_list_is_a_table_for_people_and_says_that_there_is_more() {
    let broker = Broker::answering(200, DEAD).await;

    let ran = evoke(broker.url(), &["dead-letters", "list", "--function", "env", "--limit", "1"]).await;

    assert_eq!(broker.asked(), ["GET /v1/dead-letters?function=env&limit=1"]);
    assert_eq!(
        ran.results,
        "\
INVOCATION                            REASON     TARGET           STATUS  ATTEMPTS  DIED                      CALL ID  DETAIL
0190aaaa-bbbb-7ccc-8ddd-eeeeffff0001  exhausted  env.openfaas-fn  500     4         2023-11-14T22:14:20.000Z  abc      status 500 \\u{1b}[2J
"
    );
    assert_eq!((ran.remarks.as_str(), ran.code), ("there are more: --cursor c1\n", 0));
}

#[tokio::test]
async fn json_is_what_the_api_gave_byte_for_byte() {
    let broker = Broker::answering(200, DEAD).await;

    let ran = evoke(broker.url(), &["--output", "json", "--quiet", "dead-letters", "list"]).await;

    assert_eq!(ran, Ran { results: format!("{DEAD}\n"), remarks: String::new(), code: 0 });
}

#[tokio::test]
async fn a_problem_is_printed_with_its_remedy_and_decides_the_exit_code() {
    let missing =
        broker_api::Problem::new(broker_api::ProblemKind::DeadLetterNotFound, "x is no dead letter");
    let ended = broker_api::Problem::new(broker_api::ProblemKind::AlreadyEnded, "x has ended");
    let of = |problem: &broker_api::Problem| serde_json::to_string(problem).expect("a problem is JSON");
    let not_found = Broker::answering(404, &of(&missing)).await;
    let conflict = Broker::answering(409, &of(&ended)).await;

    let shown = evoke(not_found.url(), &["dead-letters", "show", ID]).await;
    let cancelled = evoke(conflict.url(), &["invocations", "cancel", ID]).await;

    assert_eq!(shown.code, 3);
    assert_eq!(
        shown.remarks,
        "evoke: dead letter not found: x is no dead letter\n  see `evoke dead-letters list`; a redriven or removed \
         one is no dead letter any more\n"
    );
    assert_eq!(cancelled.code, 1);
    assert_eq!(conflict.asked(), [format!("POST /v1/invocations/{ID}/cancel")]);
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_exit_code_4() {
    let ran = evoke("http://127.0.0.1:9", &["info"]).await;

    assert_eq!(ran.code, 4);
    assert!(
        ran.remarks.starts_with("evoke: cannot reach the broker at http://127.0.0.1:9/"),
        "{}",
        ran.remarks
    );
    assert!(ran.remarks.contains("EVOKE_URL"), "{}", ran.remarks);
}

#[tokio::test]
async fn wrong_usage_is_exit_code_2() {
    for line in [
        &["dead-letters", "remove", ID] as &[_],
        &["invoke", "env", "--data", "@/nonexistent/file"],
        &["invoke", "env", "--header", "novalue"],
    ] {
        assert_eq!(evoke("http://127.0.0.1:9", line).await.code, 2, "{line:?}");
    }
    assert_eq!(evoke("no url", &["info"]).await.code, 2);
    assert!(Arguments::try_parse_from(["evoke", "dead-letters", "redrive"]).is_err());
    assert!(Arguments::try_parse_from(["evoke", "dead-letters", "redrive", ID, "--dry-run"]).is_err());
    assert!(Arguments::try_parse_from(["evoke", "invoke", "x", "--wait", "soon"]).is_err());
}

#[tokio::test]
async fn something_else_at_the_url_is_said_so() {
    let broker = Broker::answering(200, "<html>hello</html>").await;

    let ran = evoke(broker.url(), &["info"]).await;

    assert_eq!(ran.code, 1);
    assert!(ran.remarks.contains("not the API's"), "{}", ran.remarks);
}

#[tokio::test]
async fn an_invoke_sends_what_was_asked_and_prints_the_ids() {
    let broker = Broker::answering(202, "")
        .await
        .with_header("evoke-invocation-id", ID)
        .with_header("x-call-id", "abc")
        .with_header("evoke-durability", "fsync")
        .with_header("evoke-warning", "function-not-listed");

    let line = [
        "invoke",
        "env/a%2Fb?x=1",
        "-d",
        "hello",
        "-H",
        "X-A: 1",
        "--delay",
        "90s",
        "--callback",
        "http://cb/",
    ];
    let ran = evoke(broker.url(), &line).await;

    assert_eq!(broker.asked(), ["POST /async-function/env/a%2Fb?x=1"]);
    let request = broker.last();
    assert_eq!(request.body, "hello");
    for (name, value) in [("x-a", "1"), ("evoke-delay", "1m30s"), ("x-callback-url", "http://cb/")] {
        assert_eq!(request.headers.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert_eq!(
        ran,
        Ran {
            results: format!("invocation  {ID}\ncall id     abc\ndurability  fsync\n"),
            remarks: "the gateway does not list this function; the call waits for it\n".into(),
            code: 0,
        }
    );
}

#[tokio::test]
async fn an_awaited_result_is_the_functions_own_and_failing_is_exit_code_1() {
    let answer = |state| async move {
        Broker::answering(500, "oops")
            .await
            .with_header("evoke-invocation-id", ID)
            .with_header("evoke-state", state)
    };
    let (done, dead) = (answer("completed").await, answer("dead").await);

    let completed = evoke(done.url(), &["invoke", "env", "--wait", "1500ms"]).await;
    let given_up = evoke(dead.url(), &["invoke", "env", "--wait", "2s"]).await;

    assert_eq!(done.last().headers.get("prefer").map(String::as_str), Some("wait=2"));
    assert_eq!((completed.results.as_str(), completed.code), ("oops", 0));
    assert_eq!((given_up.results.as_str(), given_up.code), ("oops", 1));
    assert!(completed.remarks.contains("completed, status 500"), "{}", completed.remarks);
}

#[tokio::test]
async fn a_refused_call_says_what_the_front_said() {
    let broker = Broker::answering(404, "Error queuing request: no function can have this name\n").await;

    let ran = evoke(broker.url(), &["invoke", "a:b"]).await;

    assert_eq!(ran.code, 3);
    assert_eq!(ran.remarks, "evoke: Error queuing request: no function can have this name\n");
}

#[tokio::test]
async fn a_published_event_shows_what_runs() {
    let receipt =
        format!(r#"{{"invocations":[{{"function":"env.openfaas-fn","id":"{ID}"}}],"duplicate":false}}"#);
    let wanted = Broker::answering(202, &receipt).await;
    let unwanted = Broker::answering(202, r#"{"invocations":[],"duplicate":false}"#).await;

    let ran = evoke(wanted.url(), &["publish", "orders.created", "-d", "{}", "-H", "a:1", "-H", "a:2"]).await;
    let nobody = evoke(unwanted.url(), &["publish", "t"]).await;

    assert_eq!(wanted.last().body, r#"{"topic":"orders.created","headers":{"a":["1","2"]},"body":"{}"}"#);
    assert_eq!(ran.results, format!("FUNCTION         INVOCATION\nenv.openfaas-fn  {ID}\n"));
    assert_eq!((nobody.results.as_str(), nobody.remarks.as_str()), ("", "received; no function wants it\n"));
}

#[tokio::test]
async fn many_are_redriven_by_function_and_reason() {
    let broker = Broker::answering(202, r#"{"redriven":3,"skipped":1,"dry_run":false}"#).await;

    let line = ["dead-letters", "redrive", "--function", "env", "--reason", "exhausted"];
    let ran = evoke(broker.url(), &line).await;

    assert_eq!(broker.asked(), ["POST /v1/dead-letters/redrive"]);
    assert_eq!(broker.last().body, r#"{"filter":{"function":"env","reason":"exhausted"},"dry_run":false}"#);
    assert_eq!(ran.results, "redriven        3\nnothing to run  1\n");
}

#[tokio::test]
async fn names_and_ids_cannot_leave_their_segment() {
    let broker = Broker::answering(200, r#"{"name":"x","paused":true}"#).await;

    evoke(broker.url(), &["functions", "pause", "../info?x#y"]).await;

    assert_eq!(broker.asked(), ["POST /v1/functions/..%2Finfo%3Fx%23y/pause"]);
}

#[tokio::test]
async fn a_body_comes_as_it_is() {
    let broker = Broker::answering(200, "raw \u{1b}[0m bytes").await;

    let ran = evoke(broker.url(), &["invocations", "body", ID]).await;

    assert_eq!(ran.results, "raw \u{1b}[0m bytes");
}

#[tokio::test]
async fn credentials_come_from_the_url_or_from_files() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "t0ken\n").expect("written");
    let path = file.path().to_str().expect("a UTF-8 path");
    let broker = Broker::answering(200, r#"{"items":[],"next":null}"#).await;

    let with_user = broker.url().replace("http://", "http://admin:p%40ss@");
    evoke(&with_user, &["triggers", "list"]).await;
    assert_eq!(
        broker.last().headers.get("authorization").map(String::as_str),
        Some("Basic YWRtaW46cEBzcw==")
    );

    let ran = evoke(broker.url(), &["--token-file", path, "triggers", "list"]).await;
    assert_eq!(broker.last().headers.get("authorization").map(String::as_str), Some("Bearer t0ken"));
    assert_eq!((ran.results.as_str(), ran.remarks.as_str()), ("", "none\n"));

    evoke(broker.url(), &["--user", "admin", "--password-file", path, "triggers", "list"]).await;
    assert_eq!(
        broker.last().headers.get("authorization").map(String::as_str),
        Some("Basic YWRtaW46dDBrZW4=")
    );
}
