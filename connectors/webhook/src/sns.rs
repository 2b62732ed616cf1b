//! Amazon SNS: signed envelopes, and subscriptions that are to be confirmed.
//!
//! The signature says that a message is from SNS, of anybody's topic: only topics that are configured are believed. The
//! certificate and the confirmation are fetched from hosts of Amazon's alone, whatever an envelope says.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::signature::{
    RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256, RsaParameters,
    UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use connectors_sdk::source::Cause;
use connectors_sdk::{Reader, SnsKind, SnsMessage, Timestamp};
use futures::StreamExt;
use http::HeaderMap;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::sync::OnceCell;
use tracing::{info, warn};
use url::Url;

use crate::cloud_events::moment;
use crate::denied::Denied;
use crate::endpoint::tolerance;
use crate::event::{Brought, Message, Request};
use crate::guard::{Secrets, text};
use crate::standard::is_near;
use crate::token::{Credential, Way};

/// SNS gives up on an endpoint after an hour; what is older was recorded and sent again.
const TOLERANCE: Duration = Duration::from_secs(2 * 3600);

/// The largest certificate, and the most of an answer to a confirmation that is read.
const FETCHED: usize = 64 * 1024;

/// Certificates kept. SNS has one for each region, and a new one now and then.
const KEPT: usize = 32;

/// The settings of an endpoint of SNS.
#[derive(Clone, Debug)]
pub(crate) struct SnsRules {
    /// The topics that are believed.
    pub(crate) arns: Vec<String>,
    pub(crate) tolerance: Duration,
    pub(crate) confirm_timeout: Duration,
    /// What SNS is told in the subscription's URL (`https://user:password@…`); raw messages are taken with it only.
    pub(crate) credential: Option<Credential>,
}

impl SnsRules {
    /// Reads them; `None` once what is missing or wrong is noted.
    pub(crate) fn read(endpoint: &str, at: &mut Reader) -> Option<Self> {
        let arns: Option<Vec<String>> = at.required("arn", "arn:aws:sns:eu-west-1:123456789012:orders");
        for arn in arns.iter().flatten() {
            if !arn.starts_with("arn:") {
                at.refuse("arn", format!("{arn:?} is no ARN"), "write the topic's ARN, or a list of them");
            }
        }
        let tolerance = tolerance(at, TOLERANCE);
        let confirm_timeout = at.or("confirm_timeout", Duration::from_secs(30));
        let username: Option<String> = at.optional("username");
        let secrets = Secrets::optional(endpoint, at, |_| Ok(()))?;
        let credential = match (username, secrets) {
            (Some(username), Some(secrets)) => Some(Credential { secrets, way: Way::Basic(username) }),
            (None, None) => None,
            (Some(_), None) => {
                at.refuse("secret", "username is set without it", "write secret_file");
                None
            }
            (None, Some(_)) => {
                at.refuse("username", "secret is set without it", "write the name in the subscription's URL");
                None
            }
        };
        Some(SnsRules { arns: arns?, tolerance, confirm_timeout, credential })
    }
}

/// Sends away what is of other topics, before the body is read.
pub(crate) async fn admit(rules: &SnsRules, headers: &HeaderMap) -> Result<(), Denied> {
    if let Some(credential) = &rules.credential {
        credential.verify(headers).await?;
    }
    if is_raw(headers) && rules.credential.is_none() {
        return Err(Denied::Foreign(
            "raw messages are not signed: turn raw delivery off, or set username and secret",
        ));
    }
    match text(headers, "x-amz-sns-topic-arn") {
        Some(arn) => believed(rules, arn),
        None if is_raw(headers) => Err(Denied::Incomplete("there is no x-amz-sns-topic-arn".to_owned())),
        // It stands in the envelope, too.
        None => Ok(()),
    }
}

fn believed(rules: &SnsRules, arn: &str) -> Result<(), Denied> {
    if rules.arns.iter().any(|known| known == arn) {
        Ok(())
    } else {
        Err(Denied::Foreign("the message is of a topic that is not configured (arn)"))
    }
}

