//! The client library: its configuration, what it tells, and the questions that block.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, StreamConsumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use secrecy::ExposeSecret as _;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use connectors_sdk::{Health, SourceError, SourceName, Timestamp, Upstream};

use crate::progress::Ours;
use crate::settings::KafkaSettings;

/// A consumer that tells us what happens to it.
pub(crate) type Client = StreamConsumer<Callbacks>;

/// A partition by its topic and number.
pub(crate) type Place = (Arc<str>, i32);

/// What happens to a consumer, in the order in which it did.
#[derive(Debug)]
pub(crate) enum Told {
    /// These are ours from now on, once [`assign`] was called with where to begin.
    Assigned(Vec<Place>),
    /// These go to others, once [`unassign`] was called; until then they are ours to finish.
    Revoked(Vec<Place>),
    /// These are no longer ours, and may be somebody else's already.
    Lost(Vec<Place>),
    /// Something is wrong, in the client's words.
    Trouble(RDKafkaErrorCode, String),
}

/// The client's way to call us. It does so from within `recv`, so nothing here may wait.
pub(crate) struct Callbacks {
    tell: mpsc::UnboundedSender<Told>,
    /// The rebalance the client waits for our answer to.
    open: Mutex<Option<Open>>,
    /// From here on the client is answered at once: it is being closed, and would wait for us.
    closing: AtomicBool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    Assign,
    Unassign,
}

impl Callbacks {
    fn ask(&self, what: Open) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = Some(what);
    }

    /// It was answered, if it was this that was asked.
    fn answered(&self, what: Open) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).take_if(|open| *open == what);
    }

    fn tell(&self, told: Told) {
        // Whoever listens no longer has ended, and the client ends soon.
        let _ = self.tell.send(told);
    }
}

impl ClientContext for Callbacks {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                warn!("kafka client: {facility} {message}");
            }
            _ => debug!("kafka client: {facility} {message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        self.tell(Told::Trouble(code, reason.to_owned()));
    }
}

impl ConsumerContext for Callbacks {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        what: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let assign = what == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        let places = places(partitions);
        let at_once = places.is_empty() || self.closing.load(Ordering::SeqCst);
        if assign && !at_once {
            self.ask(Open::Assign);
            self.tell(Told::Assigned(places));
        } else if assign {
            say(consumer.incremental_assign(partitions));
        } else if at_once || consumer.assignment_lost() {
            // What was not begun with yet would be an error, which is no answer: the client would wait for one for ever.
            say(consumer.assignment().and_then(|held| {
                let begun = |place: &&Place| held.find_partition(&place.0, place.1).is_some();
                let begun = places.iter().filter(begun).map(|place| (place, Offset::Invalid));
                consumer.incremental_unassign(&list(begun))
            }));
            self.tell(Told::Lost(places));
        } else {
            self.ask(Open::Unassign);
            self.tell(Told::Revoked(places));
        }
    }
}

fn say(result: KafkaResult<()>) {
    if let Err(error) = result {
        debug!("kafka client: a rebalance was answered too late: {error}");
    }
}

fn place(topic: &str, partition: i32) -> Place {
    (topic.into(), partition)
}

fn places(list: &TopicPartitionList) -> Vec<Place> {
    list.elements().iter().map(|element| place(element.topic(), element.partition())).collect()
}

/// An offset that is a number.
fn plain(offset: Offset) -> Option<u64> {
    match offset {
        Offset::Offset(offset) => u64::try_from(offset).ok(),
        _ => None,
    }
}

/// A list for the client. What it cannot hold (an offset beyond what Kafka has) is left out.
pub(crate) fn list<'a>(places: impl IntoIterator<Item = (&'a Place, Offset)>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for ((topic, partition), offset) in places {
        if let Err(error) = list.add_partition_offset(topic, *partition, offset) {
            debug!("kafka client: {topic}/{partition} at {offset:?}: {error}");
        }
    }
    list
}

/// An offset for the client.
pub(crate) fn at(offset: u64) -> Offset {
    Offset::Offset(i64::try_from(offset).unwrap_or(i64::MAX))
}

