//! One connection to one of the servers.

use std::path::Path;
use std::time::Duration;

use async_nats::{Client, ConnectErrorKind, ConnectOptions, ServerAddr};
use secrecy::ExposeSecret;
use tokio::sync::mpsc;

use connectors_sdk::{Backoff, Health, Jitter, SourceError, SourceName};

use crate::settings::{Credentials, NatsSettings};

/// How the client itself tries again after a connection broke: at once, then a few times soon. Longer outages are the
/// runtime's to wait for; a client that never gives up would outlive its source.
const AGAIN: Backoff =
    Backoff { min: Duration::from_millis(100), max: Duration::from_secs(1), jitter: Jitter::Equal };

/// How many messages of one subscription the client itself may hold for the moment until the source takes them over. Its
/// bound is a number only; the source's own, in `waiting`, is one of bytes too. From a stream no more comes than is asked
/// for, which must fit in.
const CLIENT_QUEUE: usize = 4096;

/// Tries beyond one for each server: others of a cluster may be known by then.
const MORE_TRIES: usize = 3;

/// Connects to the first server that answers, and tells what happens to the connection. The receiver ends when the client
/// has given up.
///
/// # Errors
/// [`SourceError`]: none of the servers can be reached, or will have us, or a file the settings name cannot be read.
pub(crate) async fn connect(
    name: &SourceName,
    settings: &NatsSettings,
    health: &Health,
) -> Result<(Client, mpsc::Receiver<async_nats::Event>), SourceError> {
    let (tell, told) = mpsc::channel(64);
    if let Some(tls) = &settings.tls {
        tls.say_if_insecure(name, health);
    }
    let health = health.clone();
    let options = ConnectOptions::new()
        .name(&settings.client_name)
        .connection_timeout(settings.connect_timeout)
        .ping_interval(settings.ping_interval)
        .subscription_capacity(CLIENT_QUEUE.max(2 * settings.common.in_flight.messages.get()))
        .max_reconnects(settings.servers.len() + MORE_TRIES)
        .reconnect_delay_callback(|tries| match u32::try_from(tries).unwrap_or(u32::MAX) {
            0 | 1 => Duration::ZERO,
            tries => AGAIN.wait(tries - 1, rand::random()),
        })
        .event_callback(move |event| {
            let (tell, health) = (tell.clone(), health.clone());
            async move {
                if let async_nats::Event::SlowConsumer(_) = event {
                    // One per message the client could not hand over, as far as its own queue of events holds.
                    health.dropped(1);
                } else {
                    let _ = tell.send(event).await;
                }
            }
        });
    let options = with_tls(options, settings).await?;
    let options = with_credentials(options, settings).await?;
    let upstream = settings.upstream();
    let servers = settings
        .servers
        .iter()
        .map(|url| ServerAddr::from_url(url.clone()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|cause| SourceError::Unreachable { upstream: upstream.clone(), cause: cause.into() })?;
    match options.connect(servers).await {
        Ok(client) => Ok((client, told)),
        Err(error) => Err(match error.kind() {
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                SourceError::Refused { upstream, cause: error.into() }
            }
            _ => SourceError::Unreachable { upstream, cause: error.into() },
        }),
    }
}

async fn with_tls(
    mut options: ConnectOptions,
    settings: &NatsSettings,
) -> Result<ConnectOptions, SourceError> {
    let Some(tls) = &settings.tls else { return Ok(options) };
    options = options.require_tls(true).tls_client_config(tls.rustls().await?);
    if settings.handshake_first {
        options = options.tls_first();
    }
    Ok(options)
}

async fn with_credentials(
    options: ConnectOptions,
    settings: &NatsSettings,
) -> Result<ConnectOptions, SourceError> {
    Ok(match &settings.credentials {
        None => options,
        Some(Credentials::Creds(path)) => {
            const KEY: &str = "credentials.creds_file";
            let text = tokio::fs::read_to_string(path).await.map_err(|cause| unreadable(KEY, path, cause))?;
            options.credentials(&text).map_err(|cause| SourceError::Unusable {
                key: KEY.to_owned(),
                what: format!("{path:?} is no credentials file"),
                cause: Some(cause.into()),
            })?
        }
        Some(Credentials::Nkey(seed)) => options.nkey(seed.reveal().await?.expose_secret().trim().to_owned()),
        Some(Credentials::Password { username, password }) => options.user_and_password(
            username.reveal().await?.expose_secret().to_owned(),
            password.reveal().await?.expose_secret().to_owned(),
        ),
        Some(Credentials::Token(token)) => options.token(token.reveal().await?.expose_secret().to_owned()),
    })
}

fn unreadable(key: &'static str, path: &Path, cause: std::io::Error) -> SourceError {
    SourceError::Unusable {
        key: key.to_owned(),
        what: format!("cannot read {path:?}"),
        cause: Some(cause.into()),
    }
}
