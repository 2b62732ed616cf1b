//! Requests to the broker.

use std::time::Duration;

use futures::StreamExt;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use url::{Host, Url};

use broker_api::Problem;

use crate::command::Global;
use crate::failure::Failure;
use crate::screen::Screen;

/// The longest answer taken into memory: a list of a thousand, many times over.
const LONGEST: usize = 64 * 1024 * 1024;

/// The broker at one URL.
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
    credentials: Credentials,
}

enum Credentials {
    None,
    Basic { user: String, password: String },
    Bearer(String),
}

/// An answer in full: what was read from it, and what it was.
pub(crate) struct Answered<T> {
    pub(crate) shape: T,
    pub(crate) raw: Vec<u8>,
}

impl Client {
    /// A client for what the arguments name.
    pub(crate) fn new(global: &Global) -> Result<Self, Failure> {
        let mut base: Url = global
            .url
            .parse()
            .map_err(|error| Failure::Usage(format!("--url {:?} is no URL: {error}", global.url)))?;
        if !matches!(base.scheme(), "http" | "https") || base.host().is_none() {
            return Err(Failure::Usage(format!("--url {:?} is no http URL with a host", global.url)));
        }
        let credentials = Credentials::of(global, &mut base)?;
        base.set_query(None);
        base.set_fragment(None);
        let mut http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .redirect(reqwest::redirect::Policy::none());
        if is_loopback(&base) {
            // A proxy of the environment cannot mean the broker on this machine, and the open API refuses proxies.
            http = http.no_proxy();
        }
        let http = http
            .build()
            .map_err(|error| Failure::Usage(format!("cannot make an HTTP client: {}", chain(&error))))?;
        Ok(Client { http, base, credentials })
    }

    /// A request to the path with these segments, each encoded.
    pub(crate) fn request(&self, method: Method, segments: &[&str]) -> RequestBuilder {
        self.authorized(self.http.request(method, self.at(segments)))
    }

    /// A GET of the path with these segments, with parameters.
    pub(crate) fn filtered(&self, segments: &[&str], parameters: &[(&str, &str)]) -> RequestBuilder {
        let mut url = self.at(segments);
        if !parameters.is_empty() {
            url.query_pairs_mut().extend_pairs(parameters);
        }
        self.authorized(self.http.get(url))
    }

    /// A POST to a path and query as they are written.
    pub(crate) fn post_raw(&self, path_and_query: &str) -> Result<RequestBuilder, Failure> {
        let whole = format!("{}/{path_and_query}", self.base.as_str().trim_end_matches('/'));
        let url: Url =
            whole.parse().map_err(|error| Failure::Usage(format!("{whole:?} is no URL: {error}")))?;
        Ok(self.authorized(self.http.post(url)))
    }

    /// Sends a request and reads its JSON; a problem is a failure.
    pub(crate) async fn json<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
    ) -> Result<Answered<T>, Failure> {
        let response = self.send(request).await?;
        let status = response.status();
        let raw = self.whole(response).await?;
        if !status.is_success() {
            return Err(self.refusal(status, &raw));
        }
        match serde_json::from_slice(&raw) {
            Ok(shape) => Ok(Answered { shape, raw }),
            Err(error) => Err(self.not_the_api(status, &error.to_string())),
        }
    }

    /// Sends a request whose answer has no body; a problem is a failure.
    pub(crate) async fn nothing(&self, request: RequestBuilder) -> Result<(), Failure> {
        let response = self.send(request).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let raw = self.whole(response).await?;
        Err(self.refusal(status, &raw))
    }

    /// Sends a request and passes the answer's bytes to the screen as they come; a problem is a failure.
    pub(crate) async fn pass(&self, request: RequestBuilder, screen: &mut Screen<'_>) -> Result<(), Failure> {
        let response = self.send(request).await?;
        let status = response.status();
        if !status.is_success() {
            let raw = self.whole(response).await?;
            return Err(self.refusal(status, &raw));
        }
        let mut pieces = response.bytes_stream();
        while let Some(piece) = pieces.next().await {
            screen.raw(&piece.map_err(|error| self.unreachable(&error))?)?;
        }
        screen.flush()
    }

    /// Sends a request; any answer is one.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let request = request.build().map_err(|error| Failure::Usage(chain(&error)))?;
        self.http.execute(request).await.map_err(|error| self.unreachable(&error))
    }

    /// The whole body of an answer.
    pub(crate) async fn whole(&self, response: Response) -> Result<Vec<u8>, Failure> {
        let status = response.status();
        let mut raw = Vec::new();
        let mut pieces = response.bytes_stream();
        while let Some(piece) = pieces.next().await {
            raw.extend_from_slice(&piece.map_err(|error| self.unreachable(&error))?);
            if raw.len() > LONGEST {
                return Err(self.not_the_api(status, "the answer does not end"));
            }
        }
        Ok(raw)
    }

    fn at(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        // A URL with a host has segments: checked in `new`.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.credentials {
            Credentials::None => request,
            Credentials::Basic { user, password } => request.basic_auth(user, Some(password)),
            Credentials::Bearer(token) => request.bearer_auth(token),
        }
    }

    fn refusal(&self, status: StatusCode, raw: &[u8]) -> Failure {
        match serde_json::from_slice::<Problem>(raw) {
            Ok(problem) => Failure::Refused(problem),
            Err(error) => self.not_the_api(status, &error.to_string()),
        }
    }

    fn not_the_api(&self, status: StatusCode, detail: &str) -> Failure {
        Failure::NotTheApi { url: self.base.to_string(), status: status.as_u16(), detail: detail.into() }
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        Failure::Unreachable { url: self.base.to_string(), detail: chain(error) }
    }
}

impl Credentials {
    /// From the arguments, or from the URL, which keeps none.
    fn of(global: &Global, base: &mut Url) -> Result<Self, Failure> {
        let from_url = (!base.username().is_empty()).then(|| {
            let decode =
                |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
            (decode(base.username()), decode(base.password().unwrap_or_default()))
        });
        if from_url.is_some() && (base.set_username("").is_err() || base.set_password(None).is_err()) {
            return Err(Failure::Usage("--url cannot carry a user".into()));
        }
        let read = |path: &std::path::Path| {
            std::fs::read_to_string(path)
                .map(|text| text.trim().to_owned())
                .map_err(|error| Failure::Usage(format!("cannot read {}: {error}", path.display())))
        };
        if let Some(path) = &global.token_file {
            return Ok(Credentials::Bearer(read(path)?));
        }
        if let (Some(user), Some(path)) = (&global.user, &global.password_file) {
            return Ok(Credentials::Basic { user: user.clone(), password: read(path)? });
        }
        Ok(from_url.map_or(Credentials::None, |(user, password)| Credentials::Basic { user, password }))
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        None => false,
    }
}

/// An error with its causes, without the URL that is said beside it.
fn chain(error: &reqwest::Error) -> String {
    let mut causes: Vec<String> = Vec::new();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        causes.push(error.to_string());
        cause = error.source();
    }
    if causes.is_empty() { error.to_string() } else { causes.join(": ") }
}
