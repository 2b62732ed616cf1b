//! `/v1/functions` and `/v1/triggers`.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::{RawQuery, State};
use http::StatusCode;

use broker_api::{Function, List, Paused, ProblemKind};
use broker_model::FunctionName;
use broker_model::function::AnnotationProblem;
use broker_model::timetable::ScheduleStatus;

use super::{Answer, Here, Segment, function_name, json};
use crate::convert;
use crate::problem::Refused;
use crate::query::{Parameters, invalid, part_of};
use crate::server::Shared;

/// What the gateway lists, and what it does not list and calls wait for all the same.
pub(super) async fn list(State(shared): Here, RawQuery(query): RawQuery) -> Answer {
    let page = Parameters::read(query.as_deref(), &["limit", "cursor"])?.page()?;
    let mut names: BTreeSet<FunctionName> = shared.functions.table().functions.keys().cloned().collect();
    names.extend(with_lanes(&shared));
    let part = part_of(names.into_iter().collect(), &page)?;
    let mut schedules = schedules(&shared);
    let items: Vec<Function> = part
        .items
        .iter()
        .map(|name| shown(&shared, name, schedules.remove(name).unwrap_or_default()))
        .collect();
    json(StatusCode::OK, &List { items, next: part.next })
}

pub(super) async fn show(State(shared): Here, Segment(name): Segment, RawQuery(query): RawQuery) -> Answer {
    Parameters::none(query.as_deref())?;
    let name = known(&shared, &name)?;
    let of_it = schedules(&shared).remove(&name).unwrap_or_default();
    json(StatusCode::OK, &shown(&shared, &name, of_it))
}

pub(super) async fn pause(State(shared): Here, Segment(name): Segment, RawQuery(query): RawQuery) -> Answer {
    Parameters::none(query.as_deref())?;
    let name = known(&shared, &name)?;
    shared.control.pause_function(&name).await?;
    json(StatusCode::OK, &Paused { name: name.to_string(), paused: true, held_by: None })
}

pub(super) async fn resume(State(shared): Here, Segment(name): Segment, RawQuery(query): RawQuery) -> Answer {
    Parameters::none(query.as_deref())?;
    let name = known(&shared, &name)?;
    shared.control.resume_function(&name).await?;
    json(StatusCode::OK, &Paused { name: name.to_string(), paused: false, held_by: None })
}

pub(super) async fn triggers(State(shared): Here, RawQuery(query): RawQuery) -> Answer {
    let page = Parameters::read(query.as_deref(), &["limit", "cursor"])?.page()?;
    let part = part_of(shared.functions.triggers().triggers(), &page)?;
    let items: Vec<_> = part.items.iter().map(convert::trigger).collect();
    json(StatusCode::OK, &List { items, next: part.next })
}

fn with_lanes(shared: &Shared) -> impl Iterator<Item = FunctionName> {
    shared.ledger.lanes().into_iter().filter_map(|stats| stats.lane.target.function().cloned())
}

/// The schedules that functions ask for.
fn schedules(shared: &Shared) -> BTreeMap<FunctionName, Vec<ScheduleStatus>> {
    let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let kept = shared.timetable.get().map(|timetable| timetable.list()).unwrap_or_default();
    for schedule in kept.into_iter().filter(|schedule| schedule.rules.is_some()) {
        all.entry(schedule.state.schedule.function.clone()).or_default().push(schedule);
    }
    all
}

fn shown(shared: &Shared, name: &FunctionName, schedules: Vec<ScheduleStatus>) -> Function {
    let table = shared.functions.table();
    let listed = table.get(name);
    let of_schedules = match (shared.timetable.get(), listed.and_then(|function| function.schedule.as_ref()))
    {
        (Some(timetable), Some(_)) => timetable.problems(name),
        // A schedule that nobody runs is a silent fault otherwise.
        (None, Some(wish)) => vec![AnnotationProblem {
            key: "schedule".into(),
            value: wish.expressions.chars().take(256).collect::<String>().into(),
            problem: "no source runs schedules: add sources.clock.cron to the configuration".into(),
        }],
        (_, None) => Vec::new(),
    };
    convert::function(name, listed, schedules, &of_schedules, &shared.functions.lane_states(name))
}

/// The function of this name, if there is anything to say of it: it is listed, held, or calls wait for it.
fn known(shared: &Shared, text: &str) -> Result<FunctionName, Refused> {
    let name = function_name(shared, text).map_err(|error| invalid("name", &error.to_string()))?;
    let known = shared.functions.table().get(&name).is_some()
        || with_lanes(shared).any(|waiting| waiting == name)
        || shared.functions.lane_states(&name).iter().any(|lane| lane.paused);
    if known {
        Ok(name)
    } else {
        Err(Refused::new(
            ProblemKind::FunctionNotFound,
            format!("the gateway does not list {name}, and no calls wait for it"),
        ))
    }
}
