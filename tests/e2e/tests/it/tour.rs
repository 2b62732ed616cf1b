//! The README's tour and the guides, followed line by line.
//!
//! Each command runs in a shell with `evoke` in its path and nothing set but where the broker answers, once everything
//! before it has ended; what it prints must be what the page shows, but for what no two runs share (`transcript`).
//! `BLESS=1` writes what the run printed into the README.

use std::net::SocketAddr;
use std::path::Path;

use broker_demo_gateway::{DemoGateway, Function};
use serde_json::Value;
use tempfile::TempDir;
use testkit::process::{Process, Program};
use testkit::servers::NatsServer;
use testkit::time::eventually;

use crate::broker::{SOON, Said, address, evoke, evoke_binary};
use crate::demo::Demo;
use crate::transcript::{Ids, blocks, page};

/// Runs a line of a page as a shell would, in this directory.
pub(crate) async fn shell(line: &str, directory: &Path, url: &str) -> Said {
    let programs = evoke_binary().parent().expect("a folder").display().to_string();
    let path = format!("{programs}:{}", std::env::var("PATH").expect("a PATH"));
    let mut command = tokio::process::Command::new("sh");
    command.arg("-c").arg(line).current_dir(directory).env_clear().env("PATH", path).env("EVOKE_URL", url);
    // Where what was installed is kept.
    let cache =
        ["HOME", "XDG_CACHE_HOME"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    command.envs(cache);
    let running = command.stdin(std::process::Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(SOON, running).await;
    let output = output.unwrap_or_else(|_| panic!("{line} did not end")).expect("a shell");
    Said {
        code: output.status.code().expect("it ends by itself"),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}

/// Waits until nothing is under way at the broker.
async fn quiet(url: &str) {
    eventually(SOON, "everything to have ended", async || {
        let said = evoke(&["--url", url, "--output", "json", "info"]).await;
        let held = serde_json::from_str::<Value>(&said.out).map(|info| info["ledger"]["held"].clone());
        if held.as_ref().is_ok_and(|held| *held == 0) { Ok(()) } else { Err(format!("{said:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_readmes_tour_prints_what_the_readme_shows() {
    let demo = Demo::start(&[]).await;
    let (url, port) = (format!("http://127.0.0.1:{}", demo.port), demo.port);
    // The README's ports are those of a demo that was told none.
    let ports: Vec<(String, String)> = (0..4)
        .map(|offset| (format!("127.0.0.1:{}", 8090 + offset), format!("127.0.0.1:{}", port + offset)))
        .collect();
    let to_run = |text: &str| ports.iter().fold(text.to_owned(), |text, (page, run)| text.replace(page, run));
    let to_page =
        |text: &str| ports.iter().fold(text.to_owned(), |text, (page, run)| text.replace(run, page));
    let (path, readme) = page("README.md");
    let mut lines: Vec<String> = readme.lines().map(str::to_owned).collect();
    let mut ids = Ids::default();
    let (mut ran, mut differ) = (0, Vec::new());

    // What a block becomes may be longer or shorter; from the last to the first, no place moves before its turn.
    let mut blessed = Vec::new();
    for block in blocks(&readme, Some("## Five minutes")) {
        let steps = block.steps();
        let mut now = Vec::new();
        for step in &steps {
            quiet(&url).await;
            let command = ids.in_run(&to_run(&step.command));
            // A terminal shows both outputs as they come; curl tells its progress only when nobody watches.
            let both = if command.starts_with("curl ") { "" } else { "exec 2>&1; " };
            let said = shell(&format!("{both}{command}"), demo.directory(), &url).await;
            assert_eq!(said.code, 0, "{command}: {said:?}");
            let printed: Vec<String> = said.out.lines().map(|line| to_page(line.trim_end())).collect();
            // A head ends with an empty line, which a page need not show.
            let printed = match printed.split_last() {
                Some((last, head)) if last.is_empty() => head.to_vec(),
                _ => printed,
            };
            if let Err(why) = ids.agree(&step.printed, &printed) {
                differ.push(format!("$ {command}\n{why}"));
            }
            now.push(format!("$ {}", to_page(&command)));
            now.extend(printed);
            ran += 1;
        }
        if steps.is_empty() {
            quiet(&url).await;
            let expected: Vec<String> = block.lines.iter().map(|line| ids.in_run(line)).collect();
            let call = expected[0].split(" call ").nth(1).and_then(|rest| rest.get(..36)).expect("a call id");
            // Beside these it logs what Evoke says.
            let lines = demo.lines().into_iter();
            now = lines.filter(|line| line.starts_with("    ") && line.contains(call)).collect();
            if let Err(why) = ids.agree(&block.lines, &now) {
                differ.push(format!("the demo's terminal: {why}"));
            }
        }
        blessed.push((block.at..block.at + block.lines.len(), now));
    }

    assert!(ran >= 9, "the tour has {ran} commands");
    if std::env::var_os("BLESS").is_some() {
        for (range, now) in blessed.into_iter().rev() {
            lines.splice(range, now);
        }
        std::fs::write(path, lines.join("\n") + "\n").unwrap();
    } else {
        assert!(differ.is_empty(), "{}\nBLESS=1 writes what was printed into the README", differ.join("\n"));
    }
}

/// `evoke serve` as the README says it, at addresses that are free.
struct Beside {
    process: Process,
    gateway: DemoGateway,
    _nats: NatsServer,
    directory: TempDir,
    http: SocketAddr,
    metrics: SocketAddr,
}

impl Beside {
    /// Writes the README's file, checks it as the README says, and starts with it.
    async fn start() -> Beside {
        let directory = tempfile::tempdir().unwrap();
        let gateway = DemoGateway::start([Function::fail("resize", 500)
            .annotation("com.openfaas.retry.attempts", "0")
            .annotation("topic", "orders.created")])
        .await
        .unwrap();
        let nats = NatsServer::start().await;
        let (http, metrics) = (address(), address());
        let (_, readme) = page("README.md");
        let blocks = blocks(&readme, Some("## Beside your gateway"));
        let file = blocks[0].lines.join("\n");
        let file = file
            .replace("127.0.0.1:8090", &http.to_string())
            .replace("127.0.0.1:8081", &metrics.to_string())
            .replace("http://127.0.0.1:8080", &gateway.url())
            .replace("nats://127.0.0.1:4222", &nats.url());
        std::fs::write(directory.path().join("evoke.yaml"), file).unwrap();
        let commands = &blocks[1].lines;
        assert_eq!(commands[0], "evoke check --config evoke.yaml --online");
        let checked = shell(&commands[0], directory.path(), "").await;
        assert_eq!(checked.code, 0, "{checked:?}");
        let mut serve = commands[1].split(' ');
        assert_eq!(serve.next(), Some("evoke"));
        let program = Program::new(evoke_binary()).arguments(serve.collect::<Vec<_>>());
        let mut process = program.directory(directory.path()).start();
        process.ready(http, "/readyz", SOON).await;
        Beside { process, gateway, _nats: nats, directory, http, metrics }
    }

    fn url(&self) -> String {
        format!("http://{}", self.http)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_of_the_guides_runs() {
    let broker = Beside::start().await;
    let url = broker.url();
    for _ in 0..2 {
        let said = shell("evoke invoke resize --data picture", broker.directory.path(), &url).await;
        assert_eq!(said.code, 0, "{said:?}");
    }
    eventually(SOON, "two dead letters", async || broker.gateway.call_count("resize") == 2).await;
    quiet(&url).await;
    let listed = evoke(&["--url", &url, "--output", "json", "dead-letters", "list"]).await;
    let listed: Value = serde_json::from_str(&listed.out).unwrap();
    let dead = listed["items"][0]["id"].as_str().unwrap().to_owned();
    let guides = ["docs/guides/getting-started.md", "docs/guides/retries-and-dead-letters.md"];
    let mut ran = 0;

    for guide in guides {
        let (_, text) = page(guide);
        for block in blocks(&text, None) {
            for line in block.lines.iter().filter(|line| line.starts_with("evoke ")) {
                // The broker that everything else is asked of.
                if line.starts_with("evoke serve ") {
                    continue;
                }
                quiet(&url).await;
                let command = line.replace(" ID", &format!(" {dead}"));
                let said = shell(&command, broker.directory.path(), &url).await;
                assert_eq!(said.code, 0, "{guide}: {command}: {said:?}");
                ran += 1;
            }
        }
        // What a sentence says in passing, too.
        let inline = text.split('`').skip(1).step_by(2).filter(|code| code.starts_with("evoke "));
        for code in inline.filter(|code| !["NAME", "ID", "\n"].iter().any(|part| code.contains(part))) {
            let said = shell(code, broker.directory.path(), &url).await;
            assert_eq!(said.code, 0, "{guide}: {code}: {said:?}");
            ran += 1;
        }
    }

    assert!(ran >= 12, "the guides have {ran} commands");
    quiet(&url).await;
    assert!(broker.process.id().is_some());
    let metrics = shell(&format!("curl -s http://{}/metrics", broker.metrics), Path::new("/"), "").await;
    assert!(metrics.out.contains("evoke_ledger_drift 0"), "{}", metrics.out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_configuration_a_page_shows_is_one() {
    let directory = tempfile::tempdir().unwrap();
    let mut checked = 0;
    for path in ["README.md", "docs/guides/getting-started.md", "docs/guides/retries-and-dead-letters.md"] {
        let (_, text) = page(path);
        let is_annotations = |block: &[String]| block[0].contains("annotations");
        for block in blocks(&text, None) {
            if block.language != "yaml" || is_annotations(&block.lines) {
                continue;
            }
            std::fs::write(directory.path().join("evoke.yaml"), block.lines.join("\n")).unwrap();

            let said = shell("evoke check --config evoke.yaml", directory.path(), "").await;

            assert_eq!(said.code, 0, "{path}, line {}: {said:?}", block.at);
            checked += 1;
        }
    }
    assert!(checked >= 3, "{checked} configurations");
}
