//! Which part answers a request, by its raw path.

use std::borrow::Cow;
use std::sync::Arc;

use axum::Router;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use tower::ServiceExt;

use crate::auth::Peer;
use crate::front;
use crate::health;
use crate::server::Shared;

/// The body of an answer: the front's in hand, the management API's as its router makes it.
pub(crate) type Reply = Either<Full<Bytes>, axum::body::Body>;

/// The path under which calls are taken.
const FRONT: &str = "/async-function/";

/// Answers any request to the front's listener.
pub(crate) async fn answer(
    shared: &Arc<Shared>,
    router: &Router,
    peer: Peer,
    request: Request<Incoming>,
) -> Response<Reply> {
    let settings = shared.settings();
    let path = clean(request.uri().path());
    let (route, response) = if head_size(&request) > settings.header_limit {
        (
            "other",
            plain(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "the request's head is too large (limits.headers)\n",
            ),
        )
    } else if let Some(path) = path.strip_prefix(FRONT).map(Box::<str>::from) {
        ("async-function", front::answer(shared, &settings, peer, &path, request).await)
    } else if path == "/v1" || path.starts_with("/v1/") {
        ("v1", Box::pin(management(router, peer, request)).await)
    } else if path == "/healthz" || path == "/readyz" {
        let ready = path == "/readyz";
        ("health", health_route(shared, ready, request.method()))
    } else {
        ("other", not_ours(&path))
    };
    shared.metrics.count(route, response.status());
    response
}

/// What a head weighs. hyper stops reading near the limit; what came with the last read is judged here.
fn head_size(request: &Request<Incoming>) -> usize {
    let uri = request.uri().path().len() + request.uri().query().map_or(0, str::len);
    request
        .headers()
        .iter()
        .fold(uri, |size, (name, value)| size + name.as_str().len() + value.len() + ": \r\n".len())
}

/// The path with every run of slashes made one: the gateway would redirect, and a redirected POST loses its body.
fn clean(path: &str) -> Cow<'_, str> {
    if !path.contains("//") {
        return Cow::Borrowed(path);
    }
    let mut cleaned = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !cleaned.ends_with('/') {
            cleaned.push(c);
        }
    }
    Cow::Owned(cleaned)
}

async fn management(router: &Router, peer: Peer, request: Request<Incoming>) -> Response<Reply> {
    let mut request = request.map(axum::body::Body::new);
    request.extensions_mut().insert(peer);
    match router.clone().oneshot(request).await {
        Ok(response) => response.map(Either::Right),
        Err(never) => match never {},
    }
}

fn health_route(shared: &Shared, ready: bool, method: &Method) -> Response<Reply> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "");
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let (status, body) = if ready { health::readiness(shared) } else { health::liveness(shared) };
    let mut response = Response::new(Either::Left(Full::new(Bytes::from(body))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn not_ours(path: &str) -> Response<Reply> {
    let text = if path == "/async-function" || path.starts_with("/system/") || path.starts_with("/function/")
    {
        "Evoke does not pass this on to the gateway yet: ask the gateway itself. Here are /async-function/NAME, /v1, \
         /healthz and /readyz.\n"
    } else {
        "there is nothing here. Evoke serves /async-function/NAME, /v1, /healthz and /readyz; the gateway's other \
         routes are not passed on yet.\n"
    };
    plain(StatusCode::NOT_FOUND, text)
}

/// An answer of plain text; without text, an empty one.
pub(crate) fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Reply> {
    let text: Bytes = text.into();
    let empty = text.is_empty();
    let mut response = Response::new(Either::Left(Full::new(text)));
    *response.status_mut() = status;
    if !empty {
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_slashes_are_one() {
        for (path, cleaned) in
            [("/a/b", "/a/b"), ("//a", "/a"), ("/a//b///c", "/a/b/c"), ("/a//", "/a/"), ("", ""), ("/", "/")]
        {
            assert_eq!(clean(path), cleaned);
        }
    }
}
