//! Messages a second from an upstream into durable invocations.
//!
//! What an upstream keeps is there before the sample begins; what it does not keep is published meanwhile, as fast as it
//! is taken. As in [`crate::accept`], the function's lane is paused: what is measured is taking, not delivering.

use std::path::Path;

use anyhow::{Result, ensure};
use bytes::Bytes;
use upstreams::Upstream;

use crate::Bench;
use crate::bare::Bare;
use crate::disk;
use crate::evoke::{self, Evoke, Settings};
use crate::meter::{Cast, Cpu, Part, Sample, follow};
use crate::plan::BODY;
use crate::processes;
use crate::report::{Detail, Figure, SourceRow, Target, Unit};
use crate::sender::Sender;
use crate::stats::one_after_the_other;

/// The name of the source in the configuration.
pub(crate) const NAME: &str = "events";

/// How many messages are published at once.
const AT_ONCE: u64 = 5_000;

/// How many messages may be on their way where nobody keeps them: fewer than any queue on the way has room for.
pub(crate) const BURST: u64 = 4_000;

/// Records in one batch of the raw disk.
const BATCH: usize = 256;

/// What is measured as a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Kafka,
    Nats,
    JetStream,
    RabbitMq,
    Mqtt,
    Sqs,
    Minio,
    Webhook,
    Cron,
}

impl Kind {
    /// All of them, as the table has them.
    pub(crate) const ALL: [Kind; 9] = [
        Kind::Kafka,
        Kind::Nats,
        Kind::JetStream,
        Kind::RabbitMq,
        Kind::Mqtt,
        Kind::Sqs,
        Kind::Minio,
        Kind::Webhook,
        Kind::Cron,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Kafka => "kafka",
            Kind::Nats => "nats",
            Kind::JetStream => "jetstream",
            Kind::RabbitMq => "rabbitmq",
            Kind::Mqtt => "mqtt",
            Kind::Sqs => "sqs",
            Kind::Minio => "minio",
            Kind::Webhook => "webhook",
            Kind::Cron => "cron",
        }
    }

    /// Whether a binary has it.
    pub(crate) fn is_in(self, binary: &Path, dir: &Path) -> Result<bool> {
        let kind = if self == Kind::JetStream { "nats" } else { self.name() };
        evoke::has(binary, kind, dir)
    }

    /// Which part of the plan's messages is taken in a few seconds.
    fn share(self) -> u64 {
        match self {
            Kind::Kafka | Kind::Nats => 1,
            Kind::JetStream => 3,
            Kind::RabbitMq | Kind::Mqtt | Kind::Minio | Kind::Webhook => 6,
            Kind::Sqs | Kind::Cron => 24,
        }
    }
}

/// The samples of one kind of source.
#[derive(Debug)]
pub(crate) struct Source {
    kind: Kind,
    how: &'static str,
    limit: Option<&'static str>,
    bare: Vec<Sample>,
    disk: Vec<Sample>,
    evoke: Vec<Sample>,
    cpu_per_message: Vec<f64>,
    per_commit: Vec<f64>,
    peak_megabytes: Vec<f64>,
}

impl Source {
    pub(crate) fn of(kind: Kind) -> Source {
        Source {
            kind,
            how: "",
            limit: None,
            bare: Vec::new(),
            disk: Vec::new(),
            evoke: Vec::new(),
            cpu_per_message: Vec::new(),
            per_commit: Vec::new(),
            peak_megabytes: Vec::new(),
        }
    }

    /// One sample of the source and, where it has one, of its limit.
    pub(crate) async fn sample(&mut self, bench: &Bench) -> Result<()> {
        if let Some(binary) = &bench.evoke
            && !self.kind.is_in(binary, &bench.dir)?
        {
            eprintln!("  {}: not built into this binary", self.kind.name());
            return Ok(());
        }
        eprint!("  {}", self.kind.name());
        let all = bench.plan.messages / self.kind.share();
        match self.kind {
            Kind::Kafka => self.beside_its_client::<upstreams::Kafka>(bench, all).await,
            Kind::Nats => self.beside_its_client::<upstreams::Nats>(bench, all).await,
            Kind::JetStream => self.beside_its_client::<upstreams::JetStream>(bench, all).await,
            Kind::RabbitMq => self.alone::<upstreams::Rabbitmq>(bench, all).await,
            Kind::Mqtt => self.alone::<upstreams::Mqtt>(bench, all).await,
            Kind::Sqs => self.alone::<upstreams::Sqs>(bench, all).await,
            Kind::Minio => self.sent_to(bench, all, Sender::MINIO).await,
            Kind::Webhook => self.sent_to(bench, all, Sender::WEBHOOK).await,
            Kind::Cron => self.sample_schedules(bench, all).await,
        }
    }

