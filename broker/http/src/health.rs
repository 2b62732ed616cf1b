//! `/healthz` and `/readyz`.

use http::StatusCode;

use broker_api::{Health, Part, Readiness};
use broker_model::ledger::Refusing;

use crate::parts::Phase;
use crate::server::Shared;

/// Whether the process should go on living: not after a failed write, nor without a part of the engine, which only a
/// restart repairs.
pub(crate) fn liveness(shared: &Shared) -> (StatusCode, String) {
    let failed = match (shared.ledger.health().refusing, shared.functions.broken()) {
        (Some(Refusing::Failed(why)), _) => Some(format!("the store failed: {why}; restart to recover")),
        (_, Some(what)) => Some(format!("{what}; restart to recover")),
        _ => None,
    };
    let (status, health) = match failed {
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, Health { status: "failed".into(), detail: failed }),
        None => (StatusCode::OK, Health { status: "alive".into(), detail: None }),
    };
    (status, json(&health))
}

/// Whether new work is taken: the store takes writes and nothing is being stopped. A gateway that is down does not
/// count: to accept in that hour is what a broker is for.
pub(crate) fn readiness(shared: &Shared) -> (StatusCode, String) {
    let phase = shared.phase();
    let store = store(shared);
    let ready = phase == Phase::Ready && store.state == "ok";
    let mut parts = vec![store, gateway(shared), functions(shared)];
    parts.extend(shared.sources.list().into_iter().map(|source| Part {
        name: format!("source/{}", source.name),
        state: source.state.as_str().into(),
        detail: source.last_error.map(|(_, error)| error),
    }));
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, json(&Readiness { ready, phase: phase.as_str().into(), parts }))
}

fn store(shared: &Shared) -> Part {
    let (state, detail) = match shared.ledger.health().refusing {
        None => ("ok", None),
        Some(Refusing::Full(why)) => ("full", Some(why.into())),
        Some(Refusing::Failed(why)) => ("failed", Some(why.into())),
        Some(Refusing::Closed) => ("closed", None),
    };
    Part { name: "store".into(), state: state.into(), detail }
}

fn gateway(shared: &Shared) -> Part {
    let (state, detail) = match shared.functions.gateway_down() {
        Some(down) => ("down", Some(down.last_error.into())),
        None => ("ok", None),
    };
    Part { name: "gateway".into(), state: state.into(), detail }
}

fn functions(shared: &Shared) -> Part {
    let detail = shared.functions.last_problem().map(|problem| problem.problem.into());
    let state = match (shared.functions.loaded(), &detail) {
        (false, _) => "not-loaded",
        (true, Some(_)) => "stale",
        (true, None) => "ok",
    };
    Part { name: "functions".into(), state: state.into(), detail }
}

fn json(shape: &impl serde::Serialize) -> String {
    serde_json::to_string(shape)
        .expect("the shapes of health are strings and booleans, which are always JSON")
}
