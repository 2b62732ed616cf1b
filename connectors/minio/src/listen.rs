//! The notification stream: asked for, it comes, and nobody keeps what we miss of it.
//!
//! So what comes is held within bounds and beyond them dropped and counted; and after each gap the bucket is listed, so that
//! objects created meanwhile are told after all.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use connectors_sdk::source::Cause;
use connectors_sdk::{
    Capabilities, Common, Following, Retries, Source, SourceContext, SourceError, SourceName, Topics, Wishes,
    describe,
};
use reqwest::Response;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use crate::client::{self, Client};
use crate::event;
use crate::held::{Came, Held};
use crate::identity::{Creation, Identity};
use crate::memory::{Made, Memory};
use crate::names;
use crate::repair::{Found, Look, Repair};
use crate::settings::Endpoint;
use crate::stream::{Line, Lines};

/// What it most likely means that a stream is accepted and nothing comes.
const SILENT: &str = "it takes the request for notifications and sends not even headers. Some builds of MinIO pass nothing on \
                      before some kilobytes have gathered, that of February 2026 among them: let such a store send to a \
                      webhook instead (listen and token)";

/// How long events take from happening to the stream, at most.
const LATE: u64 = 5_000;

/// Told to stop, the source reads on until nothing more came for so long,
const QUIET: Duration = Duration::from_millis(100);
/// and no longer than this: a store that never stops to send does not keep it.
const LEAVING: Duration = Duration::from_secs(1);

/// A source that asks for the stream.
pub(crate) struct ListenSource {
    name: SourceName,
    common: Common,
    endpoint: Endpoint,
}

impl ListenSource {
    pub(crate) fn new(name: SourceName, common: Common, endpoint: Endpoint) -> Self {
        ListenSource { name, common, endpoint }
    }
}

#[async_trait]
impl Source for ListenSource {
    fn capabilities(&self) -> Capabilities {
        Capabilities { decodes: true, ..Capabilities::NONE }
    }

    async fn run(self: Box<Self>, ctx: SourceContext) -> Result<(), SourceError> {
        let client = Client::new(&self.name, &self.endpoint, &ctx).await?;
        let mut following = self.common.follow(&ctx);
        let mut listening = Listening {
            repair: Repair::with(client.clone(), &self.endpoint, &self.name, &ctx),
            held: Held::new(&ctx, self.common.in_flight),
            memory: Memory::default(),
            finding: None,
            found_until: None,
            beginnings: false,
            look_again: Instant::now(),
            not_before: Instant::now(),
            looks: Retries::reconnecting(),
            source: &self,
            ctx: &ctx,
        };
        let mut retries = Retries::reconnecting();
        loop {
            let ended = listening.connection(&client, &mut following, &mut retries).await;
            let Err(error) = ended else { break };
            ctx.health.disconnected(describe(&error));
            warn!(source = %self.name, "{}", describe(&error));
            let wait = tokio::time::sleep(retries.failed());
            if !listening.meanwhile(wait).await {
                break;
            }
        }
        listening.held.finish(&listening.memory).await;
        Ok(())
    }
}

/// What outlives a connection.
struct Listening<'a> {
    source: &'a ListenSource,
    ctx: &'a SourceContext,
    held: Held,
    memory: Memory,
    repair: Repair,
    finding: Option<mpsc::Receiver<Found>>,
    /// A bucket was looked through up to this time, and what was found is not all durable yet.
    found_until: Option<(String, u64)>,
    /// There are buckets without a watermark.
    beginnings: bool,
    /// When to look for what was lost meanwhile.
    look_again: Instant,
    /// Looking failed: not again before.
    not_before: Instant,
    looks: Retries,
}

/// One answer to the request for the stream, as it goes on.
struct Stream {
    answer: Response,
    lines: Lines,
    /// What the store's clock said when it answered, and ours; a second more than it may have been.
    began: Option<(u64, Instant)>,
    last_byte: Instant,
    /// A sign of life came by itself. It comes in its turn: everything before it is here.
    alive: Option<Instant>,
    /// When the watermarks were moved.
    marked: Instant,
}

