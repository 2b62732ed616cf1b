//! The loop: records in, events out, offsets committed behind them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use rdkafka::consumer::{Consumer as _, MessageStream};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::topic_partition_list::Offset;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use connectors_sdk::source::Cause;
use connectors_sdk::{
    AckWindow, Capabilities, Event, Family, Following, Partition, Positions, Quarantined, Resolved, Resume,
    Retries, Source, SourceContext, SourceError, SourceName, StoreError, Upstream,
};

use crate::client::{self, Callbacks, Client, Committed, Place, ToCommit, Told};
use crate::event::event_from;
use crate::progress::{Ours, Progress, lost_before};
use crate::settings::{KafkaSettings, Start};
use crate::topics::subscription;

static GROUP_CONNECT: Family = Family {
    name: "kafka_connector_consumer_group_connect",
    help: "How often a connection to the brokers of a consumer group was made",
    counter: true,
    labels: &["group"],
};
static CONSUMED: Family = Family {
    name: "kafka_connector_messages_consumed",
    help: "Records read",
    counter: true,
    labels: &["group", "topic", "partition", "member_id"],
};
static OFFSET: Family = Family {
    name: "kafka_connector_messages_offset",
    help: "The offset of the record last read",
    counter: false,
    labels: &["group", "topic", "partition", "member_id"],
};

/// How long the client's queue waits for room before its partitions are paused. A full window is the usual case and has
/// room again at once; to pause throws away what the client has read ahead.
const FULL_FOR: Duration = Duration::from_millis(200);
/// How often the group and the topics are looked at: lag, lost records, foreign hands.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The same while something is wrong with a position.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long a partition that goes to another replica may hold it up for what was begun with it.
const LEAVE_WITHIN: Duration = Duration::from_secs(10);
/// How long a last commit and a farewell may take.
const FAREWELL: Duration = Duration::from_secs(2);
/// How often in a row it may fail to find out where to begin. A leader that moves is asked again; what lasts is an error.
const TAKE_UPS: u32 = 5;
/// The most records taken from the client, or settled, before anything else has its turn.
const AT_ONCE: usize = 256;

/// One configured Kafka source.
pub(crate) struct KafkaSource {
    name: SourceName,
    settings: KafkaSettings,
}

impl KafkaSource {
    pub(crate) fn new(name: SourceName, settings: KafkaSettings) -> Self {
        KafkaSource { name, settings }
    }
}

#[async_trait]
impl Source for KafkaSource {
    fn capabilities(&self) -> Capabilities {
        Capabilities { acknowledges: true, replays: true, ordered: true, decodes: false, shares: true }
    }

    async fn run(self: Box<Self>, ctx: SourceContext) -> Result<(), SourceError> {
        let (client, told) = client::make(&self.name, &self.settings, &ctx.health).await?;
        let membership = Membership(Some(client.clone()));
        let window = AckWindow::ordered(&ctx, self.settings.common.in_flight);
        let mut session = Session {
            following: self.settings.common.follow(&ctx),
            window,
            client,
            told,
            jobs: FuturesUnordered::new(),
            cluster: None,
            up: false,
            lanes: HashMap::new(),
            index: HashMap::new(),
            next_lane: 0,
            missing: Vec::new(),
            asked: HashMap::new(),
            failed_take_ups: 0,
            leaving: None,
            stash: VecDeque::new(),
            full_since: None,
            paused: false,
            committing: false,
            noting: 0,
            looking: false,
            look_at: Instant::now() + LOOK_EVERY,
            suspects: HashMap::new(),
            stuck: false,
            last_word: None,
            source: *self,
            ctx,
        };
        let result = session.run().await;
        // Everything of it that holds the client goes first: with its last holder the client leaves the group.
        drop(session);
        membership.leave().await;
        result
    }
}

/// One membership of the group.
struct Session {
    source: KafkaSource,
    ctx: SourceContext,
    client: Arc<Client>,
    told: mpsc::UnboundedReceiver<Told>,
    following: Following,
    window: AckWindow<Token>,
    jobs: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Which cluster it is; known once a broker answered.
    cluster: Option<Box<str>>,
    up: bool,
    /// The partitions we read, each by a number that is used once.
    lanes: HashMap<u64, Lane>,
    index: HashMap<Arc<str>, HashMap<i32, u64>>,
    next_lane: u64,
    /// Given to us, and to be looked for.
    missing: Vec<Place>,
    /// Given to us, and being looked for, with the lane they will have.
    asked: HashMap<Place, u64>,
    failed_take_ups: u32,
    leaving: Option<Leaving>,
    /// Read, and not in the window yet: what the client gave when there was no room.
    stash: VecDeque<Stashed>,
    full_since: Option<Instant>,
    paused: bool,
    /// A commit is on its way; there is never more than one.
    committing: bool,
    /// Commits on their way into our own store: without them, a group that is set back is not recognised.
    noting: usize,
    /// A look at the positions is on its way.
    looking: bool,
    look_at: Instant,
    /// Partitions that stood before the first offset there is when they were last looked at, and where.
    suspects: HashMap<u64, u64>,
    /// The client stopped at a position.
    stuck: bool,
    /// The client's last complaint.
    last_word: Option<String>,
}

