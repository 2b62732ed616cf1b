//! `/v1/sources`.

use axum::extract::{RawQuery, State};
use http::StatusCode;

use broker_api::{List, Paused, PositionReset, ProblemKind};
use broker_model::SourceName;
use broker_model::source::Resumed;

use super::{Answer, Here, Segment, json};
use crate::convert;
use crate::problem::Refused;
use crate::query::{Parameters, part_of};

pub(super) async fn list(State(shared): Here, RawQuery(query): RawQuery) -> Answer {
    let page = Parameters::read(query.as_deref(), &["limit", "cursor"])?.page()?;
    let part = part_of(shared.sources.list(), &page)?;
    let items: Vec<_> = part.items.into_iter().map(convert::source).collect();
    json(StatusCode::OK, &List { items, next: part.next })
}

pub(super) async fn show(State(shared): Here, Segment(name): Segment, RawQuery(query): RawQuery) -> Answer {
    Parameters::none(query.as_deref())?;
    match shared.sources.list().into_iter().find(|source| source.name.as_str() == name) {
        Some(source) => json(StatusCode::OK, &convert::source(source)),
        None => Err(unknown(&name)),
    }
}

pub(super) async fn pause(State(shared): Here, Segment(name): Segment, RawQuery(query): RawQuery) -> Answer {
    Parameters::none(query.as_deref())?;
    let source = SourceName::parse(&name).map_err(|_| unknown(&name))?;
    match shared.sources.pause(&source).await? {
        true => json(StatusCode::OK, &Paused { name, paused: true, held_by: None }),
        false => Err(unknown(&name)),
    }
}

pub(super) async fn resume(State(shared): Here, Segment(name): Segment, RawQuery(query): RawQuery) -> Answer {
    Parameters::none(query.as_deref())?;
    let source = SourceName::parse(&name).map_err(|_| unknown(&name))?;
    match shared.sources.resume(&source).await? {
        Some(Resumed::Runs) => json(StatusCode::OK, &Paused { name, paused: false, held_by: None }),
        Some(Resumed::HeldByConfiguration) => {
            json(StatusCode::OK, &Paused { name, paused: true, held_by: Some("configuration".into()) })
        }
        None => Err(unknown(&name)),
    }
}

pub(super) async fn reset_position(
    State(shared): Here,
    Segment(name): Segment,
    RawQuery(query): RawQuery,
) -> Answer {
    Parameters::none(query.as_deref())?;
    let source = SourceName::parse(&name).map_err(|_| unknown(&name))?;
    // Once begun it is finished, whether or not the caller waits for it: the source is stopped meanwhile.
    let sources = shared.sources.clone();
    let resetting = tokio::spawn(async move { sources.reset_positions(&source).await });
    let reset = resetting.await.map_err(|error| Refused::new(ProblemKind::Internal, error.to_string()))?;
    match reset? {
        Some(partitions) => json(StatusCode::OK, &PositionReset { name, partitions: partitions as u64 }),
        None => Err(unknown(&name)),
    }
}

fn unknown(name: &str) -> Refused {
    let name: String = name.chars().take(64).collect();
    Refused::new(ProblemKind::SourceNotFound, format!("no source {name:?} is configured"))
}
