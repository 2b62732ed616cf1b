//! Processes of this same program that play a part: started, asked over pipes, gone with us.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;

use crate::Role;

/// A question is answered within this, or the process hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// A process that plays a part. It ends when this is dropped, and by itself when we die.
#[derive(Debug)]
pub(crate) struct Helper {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Its id.
    pub(crate) process: u32,
    pipes: Mutex<(ChildStdin, Lines<BufReader<ChildStdout>>)>,
    _child: Child,
}

impl Helper {
    /// Starts `program` in this role and waits until it listens.
    pub(crate) async fn start(program: &Path, role: Role) -> Result<Helper> {
        let mut child = Command::new(program)
            .args(["--role", &role.argument()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {role:?}"))?;
        let process = child.id().context("it ended at once")?;
        let stdin = child.stdin.take().context("it has no standard input")?;
        let stdout = child.stdout.take().context("it has no standard output")?;
        let mut lines = BufReader::new(stdout).lines();
        let address = next(&mut lines).await.with_context(|| format!("starting {role:?}"))?;
        Ok(Helper { address, process, pipes: Mutex::new((stdin, lines)), _child: child })
    }

    /// Asks it something; what can be asked is its role's business.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, question: &str) -> Result<T> {
        let mut pipes = self.pipes.lock().await;
        let (stdin, lines) = &mut *pipes;
        stdin
            .write_all(format!("{question}\n").as_bytes())
            .await
            .with_context(|| format!("asking {question:?}"))?;
        next(lines).await.with_context(|| format!("asking {question:?}"))
    }
}

/// The next thing a process says on its standard output.
pub(crate) async fn next<T: DeserializeOwned>(lines: &mut Lines<BufReader<ChildStdout>>) -> Result<T> {
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.context("no answer")??;
    serde_json::from_str(&line.context("the process ended")?).context("an answer that is not understood")
}

/// The other end: says where it listens, then answers questions until there are no more. Blocks.
pub(crate) fn answer(address: SocketAddr, reply: impl Fn(&str) -> Result<serde_json::Value>) -> Result<()> {
    use std::io::Write;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}", serde_json::json!(address))?;
    for question in std::io::stdin().lines() {
        writeln!(stdout, "{}", reply(&question?)?)?;
    }
    Ok(())
}
