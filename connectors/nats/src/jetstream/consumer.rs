//! The durable consumer: made, kept as it is wanted, and looked at.

use std::collections::BTreeSet;

use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, FromConsumer as _, Info, ReplayPolicy};
use async_nats::jetstream::context::{
    ConsumerInfoErrorKind, Context, GetStreamError, GetStreamErrorKind, RequestError, RequestErrorKind,
};
use async_nats::jetstream::stream::{self, ConsumerErrorKind, RetentionPolicy, Stream};
use async_nats::jetstream::{Error as ApiError, ErrorCode};

use connectors_sdk::SourceError;
use connectors_sdk::source::Cause;

use super::filter::{Filter, within};
use super::settings::{JetStreamSettings, Start};

/// What it should be.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) settings: JetStreamSettings,
    pub(crate) subjects: BTreeSet<String>,
    /// We read this stream already, and all up to this message is settled: where a consumer goes on that is gone.
    pub(crate) settled: Option<u64>,
}

/// What there is.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// When the stream was made, in nanoseconds: another one of the same name was not.
    pub(crate) stream: i128,
    /// Nothing where no subject is wanted.
    pub(crate) consumer: Option<FoundConsumer>,
}

/// The consumer, as it is wanted.
#[derive(Clone, Debug)]
pub(crate) struct FoundConsumer {
    /// When it was made, in nanoseconds.
    pub(crate) created: i128,
    /// We made it just now.
    pub(crate) made: bool,
    pub(crate) filter: Filter,
    /// All up to this message is settled.
    pub(crate) settled: u64,
    /// Messages still to come, and those on their way.
    pub(crate) lag: u64,
}

/// Why it is not there.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The source cannot go on.
    Ends(SourceError),
    /// It may be there in a moment: a leader is being chosen, a connection made.
    Passes(Cause),
}

impl From<SourceError> for Trouble {
    fn from(error: SourceError) -> Self {
        Trouble::Ends(error)
    }
}

/// Looks at the stream, and at the consumer where subjects are wanted; makes or changes the consumer where it is not as it
/// should be. The stream is never made.
pub(crate) async fn tend(context: &Context, wanted: &Wanted) -> Result<Found, Trouble> {
    let JetStreamSettings { stream: name, consumer, .. } = &wanted.settings;
    let stream = context.get_stream(name).await.map_err(|error| match error.kind() {
        GetStreamErrorKind::JetStream(api) => no_stream(name, &api),
        // A server without JetStream has nobody there who would answer, and neither has one that just begins.
        _ if nobody_answers(&error) => {
            Trouble::Passes("nobody there keeps streams: JetStream is not enabled, or not ready yet".into())
        }
        _ => Trouble::Passes(error.into()),
    })?;
    let info = stream.cached_info();
    let mut found = Found { stream: info.created.unix_timestamp_nanos(), consumer: None };
    if wanted.subjects.is_empty() {
        return Ok(found);
    }
    let heeds_changes = context.client().is_server_compatible(2, 10, 0);
    let Some(filter) = filter_for(wanted, &info.config, heeds_changes)? else { return Ok(found) };
    let existing = match stream.consumer_info(consumer).await {
        Ok(existing) => Some(existing),
        Err(error) => match error.kind() {
            ConsumerInfoErrorKind::NotFound => None,
            ConsumerInfoErrorKind::JetStream(api) => return Err(refused(consumer, &api)),
            _ => return Err(Trouble::Passes(error.into())),
        },
    };
    let made = existing.is_none();
    let info = match existing {
        Some(existing) => {
            let written = (existing.config.filter_subject.clone(), existing.config.filter_subjects.clone());
            if !heeds_changes && matches!(filter, Filter::Exact(_)) && written != filter.written() {
                let name = &wanted.settings.consumer;
                let asked = filter.written().0;
                return Err(too_old(format!(
                    "its consumer {name} cannot be changed to {asked}; delete it and let it be made again"
                ))
                .into());
            }
            match changed(existing.config.clone(), wanted, &filter)? {
                None => existing,
                Some(config) => put(&stream, consumer, config).await?,
            }
        }
        None => put(&stream, consumer, new(wanted, &filter, &info.config)).await?,
    };
    found.consumer = Some(state(&info, made, filter));
    Ok(found)
}

