//! What is written to standard error, for people or for collectors.

use std::io::{self, IsTerminal};

use broker_config::{Level, Log, LogFormat};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

/// Changes the level of a running process.
pub(crate) struct Telemetry {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl Telemetry {
    /// Starts writing. Called once, before anything can fail in a way worth a line.
    ///
    /// # Errors
    /// When something else in the process has begun to write before.
    pub(crate) fn start(log: &Log) -> anyhow::Result<Telemetry> {
        let (filter, handle) = reload::Layer::new(filter(log.level));
        let lines = match log.format {
            LogFormat::Console => {
                let colours = io::stderr().is_terminal();
                fmt::layer().with_writer(io::stderr).with_ansi(colours).with_target(false).boxed()
            }
            LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(io::stderr).boxed(),
        };
        // The filter comes first: its handle names the registry below it.
        tracing_subscriber::registry().with(filter).with(lines).try_init()?;
        Ok(Telemetry { filter: handle })
    }

    /// Uses another level from now on.
    pub(crate) fn reload(&self, log: &Log) {
        if let Err(error) = self.filter.reload(filter(log.level)) {
            tracing::error!(%error, "cannot change the log level");
        }
    }
}

/// Our own crates at the configured level; libraries speak up from `warn` on, unless everything is asked for. What the
/// clients of NATS and RabbitMQ log of a lost connection the source reports itself, once.
fn filter(level: Level) -> EnvFilter {
    EnvFilter::new(match level {
        Level::Error => "error,async_nats=off,lapin=off",
        Level::Warn => "warn,async_nats=off,lapin=off",
        Level::Info => "warn,evoke=info,broker=info,connectors=info,async_nats=off,lapin=off",
        Level::Debug => "info,evoke=debug,broker=debug,connectors=debug",
        Level::Trace => "trace",
    })
}
