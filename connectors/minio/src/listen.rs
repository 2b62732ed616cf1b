//! The notification stream: asked for, it comes, and nobody keeps what we miss of it.
//!
//! So what comes is held within bounds and beyond them dropped and counted; and after each gap the bucket is listed, so that
//! objects created meanwhile are told after all.

use std::collections::VecDeque;
use std::time::Duration;

use async_trait::async_trait;
use connectors_sdk::{
    AckWindow, Capabilities, Common, Event, Quarantined, Resolved, Retries, Source, SourceContext,
    SourceError, SourceName, Wishes, describe,
};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::warn;

use crate::client::{self, Client};
use crate::event;
use crate::names;
use crate::repair::{Found, Memory, Repair};
use crate::settings::Endpoint;
use crate::stream::{LONGEST, Line, Lines};

/// What it most likely means that a stream is accepted and nothing comes.
const SILENT: &str = "it takes the request for notifications and sends not even headers. Some builds of MinIO do so, that of \
                      February 2026 among them: let such a store send to a webhook instead (listen and token)";

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
            window: AckWindow::unordered(&ctx, self.common.in_flight).holding(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            memory: Memory::default(),
            finding: None,
            hole: false,
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
        listening.finish().await;
        Ok(())
    }
}

/// What outlives a connection.
struct Listening<'a> {
    source: &'a ListenSource,
    ctx: &'a SourceContext,
    window: AckWindow<()>,
    /// What came, and has no room in the window yet.
    waiting: VecDeque<Result<Event, Box<Quarantined>>>,
    waiting_bytes: usize,
    memory: Memory,
    repair: Repair,
    finding: Option<mpsc::Receiver<Found>>,
    /// Something was dropped or not found: the watermark stays until another look.
    hole: bool,
}

