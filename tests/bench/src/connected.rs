//! A broker at rest with a source of every kind, all connected, and nothing to do.

use std::collections::BTreeSet;

use anyhow::Result;
use upstreams::{JetStream, Kafka, Mqtt, Nats, Rabbitmq, Sqs, Upstream};

use crate::Bench;
use crate::evoke::{Evoke, Settings};
use crate::meter::{Cast, Cpu, Part};
use crate::processes;
use crate::report::{Figure, Target, Unit};
use crate::sender::Sender;
use crate::source::{Kind, servers};

/// What all upstreams together are to the broker.
#[derive(Default)]
struct Upstreams {
    sources: Vec<(&'static str, String)>,
    topics: BTreeSet<String>,
    servers: Vec<(Part, u32)>,
}

impl Upstreams {
    /// Adds one.
    async fn with<U: Upstream>(&mut self, name: &'static str, upstream: U) -> U {
        self.sources.push((name, upstream.source()));
        self.topics.insert(upstream.topic().await);
        self.servers.extend(servers(&upstream));
        upstream
    }
}

/// The samples.
#[derive(Debug, Default)]
pub(crate) struct Connected {
    sources: usize,
    megabytes: Vec<f64>,
    percent: Vec<f64>,
    cpu: Vec<Cpu>,
}

impl Connected {
    /// Memory and processor time, a while after all sources are connected.
    pub(crate) async fn sample(&mut self, bench: &Bench) -> Result<()> {
        let Some(binary) = &bench.evoke else { return Ok(()) };
        let mut all = Upstreams::default();
        let kafka = all.with("kafka", Kafka::start().await).await;
        let nats = all.with("nats", Nats::start().await).await;
        let jetstream = all.with("jetstream", JetStream::start().await).await;
        let rabbitmq = all.with("rabbitmq", Rabbitmq::start().await).await;
        let mqtt = all.with("mqtt", Mqtt::start().await).await;
        let sqs = all.with("sqs", Sqs::start().await).await;
        for (kind, sender) in [(Kind::Minio, Sender::MINIO), (Kind::Webhook, Sender::WEBHOOK)] {
            if kind.is_in(binary, &bench.dir)? {
                all.sources.push((kind.name(), sender.source()?.1));
                all.topics.insert(sender.topic().to_owned());
            }
        }
        all.sources.push(("clock", "{ cron: {} }".to_owned()));
        let Upstreams { sources, topics, servers } = all;
        bench.functions.wants(&topics.into_iter().collect::<Vec<_>>().join(",")).await?;
        let names: Vec<&str> = sources.iter().map(|(name, _)| *name).collect();
        if let Some(evoke) = Evoke::start(bench, Settings { sources, ..Settings::default() }).await? {
            for name in &names {
                evoke.connected(name).await?;
            }
            let mut parts = vec![(Part::Server, evoke.process), (Part::Function, bench.functions.process)];
            parts.extend(servers);
            let cast = Cast::with(&parts);
            // What connecting takes is not what being connected takes.
            tokio::time::sleep(bench.plan.idle / 6).await;
            let watch = cast.watch()?;
            tokio::time::sleep(bench.plan.idle).await;
            let (_, cpu) = watch.so_far()?;
            let megabytes = processes::memory(evoke.process)?.resident as f64 / 1e6;
            let percent = cpu.server * 100.0;
            eprintln!("  {} sources, idle: {megabytes:.1} MB, {percent:.2} % of a core", names.len());
            self.sources = names.len();
            self.megabytes.push(megabytes);
            self.percent.push(percent);
            self.cpu.push(cpu);
            evoke.stop().await?;
        }
        // All of them served until here.
        drop((kafka, nats, jetstream, rabbitmq, mqtt, sqs));
        Ok(())
    }

    pub(crate) fn figures(self) -> Vec<Figure> {
        let figure = |what: &str, unit, most, evoke| Figure {
            what: format!("{what}, {} sources connected and idle", self.sources),
            unit,
            target: Some(Target::AtMost(most)),
            evoke,
            cpu: self.cpu.clone(),
            limit: Vec::new(),
            limit_is: "",
            limit_cpu: Vec::new(),
            details: Vec::new(),
            source: None,
        };
        vec![
            figure("resident memory", Unit::Megabytes, 60.0, self.megabytes.clone()),
            figure("processor time", Unit::Percent, 1.0, self.percent.clone()),
        ]
    }
}
