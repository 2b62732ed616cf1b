//! The settings of a cron source. `reference.yaml` holds each of them with its meaning.

use connectors_sdk::{Connector as _, EventForm, Reader, SettingsError, SourceName};
use jiff::tz::TimeZone;
use serde_json::Value;

use crate::{Cron, plan};

/// The settings of one source.
#[derive(Clone, Debug)]
pub(crate) struct CronSettings {
    /// The zone of expressions and functions that name none.
    pub(crate) zone: TimeZone,
    pub(crate) form: EventForm,
}

impl CronSettings {
    /// Reads them.
    pub(crate) fn read(name: &SourceName, settings: Value) -> Result<Self, SettingsError> {
        let mut at = Reader::new(settings);
        let settings = Self::from_reader(name, &mut at);
        at.finish(|| settings)
    }

    /// `None` when something is missing; what is wrong is noted in the reader.
    pub(crate) fn from_reader(name: &SourceName, at: &mut Reader) -> Option<Self> {
        let zone_name = at.or("time_zone", "UTC".to_owned());
        let zone = plan::zone(&zone_name).unwrap_or_else(|problem| {
            at.refuse("time_zone", problem, "write a name of the IANA database, such as Europe/Vienna");
            TimeZone::UTC
        });
        let form = EventForm::read(at, name, Cron.kind(), Cron.wildcards());
        Some(CronSettings { zone, form })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    testkit::settings_reference!("../reference.yaml", "clock", "cron", CronSettings::from_reader, json!({}));

    #[test]
    fn nothing_is_required_and_a_wrong_zone_has_its_remedy() {
        let name = SourceName::parse("clock").unwrap();

        assert_eq!(CronSettings::read(&name, json!({})).unwrap().zone, TimeZone::UTC);
        let wrong = CronSettings::read(&name, json!({"time_zone": "CET+1", "zone": 1})).unwrap_err();
        let keys: Vec<_> = wrong.problems.iter().map(|problem| problem.key.as_str()).collect();
        assert_eq!(keys, ["time_zone", "zone"]);
    }
}
