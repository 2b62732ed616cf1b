//! `/async-function/…`, as the gateway would answer: what is in the path (`target`), what the header fields wish for
//! (`wishes`), the body on its way in (`upload`), and the answers (`answer`).

mod answer;
mod target;
mod upload;
mod wishes;

use std::sync::Arc;

use bytes::BytesMut;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use broker_config::{BodyOverLimit, CancelAccess};
use broker_engine::Submission;
use broker_model::{CallId, FunctionName, Headers};

use crate::auth::Peer;
use crate::parts::Phase;
use crate::route::{Reply, plain};
use crate::server::Shared;
use crate::settings::HttpSettings;

pub(crate) use upload::{Received, Upload, UploadError};

use answer::{Refused, accepted, refused};
use target::Target;
use wishes::Wishes;

/// Answers a request below `/async-function/`; `path` is the rest, raw, with runs of slashes made one.
pub(crate) async fn answer(
    shared: &Arc<Shared>,
    settings: &HttpSettings,
    peer: Peer,
    path: &str,
    request: Request<Incoming>,
) -> Response<Reply> {
    match *request.method() {
        Method::POST => match submit(shared, settings, path, request).await {
            Ok(response) => response,
            Err(refusal) => refused(&refusal, settings.body_over_limit),
        },
        Method::DELETE if settings.cancel != CancelAccess::Off => {
            Box::pin(cancel(shared, settings, peer, path, request.headers(), request.uri())).await
        }
        _ => {
            let allow = match settings.cancel {
                CancelAccess::Off => "POST",
                CancelAccess::Open | CancelAccess::Authenticated => "POST, DELETE",
            };
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "");
            response.headers_mut().insert(header::ALLOW, http::HeaderValue::from_static(allow));
            response
        }
    }
}

async fn submit(
    shared: &Arc<Shared>,
    settings: &HttpSettings,
    path: &str,
    request: Request<Incoming>,
) -> Result<Response<Reply>, Refused> {
    let (parts, body) = request.into_parts();
    let upload = Upload::new(body, &parts.headers);
    let checked = check(shared, settings, path, &parts);
    let (target, function, wishes) = match checked {
        Ok(checked) => checked,
        Err(refusal) => {
            // Who is still sending would lose the answer to a connection that closes on unread bytes.
            Box::pin(upload.discard()).await;
            return Err(refusal);
        }
    };
    let Received { body, permit } = upload
        .receive(settings.body_limit, &settings.pace, &shared.budget, &*shared.bodies)
        .await
        .map_err(Refused::Upload)?;
    let submission = Submission {
        function,
        written: target.name.into(),
        path_and_query: target.path_and_query(parts.uri.query()),
        headers: headers_of(&parts.headers),
        body,
        call_id: wishes.call_id,
        callback_url: wishes.callback_url,
        idempotency_key: wishes.idempotency_key,
        due: wishes.due,
        max_age: wishes.max_age,
        wait: wishes.wait,
        memory: permit,
    };
    // What came is in the submission now; a call may be waited for long.
    drop(parts);
    let submitted = shared.intake.submit(submission).await.map_err(Refused::Submit)?;
    Ok(accepted(submitted, shared.durability, wishes.wait))
}

fn check<'a>(
    shared: &Shared,
    settings: &HttpSettings,
    path: &'a str,
    request: &http::request::Parts,
) -> Result<(Target<'a>, FunctionName, Wishes), Refused> {
    if shared.phase() >= Phase::Draining {
        return Err(Refused::Draining);
    }
    let target = Target::parse(path).map_err(Refused::Path)?;
    let function = FunctionName::parse(target.name, &settings.default_namespace).map_err(Refused::Name)?;
    let wishes = Wishes::read(&request.headers, shared.clock.now()).map_err(Refused::Header)?;
    Ok((target, function, wishes))
}

/// The header fields as they came; the intake knows which are not for the function.
fn headers_of(map: &HeaderMap) -> Headers {
    // One copy for all values, which also leaves the connection's buffer free.
    let mut values = BytesMut::with_capacity(map.values().map(|value| value.len()).sum());
    map.values().for_each(|value| values.extend_from_slice(value.as_bytes()));
    let mut values = values.freeze();
    map.iter().map(|(name, value)| (name.as_str(), values.split_to(value.len()))).collect()
}

async fn cancel(
    shared: &Shared,
    settings: &HttpSettings,
    peer: Peer,
    path: &str,
    headers: &HeaderMap,
    uri: &http::Uri,
) -> Response<Reply> {
    if settings.cancel == CancelAccess::Authenticated
        && let Err(problem) = shared.guard.admit(&settings.api, peer, headers, uri).await
    {
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::FORBIDDEN);
        let mut response = plain(status, format!("{}: {}\n", problem.detail, problem.remedy));
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, crate::auth::CHALLENGE);
        }
        return response;
    }
    let Some(call_id) = target::call_id(path).and_then(|text| CallId::parse(&text).ok()) else {
        return plain(StatusCode::NOT_FOUND, "no call has this id\n");
    };
    match shared.control.cancel_call(&call_id).await {
        Ok(0) => plain(StatusCode::NOT_FOUND, "no call with this id waits or runs\n"),
        Ok(_) => plain(StatusCode::ACCEPTED, ""),
        Err(error) => refused(
            &Refused::Submit(broker_engine::SubmitRefusal::Store(error)),
            BodyOverLimit::ContentTooLarge,
        ),
    }
}
