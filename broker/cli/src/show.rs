//! How each shape looks to people.

use broker_api as api;
use broker_api::{Moment, OriginInfo, Time};

use crate::failure::Failure;
use crate::screen::Screen;

/// A shape with a row in a list.
pub(crate) trait Table {
    /// The names of the columns.
    const HEAD: &'static [&'static str];

    /// One row.
    fn row(&self) -> Vec<String>;
}

/// A shape that is shown whole.
pub(crate) trait Whole {
    fn show(&self, screen: &mut Screen<'_>) -> Result<(), Failure>;
}

impl Table for api::Function {
    const HEAD: &'static [&'static str] =
        &["FUNCTION", "TOPICS", "WAITING", "DELIVERING", "LIMIT", "STATE", "PROBLEMS"];

    fn row(&self) -> Vec<String> {
        let sum = |count: fn(&api::Lane) -> u64| self.lanes.iter().map(count).sum::<u64>().to_string();
        vec![
            self.name.clone(),
            or_dash(self.topics.join(", ")),
            sum(|lane| lane.waiting),
            sum(|lane| lane.delivering),
            or_dash(self.lanes.first().map(|lane| lane.limit.to_string()).unwrap_or_default()),
            stands(self),
            self.problems.len().to_string(),
        ]
    }
}

/// How a function stands, in a word.
fn stands(function: &api::Function) -> String {
    if function.paused {
        return "paused".into();
    }
    if !function.listed {
        return "not-listed".into();
    }
    function.lanes.iter().find_map(|lane| lane.waiting_reason.clone()).unwrap_or_else(|| "ok".into())
}

impl Whole for api::Function {
    fn show(&self, screen: &mut Screen<'_>) -> Result<(), Failure> {
        let codes = self.retry.codes.iter().flatten().map(u16::to_string).collect::<Vec<_>>().join(", ");
        screen.facts(&[
            ("function", self.name.clone()),
            ("state", stands(self)),
            ("replicas", self.available_replicas.to_string()),
            ("topics", self.topics.join(", ")),
            ("queue", text(&self.queue)),
            ("retries", text(&self.retry.attempts)),
            ("retry codes", codes),
            ("retry waits", between(&self.retry.min_wait, &self.retry.max_wait)),
            ("timeout", text(&self.timeout)),
            ("max age", text(&self.max_age)),
            ("concurrency", text(&self.concurrency)),
            ("dead letters", text(&self.dead_letter)),
            ("on dead letter", text(&self.on_dead_letter)),
        ])?;
        let lanes = self.lanes.iter().map(|lane| {
            vec![
                lane.queue.clone(),
                lane.waiting.to_string(),
                lane.delivering.to_string(),
                lane.limit.to_string(),
                or_dash(text(&lane.waiting_reason)),
            ]
        });
        if !self.lanes.is_empty() {
            screen.line("")?;
            screen.table(&["QUEUE", "WAITING", "DELIVERING", "LIMIT", "WAITS FOR"], lanes.collect())?;
        }
        if !self.schedules.is_empty() {
            let schedules = self.schedules.iter().map(|schedule| {
                vec![
                    schedule.expression.clone(),
                    schedule_stands(schedule).into(),
                    or_dash(text(&schedule.next_run)),
                    schedule.id.clone(),
                ]
            });
            screen.line("")?;
            screen.table(&["RUNS AT", "STATE", "NEXT RUN", "SCHEDULE"], schedules.collect())?;
        }
        if !self.problems.is_empty() {
            let problems = self.problems.iter().map(|problem| {
                vec![problem.annotation.clone(), problem.value.clone(), problem.problem.clone()]
            });
            screen.line("")?;
            screen.table(&["ANNOTATION", "VALUE", "PROBLEM"], problems.collect())?;
        }
        Ok(())
    }
}

impl Whole for api::Paused {
    fn show(&self, screen: &mut Screen<'_>) -> Result<(), Failure> {
        let state = if self.paused { "paused" } else { "running" };
        let mut facts = vec![(state, self.name.clone())];
        facts.extend(self.held_by.clone().map(|by| ("held by", by)));
        screen.facts(&facts)
    }
}

