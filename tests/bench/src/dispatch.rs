//! Calls a second from a filled store to a function that does nothing.

use std::time::Duration;

use anyhow::Result;
use http::StatusCode;

use crate::Bench;
use crate::evoke::{Evoke, Settings};
use crate::functions::{NOOP, wait_for};
use crate::generator::{self, Load};
use crate::meter::{Cast, Part, Sample};
use crate::plan::Bound;
use crate::processes;
use crate::report::{Detail, Figure, Target, Unit};

/// How many connections fill the store; their number is no part of the figure.
const FILLING: usize = 64;

/// When nothing arrives for so long, nothing will.
const PATIENCE: Duration = Duration::from_secs(20);

/// The samples.
#[derive(Debug, Default)]
pub(crate) struct Dispatch {
    bare: Vec<Sample>,
    evoke: Vec<Sample>,
    logging: Vec<Sample>,
    peak_megabytes: Vec<f64>,
}

impl Dispatch {
    /// One sample of the bare client, and two of the broker: without and with its line per settled call.
    pub(crate) async fn sample(&mut self, bench: &Bench) -> Result<()> {
        let load = Load {
            address: bench.functions.address,
            path: NOOP,
            expected: StatusCode::OK,
            connections: bench.plan.dispatch_concurrency,
            headers: &[],
            body: generator::same,
        };
        let cast = Cast::with(&[(Part::Function, bench.functions.process)]);
        let bound = Bound { most: u64::MAX, ..bench.plan.rate.clone() };
        let (bare, _) = generator::rate(&load, &bound, &cast).await?;
        eprint!("  dispatch: bare client {:.0}/s", bare.rate);
        self.bare.push(bare);

        if let Some((sample, peak)) = drain(bench, false).await? {
            eprint!(", Evoke {:.0}/s", sample.rate);
            self.evoke.push(sample);
            self.peak_megabytes.push(peak);
        }
        if let Some((sample, _)) = drain(bench, true).await? {
            eprint!(", logging {:.0}/s", sample.rate);
            self.logging.push(sample);
        }
        eprintln!();
        Ok(())
    }

    pub(crate) fn figures(self) -> Vec<Figure> {
        let rates = |samples: &[Sample]| samples.iter().map(|sample| sample.rate).collect::<Vec<_>>();
        let cpu = |samples: &[Sample]| samples.iter().map(|sample| sample.cpu).collect::<Vec<_>>();
        let limit_is = "the HTTP client alone";
        let quiet = Figure {
            what: "dispatch from a filled store".into(),
            unit: Unit::PerSecond,
            target: Some(Target::RatioAtLeast(0.6)),
            evoke: rates(&self.evoke),
            cpu: cpu(&self.evoke),
            limit: rates(&self.bare),
            limit_is,
            limit_cpu: cpu(&self.bare),
            details: vec![Detail::new("Evoke: peak memory", Unit::Megabytes, self.peak_megabytes)],
            source: None,
        };
        let logging = Figure {
            what: "dispatch, with a log line per call".into(),
            unit: Unit::PerSecond,
            target: None,
            evoke: rates(&self.logging),
            cpu: cpu(&self.logging),
            // Without a sample of its own it is no figure of its own.
            limit: if self.logging.is_empty() { Vec::new() } else { rates(&self.bare) },
            limit_is,
            // Shown with the figure above.
            limit_cpu: Vec::new(),
            details: Vec::new(),
            source: None,
        };
        vec![quiet, logging]
    }
}

/// Fills the store while the function is paused, resumes it, and counts at the function. Gives the rate from the
/// command to the arrival of the last call, and the broker's peak memory in megabytes.
async fn drain(bench: &Bench, log_calls: bool) -> Result<Option<(Sample, f64)>> {
    let concurrency = Some(bench.plan.dispatch_concurrency);
    let settings = Settings { concurrency, log_calls, ..Settings::default() };
    let Some(evoke) = Evoke::start(bench, settings).await? else {
        return Ok(None);
    };
    let calls = bench.plan.dispatched;
    evoke.pause().await?;
    generator::post(&evoke.load(FILLING), calls).await?;

    let before = bench.functions.noop_calls().await?;
    let cast = Cast::with(&[(Part::Server, evoke.process), (Part::Function, bench.functions.process)]);
    let watch = cast.watch()?;
    evoke.resume().await?;
    wait_for(before + calls, PATIENCE, async || bench.functions.noop_calls().await).await?;
    let (passed, cpu) = watch.so_far()?;

    evoke.all_completed(calls).await?;
    let peak = processes::memory(evoke.process)?.peak as f64 / 1e6;
    evoke.stop().await?;
    Ok(Some((Sample { rate: calls as f64 / passed.as_secs_f64(), cpu }, peak)))
}