fn state(info: &Info, made: bool, filter: Filter) -> FoundConsumer {
    FoundConsumer {
        created: info.created.unix_timestamp_nanos(),
        made,
        filter,
        settled: if info.num_ack_pending == 0 {
            info.delivered.stream_sequence
        } else {
            info.ack_floor.stream_sequence
        },
        lag: info.num_pending + info.num_ack_pending as u64,
    }
}

/// What the consumer is to hand out; nothing where no wanted subject can be in this stream.
///
/// A server before 2.10 takes one subject, and does not heed all changes of it: it hands out the whole stream, and we pass
/// over what is not wanted. One durable consumer keeps one place that way, whatever is asked for.
fn filter_for(
    wanted: &Wanted,
    stream: &stream::Config,
    heeds_changes: bool,
) -> Result<Option<Filter>, SourceError> {
    if heeds_changes {
        return Ok(Some(Filter::exact(&wanted.subjects)));
    }
    // What a stream takes over from others can have any subject.
    let own = stream.mirror.is_none() && stream.sources.as_ref().is_none_or(Vec::is_empty);
    let subjects = within(&wanted.subjects, if own { &stream.subjects } else { &[] });
    match (stream.retention, Filter::exact(&subjects)) {
        _ if subjects.is_empty() => Ok(None),
        (RetentionPolicy::Limits, _) => Ok(Some(Filter::Whole)),
        // To pass a message over would be to take it from whoever else would have it.
        (_, Filter::Exact(one)) if one.len() == 1 => Ok(Some(Filter::Exact(one))),
        _ => Err(too_old(format!(
            "it cannot hand out several subjects ({}) of a stream that forgets what was taken; ask for one",
            subjects.into_iter().collect::<Vec<_>>().join(", ")
        ))),
    }
}

fn too_old(what: String) -> SourceError {
    let what = format!("the server is older than 2.10: {what}, or update the server");
    SourceError::Unusable { key: "topics".to_owned(), what, cause: None }
}

/// A new consumer.
fn new(wanted: &Wanted, filter: &Filter, stream: &stream::Config) -> Config {
    let settings = &wanted.settings;
    let deliver_policy = match (wanted.settled, settings.start) {
        // What was settled is gone from a work queue, and it cannot be entered in the middle.
        (Some(_), _) if stream.retention == RetentionPolicy::WorkQueue => DeliverPolicy::All,
        (Some(settled), _) => DeliverPolicy::ByStartSequence { start_sequence: settled + 1 },
        (None, Start::All) => DeliverPolicy::All,
        (None, Start::New) => DeliverPolicy::New,
        (None, Start::Sequence(start_sequence)) => DeliverPolicy::ByStartSequence { start_sequence },
        (None, Start::At(moment)) => {
            match async_nats::datetime::from_nanos(i128::from(moment.as_millis()) * 1_000_000) {
                Ok(start_time) => DeliverPolicy::ByStartTime { start_time },
                // Later than any message.
                Err(_) => DeliverPolicy::New,
            }
        }
    };
    let config = Config {
        durable_name: Some(settings.consumer.clone()),
        name: Some(settings.consumer.clone()),
        deliver_policy,
        ack_policy: AckPolicy::Explicit,
        replay_policy: ReplayPolicy::Instant,
        ..Config::default()
    };
    ours(config, wanted, filter)
}

