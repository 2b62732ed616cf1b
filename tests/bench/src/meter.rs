//! Rates, and the processor time of everybody who takes part.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::plan::Bound;
use crate::processes;

/// When nothing comes for so long, nothing will.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who plays what while something is measured.
#[derive(Clone, Debug)]
pub(crate) struct Cast(Vec<(Part, u32)>);

/// A part in a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// This process, which makes the load.
    Generator,
    /// A server that sources read from: all processes of the group it leads.
    Upstream,
    /// Gateway and function.
    Function,
    /// What is measured.
    Server,
}

impl Part {
    fn cpu_time(self, process: u32) -> Result<Duration> {
        match self {
            Part::Upstream => processes::cpu_time_of_group(process),
            Part::Generator | Part::Function | Part::Server => processes::cpu_time(process),
        }
    }
}

impl Cast {
    /// This process makes the load, the others take it.
    pub(crate) fn with(others: &[(Part, u32)]) -> Cast {
        let mut parts = vec![(Part::Generator, std::process::id())];
        parts.extend_from_slice(others);
        Cast(parts)
    }

    /// Starts to watch everybody.
    pub(crate) fn watch(&self) -> Result<Watch> {
        let mut parts = Vec::new();
        for &(part, process) in &self.0 {
            parts.push((part, process, part.cpu_time(process)?));
        }
        Ok(Watch { since: Instant::now(), machine: processes::machine_time()?, parts })
    }
}

/// A measurement under way.
#[derive(Debug)]
pub(crate) struct Watch {
    since: Instant,
    machine: Duration,
    parts: Vec<(Part, u32, Duration)>,
}

impl Watch {
    /// How long it has been, and how many processors everybody kept busy meanwhile.
    pub(crate) fn so_far(&self) -> Result<(Duration, Cpu)> {
        let passed = self.since.elapsed();
        let cores = |used: Duration| used.as_secs_f64() / passed.as_secs_f64();
        let mut cpu = Cpu::default();
        let mut ours = Duration::ZERO;
        for &(part, process, before) in &self.parts {
            let used = part.cpu_time(process)?.saturating_sub(before);
            ours += used;
            match part {
                Part::Generator => cpu.generator += cores(used),
                Part::Upstream => cpu.upstream += cores(used),
                Part::Function => cpu.function += cores(used),
                Part::Server => cpu.server += cores(used),
            }
        }
        let machine = processes::machine_time()?.saturating_sub(self.machine);
        cpu.others = cores(machine.saturating_sub(ours));
        Ok((passed, cpu))
    }
}

/// Processors kept busy, on average.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cpu {
    pub(crate) generator: f64,
    pub(crate) upstream: f64,
    pub(crate) function: f64,
    pub(crate) server: f64,
    /// Whoever takes no part: what is measured then competes with it.
    pub(crate) others: f64,
}

/// A rate and what it took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// A second.
    pub(crate) rate: f64,
    pub(crate) cpu: Cpu,
}

/// Counts what several tasks do together, and says when it is enough.
#[derive(Debug)]
pub(crate) struct Progress {
    most: u64,
    begun: AtomicU64,
    done: AtomicU64,
    stopped: AtomicBool,
}

impl Progress {
    pub(crate) fn up_to(most: u64) -> Progress {
        Progress { most, begun: AtomicU64::new(0), done: AtomicU64::new(0), stopped: AtomicBool::new(false) }
    }

    /// Whether one more is to be done. Exactly `most` times true, unless it is stopped.
    pub(crate) fn begin(&self) -> bool {
        self.next().is_some()
    }

    /// The same, with its number; the first is 0.
    pub(crate) fn next(&self) -> Option<u64> {
        let stopped = self.stopped.load(Ordering::Relaxed);
        (!stopped).then(|| self.begun.fetch_add(1, Ordering::Relaxed)).filter(|n| *n < self.most)
    }

    pub(crate) fn done(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(crate) fn count(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
}

/// Watches progress for as long as `bound` says, then stops it.
pub(crate) async fn observe(progress: &Progress, bound: &Bound, cast: &Cast) -> Result<Sample> {
    tokio::time::sleep(bound.warm_up).await;
    let (before, watch) = (progress.count(), cast.watch()?);
    while watch.since.elapsed() < bound.window && progress.count() < progress.most {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let done = progress.count() - before;
    let (passed, cpu) = watch.so_far()?;
    progress.stop();
    ensure!(done > 0, "nothing was done in {passed:?} after the warm-up ({before} before it)");
    Ok(Sample { rate: done as f64 / passed.as_secs_f64(), cpu })
}

/// Watches a count on its way to `all`, and hands out the rate in between: without the first tenth, in which everybody is
/// still warming up, and the last twentieth, in which some have nothing left to do.
///
/// `feed` is told each count, so that it can see to it that there is more to come.
pub(crate) async fn follow(
    all: u64,
    cast: &Cast,
    count: impl AsyncFn() -> Result<u64>,
    mut feed: impl AsyncFnMut(u64),
) -> Result<Sample> {
    let (mut seen, mut moved) = (0, Instant::now());
    let (mut watch, mut sample) = (None, None);
    while seen < all {
        let now = count().await?;
        ensure!(now <= all, "{now} of {all} messages came");
        if now > seen {
            (seen, moved) = (now, Instant::now());
        }
        ensure!(moved.elapsed() < PATIENCE, "{seen} of {all} messages came, and then none for {PATIENCE:?}");
        match &watch {
            None if seen >= all / 10 => watch = Some((seen, cast.watch()?)),
            Some((before, watch)) if sample.is_none() && seen >= all / 20 * 19 => {
                let (passed, cpu) = watch.so_far()?;
                sample = Some(Sample { rate: (seen - before) as f64 / passed.as_secs_f64(), cpu });
            }
            _ => {}
        }
        feed(seen).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    sample.context("everything came at once; more messages would show how fast")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_begun_than_there_is_to_do() {
        let progress = Progress::up_to(3);

        assert_eq!((0..5).filter(|_| progress.begin()).count(), 3);
    }

    #[test]
    fn nothing_is_begun_after_the_stop() {
        let progress = Progress::up_to(3);
        assert!(progress.begin());

        progress.stop();

        assert!(!progress.begin());
    }

    #[tokio::test(start_paused = true)]
    async fn the_middle_of_the_way_is_what_counts() {
        let count = AtomicU64::new(0);
        let (mut told, cast) = (Vec::new(), Cast::with(&[]));

        let sample = follow(
            1000,
            &cast,
            async || Ok(count.fetch_add(50, Ordering::Relaxed) + 50),
            async |seen| told.push(seen),
        );
        let sample = sample.await.unwrap();

        assert!(sample.rate > 0.0);
        assert_eq!((told.len(), told[0], told[19]), (20, 50, 1000));
    }

    #[tokio::test(start_paused = true)]
    async fn more_than_there_is_is_no_figure() {
        let nothing = async |_| {};

        let error = follow(10, &Cast::with(&[]), async || Ok(11), nothing).await.unwrap_err();

        assert!(error.to_string().contains("11 of 10"), "{error}");
    }
}
