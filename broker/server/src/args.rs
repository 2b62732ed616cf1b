//! The command line: what needs no broker here, and the operator's commands of `broker-cli`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

/// Asynchronous invocations and event triggers for OpenFaaS.
#[derive(Parser)]
#[command(name = "evoke", version, max_term_width = 100, propagate_version = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: broker_cli::Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run the broker
    Serve(ConfigurationArgs),
    /// Run everything on this machine: a gateway with functions, the broker, and things to try
    Demo(DemoArgs),
    /// Report every problem of a configuration
    Check {
        #[command(flatten)]
        configuration: ConfigurationArgs,
        /// Also ask the gateway for its functions, with the configured credentials
        #[arg(long)]
        online: bool,
    },
    /// Show the configuration that counts, or every key there is
    Config {
        #[command(subcommand)]
        what: ConfigCommand,
    },
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
    #[command(flatten)]
    Operate(broker_cli::Command),
}

#[derive(Subcommand)]
pub(crate) enum ConfigCommand {
    /// Every value and where it came from; secrets redacted
    Show(ConfigurationArgs),
    /// The commented reference file: every key with its meaning and default
    Reference,
}

/// Where the configuration comes from.
#[derive(Args, Clone, Default)]
pub(crate) struct ConfigurationArgs {
    /// Set one key over file and environment, such as gateway.url=http://gateway:8080 (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

#[derive(Args)]
pub(crate) struct DemoArgs {
    /// Keep the data here, over the end of the demo (otherwise a temporary directory)
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// The port of the front and the management API; metrics and the gateway take the two after it
    #[arg(long, default_value_t = 8090, value_name = "N")]
    pub(crate) port: u16,
}

impl DemoArgs {
    /// The address `offset` ports above the first, on loopback.
    pub(crate) fn address(&self, offset: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port.saturating_add(offset)))
    }
}
