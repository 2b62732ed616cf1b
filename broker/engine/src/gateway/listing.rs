//! The gateway's `/system` routes: which functions there are.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use reqwest::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use url::Url;

use broker_config::{Credentials, SecretSource};
use broker_model::FunctionName;

use crate::engine::EngineError;
use crate::settings::GatewaySettings;

/// How long one request of a list may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The longest list read.
const LONGEST: usize = 64 * 1024 * 1024;

/// One function as the gateway lists it, before its annotations are read. Also what is kept on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedFunction {
    /// Its name without a namespace.
    pub name: String,
    /// Its namespace, where the provider has them.
    pub namespace: Option<String>,
    /// Whether namespaces are listed, so that it is called as `name.namespace`.
    pub qualified: bool,
    /// Ready copies; absent means none.
    pub available_replicas: u32,
    /// Calls one replica takes at once, where the provider shows it.
    pub max_inflight: Option<NonZeroU32>,
    /// All its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// Why there is no complete list. The last one serves.
#[derive(Debug, thiserror::Error)]
pub enum ListFailure {
    /// The gateway could not be asked.
    #[error("cannot ask the gateway for {what}: {why}")]
    Unreachable {
        /// Which list.
        what: Box<str>,
        /// Why.
        why: Box<str>,
    },
    /// It answered with another status than 200.
    #[error("the gateway answered {status} for {what}{hint}")]
    Status {
        /// Which list.
        what: Box<str>,
        /// The status.
        status: u16,
        /// What to do about it.
        hint: &'static str,
    },
    /// What it answered is no list.
    #[error("the gateway's answer for {what} is no list of the kind: {why}")]
    NotAList {
        /// Which list.
        what: Box<str>,
        /// Why.
        why: Box<str>,
    },
    /// Our credentials for it cannot be read.
    #[error("cannot read {what} (gateway.credentials): {why}")]
    Credentials {
        /// The file.
        what: Box<str>,
        /// Why.
        why: Box<str>,
    },
}

/// Asks the gateway's `/system` routes.
#[derive(Debug)]
pub(crate) struct Lister {
    http: reqwest::Client,
    base: Url,
    credentials: Option<Credentials>,
}

/// A list entry as it stands in JSON. Everything may be missing or null, and unknown fields are none of our business.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    name: String,
    namespace: Option<String>,
    available_replicas: Option<u64>,
    annotations: Option<BTreeMap<String, Option<String>>>,
    env_vars: Option<BTreeMap<String, Option<String>>>,
}

/// Asks the gateway once, as the watcher does over and over; how many functions it lists.
///
/// # Errors
/// Why there is no complete list, or why nothing can be asked with these settings.
pub async fn count_functions(settings: &GatewaySettings) -> Result<usize, CheckFailure> {
    let tls = super::tls::client_config(super::CA_FILE, settings.ca_file.as_deref())?;
    Ok(Lister::new(settings, tls)?.list().await?.len())
}

