//! Who may use the management API.
//!
//! With credentials configured, whoever has them. Without, only this machine: the connection comes from loopback, the
//! request names loopback as its host (a name that was rebound to 127.0.0.1 does not), and no proxy stands between,
//! because one on this host would make the open API public. In both cases a page of another origin is refused, and so
//! are our own callbacks: a caller's `X-Callback-Url` must not reach what only the operator may do.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, HeaderValue, Uri, header};
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::warn;

use broker_api::{Problem, ProblemKind};
use broker_config::{Api, SecretSource};

/// What a 401 asks for.
pub(crate) const CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"Evoke\"");

/// How long secrets from files are kept before the files are read again: they are mounted late and rotated.
const KEEP: Duration = Duration::from_secs(5);

/// The two ends of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) remote: SocketAddr,
    pub(crate) local: SocketAddr,
}

impl Peer {
    fn is_on_loopback(self) -> bool {
        [self.remote, self.local].iter().all(|end| end.ip().to_canonical().is_loopback())
    }
}

/// Decides who may pass, and remembers the secrets for a moment.
#[derive(Default)]
pub(crate) struct Guard {
    // Held over the reading of files, so that a burst of requests reads them once.
    keys: Mutex<Option<(Instant, Arc<Keys>)>>,
}

/// Fingerprints of what opens the API. Comparing these tells nothing about the secrets themselves.
struct Keys {
    basic: Option<[u8; 32]>,
    bearer: Option<[u8; 32]>,
}

impl Guard {
    /// Lets a request pass, or says why not.
    pub(crate) async fn admit(
        &self,
        api: &Api,
        peer: Peer,
        headers: &HeaderMap,
        uri: &Uri,
    ) -> Result<(), Problem> {
        if headers.contains_key(broker_engine::CALLBACK_MARK) {
            return Err(Problem::new(
                ProblemKind::CallbackToApi,
                "this is one of our own callbacks, and the management API is not for its caller",
            ));
        }
        let host = host_of(headers, uri);
        if let Some(detail) = foreign_page(headers, host.as_deref()) {
            return Err(Problem::new(ProblemKind::ForeignOrigin, detail));
        }
        if api.credentials.is_none() && api.token.is_none() {
            return open_on_loopback(peer, headers, host.as_deref());
        }
        let keys = self.keys(api).await;
        match headers.get(header::AUTHORIZATION) {
            Some(given) if keys.open_for(given.as_bytes()) => Ok(()),
            Some(_) => {
                Err(Problem::new(ProblemKind::Unauthorized, "the credentials are not the configured ones"))
            }
            None => Err(Problem::new(ProblemKind::Unauthorized, "the request carries no credentials")),
        }
    }

    /// Reads the secrets again with the next request.
    pub(crate) fn forget(&self) {
        // Whoever holds it reads them just now; at worst the old ones serve for `KEEP`.
        if let Ok(mut keys) = self.keys.try_lock() {
            *keys = None;
        }
    }

    async fn keys(&self, api: &Api) -> Arc<Keys> {
        let mut kept = self.keys.lock().await;
        if let Some((read_at, keys)) = &*kept
            && read_at.elapsed() < KEEP
        {
            return Arc::clone(keys);
        }
        let api = api.clone();
        let keys = tokio::task::spawn_blocking(move || Keys::read(&api)).await;
        let keys = Arc::new(keys.unwrap_or(Keys { basic: None, bearer: None }));
        *kept = Some((Instant::now(), Arc::clone(&keys)));
        keys
    }
}

impl Keys {
    /// What cannot be read opens nothing.
    fn read(api: &Api) -> Keys {
        let basic = api.credentials.as_ref().and_then(|credentials| {
            let (user, password) = (secret(&credentials.username)?, secret(&credentials.password)?);
            Some(fingerprint(format!("{}:{}", user.expose_secret(), password.expose_secret()).as_bytes()))
        });
        let bearer =
            api.token.as_ref().and_then(secret).map(|token| fingerprint(token.expose_secret().as_bytes()));
        Keys { basic, bearer }
    }

    fn open_for(&self, authorization: &[u8]) -> bool {
        let Ok(text) = std::str::from_utf8(authorization) else { return false };
        let Some((scheme, given)) = text.trim().split_once(' ') else { return false };
        let given = given.trim();
        if scheme.eq_ignore_ascii_case("basic") {
            let Ok(given) = BASE64_STANDARD.decode(given) else { return false };
            matches(self.basic.as_ref(), &given)
        } else if scheme.eq_ignore_ascii_case("bearer") {
            matches(self.bearer.as_ref(), given.as_bytes())
        } else {
            false
        }
    }
}