struct Lane {
    place: Place,
    partition: Arc<Partition>,
    progress: Progress,
    /// Records read since it was last said.
    consumed: u64,
}

/// Partitions that another replica waits for.
struct Leaving {
    places: Vec<Place>,
    until: Instant,
}

struct Stashed {
    token: Token,
    event: Result<Event, Box<Quarantined>>,
}

struct Token {
    lane: u64,
    next: u64,
}

/// What was begun beside the loop, and has ended.
enum Done {
    /// A broker answered.
    Reached(KafkaResult<Option<String>>),
    TakenUp {
        places: HashMap<Place, u64>,
        taken: Result<Vec<TakenUp>, Cause>,
    },
    Committed(KafkaResult<Committed>),
    Looked {
        stood: Vec<Stood>,
        found: KafkaResult<HashMap<Place, Upstream>>,
    },
    Noted(Result<(), StoreError>),
}

/// How it stood with a partition when the group and the topic were asked of it: what they answer may be older than what we
/// have come to since.
struct Stood {
    lane: u64,
    place: Place,
    read: u64,
    ours: Ours,
}

/// A partition with all that is known of it.
struct TakenUp {
    lane: u64,
    place: Place,
    partition: Arc<Partition>,
    upstream: Upstream,
    resume: Resume,
    from: u64,
}

enum Exit {
    Stop,
    Error(SourceError),
}

impl From<SourceError> for Exit {
    fn from(error: SourceError) -> Self {
        Exit::Error(error)
    }
}

impl Session {
    async fn run(&mut self) -> Result<(), SourceError> {
        let exit = self.receive().await;
        if let Exit::Error(error) = &exit {
            self.ctx.health.disconnected(connectors_sdk::describe(error));
        }
        self.hand_over(&exit).await;
        match exit {
            Exit::Error(error) if !self.ctx.shutdown.is_cancelled() => Err(error),
            _ => Ok(()),
        }
    }

