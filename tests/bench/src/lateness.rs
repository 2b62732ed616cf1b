//! How long after its instant a run is accepted: schedules spread over the seconds, and all in one instant.
//!
//! Beside it, what a clock and a disk can do at all: as many tasks of one runtime that sleep until the same instants and
//! append and sync a record each.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::disk::GroupCommit;
use crate::helper::Helper;
use crate::meter::{Cast, Cpu, Part};
use crate::report::{Detail, Figure, Unit};
use crate::stats::Percentiles;
use crate::{Bench, Role, burst, source};

/// When a schedule runs, in seconds.
type Period = fn(u64, &Bench) -> u64;

/// The schedules run in every second, about as many in each.
fn spread(n: u64, bench: &Bench) -> u64 {
    let longest = bench.plan.schedules_run - 1;
    let shortest = (bench.plan.schedules_run / 3).max(1);
    shortest + n % (longest - shortest + 1)
}

/// All run at once.
fn together(_: u64, bench: &Bench) -> u64 {
    (bench.plan.schedules_run / 3).max(2)
}

/// The samples of one way to spread schedules.
#[derive(Debug)]
pub(crate) struct Lateness {
    what: &'static str,
    period: Period,
    timers: Vec<Percentiles>,
    timers_cpu: Vec<Cpu>,
    accepted: Vec<Percentiles>,
    started: Vec<Percentiles>,
    cpu: Vec<Cpu>,
    runs: Vec<f64>,
}

impl Lateness {
    fn of(what: &'static str, period: Period) -> Lateness {
        Lateness {
            what,
            period,
            timers: Vec::new(),
            timers_cpu: Vec::new(),
            accepted: Vec::new(),
            started: Vec::new(),
            cpu: Vec::new(),
            runs: Vec::new(),
        }
    }

    /// Both ways.
    pub(crate) fn both() -> [Lateness; 2] {
        [Lateness::of("spread", spread), Lateness::of("in one instant", together)]
    }

    /// One sample of bare timers, and of schedules.
    pub(crate) async fn sample(&mut self, bench: &Bench) -> Result<()> {
        let (timers, cpu) = timers(bench, self.period).await?;
        eprint!(
            "  {} schedules, {} (p50, p99 in us): timers {:.0}, {:.0}",
            bench.plan.schedules, self.what, timers.p50, timers.p99
        );
        self.timers.push(timers);
        self.timers_cpu.push(cpu);

        let functions = Helper::start(&bench.program, Role::Functions).await?;
        for n in 0..bench.plan.schedules {
            let period = (self.period)(n, bench);
            functions.deploy_clock(&format!("clock-{n}"), &format!("@every {period}s")).await?;
        }
        if let Some(evoke) = burst::start(&functions, bench).await? {
            let cast = Cast::with(&[(Part::Server, evoke.process), (Part::Function, functions.process)]);
            let watch = cast.watch()?;
            tokio::time::sleep(Duration::from_secs(bench.plan.schedules_run)).await;
            let (_, cpu) = watch.so_far()?;
            evoke.hold(source::NAME).await?;
            let taken = evoke.taken(source::NAME).await?;
            evoke.all_completed(taken).await?;
            let runs = evoke.all("/v1/invocations").await?;
            ensure!(runs.len() as u64 == taken, "{taken} runs, but {} invocations", runs.len());
            let late = runs.iter().filter_map(burst::run).map(|(instant, accepted)| {
                let late = accepted.duration_since(instant).unwrap_or_default();
                u64::try_from(late.as_nanos()).unwrap_or(u64::MAX)
            });
            let accepted = Percentiles::of(late);
            eprint!("; Evoke {:.0}, {:.0}", accepted.p50, accepted.p99);
            self.accepted.push(accepted);
            self.started.push(Percentiles::of(functions.take_runs().await?));
            self.runs.push(taken as f64);
            self.cpu.push(cpu);
            evoke.stop().await?;
        }
        eprintln!();
        Ok(())
    }

    pub(crate) fn figures(self) -> Vec<Figure> {
        Percentiles::EACH
            .into_iter()
            .map(|(name, which)| {
                let all = |samples: &[Percentiles]| samples.iter().map(which).collect::<Vec<_>>();
                Figure {
                    what: format!("instant to acceptance, schedules {}, {name}", self.what),
                    unit: Unit::Microseconds,
                    target: None,
                    evoke: all(&self.accepted),
                    cpu: self.cpu.clone(),
                    limit: all(&self.timers),
                    limit_is: "timers of one runtime that append and sync at the same instants",
                    limit_cpu: self.timers_cpu.clone(),
                    details: vec![
                        Detail::new(
                            "Evoke: instant to function start",
                            Unit::Microseconds,
                            all(&self.started),
                        ),
                        Detail::new("Evoke: runs", Unit::Plain, self.runs.clone()),
                    ],
                    source: None,
                }
            })
            .collect()
    }
}

/// As many tasks as there are schedules, each of which sleeps until its instants and appends a record. How late each
/// record was durable.
async fn timers(bench: &Bench, period: Period) -> Result<(Percentiles, Cpu)> {
    let length = bench.plan.schedules_run;
    let disk = Arc::new(GroupCommit::start(&bench.dir, bench.plan.schedules * length)?);
    let watch = Cast::with(&[]).watch()?;
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for n in 0..bench.plan.schedules {
        let (disk, period) = (Arc::clone(&disk), period(n, bench));
        tasks.spawn(async move {
            let mut late = Vec::new();
            for second in (period..length).step_by(usize::try_from(period).unwrap_or(usize::MAX)) {
                let instant = begin + Duration::from_secs(second);
                tokio::time::sleep_until(instant).await;
                if !disk.append().await {
                    break;
                }
                late.push(u64::try_from(instant.elapsed().as_nanos()).unwrap_or(u64::MAX));
            }
            late
        });
    }
    let late: Vec<u64> = tasks.join_all().await.into_iter().flatten().collect();
    let (_, cpu) = watch.so_far()?;
    Arc::into_inner(disk).context("an append is still under way")?.end().await?;
    Ok((Percentiles::of(late), cpu))
}
