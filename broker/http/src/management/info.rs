//! `/v1/info`.

use axum::extract::{RawQuery, State};
use http::StatusCode;

use broker_api::{GatewayDown, GatewayInfo, Info};

use super::{Answer, Here, json};
use crate::convert;
use crate::query::Parameters;

pub(super) async fn info(State(shared): Here, RawQuery(query): RawQuery) -> Answer {
    Parameters::none(query.as_deref())?;
    let functions = &shared.functions;
    json(
        StatusCode::OK,
        &Info {
            version: env!("CARGO_PKG_VERSION").into(),
            phase: shared.phase().as_str().into(),
            uptime: convert::whole_seconds(shared.clock.monotonic().saturating_sub(shared.started)),
            store: convert::store(shared.ledger.health()),
            ledger: convert::ledger(&shared.ledger.totals()),
            gateway: GatewayInfo {
                functions: functions.table().functions.len() as u64,
                list_age: functions.age().map(convert::whole_seconds),
                last_problem: functions.last_problem().map(|problem| problem.problem.into()),
                down: functions.gateway_down().map(|down| GatewayDown {
                    since: convert::time(down.since),
                    last_error: down.last_error.into(),
                }),
            },
        },
    )
}
