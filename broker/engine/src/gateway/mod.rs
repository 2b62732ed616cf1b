//! Speaking HTTP to the gateway and to callbacks' hosts.
//!
//! * [`client`]: connections, kept alive and reused; knows whether a failed request left anything on the wire;
//! * [`headers`]: what functions and callbacks' hosts are sent besides bodies;
//! * [`answer`]: how much of an answer is kept, and where;
//! * `invoke`: a delivery as a request, an exchange as an outcome;
//! * [`listing`]: the gateway's `/system` routes;
//! * [`targets`] and `callbacks`: which addresses are called with results, and the call.

pub mod answer;
pub(crate) mod callbacks;
pub mod client;
pub mod headers;
pub(crate) mod invoke;
pub mod listing;
pub mod targets;
mod tls;

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{HOST, PROXY_AUTHORIZATION};
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use tokio_util::task::TaskTracker;

use broker_model::{FunctionName, StoreError};

use crate::engine::EngineError;
use crate::settings::GatewaySettings;

use answer::AnswerSink;
use client::{Client, OutBody, Pool, SendFailure};
use listing::{ListFailure, ListedFunction, Lister};

/// The key of the certificates trusted for the gateway.
pub(crate) const CA_FILE: &str = "gateway.ca_file";

/// The gateway, as a port: the broker's own client in service, a script in simulations.
#[async_trait]
pub trait Gateway: Send + Sync + std::fmt::Debug {
    /// Sends one call and feeds its answer's body to `answer`. A failure is an outcome, never an error.
    ///
    /// Dropped, the connection under it is closed: the gateway sees the caller leave.
    async fn call(&self, request: CallRequest, answer: &mut AnswerSink) -> Exchange;

    /// Whether a connection can be made at all; says why not.
    async fn reach(&self) -> Result<(), Box<str>>;

    /// Lists every function of every namespace, or says why the list is not whole.
    ///
    /// # Errors
    /// [`ListFailure`]: what came is no complete list, and nothing follows from it.
    async fn list(&self) -> Result<Vec<ListedFunction>, ListFailure>;

    /// Whether the gateway knows this function; the error means it cannot say at the moment.
    async fn knows(&self, function: &FunctionName) -> Result<bool, Box<str>>;
}

/// One call, ready to be sent.
#[derive(Debug)]
pub struct CallRequest {
    /// Path and query below the gateway's base, raw: `/function/name.ns/a%2Fb?x=1`.
    pub path_and_query: String,
    /// Header fields.
    pub headers: HeaderMap,
    /// The body.
    pub body: OutBody,
    /// Bound of the whole exchange.
    pub timeout: Option<Duration>,
}

/// How an exchange went, before it is judged.
#[derive(Debug)]
pub enum Exchange {
    /// A whole answer came; its body went to the sink.
    Answered {
        /// The status.
        status: u16,
        /// The header fields.
        headers: HeaderMap,
    },
    /// The connection ended after something was sent and before a whole answer.
    Dropped(Box<str>),
    /// The time limit ran out.
    TimedOut,
    /// Nothing was sent: no such host, refused, TLS.
    Unreachable(Box<str>),
    /// No address of the host may be called.
    Denied(Box<str>),
    /// We have no file or port left for a connection. Nobody's failure but ours.
    OutOfResources(Box<str>),
    /// The body could not be read from the store.
    BodyUnreadable(StoreError),
}

/// The gateway over HTTP.
#[derive(Debug)]
pub(crate) struct HttpGateway {
    client: Client,
    pool: Arc<Pool>,
    base_path: String,
    /// The start of the request target: empty, or scheme and authority where a plain proxy wants the absolute form.
    absolute: String,
    /// Who we are to a plain proxy, which is told with each request; over a tunnel it is told once.
    proxy_authorization: Option<HeaderValue>,
    host: HeaderValue,
    lister: Lister,
}

