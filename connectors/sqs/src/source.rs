//! The loop: messages in, events out, and SQS told what became of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use connectors_sdk::{
    AckWindow, Capabilities, Demand, Resolved, Retries, Source, SourceContext, SourceError, SourceName,
    wishes,
};

use crate::client::{Answer, Client};
use crate::event::{Received, event_from};
use crate::hold::{Hold, Serial};
use crate::names::{self, Queue};
use crate::outbox::{Hide, Outbox};
use crate::queues::{Poll, Queues};
use crate::settings::{Seconds, SqsSettings};
use crate::trouble::{Failure, Trouble};

/// How often SQS is asked whether it is there while no queue is read.
const PROBE_EVERY: Duration = Duration::from_secs(30);

/// One configured SQS source.
pub(crate) struct SqsSource {
    name: SourceName,
    settings: SqsSettings,
}

impl SqsSource {
    pub(crate) fn new(name: SourceName, settings: SqsSettings) -> Self {
        SqsSource { name, settings }
    }
}

#[async_trait]
impl Source for SqsSource {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            acknowledges: true,
            replays: true,
            // Only within a group of a FIFO queue, and nothing is acknowledged up to a position.
            ordered: false,
            decodes: self.settings.body.is_envelope(),
            shares: true,
        }
    }

    async fn run(self: Box<Self>, ctx: SourceContext) -> Result<(), SourceError> {
        let connect = async {
            let client = Client::new(&self.settings).await?;
            client.reach().await.map_err(|failure| unreached(self.settings.upstream(), failure))?;
            Ok::<_, SourceError>(client)
        };
        let client = tokio::select! {
            biased;
            () = ctx.shutdown.cancelled() => return Ok(()),
            connected = connect => connected?,
        };
        Session::new(*self, ctx, client).run().await
    }
}

fn unreached(upstream: String, failure: Failure) -> SourceError {
    match failure.trouble {
        Trouble::Credentials => SourceError::Refused { upstream, cause: failure.into() },
        _ => SourceError::Unreachable { upstream, cause: failure.into() },
    }
}

/// A request for messages that came to its end.
struct Polled {
    queue: Arc<Queue>,
    /// How many were asked for.
    messages: usize,
    /// When.
    asked: Instant,
    answer: Answer<Vec<Received>>,
}

/// Any other request that came to its end.
enum Told {
    Reached(Answer<()>),
    LookedUp { name: String, answer: Answer<Queue> },
    Measured { queue: Arc<Queue>, answer: Answer<u64> },
    Deleted { queue: Arc<Queue>, serials: Vec<Serial>, answer: Answer<HashMap<usize, Failure>> },
    Hidden { queue: Arc<Queue>, hides: Vec<Hide>, asked: Instant, answer: Answer<HashMap<usize, Failure>> },
}

/// One run of the source. It outlives broken connections: what it holds stays hidden at SQS as long as it renews that, and
/// would come again late, and counted once more against the queue's own limit of receipts, if it were dropped.
struct Session {
    name: SourceName,
    settings: SqsSettings,
    ctx: SourceContext,
    client: Client,
    demand: watch::Receiver<Demand>,
    queues: Queues,
    hold: Hold,
    window: AckWindow<Serial>,
    /// By the paths of the queues.
    outboxes: BTreeMap<Box<str>, Outbox>,
    polls: FuturesUnordered<BoxFuture<'static, (u64, Option<Polled>)>>,
    /// The path of the queue and the latest end of each request for messages that is on its way, by its number.
    poll_ends: BTreeMap<u64, (Box<str>, Instant)>,
    next_poll: u64,
    requests: FuturesUnordered<BoxFuture<'static, Told>>,
    /// The last request was not answered.
    cut: bool,
    probe_at: Instant,
    probe_retries: Retries,
    /// The broker refuses: nothing is asked for until then.
    rests_until: Instant,
    stopping: bool,
}

impl Session {
    fn new(source: SqsSource, ctx: SourceContext, client: Client) -> Self {
        let SqsSource { name, settings } = source;
        let now = Instant::now();
        Session {
            window: AckWindow::unordered(&ctx, settings.common.in_flight),
            demand: ctx.demand.clone(),
            queues: Queues::new(settings.common.form.clone()),
            hold: Hold::new(settings.visibility),
            name,
            settings,
            ctx,
            client,
            outboxes: BTreeMap::new(),
            polls: FuturesUnordered::new(),
            poll_ends: BTreeMap::new(),
            next_poll: 0,
            requests: FuturesUnordered::new(),
            cut: false,
            probe_at: now + PROBE_EVERY,
            probe_retries: Retries::reconnecting(),
            rests_until: now,
            stopping: false,
        }
    }