fn is_raw(headers: &HeaderMap) -> bool {
    text(headers, "x-amz-sns-rawdelivery").is_some_and(|raw| raw.eq_ignore_ascii_case("true"))
}

/// How SNS is asked for its certificates and confirmations.
#[async_trait]
pub(crate) trait Fetch: Send + Sync {
    /// The body of a success.
    async fn get(&self, url: &Url, timeout: Duration) -> Result<Bytes, Cause>;
}

/// Over HTTPS, without redirects.
#[derive(Default)]
pub(crate) struct Https(OnceCell<reqwest::Client>);

#[async_trait]
impl Fetch for Https {
    async fn get(&self, url: &Url, timeout: Duration) -> Result<Bytes, Cause> {
        // Most sources never need one.
        let client = self.0.get_or_try_init(async || https(reqwest::Client::builder()).build()).await?;
        let answer = client.get(url.clone()).timeout(timeout).send().await?.error_for_status()?;
        let mut body = Vec::new();
        let mut pieces = answer.bytes_stream();
        while let Some(piece) = pieces.next().await {
            body.extend_from_slice(&piece?);
            if body.len() > FETCHED {
                return Err("the answer is too large".into());
            }
        }
        Ok(body.into())
    }
}

fn https(builder: reqwest::ClientBuilder) -> reqwest::ClientBuilder {
    let agent = concat!("evoke/", env!("CARGO_PKG_VERSION"));
    builder.https_only(true).redirect(reqwest::redirect::Policy::none()).user_agent(agent)
}

/// What is shared by the endpoints of SNS.
pub(crate) struct Sns {
    fetch: Box<dyn Fetch>,
    certificates: Mutex<BTreeMap<String, Bytes>>,
    /// One at a time: whoever sends nonsense makes nobody fetch in parallel.
    fetching: tokio::sync::Mutex<()>,
}

impl Sns {
    pub(crate) fn new(fetch: impl Fetch + 'static) -> Self {
        Sns {
            fetch: Box::new(fetch),
            certificates: Mutex::default(),
            fetching: tokio::sync::Mutex::default(),
        }
    }

    /// Reads a request whose header fields were admitted.
    pub(crate) async fn read(
        &self,
        rules: &SnsRules,
        request: &Request<'_>,
        now: Timestamp,
    ) -> Result<Brought, Denied> {
        if is_raw(request.headers) {
            return Ok(Brought::Messages(vec![raw(request)]));
        }
        let message =
            SnsMessage::parse(&request.body).map_err(|error| Denied::Incomplete(error.to_string()))?;
        believed(rules, &message.topic_arn)?;
        self.verify(&message, rules.confirm_timeout).await?;
        is_near(moment(&message.timestamp).ok_or(Denied::Stale)?, now, rules.tolerance)?;
        match message.kind {
            SnsKind::Notification => Ok(Brought::Messages(vec![published(request, &message)])),
            SnsKind::SubscriptionConfirmation => {
                self.confirm(&message, rules.confirm_timeout).await?;
                info!(arn = message.topic_arn, "the subscription is confirmed");
                Ok(Brought::Nothing("the subscription is confirmed"))
            }
            SnsKind::UnsubscribeConfirmation => {
                warn!(arn = message.topic_arn, "the subscription was ended; nothing more comes of the topic");
                Ok(Brought::Nothing("the subscription is ended"))
            }
        }
    }

    async fn verify(&self, message: &SnsMessage, timeout: Duration) -> Result<(), Denied> {
        let url = message.signing_cert_url.as_deref().and_then(certificate_url).ok_or(Denied::Credentials)?;
        let certificate = self.certificate(&url, timeout).await?;
        if is_signed(message, &certificate) { Ok(()) } else { Err(Denied::Credentials) }
    }

    async fn certificate(&self, url: &Url, timeout: Duration) -> Result<Bytes, Denied> {
        if let Some(known) = self.known(url) {
            return Ok(known);
        }
        let _one = self.fetching.lock().await;
        if let Some(known) = self.known(url) {
            return Ok(known);
        }
        let fetched = self.fetch.get(url, timeout).await.map_err(|error| {
            Denied::Unusable(format!(
                "cannot fetch the certificate of SNS: {}",
                connectors_sdk::describe(&*error)
            ))
        })?;
        let mut kept = self.certificates.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(url.to_string(), fetched.clone());
        Ok(fetched)
    }

