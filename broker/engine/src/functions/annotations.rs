//! Annotations, read: what a function asks of its event source and of its deliveries.
//!
//! Nothing here fails. A value that cannot be used is reported on the function, and its default serves.

use std::collections::BTreeMap;
use std::time::Duration;

use broker_config::{go_duration, parse_duration};
use broker_model::function::{AnnotationProblem, Concurrency, OnDeadLetter};
use broker_model::policy::DeadLetterRule;
use broker_model::{Function, FunctionName, QueueName, ScheduleWish, Topic, TopicPattern};

/// The prefix of Evoke's own annotations.
const OURS: &str = "evoke.";

/// Those that say when to run: read by whoever keeps schedules.
const SCHEDULES: &str = "evoke.schedule.";

/// The topic of a function that is to run by its schedules.
const SCHEDULED: &str = "cron-function";

/// Writes what `annotations` say into `function`.
pub(crate) fn read(function: &mut Function, annotations: &BTreeMap<String, String>, default_namespace: &str) {
    let mut schedule = ScheduleWish::default();
    for (key, value) in annotations {
        let read = match key.as_str() {
            "topic" => topics(value, |text| Topic::parse(text).map(|topic| TopicPattern::exact(&topic)))
                .map(|topics| function.topics.extend(topics)),
            "evoke.topics" => topics(value, TopicPattern::parse).map(|topics| function.topics.extend(topics)),
            "com.openfaas.queue" => queue(value).map(|queue| function.queue = Some(queue)),
            "com.openfaas.retry.attempts" => {
                attempts(value).map(|attempts| function.attempts = Some(attempts))
            }
            "com.openfaas.retry.codes" => codes(value).map(|codes| function.codes = Some(codes)),
            "com.openfaas.retry.min_wait" => wait(value).map(|wait| function.min_wait = Some(wait)),
            "com.openfaas.retry.max_wait" => wait(value).map(|wait| function.max_wait = Some(wait)),
            "evoke.timeout" => bound(value).map(|timeout| function.timeout = Some(timeout)),
            "evoke.max-age" => bound(value).map(|age| function.max_age = Some(age)),
            "evoke.concurrency" => {
                concurrency(value).map(|concurrency| function.concurrency = Some(concurrency))
            }
            "evoke.dead-letter" => dead_letter(value).map(|rule| function.dead_letter = Some(rule)),
            "evoke.on-dead-letter" => {
                on_dead_letter(value, default_namespace).map(|target| function.on_dead_letter = Some(target))
            }
            "schedule" => {
                schedule.expressions = value.as_str().into();
                Ok(())
            }
            key if key.starts_with(SCHEDULES) => {
                schedule.policies.insert(key[SCHEDULES.len()..].into(), value.as_str().into());
                Ok(())
            }
            key if key.starts_with(OURS) => Err("evoke knows no annotation of this name".to_owned()),
            _ => Ok(()),
        };
        if let Err(problem) = read {
            function.problems.push(AnnotationProblem {
                key: key.as_str().into(),
                value: value.chars().take(256).collect::<String>().into(),
                problem: problem.into(),
            });
        }
    }
    let mut seen = std::collections::HashSet::new();
    function.topics.retain(|topic| seen.insert(topic.clone()));
    // Whoever keeps schedules reads them, and says what is wrong with them. Without the topic they are not Evoke's.
    let asks = function.topics.iter().any(|topic| topic.is_exact() && topic.as_str() == SCHEDULED);
    function.schedule = asks.then_some(schedule).filter(|schedule| *schedule != ScheduleWish::default());
}

/// A comma list: pieces trimmed, empty ones dropped.
fn topics(
    value: &str,
    parse: impl Fn(&str) -> Result<TopicPattern, broker_model::names::NameError>,
) -> Result<Vec<TopicPattern>, String> {
    value
        .split(',')
        .map(str::trim)
        .filter(|piece| !piece.is_empty())
        .map(|piece| parse(piece).map_err(|error| error.to_string()))
        .collect()
}

fn queue(value: &str) -> Result<QueueName, String> {
    QueueName::parse(value.trim()).map_err(|error| format!("{error}; the default queue serves"))
}

fn attempts(value: &str) -> Result<u32, String> {
    value.trim().parse().map_err(|_| "write a whole number of retries, such as 30".to_owned())
}

fn codes(value: &str) -> Result<Vec<u16>, String> {
    let codes: Option<Vec<u16>> = value
        .split(',')
        .map(str::trim)
        .filter(|piece| !piece.is_empty())
        .map(|piece| piece.parse().ok().filter(|code| (100..=599).contains(code)))
        .collect();
    codes.filter(|codes| !codes.is_empty()).ok_or_else(|| "write HTTP statuses, such as 429,502".to_owned())
}

fn wait(value: &str) -> Result<Duration, String> {
    go_duration::parse(value.trim())
        .map_err(|error| format!("{error}; write a duration such as 10s or 1m30s"))
}

fn bound(value: &str) -> Result<Duration, String> {
    let bound = parse_duration(value.trim()).map_err(|error| error.to_string())?;
    if bound.is_zero() { Err("it must be longer than nothing".to_owned()) } else { Ok(bound) }
}

fn concurrency(value: &str) -> Result<Concurrency, String> {
    match value.trim() {
        "adaptive" => Ok(Concurrency::Adaptive),
        number => number
            .parse()
            .map(Concurrency::Fixed)
            .map_err(|_| "write adaptive or a whole number from 1".to_owned()),
    }
}

fn dead_letter(value: &str) -> Result<DeadLetterRule, String> {
    match value.trim() {
        "all" => Ok(DeadLetterRule::All),
        "exhausted" => Ok(DeadLetterRule::Exhausted),
        _ => Err("write all or exhausted".to_owned()),
    }
}

