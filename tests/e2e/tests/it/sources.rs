//! Sources in the whole product, each against its real server: what only the process as a whole can show.
//!
//! Each kind implements [`Upstream`] in a file of its own in the crate `upstreams` (the bench drives them as well) and is
//! named in [`cases!`]. What its protocol cannot do it says in [`Upstream::REPLAYS`]; then a case asks for the losses to be
//! bounded instead of none.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use broker_demo_gateway::{DemoGateway, Function};
use rustix::process::Signal;
use testkit::contract::source::scale;
use testkit::time::eventually;
use upstreams::Upstream;

use crate::broker::{Broker, SOON, Setup};

/// One upstream, a gateway with a function that wants its topic, and a broker between them.
struct World<U> {
    upstream: U,
    gateway: DemoGateway,
    broker: Broker,
}

impl<U: Upstream> World<U> {
    async fn start() -> World<U> {
        let upstream = U::start().await;
        let function = Function::sink("orders").annotation("topic", &upstream.topic().await);
        let gateway = DemoGateway::builder().function(function).calls_kept(1_000_000).start().await.unwrap();
        let config = format!("sources: {{ events: {} }}", upstream.source());
        let broker = Setup::beside(&gateway).config(&config).start().await;
        let world = World { upstream, gateway, broker };
        world.connected().await;
        world
    }

    /// Publishes messages whose bodies are these numbers, and returns when the upstream has them.
    async fn publish(&self, numbers: Range<u64>) {
        self.upstream.publish(numbers.map(|number| number.to_string().into()).collect()).await;
    }

    async fn connected(&self) {
        eventually(SOON, "the source to be connected", async || {
            let source = self.broker.get("/v1/sources/events").await;
            if source["state"] == "connected" { Ok(()) } else { Err(source.to_string()) }
        })
        .await;
        self.upstream.listened().await;
    }

    /// The numbers that reached the function, and how many calls there were.
    fn reached(&self) -> (BTreeSet<u64>, usize) {
        let calls = self.gateway.calls("orders");
        (calls.iter().map(|call| U::published(&call.text()).parse().unwrap()).collect(), calls.len())
    }

    async fn all_reached(&self, numbers: Range<u64>) {
        let patience = SOON * 4;
        eventually(patience, "every message to reach the function", async || {
            let (reached, _) = self.reached();
            let missing: Vec<u64> = numbers.clone().filter(|n| !reached.contains(n)).take(5).collect();
            if missing.is_empty() { Ok(()) } else { Err(format!("missing {missing:?} and maybe more")) }
        })
        .await;
    }
}

/// Killed at any moment under load, the broker loses nothing it was given; what comes twice was in flight.
async fn killed_under_load_it_loses_nothing<U: Upstream>() {
    const WINDOW: usize = 1024;
    let mut world = World::<U>::start().await;
    let rounds = u64::from(scale(4, 100));
    let mut published = 0;
    for round in 0..rounds {
        for _ in 0..10 {
            world.publish(published..published + 50).await;
            published += 50;
        }
        // In the middle of it: when is different in each round.
        tokio::time::sleep(Duration::from_millis(round * 37 % 150)).await;
        world.broker.kill();
        world.publish(published..published + 50).await;
        published += 50;
        world.broker.come_back().await;
        world.broker.listed().await;
        world.connected().await;
    }
    world.publish(published..published + 50).await;

    if U::REPLAYS {
        world.all_reached(0..published + 50).await;
    } else {
        // What was published while nobody listened is gone; what was published to a listener before a kill may be.
        world.all_reached(published..published + 50).await;
    }
    world.broker.quiet().await;
    let (reached, calls) = world.reached();
    let twice = calls - reached.len();
    println!(
        "{rounds} kills, {} messages, {} reached, {twice} calls repeated",
        published + 50,
        reached.len()
    );
    assert!(twice <= WINDOW * rounds as usize, "{twice} repeated: more than what was in flight at each kill");
}

/// While the gateway is dead messages are taken into custody; when it is back each runs once.
async fn a_dead_gateway_loses_nothing<U: Upstream>() {
    let world = World::<U>::start().await;
    world.gateway.go_down().await.unwrap();
    world.publish(0..500).await;
    eventually(SOON, "custody", async || {
        let counts = world.broker.get("/v1/sources/events").await["counts"].take();
        if counts["accepted"] == 500 { Ok(()) } else { Err(counts.to_string()) }
    })
    .await;
    assert_eq!(world.reached().1, 0);

    world.gateway.come_back().await.unwrap();
    world.all_reached(0..500).await;
    world.broker.quiet().await;
    assert_eq!(world.reached(), ((0..500).collect(), 500));
}

