//! The tour of all sources, `docs/guides/sources.md`, followed line by line against the real servers.
//!
//! The page is the script: its commands start the servers, make what their owners make, deploy functions through the gateway,
//! publish with each upstream's own programs and end the servers. What the page shows of `evoke` must be what it prints,
//! and each line it shows of the demo's terminal must come. `BLESS=1` writes what `evoke` printed into the page.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use testkit::time::eventually;

use crate::broker::{SOON, evoke_binary};
use crate::demo::{Demo, ports_in_a_row};
use crate::tour::shell;
use crate::transcript::{Block, Ids, blocks, page};

const PAGE: &str = "docs/guides/sources.md";

/// The ports of the page, and how many in a row each server takes.
const PORTS: [(&str, u16, u16); 7] = [
    ("kafka", 9092, 2),
    ("elasticmq", 9324, 1),
    ("rabbitmq", 5672, 3),
    ("mosquitto", 1883, 1),
    ("nats", 4222, 2),
    ("minio", 9000, 1),
    // What Evoke listens on for others: 8095 and 8096.
    ("evoke", 8095, 2),
];

/// Where the page's servers and ports are in this run.
struct Places {
    first: BTreeMap<&'static str, u16>,
    /// The program behind `tests/servers`.
    servers: PathBuf,
    directory: PathBuf,
    demo: Option<u16>,
}

impl Places {
    fn new(directory: &Path) -> Places {
        let first = PORTS.map(|(name, _, many)| (name, ports_in_a_row(many)));
        Places {
            first: BTreeMap::from(first),
            servers: evoke_binary().with_file_name("servers"),
            directory: directory.to_owned(),
            demo: None,
        }
    }

    /// Each port of the page with the one of this run.
    fn ports(&self) -> Vec<(u16, u16)> {
        let servers = PORTS.iter().flat_map(|(name, port, many)| {
            let first = self.first[name];
            (0..*many).map(move |offset| (port + offset, first + offset))
        });
        let demo = self.demo.into_iter().flat_map(|first| (0..4).map(move |n| (8090 + n, first + n)));
        servers.chain(demo).collect()
    }

    /// A text of the page with the ports of this run.
    fn in_run(&self, text: &str) -> String {
        let ports = self.ports();
        ports.iter().fold(text.to_owned(), |text, (page, run)| {
            // Ports behind a host, or as an option: other numbers of the page are no ports.
            text.replace(&format!(":{page}"), &format!(":{run}"))
                .replace(&format!("-p {page}"), &format!("-p {run}"))
        })
    }

    /// A command of the page as it runs here: a server gets its port, which the page leaves to the default.
    fn command(&self, line: &str) -> String {
        let line = self.in_run(line);
        let Some(rest) = line.strip_prefix("tests/servers ") else { return line };
        let words: Vec<&str> = rest.splitn(4, ' ').collect();
        let program = self.servers.display();
        match words.as_slice() {
            ["start", name, folder, rest @ ..] => {
                format!("{program} start {name} {folder} {} {}", self.first[name], rest.join(" "))
            }
            _ => format!("{program} {rest}"),
        }
    }
}

impl Drop for Places {
    /// A test that fails in the middle leaves no server behind.
    fn drop(&mut self) {
        for (name, ..) in PORTS {
            let folder = self.directory.join("tour").join(name);
            if folder.join("server.json").exists() {
                let _ = Command::new(&self.servers).arg("stop").arg(&folder).output();
            }
        }
    }
}

/// Runs the commands of a block. What those of `evoke` print is what the page shows, in the end: what they ask about
/// may still be on its way. What others print is theirs.
async fn follow(
    block: &Block,
    places: &Places,
    url: &str,
    ids: &mut Ids,
) -> (usize, Vec<String>, Vec<String>) {
    let (mut ran, mut now, mut differ) = (0, Vec::new(), Vec::new());
    for step in block.steps() {
        let command = places.command(&step.command);
        let run = async || {
            let said = shell(&command, &places.directory, url).await;
            assert_eq!(said.code, 0, "{command}: {said:?}");
            said.out.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>()
        };
        let mut printed = run().await;
        if command.starts_with("evoke ") {
            let began = std::time::Instant::now();
            let mut agreed = ids.agree(&step.printed, &printed);
            while agreed.is_err() && began.elapsed() < SOON {
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                printed = run().await;
                agreed = ids.agree(&step.printed, &printed);
            }
            differ.extend(agreed.err().map(|why| format!("$ {command}\n{why}\n{}", printed.join("\n"))));
        } else {
            printed = step.printed.clone();
        }
        now.push(format!("$ {}", step.command));
        now.extend(printed);
        ran += 1;
    }
    (ran, now, differ)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_source_of_the_tour_reaches_its_function() {
    let directory: TempDir = tempfile::tempdir().unwrap();
    let mut places = Places::new(directory.path());
    let (path, text) = page(PAGE);
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let (mut ids, mut demo, mut ran) = (Ids::default(), None::<Demo>, 0);
    let (mut differ, mut blessed) = (Vec::new(), Vec::new());
    let mut demo_directory = Some(tempfile::tempdir().unwrap());

    for block in blocks(&text, None) {
        let url = places.demo.map_or_else(String::new, |port| format!("http://127.0.0.1:{port}"));
        let first = block.lines[0].as_str();
        if block.language == "yaml" {
            // The file is named in its first line.
            let file = first.strip_prefix("# ").expect("a file's name");
            let folder = demo_directory.as_ref().expect("no demo yet").path();
            std::fs::write(folder.join(file), places.in_run(&block.lines.join("\n"))).unwrap();
        } else if let Some((variables, arguments)) = first.split_once(" evoke demo ") {
            let variables: Vec<(&str, &str)> =
                variables.split(' ').filter_map(|variable| variable.split_once('=')).collect();
            let arguments: Vec<&str> = arguments.split(' ').collect();
            let folder = demo_directory.take().expect("one demo");
            let started = Demo::start_in(folder, &arguments, &variables).await;
            places.demo = Some(started.port);
            demo = Some(started);
        } else if first.starts_with("    ") {
            let demo = demo.as_ref().expect("the demo runs");
            for line in &block.lines {
                let (before, after) = line.split_once(" call ").expect("a call");
                // The call's own id is between the two, and at the end a size: a notification tells of its moment.
                let (_, after) = after.split_once(' ').expect("an id");
                let (after, _) = after.split_once(',').expect("a size");
                eventually(SOON, line, async || {
                    let shown = demo.lines();
                    let came = shown.iter().any(|line| line.starts_with(before) && line.contains(after));
                    if came { Ok(()) } else { Err(shown.join("\n")) }
                })
                .await;
                ran += 1;
            }
        } else {
            let (steps, now, why) = follow(&block, &places, &url, &mut ids).await;
            ran += steps;
            differ.extend(why);
            blessed.push((block.at..block.at + block.lines.len(), now));
        }
    }

    assert!(ran >= 40, "the tour has {ran} steps");
    if std::env::var_os("BLESS").is_some() {
        for (range, now) in blessed.into_iter().rev() {
            lines.splice(range, now);
        }
        std::fs::write(path, lines.join("\n") + "\n").unwrap();
    } else {
        assert!(differ.is_empty(), "{}\nBLESS=1 writes what was printed into the page", differ.join("\n"));
    }
}