/// Makes a consumer. It has not been anywhere yet.
///
/// # Errors
/// [`SourceError::Unusable`] when a file the settings name cannot be read, or holds something else.
pub(crate) async fn make(
    name: &SourceName,
    settings: &KafkaSettings,
    health: &Health,
) -> Result<(Arc<Client>, mpsc::UnboundedReceiver<Told>), SourceError> {
    let millis = |time: Duration| time.as_millis().to_string();
    // A whole answer of a broker, of all partitions: no more than may wait here, but never less than one partition's part.
    let at_once = settings.buffer.bytes().min(50 << 20).max(settings.max_bytes.bytes());
    let mut config = ClientConfig::new();
    config
        .set_log_level(RDKafkaLogLevel::Notice)
        .set("bootstrap.servers", settings.brokers.join(","))
        .set("client.id", &settings.client_id)
        .set("group.id", &settings.group)
        .set("partition.assignment.strategy", "cooperative-sticky")
        // Both are ours: an offset is committed after the receipt, and after a look at what the group has.
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // A position that the topic does not have is looked at, never passed over.
        .set("auto.offset.reset", "error")
        .set("allow.auto.create.topics", "false")
        .set("isolation.level", "read_committed")
        .set("max.poll.interval.ms", millis(settings.session_timeout.max(Duration::from_secs(300))))
        .set("session.timeout.ms", millis(settings.session_timeout))
        .set("heartbeat.interval.ms", millis((settings.session_timeout / 15).min(Duration::from_secs(3))))
        .set(
            "socket.connection.setup.timeout.ms",
            millis(settings.connect_timeout.max(Duration::from_secs(1))),
        )
        .set("reconnect.backoff.ms", "100")
        .set("reconnect.backoff.max.ms", "1000")
        .set("topic.metadata.refresh.interval.ms", millis(settings.topic_refresh))
        .set("queued.max.messages.kbytes", (settings.buffer.bytes() / 1024).to_string())
        // How long it waits to fetch on once so much is there. A second, its default, would make `buffer` all that comes in
        // a second; for longer stops the partitions are paused.
        .set("fetch.queue.backoff.ms", "10")
        .set("max.partition.fetch.bytes", settings.max_bytes.bytes().to_string())
        .set("fetch.max.bytes", at_once.to_string());
    if let Some(id) = &settings.instance_id {
        config.set("group.instance.id", id);
    }
    let mut protocol = ("plaintext", "ssl");
    if let Some(credentials) = &settings.credentials {
        protocol = ("sasl_plaintext", "sasl_ssl");
        config
            .set("sasl.mechanism", credentials.mechanism)
            .set("sasl.username", credentials.username.reveal().await?.expose_secret())
            .set("sasl.password", credentials.password.reveal().await?.expose_secret());
    }
    config.set("security.protocol", if settings.tls.is_some() { protocol.1 } else { protocol.0 });
    if let Some(tls) = &settings.tls {
        tls.say_if_insecure(name, health);
        let pem = tls.pem().await?;
        let text = |key: &str, bytes: Vec<u8>| {
            String::from_utf8(bytes).map_err(|cause| SourceError::Unusable {
                key: key.to_owned(),
                what: "the file is no PEM".to_owned(),
                cause: Some(cause.into()),
            })
        };
        if let Some(ca) = pem.ca {
            config.set("ssl.ca.pem", text("tls.ca_file", ca)?);
        }
        if let Some((certificate, key)) = pem.client {
            config.set("ssl.certificate.pem", text("tls.cert_file", certificate)?);
            config.set("ssl.key.pem", text("tls.key_file", key)?);
        }
        if tls.insecure {
            config.set("enable.ssl.certificate.verification", "false");
        }
    }
    let (tell, told) = mpsc::unbounded_channel();
    let callbacks = Callbacks { tell, open: Mutex::new(None), closing: AtomicBool::new(false) };
    match config.create_with_context(callbacks) {
        Ok(client) => Ok((Arc::new(client), told)),
        Err(error) => Err(unusable(settings, &error)),
    }
}

/// What the client would not have. Its own words may hold the value, which may be a secret: only its key is said.
fn unusable(settings: &KafkaSettings, error: &KafkaError) -> SourceError {
    let (key, what) = match error {
        KafkaError::ClientConfig(_, why, key, _) if key.starts_with("ssl.") || key.starts_with("sasl.") => {
            ("tls", format!("{key} is not usable: {why}"))
        }
        KafkaError::ClientConfig(_, why, key, _) => ("brokers", format!("{key}: {why}")),
        other if settings.tls.is_some() => ("tls", other.to_string()),
        other => ("brokers", other.to_string()),
    };
    SourceError::Unusable { key: key.to_owned(), what, cause: None }
}

/// Answers a rebalance: these begin here.
pub(crate) fn assign(client: &Client, starts: &TopicPartitionList) -> KafkaResult<()> {
    client.context().answered(Open::Assign);
    client.incremental_assign(starts)
}

/// Answers a rebalance: these may go.
pub(crate) fn unassign(client: &Client, places: &TopicPartitionList) -> KafkaResult<()> {
    client.context().answered(Open::Unassign);
    client.incremental_unassign(places)
}

/// Makes a partition that the client stopped at go on from another offset.
pub(crate) fn move_to(client: &Client, place: &Place, offset: u64) -> KafkaResult<()> {
    client.incremental_unassign(&list([(place, Offset::Invalid)]))?;
    client.incremental_assign(&list([(place, at(offset))]))
}

