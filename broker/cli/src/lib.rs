//! The operator's commands, over the management API and the front.
//!
//! The nouns are those of the API. Tables are for people; `--output json` prints what the API answered, byte for byte.
//! The exit code says what kind of thing went wrong ([`Failure`]). This crate knows the wire shapes and nothing else of
//! ours; the `evoke` binary embeds it.

// What can be asked.
mod command;
mod data;

// How it is asked and answered.
mod act;
mod client;
mod failure;

// How it is shown.
mod screen;
mod show;

pub use command::{Command, Global, Output};
pub use failure::Failure;
pub use screen::Screen;

use std::process::ExitCode;

/// Runs a command against the broker, on standard output and standard error.
pub async fn run(command: Command, global: Global) -> ExitCode {
    let mut screen = Screen::of_process(&global);
    ExitCode::from(run_on(command, &global, &mut screen).await)
}

/// As [`run`], on any screen; the exit code.
pub async fn run_on(command: Command, global: &Global, screen: &mut Screen<'_>) -> u8 {
    match act::act(command, global, screen).await {
        Ok(()) => 0,
        Err(failure) => {
            screen.complain(&failure);
            failure.exit_code()
        }
    }
}