impl Listening<'_> {
    /// One connection, until it breaks or the source is told to stop.
    async fn connection(
        &mut self,
        client: &Client,
        following: &mut connectors_sdk::Following,
        retries: &mut Retries,
    ) -> Result<(), SourceError> {
        let Endpoint { bucket, events, ping, connect_timeout, repair, .. } = &self.source.endpoint;
        let seconds = ping.as_secs().to_string();
        let mut query: Vec<(&str, &str)> = events.iter().map(|event| ("events", event.as_str())).collect();
        query.push(("ping", &seconds));
        let silence = *ping * 3;
        let asking = client.get(bucket.as_deref(), &query, *connect_timeout + silence, SILENT);
        let mut stream = tokio::select! {
            biased;
            () = self.ctx.shutdown.cancelled() => return Ok(()),
            stream = asking => stream?,
        };
        // Headers count in whole seconds: a second more, so that nothing lies between listing and stream.
        let began = client::date(&stream).map(|date| (date + 1_000, Instant::now()));
        self.ctx.health.subscribed(following.now().names());
        self.ctx.health.connected();
        retries.works();
        self.hole = false;
        if repair.enabled {
            self.finding = Some(self.repair.find(following.now(), Duration::ZERO));
        }
        let mut lines = Lines::default();
        let mut marked = Instant::now();
        let mut last_byte = Instant::now();
        loop {
            self.fill();
            tokio::select! {
                biased;
                () = self.ctx.shutdown.cancelled() => return Ok(()),
                wishes = following.changed() => self.ctx.health.subscribed(wishes.names()),
                Some(resolved) = self.window.next(), if self.window.in_flight() > 0 => self.resolved(&resolved),
                chunk = tokio::time::timeout_at(last_byte + silence, stream.chunk()) => {
                    let lost = |cause: Option<connectors_sdk::source::Cause>| SourceError::Lost {
                        upstream: client.upstream(),
                        cause,
                    };
                    let chunk = match chunk {
                        Ok(Ok(Some(chunk))) => chunk,
                        Ok(Ok(None)) => return Err(lost(Some("the store ended the stream".into()))),
                        Ok(Err(error)) => return Err(lost(Some(error.without_url().into()))),
                        Err(_) => return Err(lost(Some("no sign of life came in time".into()))),
                    };
                    last_byte = Instant::now();
                    lines.feed(&chunk);
                    while let Some(line) = lines.next() {
                        self.line(following.now(), line);
                    }
                }
                found = next_of(&mut self.finding), if self.window.has_room(LONGEST) => {
                    self.found(following.now(), found).await;
                }
            }
            let quiet = self.window.in_flight() == 0 && self.waiting.is_empty() && self.finding.is_none();
            if repair.enabled && self.hole && quiet && marked.elapsed() >= repair.every {
                (self.hole, marked) = (false, Instant::now());
                self.finding = Some(self.repair.find(following.now(), Duration::ZERO));
            } else if let (true, false, Some((date, at))) =
                (quiet && marked.elapsed() >= *ping, self.hole, began)
            {
                // All that came is durable, and what happened a moment ago may still be on its way.
                marked = Instant::now();
                let passed = u64::try_from(at.elapsed().as_millis()).unwrap_or(0);
                let until = (date + passed).saturating_sub(5_000);
                for bucket in self.repair.buckets() {
                    self.repair.done(&bucket, until).await;
                }
                self.memory.forget_before(self.repair.earliest());
            }
        }
    }

    /// Waits, while what came before is taken. `false` when told to stop.
    async fn meanwhile(&mut self, wait: tokio::time::Sleep) -> bool {
        // What was being looked for is looked for again.
        self.finding = None;
        let mut wait = std::pin::pin!(wait);
        loop {
            self.fill();
            tokio::select! {
                biased;
                () = self.ctx.shutdown.cancelled() => return false,
                Some(resolved) = self.window.next(), if self.window.in_flight() > 0 => self.resolved(&resolved),
                () = &mut wait => return true,
            }
        }
    }

    fn line(&mut self, wishes: &Wishes, line: Line) {
        let form = &self.source.common.form;
        let text = match line {
            Line::Text(text) => text,
            Line::TooLong(begun) => {
                return self.take(Err(event::unreadable(form, begun, "the line is too long".to_owned())));
            }
        };
        let told = match event::records(&text) {
            Ok(told) => told,
            Err(why) => return self.take(Err(event::unreadable(form, text, why))),
        };
        for told in told {
            let event = event::event_from(form, &told);
            if !names::wanted(wishes, &told.topic()) {
                if let Ok(event) = &event {
                    self.ctx.health.unwanted(&event.topic);
                }
            } else if self.take_or_drop(event) {
                self.memory.remember(&told.record);
            }
        }
    }

    fn take(&mut self, event: Result<Event, Box<Quarantined>>) {
        self.take_or_drop(event);
    }

    /// Whether there was room.
    fn take_or_drop(&mut self, event: Result<Event, Box<Quarantined>>) -> bool {
        let limits = self.source.common.in_flight;
        let weight = weight(&event);
        self.fill();
        let fits = self.waiting.len() < limits.messages.get()
            && self.waiting_bytes + weight <= usize::try_from(limits.bytes.bytes()).unwrap_or(usize::MAX);
        if fits || self.waiting.is_empty() {
            self.waiting_bytes += weight;
            self.waiting.push_back(event);
            self.fill();
            return true;
        }
        self.ctx.health.received(1);
        self.ctx.health.dropped(1);
        self.hole = true;
        false
    }

    /// Moves what waits into the window, as far as there is room.
    fn fill(&mut self) {
        while let Some(event) = self.waiting.front() {
            let weight = weight(event);
            if !self.window.has_room(weight) {
                return;
            }
            self.waiting_bytes -= weight;
            match self.waiting.pop_front() {
                Some(Ok(event)) => self.window.publish(event, ()),
                Some(Err(unreadable)) => self.window.quarantine(*unreadable, ()),
                None => return,
            }
        }
    }

    fn resolved(&mut self, resolved: &Resolved<()>) {
        match resolved {
            Resolved::Taken { .. } => {}
            Resolved::GiveBack { refusal, .. } | Resolved::Never { refusal, .. } => {
                self.hole = true;
                self.ctx.health.dropped(1);
                self.ctx.health.problem(format!("an event is lost: {refusal}"));
            }
        }
    }

    async fn found(&mut self, wishes: &Wishes, found: Option<Found>) {
        match found {
            None => self.finding = None,
            Some(Found::Object { bucket, object }) => {
                let told = event::reconciled(&bucket, &object);
                if !self.memory.knows(&bucket, &object) && names::wanted(wishes, &told.topic()) {
                    match event::reconciled_event(&self.source.common.form, &told, object.modified) {
                        Ok(event) => self.window.publish(event, ()),
                        Err(unreadable) => self.window.quarantine(*unreadable, ()),
                    }
                }
            }
            Some(Found::Until { bucket, until }) => {
                // Only once all before it is durable.
                while self.window.in_flight() > 0 && !self.ctx.shutdown.is_cancelled() {
                    tokio::select! {
                        biased;
                        () = self.ctx.shutdown.cancelled() => return,
                        Some(resolved) = self.window.next() => self.resolved(&resolved),
                    }
                }
                if !self.hole {
                    self.repair.done(&bucket, until).await;
                }
            }
            Some(Found::Failed(why)) => {
                self.hole = true;
                warn!(source = %self.source.name, %why, "what was not notified of cannot be looked for");
                self.ctx.health.problem(format!("repair: {why}"));
            }
        }
    }

    /// Finishes what was begun.
    async fn finish(&mut self) {
        loop {
            self.fill();
            if self.waiting.is_empty() {
                self.window.close();
            }
            match self.window.next().await {
                Some(resolved) => self.resolved(&resolved),
                None if self.waiting.is_empty() => return,
                None => {}
            }
        }
    }
}

async fn next_of(finding: &mut Option<mpsc::Receiver<Found>>) -> Option<Found> {
    match finding {
        Some(finding) => finding.recv().await,
        None => std::future::pending().await,
    }
}

fn weight(event: &Result<Event, Box<Quarantined>>) -> usize {
    match event {
        Ok(event) => event.body.len() + event.headers.bytes() + event.topic.as_str().len(),
        Err(unreadable) => unreadable.raw.len() + unreadable.headers.bytes(),
    }
}