/// Leaves the group and ends the client, which may take a while where brokers do not answer.
pub(crate) fn close(client: Arc<Client>) {
    let callbacks = client.context();
    callbacks.closing.store(true, Ordering::SeqCst);
    let open = callbacks.open.lock().unwrap_or_else(PoisonError::into_inner).take();
    // It would wait for the answer for ever.
    match open {
        Some(Open::Assign) => say(client.incremental_assign(&TopicPartitionList::new())),
        Some(Open::Unassign) => {
            say(client.assignment().and_then(|all| client.incremental_unassign(&all)));
        }
        None => {}
    }
    drop(client);
}

/// Waits for an answer of any broker; the cluster's id. Blocks.
pub(crate) fn reach(client: &Client, timeout: Duration) -> KafkaResult<Option<String>> {
    // Some topic must be named, or all are told; whether it is there does not matter.
    client.fetch_metadata(Some("__consumer_offsets"), timeout)?;
    Ok(client.client().fetch_cluster_id(timeout))
}

/// What the group has committed of these. Blocks.
fn committed(
    client: &Client,
    places: &[Place],
    timeout: Duration,
) -> KafkaResult<HashMap<Place, Option<u64>>> {
    let asked = list(places.iter().map(|place| (place, Offset::Invalid)));
    let answered = client.committed_offsets(asked, timeout)?;
    answered
        .elements()
        .iter()
        .map(|element| {
            element.error()?;
            Ok((place(element.topic(), element.partition()), plain(element.offset())))
        })
        .collect()
}

/// An offset to commit.
pub(crate) struct ToCommit {
    pub(crate) lane: u64,
    pub(crate) place: Place,
    /// Where the group may stand, if nobody else moved it.
    pub(crate) ours: Ours,
    pub(crate) next: u64,
}

/// What came of a commit.
pub(crate) enum Committed {
    /// The group has this now, by the lane.
    Has(Vec<(u64, u64)>),
    /// The group did not stand where it could on this lane, and nothing was committed.
    Moved(u64),
}

/// Commits the offsets of partitions, unless the group stands elsewhere than we can have moved it: a topic or a group that was
/// made anew must not get the offsets of the old one. Blocks.
///
/// The client tells nobody what became of each partition of a commit, so the group is asked.
pub(crate) fn commit(client: &Client, wanted: &[ToCommit], timeout: Duration) -> KafkaResult<Committed> {
    let places: Vec<Place> = wanted.iter().map(|to| to.place.clone()).collect();
    let before = committed(client, &places, timeout)?;
    let moved = |to: &&ToCommit| !before.get(&to.place).is_some_and(|before| to.ours.may_be(*before));
    if let Some(to) = wanted.iter().find(moved) {
        return Ok(Committed::Moved(to.lane));
    }
    client.commit(&list(wanted.iter().map(|to| (&to.place, at(to.next)))), CommitMode::Sync)?;
    let after = committed(client, &places, timeout)?;
    let has = wanted.iter().filter_map(|to| Some((to.lane, (*after.get(&to.place)?)?)));
    Ok(Committed::Has(has.collect()))
}

/// What the group and the topics say of these; a partition that is not there (any more) is left out. Blocks.
pub(crate) fn inspect(
    client: &Client,
    places: &[Place],
    timeout: Duration,
) -> KafkaResult<HashMap<Place, Upstream>> {
    if places.is_empty() {
        return Ok(HashMap::new());
    }
    let committed = committed(client, places, timeout)?;
    // The protocol asks for the first and the last offset as it asks for that of a moment.
    let earliest = offsets(client, places, Offset::Beginning, timeout)?;
    let end = offsets(client, places, Offset::End, timeout)?;
    Ok(places
        .iter()
        .filter_map(|place| {
            let (earliest, end) = (*earliest.get(place)?, *end.get(place)?);
            let committed = committed.get(place).copied().flatten();
            Some((place.clone(), Upstream { committed, earliest, end }))
        })
        .collect())
}

/// The first offset of each partition whose record is not older than a moment; none where there is no such record. Blocks.
pub(crate) fn since(
    client: &Client,
    places: &[Place],
    moment: Timestamp,
    timeout: Duration,
) -> KafkaResult<HashMap<Place, u64>> {
    offsets(client, places, at(moment.as_millis()), timeout)
}

fn offsets(
    client: &Client,
    places: &[Place],
    of: Offset,
    timeout: Duration,
) -> KafkaResult<HashMap<Place, u64>> {
    let answered = client.offsets_for_times(list(places.iter().map(|place| (place, of))), timeout)?;
    Ok(answered
        .elements()
        .iter()
        .filter(|element| element.error().is_ok())
        .filter_map(|element| Some((place(element.topic(), element.partition()), plain(element.offset())?)))
        .collect())
}