impl Whole for api::PositionReset {
    fn show(&self, screen: &mut Screen<'_>) -> Result<(), Failure> {
        screen.facts(&[("source", self.name.clone()), ("partitions forgotten", self.partitions.to_string())])
    }
}

impl Table for api::Trigger {
    const HEAD: &'static [&'static str] = &["PATTERN", "MATCHED", "SOURCE", "FUNCTION"];

    fn row(&self) -> Vec<String> {
        let matched = if self.exact { "exactly" } else { "with wildcards" };
        vec![self.pattern.clone(), matched.into(), or_dash(text(&self.source)), self.function.clone()]
    }
}

impl Table for api::Schedule {
    const HEAD: &'static [&'static str] = &["SCHEDULE", "EXPRESSION", "STATE", "LAST RUN", "NEXT RUN"];

    fn row(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.expression.clone(),
            schedule_stands(self).into(),
            or_dash(text(&self.last_run)),
            or_dash(text(&self.next_run)),
        ]
    }
}

fn schedule_stands(schedule: &api::Schedule) -> &'static str {
    match (schedule.paused, schedule.asked) {
        (true, _) => "paused",
        (false, true) => "ok",
        (false, false) => "not-asked",
    }
}

impl Whole for api::ScheduleDetail {
    fn show(&self, screen: &mut Screen<'_>) -> Result<(), Failure> {
        let schedule = &self.schedule;
        let rule =
            |of: fn(&api::ScheduleRules) -> String| schedule.rules.as_ref().map(of).unwrap_or_default();
        screen.facts(&[
            ("schedule", schedule.id.clone()),
            ("state", schedule_stands(schedule).into()),
            ("function", schedule.function.clone()),
            ("expression", schedule.expression.clone()),
            ("time zone", rule(|rules| rules.time_zone.clone())),
            ("overlap", rule(|rules| rules.overlap.clone())),
            ("missed", rule(|rules| rules.missed.clone())),
            ("dst", rule(|rules| rules.dst.clone())),
            ("jitter", rule(|rules| rules.jitter.to_string())),
            ("since", schedule.since.to_string()),
            ("last run", text(&schedule.last_run)),
        ])?;
        if !self.next.is_empty() {
            screen.line("")?;
            screen.table(&["NEXT RUNS"], self.next.iter().map(|at| vec![at.to_string()]).collect())?;
        }
        Ok(())
    }
}

impl Whole for api::Backfilled {
    fn show(&self, screen: &mut Screen<'_>) -> Result<(), Failure> {
        screen.facts(&[("ran", self.ran.to_string()), ("had run", self.ran_before.to_string())])
    }
}

impl Table for api::Source {
    const HEAD: &'static [&'static str] =
        &["SOURCE", "KIND", "STATE", "SINCE", "RECEIVED", "ACCEPTED", "UNMATCHED", "DROPPED", "LAST EVENT"];

    fn row(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.kind.clone(),
            self.state.clone(),
            self.since.to_string(),
            self.counts.received.to_string(),
            self.counts.accepted.to_string(),
            self.counts.unmatched.to_string(),
            self.counts.dropped.to_string(),
            or_dash(text(&self.last_event_at)),
        ]
    }
}

impl Whole for api::Source {
    fn show(&self, screen: &mut Screen<'_>) -> Result<(), Failure> {
        let error = self.last_error.as_ref().map(|last| format!("{}  {}", last.at, last.error));
        screen.facts(&[
            ("source", self.name.clone()),
            ("kind", self.kind.clone()),
            ("state", self.state.clone()),
            ("since", self.since.to_string()),
            ("listens to", self.subscriptions.join(", ")),
            ("last event", text(&self.last_event_at)),
            ("lag", text(&self.lag)),
            ("received", self.counts.received.to_string()),
            ("accepted", self.counts.accepted.to_string()),
            ("unmatched", self.counts.unmatched.to_string()),
            ("duplicate", self.counts.duplicate.to_string()),
            ("refused", self.counts.refused.to_string()),
            ("quarantined", self.counts.quarantined.to_string()),
            ("dropped", self.counts.dropped.to_string()),
            ("disconnected", self.disconnected_for.to_string()),
            ("last error", error.unwrap_or_default()),
        ])?;
        if !self.unmatched_topics.is_empty() {
            let topics =
                self.unmatched_topics.iter().map(|topic| vec![topic.topic.clone(), topic.count.to_string()]);
            screen.line("")?;
            screen.table(&["TOPIC NOBODY WANTED", "COUNT"], topics.collect())?;
        }
        Ok(())
    }
}