    fn known(&self, url: &Url) -> Option<Bytes> {
        self.certificates.lock().unwrap_or_else(PoisonError::into_inner).get(url.as_str()).cloned()
    }

    async fn confirm(&self, message: &SnsMessage, timeout: Duration) -> Result<(), Denied> {
        let url = message.subscribe_url.as_deref().and_then(amazons).ok_or(Denied::Credentials)?;
        self.fetch.get(&url, timeout).await.map(|_| ()).map_err(|error| {
            Denied::Unusable(format!(
                "cannot confirm the subscription: {}",
                connectors_sdk::describe(&*error)
            ))
        })
    }
}

/// The URL, when it is one of SNS itself: `https://sns.<region>.amazonaws.com/…`, nothing else.
fn amazons(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let host = url.host_str()?;
    let region = host.strip_prefix("sns.")?;
    let region =
        region.strip_suffix(".amazonaws.com").or_else(|| region.strip_suffix(".amazonaws.com.cn"))?;
    let is_region = region.len() >= 3 && region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let is_plain = url.username().is_empty() && url.password().is_none() && url.port().is_none();
    (url.scheme() == "https" && is_region && is_plain).then_some(url)
}

fn certificate_url(text: &str) -> Option<Url> {
    let url = amazons(text)?;
    let name = url.path().strip_prefix("/SimpleNotificationService-")?.strip_suffix(".pem")?;
    let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric()) && url.query().is_none();
    is_name.then_some(url)
}

/// Whether the holder of this certificate signed the message.
fn is_signed(message: &SnsMessage, certificate: &[u8]) -> bool {
    let algorithm: &RsaParameters = match message.signature_version.as_deref() {
        Some("1") => &RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
        Some("2") => &RSA_PKCS1_2048_8192_SHA256,
        _ => return false,
    };
    let signature = message.signature.as_ref().and_then(|text| STANDARD.decode(text).ok());
    let certificate = CertificateDer::from_pem_slice(certificate).ok();
    let (Some(signature), Some(certificate)) = (signature, certificate) else { return false };
    let Ok(certificate) = webpki::EndEntityCert::try_from(&certificate) else { return false };
    let key = certificate.subject_public_key_info();
    UnparsedPublicKey::new(algorithm, key.as_ref())
        .verify(message.string_to_sign().as_bytes(), &signature)
        .is_ok()
}

/// What OpenFaaS' SNS connector calls itself.
const CONNECTOR: &str = "openfaasltd/sns-connector";

fn published(request: &Request<'_>, message: &SnsMessage) -> Message {
    let body = Bytes::copy_from_slice(message.message.as_bytes());
    request.message_of(body, Some(&message.topic_arn), |incoming| {
        let incoming = message
            .describe(incoming.own("X-Connector", CONNECTOR))
            .id(&[request.endpoint.name.as_bytes(), message.message_id.as_bytes()])
            .described(|description| description.id = Some(message.message_id.as_str().into()));
        match moment(&message.timestamp) {
            Some(time) => incoming.time(time),
            None => incoming,
        }
    })
}

/// A message without its envelope: what SNS says of it stands in header fields.
fn raw(request: &Request<'_>) -> Message {
    let field = |name: &str| text(request.headers, name).unwrap_or_default();
    let (id, arn) = (field("x-amz-sns-message-id"), field("x-amz-sns-topic-arn"));
    request.message_of(request.body.clone(), Some(arn), |incoming| {
        let incoming =
            incoming.own("X-Connector", CONNECTOR).own("X-Sns-Message-Id", id).own("X-Sns-Arn", arn);
        if id.is_empty() { incoming } else { incoming.id(&[request.endpoint.name.as_bytes(), id.as_bytes()]) }
    })
}

#[cfg(test)]
mod tests;