impl Listening<'_> {
    /// One connection, until it breaks or the source is told to stop.
    async fn connection(
        &mut self,
        client: &Client,
        following: &mut Following,
        retries: &mut Retries,
    ) -> Result<(), SourceError> {
        let Endpoint { bucket, events, ping, connect_timeout, .. } = &self.source.endpoint;
        let seconds = ping.as_secs().to_string();
        let mut query: Vec<(&str, &str)> = events.iter().map(|event| ("events", event.as_str())).collect();
        query.push(("ping", &seconds));
        let silence = *ping * 3;
        let patience = *connect_timeout + silence;
        let mut asking = std::pin::pin!(client.get(bucket.as_deref(), &query, patience, SILENT));
        let answer = loop {
            tokio::select! {
                biased;
                () = self.ctx.shutdown.cancelled() => return Ok(()),
                () = self.held.next(&self.memory), if !self.held.is_empty() => {}
                answer = &mut asking => break answer?,
            }
        };
        let mut stream = Stream {
            // Headers count in whole seconds.
            began: client::date(&answer).map(|date| (date + 1_000, Instant::now())),
            answer,
            lines: Lines::default(),
            last_byte: Instant::now(),
            alive: None,
            marked: Instant::now(),
        };
        self.ctx.health.subscribed(following.now().names());
        self.ctx.health.connected();
        retries.works();
        self.held.fill_hole();
        self.look(Look::Everywhere, following.now());
        loop {
            tokio::select! {
                biased;
                () = self.ctx.shutdown.cancelled() => {
                    self.rest(stream, following.now()).await;
                    return Ok(());
                }
                wishes = following.changed() => {
                    self.ctx.health.subscribed(wishes.names());
                    self.beginnings = true;
                }
                () = self.held.next(&self.memory), if !self.held.is_empty() => {}
                chunk = timeout_at(stream.last_byte + silence, stream.answer.chunk()) => {
                    let lost = |cause: Cause| SourceError::Lost { upstream: client.upstream(), cause: Some(cause) };
                    match chunk {
                        Ok(Ok(Some(chunk))) => self.chunk(&mut stream, following.now(), &chunk),
                        Ok(Ok(None)) => return Err(lost("the store ended the stream".into())),
                        Ok(Err(error)) => return Err(lost(error.without_url().into())),
                        Err(_) => return Err(lost("no sign of life came in time".into())),
                    }
                }
                found = next_of(&mut self.finding), if self.found_until.is_none() && self.held.has_room() => {
                    self.found(following.now(), found);
                }
            }
            self.found_all().await;
            self.look_once_more(following.now());
            self.mark(&mut stream).await;
        }
    }

    /// Waits, while what came before is taken. `false` when told to stop.
    async fn meanwhile(&mut self, wait: tokio::time::Sleep) -> bool {
        // What was being looked for is looked for again.
        (self.finding, self.found_until) = (None, None);
        let mut wait = std::pin::pin!(wait);
        loop {
            tokio::select! {
                biased;
                () = self.ctx.shutdown.cancelled() => return false,
                () = self.held.next(&self.memory), if !self.held.is_empty() => {}
                () = &mut wait => return true,
            }
        }
    }

    /// Reads what the store has written already: it is in the connection and nowhere else.
    async fn rest(&mut self, mut stream: Stream, wishes: &Wishes) {
        let leaving = Instant::now() + LEAVING;
        let mut quiet = Instant::now() + QUIET;
        loop {
            tokio::select! {
                biased;
                () = self.held.next(&self.memory), if !self.held.is_empty() => {}
                chunk = timeout_at(quiet.min(leaving), stream.answer.chunk()) => {
                    let Ok(Ok(Some(chunk))) = chunk else { return };
                    self.chunk(&mut stream, wishes, &chunk);
                    quiet = Instant::now() + QUIET;
                }
            }
        }
    }

    fn chunk(&mut self, stream: &mut Stream, wishes: &Wishes, chunk: &[u8]) {
        stream.last_byte = Instant::now();
        stream.lines.feed(chunk);
        let mut records = 0;
        while let Some(line) = stream.lines.next() {
            records += self.line(wishes, line);
        }
        if records == 0 && stream.lines.is_empty() {
            stream.alive = Some(stream.last_byte);
        }
    }

    /// How many records it tells.
    fn line(&mut self, wishes: &Wishes, line: Line) -> usize {
        let source = self.source;
        let form = &source.common.form;
        let mut unreadable = |raw: Bytes, why: String| {
            let came = Came { found: false, in_doubt: false, made: None };
            self.held.take(Err(event::unreadable(form, raw, why)), came);
            1
        };
        let text = match line {
            Line::Text(text) => text,
            Line::TooLong(begun) => return unreadable(begun, "the line is too long".to_owned()),
        };
        let told = match event::streamed(&text) {
            Ok(told) => told,
            Err(why) => return unreadable(text, why),
        };
        for told in &told {
            let event = event::event_from(form, told, &self.identity(&told.record));
            let Some(in_doubt) = self.in_doubt(wishes, &told.topic()) else {
                if let Ok(event) = &event {
                    self.ctx.health.unwanted(&event.topic);
                }
                continue;
            };
            self.beginnings |= !in_doubt && !self.repair.follows(&told.record.bucket);
            self.held.take(event, Came { found: false, in_doubt, made: Made::of(&told.record) });
        }
        told.len()
    }

    /// What identifies an event: where objects are looked for, it must be what identifies the object when it is found.
    fn identity(&self, record: &connectors_sdk::S3Record) -> Identity {
        if self.source.endpoint.repair.enabled {
            self.memory.identity(record)
        } else {
            record.identity().to_vec()
        }
    }

    /// Whether it is for the broker to say if anybody wants it; `None` when nobody does.
    ///
    /// What functions ask for is not all known when the broker has just started. It refuses what it does not know to be
    /// unwanted until it has a complete list, and by its first answer we know that it has.
    fn in_doubt(&self, wishes: &Wishes, topic: &str) -> Option<bool> {
        let wanted = names::wanted(wishes, topic);
        let asked = self.source.common.topics == Topics::FromFunctions && !self.held.is_settled();
        (wanted || asked).then_some(!wanted)
    }

    /// Looks again once everything is quiet after a loss, and for the beginnings of new buckets.
    fn look_once_more(&mut self, wishes: &Wishes) {
        let now = Instant::now();
        if self.finding.is_some() || now < self.not_before {
            return;
        }
        if self.held.has_hole() && self.held.is_empty() && now >= self.look_again {
            self.held.fill_hole();
            self.look(Look::Everywhere, wishes);
        } else if std::mem::take(&mut self.beginnings) {
            self.look(Look::Beginnings, wishes);
        }
    }

    /// Begins to look for objects that were not told.
    fn look(&mut self, look: Look, wishes: &Wishes) {
        let settings = self.source.endpoint.repair;
        if settings.enabled {
            self.finding = Some(self.repair.find(look, wishes, None));
            if look == Look::Everywhere {
                self.look_again = Instant::now() + settings.every;
            }
        }
    }

    fn found(&mut self, wishes: &Wishes, found: Option<Found>) {
        match found {
            None => self.finding = None,
            Some(Found::Object { bucket, object }) => {
                let told = event::reconciled(&bucket, &object);
                if self.memory.knows(&bucket, &object) {
                    return;
                }
                if let Some(in_doubt) = self.in_doubt(wishes, &told.topic()) {
                    let creation = Creation::found(&bucket, &object);
                    let event = event::reconciled_event(&self.source.common.form, &told, &creation);
                    self.held.take(event, Came { found: true, in_doubt, made: Made::of(&told.record) });
                }
            }
            Some(Found::Until { bucket, until }) => {
                self.looks.answered();
                self.found_until = Some((bucket, until));
            }
            Some(Found::Failed(why)) => {
                self.held.note_hole();
                let every = self.source.endpoint.repair.every;
                self.not_before = Instant::now() + self.looks.failed().min(every);
                self.look_again = self.not_before;
                warn!(source = %self.source.name, %why, "what was not notified of cannot be looked for");
                self.ctx.health.problem(format!("repair: {why}"));
            }
        }
    }

    /// Moves a bucket's watermark once all that was found in it is durable.
    async fn found_all(&mut self) {
        if self.held.has_found_settled()
            && let Some((bucket, until)) = self.found_until.take()
            && !(self.held.has_hole() && self.repair.follows(&bucket))
        {
            self.repair.done(&bucket, until).await;
        }
    }

    /// Moves the watermarks to where the store was when it gave a sign of life, when all that came is durable.
    async fn mark(&mut self, stream: &mut Stream) {
        let Some((date, began)) = stream.began else { return };
        if !self.held.is_empty() || self.held.has_hole() || self.finding.is_some() {
            return;
        }
        let every = self.source.endpoint.ping;
        let Some(alive) = stream.alive.take_if(|alive| *alive >= stream.marked + every) else { return };
        stream.marked = alive;
        let passed = u64::try_from((alive - began).as_millis()).unwrap_or(0);
        // What happened a moment before may still be on its way.
        let until = (date + passed).saturating_sub(LATE);
        for bucket in self.repair.buckets() {
            self.repair.done(&bucket, until).await;
        }
        self.memory.forget_before(self.repair.earliest());
    }
}

async fn next_of(finding: &mut Option<mpsc::Receiver<Found>>) -> Option<Found> {
    match finding {
        Some(finding) => finding.recv().await,
        None => std::future::pending().await,
    }
}