impl Table for api::Invocation {
    const HEAD: &'static [&'static str] =
        &["INVOCATION", "STATE", "TARGET", "ORIGIN", "ATTEMPTS", "ACCEPTED", "CALL ID", "WHY"];

    fn row(&self) -> Vec<String> {
        let why = self.waiting_reason.as_ref().or(self.reason.as_ref());
        vec![
            self.id.to_string(),
            self.state.clone(),
            self.function.clone().unwrap_or_else(|| self.target.clone()),
            origin(&self.origin),
            self.attempts.to_string(),
            self.accepted_at.to_string(),
            self.call_id.clone(),
            or_dash(why.cloned().unwrap_or_default()),
        ]
    }
}

impl Whole for api::InvocationDetail {
    fn show(&self, screen: &mut Screen<'_>) -> Result<(), Failure> {
        let call = &self.invocation;
        screen.facts(&[
            ("invocation", call.id.to_string()),
            ("state", call.state.clone()),
            ("waits for", text(&call.waiting_reason)),
            ("reason", text(&call.reason)),
            ("target", call.target.clone()),
            ("function", text(&call.function)),
            ("called as", format!("{}{}", text(&self.written), text(&self.path_and_query))),
            ("call id", call.call_id.clone()),
            ("origin", origin(&call.origin)),
            ("queue", call.queue.clone()),
            ("callback", text(&self.callback_url)),
            ("body", format!("{} bytes", call.body_bytes)),
            ("life", call.life.to_string()),
            ("due", text(&self.due)),
            ("max age", text(&self.max_age)),
            ("next attempt", text(&call.next_attempt_at)),
            (
                "interrupted",
                if self.interrupted > 0 { format!("{} times", self.interrupted) } else { String::new() },
            ),
        ])?;
        if !self.headers.is_empty() {
            screen.line("\nheaders")?;
            let fields =
                self.headers.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
            for (name, value) in fields {
                screen.facts(&[(&*format!("  {name}:"), value.clone())])?;
            }
        }
        screen.line("\ntimeline")?;
        screen.table(&["AT", "EVENT", "STATUS", "TOOK", "DETAIL"], self.timeline.iter().map(moment).collect())
    }
}

fn moment(moment: &Moment) -> Vec<String> {
    let row = |at: Option<&Time>, event: &str, status: String, took: String, detail: String| {
        vec![at.map(Time::to_string).unwrap_or_default(), event.into(), status, took, detail]
    };
    let plain = |at, event, detail| row(Some(at), event, String::new(), String::new(), detail);
    match moment {
        Moment::Accepted { at } => plain(at, "accepted", String::new()),
        Moment::Redriven { at, life } => plain(at, "redriven", format!("life {life}")),
        Moment::Attempt { at, number, class, status, duration, error, excerpt, excerpt_base64 } => {
            let said = error.as_ref().or(excerpt.as_ref()).or(excerpt_base64.as_ref());
            let status = status.map_or_else(|| class.clone(), |status| status.to_string());
            let detail = said.cloned().unwrap_or_default();
            row(Some(at), &format!("attempt {number}"), status, duration.to_string(), shortened(&detail))
        }
        Moment::Attempts { counts } => {
            let counts: Vec<String> =
                counts.iter().map(|(class, count)| format!("{count} {class}")).collect();
            row(None, "more attempts", String::new(), String::new(), counts.join(", "))
        }
        Moment::Completed { at } => plain(at, "completed", String::new()),
        Moment::Dead { at, reason, detail } => plain(at, "dead", format!("{reason}: {detail}")),
        Moment::Cancelled { at } => plain(at, "cancelled", String::new()),
    }
}

fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(80).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

fn origin(origin: &OriginInfo) -> String {
    match origin {
        OriginInfo::Call => "call".into(),
        OriginInfo::Event { source, topic } => format!("{source}: {}", shortened(topic)),
        OriginInfo::Callback { of } => format!("callback of {of}"),
        OriginInfo::DeadLetter { of } => format!("dead letter of {of}"),
        OriginInfo::Quarantine { source } => format!("{source}: quarantine"),
    }
}

