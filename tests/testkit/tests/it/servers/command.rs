//! The developer's command, and what is left when a test process is killed.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use testkit::servers::Port;
use testkit::time::eventually;
use tokio::net::TcpStream;

use super::runs;

const COMMAND: &str = env!("CARGO_BIN_EXE_servers");

fn servers(cache: &Path, arguments: &[&str]) -> (bool, String) {
    let done = Command::new(COMMAND).args(arguments).env("EVOKE_TEST_REGISTER", cache).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
    (done.status.success(), said.into_owned())
}

#[tokio::test]
async fn a_server_is_started_listed_and_stopped_by_hand() {
    let (folder, port) = (tempfile::tempdir().unwrap(), Port::reserve());
    let place = folder.path().join("proxy").display().to_string();
    let servers = |arguments: &[&str]| servers(&folder.path().join("register.json"), arguments);

    let (started, said) = servers(&["start", "toxiproxy", &place, &port.number().to_string()]);
    assert!(started && said.contains(&port.address().to_string()), "{said}");
    let (again, said) = servers(&["start", "toxiproxy", &place]);
    assert!(!again && said.contains("already"), "{said}");
    assert!(servers(&["list"]).1.contains(&place));
    assert!(servers(&["status", &place]).0);

    let (stopped, said) = servers(&["stop", &place]);
    assert!(stopped && said.contains("stopped process"), "{said}");
    assert!(!servers(&["status", &place]).0);
    assert!(!servers(&["list"]).1.contains(&place));
    assert!(TcpStream::connect(port.address()).await.is_err());
}

#[test]
fn what_is_not_known_is_refused_with_what_is() {
    let folder = tempfile::tempdir().unwrap();

    let (done, said) = servers(folder.path(), &["run", "pulsar"]);

    assert!(!done && said.contains("kafka"), "{said}");
}

#[tokio::test]
async fn a_killed_process_leaves_no_server_behind() {
    let mut run = Command::new(COMMAND).args(["run", "nats"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(run.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    let server: u32 = first.rsplit(' ').next().unwrap().parse().unwrap();
    let folder = std::fs::read_link(format!("/proc/{server}/cwd")).unwrap();
    assert!(runs(server) && folder.exists());

    run.kill().unwrap();
    run.wait().unwrap();

    eventually(Duration::from_secs(20), "the server to be gone", async || !runs(server) && !folder.exists())
        .await;
}
