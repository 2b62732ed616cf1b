//! `/v1/schedules`.

use std::sync::Arc;

use axum::extract::{RawQuery, Request, State};
use http::StatusCode;

use broker_api::{Backfill, Backfilled, List, Paused, ProblemKind, ScheduleDetail};
use broker_model::timetable::{ScheduleStatus, TimetableError};
use broker_model::{ScheduleId, Timestamp, Timetable};

use super::{Answer, Here, Segment, json, read_json};
use crate::convert;
use crate::front::Received;
use crate::problem::Refused;
use crate::query::{Parameters, invalid, part_of};
use crate::server::Shared;

/// The most next instants shown.
const MOST_NEXT: usize = 1000;

/// Without a source that runs schedules there are none.
pub(super) async fn list(State(shared): Here, RawQuery(query): RawQuery) -> Answer {
    let page = Parameters::read(query.as_deref(), &["limit", "cursor"])?.page()?;
    let all = shared.timetable.get().map(|timetable| timetable.list()).unwrap_or_default();
    let part = part_of(all, &page)?;
    let items: Vec<_> = part.items.into_iter().map(convert::schedule).collect();
    json(StatusCode::OK, &List { items, next: part.next })
}

pub(super) async fn show(State(shared): Here, Segment(id): Segment, RawQuery(query): RawQuery) -> Answer {
    let parameters = Parameters::read(query.as_deref(), &["next"])?;
    let most = parameters.parsed("next", |text| match text.parse() {
        Ok(most) if most <= MOST_NEXT => Ok(most),
        _ => Err(format!("{text:?} is not a number from 0 to {MOST_NEXT}")),
    })?;
    let (timetable, id, status) = known(&shared, &id)?;
    let next = timetable.next(&id, most.unwrap_or(10)).unwrap_or_default();
    let detail = ScheduleDetail {
        schedule: convert::schedule(status),
        next: next.into_iter().map(convert::time).collect(),
    };
    json(StatusCode::OK, &detail)
}

/// Answers when the run is durable.
pub(super) async fn run(State(shared): Here, Segment(id): Segment, RawQuery(query): RawQuery) -> Answer {
    Parameters::none(query.as_deref())?;
    let (timetable, id, _) = known(&shared, &id)?;
    json(StatusCode::ACCEPTED, &convert::receipt(timetable.run(&id).await?))
}

pub(super) async fn pause(State(shared): Here, Segment(name): Segment, RawQuery(query): RawQuery) -> Answer {
    Parameters::none(query.as_deref())?;
    let (timetable, id, _) = known(&shared, &name)?;
    timetable.pause(&id).await?;
    json(StatusCode::OK, &Paused { name, paused: true, held_by: None })
}

pub(super) async fn resume(State(shared): Here, Segment(name): Segment, RawQuery(query): RawQuery) -> Answer {
    Parameters::none(query.as_deref())?;
    let (timetable, id, _) = known(&shared, &name)?;
    timetable.resume(&id).await?;
    json(StatusCode::OK, &Paused { name, paused: false, held_by: None })
}

/// Answers when every run of the range is durable.
pub(super) async fn backfill(
    State(shared): Here,
    Segment(id): Segment,
    RawQuery(query): RawQuery,
    request: Request,
) -> Answer {
    Parameters::none(query.as_deref())?;
    let (timetable, id, _) = known(&shared, &id)?;
    let Received { body: Backfill { from, until }, permit } = read_json(&shared, request).await?;
    drop(permit);
    let [from, until] = [from, until].map(|time| Timestamp::from_millis(time.as_millis()));
    if until < from {
        return Err(invalid("until", "lies before from"));
    }
    let filled = timetable.backfill(&id, from, until).await?;
    let filled = Backfilled { id: id.to_string(), ran: filled.ran, ran_before: filled.ran_before };
    json(StatusCode::ACCEPTED, &filled)
}

fn known(shared: &Shared, text: &str) -> Result<(Arc<dyn Timetable>, ScheduleId, ScheduleStatus), Refused> {
    let shown: String = text.chars().take(64).collect();
    let unknown = || Refused::new(ProblemKind::ScheduleNotFound, format!("there is no schedule {shown:?}"));
    let Some(timetable) = shared.timetable.get() else {
        return Err(Refused::new(
            ProblemKind::ScheduleNotFound,
            "no source runs schedules: add sources.clock.cron to the configuration",
        ));
    };
    let id = ScheduleId::parse(text).map_err(|_| unknown())?;
    let status = timetable.list().into_iter().find(|status| status.state.schedule.id == id);
    let status = status.ok_or_else(unknown)?;
    Ok((timetable, id, status))
}

impl From<TimetableError> for Refused {
    fn from(error: TimetableError) -> Self {
        match error {
            TimetableError::Unknown(_) => Refused::new(ProblemKind::ScheduleNotFound, error.to_string()),
            TimetableError::Unasked(_) => Refused::new(ProblemKind::ScheduleNotAsked, error.to_string()),
            TimetableError::Range(problem) => invalid("range", &problem),
            TimetableError::Refused(refusal) => refusal.into(),
            TimetableError::Store(error) => error.into(),
        }
    }
}
