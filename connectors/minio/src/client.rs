//! Signed requests to the store's own API.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
    UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use connectors_sdk::{SourceContext, SourceError, SourceName};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Response, StatusCode};
use secrecy::ExposeSecret;

use crate::settings::Endpoint;

/// What a query carries as it is, in AWS' canonical form.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The most of a refusal that is read for people.
const WORDS: usize = 300;

/// The store, as one user reaches it.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    endpoint: Endpoint,
    credentials: Credentials,
}

impl Client {
    /// Reads the secrets; connects to nothing yet.
    pub(crate) async fn new(
        name: &SourceName,
        endpoint: &Endpoint,
        ctx: &SourceContext,
    ) -> Result<Self, SourceError> {
        // No time for the whole of an answer: a stream has no end. Each wait has its own.
        let mut http = reqwest::Client::builder()
            .connect_timeout(endpoint.connect_timeout)
            .redirect(reqwest::redirect::Policy::none())
            .http1_only();
        if let Some(tls) = &endpoint.tls {
            tls.say_if_insecure(name, &ctx.health);
            http = http.tls_backend_preconfigured(tls.rustls().await?);
        }
        let http = http.build().map_err(|cause| SourceError::Unusable {
            key: "endpoint".to_owned(),
            what: "no client can be made for it".to_owned(),
            cause: Some(cause.into()),
        })?;
        let access_key = endpoint.access_key.reveal().await?;
        let secret_key = endpoint.secret_key.reveal().await?;
        let credentials =
            Credentials::new(access_key.expose_secret(), secret_key.expose_secret(), None, None, "evoke");
        Ok(Client { http, endpoint: endpoint.clone(), credentials })
    }

    /// The address, for people.
    pub(crate) fn upstream(&self) -> String {
        self.endpoint.url.as_str().trim_end_matches('/').to_owned()
    }

    /// Asks, and waits for the head of a good answer no longer than `patience`. `silent` says what it means when none comes.
    pub(crate) async fn get(
        &self,
        bucket: Option<&str>,
        query: &[(&str, &str)],
        patience: Duration,
        silent: &str,
    ) -> Result<Response, SourceError> {
        let request = self.signed(&target(bucket, query))?;
        let asked = tokio::time::timeout(patience, self.http.execute(request)).await;
        let answer = match asked {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                return Err(SourceError::Unreachable {
                    upstream: self.upstream(),
                    cause: error.without_url().into(),
                });
            }
            Err(_) => {
                return Err(SourceError::Unreachable {
                    upstream: self.upstream(),
                    cause: silent.to_owned().into(),
                });
            }
        };
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let text = tokio::time::timeout(patience, answer.text()).await.ok().and_then(Result::ok);
        let text: String = text.unwrap_or_default().chars().take(WORDS).collect();
        let cause = format!("it answers {status}: {text}").into();
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                SourceError::Refused { upstream: self.upstream(), cause }
            }
            _ => SourceError::Unreachable { upstream: self.upstream(), cause },
        })
    }

    fn signed(&self, target: &str) -> Result<reqwest::Request, SourceError> {
        let unusable = |cause: Box<dyn std::error::Error + Send + Sync>| SourceError::Unusable {
            key: "endpoint".to_owned(),
            what: "a request cannot be signed".to_owned(),
            cause: Some(cause),
        };
        let uri = format!("{}{target}", self.upstream());
        let mut request =
            http::Request::get(&uri).body(reqwest::Body::default()).map_err(|e| unusable(e.into()))?;
        let mut settings = SigningSettings::default();
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        let identity = self.credentials.clone().into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.endpoint.region)
            .name("s3")
            .time(SystemTime::now())
            .settings(settings)
            .build()
            .map_err(|error| unusable(error.into()))?;
        let signable = SignableRequest::new("GET", &uri, std::iter::empty(), SignableBody::empty())
            .map_err(|error| unusable(error.into()))?;
        let signed = sign(signable, &params.into()).map_err(|error| unusable(error.into()))?;
        signed.into_parts().0.apply_to_request_http1x(&mut request);
        reqwest::Request::try_from(request).map_err(|error| unusable(error.without_url().into()))
    }
}

/// Path and query, as both the wire and the signature have them.
fn target(bucket: Option<&str>, query: &[(&str, &str)]) -> String {
    let query: Vec<String> =
        query.iter().map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, QUERY))).collect();
    format!("/{}?{}", bucket.unwrap_or_default(), query.join("&"))
}

/// What the clock of whoever answered says, in milliseconds. Headers count in whole seconds: it may be a second early.
pub(crate) fn date(answer: &Response) -> Option<u64> {
    let text = answer.headers().get(reqwest::header::DATE)?.to_str().ok()?;
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    u64::try_from(date.as_millisecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_written_as_it_is_signed() {
        let written = target(Some("photos"), &[("events", "s3:ObjectCreated:*"), ("prefix", "a b+/")]);
        assert_eq!(written, "/photos?events=s3%3AObjectCreated%3A%2A&prefix=a%20b%2B%2F");
        assert_eq!(target(None, &[]), "/?");
    }
}
