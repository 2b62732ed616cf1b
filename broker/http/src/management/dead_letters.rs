//! `/v1/dead-letters`.

use axum::extract::{RawQuery, Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;

use broker_api::{List, ProblemKind, RedriveAll, Redriven, RedrivenAll};
use broker_model::ledger::{Filter, Page};
use broker_model::{CallId, InvocationId, Reason, Record, State as Stands};

use super::{Answer, Here, Id, function_name, json, read_json, stored_body};
use crate::convert;
use crate::problem::Refused;
use crate::query::Parameters;
use crate::server::Shared;

pub(super) async fn list(State(shared): Here, RawQuery(query): RawQuery) -> Answer {
    let parameters =
        Parameters::read(query.as_deref(), &["function", "reason", "call_id", "limit", "cursor"])?;
    let filter = Filter {
        function: parameters.parsed("function", |text| function_name(&shared, text))?,
        state: None,
        call_id: parameters.parsed("call_id", CallId::parse)?,
        reason: parameters.parsed("reason", reason)?,
    };
    let listed = shared.ledger.dead_letters(&filter, &parameters.page()?).await?;
    let now = shared.clock.now();
    let items = listed.items.iter().filter_map(|record| convert::dead_letter(record, now)).collect();
    json(StatusCode::OK, &List { items, next: listed.next })
}

pub(super) async fn show(State(shared): Here, Id(id): Id, RawQuery(query): RawQuery) -> Answer {
    Parameters::none(query.as_deref())?;
    let record = find(&shared, id).await?;
    match convert::dead_letter_detail(&record, shared.clock.now()) {
        Some(shown) => json(StatusCode::OK, &shown),
        None => Err(unknown(id)),
    }
}

pub(super) async fn body(State(shared): Here, Id(id): Id, RawQuery(query): RawQuery) -> Answer {
    Parameters::none(query.as_deref())?;
    let record = find(&shared, id).await?;
    stored_body(&shared, record).await
}

pub(super) async fn redrive(State(shared): Here, Id(id): Id, RawQuery(query): RawQuery) -> Answer {
    Parameters::none(query.as_deref())?;
    let life = shared.control.redrive(id).await?;
    json(StatusCode::ACCEPTED, &Redriven { id: convert::id(id), life })
}

pub(super) async fn remove(
    State(shared): Here,
    Id(id): Id,
    RawQuery(query): RawQuery,
) -> Result<Response, Refused> {
    Parameters::none(query.as_deref())?;
    if shared.control.remove(id).await? {
        Ok(StatusCode::NO_CONTENT.into_response())
    } else {
        Err(unknown(id))
    }
}

pub(super) async fn redrive_all(State(shared): Here, RawQuery(query): RawQuery, request: Request) -> Answer {
    Parameters::none(query.as_deref())?;
    let RedriveAll { filter, dry_run } = read_json(&shared, request).await?.body;
    let bad = |key: &str, why: String| Refused::new(ProblemKind::InvalidBody, format!("filter.{key}: {why}"));
    let function =
        function_name(&shared, &filter.function).map_err(|error| bad("function", error.to_string()))?;
    let reason = filter.reason.as_deref().map(reason).transpose().map_err(|error| bad("reason", error))?;
    if dry_run {
        let filter = Filter { function: Some(function), reason, ..Filter::default() };
        return json(StatusCode::OK, &count(&shared, &filter).await?);
    }
    let counts = shared.control.redrive_function(&function, reason).await?;
    let done = RedrivenAll { redriven: counts.redriven, skipped: counts.skipped, dry_run: false };
    json(StatusCode::ACCEPTED, &done)
}

/// What a redrive of all that meet the filter would do.
async fn count(shared: &Shared, filter: &Filter) -> Result<RedrivenAll, Refused> {
    let mut counts = RedrivenAll { redriven: 0, skipped: 0, dry_run: true };
    let mut page = Page { limit: List::<()>::MAX_LIMIT, cursor: None };
    loop {
        let listed = shared.ledger.dead_letters(filter, &page).await?;
        for record in &listed.items {
            let redrivable = record.dead_letter.as_ref().is_some_and(|dead| dead.reason.is_redrivable());
            *if redrivable { &mut counts.redriven } else { &mut counts.skipped } += 1;
        }
        match listed.next {
            Some(next) => page.cursor = Some(next),
            None => return Ok(counts),
        }
    }
}

fn reason(text: &str) -> Result<Reason, String> {
    Reason::named(text).ok_or_else(|| {
        let known = Reason::ALL.map(Reason::as_str).join(", ");
        format!("there is no reason {text:?}; there are {known}")
    })
}

async fn find(shared: &Shared, id: InvocationId) -> Result<Record, Refused> {
    let found = shared.ledger.find(id).await?;
    found.filter(|record| record.state == Stands::Dead).ok_or_else(|| unknown(id))
}

fn unknown(id: InvocationId) -> Refused {
    Refused::new(ProblemKind::DeadLetterNotFound, format!("{id} is no dead letter"))
}
