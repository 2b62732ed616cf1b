//! Durable 202s a second.
//!
//! The function's lane is paused: what is measured is accepting, not delivering at the same time. Each sample has a
//! broker with an empty data directory, so that all samples are alike.

use anyhow::{Result, ensure};
use http::StatusCode;

use crate::Bench;
use crate::disk;
use crate::evoke::{Evoke, Settings};
use crate::generator::{self, Load};
use crate::meter::{Cast, Cpu, Part, Sample};
use crate::processes;
use crate::report::{Detail, Figure, Target, Unit};
use crate::stats::one_after_the_other;

/// The samples at one number of connections.
#[derive(Debug)]
pub(crate) struct Accept {
    connections: usize,
    stack: Vec<Sample>,
    disk: Vec<Sample>,
    evoke: Vec<Sample>,
    per_commit: Vec<f64>,
    peak_megabytes: Vec<f64>,
}

impl Accept {
    pub(crate) fn at(connections: usize) -> Accept {
        let (stack, disk, evoke) = (Vec::new(), Vec::new(), Vec::new());
        Accept { connections, stack, disk, evoke, per_commit: Vec::new(), peak_megabytes: Vec::new() }
    }

    /// One sample of the stack without a store, of the disk without a stack, and of the broker.
    pub(crate) async fn sample(&mut self, bench: &Bench) -> Result<()> {
        let (connections, bound) = (self.connections, &bench.plan.rate);
        let load = Load {
            address: bench.accept_all.address,
            path: "/async-function/noop",
            expected: StatusCode::ACCEPTED,
            connections,
            headers: &[],
            body: generator::same,
        };
        let cast = Cast::with(&[(Part::Server, bench.accept_all.process)]);
        let (stack, _) = generator::rate(&load, bound, &cast).await?;
        let disk = disk::group_commit(&bench.dir, connections, bound, &Cast::with(&[])).await?;
        eprint!("  accept at {connections}: H {:.0}/s, R {:.0}/s", stack.rate, disk.rate);
        self.stack.push(stack);
        self.disk.push(disk);

        if let Some(evoke) = Evoke::start(bench, Settings::default()).await? {
            evoke.pause().await?;
            let before = evoke.ledger().await?;
            let cast =
                Cast::with(&[(Part::Server, evoke.process), (Part::Function, bench.functions.process)]);
            let (sample, answered) = generator::rate(&evoke.load(connections), bound, &cast).await?;
            let after = evoke.ledger().await?;
            ensure!(
                after.accepted == answered && after.held == answered && after.drift == 0,
                "{answered} were answered 202, but {after:?}"
            );
            eprint!(", Evoke {:.0}/s", sample.rate);
            self.evoke.push(sample);
            self.per_commit.push(answered as f64 / (after.commits - before.commits).max(1) as f64);
            self.peak_megabytes.push(processes::memory(evoke.process)?.peak as f64 / 1e6);
            evoke.stop().await?;
        }
        eprintln!();
        Ok(())
    }

    pub(crate) fn figure(self) -> Figure {
        let connections = match self.connections {
            1 => "1 connection".to_owned(),
            more => format!("{more} connections"),
        };
        let rates = |samples: &[Sample]| samples.iter().map(|sample| sample.rate).collect::<Vec<_>>();
        let cpu = |samples: &[Sample]| samples.iter().map(|sample| sample.cpu).collect::<Vec<Cpu>>();
        let both = self.stack.iter().zip(&self.disk);
        Figure {
            what: format!("durable 202s, {connections}"),
            unit: Unit::PerSecond,
            target: (self.connections == 256).then_some(Target::RatioAtLeast(0.6)),
            evoke: rates(&self.evoke),
            cpu: cpu(&self.evoke),
            limit: both.map(|(stack, disk)| one_after_the_other(&[stack.rate, disk.rate])).collect(),
            limit_is: "1 / (1/H + 1/R)",
            limit_cpu: Vec::new(),
            details: vec![
                Detail::new("H, the HTTP stack without a store", Unit::PerSecond, rates(&self.stack))
                    .with_cpu(cpu(&self.stack)),
                Detail::new("R, append and fdatasync in groups", Unit::PerSecond, rates(&self.disk))
                    .with_cpu(cpu(&self.disk)),
                Detail::new("Evoke: accepted per fdatasync", Unit::Plain, self.per_commit),
                Detail::new("Evoke: peak memory", Unit::Megabytes, self.peak_megabytes),
            ],
            source: None,
        }
    }
}
