//! `evoke`: the broker and its operator's commands in one binary. This crate only wires; the logic is in the others.

mod args;
mod check;
mod clock;
mod configuration;
mod demo;
mod inherited;
mod report;
mod serve;
mod signals;
mod source_metrics;
mod sources;
mod telemetry;
mod wiring;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::args::{Arguments, Command, ConfigCommand};
use crate::configuration::{NoConfiguration, Places};

/// Every call takes a dozen small allocations on one thread and gives them back on another, which this allocator is made
/// for; the system's took a fifth of the processor time of accepting a call.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The command or the configuration is wrong (`EX_USAGE` of sysexits, as the field uses it for configuration).
const WRONG_CONFIGURATION: u8 = 64;
/// Another process has the data directory: try again later (`EX_TEMPFAIL`).
const DIRECTORY_IN_USE: u8 = 75;

fn main() -> ExitCode {
    // The allocator asks for huge pages, of which a broker at rest would touch little: they cost it a third of its memory
    // (29.9 MB instead of 19.1) and bring no rate that a benchmark shows. Without the switch it works as well.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    // One TLS provider for every client and server in the process; nobody has installed another before.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let given: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let Some(flags) = inherited::flags(&given, &inherited::kinds()) {
        return exit(serve::run(Places::of_a_connector(flags)));
    }
    let arguments = Arguments::parse();
    let file = arguments.global.config.clone();
    let done = match arguments.command {
        Command::Serve(from) => serve::run(Places::new(file.as_deref(), &from)),
        Command::Demo(demo) => demo::run(file.as_deref(), demo),
        Command::Check { configuration, online } => {
            check::run(Places::new(file.as_deref(), &configuration), online, arguments.global.quiet)
        }
        Command::Config { what: ConfigCommand::Show(from) } => {
            check::show(&Places::new(file.as_deref(), &from))
        }
        Command::Config { what: ConfigCommand::Reference } => {
            print!("{}", broker_config::reference());
            Ok(())
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "evoke", &mut io::stdout());
            Ok(())
        }
        Command::Operate(command) => return operate(command, arguments.global),
    };
    exit(done)
}

fn exit(done: anyhow::Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("evoke: {error:#}");
            exit_code(&error)
        }
    }
}

/// The operator's commands need one thread and no more.
fn operate(command: broker_cli::Command, global: broker_cli::Global) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(broker_cli::run(command, global)),
        Err(error) => {
            eprintln!("evoke: cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.is::<NoConfiguration>() {
        ExitCode::from(WRONG_CONFIGURATION)
    } else if matches!(error.downcast_ref(), Some(broker_store_embedded::OpenError::Locked { .. })) {
        ExitCode::from(DIRECTORY_IN_USE)
    } else {
        ExitCode::FAILURE
    }
}
