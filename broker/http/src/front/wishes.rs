//! The header fields that are meant for Evoke.

use std::time::Duration;

use broker_config::parse_duration;
use broker_model::{CallId, Timestamp};
use http::HeaderMap;

/// The furthest a call may be put off.
const FURTHEST: Duration = Duration::from_secs(366 * 86_400);

/// The longest `Prefer: wait`; a longer wish is granted this much, as a preference may be.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The longest idempotency key.
const LONGEST_KEY: usize = 1024;

/// What a caller asks of Evoke besides running the function.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wishes {
    /// `X-Call-Id`, when it is there and not empty.
    pub(crate) call_id: Option<CallId>,
    /// `X-Callback-Url`, when it is there and not empty; checked by the intake.
    pub(crate) callback_url: Option<Box<str>>,
    /// `Idempotency-Key`.
    pub(crate) idempotency_key: Option<Box<str>>,
    /// From `Evoke-Delay` or `Evoke-At`; `None` also for a moment that has passed.
    pub(crate) due: Option<Timestamp>,
    /// `Evoke-Max-Age`.
    pub(crate) max_age: Option<Duration>,
    /// `Prefer: wait=N`, at most [`LONGEST_WAIT`].
    pub(crate) wait: Option<Duration>,
}

/// A header field that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the header {name} {problem}")]
pub(crate) struct BadHeader {
    name: &'static str,
    problem: String,
}

impl Wishes {
    /// Reads the fields; `now` is what delays count from.
    ///
    /// # Errors
    /// [`BadHeader`] for the first that cannot be used.
    pub(crate) fn read(headers: &HeaderMap, now: Timestamp) -> Result<Self, BadHeader> {
        Ok(Wishes {
            call_id: match text(headers, "X-Call-Id")? {
                None | Some("") => None,
                Some(id) => Some(
                    CallId::parse(id)
                        .map_err(|error| bad("X-Call-Id", format!("cannot be used: {error}")))?,
                ),
            },
            callback_url: text(headers, "X-Callback-Url")?.filter(|url| !url.is_empty()).map(Into::into),
            idempotency_key: match text(headers, "Idempotency-Key")? {
                None => None,
                Some("") => return Err(bad("Idempotency-Key", "is empty")),
                Some(key) if key.len() > LONGEST_KEY => {
                    return Err(bad("Idempotency-Key", format!("is longer than {LONGEST_KEY} bytes")));
                }
                Some(key) => Some(key.into()),
            },
            due: due(headers, now)?,
            max_age: match duration(headers, "Evoke-Max-Age")? {
                Some(Duration::ZERO) => {
                    return Err(bad("Evoke-Max-Age", "is zero: the call would never run"));
                }
                max_age => max_age,
            },
            wait: wait(headers),
        })
    }
}

fn due(headers: &HeaderMap, now: Timestamp) -> Result<Option<Timestamp>, BadHeader> {
    let (delay, at) = (duration(headers, "Evoke-Delay")?, text(headers, "Evoke-At")?);
    let (name, due) = match (delay, at) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => return Err(bad("Evoke-At", "stands beside Evoke-Delay; send one of the two")),
        (Some(delay), None) => ("Evoke-Delay", now + delay),
        (None, Some(at)) => ("Evoke-At", moment(at)?),
    };
    if due.since(now) > FURTHEST {
        return Err(bad(name, "is more than a year ahead"));
    }
    Ok((due > now).then_some(due))
}

fn moment(text: &str) -> Result<Timestamp, BadHeader> {
    let moment: jiff::Timestamp = text.parse().map_err(|_| {
        bad("Evoke-At", format!("is no RFC 3339 moment such as 2030-01-31T08:00:00Z: {:?}", excerpt(text)))
    })?;
    // Before 1970 is as much in the past as any other moment that has passed; what no timestamp reaches is far ahead.
    let nanos = u64::try_from(moment.as_nanosecond().max(0)).unwrap_or(u64::MAX);
    Ok(Timestamp::from_nanos(nanos))
}

fn duration(headers: &HeaderMap, name: &'static str) -> Result<Option<Duration>, BadHeader> {
    let Some(text) = text(headers, name)? else { return Ok(None) };
    match parse_duration(text) {
        Ok(duration) => Ok(Some(duration)),
        Err(_) => Err(bad(name, format!("is no duration such as 30s or 1h: {:?}", excerpt(text)))),
    }
}

