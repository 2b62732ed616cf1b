//! A process between this program and the broker it measures, so that the broker cannot outlive it.
//!
//! Whoever kills this program with SIGKILL gives it no chance to end what it started. Its pipe to the keeper closes all
//! the same, and the keeper ends its child, which it knows by more than an id that may have been given away again.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, Result};

/// Runs a command until it ends or nobody is there any more, and tells its process id. Gives its exit code. Blocks.
pub(crate) fn play(command: &[OsString]) -> Result<ExitCode> {
    let (program, arguments) = command.split_first().context("there is nothing to keep")?;
    let log = std::io::stderr().as_fd().try_clone_to_owned()?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log)
        .spawn()
        .with_context(|| format!("starting {}", program.display()))?;
    writeln!(std::io::stdout(), "{}", child.id())?;

    let (alone, parent) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        // Nothing is ever written to it; it ends when the writing side is gone. An error means no less.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        drop(alone);
    });
    loop {
        match parent.recv_timeout(Duration::from_millis(50)) {
            Err(RecvTimeoutError::Timeout) => {
                if let Some(status) = child.try_wait()? {
                    let code = status.code().and_then(|code| u8::try_from(code).ok());
                    return Ok(code.map_or(ExitCode::FAILURE, ExitCode::from));
                }
            }
            Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                child.kill()?;
                child.wait()?;
                return Ok(ExitCode::FAILURE);
            }
        }
    }
}
