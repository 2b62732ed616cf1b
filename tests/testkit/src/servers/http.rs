//! Requests that a server's own HTTP interface answers.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Sends one request on a connection of its own.
pub(super) async fn ask(
    at: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Result<(StatusCode, Bytes), String> {
    let mut request = Request::builder().method(method).uri(path).header("host", at.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body.into())).map_err(|error| error.to_string())?;
    let exchange = async {
        let stream = TcpStream::connect(at).await.map_err(|error| error.to_string())?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        // The sender moves into its half, so that the connection ends with it.
        let answer = async move {
            let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
            let status = answer.status();
            let body = answer.into_body().collect().await.map_err(|error| error.to_string())?;
            Ok((status, body.to_bytes()))
        };
        tokio::join!(answer, connection).0
    };
    match tokio::time::timeout(Duration::from_secs(30), exchange).await {
        Ok(answer) => answer,
        Err(_) => Err("no answer within 30 s".into()),
    }
}

/// As [`ask`], for a request that is answered 2xx when all is well.
pub(super) async fn asked_well(
    at: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Result<Bytes, String> {
    let (status, body) = ask(at, method, path, headers, body).await?;
    if status.is_success() {
        return Ok(body);
    }
    Err(format!("{path} is answered {status}: {}", String::from_utf8_lossy(&body)))
}