impl Whole for api::Cancelled {
    fn show(&self, screen: &mut Screen<'_>) -> Result<(), Failure> {
        screen.facts(&[("cancelled", self.id.to_string()), ("was", self.was.clone())])
    }
}

impl Table for api::DeadLetter {
    const HEAD: &'static [&'static str] =
        &["INVOCATION", "REASON", "TARGET", "STATUS", "ATTEMPTS", "DIED", "CALL ID", "DETAIL"];

    fn row(&self) -> Vec<String> {
        let call = &self.invocation;
        vec![
            call.id.to_string(),
            or_dash(text(&call.reason)),
            call.function.clone().unwrap_or_else(|| call.target.clone()),
            or_dash(text(&self.status)),
            call.attempts.to_string(),
            self.died_at.to_string(),
            call.call_id.clone(),
            shortened(&self.detail),
        ]
    }
}

impl Whole for api::DeadLetterDetail {
    fn show(&self, screen: &mut Screen<'_>) -> Result<(), Failure> {
        self.invocation.show(screen)?;
        let way = if self.redrivable {
            format!("evoke dead-letters redrive {}", self.invocation.invocation.id)
        } else {
            "there is nothing to run; the body can be read".into()
        };
        screen.line("")?;
        screen.facts(&[("put back with", way)])
    }
}

impl Whole for api::Redriven {
    fn show(&self, screen: &mut Screen<'_>) -> Result<(), Failure> {
        screen.facts(&[("redriven", self.id.to_string()), ("life", self.life.to_string())])
    }
}

impl Whole for api::RedrivenAll {
    fn show(&self, screen: &mut Screen<'_>) -> Result<(), Failure> {
        let name = if self.dry_run { "would redrive" } else { "redriven" };
        screen.facts(&[(name, self.redriven.to_string()), ("nothing to run", self.skipped.to_string())])
    }
}

impl Whole for api::Info {
    fn show(&self, screen: &mut Screen<'_>) -> Result<(), Failure> {
        let refusing = self.store.refusing.as_ref().map(|why| format!("{}: {}", why.state, why.detail));
        let gateway = match (&self.gateway.down, &self.gateway.last_problem) {
            (Some(down), _) => format!("down since {}: {}", down.since, down.last_error),
            (None, Some(problem)) => format!("answers, but its list is not complete: {problem}"),
            (None, None) => "ok".into(),
        };
        screen.facts(&[
            ("version", self.version.clone()),
            ("phase", self.phase.clone()),
            ("uptime", self.uptime.to_string()),
            ("gateway", gateway),
            ("functions", self.gateway.functions.to_string()),
            ("list age", text(&self.gateway.list_age)),
            ("durability", self.store.durability.clone()),
            (
                "on disk",
                format!("{} bytes, of which {} matter", self.store.disk_bytes, self.store.live_bytes),
            ),
            ("store refuses", refusing.unwrap_or_default()),
            ("damaged", if self.store.damaged > 0 { self.store.damaged.to_string() } else { String::new() }),
        ])?;
        screen.line("")?;
        let ledger = &self.ledger;
        let row = [
            ledger.accepted,
            ledger.redriven,
            ledger.completed,
            ledger.dead,
            ledger.cancelled,
            ledger.held,
            ledger.dead_kept,
        ];
        let mut row: Vec<String> = row.iter().map(u64::to_string).collect();
        row.push(ledger.drift.to_string());
        screen.table(
            &["ACCEPTED", "REDRIVEN", "COMPLETED", "DEAD", "CANCELLED", "HELD", "DEAD LETTERS", "DRIFT"],
            vec![row],
        )
    }
}

fn text<T: ToString>(value: &Option<T>) -> String {
    value.as_ref().map(ToString::to_string).unwrap_or_default()
}

fn between<T: ToString>(from: &Option<T>, to: &Option<T>) -> String {
    match (from, to) {
        (None, None) => String::new(),
        (Some(from), None) => format!("from {}", from.to_string()),
        (None, Some(to)) => format!("up to {}", to.to_string()),
        (Some(from), Some(to)) => format!("{} to {}", from.to_string(), to.to_string()),
    }
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".into() } else { text }
}
