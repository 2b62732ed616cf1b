//! A kind of upstream.

use broker_model::source::Inheritance;
use broker_model::{SourceName, Wildcards};

use crate::settings::SettingsError;
use crate::source::Source;

/// A kind of upstream, such as NATS. One value of it stands in the catalog; it holds no state.
pub trait Connector: Send + Sync {
    /// Its name in the configuration: `sources.<name>.<kind>`.
    fn kind(&self) -> &'static str;

    /// The grammar of its topics' wildcards.
    fn wildcards(&self) -> Wildcards;

    /// The variables and flags of OpenFaaS' connector of this kind, so that its image can be exchanged for ours.
    fn inherits(&self) -> Inheritance {
        Inheritance::default()
    }

    /// Reads the settings of one source. No I/O: what is wrong with an upstream shows when the source runs.
    ///
    /// # Errors
    /// [`SettingsError`] with every problem there is, each with its key and its remedy.
    fn build(&self, name: &SourceName, settings: serde_json::Value)
    -> Result<Box<dyn Source>, SettingsError>;
}
