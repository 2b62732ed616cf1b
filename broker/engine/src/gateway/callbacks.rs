//! Telling results: a callback is a POST of what its invocation holds.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::StreamExt;
use hmac::{Hmac, KeyInit, Mac};
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use secrecy::ExposeSecret;
use sha2::Sha256;
use tokio_util::task::TaskTracker;
use url::Url;

use broker_config::{SecretSource, Signing};
use broker_model::invocation::CallbackCall;
use broker_model::{BodyReader, Invocation, StoreError, Timestamp};

use crate::engine::EngineError;
use crate::settings::CallbackSettings;

use super::answer::AnswerSink;
use super::client::{Client, Origin};
use super::targets::{Callback, Targets};
use super::{Exchange, headers, invoke, tls, within};

/// Posts results to the hosts that wait for them.
#[derive(Debug)]
pub(crate) struct Callbacks {
    client: Client,
    targets: Targets,
    timeout: Duration,
    sign: Option<SecretSource>,
}

/// Why a callback was not even tried.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotTried {
    /// Its body cannot be read.
    #[error(transparent)]
    Body(#[from] StoreError),
    /// It cannot be signed.
    #[error("cannot sign callbacks: {0} (callbacks.sign)")]
    Secret(Box<str>),
}

impl Callbacks {
    pub(crate) fn new(settings: &CallbackSettings, tasks: TaskTracker) -> Result<Self, EngineError> {
        const CA_FILE: &str = "callbacks.ca_file";
        let tls = tls::client_config(CA_FILE, settings.ca_file.as_deref())?;
        Ok(Callbacks {
            client: Client::new(tls, CA_FILE, None, tasks),
            targets: Targets {
                allow: settings.allow.clone(),
                deny: settings.deny.clone(),
                own: settings.own_listeners.clone(),
            },
            timeout: settings.timeout,
            sign: settings.sign.clone(),
        })
    }

    pub(crate) fn targets(&self) -> &Targets {
        &self.targets
    }

    /// Posts one callback. What the host answers is an outcome, as is that it is not called.
    pub(crate) async fn post(
        &self,
        invocation: &Invocation,
        call: &CallbackCall,
        attempt: u32,
        bodies: &Arc<dyn BodyReader>,
        now: Timestamp,
        answer: &mut AnswerSink,
    ) -> Result<Exchange, NotTried> {
        let url = match self.targets.check(&call.url) {
            Ok(Callback::Callable(url)) => url,
            Ok(Callback::NotCallable(why)) => return Ok(Exchange::Denied(why)),
            Err(super::targets::Refused::Denied(why) | super::targets::Refused::Unparsable(why)) => {
                return Ok(Exchange::Denied(why));
            }
        };
        let target = &url[url::Position::BeforePath..url::Position::AfterQuery];
        let (Ok(uri), Ok(host)) =
            (Uri::from_maybe_shared(Bytes::copy_from_slice(target.as_bytes())), host_of(&url))
        else {
            return Ok(Exchange::Denied("the url cannot be sent".into()));
        };
        let mut fields = headers::to_callback_host(invocation, attempt);
        fields.insert(HOST, host);
        if let Some(authorization) = headers::basic_authorization(&url) {
            fields.insert(AUTHORIZATION, authorization);
        }
        if let Some(secret) = &self.sign {
            fields.extend(sign(&key(secret).await?, invocation, bodies, now).await?);
        }
        let mut request = Request::new(invoke::body(&**bodies, &invocation.body).await?);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        *request.headers_mut() = fields;
        let pool = self.client.pool(Origin::of(&url));
        let exchange = async {
            let sent = self.client.send(&pool, &self.targets.guard(&url), request).await;
            super::read_answer(sent, answer).await
        };
        Ok(within(Some(self.timeout), pin!(exchange)).await)
    }
}

fn host_of(url: &Url) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
    HeaderValue::from_str(&Origin::of(url).authority())
}

async fn key(secret: &SecretSource) -> Result<Vec<u8>, NotTried> {
    let source = secret.clone();
    let read = tokio::task::spawn_blocking(move || source.read()).await;
    let text = match read {
        Ok(Ok(text)) => text,
        Ok(Err(error)) => return Err(NotTried::Secret(error.to_string().into())),
        Err(error) => return Err(NotTried::Secret(error.to_string().into())),
    };
    Signing::key(text.expose_secret())
        .ok_or_else(|| NotTried::Secret("the secret is not whsec_ and the Base64 of 24 to 64 bytes".into()))
}

/// Source: the Standard Webhooks specification, "Symmetric signatures". The id is the callback's own, the same over its
/// retries, so that a receiver can tell a repeat.
async fn sign(
    key: &[u8],
    invocation: &Invocation,
    bodies: &Arc<dyn BodyReader>,
    now: Timestamp,
) -> Result<HeaderMap, NotTried> {
    let id = invocation.id.to_string();
    let timestamp = (now.as_millis() / 1000).to_string();
    let mut mac =
        Hmac::<Sha256>::new_from_slice(key).map_err(|error| NotTried::Secret(error.to_string().into()))?;
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    match &invocation.body {
        broker_model::Body::Inline(bytes) => mac.update(bytes),
        stored => {
            let mut chunks = bodies.read(stored).await?;
            while let Some(chunk) = chunks.next().await {
                mac.update(&chunk?);
            }
        }
    }
    let signature = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    let mut fields = HeaderMap::new();
    for (name, value) in
        [("webhook-id", id), ("webhook-timestamp", timestamp), ("webhook-signature", signature)]
    {
        if let Ok(value) = HeaderValue::from_str(&value) {
            fields.insert(HeaderName::from_static(name), value);
        }
    }
    Ok(fields)
}
