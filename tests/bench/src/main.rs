//! The figures of Evoke, each beside its limit in the same run (`make bench`).
//!
//! | figure | limit |
//! |---|---|
//! | durable 202s a second at 1, 16 and 256 connections | `1 / (1/H + 1/R)`: H is the same HTTP stack answering 202 without a store, R the raw append and fdatasync in groups by as many producers |
//! | dispatch to a function that does nothing, from a filled store | the same HTTP client library bare, posting the same body to the same endpoint |
//! | time from POST to the function's start at a fixed rate | the raw append and fdatasync at the same rate |
//! | memory at rest | none; it has a target |
//! | records of Kafka, messages of NATS and of JetStream into durable invocations | `1 / (1/S + 1/R)`: S is the client library bare on the same messages, R the raw append and fdatasync of the same bodies in batches of 256 |
//! | messages of every other source | none; a table has them all |
//! | memory and processor time at rest, a source of every kind connected | none; they have targets |
//! | time from a schedule's instant to acceptance | timers of one runtime that append and sync at the same instants |
//!
//! Every round takes one sample of everything, so that a slow minute of the machine hits figure and limit alike; the
//! report has the medians of the rounds. It measures the real `evoke` binary as a process, over HTTP only, and checks
//! before it believes a figure: each 202 is one acceptance in the ledger, each call arrived, nothing is lost or dead.
//!
//! Everything is on loopback and bounded in count and time. The processes it starts end with it.
//!
//! # Reading order
//!
//! [`accept`], [`dispatch`], [`latency`] and [`idle`] are the measurements of the broker alone, [`source`] (beside [`bare`]),
//! [`sender`],
//! [`burst`], [`connected`] and [`lateness`] those with sources; [`generator`] (as fast as answers come) and
//! [`open_loop`] (on a [`schedule`]) make the load; [`disk`] is the raw disk; [`evoke`] the process that is measured,
//! [`helper`], [`accept_all`] and [`functions`] the processes it is measured against, [`keeper`] the one that sees to it
//! that it ends; [`meter`], [`processes`] and [`stats`] the instruments; [`plan`] says how long and how often, [`report`] what came of it, [`machine`] where.

mod plan;

mod accept;
mod dispatch;
mod idle;
mod latency;

mod bare;
mod burst;
mod connected;
mod lateness;
mod sender;
mod source;

mod generator;
mod open_loop;
mod schedule;

mod disk;

mod evoke;

mod accept_all;
mod functions;
mod helper;
mod keeper;

mod meter;
mod processes;
mod stats;

mod machine;
mod report;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::builder::PossibleValue;
use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use crate::accept::Accept;
use crate::connected::Connected;
use crate::dispatch::Dispatch;
use crate::helper::Helper;
use crate::idle::Idle;
use crate::latency::Latency;
use crate::lateness::Lateness;
use crate::plan::Plan;
use crate::report::{Figure, Report};
use crate::source::{Kind, Source};

