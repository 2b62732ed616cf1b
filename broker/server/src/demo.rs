//! `evoke demo`: a gateway with functions, the broker beside it, and things to try, on this machine alone.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use broker_demo_gateway::{Activity, CallbackReceiver, DemoGateway, demo_functions};
use broker_model::{FunctionName, ScheduleId};
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::args::{ConfigurationArgs, DemoArgs};
use crate::configuration::Places;
use crate::serve::{self, Broker};
use crate::signals::Signals;
use crate::telemetry::Telemetry;

/// Runs the demo until it is told to stop. What a configuration file says holds, but for addresses and the data directory:
/// so a demo can have sources.
///
/// # Errors
/// A port that is taken, a directory that cannot be made, every problem of the configuration.
pub(crate) fn run(file: Option<&Path>, arguments: DemoArgs) -> anyhow::Result<()> {
    serve::to_its_end(demo(file, arguments))
}

async fn demo(file: Option<&Path>, arguments: DemoArgs) -> anyhow::Result<()> {
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let data = Data::choose(arguments.dir.as_deref())?;
    let gateway = DemoGateway::builder()
        .functions(demo_functions())
        .listener(bind(arguments.address(2)).await?)
        .start()
        .await
        .context("cannot start the gateway")?;
    let callbacks =
        CallbackReceiver::on(bind(arguments.address(3)).await?).context("cannot receive callbacks")?;

    let mut places = Places::new(file, &ConfigurationArgs::default());
    let flag = "evoke demo";
    places.set(flag, "listen.http", arguments.address(0));
    places.set(flag, "listen.metrics", arguments.address(1));
    places.set(flag, "gateway.url", gateway.url());
    places.set(flag, "gateway.poll_interval", "2s");
    places.set(flag, "store.embedded.path", data.path().join("store").display());
    places.set(flag, "sources.clock.cron.time_zone", "UTC");
    // A laptop's disk is often nearly full; a demo needs little of it.
    places.set(flag, "store.embedded.min_free", "64MiB");
    let loaded = places.read()?;
    let telemetry = Telemetry::start(&loaded.config.log)?;
    let broker = Broker::start(loaded).await?;

    println!("{}", what_to_try(&broker, &gateway, &callbacks, data.path()));
    let watching = tokio::spawn(print(gateway.activity(), callbacks.activity()));
    let stopped = broker.until_stopped(&mut signals, &places, &telemetry).await;
    watching.abort();
    gateway.shutdown().await;
    callbacks.shutdown().await;
    stopped
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}: choose other ports with --port N (four from N on)")
    })
}

/// Where the demo keeps its data.
enum Data {
    /// Gone at the end.
    Temporary(tempfile::TempDir),
    /// Kept.
    Named(PathBuf),
}

impl Data {
    fn choose(named: Option<&Path>) -> anyhow::Result<Data> {
        match named {
            Some(path) => {
                std::fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
                Ok(Data::Named(path.to_owned()))
            }
            None => {
                let directory = tempfile::Builder::new().prefix("evoke-demo-").tempdir();
                Ok(Data::Temporary(directory.context("cannot make a temporary directory")?))
            }
        }
    }

    fn path(&self) -> &Path {
        match self {
            Data::Temporary(directory) => directory.path(),
            Data::Named(path) => path,
        }
    }
}

fn what_to_try(broker: &Broker, gateway: &DemoGateway, callbacks: &CallbackReceiver, data: &Path) -> String {
    let http = broker.listening().http;
    let program = std::env::current_exe().map_or_else(|_| "evoke".into(), |path| path.display().to_string());
    let url = if http.port() == 8090 { String::new() } else { format!(" --url http://{http}") };
    let evoke = format!("{program}{url}");
    format!(
        "
Evoke is at http://{http}, beside a gateway at {gateway}. Data: {data}

Call a function asynchronously; the answer is 202 once the call is on disk:
  curl -i http://{http}/async-function/echo -d 'hello'

One that fails twice, then succeeds; the result is called back:
  curl -i http://{http}/async-function/flaky -d 'try me' -H 'X-Callback-Url: {callback}'

Wait for the result of a call:
  curl -i http://{http}/async-function/slow -d 'take your time' -H 'Prefer: wait=10'

One that always fails; after three retries, some five seconds, it is a dead letter:
  curl -i http://{http}/async-function/fail -d 'poor thing'
  {evoke} dead-letters list

Publish an event; every function that asked for its topic runs:
  {evoke} publish orders.created --data '{{\"id\": 7}}'
  {evoke} publish orders.created --data 'no order at all'

One runs by itself every five minutes, by its annotation; see when, or run it now:
  {evoke} schedules list
  {evoke} schedules run {clock}

See what there is:
  {evoke} functions list
  {evoke} invocations list
  {evoke} info

Stop with Ctrl-C. What happens:
",
        clock = clock(),
        gateway = gateway.url(),
        data = data.display(),
        callback = callbacks.url("result"),
    )
}

/// The schedule of the function `clock`; an id follows from function and expression.
fn clock() -> String {
    let function = FunctionName::parse("clock", "openfaas-fn");
    function
        .map_or_else(|_| "ID".into(), |function| ScheduleId::derive(&function, "@every 5m", 0).to_string())
}

/// Prints what functions and the callback receiver see, until both have ended.
async fn print(mut functions: broadcast::Receiver<Activity>, mut callbacks: broadcast::Receiver<Activity>) {
    loop {
        let seen = tokio::select! {
            seen = functions.recv() => seen,
            seen = callbacks.recv() => seen,
        };
        match seen {
            Ok(activity) => println!("    {activity}"),
            Err(RecvError::Lagged(missed)) => println!("    ... {missed} more"),
            Err(RecvError::Closed) => return,
        }
    }
}