fn matches(key: Option<&[u8; 32]>, given: &[u8]) -> bool {
    key.is_some_and(|key| key.ct_eq(&fingerprint(given)).into())
}

fn fingerprint(text: &[u8]) -> [u8; 32] {
    Sha256::digest(text).into()
}

fn secret(source: &SecretSource) -> Option<secrecy::SecretString> {
    source
        .read()
        .inspect_err(
            |error| warn!(%error, ?source, "cannot read a secret of the management API; it opens for nobody"),
        )
        .ok()
        .filter(|secret| !secret.expose_secret().is_empty())
}

fn open_on_loopback(peer: Peer, headers: &HeaderMap, host: Option<&str>) -> Result<(), Problem> {
    if !peer.is_on_loopback() {
        return Err(Problem::new(
            ProblemKind::LoopbackOnly,
            format!("{} is not this machine, and no credentials are configured", peer.remote.ip()),
        ));
    }
    if let Some(name) = headers.keys().find(|name| speaks_of_a_proxy(name.as_str())) {
        return Err(Problem::new(
            ProblemKind::BehindProxy,
            format!("the header {name} says that the request came through a proxy"),
        ));
    }
    match host {
        Some(host) if is_loopback_name(host) => Ok(()),
        Some(host) => Err(Problem::new(
            ProblemKind::ForeignHost,
            format!(
                "the request is for {:?}, which is not a name of loopback",
                host.chars().take(255).collect::<String>()
            ),
        )),
        None => Err(Problem::new(ProblemKind::ForeignHost, "the request names no host")),
    }
}

fn speaks_of_a_proxy(name: &str) -> bool {
    matches!(name, "forwarded" | "via" | "x-real-ip") || name.starts_with("x-forwarded-")
}

/// `Host`, or the authority of a request that is written as a whole URL.
fn host_of(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    match uri.authority() {
        Some(authority) => Some(authority.as_str().to_owned()),
        None => {
            let mut hosts = headers.get_all(header::HOST).iter();
            let host = hosts.next()?.to_str().ok()?.to_owned();
            hosts.next().is_none().then_some(host)
        }
    }
}

