//! Events at the instants of functions' schedules.
//!
//! There is no upstream but the clock: functions say by annotation when they want to run, and each instant makes one
//! invocation, across restarts, kills and clocks that are set. The store takes an instant in the record of its invocation.
//!
//! Most of it is pure: how an expression is read, exactly as OpenFaaS' cron connector reads it ([`expression`]); when it
//! fires, under each rule for where clocks are set ([`fires`]); what a function's annotations ask for (`plan`); which
//! instants run now (`due`). Then `event` (run → event), `settings`, `desk` (the table of schedules, and the timetable of
//! operators), `source` (the loop).

mod desk;
mod due;
mod event;
pub mod expression;
pub mod fires;
mod metrics;
mod plan;
mod settings;
mod source;

use connectors_sdk::{
    Connector, Inheritance, Inherited, InheritedForm, SettingsError, Source, SourceName, Wildcards,
};

/// Cron: `sources.<name>.cron`.
#[derive(Clone, Copy, Debug)]
pub struct Cron;

impl Connector for Cron {
    fn kind(&self) -> &'static str {
        "cron"
    }

    fn wildcards(&self) -> Wildcards {
        Wildcards::Glob
    }

    fn inherits(&self) -> Inheritance {
        Inheritance {
            // The one variable that no other connector of OpenFaaS has; what it says means nothing here.
            defined_by: &[&["rebuild_timeout"]],
            variables: &[Inherited { name: "TZ", key: "time_zone", form: InheritedForm::Ambient }],
            defaults: &[],
        }
    }

    fn build(
        &self,
        name: &SourceName,
        settings: serde_json::Value,
    ) -> Result<Box<dyn Source>, SettingsError> {
        let settings = settings::CronSettings::read(name, settings)?;
        Ok(Box::new(source::CronSource { name: name.clone(), settings }))
    }
}
