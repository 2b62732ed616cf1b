//! Rates, and the processor time of everybody who takes part.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::plan::Bound;
use crate::processes;

/// Who plays what while something is measured.
#[derive(Clone, Debug)]
pub(crate) struct Cast(Vec<(Part, u32)>);

/// A part in a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// This process, which makes the load.
    Generator,
    /// Gateway and function.
    Function,
    /// What is measured.
    Server,
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
            parts.push((part, process, processes::cpu_time(process)?));
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
            let used = processes::cpu_time(process)?.saturating_sub(before);
            ours += used;
            match part {
                Part::Generator => cpu.generator = cores(used),
                Part::Function => cpu.function = cores(used),
                Part::Server => cpu.server = cores(used),
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
        !self.stopped.load(Ordering::Relaxed) && self.begun.fetch_add(1, Ordering::Relaxed) < self.most
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
}
