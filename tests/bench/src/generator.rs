//! A load as fast as answers come: connections kept alive, one request at a time on each.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::meter::{Cast, Progress, Sample, observe};
use crate::plan::{BODY, Bound};

/// Nothing takes longer to be answered, or something hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is asked, and what has to be answered. Any other answer ends the run: it is no figure.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) address: SocketAddr,
    pub(crate) path: &'static str,
    pub(crate) expected: StatusCode,
    pub(crate) connections: usize,
    /// Further fields of each head.
    pub(crate) headers: &'static [(&'static str, &'static str)],
    /// The body of each post, by its number.
    pub(crate) body: fn(u64) -> Bytes,
}

/// The same body each time.
pub(crate) fn same(_: u64) -> Bytes {
    Bytes::from_static(&[b'x'; BODY])
}

/// Posts for as long as `bound` says. Gives the rate, and how many were answered in all, warm-up included.
pub(crate) async fn rate(load: &Load, bound: &Bound, cast: &Cast) -> Result<(Sample, u64)> {
    let progress = Arc::new(Progress::up_to(bound.most));
    let connections = open(load, &progress).await?;
    let observed = observe(&progress, bound, cast).await;
    // Connections that failed know better why nothing was observed.
    join(connections).await?;
    Ok((observed?, progress.count()))
}

/// Posts exactly `count` times.
pub(crate) async fn post(load: &Load, count: u64) -> Result<()> {
    let progress = Arc::new(Progress::up_to(count));
    join(open(load, &progress).await?).await?;
    ensure!(progress.count() == count, "{} of {count} posts were answered", progress.count());
    Ok(())
}

async fn open(load: &Load, progress: &Arc<Progress>) -> Result<JoinSet<Result<()>>> {
    let mut streams = Vec::with_capacity(load.connections);
    for _ in 0..load.connections {
        let stream = TcpStream::connect(load.address)
            .await
            .with_context(|| format!("connecting to {}", load.address))?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let mut connections = JoinSet::new();
    for stream in streams {
        connections.spawn(converse(stream, load.clone(), Arc::clone(progress)));
    }
    Ok(connections)
}

async fn join(mut connections: JoinSet<Result<()>>) -> Result<()> {
    while let Some(ended) = connections.join_next().await {
        ended.context("a connection's task panicked")??;
    }
    Ok(())
}

/// One connection, request after request. It is driven by the task that waits for the answers, which saves a switch
/// between tasks for every request: what the load costs is taken from what is measured, on the same processors.
async fn converse(stream: TcpStream, load: Load, progress: Arc<Progress>) -> Result<()> {
    let uri = Uri::from_static(load.path);
    let mut headers = HeaderMap::new();
    headers.insert(HOST, HeaderValue::from_str(&load.address.to_string())?);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    for &(name, value) in load.headers {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }

    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut connection = pin!(connection);
    while let Some(n) = progress.next() {
        let mut request = Request::new(Full::new((load.body)(n)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = headers.clone();
        let mut exchange = pin!(async {
            sender.ready().await?;
            let response = sender.send_request(request).await?;
            let status = response.status();
            let mut body = response.into_body();
            while let Some(frame) = body.frame().await {
                frame?;
            }
            Ok::<_, hyper::Error>(status)
        });
        let answered = poll_fn(|cx| {
            // Before, to hand over the request; after, to take what the connection has read.
            if let Poll::Ready(answered) = exchange.as_mut().poll(cx) {
                return Poll::Ready(answered.map_err(anyhow::Error::from));
            }
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                let why = ended.err().map_or_else(|| "closed".to_owned(), |error| error.to_string());
                return Poll::Ready(Err(anyhow::anyhow!("the connection ended before the answer: {why}")));
            }
            exchange.as_mut().poll(cx).map_err(anyhow::Error::from)
        });
        let status = tokio::time::timeout(PATIENCE, answered)
            .await
            .with_context(|| format!("no answer from {} within {PATIENCE:?}", load.path))?
            .with_context(|| format!("posting to {}", load.path))?;
        ensure!(status == load.expected, "{} answered {status}, not {}", load.path, load.expected);
        progress.done();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use broker_demo_gateway::{Answer, DemoGateway, Function};

    use super::*;

    fn to(gateway: &DemoGateway, path: &'static str) -> Load {
        Load {
            address: gateway.addr(),
            path,
            expected: StatusCode::OK,
            connections: 4,
            headers: &[],
            body: same,
        }
    }

    #[tokio::test]
    async fn exactly_as_many_are_posted_as_asked_for() {
        let gateway = DemoGateway::start([Function::no_op("noop")]).await.unwrap();

        post(&to(&gateway, "/function/noop"), 103).await.unwrap();

        assert_eq!(gateway.call_count("noop"), 103);
    }

    #[tokio::test]
    async fn bodies_are_as_long_as_the_plan_says() {
        let gateway = DemoGateway::start([Function::echo("echo")]).await.unwrap();

        post(&to(&gateway, "/function/echo"), 1).await.unwrap();

        assert_eq!(gateway.calls("echo")[0].body.len(), BODY);
    }

    #[tokio::test]
    async fn another_answer_than_expected_is_no_figure() {
        let gateway = DemoGateway::start([Function::fail("fail", 507)]).await.unwrap();

        let error = post(&to(&gateway, "/function/fail"), 10).await.unwrap_err();

        assert!(error.to_string().contains("507"), "{error:#}");
    }

    #[tokio::test]
    async fn a_dropped_connection_is_no_figure() {
        let gateway = DemoGateway::start([Function::answering("gone", async |_| Answer::drop_connection())])
            .await
            .unwrap();

        post(&to(&gateway, "/function/gone"), 10).await.unwrap_err();
    }

    #[tokio::test]
    async fn what_was_answered_is_what_was_called() {
        let gateway = DemoGateway::start([Function::no_op("noop")]).await.unwrap();
        let bound =
            Bound { warm_up: Duration::from_millis(5), window: Duration::from_millis(50), most: 1_000_000 };

        let (sample, answered) =
            rate(&to(&gateway, "/function/noop"), &bound, &Cast::with(&[])).await.unwrap();

        assert_eq!(gateway.call_count("noop"), answered);
        assert!(sample.rate > 0.0);
    }
}
