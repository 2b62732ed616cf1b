//! The loop: look at the clock, run what is due, sleep.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use connectors_sdk::{
    Capabilities, Retries, Source, SourceContext, SourceError, SourceName, Timestamp, Timetable,
};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use crate::desk::Desk;
use crate::event::TOPIC;
use crate::settings::CronSettings;

/// The longest sleep: a clock that was set, or a machine that slept, is noticed after this long.
pub(crate) const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// What the wall clock may fall behind the monotonic one without being taken for set back.
const DRIFT: Duration = Duration::from_secs(1);

/// One configured source.
#[derive(Debug)]
pub(crate) struct CronSource {
    pub(crate) name: SourceName,
    pub(crate) settings: CronSettings,
}

/// Both clocks at one moment.
#[derive(Clone, Copy)]
struct Clocks {
    wall: Timestamp,
    monotonic: Duration,
}

impl Clocks {
    fn read(ctx: &SourceContext) -> Self {
        Clocks { wall: ctx.clock.now(), monotonic: ctx.clock.monotonic() }
    }

    /// Whether the wall clock was set back since `before`.
    fn set_back_since(&self, before: &Clocks) -> bool {
        let should_be = before.wall + self.monotonic.saturating_sub(before.monotonic);
        self.wall + DRIFT < should_be
    }
}

#[async_trait]
impl Source for CronSource {
    fn capabilities(&self) -> Capabilities {
        // An instant that has not run stays in the store, and is offered again.
        Capabilities { acknowledges: true, replays: true, ..Capabilities::NONE }
    }

    async fn run(self: Box<Self>, ctx: SourceContext) -> Result<(), SourceError> {
        let Some(access) = ctx.schedules.clone() else {
            let what = "this broker keeps no schedules".to_owned();
            return Err(SourceError::Misconfigured { key: String::new(), what });
        };
        let mut wishes = access.wishes.clone();
        let board = access.board.clone();
        let CronSettings { zone, form } = self.settings;
        let desk = Arc::new(Desk::new(self.name.clone(), ctx.clone(), access, form, zone));
        let _post = board.post(&self.name, desk.clone() as Arc<dyn Timetable>).map_err(|by| {
            // Another source may be on its way out.
            let what = format!("source {by} runs the schedules already; keep one cron source");
            SourceError::Unusable { key: "cron".to_owned(), what, cause: None }
        })?;
        desk.load();
        ctx.health.subscribed(vec![TOPIC.to_owned()]);
        ctx.health.connected();

        let mut under_way = FuturesUnordered::new();
        let mut asking = Retries::asking();
        let mut ask_at = Some(Instant::now());
        let mut seen = Clocks::read(&ctx);
        loop {
            if ask_at.is_some_and(|at| at <= Instant::now()) {
                let wanted = wishes.borrow_and_update().clone();
                ask_at = if desk.ask(&wanted).await {
                    asking.answered();
                    None
                } else {
                    Some(Instant::now() + asking.failed())
                };
            }
            desk.forget().await;
            let now = Clocks::read(&ctx);
            if now.set_back_since(&seen) {
                tracing::warn!("the clock was set back; schedules go on from now, and nothing runs twice");
                desk.begin_anew(now.wall);
            }
            seen = now;
            under_way.extend(desk.due(now.wall).into_iter().map(|job| desk.carry_out(job)));
            let sleep = desk.wait(now.wall).unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP);
            let mut until = Instant::now() + sleep;
            if let Some(at) = ask_at {
                until = until.min(at);
            }
            tokio::select! {
                biased;
                () = ctx.shutdown.cancelled() => break,
                Some(done) = under_way.next() => desk.done(done, ctx.clock.now()),
                changed = wishes.changed() => match changed {
                    Ok(()) => ask_at = Some(Instant::now()),
                    // Nobody is left who could ask for anything else.
                    Err(_) => tokio::time::sleep_until(until).await,
                },
                () = desk.changed.notified() => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
        // What was begun is let end: its instants would otherwise be offered again after the next start.
        while let Some(done) = under_way.next().await {
            desk.done(done, ctx.clock.now());
        }
        Ok(())
    }
}
