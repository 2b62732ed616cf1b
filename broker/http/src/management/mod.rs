//! The management API (`/v1`): reads through the ledger, acts through the engine's control.
//!
//! Every route refuses parameters and keys it does not know. Errors are problem documents.

mod dead_letters;
mod events;
mod functions;
mod info;
mod invocations;
mod schedules;
mod sources;

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, Uri, header};
use serde::Serialize;
use serde::de::DeserializeOwned;

use broker_api::ProblemKind;
use broker_engine::LaneState;
use broker_model::{FunctionName, InvocationId};

use crate::auth::Peer;
use crate::front::{Received, Upload};
use crate::problem::Refused;
use crate::query::invalid;
use crate::server::Shared;

type Answer = Result<Response, Refused>;
type Here = State<Arc<Shared>>;

/// All routes of `/v1`, behind the guard.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/info", get(info::info))
        .route("/v1/functions", get(functions::list))
        .route("/v1/functions/{name}", get(functions::show))
        .route("/v1/functions/{name}/pause", post(functions::pause))
        .route("/v1/functions/{name}/resume", post(functions::resume))
        .route("/v1/triggers", get(functions::triggers))
        .route("/v1/sources", get(sources::list))
        .route("/v1/sources/{name}", get(sources::show))
        .route("/v1/sources/{name}/pause", post(sources::pause))
        .route("/v1/sources/{name}/resume", post(sources::resume))
        .route("/v1/sources/{name}/reset-position", post(sources::reset_position))
        .route("/v1/schedules", get(schedules::list))
        .route("/v1/schedules/{id}", get(schedules::show))
        .route("/v1/schedules/{id}/run", post(schedules::run))
        .route("/v1/schedules/{id}/pause", post(schedules::pause))
        .route("/v1/schedules/{id}/resume", post(schedules::resume))
        .route("/v1/schedules/{id}/backfill", post(schedules::backfill))
        .route("/v1/invocations", get(invocations::list))
        .route("/v1/invocations/{id}", get(invocations::show))
        .route("/v1/invocations/{id}/body", get(invocations::body))
        .route("/v1/invocations/{id}/cancel", post(invocations::cancel))
        .route("/v1/dead-letters", get(dead_letters::list))
        .route("/v1/dead-letters/redrive", post(dead_letters::redrive_all))
        .route("/v1/dead-letters/{id}", get(dead_letters::show).delete(dead_letters::remove))
        .route("/v1/dead-letters/{id}/body", get(dead_letters::body))
        .route("/v1/dead-letters/{id}/redrive", post(dead_letters::redrive))
        .route("/v1/events", post(events::publish))
        .fallback(no_such_route)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), guard))
        .with_state(shared)
}

async fn guard(State(shared): Here, request: Request, next: Next) -> Response {
    let Some(peer) = request.extensions().get::<Peer>().copied() else {
        return Refused::new(ProblemKind::Internal, "the connection of this request is not known")
            .into_response();
    };
    let settings = shared.settings();
    match shared.guard.admit(&settings.api, peer, request.headers(), request.uri()).await {
        Ok(()) => next.run(request).await,
        Err(problem) => Refused(problem).into_response(),
    }
}

async fn no_such_route(uri: Uri) -> Refused {
    let path: String = uri.path().chars().take(255).collect();
    Refused::new(ProblemKind::NoSuchRoute, format!("there is no route {path:?}"))
}

async fn method_not_allowed(method: Method, uri: Uri) -> Refused {
    let path: String = uri.path().chars().take(255).collect();
    Refused::new(ProblemKind::MethodNotAllowed, format!("{path:?} does not take {method}"))
}

/// An answer in JSON.
fn json(status: StatusCode, shape: &impl Serialize) -> Answer {
    let mut response = (status, axum::Json(shape)).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The one variable segment of a path, decoded.
struct Segment(String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(segment)) => Ok(Segment(segment)),
            Err(_) => Err(invalid("path", "cannot be decoded as UTF-8")),
        }
    }
}

/// The invocation id in a path.
struct Id(InvocationId);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let Segment(text) = Segment::from_request_parts(parts, state).await?;
        text.parse().map(Id).map_err(|error: broker_model::id::NotAnId| invalid("id", &error.to_string()))
    }
}

/// The function's name in a path or parameter.
fn function_name(shared: &Shared, text: &str) -> Result<FunctionName, broker_model::names::NameError> {
    FunctionName::parse(text, &shared.settings().default_namespace)
}

/// A request's body read as JSON, in full, with the memory it holds.
async fn read_json<T: DeserializeOwned>(shared: &Shared, request: Request) -> Result<Received<T>, Refused> {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.and_then(|value| value.split(';').next()).map(str::trim).unwrap_or_default();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(Refused::new(
            ProblemKind::UnsupportedMediaType,
            format!("the content type is {essence:?}, not application/json"),
        ));
    }
    // A body of `limits.body` is a third longer in base64, and has a few keys beside it.
    let settings = shared.settings();
    let limit = settings.body_limit.saturating_add(settings.body_limit / 3).saturating_add(1024 * 1024);
    let (parts, body) = request.into_parts();
    let upload = Upload::new(body, &parts.headers);
    let Received { body, permit } = upload.receive_in_memory(limit, &settings.pace, &shared.budget).await?;
    let body = serde_json::from_slice(&body)
        .map_err(|error| Refused::new(ProblemKind::InvalidBody, error.to_string()))?;
    Ok(Received { body, permit })
}

/// A stored body as it was accepted. Whoever sent it chose its type, so no browser is told to believe it.
async fn stored_body(shared: &Shared, record: broker_model::Record) -> Answer {
    let invocation = record.invocation;
    let chunks = shared.bodies.read(&invocation.body).await?;
    let mut response = Response::new(Body::from_stream(chunks));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(invocation.body.len()));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(sent) = invocation.headers.get("content-type")
        && let Ok(sent) = HeaderValue::from_bytes(sent)
    {
        headers.insert("evoke-content-type", sent);
    }
    Ok(response)
}

/// The lanes of functions, each looked up once in a list.
#[derive(Default)]
struct Lanes(HashMap<FunctionName, Vec<LaneState>>);

impl Lanes {
    fn of(&mut self, shared: &Shared, function: Option<&FunctionName>) -> &[LaneState] {
        match function {
            None => &[],
            Some(function) => {
                self.0.entry(function.clone()).or_insert_with(|| shared.functions.lane_states(function))
            }
        }
    }
}
