//! The HTTP stack of the front without a store behind it: reads the body, answers 202.
//!
//! Built as the broker builds its own front: hyper-util's server with the same switches, on as many workers as there
//! are processors, with the header fields of a real 202.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpListener;

use crate::helper;

/// What the front sends with a 202, with values as long as real ones.
const HEADERS: [(&str, &str); 5] = [
    ("x-call-id", "0190c6a2-4d3e-4f7a-9b1c-8d2e3f405162"),
    ("x-start-time", "1700000000000000000"),
    ("x-served-by", "evoke/0.1.0"),
    ("evoke-invocation-id", "0190c6a2-4d3e-7f7a-9b1c-8d2e3f405162"),
    ("evoke-durability", "fsync"),
];

/// Plays this part until nobody asks any more.
pub(crate) fn play() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    let address = listener.local_addr()?;
    runtime.spawn(serve(listener));
    helper::answer(address, |question| bail!("nobody answers {question:?}"))
}

async fn serve(listener: TcpListener) {
    let mut builder = Builder::new(TokioExecutor::new()).http1_only().title_case_headers(true);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(60))
        .max_buf_size(1 << 20);
    let builder = Arc::new(builder);
    let headers: HeaderMap = HEADERS
        .iter()
        .map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect();
    // Whoever measures sees a connection that is not accepted.
    while let Ok((stream, _)) = listener.accept().await {
        // Without it the kernel may hold back small answers; a socket that refuses the option still works.
        let _ = stream.set_nodelay(true);
        let (builder, headers) = (Arc::clone(&builder), headers.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| accept(request, headers.clone()));
            // A connection that breaks is the generator's to report.
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn accept(
    request: Request<Incoming>,
    headers: HeaderMap,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let whole = request.into_body().collect().await;
    let mut response = Response::new(Empty::new());
    *response.status_mut() = if whole.is_ok() { StatusCode::ACCEPTED } else { StatusCode::BAD_REQUEST };
    *response.headers_mut() = headers;
    Ok(response)
}
