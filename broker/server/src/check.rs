//! `evoke check` and `evoke config show`: a configuration looked at without a broker.

use std::time::Duration;

use anyhow::Context;

use crate::configuration::Places;

/// Reports every problem; with `online`, asks the gateway for its functions as the broker would. `quiet` leaves what is no
/// result unsaid.
///
/// # Errors
/// The problems, or what the gateway said.
pub(crate) fn run(places: Places, online: bool, quiet: bool) -> anyhow::Result<()> {
    let loaded = places.read()?;
    for note in loaded.notes.iter().filter(|_| !quiet) {
        eprintln!("note: environment variable {} has no effect: {}", note.variable, note.why);
    }
    if online {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let settings = broker_engine::EngineSettings::from_config(&loaded.config);
        let count = broker_engine::gateway::listing::count_functions(&settings.gateway);
        // The timer is made inside the runtime it belongs to.
        let listed = runtime
            .block_on(async { tokio::time::timeout(Duration::from_secs(10), count).await })
            .context("the gateway did not answer within 10 seconds")?
            .with_context(|| format!("cannot list the functions of {}", loaded.config.gateway.url))?;
        println!("{} lists {listed} functions", loaded.config.gateway.url);
    }
    if !quiet {
        println!("the configuration is good");
    }
    Ok(())
}

/// Prints every value and where it came from.
///
/// # Errors
/// The configuration's problems.
pub(crate) fn show(places: &Places) -> anyhow::Result<()> {
    print!("{}", places.read()?.show());
    Ok(())
}
