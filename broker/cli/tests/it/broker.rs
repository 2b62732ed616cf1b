//! A broker that gives one answer and remembers what it was asked.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    line: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

#[derive(Debug, Default)]
struct Script {
    status: u16,
    body: String,
    headers: Vec<(&'static str, String)>,
    asked: Vec<Asked>,
}

/// The broker; gone when dropped.
pub(crate) struct Broker {
    url: String,
    script: Arc<Mutex<Script>>,
    accepting: JoinHandle<()>,
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Broker {
    pub(crate) async fn answering(status: u16, body: &str) -> Broker {
        let script = Arc::new(Mutex::new(Script { status, body: body.into(), ..Script::default() }));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let shared = Arc::clone(&script);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let script = Arc::clone(&shared);
                tokio::spawn(async move {
                    let service = service_fn(move |request| answer(Arc::clone(&script), request));
                    // A client that leaves is the end of its test.
                    let _ = Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Broker { url, script, accepting }
    }

    pub(crate) fn with_header(self, name: &'static str, value: &str) -> Broker {
        self.script.lock().expect("not poisoned").headers.push((name, value.into()));
        self
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// `METHOD path?query` of every request.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.script.lock().expect("not poisoned").asked.iter().map(|asked| asked.line.clone()).collect()
    }

    pub(crate) fn last(&self) -> Asked {
        self.script.lock().expect("not poisoned").asked.last().cloned().expect("something was asked")
    }
}

async fn answer(
    script: Arc<Mutex<Script>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let headers = parts
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let mut script = script.lock().expect("not poisoned");
    script.asked.push(Asked {
        line: format!("{} {}", parts.method, parts.uri),
        headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    });
    let mut response = Response::builder().status(script.status);
    for (name, value) in &script.headers {
        response = response.header(*name, value);
    }
    Ok(response.body(Full::new(Bytes::from(script.body.clone()))).expect("canned parts are valid"))
}