    /// One sample of the bare client, of the disk in batches, and of the source.
    async fn beside_its_client<U: Bare>(&mut self, bench: &Bench, all: u64) -> Result<()> {
        self.sample_of::<U>(bench, all, async |source, upstream| {
            let bare = upstream.read(all, &body()).await?;
            let cast = Cast::with(&servers(upstream));
            let disk = disk::batches(&bench.dir, BATCH, &bench.plan.rate, &cast).await?;
            eprint!(", S {:.0}/s, R {:.0}/s", bare.rate, disk.rate);
            source.limit = Some(U::CLIENT);
            source.bare.push(bare);
            source.disk.push(disk);
            Ok(())
        })
        .await
    }

    /// One sample of the source alone.
    async fn alone<U: Upstream>(&mut self, bench: &Bench, all: u64) -> Result<()> {
        self.sample_of::<U>(bench, all, async |_, _| Ok(())).await
    }

    async fn sample_of<U: Upstream>(
        &mut self,
        bench: &Bench,
        all: u64,
        beside: impl AsyncFnOnce(&mut Source, &U) -> Result<()>,
    ) -> Result<()> {
        let upstream = U::start().await;
        if !U::REPLAYS {
            // Before a source listens, which would hear it too.
            beside(self, &upstream).await?;
            let evoke = listening(bench, &upstream).await?;
            let mut feed = Feed::new(&upstream, all, BURST);
            self.take(bench, evoke, all, &upstream, async |seen| feed.more(seen, &body()).await).await?;
        } else {
            // What the upstream keeps for the source (a group, a session, a consumer) is made before there is a message.
            let evoke = listening(bench, &upstream).await?;
            if let Some(evoke) = &evoke {
                evoke.hold(NAME).await?;
            }
            Feed::new(&upstream, all, u64::MAX).more(0, &body()).await;
            // What an upstream has still to write to the disk would be charged to whoever comes next.
            tokio::task::spawn_blocking(rustix::fs::sync).await?;
            beside(self, &upstream).await?;
            if let Some(evoke) = &evoke {
                evoke.let_go(NAME).await?;
            }
            self.take(bench, evoke, all, &upstream, async |_| {}).await?;
        }
        Ok(())
    }

    /// Follows what a running broker takes of `all` messages, and ends it.
    async fn take<U: Upstream>(
        &mut self,
        bench: &Bench,
        evoke: Option<Evoke>,
        all: u64,
        upstream: &U,
        feed: impl AsyncFnMut(u64),
    ) -> Result<()> {
        let Some(evoke) = evoke else {
            eprintln!();
            return Ok(());
        };
        let mut parts = servers(upstream);
        parts.extend([(Part::Server, evoke.process), (Part::Function, bench.functions.process)]);
        let before = evoke.ledger().await?;
        let sample = match follow(all, &Cast::with(&parts), async || evoke.taken(NAME).await, feed).await {
            Ok(sample) => sample,
            // What the broker knows of the others is the only trace of them.
            Err(error) => return Err(error.context(evoke.source(NAME).await?)),
        };
        let after = evoke.ledger().await?;
        ensure!(
            after.accepted == all && after.held == all && after.drift == 0,
            "{all} messages were published and taken, but {after:?}"
        );
        eprintln!(", Evoke {:.0}/s", sample.rate);
        let how = if U::REPLAYS { "kept upstream" } else { "published meanwhile" };
        self.taken(how, sample, sample.cpu.server / sample.rate * 1e6, evoke, all, before.commits).await
    }

    /// Notes what a running broker took, and ends it.
    pub(crate) async fn taken(
        &mut self,
        how: &'static str,
        sample: Sample,
        cpu_per_message: f64,
        evoke: Evoke,
        messages: u64,
        commits_before: u64,
    ) -> Result<()> {
        let commits = evoke.ledger().await?.commits - commits_before;
        self.how = how;
        self.evoke.push(sample);
        self.cpu_per_message.push(cpu_per_message);
        self.per_commit.push(messages as f64 / commits.max(1) as f64);
        self.peak_megabytes.push(processes::memory(evoke.process)?.peak as f64 / 1e6);
        evoke.stop().await
    }