impl HttpGateway {
    pub(crate) fn new(settings: &GatewaySettings, tasks: TaskTracker) -> Result<Self, EngineError> {
        let tls = tls::client_config(CA_FILE, settings.ca_file.as_deref())?;
        let client = Client::new(tls.clone(), CA_FILE, settings.proxy.as_ref(), tasks);
        let origin = client::Origin::of(&settings.url);
        let host =
            HeaderValue::from_str(&origin.authority()).map_err(|error| EngineError::Client(error.into()))?;
        let plain_proxy = settings.proxy.as_ref().filter(|_| !origin.https);
        let absolute = plain_proxy.map_or_else(String::new, |_| format!("http://{}", origin.authority()));
        let proxy_authorization = plain_proxy.and_then(headers::basic_authorization);
        let pool = client.pool(origin);
        let base_path = settings.url.path().trim_end_matches('/').to_owned();
        let lister = Lister::new(settings, tls)?;
        Ok(HttpGateway { client, pool, base_path, absolute, proxy_authorization, host, lister })
    }

    async fn exchange(&self, request: Request<OutBody>, answer: &mut AnswerSink) -> Exchange {
        let sent = self.client.send(&self.pool, &client::AnyAddress, request).await;
        read_answer(sent, answer).await
    }
}

#[async_trait]
impl Gateway for HttpGateway {
    async fn call(&self, call: CallRequest, answer: &mut AnswerSink) -> Exchange {
        let target = format!("{}{}{}", self.absolute, self.base_path, call.path_and_query);
        // Checked when the call was accepted; what a store damaged is still no reason to stop.
        let Ok(uri) = Uri::from_maybe_shared(Bytes::from(target)) else {
            return Exchange::Denied("the path cannot be sent".into());
        };
        let mut request = Request::new(call.body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        *request.headers_mut() = call.headers;
        request.headers_mut().insert(HOST, self.host.clone());
        if let Some(authorization) = &self.proxy_authorization {
            request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
        }
        within(call.timeout, pin!(self.exchange(request, answer))).await
    }

    async fn reach(&self) -> Result<(), Box<str>> {
        match self.client.open(&self.pool, &client::AnyAddress).await {
            Ok(()) => Ok(()),
            Err(failure) => Err(failure.to_string().into()),
        }
    }

    async fn list(&self) -> Result<Vec<ListedFunction>, ListFailure> {
        self.lister.list().await
    }

    async fn knows(&self, function: &FunctionName) -> Result<bool, Box<str>> {
        self.lister.knows(function).await
    }
}

/// Bounds an exchange, where a bound is set.
pub(crate) async fn within<E>(timeout: Option<Duration>, exchange: Pin<&mut E>) -> Exchange
where
    E: Future<Output = Exchange>,
{
    match timeout {
        Some(limit) => tokio::time::timeout(limit, exchange).await.unwrap_or(Exchange::TimedOut),
        None => exchange.await,
    }
}

/// Reads the answer to what was sent into the sink.
pub(crate) async fn read_answer(
    sent: Result<client::Answering, SendFailure>,
    answer: &mut AnswerSink,
) -> Exchange {
    match sent {
        Ok(mut answering) => match read(&mut answering, answer).await {
            Ok(()) => {
                let (status, headers) = answering.finish();
                Exchange::Answered { status: status.as_u16(), headers }
            }
            Err(why) => Exchange::Dropped(why),
        },
        Err(SendFailure::Unreachable(why)) => Exchange::Unreachable(why),
        Err(SendFailure::Dropped(why)) => Exchange::Dropped(why),
        Err(SendFailure::Denied(why)) => Exchange::Denied(why),
        Err(SendFailure::OutOfResources(why)) => Exchange::OutOfResources(why),
        Err(SendFailure::BodyUnreadable(error)) => Exchange::BodyUnreadable(error),
    }
}

async fn read(answering: &mut client::Answering, answer: &mut AnswerSink) -> Result<(), Box<str>> {
    while let Some(chunk) = answering.chunk().await? {
        if answer.push(chunk).await == answer::Flow::Enough {
            break;
        }
    }
    Ok(())
}