/// Why the gateway could not be asked, or did not answer as it should.
#[derive(Debug, thiserror::Error)]
pub enum CheckFailure {
    /// The settings cannot be used.
    #[error(transparent)]
    Settings(#[from] EngineError),
    /// There is no complete list.
    #[error(transparent)]
    List(#[from] ListFailure),
}

impl Lister {
    pub(crate) fn new(
        settings: &GatewaySettings,
        tls: Arc<rustls::ClientConfig>,
    ) -> Result<Self, EngineError> {
        Lister::within(TIMEOUT, settings, tls)
    }

    /// One that waits this long for each answer, to its last byte.
    fn within(
        timeout: Duration,
        settings: &GatewaySettings,
        tls: Arc<rustls::ClientConfig>,
    ) -> Result<Self, EngineError> {
        let unusable = |error: reqwest::Error| EngineError::Client(error.into());
        let mut http = reqwest::Client::builder()
            .tls_backend_preconfigured((*tls).clone())
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(super::headers::USER_AGENT)
            .pool_idle_timeout(Duration::from_secs(30))
            .connect_timeout(Duration::from_secs(10))
            .timeout(timeout)
            .no_proxy();
        if let Some(proxy) = &settings.proxy {
            http = http.proxy(reqwest::Proxy::all(proxy.clone()).map_err(unusable)?);
        }
        let mut base = settings.url.clone();
        base.set_query(None);
        base.set_fragment(None);
        Ok(Lister { http: http.build().map_err(unusable)?, base, credentials: settings.credentials.clone() })
    }

    /// Every function of every namespace.
    pub(crate) async fn list(&self) -> Result<Vec<ListedFunction>, ListFailure> {
        let namespaces = self.namespaces().await?;
        if namespaces.is_empty() {
            // No namespaces: the provider has none, and functions are called by their bare names.
            return self.functions(None).await;
        }
        let mut all = Vec::new();
        for namespace in namespaces {
            all.extend(self.functions(Some(&namespace)).await?);
        }
        Ok(all)
    }

    async fn namespaces(&self) -> Result<Vec<String>, ListFailure> {
        let what = "the namespaces";
        match self.get(&["system", "namespaces"], None, what).await {
            Ok(body) => Ok(parse::<Option<Vec<String>>>(&body, what)?.unwrap_or_default()),
            Err(ListFailure::Status { status: 404, .. }) => Ok(Vec::new()),
            Err(failure) => Err(failure),
        }
    }

    async fn functions(&self, namespace: Option<&str>) -> Result<Vec<ListedFunction>, ListFailure> {
        let what = match namespace {
            Some(namespace) => format!("the functions of namespace {namespace:?}"),
            None => "the functions".to_owned(),
        };
        let body = self.get(&["system", "functions"], namespace, &what).await?;
        let listed = parse::<Option<Vec<Status>>>(&body, &what)?.unwrap_or_default();
        Ok(listed.into_iter().map(|status| status.listed(namespace)).collect())
    }

    /// Whether the gateway knows the function now.
    pub(crate) async fn knows(&self, function: &FunctionName) -> Result<bool, Box<str>> {
        let what = format!("function {function}");
        match self.get(&["system", "function", function.name()], Some(function.namespace()), &what).await {
            // An error page with status 200 says nothing.
            Ok(body) => match parse::<Status>(&body, &what) {
                Ok(_) => Ok(true),
                Err(failure) => Err(failure.to_string().into()),
            },
            Err(ListFailure::Status { status: 404, .. }) => Ok(false),
            Err(failure) => Err(failure.to_string().into()),
        }
    }

    async fn get(&self, path: &[&str], namespace: Option<&str>, what: &str) -> Result<Vec<u8>, ListFailure> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if let Some(namespace) = namespace {
            url.query_pairs_mut().append_pair("namespace", namespace);
        }
        let mut request = self.http.get(url);
        // Read each time: the secret may be mounted late, and may change while we run.
        if let Some((username, password)) = self.credentials().await? {
            request = request.basic_auth(username, Some(password.expose_secret()));
        }
        let unreachable = |error: reqwest::Error| ListFailure::Unreachable {
            what: what.into(),
            why: {
                let error = error.without_url();
                super::tls::with_remedy(causes(&error), &error, super::CA_FILE)
            },
        };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        if status != StatusCode::OK {
            let hint = match status.as_u16() {
                401 | 403 => "; check gateway.credentials",
                300..=399 => "; check gateway.url, redirects are not followed",
                _ => "",
            };
            return Err(ListFailure::Status { what: what.into(), status: status.as_u16(), hint });
        }
        let mut chunks = response.bytes_stream();
        let mut body = Vec::new();
        while let Some(chunk) = chunks.next().await {
            body.extend_from_slice(&chunk.map_err(unreachable)?);
            if body.len() > LONGEST {
                return Err(ListFailure::NotAList {
                    what: what.into(),
                    why: "it is longer than 64 MiB".into(),
                });
            }
        }
        Ok(body)
    }

    async fn credentials(&self) -> Result<Option<(String, SecretString)>, ListFailure> {
        let Some(Credentials { username, password }) = &self.credentials else { return Ok(None) };
        let (username, password) = (secret(username).await?, secret(password).await?);
        Ok(Some((username.expose_secret().to_owned(), password)))
    }
}

/// A secret as it is now.
async fn secret(source: &SecretSource) -> Result<SecretString, ListFailure> {
    let path = match source {
        SecretSource::Inline(secret) => return Ok(secret.clone()),
        SecretSource::File(path) => path.display().to_string(),
    };
    let source = source.clone();
    let unreadable = |why: String| ListFailure::Credentials { what: path.clone().into(), why: why.into() };
    match tokio::task::spawn_blocking(move || source.read()).await {
        Ok(Ok(secret)) => Ok(secret),
        Ok(Err(error)) => Err(unreadable(error.to_string())),
        Err(error) => Err(unreadable(error.to_string())),
    }
}

impl Status {
    fn listed(self, asked: Option<&str>) -> ListedFunction {
        let env = |name: &str| self.env_vars.as_ref()?.get(name)?.as_deref();
        ListedFunction {
            max_inflight: env("max_inflight").and_then(|value| value.trim().parse().ok()),
            namespace: self.namespace.filter(|namespace| !namespace.is_empty()).or(asked.map(str::to_owned)),
            qualified: asked.is_some(),
            available_replicas: u32::try_from(self.available_replicas.unwrap_or(0)).unwrap_or(u32::MAX),
            annotations: self
                .annotations
                .unwrap_or_default()
                .into_iter()
                .filter_map(|(key, value)| Some((key, value?)))
                .collect(),
            name: self.name,
        }
    }
}

fn parse<T: for<'de> Deserialize<'de>>(body: &[u8], what: &str) -> Result<T, ListFailure> {
    serde_json::from_slice(body).map_err(|error| {
        let why = if body.trim_ascii_start().starts_with(b"<") {
            "it looks like an HTML page".to_owned()
        } else {
            error.to_string()
        };
        ListFailure::NotAList { what: what.into(), why: why.into() }
    })
}

fn causes(error: &dyn std::error::Error) -> Box<str> {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use crate::settings::EngineSettings;

    use super::*;

    #[tokio::test]
    async fn a_gateway_that_hangs_gives_no_list_and_is_not_waited_for_for_ever() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut settings = EngineSettings::default().gateway;
        settings.url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let tls = super::super::tls::client_config(super::super::CA_FILE, None).unwrap();
        let lister = Lister::within(Duration::from_millis(50), &settings, tls).unwrap();

        // The system takes the connection, and nobody ever answers on it.
        let failure = lister.list().await.unwrap_err();

        assert!(matches!(failure, ListFailure::Unreachable { .. }), "{failure}");
        assert!(failure.to_string().contains("timed out"), "{failure}");
    }

