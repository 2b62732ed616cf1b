//! The bench itself, so that it cannot rot unseen: everything is measured once and shortly, beside real servers.
//!
//! What it shows is that each figure comes about, not how large it is.

#![allow(clippy::unwrap_used, reason = "what helps a test is part of it")]

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use testkit::process::Program;

/// Every figure there is, by what it begins with.
const FIGURES: [&str; 22] = [
    "durable 202s, 1 connection",
    "durable 202s, 16 connections",
    "durable 202s, 256 connections",
    "dispatch from a filled store",
    "dispatch, with a log line per call",
    "POST to function start, p50",
    "POST to function start, p99",
    "resident memory at rest",
    "kafka into durable invocations",
    "nats into durable invocations",
    "jetstream into durable invocations",
    "rabbitmq into durable invocations",
    "mqtt into durable invocations",
    "sqs into durable invocations",
    "minio into durable invocations",
    "webhook into durable invocations",
    "cron into durable invocations",
    "resident memory, ",
    "processor time, ",
    "instant to acceptance, schedules spread, p50",
    "instant to acceptance, schedules in one instant, p50",
    "instant to acceptance, schedules in one instant, p99",
];

#[test]
fn a_quick_run_measures_everything_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Program::new(env!("CARGO_BIN_EXE_bench"))
        .arguments(["--quick", "--evoke"])
        .argument(evoke_binary())
        .arguments(["--dir".as_ref(), dir.path().as_os_str()])
        .start();

    let status = bench.wait(Duration::from_secs(540));

    assert!(status.success(), "{status}:\n{}", bench.log().join("\n"));
    let json = std::fs::read(dir.path().join("bench.json")).unwrap();
    let report: Value = serde_json::from_slice(&json).unwrap();
    let figures = report["figures"].as_array().unwrap();
    for wanted in FIGURES {
        let found = figures.iter().find(|figure| figure["what"].as_str().unwrap().starts_with(wanted));
        let median = found.and_then(|figure| figure["evoke"]["median"].as_f64());
        assert!(median.is_some_and(|median| median > 0.0), "{wanted}: {found:?}");
    }
    for source in figures.iter().map(|figure| &figure["source"]).filter(|source| !source.is_null()) {
        let cpu = source["cpu_microseconds_per_message"]["median"].as_f64();
        assert!(cpu.is_some_and(|cpu| cpu > 0.0), "{source}");
    }
    let left: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "the reports alone are left: {left:?}");
}

/// The binary under test, as in the tests of the product.
fn evoke_binary() -> PathBuf {
    let path = match std::env::var_os("EVOKE_BIN") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(env!("CARGO_BIN_EXE_bench")).with_file_name("evoke"),
    };
    assert!(path.is_file(), "{} is not there: build it with `cargo build -p broker-server`", path.display());
    path
}