/// `wait=N` among the preferences (RFC 7240). What is not understood is ignored, as the RFC has it.
fn wait(headers: &HeaderMap) -> Option<Duration> {
    headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(|preference| {
            let (name, value) = preference.split(';').next()?.split_once('=')?;
            let seconds: u64 = value.trim().trim_matches('"').parse().ok()?;
            name.trim().eq_ignore_ascii_case("wait").then_some(Duration::from_secs(seconds))
        })
        .filter(|wait| !wait.is_zero())
        .map(|wait| wait.min(LONGEST_WAIT))
}

fn text<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, BadHeader> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => Ok(Some(text.trim())),
        Err(_) => Err(bad(name, "is not UTF-8")),
    }
}

fn bad(name: &'static str, problem: impl Into<String>) -> BadHeader {
    BadHeader { name, problem: problem.into() }
}

fn excerpt(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn read(fields: &[(&str, &str)]) -> Result<Wishes, String> {
        let headers = fields
            .iter()
            .map(|(name, value)| {
                (name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
            })
            .fold(HeaderMap::new(), |mut map, (name, value)| {
                map.append(name, value);
                map
            });
        Wishes::read(&headers, NOW).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_wished_is_nothing() {
        assert_eq!(read(&[("content-type", "text/plain")]), Ok(Wishes::default()));
        assert_eq!(read(&[("x-call-id", ""), ("x-callback-url", "")]), Ok(Wishes::default()));
    }

    #[test]
    fn a_delay_and_a_moment_are_due_times() {
        let due = |fields: &[(&str, &str)]| read(fields).map(|wishes| wishes.due);

        assert_eq!(due(&[("evoke-delay", "1m30s")]), Ok(Some(NOW + Duration::from_secs(90))));
        assert_eq!(due(&[("evoke-delay", "0s")]), Ok(None));
        assert_eq!(due(&[("evoke-at", "2023-11-14T22:13:30Z")]), Ok(Some(NOW + Duration::from_secs(10))));
        assert_eq!(
            due(&[("evoke-at", "2023-11-14T23:13:30+01:00")]),
            Ok(Some(NOW + Duration::from_secs(10)))
        );
        assert_eq!(due(&[("evoke-at", "1969-01-01T00:00:00Z")]), Ok(None));
        assert_eq!(due(&[("evoke-delay", "366d")]), Ok(Some(NOW + FURTHEST)));
    }

    #[test]
    fn absurd_delays_are_refused_with_the_reason() {
        for (fields, said) in [
            (&[("evoke-delay", "30")] as &[_], "Evoke-Delay is no duration"),
            (&[("evoke-delay", "-1s")], "Evoke-Delay is no duration"),
            (&[("evoke-delay", "367d")], "Evoke-Delay is more than a year ahead"),
            (&[("evoke-delay", "99999999999999999999h")], "Evoke-Delay is no duration"),
            (&[("evoke-at", "tomorrow")], "Evoke-At is no RFC 3339 moment"),
            (&[("evoke-at", "9999-01-01T00:00:00Z")], "Evoke-At is more than a year ahead"),
            (&[("evoke-at", "2023-11-14T22:13:30Z"), ("evoke-delay", "1s")], "Evoke-At stands beside"),
            (&[("evoke-max-age", "0s")], "Evoke-Max-Age is zero"),
            (&[("evoke-max-age", "soon")], "Evoke-Max-Age is no duration"),
        ] {
            let error = read(fields).unwrap_err();
            assert!(error.contains(said), "{fields:?}: {error}");
        }
    }

    #[test]
    fn absurd_ids_and_keys_are_refused() {
        let long = "k".repeat(2000);
        for fields in [
            [("x-call-id", &*long)],
            [("x-call-id", "ü")],
            [("idempotency-key", &*long)],
            [("idempotency-key", "")],
        ] {
            assert!(read(&fields).is_err(), "{fields:?}");
        }
    }

    #[test]
    fn a_wait_is_found_among_preferences_and_capped() {
        let wait = |value| read(&[("prefer", value)]).unwrap().wait.map(|wait| wait.as_secs());

        assert_eq!(wait("wait=10"), Some(10));
        assert_eq!(wait("respond-async, Wait=\"7\"; x=y"), Some(7));
        assert_eq!(wait("wait=3600"), Some(60));
        assert_eq!(wait("wait=soon"), None);
        assert_eq!(wait("wait=0"), None);
    }
}