    async fn receive(&mut self) -> Exit {
        if let Err(error) = self.subscribe() {
            return Exit::Error(error);
        }
        self.reach_first();
        let client = self.client.clone();
        let mut records = client.stream();
        let mut commits = tokio::time::interval(self.source.settings.commit_interval);
        commits.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.fill_window();
            self.let_go();
            let full_until = self.full_since.map(|since| since + FULL_FOR);
            let leave_until = self.leaving.as_ref().map(|leaving| leaving.until);
            let done = tokio::select! {
                biased;
                () = self.ctx.shutdown.cancelled() => return Exit::Stop,
                Some(told) = self.told.recv() => self.hear(told),
                Some(done) = self.jobs.next(), if !self.jobs.is_empty() => self.finish(done),
                _ = self.following.changed() => self.subscribe(),
                Some(resolved) = self.window.next(), if self.window.in_flight() > 0 => {
                    self.settle(resolved);
                    // What one sync made durable resolves together, and needs no turn of its own each.
                    for _ in 1..AT_ONCE {
                        let Some(Some(resolved)) = self.window.next().now_or_never() else { break };
                        self.settle(resolved);
                    }
                    Ok(())
                }
                _ = commits.tick() => {
                    self.commit();
                    self.say_consumed();
                    Ok(())
                }
                () = tokio::time::sleep_until(self.look_at), if !self.looking => {
                    self.look();
                    Ok(())
                }
                () = until(full_until), if !self.paused => {
                    self.pause();
                    Ok(())
                }
                () = until(leave_until) => Ok(()),
                Some(message) = records.next(), if self.paused || self.full_since.is_none() => {
                    self.take_all(&mut records, message)
                }
            };
            if let Err(error) = done {
                return Exit::Error(error);
            }
        }
    }

    // --- what is wanted ---

    fn subscribe(&mut self) -> Result<(), SourceError> {
        let wanted = subscription(self.following.now());
        let topics: Vec<&str> = wanted.iter().map(String::as_str).collect();
        if topics.is_empty() {
            self.client.unsubscribe();
        } else {
            self.client.subscribe(&topics).map_err(|error| self.lost(error))?;
        }
        debug!(source = %self.source.name, ?topics, "subscribed");
        self.ctx.health.subscribed(self.following.now().names());
        Ok(())
    }

    // --- the connection ---

    fn reach_first(&mut self) {
        let (client, timeout) = (self.client.clone(), self.source.settings.connect_timeout);
        self.job(async move { Done::Reached(blocking(move || client::reach(&client, timeout)).await) });
    }

    /// Nobody answers: says so, and waits for somebody.
    fn down(&mut self, why: &str) {
        if !self.up {
            return;
        }
        self.up = false;
        warn!(source = %self.source.name, "source {} lost its brokers: {why}", self.source.name);
        self.ctx.health.disconnected(why);
        let (client, shutdown) = (self.client.clone(), self.ctx.shutdown.clone());
        self.job(async move { Done::Reached(reached_again(client, shutdown).await) });
    }

    fn reached(&mut self, answer: KafkaResult<Option<String>>) -> Result<(), SourceError> {
        match answer {
            Ok(cluster) => {
                if self.cluster.is_none() {
                    // An old broker has no name for its cluster.
                    self.cluster = Some(cluster.unwrap_or_default().into());
                    self.ctx.health.count(&GROUP_CONNECT, &[&self.source.settings.group], 1);
                }
                self.up = true;
                self.last_word = None;
                self.failed_take_ups = 0;
                self.take_up_missing();
                self.ctx.health.connected();
                info!(source = %self.source.name, "source {} is connected", self.source.name);
                Ok(())
            }
            Err(error) => Err(self.unreachable(error)),
        }
    }

    fn hear(&mut self, told: Told) -> Result<(), SourceError> {
        match told {
            Told::Assigned(places) => {
                debug!(source = %self.source.name, ?places, "partitions are ours");
                self.missing.extend(places);
                self.take_up_missing();
                Ok(())
            }
            Told::Revoked(places) => {
                debug!(source = %self.source.name, ?places, "partitions are to go");
                self.seek_no_more(&places);
                self.leaving = Some(Leaving { places, until: Instant::now() + LEAVE_WITHIN });
                self.drop_stashed_of_leaving();
                self.commit();
                Ok(())
            }
            Told::Lost(places) => {
                if !places.is_empty() {
                    let what = format!(
                        "the group went on without this replica, and {} partitions may be others' already",
                        places.len()
                    );
                    warn!(source = %self.source.name, ?places, "source {}: {what}", self.source.name);
                    self.ctx.health.problem(what);
                }
                self.seek_no_more(&places);
                self.forget(&places);
                Ok(())
            }
            Told::Trouble(code, why) => self.trouble(code, why),
        }
    }

    fn trouble(&mut self, code: RDKafkaErrorCode, why: String) -> Result<(), SourceError> {
        use RDKafkaErrorCode as Code;
        debug!(source = %self.source.name, ?code, "the client says: {why}");
        match code {
            Code::PartitionEOF => {}
            Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::InconsistentGroupProtocol => {
                return Err(SourceError::Refused {
                    upstream: self.source.settings.upstream(),
                    cause: why.into(),
                });
            }
            // Files may have been exchanged meanwhile: they are read when we begin anew.
            Code::SSL => {
                self.last_word = Some(why);
                return Err(self.unreachable(code));
            }
            Code::AllBrokersDown if self.cluster.is_none() => {
                return Err(self.unreachable(KafkaError::Global(code)));
            }
            Code::AllBrokersDown => {
                let why = self.last_word.clone().unwrap_or(why);
                self.down(&why);
            }
            Code::BrokerTransportFailure | Code::Resolve | Code::OperationTimedOut => {
                self.last_word = Some(why)
            }
            Code::AutoOffsetReset | Code::OffsetOutOfRange => {
                self.stuck = true;
                self.look_at = Instant::now();
            }
            Code::UnknownMemberId | Code::RebalanceInProgress | Code::IllegalGeneration => {}
            _ => {
                warn!(source = %self.source.name, ?code, "the brokers complain to source {}: {why}", self.source.name);
                self.ctx.health.problem(why);
            }
        }
        Ok(())
    }

    // --- partitions come ---

    /// Finds out where to begin with what was given to us.
    fn take_up_missing(&mut self) {
        let (true, Some(cluster)) = (self.up, self.cluster.clone()) else { return };
        if self.missing.is_empty() {
            return;
        }
        let places: HashMap<Place, u64> = self.missing.drain(..).zip(self.next_lane..).collect();
        self.next_lane += places.len() as u64;
        self.asked.extend(places.iter().map(|(place, lane)| (place.clone(), *lane)));
        let (client, positions) = (self.client.clone(), self.ctx.positions.clone());
        let (source, start) = (self.source.name.clone(), self.source.settings.start);
        let timeout = self.source.settings.connect_timeout;
        self.job(async move {
            let taken = take_up(client, positions, source, &cluster, start, &places, timeout).await;
            Done::TakenUp { places, taken }
        });
    }

    fn taken_up(
        &mut self,
        places: HashMap<Place, u64>,
        taken: Result<Vec<TakenUp>, Cause>,
    ) -> Result<(), SourceError> {
        let taken = match taken {
            Ok(taken) => taken,
            Err(error) if self.failed_take_ups + 1 >= TAKE_UPS => return Err(self.lost(error)),
            Err(error) => {
                self.failed_take_ups += 1;
                let what =
                    format!("cannot find out where to begin with {} partitions: {error}", places.len());
                debug!(source = %self.source.name, "{what}");
                self.ctx.health.problem(what);
                self.seek_again(places);
                return Ok(());
            }
        };
        self.failed_take_ups = 0;
        // What went meanwhile is another's.
        let taken: Vec<TakenUp> =
            taken.into_iter().filter(|taken| self.asked.get(&taken.place) == Some(&taken.lane)).collect();
        let starts = client::list(taken.iter().map(|taken| (&taken.place, client::at(taken.from))));
        client::assign(&self.client, &starts).map_err(|error| self.lost(error))?;
        // The client remembers of a partition that went while it was paused that it is paused.
        let stop_or_go = if self.paused { self.client.pause(&starts) } else { self.client.resume(&starts) };
        stop_or_go.map_err(|error| self.lost(error))?;
        for taken in taken {
            self.asked.remove(&taken.place);
            self.begin_lane(taken);
        }
        self.seek_again(places);
        Ok(())
    }

    /// Looks again, a little later, for what of these was asked for and not found.
    fn seek_again(&mut self, places: HashMap<Place, u64>) {
        for (place, lane) in places {
            if self.asked.get(&place) == Some(&lane) {
                self.asked.remove(&place);
                self.missing.push(place);
            }
        }
        if !self.missing.is_empty() {
            self.look_at = self.look_at.min(Instant::now() + LOOK_AGAIN);
        }
    }

    /// These are no longer ours to begin with.
    fn seek_no_more(&mut self, places: &[Place]) {
        self.missing.retain(|place| !places.contains(place));
        self.asked.retain(|place, _| !places.contains(place));
    }

    fn begin_lane(&mut self, taken: TakenUp) {
        let TakenUp { lane, place, partition, upstream, resume, from } = taken;
        let (topic, number) = place.clone();
        if let Some(voided) = &resume.voided {
            warn!(
                source = %self.source.name,
                "what was known of {topic}/{number} no longer holds: {voided}; it is read from {from}"
            );
        }
        let lost = lost_before(&upstream, &resume);
        let begin = lost.map_or(from, |(wanted, _)| wanted);
        debug!(source = %self.source.name, "{topic}/{number} is read from {begin}");
        let progress = Progress::at(begin, upstream.committed);
        self.lanes.insert(lane, Lane { place, partition, progress, consumed: 0 });
        self.index.entry(topic).or_default().insert(number, lane);
        if let Some((wanted, earliest)) = lost {
            self.record_loss(lane, wanted, earliest);
        }
    }

    /// Records that what was to come next is gone.
    fn record_loss(&mut self, lane: u64, from: u64, to: u64) {
        let Some(of) = self.lanes.get_mut(&lane) else { return };
        let (topic, number) = &of.place;
        let what = format!(
            "records of {topic}, partition {number}, offsets {from} to {}, were deleted before they were read: up to {}",
            to - 1,
            to - from
        );
        warn!(source = %self.source.name, "{what}");
        self.ctx.health.problem(&what);
        let range = self.source.settings.common.form.lost(
            topic,
            Some(to - from),
            what,
            &[
                b"lost",
                topic.as_bytes(),
                of.partition.incarnation().as_bytes(),
                &number.to_be_bytes(),
                &from.to_be_bytes(),
                &to.to_be_bytes(),
            ],
        );
        of.progress.begin(from, to);
        self.window.lost_on(lane, range, Token { lane, next: to });
    }

    // --- partitions go ---

    /// Gives back what another replica waits for, once all that was begun with it is committed, or when it takes too long.
    fn let_go(&mut self) {
        let Some(leaving) = &self.leaving else { return };
        let lanes: Vec<&Lane> =
            leaving.places.iter().filter_map(|place| self.lanes.get(&self.lane_of(place)?)).collect();
        let finished = lanes.iter().all(|lane| lane.progress.in_flight() == 0);
        let uncommitted = lanes.iter().any(|lane| lane.progress.to_commit().is_some());
        if Instant::now() < leaving.until && (!finished || uncommitted) {
            if finished && !self.committing {
                self.commit();
            }
            return;
        }
        let Some(Leaving { places, .. }) = self.leaving.take() else { return };
        let ours = places.iter().filter(|place| self.lane_of(place).is_some());
        let list = client::list(ours.map(|place| (place, Offset::Invalid)));
        if let Err(error) = client::unassign(&self.client, &list) {
            debug!(source = %self.source.name, "partitions went before they were let go: {error}");
        }
        self.forget(&places);
    }

    fn forget(&mut self, places: &[Place]) {
        for place in places {
            let (topic, number) = place;
            let Some(numbers) = self.index.get_mut(topic) else { continue };
            let Some(lane) = numbers.remove(number) else { continue };
            if numbers.is_empty() {
                self.index.remove(topic);
            }
            self.lanes.remove(&lane);
            self.suspects.remove(&lane);
            self.stash.retain(|stashed| stashed.token.lane != lane);
            self.window.abandon(lane);
            let number = number.to_string();
            self.ctx.health.forget(&OFFSET, &[("topic", topic), ("partition", &number)]);
        }
    }

    /// What is not begun with yet is another's to read.
    fn drop_stashed_of_leaving(&mut self) {
        let Some(leaving) = &self.leaving else { return };
        let going: HashSet<u64> = leaving.places.iter().filter_map(|place| self.lane_of(place)).collect();
        let lanes = &mut self.lanes;
        self.stash.retain(|stashed| {
            let stays = !going.contains(&stashed.token.lane);
            if !stays && let Some(lane) = lanes.get_mut(&stashed.token.lane) {
                lane.progress.dropped();
            }
            stays
        });
    }

    fn lane_of(&self, place: &Place) -> Option<u64> {
        self.index.get(&place.0)?.get(&place.1).copied()
    }

    fn is_leaving(&self, topic: &str, number: i32) -> bool {
        self.leaving
            .as_ref()
            .is_some_and(|leaving| leaving.places.iter().any(|(of, n)| &**of == topic && *n == number))
    }

    // --- records ---

    fn take_all(
        &mut self,
        records: &mut MessageStream<'_, Callbacks>,
        first: Result<BorrowedMessage<'_>, KafkaError>,
    ) -> Result<(), SourceError> {
        self.take(first)?;
        for _ in 1..AT_ONCE {
            self.fill_window();
            if self.full_since.is_some() {
                break;
            }
            let Some(Some(next)) = records.next().now_or_never() else { break };
            self.take(next)?;
        }
        Ok(())
    }

    fn take(&mut self, message: Result<BorrowedMessage<'_>, KafkaError>) -> Result<(), SourceError> {
        let message = match message {
            Ok(message) => message,
            Err(error @ KafkaError::MessageConsumptionFatal(_)) => return Err(self.lost(error)),
            // The callback said it already, in more words.
            Err(_) => return Ok(()),
        };
        let (topic, number) = (message.topic(), message.partition());
        let Some(&lane) = self.index.get(topic).and_then(|numbers| numbers.get(&number)) else {
            return Ok(());
        };
        if self.is_leaving(topic, number) {
            return Ok(());
        }
        let Some(of) = self.lanes.get_mut(&lane) else { return Ok(()) };
        let Ok(offset) = u64::try_from(message.offset()) else { return Ok(()) };
        let next = offset + 1;
        if !of.progress.begin(offset, next) {
            return Ok(());
        }
        of.consumed += 1;
        let form = &self.source.settings.common.form;
        let event = event_from(form, &of.partition, &message);
        self.stash.push_back(Stashed { token: Token { lane, next }, event });
        Ok(())
    }

    /// Hands over what there is room for, and notes whether the client is to wait.
    fn fill_window(&mut self) {
        while let Some(stashed) = self.stash.front() {
            let weight = match &stashed.event {
                Ok(event) => event.body.len() + event.headers.bytes(),
                Err(unreadable) => unreadable.raw.len() + unreadable.headers.bytes(),
            };
            if !self.window.has_room(weight) {
                break;
            }
            let Some(Stashed { token, event }) = self.stash.pop_front() else { break };
            match event {
                Ok(event) => self.window.publish_on(token.lane, event, token),
                Err(unreadable) => self.window.quarantine_on(token.lane, *unreadable, token),
            }
        }
        let room = self.stash.is_empty() && self.window.has_room(0);
        if !room {
            self.full_since.get_or_insert_with(Instant::now);
        } else if !self.paused {
            self.full_since = None;
        } else if self.window.in_flight() * 2 <= self.source.settings.common.in_flight.messages.get() {
            self.resume();
        }
    }

    fn pause(&mut self) {
        match self.client.assignment().and_then(|all| self.client.pause(&all)) {
            Ok(()) => {
                debug!(source = %self.source.name, "paused until there is room");
                self.paused = true;
            }
            Err(error) => debug!(source = %self.source.name, "cannot pause: {error}"),
        }
    }

    fn resume(&mut self) {
        match self.client.assignment().and_then(|all| self.client.resume(&all)) {
            Ok(()) => {
                debug!(source = %self.source.name, "there is room again");
                self.paused = false;
                self.full_since = None;
            }
            Err(error) => debug!(source = %self.source.name, "cannot resume: {error}"),
        }
    }

    fn settle(&mut self, resolved: Resolved<Token>) {
        match resolved {
            Resolved::Taken { token, .. } => {
                if let Some(of) = self.lanes.get_mut(&token.lane) {
                    of.progress.taken(token.next);
                }
            }
            Resolved::GiveBack { token, .. } => {
                if let Some(of) = self.lanes.get_mut(&token.lane) {
                    of.progress.given_back();
                }
            }
            Resolved::Never { token, refusal } => {
                warn!(source = %self.source.name, %refusal, "a record could not even be kept as a dead letter");
                self.ctx.health.problem(refusal);
                if let Some(of) = self.lanes.get_mut(&token.lane) {
                    of.progress.given_back();
                }
            }
        }
    }

    // --- commits ---

    /// Begins to commit what is durable.
    fn commit(&mut self) {
        if self.committing || !self.up {
            return;
        }
        let mut wanted = Vec::new();
        for (lane, of) in &mut self.lanes {
            let Some(next) = of.progress.to_commit() else { continue };
            of.progress.asking(next);
            wanted.push(ToCommit { lane: *lane, place: of.place.clone(), ours: of.progress.ours(), next });
        }
        if wanted.is_empty() {
            return;
        }
        self.committing = true;
        let (client, timeout) = (self.client.clone(), self.source.settings.connect_timeout);
        self.job(async move {
            Done::Committed(blocking(move || client::commit(&client, &wanted, timeout)).await)
        });
    }

    fn committed(&mut self, done: KafkaResult<Committed>) -> Result<(), SourceError> {
        self.committing = false;
        let has = match done {
            Ok(Committed::Has(has)) => has,
            Ok(Committed::Moved(lane)) => return self.moved(lane),
            Err(error) => {
                // A rebalance came between, or the coordinator moved: the next commit says it again.
                debug!(source = %self.source.name, "cannot commit: {error}");
                return Ok(());
            }
        };
        for (lane, next) in has {
            let Some(of) = self.lanes.get_mut(&lane) else { continue };
            if !of.progress.confirmed(next) {
                continue;
            }
            let (positions, partition) = (self.ctx.positions.clone(), of.partition.clone());
            self.noting += 1;
            self.job(async move { Done::Noted(positions.committed(&partition, next).await) });
        }
        Ok(())
    }

    // --- looking ---

    /// Asks where the group and the topics stand.
    fn look(&mut self) {
        self.look_at = Instant::now() + LOOK_EVERY;
        self.take_up_missing();
        if self.lanes.is_empty() {
            let nothing_to_do = self.up && self.missing.is_empty() && self.asked.is_empty();
            self.ctx.health.lag(nothing_to_do.then_some(0));
            return;
        }
        if !self.up {
            return;
        }
        self.looking = true;
        let (client, timeout) = (self.client.clone(), self.source.settings.connect_timeout);
        let stood: Vec<Stood> = self
            .lanes
            .iter()
            .map(|(lane, of)| Stood {
                lane: *lane,
                place: of.place.clone(),
                read: of.progress.read(),
                ours: of.progress.ours(),
            })
            .collect();
        let places: Vec<Place> = stood.iter().map(|stood| stood.place.clone()).collect();
        self.job(async move {
            Done::Looked { stood, found: blocking(move || client::inspect(&client, &places, timeout)).await }
        });
    }

    fn looked(
        &mut self,
        stood: Vec<Stood>,
        found: KafkaResult<HashMap<Place, Upstream>>,
    ) -> Result<(), SourceError> {
        self.looking = false;
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                debug!(source = %self.source.name, "cannot look at the positions: {error}");
                return Ok(());
            }
        };
        let mut lag = 0;
        let mut suspects = HashMap::new();
        let mut gone = Vec::new();
        for stood in stood {
            let (Some(of), Some(upstream)) = (self.lanes.get(&stood.lane), found.get(&stood.place)) else {
                continue;
            };
            let read = of.progress.read();
            lag += upstream.end.saturating_sub(read) + of.progress.in_flight() as u64;
            let ours = of.progress.ours_since(stood.ours).may_be(upstream.committed);
            if !ours || stood.read > upstream.end {
                self.moved(stood.lane)?;
                continue;
            }
            if read < upstream.earliest {
                // What the client has read ahead still comes: only what does not move is gone. While partitions leave, the
                // client would take a move for our answer.
                let stands = self.suspects.get(&stood.lane) == Some(&read);
                if stands && self.full_since.is_none() && self.leaving.is_none() {
                    gone.push((stood.lane, read, upstream.earliest));
                } else {
                    suspects.insert(stood.lane, read);
                }
            }
        }
        self.ctx.health.lag(Some(lag));
        let second_look = !self.suspects.is_empty();
        if self.stuck && second_look && gone.is_empty() && suspects.is_empty() {
            self.stuck = false;
        }
        for (lane, from, to) in gone {
            self.record_loss(lane, from, to);
            if let Some(of) = self.lanes.get(&lane) {
                client::move_to(&self.client, &of.place, to).map_err(|error| self.lost(error))?;
            }
            self.stuck = false;
        }
        self.suspects = suspects;
        if self.stuck && self.suspects.is_empty() {
            // The client stopped somewhere, and everything we know is in order: begin anew.
            return Err(self.lost(KafkaError::Global(RDKafkaErrorCode::AutoOffsetReset)));
        }
        if !self.suspects.is_empty() {
            self.look_at = Instant::now() + LOOK_AGAIN;
        }
        Ok(())
    }

    // --- small things ---

    fn finish(&mut self, done: Done) -> Result<(), SourceError> {
        match done {
            Done::Reached(answer) => self.reached(answer),
            Done::TakenUp { places, taken } => self.taken_up(places, taken),
            Done::Committed(done) => self.committed(done),
            Done::Looked { stood, found } => self.looked(stood, found),
            Done::Noted(result) => {
                self.noting -= 1;
                if let Err(error) = result {
                    // It lags behind its upstream, which does no harm.
                    debug!(source = %self.source.name, "a commit could not be noted: {error}");
                }
                Ok(())
            }
        }
    }

    fn job(&self, job: impl Future<Output = Done> + Send + 'static) {
        self.jobs.push(Box::pin(job));
    }

    fn say_consumed(&mut self) {
        let settings = &self.source.settings;
        for of in self.lanes.values_mut().filter(|of| of.consumed > 0) {
            let (topic, number) = (&of.place.0, of.place.1.to_string());
            let labels = [settings.group.as_str(), topic, &number, &settings.client_id];
            self.ctx.health.count(&CONSUMED, &labels, std::mem::take(&mut of.consumed));
            self.ctx.health.gauge(&OFFSET, &labels, of.progress.read().saturating_sub(1));
        }
    }

    /// Finishes what was begun, and commits it. Told to stop, a refusal is final: there is no later here.
    async fn hand_over(&mut self, exit: &Exit) {
        self.stash.clear();
        let mut ends = None;
        if let Exit::Error(_) = exit {
            // The group is gone or another one: what is in flight is kept nevertheless, if that is soon done.
            ends = Some(Instant::now() + LEAVE_WITHIN);
        } else {
            self.pause();
            self.window.close();
        }
        let client = self.client.clone();
        while self.window.in_flight() > 0 {
            tokio::select! {
                biased;
                Some(resolved) = self.window.next() => self.settle(resolved),
                () = self.ctx.shutdown.cancelled(), if !self.window.is_closed() => self.window.close(),
                () = until(ends) => return,
                // The client must go on being asked, or it would be taken for dead.
                _ = client.recv(), if matches!(exit, Exit::Stop) => {}
            }
            self.drain_told();
        }
        if let Exit::Stop = exit {
            let _ = tokio::time::timeout(FAREWELL, self.last_commit()).await;
        }
    }

    /// Waits until everything durable is committed.
    async fn last_commit(&mut self) {
        let client = self.client.clone();
        loop {
            self.drain_told();
            self.commit();
            // A question on its way keeps the client from ending, too.
            if !self.committing && !self.looking && self.noting == 0 {
                return;
            }
            let done = tokio::select! {
                biased;
                Some(told) = self.told.recv() => {
                    self.farewell(told);
                    Ok(())
                }
                Some(done) = self.jobs.next(), if !self.jobs.is_empty() => self.finish(done),
                _ = client.recv() => Ok(()),
            };
            if done.is_err() {
                return;
            }
        }
    }

    fn drain_told(&mut self) {
        while let Ok(told) = self.told.try_recv() {
            self.farewell(told);
        }
    }

    /// What is told to somebody who leaves: partitions that come are not begun with, those that go may.
    fn farewell(&mut self, told: Told) {
        match told {
            Told::Lost(places) => self.forget(&places),
            Told::Assigned(_) | Told::Revoked(_) | Told::Trouble(..) => {}
        }
    }

    fn unreachable(&self, error: impl Into<Cause>) -> SourceError {
        let upstream = self.source.settings.upstream();
        let cause = self.last_word.clone().map_or_else(|| error.into(), Cause::from);
        SourceError::Unreachable { upstream, cause }
    }

    fn lost(&self, error: impl Into<Cause>) -> SourceError {
        SourceError::Lost { upstream: self.source.settings.upstream(), cause: Some(error.into()) }
    }

    /// Somebody else changed what the group has, or the topic is another one.
    fn moved(&self, lane: u64) -> Result<(), SourceError> {
        match self.lanes.get(&lane) {
            Some(of) if !self.client.assignment_lost() => {
                let (topic, number) = &of.place;
                Err(self.lost(format!(
                    "{topic}/{number} is no longer where it was: the topic or the group was made anew, or set back"
                )))
            }
            // It has gone to another replica meanwhile, which is that one's right.
            _ => Ok(()),
        }
    }
}

