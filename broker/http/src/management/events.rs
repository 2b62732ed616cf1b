//! `/v1/events`.

use axum::extract::{RawQuery, Request, State};
use http::StatusCode;

use broker_api::PublishEvent;
use broker_model::{EventSink, Refusal};

use super::{Answer, Here, json, read_json};
use crate::convert;
use crate::front::Received;
use crate::parts::Phase;
use crate::query::Parameters;

/// Answers when everything the event causes is durable.
pub(super) async fn publish(State(shared): Here, RawQuery(query): RawQuery, request: Request) -> Answer {
    Parameters::none(query.as_deref())?;
    if shared.phase() >= Phase::Draining {
        return Err(Refusal::Draining.into());
    }
    let Received { body: request, permit }: Received<PublishEvent> = read_json(&shared, request).await?;
    let grammar = |source: &_| shared.sources.wildcards(source).unwrap_or_default();
    let event = convert::event(request, grammar, shared.clock.now())?;
    let limit = shared.settings().body_limit;
    if event.body.len() as u64 > limit {
        return Err(Refusal::TooLarge { bytes: event.body.len() as u64, limit }.into());
    }
    let receipt = shared.intake.publish(&event).await?;
    // The event was in memory until now.
    drop(permit);
    json(StatusCode::ACCEPTED, &convert::receipt(receipt))
}