/// The figures of Evoke, each beside its limit in the same run.
#[derive(Parser, Debug)]
#[command(name = "bench", version)]
struct Arguments {
    /// What to measure; everything unless given.
    measurements: Vec<Measurement>,
    /// Short samples, one round: shows that it works, not how fast.
    #[arg(long)]
    quick: bool,
    /// How many rounds; the medians are reported.
    #[arg(long)]
    rounds: Option<usize>,
    /// Measures the limits alone, without an evoke binary.
    #[arg(long)]
    limits_only: bool,
    /// The evoke binary; the one built beside this program unless given.
    #[arg(long)]
    evoke: Option<PathBuf>,
    /// Where reports go and, while it runs, what is written to disk: `bench` in the target directory unless given.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// What this process plays for another one of its kind.
    #[arg(long, hide = true)]
    role: Option<Role>,
    /// What a keeper keeps.
    #[arg(last = true, hide = true)]
    kept: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measurement {
    Accept,
    Dispatch,
    Latency,
    Idle,
    Sources,
    Source(Kind),
    Connected,
    Schedules,
}

impl Measurement {
    fn name_and_help(self) -> (&'static str, &'static str) {
        match self {
            Measurement::Accept => ("accept", "Durable 202s a second"),
            Measurement::Dispatch => ("dispatch", "Calls a second from a filled store"),
            Measurement::Latency => ("latency", "From POST to the function's start"),
            Measurement::Idle => ("idle", "Memory at rest"),
            Measurement::Sources => ("sources", "Messages a second of every source"),
            Measurement::Source(kind) => (kind.name(), "Messages a second of this source"),
            Measurement::Connected => ("connected", "Memory and processor time with all sources connected"),
            Measurement::Schedules => ("schedules", "How late schedules are"),
        }
    }
}

impl ValueEnum for Measurement {
    fn value_variants<'a>() -> &'a [Measurement] {
        static ALL: LazyLock<Vec<Measurement>> = LazyLock::new(|| {
            use Measurement::{Accept, Connected, Dispatch, Idle, Latency, Schedules, Source, Sources};
            let mut all = vec![Accept, Dispatch, Latency, Idle, Sources, Connected, Schedules];
            all.extend(Kind::ALL.map(Source));
            all
        });
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let (name, help) = self.name_and_help();
        Some(PossibleValue::new(name).help(help))
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    /// The HTTP stack of the front, answering 202 without a store.
    AcceptAll,
    /// Gateway and functions.
    Functions,
    /// The parent of a broker.
    Keeper,
}

impl Role {
    fn argument(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// What every measurement uses.
struct Bench {
    plan: Plan,
    /// This program, which plays other parts as well.
    program: PathBuf,
    /// The binary to measure; `None` for the limits alone.
    evoke: Option<PathBuf>,
    /// On the disk that is measured; removed at the end.
    dir: PathBuf,
    functions: Helper,
    accept_all: Helper,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    match arguments.role {
        Some(Role::AcceptAll) => accept_all::play()?,
        Some(Role::Functions) => functions::play()?,
        Some(Role::Keeper) => return keeper::play(&arguments.kept),
        None => {
            let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
            let outcome = runtime.block_on(async {
                let mut terminated = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
                tokio::select! {
                    outcome = measure(arguments) => outcome,
                    _ = tokio::signal::ctrl_c() => bail!("interrupted"),
                    _ = terminated.recv() => bail!("terminated"),
                }
            });
            // What still blocks is a write or a wait that has a bound of its own; the answer need not wait for it.
            runtime.shutdown_timeout(Duration::from_secs(1));
            outcome?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn measure(arguments: &Arguments) -> Result<()> {
    let program = std::env::current_exe().context("asking where this program is")?;
    let built = program.parent().context("this program is in no directory")?;
    let evoke = evoke_binary(arguments, built)?;
    let out = match &arguments.dir {
        Some(dir) => dir.clone(),
        None => built.parent().context("this program is in no target directory")?.join("bench"),
    };
    std::fs::create_dir_all(&out).with_context(|| format!("making {}", out.display()))?;
    let scratch =
        tempfile::Builder::new().prefix("run-").tempdir_in(&out).context("making a directory to run in")?;

    let mut plan = if arguments.quick { Plan::quick() } else { Plan::full() };
    if let Some(rounds) = arguments.rounds {
        ensure!(rounds > 0, "at least one round is needed");
        (plan.rounds, plan.source_rounds) = (rounds, rounds);
    }
    let overall = plan.overall();
    let bench = Bench {
        program: program.clone(),
        evoke,
        dir: scratch.path().to_owned(),
        functions: Helper::start(&program, Role::Functions).await?,
        accept_all: Helper::start(&program, Role::AcceptAll).await?,
        plan,
    };

    let wanted = |one| arguments.measurements.is_empty() || arguments.measurements.contains(&one);
    let report = tokio::time::timeout(overall, rounds(&bench, wanted))
        .await
        .with_context(|| format!("not done within {}", humantime::format_duration(overall)))??;
    report.write(&out)?;
    println!("{}", report.markdown());
    eprintln!("written: bench.json and bench.md in {}", out.display());
    Ok(())
}

fn evoke_binary(arguments: &Arguments, built: &Path) -> Result<Option<PathBuf>> {
    if arguments.limits_only {
        return Ok(None);
    }
    let evoke = arguments.evoke.clone().unwrap_or_else(|| built.join("evoke"));
    ensure!(
        evoke.is_file(),
        "there is no {}: build it with `cargo build --release -p broker-server`, name one with --evoke, or measure the \
         limits alone with --limits-only",
        evoke.display()
    );
    Ok(Some(evoke))
}

async fn rounds(bench: &Bench, wanted: impl Fn(Measurement) -> bool) -> Result<Report> {
    let mut figures = broker(bench, &wanted).await?;
    figures.extend(sources(bench, &wanted).await?);
    figures.retain(Figure::is_measured);
    Ok(Report { machine: machine::describe(bench)?, plan: bench.plan.clone(), figures })
}

/// The broker alone.
async fn broker(bench: &Bench, wanted: impl Fn(Measurement) -> bool) -> Result<Vec<Figure>> {
    let mut accepts: Vec<Accept> = bench.plan.connections.iter().map(|&n| Accept::at(n)).collect();
    let (mut dispatch, mut latency, mut idle) = (Dispatch::default(), Latency::default(), Idle::default());
    let all = [Measurement::Accept, Measurement::Dispatch, Measurement::Latency, Measurement::Idle];
    let rounds = if all.into_iter().any(&wanted) { bench.plan.rounds } else { 0 };
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        if wanted(Measurement::Accept) {
            for accept in &mut accepts {
                accept.sample(bench).await?;
            }
        }
        if wanted(Measurement::Dispatch) {
            dispatch.sample(bench).await?;
        }
        if wanted(Measurement::Latency) {
            latency.sample(bench).await?;
        }
        if wanted(Measurement::Idle) && round <= bench.plan.idle_samples {
            idle.sample(bench).await?;
        }
    }
    let mut figures: Vec<_> = accepts.into_iter().map(Accept::figure).collect();
    figures.extend(dispatch.figures());
    figures.extend(latency.figures());
    figures.push(idle.figure());
    Ok(figures)
}

/// The broker with sources. In rounds of their own: their upstreams would be in the way of everything else.
async fn sources(bench: &Bench, wanted: impl Fn(Measurement) -> bool) -> Result<Vec<Figure>> {
    let mut sources: Vec<Source> = Kind::ALL
        .into_iter()
        .filter(|kind| wanted(Measurement::Sources) || wanted(Measurement::Source(*kind)))
        .map(Source::of)
        .collect();
    for round in 1..=bench.plan.source_rounds {
        if !sources.is_empty() {
            eprintln!("sources, round {round} of {}", bench.plan.source_rounds);
        }
        for source in &mut sources {
            source.sample(bench).await?;
        }
    }
    let (mut connected, mut lateness) = (Connected::default(), Lateness::both());
    for _ in 0..bench.plan.idle_samples {
        if wanted(Measurement::Connected) {
            connected.sample(bench).await?;
        }
    }
    for _ in 0..bench.plan.lateness_samples {
        for way in &mut lateness {
            if wanted(Measurement::Schedules) {
                way.sample(bench).await?;
            }
        }
    }
    let mut figures: Vec<_> = sources.into_iter().map(Source::figure).collect();
    figures.extend(connected.figures());
    figures.extend(lateness.into_iter().flat_map(Lateness::figures));
    Ok(figures)
}