    pub(crate) fn figure(self) -> Figure {
        let rates = |samples: &[Sample]| samples.iter().map(|sample| sample.rate).collect::<Vec<_>>();
        let cpu = |samples: &[Sample]| samples.iter().map(|sample| sample.cpu).collect::<Vec<Cpu>>();
        let both = self.bare.iter().zip(&self.disk);
        Figure {
            what: format!("{} into durable invocations", self.kind.name()),
            unit: Unit::PerSecond,
            target: self.limit.map(|_| Target::RatioAtLeast(0.4)),
            evoke: rates(&self.evoke),
            cpu: cpu(&self.evoke),
            limit: both.map(|(bare, disk)| one_after_the_other(&[bare.rate, disk.rate])).collect(),
            limit_is: if self.limit.is_some() { "1 / (1/S + 1/R)" } else { "" },
            limit_cpu: Vec::new(),
            details: vec![
                Detail::new(self.limit.unwrap_or_default(), Unit::PerSecond, rates(&self.bare))
                    .with_cpu(cpu(&self.bare)),
                Detail::new("R, append and fdatasync in batches of 256", Unit::PerSecond, rates(&self.disk))
                    .with_cpu(cpu(&self.disk)),
                Detail::new("Evoke: taken per fdatasync", Unit::Plain, self.per_commit),
            ],
            source: Some(SourceRow {
                kind: self.kind.name(),
                how: self.how,
                cpu_per_message: self.cpu_per_message,
                peak_megabytes: self.peak_megabytes,
            }),
        }
    }
}

/// A broker whose one source listens to this upstream, and whose function is held.
async fn listening(bench: &Bench, upstream: &impl Upstream) -> Result<Option<Evoke>> {
    bench.functions.wants(&upstream.topic().await).await?;
    let settings = Settings { sources: vec![(NAME, upstream.source())], ..Settings::default() };
    let Some(evoke) = Evoke::start(bench, settings).await? else { return Ok(None) };
    evoke.pause().await?;
    evoke.connected(NAME).await?;
    upstream.listened().await;
    Ok(Some(evoke))
}

/// The processes of an upstream.
pub(crate) fn servers(upstream: &impl Upstream) -> Vec<(Part, u32)> {
    upstream.processes().into_iter().map(|leader| (Part::Upstream, leader)).collect()
}

/// The body of every message.
fn body() -> Bytes {
    Bytes::from_static(&[b'x'; BODY])
}

/// Publishes a number of messages, not more ahead of those who take them than they can hold.
pub(crate) struct Feed<'a, U> {
    upstream: &'a U,
    all: u64,
    ahead: u64,
    published: u64,
}

impl<'a, U: Upstream> Feed<'a, U> {
    pub(crate) fn new(upstream: &'a U, all: u64, ahead: u64) -> Self {
        Feed { upstream, all, ahead, published: 0 }
    }

    /// Publishes what may be, now that so many were taken.
    pub(crate) async fn more(&mut self, taken: u64, body: &Bytes) {
        let until = taken.saturating_add(self.ahead).min(self.all);
        while self.published < until {
            let now = AT_ONCE.min(until - self.published);
            let bodies = (0..now).map(|_| body.clone()).collect();
            self.upstream.publish(bodies).await;
            self.published += now;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Notes how many were published at once.
    #[derive(Default)]
    struct Noting(Mutex<Vec<usize>>);

    impl Upstream for Noting {
        const REPLAYS: bool = false;

        async fn start() -> Self {
            Noting::default()
        }

        fn source(&self) -> String {
            String::new()
        }

        async fn topic(&self) -> String {
            String::new()
        }

        async fn publish(&self, bodies: Vec<Bytes>) {
            self.0.lock().unwrap().push(bodies.len());
        }

        async fn listened(&self) {}

        fn processes(&self) -> Vec<u32> {
            Vec::new()
        }
    }

    #[tokio::test]
    async fn no_more_is_published_than_those_who_take_it_can_hold() {
        let upstream = Noting::start().await;
        let mut feed = Feed::new(&upstream, 21_000, 8_000);

        for taken in [0, 0, 1_000, 20_000, 21_000] {
            feed.more(taken, &body()).await;
        }

        assert_eq!(*upstream.0.lock().unwrap(), [5_000, 3_000, 1_000, 5_000, 5_000, 2_000]);
    }

    #[test]
    fn a_source_without_a_bare_client_beside_it_has_no_target() {
        let mut source = Source::of(Kind::RabbitMq);
        source.evoke.push(Sample { rate: 10.0, cpu: Cpu::default() });

        let figure = source.figure();

        assert!(figure.is_measured() && figure.target.is_none() && figure.limit_is.is_empty());
    }
}
