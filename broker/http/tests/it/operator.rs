//! The operator's commands against the real API: what one side writes, the other reads.

use broker_cli::{Command, Global, Screen};
use clap::Parser;
use serde_json::Value;

use crate::fixture::Broker;

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Results, remarks and exit code of a command.
pub(crate) async fn evoke(broker: &Broker, line: &[&str]) -> (String, String, u8) {
    let url = broker.url("");
    let arguments =
        Arguments::try_parse_from(["evoke", "--url", &url].iter().chain(line)).expect("a command");
    let (mut results, mut remarks) = (Vec::new(), Vec::new());
    let mut screen = Screen::new(&arguments.global, &mut results, &mut remarks);
    let code = broker_cli::run_on(arguments.command, &arguments.global, &mut screen).await;
    drop(screen);
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (text(results), text(remarks), code)
}

#[tokio::test]
async fn every_command_reads_what_the_api_writes() {
    let broker = Broker::start().await;

    let (result, _, code) = evoke(&broker, &["invoke", "echo", "-d", "hello", "--wait", "20s"]).await;
    assert_eq!((result.as_str(), code), ("hello", 0));
    let (result, remarks, code) =
        evoke(&broker, &["invoke", "fail", "-d", "no", "--wait", "20s", "--call-id", "c1"]).await;
    assert_eq!((result.as_str(), code), ("always 500\n", 1), "{remarks}");
    let (result, _, code) = evoke(&broker, &["--output", "json", "invoke", "echo", "--delay", "1h"]).await;
    assert_eq!(code, 0);
    let later: Value = serde_json::from_str(&result).unwrap();
    let later = later["id"].as_str().unwrap();
    let (result, _, code) = evoke(&broker, &["publish", "orders.created", "-d", "{}"]).await;
    assert!(code == 0 && result.contains("echo.openfaas-fn"), "{result}");

    let (result, _, code) =
        evoke(&broker, &["--output", "json", "dead-letters", "list", "--function", "fail"]).await;
    assert_eq!(code, 0);
    assert_eq!(
        serde_json::from_str::<Value>(&result).unwrap(),
        broker.get("/v1/dead-letters?function=fail").await.1
    );
    let dead: Value = serde_json::from_str(&result).unwrap();
    let dead = dead["items"][0]["id"].as_str().unwrap();

    for (line, said) in [
        (&["info"] as &[&str], "ACCEPTED"),
        (&["functions", "list"], "echo.openfaas-fn"),
        (&["functions", "show", "echo"], "orders.created"),
        (&["functions", "pause", "env"], "paused"),
        (&["functions", "resume", "env"], "running"),
        (&["triggers", "list"], "orders.created"),
        (&["sources", "list"], "connected"),
        (&["sources", "show", "bus"], "orders.lost"),
        (&["sources", "pause", "bus"], "paused"),
        (&["sources", "resume", "bus"], "running"),
        (&["sources", "reset-position", "bus"], "3"),
        (&["invocations", "list", "--state", "dead"], dead),
        (&["invocations", "list", "--call-id", "c1"], dead),
        (&["invocations", "show", later], "scheduled"),
        (&["invocations", "body", dead], "no"),
        (&["invocations", "cancel", later], "waiting"),
        (&["dead-letters", "list", "--reason", "exhausted"], dead),
        (&["dead-letters", "show", dead], "attempt 1"),
        (&["dead-letters", "body", dead], "no"),
        (&["dead-letters", "redrive", "--function", "fail", "--dry-run"], "would redrive"),
    ] {
        let (result, remarks, code) = evoke(&broker, line).await;
        assert_eq!(code, 0, "{line:?}: {remarks}");
        assert!(result.contains(said), "{line:?}: {result}");
    }

    let (_, remarks, code) = evoke(&broker, &["dead-letters", "remove", dead, "--yes"]).await;
    assert_eq!((remarks, code), (format!("removed {dead}\n"), 0));
    for line in [
        &["dead-letters", "redrive", dead] as &[&str],
        &["dead-letters", "show", dead],
        &["functions", "show", "nobody"],
        &["sources", "show", "nobody"],
        &["invocations", "show", "0190aaaa-bbbb-7ccc-8ddd-eeeeffff0001"],
    ] {
        assert_eq!(evoke(&broker, line).await.2, 3, "{line:?}");
    }
    assert_eq!(evoke(&broker, &["invocations", "cancel", later]).await.2, 1);
    assert_eq!(evoke(&broker, &["invocations", "list", "--state", "lost"]).await.2, 1);

    broker.stop().await;
}