    fn functions(json: &str) -> Result<Vec<ListedFunction>, ListFailure> {
        let listed = parse::<Option<Vec<Status>>>(json.as_bytes(), "the functions")?;
        Ok(listed.unwrap_or_default().into_iter().map(|status| status.listed(None)).collect())
    }

    #[test]
    fn null_and_an_empty_list_are_complete() {
        assert_eq!(functions("null").unwrap(), []);
        assert_eq!(functions("[]").unwrap(), []);
    }

    #[test]
    fn missing_and_null_fields_are_normal() {
        let listed = functions(
            r#"[{"name":"a","image":"i","labels":null,"annotations":null,"createdAt":"0001-01-01T00:00:00Z"},
                {"name":"b","image":"i","namespace":"","availableReplicas":3,"annotations":{"topic":"t","x":null},
                 "envVars":{"max_inflight":" 5 "},"surprise":{"deep":[1]}}]"#,
        )
        .unwrap();

        assert_eq!((listed[0].available_replicas, listed[0].annotations.len()), (0, 0));
        assert_eq!(listed[1].namespace, None);
        assert_eq!(listed[1].max_inflight, NonZeroU32::new(5));
        assert_eq!(listed[1].annotations, BTreeMap::from([("topic".to_owned(), "t".to_owned())]));
    }

    #[test]
    fn half_a_list_html_and_a_single_object_are_no_lists() {
        for bad in [r#"[{"name":"a""#, "<html>502</html>", r#"{"name":"a"}"#, r#"[{"image":"i"}]"#, ""] {
            assert!(matches!(functions(bad), Err(ListFailure::NotAList { .. })), "{bad:?}");
        }
        assert!(functions("<html>").unwrap_err().to_string().contains("HTML"));
    }
}
