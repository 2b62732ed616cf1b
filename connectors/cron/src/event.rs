//! Run → event, a pure function.

use bytes::Bytes;
use connectors_sdk::{CallId, Event, EventForm, Fire, Instant, ScheduleId, Timestamp};

use crate::due::calendar;
use crate::plan::Plan;

/// The topic of every run, as OpenFaaS has it.
pub(crate) const TOPIC: &str = "cron-function";

/// The event of an instant, or of a run by hand at `now`. `Err` says why its name, as the settings have it, is no topic.
pub(crate) fn event_of(
    form: &EventForm,
    plan: &Plan,
    instant: Option<Instant>,
    now: Timestamp,
) -> Result<Event, Box<str>> {
    let (at, id) = match instant {
        Some(instant) => (instant.at, name(&plan.id, instant.at)),
        None => (now, format!("{}/by-hand", name(&plan.id, now))),
    };
    let event = form
        .message(TOPIC, Bytes::new())
        .own("X-Connector", "cron-connector")
        .own("X-Call-Id", id.clone())
        .time(at)
        .described(|event| {
            event.id = Some(id.into());
            event.kind = Some("evoke.cron.run".into());
            event.subject = Some(plan.id.as_str().into());
        })
        .event();
    let mut event = event.map_err(|unreadable| unreadable.why)?;
    let fire = Fire { schedule: plan.id.clone(), function: plan.function.clone(), instant };
    event.fire = Some(Box::new(fire));
    Ok(event)
}

/// The call id of an instant's run, by which it is found after a restart.
pub(crate) fn call_id(schedule: &ScheduleId, at: Timestamp) -> Option<CallId> {
    CallId::parse(&name(schedule, at)).ok()
}

fn name(schedule: &ScheduleId, at: Timestamp) -> String {
    format!("{schedule}@{}", calendar(at))
}

#[cfg(test)]
mod tests {
    use connectors_sdk::{FunctionName, ScheduleWish, SourceName};
    use jiff::tz::TimeZone;
    use serde_json::json;

    use super::*;
    use crate::settings::CronSettings;

    #[test]
    fn a_run_looks_as_openfaas_sends_it_and_says_which_it_is() {
        let function = FunctionName::parse("report", "openfaas-fn").unwrap();
        let wish = ScheduleWish { expressions: "0 9 * * *".into(), ..ScheduleWish::default() };
        let plan = crate::plan::read(&function, &wish, &TimeZone::UTC).0.remove(0);
        let form = CronSettings::read(&SourceName::parse("clock").unwrap(), json!({})).unwrap().form;
        let (at, after) = (Timestamp::from_millis(1_767_258_000_000), Timestamp::EPOCH);

        let event = event_of(&form, &plan, Some(Instant { at, after }), Timestamp::EPOCH).unwrap();

        assert_eq!((event.topic.as_str(), event.body.len(), event.time), ("cron-function", 0, Some(at)));
        let headers: Vec<_> = event.headers.iter().collect();
        let id = format!("{}@2026-01-01T09:00:00Z", plan.id);
        assert_eq!(headers, [("x-connector", b"cron-connector".as_ref()), ("x-call-id", id.as_bytes())]);
        assert_eq!(event.cloud_event.unwrap().id.as_deref(), Some(id.as_str()));
        assert_eq!(call_id(&plan.id, at).unwrap().as_str(), id);
        assert_eq!(event.fire.unwrap().instant, Some(Instant { at, after }));
        assert_eq!(event.dedup, None, "the instant is what a repeat is recognised by");

        let by_hand = event_of(&form, &plan, None, at).unwrap();
        assert_eq!(by_hand.headers.text("x-call-id"), Some(format!("{id}/by-hand").as_str()));
        assert_eq!(by_hand.fire.unwrap().instant, None);
    }
}
