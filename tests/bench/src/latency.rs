//! The time from POST to the function's start, at a fixed rate, with fdatasync on.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::Bench;
use crate::disk;
use crate::evoke::{Evoke, Settings};
use crate::functions::{STAMP, wait_for};
use crate::meter::{Cast, Cpu, Part};
use crate::open_loop;
use crate::report::{Detail, Figure, Target, Unit};
use crate::schedule::{Schedule, on_a_punctual_thread};
use crate::stats::Percentiles;

/// When nothing arrives for so long, nothing will.
const PATIENCE: Duration = Duration::from_secs(10);

/// The samples: median and 99th percentile of each.
#[derive(Debug, Default)]
pub(crate) struct Latency {
    disk: Vec<Percentiles>,
    disk_cpu: Vec<Cpu>,
    sync: Vec<Percentiles>,
    direct: Vec<Percentiles>,
    answer: Vec<Percentiles>,
    evoke: Vec<Percentiles>,
    cpu: Vec<Cpu>,
}

impl Latency {
    /// One sample of the disk, of calls straight to the function, and of calls through the broker.
    pub(crate) async fn sample(&mut self, bench: &Bench) -> Result<()> {
        let schedule = soon(bench);
        let dir = bench.dir.clone();
        let watch = Cast::with(&[]).watch()?;
        let paced = on_a_punctual_thread(move || disk::paced(&dir, schedule)).await?;
        let (_, cpu) = watch.so_far()?;
        let skipped = usize::try_from(warm_up(bench))?;
        let disk = Percentiles::of(paced.from_due.into_iter().skip(skipped));
        self.sync.push(Percentiles::of(paced.of_the_call));
        self.disk.push(disk);
        self.disk_cpu.push(cpu);

        let direct = calls(bench, bench.functions.address, STAMP, 200, &[]).await?;
        eprint!(
            "  latency (p50, p99 in us): disk {:.0}, {:.0}; straight to the function {:.0}, {:.0}",
            disk.p50, disk.p99, direct.start.p50, direct.start.p99
        );
        self.direct.push(direct.start);

        if let Some(evoke) = Evoke::start(bench, Settings::default()).await? {
            let through =
                calls(bench, evoke.address(), "/async-function/stamp", 202, &[(Part::Server, evoke.process)])
                    .await?;
            evoke.all_completed(soon(bench).count()).await?;
            eprint!("; Evoke {:.0}, {:.0}", through.start.p50, through.start.p99);
            self.evoke.push(through.start);
            self.answer.push(through.answer);
            self.cpu.push(through.cpu);
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
                    what: format!("POST to function start, {name}"),
                    unit: Unit::Microseconds,
                    target: Some(Target::RatioAtMost(6.0)),
                    evoke: all(&self.evoke),
                    cpu: self.cpu.clone(),
                    limit: all(&self.disk),
                    limit_is: "append and fdatasync at the same rate, from when due",
                    limit_cpu: self.disk_cpu.clone(),
                    details: vec![
                        Detail::new(
                            "append and fdatasync, without waiting for its turn",
                            Unit::Microseconds,
                            all(&self.sync),
                        ),
                        Detail::new("straight to the function", Unit::Microseconds, all(&self.direct)),
                        Detail::new("Evoke: POST to 202", Unit::Microseconds, all(&self.answer)),
                    ],
                    source: None,
                }
            })
            .collect()
    }
}

/// What calls on the schedule took.
struct Called {
    /// Until the function started.
    start: Percentiles,
    /// Until the answer was read.
    answer: Percentiles,
    cpu: Cpu,
}

async fn calls(
    bench: &Bench,
    address: SocketAddr,
    path: &'static str,
    expected: u16,
    others: &[(Part, u32)],
) -> Result<Called> {
    // What an earlier sample left behind belongs to it.
    bench.functions.take_starts().await?;
    let mut parts = vec![(Part::Function, bench.functions.process)];
    parts.extend_from_slice(others);
    let watch = Cast::with(&parts).watch()?;
    let schedule = soon(bench);
    let answers = on_a_punctual_thread(move || open_loop::post(address, path, expected, schedule)).await?;
    let (_, cpu) = watch.so_far()?;
    wait_for(schedule.count(), PATIENCE, async || bench.functions.started().await).await?;
    let starts = bench.functions.take_starts().await?;
    ensure!(
        starts.len() as u64 == schedule.count(),
        "{} of {} calls arrived",
        starts.len(),
        schedule.count()
    );
    let first = warm_up(bench);
    let counted = |&(n, took): &(u64, u64)| (n >= first).then_some(took);
    Ok(Called {
        start: Percentiles::of(starts.into_iter().filter_map(|call| counted(&call))),
        answer: Percentiles::of(answers.iter().filter_map(counted)),
        cpu,
    })
}

/// All calls of a sample, warm-up included, beginning in a moment.
fn soon(bench: &Bench) -> Schedule {
    let plan = &bench.plan;
    let length = plan.latency_warm_up + plan.latency_window;
    Schedule::soon(plan.calls_per_second, count(plan.calls_per_second, length))
}

/// How many of them do not count.
fn warm_up(bench: &Bench) -> u64 {
    count(bench.plan.calls_per_second, bench.plan.latency_warm_up)
}

fn count(per_second: u64, length: Duration) -> u64 {
    u64::try_from(u128::from(per_second) * length.as_millis() / 1000).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_second_has_its_part_of_the_calls() {
        assert_eq!(count(1000, Duration::from_millis(2500)), 2500);
        assert_eq!(count(3, Duration::from_millis(500)), 1);
    }
}