fn on_dead_letter(value: &str, default_namespace: &str) -> Result<OnDeadLetter, String> {
    let value = value.trim();
    if value.contains("://") {
        return match url::Url::parse(value) {
            Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(OnDeadLetter::Url(value.into())),
            Ok(_) => Err("only http and https urls are called".to_owned()),
            Err(error) => Err(error.to_string()),
        };
    }
    match FunctionName::parse(value, default_namespace) {
        Ok(_) => Ok(OnDeadLetter::Function(value.into())),
        Err(error) => Err(format!("{error}; write a function's name or an http url")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn function(annotations: &[(&str, &str)]) -> Function {
        let annotations = annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let mut function = Function::plain(FunctionName::parse("f", "fn").unwrap(), "f");
        read(&mut function, &annotations, "fn");
        function
    }

    fn texts(function: &Function) -> Vec<String> {
        function.topics.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_schedule_is_handed_on_as_written_where_the_topic_says_so() {
        let written = [("schedule", "@daily; 0 0 * * 7"), ("evoke.schedule.overlap", "skip")];
        let with = |topic| function(&[&[("topic", topic)], &written[..]].concat());

        for topic in ["cron-function", " payment.created , cron-function"] {
            let schedule = with(topic).schedule.unwrap();
            assert_eq!(&*schedule.expressions, "@daily; 0 0 * * 7");
            assert_eq!(schedule.policies.get("overlap").map(|value| &**value), Some("skip"));
            assert_eq!(with(topic).problems, [], "whoever runs schedules says what is wrong with them");
        }
        assert_eq!(with("cron").schedule, None);
        assert_eq!(function(&[("topic", "cron-function")]).schedule, None);
    }

    #[test]
    fn a12_topics_are_trimmed_and_each_counts_once() {
        let function = function(&[("topic", " a , b,,a ")]);

        assert_eq!(texts(&function), ["a", "b"]);
        assert!(function.topics.iter().all(TopicPattern::is_exact));
        assert_eq!(function.problems, []);
    }

    #[test]
    fn a10_an_invalid_value_is_reported_and_its_default_serves() {
        for (key, value) in [
            ("com.openfaas.retry.attempts", "x"),
            ("com.openfaas.retry.attempts", "-1"),
            ("com.openfaas.retry.codes", "429,oops"),
            ("com.openfaas.retry.codes", " , "),
            ("com.openfaas.retry.codes", "42"),
            ("com.openfaas.retry.min_wait", "10"),
            ("com.openfaas.retry.max_wait", "-5s"),
            ("com.openfaas.queue", "Slow Jobs"),
            ("evoke.timeout", "0s"),
            ("evoke.max-age", "soon"),
            ("evoke.concurrency", "0"),
            ("evoke.dead-letter", "some"),
            ("evoke.on-dead-letter", "a/b"),
            ("evoke.on-dead-letter", "ftp://x/"),
            ("evoke.topics", "@bad scope/x"),
            ("evoke.colour", "red"),
        ] {
            let function = function(&[(key, value)]);

            let mut unchanged = Function::plain(function.name.clone(), "f");
            unchanged.problems.clone_from(&function.problems);
            assert_eq!(function, unchanged, "{key}: {value}");
            assert_eq!(function.problems.len(), 1, "{key}: {value}");
            assert_eq!((&*function.problems[0].key, &*function.problems[0].value), (key, value));
        }
    }

    #[test]
    fn every_annotation_is_read() {
        let function = function(&[
            ("com.openfaas.queue", "slow-jobs"),
            ("com.openfaas.retry.attempts", " 30 "),
            ("com.openfaas.retry.codes", "429, 502"),
            ("com.openfaas.retry.min_wait", "0s"),
            ("com.openfaas.retry.max_wait", "1m30s"),
            ("evoke.topics", "@orders/orders.>, *.created"),
            ("evoke.timeout", "30s"),
            ("evoke.max-age", "6h"),
            ("evoke.concurrency", "8"),
            ("evoke.dead-letter", "exhausted"),
            ("evoke.on-dead-letter", "alarm.dev"),
            ("prometheus.io.scrape", "false"),
        ]);

        assert_eq!(function.problems, []);
        assert_eq!(function.queue.as_ref().map(QueueName::as_str), Some("slow-jobs"));
        assert_eq!(function.attempts, Some(30));
        assert_eq!(function.codes, Some(vec![429, 502]));
        assert_eq!(
            (function.min_wait, function.max_wait),
            (Some(Duration::ZERO), Some(Duration::from_secs(90)))
        );
        assert_eq!(texts(&function), ["@orders/orders.>", "*.created"]);
        assert_eq!(
            (function.timeout, function.max_age),
            (Some(Duration::from_secs(30)), Some(Duration::from_secs(21600)))
        );
        assert_eq!(function.concurrency, Some(Concurrency::Fixed(8.try_into().unwrap())));
        assert_eq!(function.dead_letter, Some(DeadLetterRule::Exhausted));
        assert_eq!(function.on_dead_letter, Some(OnDeadLetter::Function("alarm.dev".into())));
    }

    #[test]
    fn schedules_are_somebody_elses_and_no_problem() {
        let function = function(&[("schedule", "* * * * *"), ("evoke.schedule.overlap", "allow")]);

        assert_eq!(function.problems, []);
    }

    proptest! {
        #[test]
        fn no_annotation_stops_the_reading(annotations in proptest::collection::btree_map("(evoke|com\\.openfaas)[.a-z-]{0,20}|topic", ".{0,40}", 0..6)) {
            let mut function = Function::plain(FunctionName::parse("f", "fn").unwrap(), "f");
            read(&mut function, &annotations, "fn");
            prop_assert!(function.problems.len() <= annotations.len());
        }
    }
}
