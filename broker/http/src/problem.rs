//! Problem documents as answers.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use tracing::error;

use broker_api::{Problem, ProblemKind};
use broker_model::queue::RedriveError;
use broker_model::{Refusal, StoreError};

use crate::front::UploadError;

/// A request to the management API that is not done.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) Problem);

impl Refused {
    pub(crate) fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Refused(Problem::new(kind, detail))
    }
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Refused(problem)
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::Full { .. } => ProblemKind::StoreFull,
            StoreError::TooManyWaiting { .. } | StoreError::TooMany { .. } => ProblemKind::TooManyWaiting,
            StoreError::KeyReused => ProblemKind::IdempotencyKeyReused,
            // No route names a schedule: it can only stand in what was asked.
            StoreError::NoSchedule(_) | StoreError::BadCursor => ProblemKind::InvalidParameter,
            StoreError::Failed { .. } => ProblemKind::StoreFailed,
            StoreError::Damaged { .. } => ProblemKind::StoreDamaged,
            StoreError::Rebuilding { .. } => ProblemKind::StoreRebuilding,
            StoreError::Closed => ProblemKind::Draining,
            StoreError::NoBody => ProblemKind::BodyGone,
        };
        Refused::new(kind, error.to_string())
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let kind = match refusal {
            Refusal::Store(error) => return error.into(),
            Refusal::NoFunctionList => ProblemKind::NoFunctionList,
            Refusal::Draining => ProblemKind::Draining,
            Refusal::Paused => ProblemKind::SourcePaused,
            Refusal::TooLarge { .. } => ProblemKind::BodyTooLarge,
            Refusal::KeyReused => ProblemKind::IdempotencyKeyReused,
        };
        Refused::new(kind, refusal.to_string())
    }
}

impl From<RedriveError> for Refused {
    fn from(error: RedriveError) -> Self {
        let kind = match error {
            RedriveError::Store(error) => return error.into(),
            RedriveError::Unknown(_) => ProblemKind::DeadLetterNotFound,
            RedriveError::NotDead(_) => ProblemKind::AlreadyRedriven,
            RedriveError::NothingToRun(_) => ProblemKind::NothingToRun,
        };
        Refused::new(kind, error.to_string())
    }
}

impl From<UploadError> for Refused {
    fn from(error: UploadError) -> Self {
        let kind = match error {
            UploadError::Store(error) => return error.into(),
            UploadError::TooLarge { .. } => ProblemKind::BodyTooLarge,
            UploadError::Broken(_) => ProblemKind::InvalidBody,
            UploadError::TooSlow => ProblemKind::UploadTooSlow,
            UploadError::Busy => ProblemKind::UploadsBusy,
        };
        Refused::new(kind, error.to_string())
    }
}

/// How long to wait before asking again, in seconds, where asking again helps.
fn retry_after(kind: ProblemKind) -> Option<u64> {
    match kind {
        ProblemKind::TooManyWaiting | ProblemKind::StoreFull | ProblemKind::StoreRebuilding => Some(1),
        ProblemKind::Draining
        | ProblemKind::NoFunctionList
        | ProblemKind::SourcePaused
        | ProblemKind::StoreFailed
        | ProblemKind::UploadsBusy => Some(5),
        _ => None,
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Refused(problem) = self;
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if problem.known() == Some(ProblemKind::Internal) {
            error!(detail = %problem.detail, "a request to the management API met a fault of ours");
        }
        let mut response = (status, axum::Json(&problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, crate::auth::CHALLENGE);
        }
        if let Some(seconds) = problem.known().and_then(retry_after) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