/// However much the upstream holds and the dead gateway cannot take, memory stays where it is.
async fn memory_stays_bounded_while_the_gateway_is_down<U: Upstream>() {
    const BATCH: u64 = 1_000;
    let world = World::<U>::start().await;
    world.gateway.go_down().await.unwrap();
    world.publish(0..BATCH).await;
    let arrived = async || {
        let counts = world.broker.get("/v1/sources/events").await["counts"].take();
        counts["accepted"].as_u64().unwrap() + counts["dropped"].as_u64().unwrap()
    };
    eventually(SOON, "the first messages", async || arrived().await >= BATCH).await;
    let before = world.broker.memory_kib("VmRSS");

    let messages = u64::from(scale(20_000, 1_000_000));
    for first in (BATCH..messages).step_by(BATCH as usize) {
        world.publish(first..first + BATCH).await;
        if !U::REPLAYS {
            // Nobody keeps the rest meanwhile.
            eventually(SOON, "a batch", async || arrived().await >= first + BATCH).await;
        }
    }
    eventually(SOON * 10, "custody", async || arrived().await >= messages).await;

    // The most it ever was, not what it is in the end.
    let grown = world.broker.memory_kib("VmHWM").saturating_sub(before);
    // A waiting call costs about 32 bytes of index; the rest is buffers that do not grow with it.
    let bound = 64 * 1024 + messages * 100 / 1024;
    println!("{messages} messages waiting cost {grown} KiB");
    assert!(grown < bound, "grew by {grown} KiB");
}

/// Sources come, change, are held and go with SIGHUP; one that is not touched does not notice.
async fn sources_change_with_sighup_and_leave_the_others_alone<U: Upstream>() {
    let world = World::<U>::start().await;
    let source = world.upstream.source();
    let reload = async |text: String| {
        std::fs::write(world.broker.setup().config_file(), text).unwrap();
        world.broker.signal(Signal::HUP);
    };
    let since = world.broker.get("/v1/sources/events").await["since"].clone();
    let state = async |name: &str, wanted: &str| {
        eventually(SOON, &format!("{name} to be {wanted}"), async || {
            let sources = world.broker.items("/v1/sources").await;
            let found = sources.iter().find(|source| source["name"] == name);
            let state = found.map_or("gone", |source| source["state"].as_str().unwrap()).to_owned();
            if state == wanted { Ok(()) } else { Err(state) }
        })
        .await;
    };

    // A second one that no function asks: it adds no copy of a message.
    let other = "nats: { url: \"nats://127.0.0.1:1\", topics: [nothing] }";
    reload(format!("sources: {{ events: {source}, other: {{ {other} }} }}")).await;
    state("other", "connecting").await;
    reload(format!("sources: {{ events: {source}, other: {{ paused: true, {other} }} }}")).await;
    state("other", "paused").await;
    reload(format!("sources: {{ events: {source}, other: {{ {other} }} }}")).await;
    state("other", "connecting").await;
    reload(format!("sources: {{ events: {source} }}")).await;
    state("other", "gone").await;

    let events = world.broker.get("/v1/sources/events").await;
    assert_eq!((&events["since"], &events["state"]), (&since, &"connected".into()), "it was left alone");
    world.publish(0..10).await;
    world.all_reached(0..10).await;

    reload("sources: {}".to_owned()).await;
    state("events", "gone").await;
    reload(format!("sources: {{ events: {source} }}")).await;
    state("events", "connected").await;
    world.connected().await;
    world.publish(10..20).await;
    world.all_reached(10..20).await;
}

macro_rules! cases {
    ($($kind:ident: $upstream:ty;)*) => {
        mod cases {
            $(mod $kind {
                cases! { @one $upstream:
                    killed_under_load_it_loses_nothing
                    a_dead_gateway_loses_nothing
                    memory_stays_bounded_while_the_gateway_is_down
                    sources_change_with_sighup_and_leave_the_others_alone
                }
            })*
        }
    };
    (@one $upstream:ty: $($case:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                crate::sources::$case::<$upstream>().await;
            }
        )*
    };
}

cases! {
    jetstream: upstreams::JetStream;
    kafka: upstreams::Kafka;
    minio: upstreams::Minio;
    mqtt: upstreams::Mqtt;
    nats: upstreams::Nats;
    rabbitmq: upstreams::Rabbitmq;
    sqs: upstreams::Sqs;
    webhook: upstreams::Webhook;
}

/// What a source has received is forgotten on request: through the command, the route, the runtime and the store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn positions_are_forgotten_on_request() {
    let world = World::<upstreams::Kafka>::start().await;
    world.publish(0..300).await;
    world.all_reached(0..300).await;

    let said = world.broker.evoke(&["--output", "json", "sources", "reset-position", "events"]).await;
    let said: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(said, serde_json::json!({"name": "events", "partitions": 3}));
    world.connected().await;

    // The group is where it was, so nothing comes twice.
    world.publish(300..400).await;
    world.all_reached(0..400).await;
    world.broker.quiet().await;
    assert_eq!(world.reached(), ((0..400).collect(), 400));
}