/// The consumer that is there, as it should be; nothing where it is so already.
///
/// # Errors
/// [`SourceError::Unusable`]: it is of another kind than ours, which no change can mend.
fn changed(
    existing: async_nats::jetstream::consumer::Config,
    wanted: &Wanted,
    filter: &Filter,
) -> Result<Option<Config>, SourceError> {
    let another = |what: &str| SourceError::Unusable {
        key: "jetstream.consumer".to_owned(),
        what: format!(
            "the stream has a consumer {:?} that is not ours: {what}; choose another name, or delete it",
            wanted.settings.consumer
        ),
        cause: None,
    };
    if existing.ack_policy != AckPolicy::Explicit {
        return Err(another("its messages are not acknowledged one by one"));
    }
    let existing = Config::try_from_consumer_config(existing).map_err(|_| another("it pushes"))?;
    let config = ours(existing.clone(), wanted, filter);
    let same = (existing.ack_wait, existing.max_ack_pending, existing.max_deliver)
        == (config.ack_wait, config.max_ack_pending, config.max_deliver)
        && (&existing.backoff, &existing.description) == (&config.backoff, &config.description)
        && existing.filter_subject == config.filter_subject
        && BTreeSet::from_iter(&existing.filter_subjects) == BTreeSet::from_iter(&config.filter_subjects);
    Ok((!same).then_some(config))
}

/// What of it follows from our settings, whoever made it.
fn ours(config: Config, wanted: &Wanted, filter: &Filter) -> Config {
    let settings = &wanted.settings;
    let (filter_subject, filter_subjects) = filter.written();
    Config {
        description: Some(description(wanted, filter)),
        filter_subject,
        filter_subjects,
        ack_wait: settings.ack_wait,
        max_ack_pending: i64::try_from(settings.max_ack_pending.get()).unwrap_or(i64::MAX),
        // The server must not give a message up: it would be lost without a trace.
        max_deliver: -1,
        // Waits of its own would take the place of `ack_wait`.
        backoff: Vec::new(),
        ..config
    }
}

/// For people who look at the consumer. What an old server cannot be told, they are.
fn description(wanted: &Wanted, filter: &Filter) -> String {
    const LONGEST: usize = 1024;
    let mut text = "Evoke".to_owned();
    if *filter == Filter::Whole {
        for subject in &wanted.subjects {
            if text.len() + 1 + subject.len() > LONGEST {
                text.push_str(" ...");
                break;
            }
            text.push(' ');
            text.push_str(subject);
        }
    }
    text
}

async fn put(stream: &Stream, name: &str, config: Config) -> Result<Info, Trouble> {
    match stream.create_consumer(config).await {
        Ok(consumer) => Ok(consumer.cached_info().clone()),
        Err(error) => Err(match error.kind() {
            ConsumerErrorKind::JetStream(api) => refused(name, &api),
            _ => Trouble::Passes(error.into()),
        }),
    }
}

fn nobody_answers(error: &GetStreamError) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<RequestError>());
    cause.is_some_and(|cause| cause.kind() == RequestErrorKind::NoResponders)
}

fn no_stream(name: &str, api: &ApiError) -> Trouble {
    let (key, what) = match api.error_code() {
        ErrorCode::STREAM_NOT_FOUND => (
            "jetstream.stream",
            format!("there is no stream {name}; make it, as with `nats stream add {name}`: Evoke never does"),
        ),
        ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT => (
            "jetstream",
            "the server keeps no streams for this account; enable JetStream there, or remove the setting to take \
             events from core NATS"
                .to_owned(),
        ),
        _ => return Trouble::Passes(api.to_string().into()),
    };
    SourceError::Unusable { key: key.to_owned(), what, cause: None }.into()
}

