//! The configuration of this process: file, environment and flags, and the sources they ask for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use broker_config::{Config, File, Inputs, Invalid, Loaded, Override};

use crate::args::ConfigurationArgs;
use crate::{inherited, sources};

/// Where to read, so that SIGHUP can read the same again.
#[derive(Clone)]
pub(crate) struct Places {
    file: Option<PathBuf>,
    overrides: Vec<Override>,
    /// Flags of OpenFaaS' connectors, which stand among the environment variables.
    flags: BTreeMap<String, String>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoConfiguration {
    /// It has problems: exit code 64.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The file cannot be read: exit code 64 as well, for it is the one named.
    #[error("{0:#}")]
    Unreadable(anyhow::Error),
}

impl Places {
    /// `file` is `--config`, or none for the built-in values with environment and flags over them.
    pub(crate) fn new(file: Option<&Path>, arguments: &ConfigurationArgs) -> Places {
        let overrides = arguments.set.iter().map(|set| Override::parse("--set", set)).collect();
        Places { file: file.map(Path::to_owned), overrides, flags: BTreeMap::new() }
    }

    /// As a connector of OpenFaaS was started, in whose place we are.
    pub(crate) fn of_a_connector(flags: BTreeMap<String, String>) -> Places {
        Places { file: None, overrides: Vec::new(), flags }
    }

    /// Sets one more key, as the demo does.
    pub(crate) fn set(&mut self, flag: &str, key: &str, value: impl ToString) {
        self.overrides.push(Override { flag: flag.into(), key: key.into(), value: value.to_string() });
    }

    /// Reads everything there is, the settings of each source included.
    ///
    /// # Errors
    /// [`NoConfiguration`] with every problem at once.
    pub(crate) fn read(&self) -> Result<Loaded, NoConfiguration> {
        let text = self.file.as_deref().map(read_file).transpose().map_err(NoConfiguration::Unreadable)?;
        let file = self.file.as_deref().zip(text.as_deref()).map(|(name, text)| File { name, text });
        // A variable that is no Unicode cannot be one of ours.
        let environment: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| !name.starts_with('-'))
            .chain(self.flags.clone())
            .collect();
        let inherited = inherited::kinds();
        let also = |config: &Config| sources::problems(&config.sources);
        let inputs = Inputs {
            file,
            environment: Some(&environment),
            inherited: &inherited,
            overrides: &self.overrides,
            also: Some(&also),
        };
        Ok(broker_config::load(&inputs)?)
    }
}

fn read_file(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read the configuration {}", path.display()))
}