    async fn run(&mut self) -> Result<(), SourceError> {
        self.ask_for();
        self.work();
        self.ctx.health.connected();
        info!(source = %self.name, "source {} is connected", self.name);
        let shutdown = self.ctx.shutdown.clone();
        let mut demand_ends = false;
        loop {
            let next_time = self.next_time();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                changed = self.demand.changed(), if !demand_ends => match changed {
                    Ok(()) => self.ask_for(),
                    Err(_) => demand_ends = true,
                },
                Some(resolved) = self.window.next(), if self.window.in_flight() > 0 => self.settle(resolved),
                Some(told) = self.requests.next(), if !self.requests.is_empty() => self.hear(told)?,
                Some(polled) = self.polls.next(), if !self.polls.is_empty() => self.receive(polled)?,
                () = tokio::time::sleep_until(next_time) => {}
            }
            self.work();
        }
        self.stop().await;
        Ok(())
    }

    /// Begins nothing more, gives back what is not begun, and finishes what is.
    async fn stop(&mut self) {
        self.stopping = true;
        while let Some(Some(polled)) = self.polls.next().now_or_never() {
            // It came too late to be begun, but it came: it need not stay hidden.
            let _ = self.receive(polled);
        }
        self.polls.clear();
        self.give_back_waiting(None);
        self.window.close();
        loop {
            self.tell(Instant::now());
            let told = self.outboxes.values().all(Outbox::is_empty);
            if told && self.window.in_flight() == 0 {
                return;
            }
            tokio::select! {
                biased;
                Some(resolved) = self.window.next(), if self.window.in_flight() > 0 => self.settle(resolved),
                Some(told) = self.requests.next(), if !self.requests.is_empty() => {
                    // Whatever it is, there is no later.
                    let _ = self.hear(told);
                }
            }
        }
    }

    /// Asks for what is wanted now, and leaves what is no longer wanted.
    fn ask_for(&mut self) {
        let demand = self.demand.borrow_and_update().clone();
        let common = &self.settings.common;
        let wanted = wishes(&common.topics, &demand, &common.form, names::check);
        // A pattern is no queue; whoever asks by one gets messages of queues that are asked for by name.
        let left = self.queues.ask(&wanted.exact, demand, Instant::now());
        self.ctx.health.subscribed(wanted.exact.into_iter().collect());
        for queue in left {
            debug!(source = %self.name, queue = %queue.url, "left {}", queue.url);
            self.give_back_waiting(Some(&queue.path));
        }
    }

    /// Begins whatever may be begun now.
    fn work(&mut self) {
        let now = Instant::now();
        self.publish(now);
        self.renew(now);
        self.tell(now);
        self.ask(now);
    }

    fn next_time(&self) -> Instant {
        let now = Instant::now();
        let rests = (self.rests_until > now).then_some(self.rests_until);
        let outboxes = self.outboxes.values().filter_map(|outbox| outbox.opens(now));
        let own = [rests, self.hold.next_due(), self.queues.next_time(now)];
        let times = own.into_iter().flatten().chain(outboxes).chain([self.probe_at]);
        times.min().unwrap_or(self.probe_at)
    }

    // --- into the broker ---

    /// Hands what is ready to the window, as far as it has room.
    fn publish(&mut self, now: Instant) {
        while let Some(weight) = self.hold.first_weight()
            && self.window.has_room(usize::try_from(weight).unwrap_or(usize::MAX))
            && let Some(serial) = self.hold.pop_ready(now)
            && let Some(held) = self.hold.get_mut(serial)
        {
            for name in self.queues.topics(&held.queue) {
                held.publishing += 1;
                let (form, body) = (&self.settings.common.form, self.settings.body);
                match event_from(form, body, &held.queue, &name, &held.message) {
                    Ok(event) => self.window.publish(event, serial),
                    Err(unreadable) => {
                        // The message itself: once, whatever its names.
                        self.window.quarantine(*unreadable, serial);
                        break;
                    }
                }
            }
        }
    }

    /// Something of a message is settled. Once all of it is, the message is deleted or given back.
    fn settle(&mut self, resolved: Resolved<Serial>) {
        let now = Instant::now();
        let (Resolved::Taken { token: serial, .. }
        | Resolved::GiveBack { token: serial, .. }
        | Resolved::Never { token: serial, .. }) = resolved;
        let Some(held) = self.hold.get_mut(serial) else { return };
        held.publishing -= 1;
        match resolved {
            Resolved::Taken { .. } => {}
            Resolved::GiveBack { after, .. } => {
                held.give_back = held.give_back.max(Some(after));
                // What is asked for now would come to the same.
                self.rests_until = self.rests_until.max(now + after);
            }
            Resolved::Never { refusal, .. } => {
                warn!(source = %self.name, %refusal, "a message of SQS could not even be kept as a dead letter");
                self.ctx.health.problem(refusal);
                held.give_back = held.give_back.max(Some(self.settings.visibility.duration()));
            }
        }
        if held.publishing > 0 {
            return;
        }
        let queue = held.queue.clone();
        match held.give_back {
            None => {
                self.hold.taken(serial);
                self.outbox(&queue).deletes.push(serial);
            }
            Some(after) => {
                let wait = self.hold.wait_of(serial, after, now);
                let all = self.hold.give_back(serial);
                self.hide(all, wait);
            }
        }
    }

    // --- to SQS ---

    fn outbox(&mut self, queue: &Arc<Queue>) -> &mut Outbox {
        let new = || Outbox::new(queue.clone(), Instant::now());
        self.outboxes.entry(queue.path.clone()).or_insert_with(new)
    }

    /// What is not begun goes back at once, of all queues or of the one with this path.
    fn give_back_waiting(&mut self, path: Option<&str>) {
        let waiting = self.hold.give_back_waiting(path);
        self.hide(waiting, Seconds(0));
    }

    /// Messages go back, to be seen again after that time. Where requests for messages were cut, not before SQS has done with
    /// those: it would hand the messages to nobody, and hide them for as long as if somebody held them.
    fn hide(&mut self, serials: Vec<Serial>, time: Seconds) {
        let now = Instant::now();
        for serial in serials {
            let Some(queue) = self.hold.get(serial).map(|held| held.queue.clone()) else { continue };
            let cut = self.stopping || !self.queues.reads(&queue.path);
            let ends = self.poll_ends.values().filter(|(path, _)| cut && *path == queue.path);
            let rest = ends.map(|(_, end)| Seconds::up(end.saturating_duration_since(now))).max();
            let time = time.max(rest.unwrap_or(Seconds(0)));
            self.outbox(&queue).times.push(Hide { serial, time, goes_back: true });
        }
    }

    fn renew(&mut self, now: Instant) {
        for (serial, time) in self.hold.due(now) {
            let Some(queue) = self.hold.get(serial).map(|held| held.queue.clone()) else { continue };
            self.outbox(&queue).times.push(Hide { serial, time, goes_back: false });
        }
    }

    /// Sends what is to be told.
    fn tell(&mut self, now: Instant) {
        for outbox in self.outboxes.values_mut().filter(|outbox| self.stopping || outbox.is_open(now)) {
            // What is not held any more needs no word.
            let handle = |serial| self.hold.get(serial).map(|held| held.message.handle.clone());
            while let Some(mut serials) = outbox.deletes.begin() {
                serials.retain(|serial| self.hold.get(*serial).is_some());
                let handles: Vec<String> = serials.iter().filter_map(|serial| handle(*serial)).collect();
                if handles.is_empty() {
                    outbox.deletes.returned();
                    continue;
                }
                let (client, queue) = (self.client.clone(), outbox.queue.clone());
                self.requests.push(Box::pin(async move {
                    let answer = client.delete(&queue, &handles).await;
                    Told::Deleted { queue, serials, answer }
                }));
            }
            while let Some(mut hides) = outbox.times.begin() {
                hides.retain(|hide| self.hold.get(hide.serial).is_some());
                let handles: Vec<(String, Seconds)> =
                    hides.iter().filter_map(|hide| Some((handle(hide.serial)?, hide.time))).collect();
                if handles.is_empty() {
                    outbox.times.returned();
                    continue;
                }
                let (client, queue) = (self.client.clone(), outbox.queue.clone());
                self.requests.push(Box::pin(async move {
                    let answer = client.hide(&queue, &handles).await;
                    Told::Hidden { queue, hides, asked: now, answer }
                }));
            }
        }
    }

    /// Looks up names, asks for messages, and asks how many there are.
    fn ask(&mut self, now: Instant) {
        for name in self.queues.look_ups(now) {
            let client = self.client.clone();
            self.requests.push(Box::pin(async move {
                let answer = client.look_up(&name).await;
                Told::LookedUp { name, answer }
            }));
        }
        // What waits for room here already goes first.
        if self.rests_until <= now && self.hold.first_weight().is_none() {
            let limits = self.settings.common.in_flight;
            let messages = limits.messages.get().saturating_sub(self.hold.messages());
            let bytes = limits.bytes.bytes().saturating_sub(self.hold.bytes());
            for poll in self.queues.polls(messages, bytes, self.settings.batch, now) {
                self.poll(poll, now);
            }
        }
        for queue in self.queues.measures(now) {
            let client = self.client.clone();
            self.requests.push(Box::pin(async move {
                let answer = client.measure(&queue).await;
                Told::Measured { queue, answer }
            }));
        }
        if self.probe_at <= now {
            self.probe_at = now + PROBE_EVERY;
            if self.queues.reads_none() {
                let client = self.client.clone();
                self.requests.push(Box::pin(async move { Told::Reached(client.reach().await) }));
            }
        }
    }

    fn poll(&mut self, poll: Poll, asked: Instant) {
        let client = self.client.clone();
        let visibility = self.settings.visibility;
        let wait = if poll.waits { self.settings.wait } else { Seconds(0) };
        let number = self.next_poll;
        self.next_poll += 1;
        self.poll_ends.retain(|_, (_, end)| *end > asked);
        self.poll_ends.insert(number, (poll.queue.path.clone(), asked + wait.duration()));
        self.polls.push(Box::pin(async move {
            let Poll { queue, messages, left, .. } = poll;
            let answer = left.run_until_cancelled(client.receive(&queue, messages, visibility, wait)).await;
            (number, answer.map(|answer| Polled { queue, messages, asked, answer }))
        }));
    }

    // --- from SQS ---

    fn receive(&mut self, (poll, polled): (u64, Option<Polled>)) -> Result<(), SourceError> {
        // One that was cut goes on at SQS, as far as anybody can tell; its end stays known.
        let Some(polled) = polled else { return Ok(()) };
        self.poll_ends.remove(&poll);
        let Polled { queue, messages: asked_for, asked, answer } = polled;
        let now = Instant::now();
        self.heard(answer.as_ref().err())?;
        match answer {
            Ok(messages) => {
                let weights: Vec<u64> = messages.iter().map(Received::weight).collect();
                let (batch, polls) = (self.settings.batch, self.settings.polls.get());
                self.queues.answered(&queue.path, asked_for, &weights, batch, polls);
                let reads = self.queues.reads(&queue.path);
                for message in messages {
                    let serial = self.hold.take(queue.clone(), message, asked, now);
                    if !reads {
                        debug!(source = %self.name, serial, "a message came of a queue that was left");
                    }
                }
                if !reads {
                    self.give_back_waiting(Some(&queue.path));
                }
            }
            Err(failure) if failure.trouble == Trouble::Missing => {
                for name in self.queues.missing(&queue.path, now) {
                    self.say_missing(&name);
                }
            }
            Err(failure) => {
                let first = self.queues.failed(&queue.path, asked_for, now);
                if failure.trouble != Trouble::Lost {
                    self.ctx.health.problem(format!("{}: {failure}", queue.name));
                    if first {
                        warn!(source = %self.name, queue = %queue.url, %failure, "cannot read {}", queue.name);
                    }
                }
            }
        }
        Ok(())
    }

    fn hear(&mut self, told: Told) -> Result<(), SourceError> {
        let now = Instant::now();
        match told {
            Told::Reached(answer) => {
                self.heard(answer.as_ref().err())?;
                match answer {
                    Ok(()) => self.probe_retries.answered(),
                    Err(_) => self.probe_at = now + self.probe_retries.failed(),
                }
            }
            Told::LookedUp { name, answer } => {
                self.heard(answer.as_ref().err())?;
                match answer {
                    Ok(queue) => {
                        debug!(source = %self.name, queue = %queue.url, "{name} is {}", queue.url);
                        self.queues.found(&name, queue, now);
                    }
                    Err(failure) => {
                        let missing = failure.trouble == Trouble::Missing;
                        if self.queues.not_found(&name, missing, now) {
                            self.say_missing(&name);
                        } else if !missing && failure.trouble != Trouble::Lost {
                            self.ctx.health.problem(format!("{name}: {failure}"));
                        }
                    }
                }
            }
            Told::Measured { queue, answer } => {
                // It may not be allowed; what is of consequence shows elsewhere.
                let lag = self.queues.measured(&queue.path, answer.ok());
                self.ctx.health.lag(lag);
            }
            Told::Deleted { queue, serials, answer } => {
                let failure = answer.as_ref().err();
                self.heard(failure)?;
                self.outbox(&queue).deletes.returned();
                let mut trouble = failure.map(|failure| failure.trouble);
                for (at, serial) in serials.into_iter().enumerate() {
                    let failed = match &answer {
                        Ok(failures) => failures.get(&at),
                        Err(failure) => Some(failure),
                    };
                    match failed {
                        Some(failure) if !self.stopping && !is_final(failure) => {
                            trouble = Some(failure.trouble);
                            self.ctx.health.problem(format!("{}: {failure}", queue.name));
                            self.outbox(&queue).deletes.push(serial);
                        }
                        // Deleted; or it comes again, and is recognised.
                        _ => self.hold.forget(serial),
                    }
                }
                self.after(&queue, trouble.is_some(), now);
            }
            Told::Hidden { queue, hides, asked, answer } => {
                let failure = answer.as_ref().err();
                self.heard(failure)?;
                self.outbox(&queue).times.returned();
                let mut again = Vec::new();
                for (at, hide) in hides.into_iter().enumerate() {
                    let failed = match &answer {
                        Ok(failures) => failures.get(&at),
                        Err(failure) => Some(failure),
                    };
                    match failed {
                        Some(failure) if !self.stopping && !is_final(failure) => again.push(hide),
                        _ if hide.goes_back => self.hold.forget(hide.serial),
                        Some(_) => self.hold.lapsed(hide.serial, now),
                        None => self.hold.renewed(hide.serial, asked, hide.time),
                    }
                }
                let wait = self.after(&queue, !again.is_empty(), now);
                for hide in again {
                    if hide.goes_back {
                        self.outbox(&queue).times.push(hide);
                    } else {
                        self.hold.renew_at(hide.serial, now + wait);
                    }
                }
            }
        }
        Ok(())
    }

    /// What was told about a queue's messages came through, or some of it did not. Answers how long what is left waits.
    fn after(&mut self, queue: &Arc<Queue>, failed: bool, now: Instant) -> Duration {
        let reads = self.queues.reads(&queue.path);
        let outbox = self.outbox(queue);
        if failed {
            return outbox.failed(now);
        }
        outbox.answered();
        if outbox.is_empty() && !reads {
            self.outboxes.remove(&queue.path);
        }
        Duration::ZERO
    }

    /// Every answer says something about the connection, and about who we are.
    fn heard(&mut self, failure: Option<&Failure>) -> Result<(), SourceError> {
        match failure {
            Some(failure) if failure.trouble == Trouble::Lost => {
                if !std::mem::replace(&mut self.cut, true) {
                    warn!(source = %self.name, %failure, "source {} lost its connection", self.name);
                }
                self.ctx.health.disconnected(failure);
            }
            Some(failure) if failure.trouble == Trouble::Credentials => {
                // The runtime begins anew, with credentials that are read anew.
                let cause = failure.to_string().into();
                return Err(SourceError::Refused { upstream: self.settings.upstream(), cause });
            }
            _ => {
                if std::mem::take(&mut self.cut) {
                    let now = Instant::now();
                    self.queues.reopen(now);
                    self.outboxes.values_mut().for_each(|outbox| outbox.reopen(now));
                    info!(source = %self.name, "source {} is connected again", self.name);
                    self.ctx.health.connected();
                }
            }
        }
        Ok(())
    }

    fn say_missing(&self, name: &str) {
        self.ctx.health.problem(format!("there is no queue {name}; it is looked for again"));
        warn!(source = %self.name, queue = name, "there is no queue {name}; it is looked for again");
    }
}

/// Whether to tell it again would come to the same: the message is no longer ours, or its queue no longer there.
fn is_final(failure: &Failure) -> bool {
    matches!(failure.trouble, Trouble::Stale | Trouble::Missing)
}
