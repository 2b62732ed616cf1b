//! Gateway and functions in one process: `noop` counts, `stamp` says how long after it was due each call started, and any
//! number of others run by the clock and say how long after its instant each run started.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use tokio::time::Instant;

use broker_demo_gateway::{Answer, DemoGateway, Function, Recording};

use crate::helper::{self, Helper};
use crate::open_loop::read_stamp;
use crate::schedule::now;

/// Calls that arrived at `stamp`, and nanoseconds from when each was due to its start.
type Starts = Vec<(u64, u64)>;

/// Plays this part until nobody asks any more.
pub(crate) fn play() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let starts: Arc<Mutex<Starts>> = Arc::default();
    let runs: Arc<Mutex<Vec<u64>>> = Arc::default();
    let gateway = runtime.block_on(DemoGateway::start([Function::no_op("noop"), stamp(&starts)]))?;
    helper::answer(gateway.addr(), |question| {
        let (what, with) = question.split_once(' ').unwrap_or((question, ""));
        match what {
            "noop" => Ok(gateway.call_count("noop").into()),
            "wants" => Ok(gateway.annotate("noop", "topic", with).into()),
            "started" => Ok(starts.lock().unwrap_or_else(PoisonError::into_inner).len().into()),
            "starts" => {
                let taken = std::mem::take(&mut *starts.lock().unwrap_or_else(PoisonError::into_inner));
                Ok(serde_json::to_value(taken)?)
            }
            "clock" => {
                let (name, times) = with.split_once(' ').context("a clock needs its times")?;
                gateway.deploy(clock(name, times, &runs));
                Ok(true.into())
            }
            "runs" => {
                let taken = std::mem::take(&mut *runs.lock().unwrap_or_else(PoisonError::into_inner));
                Ok(serde_json::to_value(taken)?)
            }
            other => bail!("nobody answers {other:?}"),
        }
    })
}

fn stamp(starts: &Arc<Mutex<Starts>>) -> Function {
    let starts = Arc::clone(starts);
    Function::answering("stamp", move |call| {
        let now = now();
        let answer = match read_stamp(&call.body) {
            Some((n, due)) => {
                let start = (n, now.saturating_sub(due));
                starts.lock().unwrap_or_else(PoisonError::into_inner).push(start);
                Answer::status(200)
            }
            None => Answer::status(400),
        };
        async move { answer }
    })
    .recording(Recording::CountOnly)
}

/// A function that runs at these times, and notes how long after its instant each run started, in nanoseconds.
fn clock(name: &str, times: &str, runs: &Arc<Mutex<Vec<u64>>>) -> Function {
    let runs = Arc::clone(runs);
    Function::answering(name, move |call| {
        let now = SystemTime::now();
        let instant = call.header("ce-time").and_then(|text| humantime::parse_rfc3339(text).ok());
        let after = instant.map(|instant| now.duration_since(instant).unwrap_or_default());
        let after = after.and_then(|after| u64::try_from(after.as_nanos()).ok());
        runs.lock().unwrap_or_else(PoisonError::into_inner).extend(after);
        async { Answer::status(200) }
    })
    .recording(Recording::CountOnly)
    .annotation("topic", "cron-function")
    .annotation("schedule", times)
}

impl Helper {
    /// Has `noop` run for messages on these topics.
    pub(crate) async fn wants(&self, topics: &str) -> Result<()> {
        ensure!(self.ask::<bool>(&format!("wants {topics}")).await?, "noop is not there");
        Ok(())
    }

    /// Deploys a function that runs at these times.
    pub(crate) async fn deploy_clock(&self, name: &str, times: &str) -> Result<()> {
        ensure!(self.ask::<bool>(&format!("clock {name} {times}")).await?, "{name} is not deployed");
        Ok(())
    }

    /// How long after its instant each run by the clock started since this was asked last, in nanoseconds.
    pub(crate) async fn take_runs(&self) -> Result<Vec<u64>> {
        self.ask("runs").await
    }

    /// How often `noop` was called so far.
    pub(crate) async fn noop_calls(&self) -> Result<u64> {
        self.ask("noop").await
    }

    /// How many calls `stamp` holds the starts of.
    pub(crate) async fn started(&self) -> Result<u64> {
        self.ask("started").await
    }

    /// When the calls of `stamp` started since this was asked last, in nanoseconds after they were due. A call that
    /// came twice counts when it came first.
    pub(crate) async fn take_starts(&self) -> Result<HashMap<u64, u64>> {
        let starts: Starts = self.ask("starts").await?;
        let mut first = HashMap::with_capacity(starts.len());
        for (n, after) in starts {
            first.entry(n).and_modify(|known: &mut u64| *known = after.min(*known)).or_insert(after);
        }
        Ok(first)
    }

    /// Its base URL, for a configuration.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// Posts directly to a function go to this path.
pub(crate) const STAMP: &str = "/function/stamp";

/// The path of the function that does nothing.
pub(crate) const NOOP: &str = "/function/noop";

/// Waits until `count` says so many, for as long as it grows.
pub(crate) async fn wait_for(
    wanted: u64,
    patience: Duration,
    count: impl AsyncFn() -> Result<u64>,
) -> Result<()> {
    let mut seen = count().await?;
    let mut deadline = Instant::now() + patience;
    while seen < wanted {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let now = count().await?;
        if now > seen {
            // As long as something comes, it is waited for.
            deadline = Instant::now() + patience;
        } else if Instant::now() > deadline {
            bail!("{seen} of {wanted} calls arrived, and then none for {patience:?}");
        }
        seen = now;
    }
    Ok(())
}