fn refused(name: &str, api: &ApiError) -> Trouble {
    // Codes from 500 on are the server's own troubles, but for 10012: two replicas made it at once.
    if api.code() >= 500 || api.error_code() == ErrorCode::STREAM_NOT_FOUND {
        return Trouble::Passes(api.to_string().into());
    }
    let what = format!("the server refuses the consumer {name:?}");
    SourceError::Unusable { key: "jetstream.consumer".to_owned(), what, cause: Some(api.to_string().into()) }
        .into()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::time::Duration;

    use async_nats::jetstream::consumer::{self, IntoConsumerConfig as _};

    use super::*;

    fn wanted(subjects: &[&str]) -> Wanted {
        Wanted {
            settings: JetStreamSettings {
                stream: "ORDERS".to_owned(),
                consumer: "evoke-bus".to_owned(),
                start: Start::New,
                ack_wait: Duration::from_secs(30),
                max_ack_pending: NonZeroUsize::new(100).unwrap(),
            },
            subjects: subjects.iter().map(|subject| (*subject).to_owned()).collect(),
            settled: None,
        }
    }

    fn made(wanted: &Wanted) -> consumer::Config {
        let filter = Filter::exact(&wanted.subjects);
        new(wanted, &filter, &stream::Config::default()).into_consumer_config()
    }

    fn change(existing: consumer::Config, wanted: &Wanted) -> Result<Option<Config>, SourceError> {
        changed(existing, wanted, &Filter::exact(&wanted.subjects))
    }

    #[test]
    fn a_consumer_that_is_as_wanted_is_left_alone_and_another_is_changed() {
        let one = wanted(&["orders.a"]);
        assert!(change(made(&one), &one).unwrap().is_none());

        let two = wanted(&["orders.a", "orders.b"]);
        let config = change(made(&one), &two).unwrap().unwrap();
        assert_eq!((config.filter_subject.as_str(), config.filter_subjects.len()), ("", 2));
        assert_eq!(config.deliver_policy, DeliverPolicy::New, "where it began is its own");

        let backwards =
            consumer::Config { filter_subjects: vec!["orders.b".into(), "orders.a".into()], ..made(&two) };
        assert!(change(backwards, &two).unwrap().is_none(), "their order means nothing");
        let limited = consumer::Config { max_deliver: 5, ..made(&two) };
        assert_eq!(change(limited, &two).unwrap().unwrap().max_deliver, -1, "it would lose messages");
    }

    #[test]
    fn a_consumer_of_another_kind_is_not_touched() {
        let one = wanted(&["orders.a"]);
        for other in [
            consumer::Config { deliver_subject: Some("x".into()), ..made(&one) },
            consumer::Config { ack_policy: AckPolicy::None, ..made(&one) },
        ] {
            let error = change(other, &one).unwrap_err();
            assert!(matches!(&error, SourceError::Unusable { key, .. } if key == "jetstream.consumer"));
        }
    }

    #[test]
    fn a_consumer_that_is_gone_goes_on_where_it_was() {
        let again = Wanted { settled: Some(41), ..wanted(&["a"]) };
        assert_eq!(made(&again).deliver_policy, DeliverPolicy::ByStartSequence { start_sequence: 42 });

        let queue = stream::Config { retention: RetentionPolicy::WorkQueue, ..stream::Config::default() };
        let filter = Filter::exact(&again.subjects);
        assert_eq!(new(&again, &filter, &queue).deliver_policy, DeliverPolicy::All);
    }

    #[test]
    fn an_old_server_hands_out_the_whole_stream_or_one_subject() {
        let stream = stream::Config { subjects: vec!["orders.>".into()], ..stream::Config::default() };
        let filter =
            |subjects: &[&str], stream: &stream::Config| filter_for(&wanted(subjects), stream, false);

        assert_eq!(filter(&["other"], &stream).unwrap(), None);
        assert_eq!(filter(&["orders.a", "other"], &stream).unwrap(), Some(Filter::Whole));

        let queue = stream::Config { retention: RetentionPolicy::WorkQueue, ..stream };
        let one = Filter::Exact(vec!["orders.a".into()]);
        assert_eq!(filter(&["orders.a", "other"], &queue).unwrap(), Some(one));
        assert!(filter(&["orders.a", "orders.b"], &queue).is_err(), "others would lose what is passed over");
    }

    #[test]
    fn people_see_what_is_passed_over_for() {
        let two = wanted(&["orders.a", "orders.b"]);
        assert_eq!(description(&two, &Filter::Whole), "Evoke orders.a orders.b");
        assert_eq!(description(&two, &Filter::exact(&two.subjects)), "Evoke");

        let long: Vec<String> = (0..2000).map(|n| format!("orders.{n}")).collect();
        let many = wanted(&long.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(description(&many, &Filter::Whole).len() < 1100);
    }
}
