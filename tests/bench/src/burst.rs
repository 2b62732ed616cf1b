//! Runs of schedules a second, when very many are due in one instant.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::evoke::{Evoke, Settings};
use crate::helper::Helper;
use crate::meter::{Cast, Part, Sample};
use crate::source::{self, Source};
use crate::{Bench, Role};

/// The most expressions a function may have.
const EXPRESSIONS: u64 = 64;

/// When they run, after they were first seen: long enough that all of them are there.
const PERIOD: Duration = Duration::from_secs(5);

/// Until all have run.
const PATIENCE: Duration = Duration::from_secs(60);

impl Source {
    /// One sample of schedules that all run at once.
    pub(crate) async fn sample_schedules(&mut self, bench: &Bench, all: u64) -> Result<()> {
        if bench.evoke.is_none() {
            eprintln!();
            return Ok(());
        }
        let functions = Helper::start(&bench.program, Role::Functions).await?;
        let names: Vec<String> = (0..all.div_ceil(EXPRESSIONS)).map(|n| format!("clock-{n}")).collect();
        let all = names.len() as u64 * EXPRESSIONS;
        let times = vec![format!("@every {}s", PERIOD.as_secs()); usize::try_from(EXPRESSIONS)?].join("; ");
        for name in &names {
            functions.deploy_clock(name, &times).await?;
        }
        let Some(evoke) = start(&functions, bench).await? else { return Ok(()) };
        for name in &names {
            evoke.pause_function(name).await?;
        }

        let first = evoke.all("/v1/schedules").await?.iter().filter_map(|one| moment(&one["since"])).min();
        let instant = first.context("there are no schedules")? + PERIOD;
        // It may have come while the functions were paused; then it counts from here.
        let ahead = instant.duration_since(SystemTime::now()).unwrap_or_default();
        tokio::time::sleep(ahead.saturating_sub(Duration::from_millis(20))).await;
        let before = evoke.ledger().await?;
        let cast = Cast::with(&[(Part::Server, evoke.process), (Part::Function, functions.process)]);
        let watch = cast.watch()?;
        let mut taken = 0;
        while taken < all {
            ensure!(watch.so_far()?.0 < PATIENCE, "{taken} of {all} schedules ran");
            tokio::time::sleep(Duration::from_millis(5)).await;
            taken = evoke.taken(source::NAME).await?;
        }
        let (passed, cpu) = watch.so_far()?;
        let after = evoke.ledger().await?;
        evoke.hold(source::NAME).await?;

        let rate = fastest(&evoke.all("/v1/invocations").await?).context("no run is found")?;
        eprintln!(", Evoke {rate:.0}/s");
        let new = after.accepted - before.accepted;
        let cpu_per_message = cpu.server * passed.as_secs_f64() / new.max(1) as f64 * 1e6;
        self.taken("in one instant", Sample { rate, cpu }, cpu_per_message, evoke, new, before.commits).await
    }
}

/// A broker with a clock beside these functions. Its schedules are first seen in one second, unless it takes longer than
/// that to put them.
pub(crate) async fn start(functions: &Helper, bench: &Bench) -> Result<Option<Evoke>> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("a clock before 1970")?;
    tokio::time::sleep(Duration::from_secs(1) - Duration::from_nanos(now.subsec_nanos().into())).await;
    let sources = vec![(source::NAME, "{ cron: {} }".to_owned())];
    Evoke::beside(functions, bench, Settings { sources, ..Settings::default() }).await
}

/// Instant and acceptance of an invocation that a schedule made. The API tells whole milliseconds, cut off: one is added,
/// so that no run looks better than it was.
pub(crate) fn run(invocation: &Value) -> Option<(SystemTime, SystemTime)> {
    let (_, instant) = invocation["call_id"].as_str()?.split_once('@')?;
    let accepted = moment(&invocation["accepted_at"])? + Duration::from_millis(1);
    Some((humantime::parse_rfc3339(instant).ok()?, accepted))
}

fn moment(text: &Value) -> Option<SystemTime> {
    humantime::parse_rfc3339(text.as_str()?).ok()
}

/// Runs a second of the instant that had the most, from the instant to the last acceptance.
fn fastest(runs: &[Value]) -> Option<f64> {
    let mut instants: BTreeMap<SystemTime, (u64, SystemTime)> = BTreeMap::new();
    for (instant, accepted) in runs.iter().filter_map(run) {
        let (count, last) = instants.entry(instant).or_insert((0, accepted));
        *count += 1;
        *last = accepted.max(*last);
    }
    let (instant, (count, last)) = instants.into_iter().max_by_key(|(_, (count, _))| *count)?;
    Some(count as f64 / last.duration_since(instant).ok()?.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn invocation(instant: &str, accepted: &str) -> Value {
        json!({ "call_id": format!("clock-1.openfaas-fn.0011@{instant}"), "accepted_at": accepted })
    }

    #[test]
    fn a_run_is_accepted_after_its_instant_and_no_earlier_than_it_was() {
        let (instant, accepted) =
            run(&invocation("2026-01-01T09:00:00Z", "2026-01-01T09:00:00.012Z")).unwrap();

        assert_eq!(accepted.duration_since(instant).unwrap(), Duration::from_millis(13));
        assert_eq!(run(&json!({ "call_id": "x", "accepted_at": "2026-01-01T09:00:00.012Z" })), None);
    }

    #[test]
    fn the_instant_with_most_runs_counts_until_its_last() {
        let runs = [
            invocation("2026-01-01T09:00:00Z", "2026-01-01T09:00:00.001Z"),
            invocation("2026-01-01T09:00:01Z", "2026-01-01T09:00:01.019Z"),
            invocation("2026-01-01T09:00:01Z", "2026-01-01T09:00:01.005Z"),
        ];

        assert_eq!(fastest(&runs), Some(100.0));
        assert_eq!(fastest(&[]), None);
    }
}