fn is_loopback_name(host: &str) -> bool {
    let Ok(authority) = host.parse::<http::uri::Authority>() else { return false };
    let name = authority.host();
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || address.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// What shows that a page of another origin asks, if one does. Browsers send at least one of the two.
fn foreign_page(headers: &HeaderMap, host: Option<&str>) -> Option<String> {
    if let Some(origin) = headers.get(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or("null");
        let ours = origin
            .split_once("://")
            .is_some_and(|(_, authority)| host.is_some_and(|host| authority.eq_ignore_ascii_case(host)));
        if !ours {
            return Some(format!(
                "the request comes from {:?}",
                origin.chars().take(255).collect::<String>()
            ));
        }
    }
    let site = headers.get("sec-fetch-site").and_then(|site| site.to_str().ok());
    site.filter(|site| matches!(*site, "cross-site" | "same-site"))
        .map(|site| format!("the browser says that the request is {site}"))
}

#[cfg(test)]
mod tests {
    use broker_config::Credentials;

    use super::*;

    const LOOPBACK: &str = "127.0.0.1:9";

    fn inline(text: &str) -> SecretSource {
        SecretSource::Inline(text.to_owned().into())
    }

    async fn admit(api: &Api, remote: &str, fields: &[(&str, &str)]) -> Result<(), ProblemKind> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
        }
        let remote: SocketAddr = remote.parse().unwrap();
        let peer = Peer { remote, local: SocketAddr::new(remote.ip(), 8090) };
        Guard::default()
            .admit(api, peer, &headers, &Uri::from_static("/v1/info"))
            .await
            .map_err(|problem| problem.known().unwrap())
    }

    #[tokio::test]
    async fn without_credentials_loopback_may_pass_and_nobody_else() {
        let open = Api::default();

        for host in ["127.0.0.1:8090", "localhost:8090", "LOCALHOST", "[::1]:8090", "127.9.9.9"] {
            assert_eq!(admit(&open, LOOPBACK, &[("host", host)]).await, Ok(()), "{host}");
        }
        assert_eq!(admit(&open, "[::ffff:127.0.0.1]:9", &[("host", "localhost")]).await, Ok(()));
        assert_eq!(
            admit(&open, "10.0.0.7:9", &[("host", "localhost")]).await,
            Err(ProblemKind::LoopbackOnly)
        );
    }

    #[tokio::test]
    async fn a_rebound_name_is_refused() {
        for host in
            ["evil.example", "evil.example:8090", "localhost.evil.example", "10.0.0.7:8090", "", "a b"]
        {
            assert_eq!(
                admit(&Api::default(), LOOPBACK, &[("host", host)]).await,
                Err(ProblemKind::ForeignHost),
                "{host}"
            );
        }
        assert_eq!(admit(&Api::default(), LOOPBACK, &[]).await, Err(ProblemKind::ForeignHost));
        let twice = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(admit(&Api::default(), LOOPBACK, &twice).await, Err(ProblemKind::ForeignHost));
    }

    #[tokio::test]
    async fn a_page_of_another_origin_is_refused_with_and_without_credentials() {
        let closed = Api { credentials: None, token: Some(inline("t0ken")) };
        let host = ("host", "127.0.0.1:8090");
        for foreign in [
            ("origin", "https://evil.example"),
            ("origin", "http://127.0.0.1:3000"),
            ("origin", "null"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            for api in [&Api::default(), &closed] {
                let fields = [host, foreign, ("authorization", "Bearer t0ken")];
                assert_eq!(
                    admit(api, LOOPBACK, &fields).await,
                    Err(ProblemKind::ForeignOrigin),
                    "{foreign:?}"
                );
            }
        }
        let own = [host, ("origin", "http://127.0.0.1:8090"), ("sec-fetch-site", "same-origin")];
        assert_eq!(admit(&Api::default(), LOOPBACK, &own).await, Ok(()));
    }

    #[tokio::test]
    async fn a_proxy_on_the_same_host_does_not_make_the_open_api_public() {
        for name in ["forwarded", "x-forwarded-for", "x-forwarded-anything", "via", "x-real-ip"] {
            let fields = [("host", "localhost"), (name, "10.0.0.7")];
            assert_eq!(
                admit(&Api::default(), LOOPBACK, &fields).await,
                Err(ProblemKind::BehindProxy),
                "{name}"
            );
        }
    }

    #[tokio::test]
    async fn our_own_callback_never_passes() {
        let api = Api { credentials: None, token: Some(inline("t0ken")) };
        let fields =
            [("host", "localhost"), (broker_engine::CALLBACK_MARK, "1"), ("authorization", "Bearer t0ken")];

        assert_eq!(admit(&api, LOOPBACK, &fields).await, Err(ProblemKind::CallbackToApi));
    }

    #[tokio::test]
    async fn credentials_open_from_anywhere_and_only_they_do() {
        let api = Api {
            credentials: Some(Credentials { username: inline("admin"), password: inline("p:w") }),
            token: Some(inline("t0ken")),
        };
        let basic = format!("Basic {}", BASE64_STANDARD.encode("admin:p:w"));
        let wrong = format!("basic {}", BASE64_STANDARD.encode("admin:p:x"));

        for right in [&*basic, "Bearer t0ken", "bearer  t0ken"] {
            assert_eq!(admit(&api, "10.0.0.7:9", &[("authorization", right)]).await, Ok(()), "{right}");
        }
        for wrong in [&*wrong, "Bearer t0ke", "Bearer t0ken2", "t0ken", "Basic %%%", "Digest x"] {
            assert_eq!(
                admit(&api, LOOPBACK, &[("host", "localhost"), ("authorization", wrong)]).await,
                Err(ProblemKind::Unauthorized),
                "{wrong}"
            );
        }
        assert_eq!(admit(&api, LOOPBACK, &[("host", "localhost")]).await, Err(ProblemKind::Unauthorized));
    }

    #[tokio::test]
    async fn a_secret_that_cannot_be_read_opens_for_nobody() {
        let api = Api { credentials: None, token: Some(SecretSource::File("/nonexistent/token".into())) };

        for given in ["Bearer ", "Bearer x", "Basic Og=="] {
            let fields = [("host", "localhost"), ("authorization", given)];
            assert_eq!(admit(&api, LOOPBACK, &fields).await, Err(ProblemKind::Unauthorized), "{given}");
        }
    }
}
