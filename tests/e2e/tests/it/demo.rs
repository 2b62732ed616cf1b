//! `evoke demo`, followed as its own words say.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use testkit::process::{Process, Program};
use testkit::time::eventually;

use crate::broker::{SOON, address, evoke, evoke_binary};

/// A demo at work, with a temporary directory of its own to leave things in.
pub(crate) struct Demo {
    process: Process,
    /// The first of its four ports.
    pub(crate) port: u16,
    temporary: TempDir,
}

impl Demo {
    pub(crate) async fn start(arguments: &[&str]) -> Demo {
        Demo::start_in(tempfile::tempdir().unwrap(), arguments, &[]).await
    }

    /// One in this directory, with these variables.
    pub(crate) async fn start_in(temporary: TempDir, arguments: &[&str], variables: &[(&str, &str)]) -> Demo {
        let port = ports_in_a_row(4);
        let program = Program::new(evoke_binary())
            .argument("demo")
            .arguments(["--port", &port.to_string()])
            .arguments(arguments)
            .directory(temporary.path())
            .environment("TMPDIR", temporary.path());
        let process =
            variables.iter().fold(program, |program, (name, value)| program.environment(name, value)).start();
        process.wait_for_line("Stop with Ctrl-C", SOON);
        Demo { process, port, temporary }
    }

    /// What its terminal shows.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.process.log()
    }

    /// A directory to be in that goes with it.
    pub(crate) fn directory(&self) -> &Path {
        self.temporary.path()
    }

    /// The commands it prints, each as a shell would read it.
    fn commands(&self) -> Vec<String> {
        let binary = evoke_binary();
        let is_command = |line: &str| line.starts_with("curl ") || line.starts_with(binary.to_str().unwrap());
        let lines = self.process.log();
        lines.iter().map(|line| line.trim()).filter(|line| is_command(line)).map(str::to_owned).collect()
    }

    /// Runs the printed command that has all these words.
    async fn follow(&self, words: &[&str]) -> String {
        let commands = self.commands();
        let command = commands.iter().find(|command| words.iter().all(|word| command.contains(word)));
        let command = command
            .unwrap_or_else(|| panic!("nothing printed with {words:?} among\n{}", commands.join("\n")));
        let mut shell = tokio::process::Command::new("sh");
        let running = shell.arg("-c").arg(command).kill_on_drop(true).output();
        let output = tokio::time::timeout(SOON, running).await.expect("it ends").unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// An operator's command against it, as JSON.
    async fn json(&self, arguments: &[&str]) -> Value {
        let url = format!("http://127.0.0.1:{}", self.port);
        let said = evoke(&[&["--url", &url, "--output", "json"], arguments].concat()).await;
        serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"))
    }

    /// Waits until its live output has a line with all these words.
    async fn shows(&self, words: &[&str]) {
        eventually(SOON, &format!("a line with {words:?}"), async || {
            let lines = self.process.log();
            let shown = lines.iter().any(|line| words.iter().all(|word| line.contains(word)));
            if shown { Ok(()) } else { Err(lines.join("\n")) }
        })
        .await;
    }
}

/// The first of so many ports in a row that nobody listens on.
pub(crate) fn ports_in_a_row(many: u16) -> u16 {
    loop {
        let first = address().port();
        let free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
        if (first + 1..first + many).all(free) {
            return first;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_does_what_it_says_and_leaves_nothing_behind() {
    let mut demo = Demo::start(&[]).await;

    let echo = demo.follow(&["curl", "/echo"]).await;
    assert!(echo.starts_with("HTTP/1.1 202 ") && echo.to_lowercase().contains("x-call-id: "), "{echo}");
    demo.shows(&["echo", "200"]).await;

    let flaky = demo.follow(&["curl", "/flaky", "X-Callback-Url"]).await;
    assert!(flaky.starts_with("HTTP/1.1 202 "), "{flaky}");
    demo.shows(&["flaky", "500"]).await;
    demo.shows(&["result", "200"]).await;

    let waited = demo.follow(&["curl", "/slow", "Prefer: wait"]).await;
    assert!(waited.starts_with("HTTP/1.1 200 ") && waited.ends_with("take your time"), "{waited}");
    assert!(waited.to_lowercase().contains("evoke-state: completed"), "{waited}");

    let fail = demo.follow(&["curl", "/fail"]).await;
    assert!(fail.starts_with("HTTP/1.1 202 "), "{fail}");
    eventually(SOON, "its dead letter", async || {
        let dead = demo.json(&["dead-letters", "list", "--function", "fail"]).await;
        dead["items"].as_array().is_some_and(|items| !items.is_empty())
    })
    .await;
    let dead = demo.follow(&["dead-letters list"]).await;
    assert!(dead.contains("fail") && dead.contains("exhausted"), "{dead}");

    let published = demo.follow(&["publish", "orders.created", "id"]).await;
    for function in ["orders-mailer", "orders-invoice", "orders-schema", "audit"] {
        assert!(published.contains(function), "{published}");
        demo.shows(&[function, "orders.created"]).await;
    }
    demo.follow(&["publish", "orders.created", "no order at all"]).await;
    eventually(SOON, "the order that is none", async || {
        let dead = demo.json(&["dead-letters", "list", "--function", "orders-schema"]).await;
        dead["items"][0]["reason"] == "rejected"
    })
    .await;

    assert!(demo.follow(&["schedules list"]).await.contains("@every 5m"));
    assert!(demo.follow(&["schedules run"]).await.contains("clock.openfaas-fn"));
    demo.shows(&["clock", "cron-function"]).await;
    assert!(demo.follow(&["functions list"]).await.contains("orders-invoice"));
    assert!(demo.follow(&["invocations list"]).await.contains("echo"));
    assert!(demo.follow(&[" info"]).await.contains("ACCEPTED"));
    let ran: Vec<String> = demo.commands();
    assert_eq!(ran.len(), 12, "each printed command was followed: {ran:?}");
    eventually(SOON, "everything to have ended", async || demo.json(&["info"]).await["ledger"]["held"] == 0)
        .await;

    demo.process.signal(Signal::INT);

    assert_eq!(demo.process.wait(SOON).code(), Some(0));
    let left: Vec<_> =
        std::fs::read_dir(demo.temporary.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left, [] as [&Path; 0], "nothing is left where it kept its data");
    for port in demo.port..demo.port + 4 {
        assert!(std::net::TcpListener::bind(("127.0.0.1", port)).is_ok(), "port {port} is free again");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demo_in_a_named_directory_goes_on_where_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    let named = folder.path().join("kept");
    let mut demo = Demo::start(&["--dir", named.to_str().unwrap()]).await;
    demo.follow(&["curl", "/fail"]).await;
    eventually(Duration::from_secs(60), "its dead letter", async || {
        demo.json(&["info"]).await["ledger"]["dead"] == 1
    })
    .await;

    demo.process.signal(Signal::INT);
    assert_eq!(demo.process.wait(SOON).code(), Some(0));
    let demo = Demo::start(&["--dir", named.to_str().unwrap()]).await;

    let dead = demo.json(&["dead-letters", "list"]).await;
    assert_eq!(dead["items"].as_array().unwrap().len(), 1);
    assert_eq!(demo.json(&["info"]).await["ledger"]["drift"], 0);
}
