//! `/v1/invocations`.

use axum::extract::{RawQuery, State};
use http::StatusCode;

use broker_api::{Cancelled as Answered, List, ProblemKind};
use broker_model::ledger::Filter;
use broker_model::queue::Cancelled;
use broker_model::{CallId, InvocationId, Record, State as Stands};

use super::{Answer, Here, Id, Lanes, function_name, json, stored_body};
use crate::convert;
use crate::problem::Refused;
use crate::query::Parameters;
use crate::server::Shared;

pub(super) async fn list(State(shared): Here, RawQuery(query): RawQuery) -> Answer {
    let parameters =
        Parameters::read(query.as_deref(), &["function", "state", "call_id", "limit", "cursor"])?;
    let filter = Filter {
        function: parameters.parsed("function", |text| function_name(&shared, text))?,
        state: parameters.parsed("state", |text| {
            Stands::named(text).ok_or_else(|| {
                let known = Stands::ALL.map(Stands::as_str).join(", ");
                format!("there is no state {text:?}; there are {known}")
            })
        })?,
        call_id: parameters.parsed("call_id", CallId::parse)?,
        reason: None,
    };
    let listed = shared.ledger.list(&filter, &parameters.page()?).await?;
    let (now, mut lanes) = (shared.clock.now(), Lanes::default());
    let items = listed
        .items
        .iter()
        .map(|record| {
            convert::invocation(record, lanes.of(&shared, record.invocation.target.function()), now)
        })
        .collect();
    json(StatusCode::OK, &List { items, next: listed.next })
}

pub(super) async fn show(State(shared): Here, Id(id): Id, RawQuery(query): RawQuery) -> Answer {
    Parameters::none(query.as_deref())?;
    let record = find(&shared, id).await?;
    let mut lanes = Lanes::default();
    let lanes = lanes.of(&shared, record.invocation.target.function());
    json(StatusCode::OK, &convert::detail(&record, lanes, shared.clock.now()))
}

pub(super) async fn body(State(shared): Here, Id(id): Id, RawQuery(query): RawQuery) -> Answer {
    Parameters::none(query.as_deref())?;
    let record = find(&shared, id).await?;
    stored_body(&shared, record).await
}

pub(super) async fn cancel(State(shared): Here, Id(id): Id, RawQuery(query): RawQuery) -> Answer {
    Parameters::none(query.as_deref())?;
    let was = match shared.control.cancel(id).await? {
        Cancelled::Waiting => Stands::Waiting,
        Cancelled::Delivering => Stands::Delivering,
        Cancelled::TooLate => {
            return Err(Refused::new(ProblemKind::AlreadyEnded, format!("invocation {id} has ended")));
        }
        Cancelled::Unknown => return Err(unknown(id)),
    };
    json(StatusCode::ACCEPTED, &Answered { id: convert::id(id), was: was.as_str().into() })
}

async fn find(shared: &Shared, id: InvocationId) -> Result<Record, Refused> {
    shared.ledger.find(id).await?.ok_or_else(|| unknown(id))
}

fn unknown(id: InvocationId) -> Refused {
    Refused::new(
        ProblemKind::InvocationNotFound,
        format!("invocation {id} is unknown, removed or past its retention"),
    )
}