/// Leaves the group at its end, also when the source is cut off in the middle: the others need not wait then.
struct Membership(Option<Arc<Client>>);

impl Membership {
    async fn leave(mut self) {
        let Some(client) = self.0.take() else { return };
        let left = tokio::task::spawn_blocking(move || client::close(client));
        if tokio::time::timeout(FAREWELL, left).await.is_err() {
            debug!("the client takes its time to leave the group");
        }
    }
}

impl Drop for Membership {
    /// The client waits for its brokers when it ends; a task must not.
    fn drop(&mut self) {
        if let Some(client) = self.0.take() {
            std::thread::spawn(move || client::close(client));
        }
    }
}

/// Asks until somebody answers.
async fn reached_again(client: Arc<Client>, shutdown: CancellationToken) -> KafkaResult<Option<String>> {
    let mut retries = Retries::asking();
    loop {
        let client = client.clone();
        let answer = blocking(move || client::reach(&client, FAREWELL)).await;
        if answer.is_ok() || !retries.wait(Duration::ZERO, &shutdown).await {
            return answer;
        }
    }
}

/// Holds what the group, the topics and our own store say of partitions against each other.
async fn take_up(
    client: Arc<Client>,
    positions: Arc<dyn Positions>,
    source: SourceName,
    cluster: &str,
    start: Start,
    places: &HashMap<Place, u64>,
    timeout: Duration,
) -> Result<Vec<TakenUp>, Cause> {
    let asked: Vec<Place> = places.keys().cloned().collect();
    let (found, since) = blocking(move || {
        let found = client::inspect(&client, &asked, timeout)?;
        let since = match start {
            Start::At(moment) => client::since(&client, &asked, moment, timeout)?,
            Start::Earliest | Start::Latest => HashMap::new(),
        };
        Ok((found, since))
    })
    .await?;
    let mut taken = Vec::with_capacity(found.len());
    for (place, upstream) in found {
        let Some(&lane) = places.get(&place) else { continue };
        let number = u32::try_from(place.1)?;
        let partition = Arc::new(Partition::new(source.clone(), &place.0, cluster, number)?);
        let resume = positions.take_up(&partition, upstream).await?;
        let from = resume.from.unwrap_or_else(|| match start {
            Start::Earliest => upstream.earliest,
            Start::Latest => upstream.end,
            Start::At(_) => since.get(&place).copied().unwrap_or(upstream.end),
        });
        taken.push(TakenUp { lane, place, partition, upstream, resume, from });
    }
    Ok(taken)
}

/// Runs what blocks where it may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> KafkaResult<T> + Send + 'static,
) -> KafkaResult<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(KafkaError::Canceled))
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
