//! The cases of the contract, each a whole story with its own upstream.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::bench::{Bench, numbered};
use super::{Sent, Upstream, scale};
use crate::source::{Mode, PATIENCE};
use crate::time::eventually;

/// Whatever is published arrives as it is: any bytes, none at all, many; with its topic, its source and its headers.
pub async fn delivers_bodies_and_headers_exactly<U: Upstream>() {
    let mut bench = Bench::<U>::listening(1, 1024).await;
    let bodies: [Bytes; 4] = [
        Bytes::new(),
        (0..=255).collect::<Vec<u8>>().into(),
        "größer als ein Byte \u{1f980}\r\n".into(),
        vec![7; 300 * 1024].into(),
    ];
    let sent = bodies.map(|body| Sent {
        topic: bench.topics[0].clone(),
        headers: vec![("Order-Id".into(), body.len().to_string()), ("Content-Type".into(), "text/x".into())],
        body,
    });

    bench.upstream.publish(&sent).await;
    eventually(PATIENCE, "all messages", async || bench.sink.seen().accepted.len() >= sent.len()).await;

    let accepted = bench.sink.seen().accepted.clone();
    for message in &sent {
        let event =
            accepted.iter().find(|event| event.body == message.body).expect("the body as it was sent");
        assert_eq!(event.topic.as_str(), message.topic);
        assert_eq!(event.source, bench.name);
        assert_eq!(event.wildcards, bench.upstream.connector().wildcards());
        let expected = bench.upstream.expected(message);
        for (name, value) in expected.iter() {
            assert_eq!(event.headers.get(name), Some(value), "{name} of {:?}", event.headers);
        }
        assert_eq!(event.headers.len(), expected.len(), "{:?}", event.headers);
    }
    bench.stopped().await;
    assert_eq!(bench.status().counts.accepted, sent.len() as u64);
}

/// Messages of other topics do not arrive.
pub async fn takes_only_the_topics_it_is_told<U: Upstream>() {
    let mut bench = Bench::<U>::listening(2, 1024).await;
    let other = bench.upstream.topic(7).await;
    let wanted = bench.topics.clone();
    let topics = [&other, &wanted[0], &other, &wanted[1]];

    for (n, topic) in (0..).zip(topics) {
        bench.upstream.publish(&[numbered(topic, n)]).await;
    }
    bench.has_accepted([1, 3]).await;
    bench.reaches(&wanted[0]).await;

    assert_eq!(bench.accepted(), [1, 3].into());
    bench.stopped().await;
}

/// With `topics: from-functions`: with no demand it is connected; topics come and go while it runs.
pub async fn follows_what_functions_ask_for<U: Upstream>() {
    let mut bench = Bench::<U>::asking_functions(2, 1024).await;
    let [first, second] = [bench.topics[0].clone(), bench.topics[1].clone()];
    bench.start();
    bench.is_connected().await;
    assert!(bench.status().subscriptions.is_empty());

    bench.functions_want(&[&first]);
    bench.upstream.listening(std::slice::from_ref(&first)).await;
    bench.reaches(&first).await;

    bench.functions_want(&[&first, &second]);
    bench.upstream.listening(&[first.clone(), second.clone()]).await;
    bench.reaches(&second).await;
    bench.reaches(&first).await;

    bench.functions_want(&[&second]);
    bench.upstream.listening(std::slice::from_ref(&second)).await;
    bench.upstream.publish(&[numbered(&first, 1), numbered(&second, 2)]).await;
    bench.has_accepted([2]).await;
    bench.reaches(&second).await;

    assert_eq!(bench.accepted(), [2].into());
    assert_eq!(bench.status().last_error, None);
    bench.stopped().await;
}

/// The upstream may forget a message only once it is durable here.
pub async fn acknowledges_only_after_the_receipt<U: Upstream>() {
    let mut bench = Bench::<U>::listening(1, 1024).await;
    if !bench.upstream.capabilities().acknowledges {
        return bench.stopped().await;
    }
    bench.mode(Mode::Hang);
    bench.publish(0..10).await;
    bench.holds(10).await;
    assert_eq!(bench.upstream.acknowledged().await, Some(0));

    bench.mode(Mode::Accept);
    eventually(PATIENCE, "the acknowledgements", async || bench.upstream.acknowledged().await == Some(10))
        .await;
    bench.stopped().await;
    assert_eq!(bench.accepted(), (0..10).collect());
}

/// A refused message is not lost: it is held, or given back and offered again.
pub async fn offers_again_what_was_refused<U: Upstream>() {
    let mut bench = Bench::<U>::listening(1, 1024).await;
    bench.mode(Mode::RefuseFirst(3));

    bench.publish(0..20).await;
    bench.has_accepted(0..20).await;

    bench.stopped().await;
}

/// A broker that answers nobody gets no more than the window; the rest stays upstream or is counted as lost.
pub async fn pushes_back_while_the_sink_hangs<U: Upstream>() {
    const WINDOW: usize = 8;
    let mut bench = Bench::<U>::listening(1, WINDOW).await;
    let capabilities = bench.upstream.capabilities();
    bench.mode(Mode::Hang);

    bench.publish(0..50).await;
    bench.holds(WINDOW).await;
    if capabilities.replays {
        bench.mode(Mode::Accept);
        bench.has_accepted(0..50).await;
    } else {
        eventually(PATIENCE, "the losses to be counted", async || {
            let dropped = bench.status().counts.dropped;
            if dropped >= 50 - 2 * WINDOW as u64 { Ok(()) } else { Err(format!("{dropped} counted")) }
        })
        .await;
        bench.mode(Mode::Accept);
    }
    bench.stopped().await;

    assert_eq!(bench.sink.seen().most_inside, WINDOW);
    if !capabilities.replays {
        let counts = bench.status().counts;
        assert_eq!(counts.accepted + counts.dropped, 50, "{counts:?}");
        assert!(counts.accepted >= WINDOW as u64);
    }
}

/// However much an upstream sends while nothing is taken, memory stays within the bounds.
pub async fn keeps_its_memory_bounded<U: Upstream>() {
    const MIB: usize = 1 << 20;
    let mut bench = Bench::<U>::listening(1, 1024).await;
    bench.mode(Mode::Hang);
    let before = resident();
    let payload = vec![7; 256 * 1024 - 4];

    // 300 MiB in all, each message with a body of its own.
    for n in 0..1200_u32 {
        let body = Bytes::from([payload.as_slice(), &n.to_be_bytes()].concat());
        bench.upstream.publish(&[Sent { topic: bench.topics[0].clone(), headers: Vec::new(), body }]).await;
    }
    eventually(PATIENCE, "the window to be full", async || bench.sink.seen().most_bytes > 15 * MIB).await;
    let grown = resident().saturating_sub(before);

    assert!(bench.sink.seen().most_bytes <= 16 * MIB, "{}", bench.sink.seen().most_bytes);
    // Two bounds of 16 MiB, the client's buffers, and what other tests of this process do meanwhile.
    assert!(grown < 150 * MIB, "grew by {} MiB", grown / MIB);
    bench.mode(Mode::Accept);
    bench.stopped().await;
}

/// A restart of the upstream under load loses nothing where it replays; elsewhere the gap is recorded and the way is
/// whole again after it.
pub async fn survives_restarts_of_its_upstream_under_load<U: Upstream>() {
    const RESTARTS: usize = 3;
    let mut bench = Bench::<U>::listening(1, 1024).await;
    let replays = bench.upstream.capabilities().replays;
    let enough = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn({
        let (upstream, topic, enough) = (bench.upstream.clone(), bench.topics[0].clone(), enough.clone());
        async move {
            let mut published = 0;
            while !enough.load(Ordering::Relaxed) {
                let batch: Vec<Sent> = (published..published + 20).map(|n| numbered(&topic, n)).collect();
                upstream.publish(&batch).await;
                published += 20;
                // The rate of the load, not a wait for anything.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            published
        }
    });

    for restart in 1..=RESTARTS {
        let before = bench.accepted().len();
        eventually(PATIENCE, "the load to flow", async || bench.accepted().len() > before + 50).await;
        let gaps = bench.status().disconnected.len();
        bench.upstream.down().await;
        if !bench.upstream.comes_to_the_source() {
            let noticed = async || bench.status().disconnected.len() > gaps;
            eventually(PATIENCE, "the outage to be noticed", noticed).await;
        }
        bench.upstream.up().await;
        bench.is_listening().await;
        let gaps = bench.status().disconnected.len();
        let known = if bench.upstream.comes_to_the_source() { 0 } else { restart };
        assert!(gaps > known, "the start and each restart are gaps");
    }
    enough.store(true, Ordering::Relaxed);
    let published = load.await.expect("the load does not panic");
    let topic = bench.topics[0].clone();
    bench.reaches(&topic).await;
    bench.publish(1_000_000..1_000_050).await;
    bench.has_accepted(1_000_000..1_000_050).await;
    if replays {
        bench.has_accepted(0..published).await;
    }
    bench.stopped().await;
    assert!(bench.status().disconnected_for > Duration::ZERO);
}

/// A connection that breaks is made again, and the time without it is recorded.
pub async fn survives_cut_connections<U: Upstream>() {
    let mut bench = Bench::<U>::listening(1, 1024).await;
    let topic = bench.topics[0].clone();
    let replays = bench.upstream.capabilities().replays;
    for cut in 0..5_u32 {
        bench.publish([cut * 2]).await;
        bench.has_accepted([cut * 2]).await;
        let gaps = bench.status().disconnected.len();
        bench.upstream.cut().await;
        if replays {
            bench.publish([cut * 2 + 1]).await;
        }
        if !bench.upstream.comes_to_the_source() {
            let recorded = async || bench.status().disconnected.len() > gaps;
            eventually(PATIENCE, "the gap to be recorded", recorded).await;
        }
        bench.is_listening().await;
        bench.reaches(&topic).await;
        if replays {
            bench.has_accepted([cut * 2 + 1]).await;
        }
    }
    bench.stopped().await;
}

/// The order of starts does not matter.
pub async fn starts_before_its_upstream<U: Upstream>() {
    let mut bench = Bench::<U>::prepared(1, 1024).await;
    let topic = bench.topics[0].clone();
    bench.upstream.down().await;
    bench.start();
    if !bench.upstream.comes_to_the_source() {
        eventually(PATIENCE, "the trouble to be shown", async || bench.status().last_error.is_some()).await;
    }

    bench.upstream.up().await;
    bench.is_listening().await;
    bench.reaches(&topic).await;
    bench.stopped().await;
}

/// Told to stop, a source begins nothing, and finishes what it has begun.
pub async fn hands_over_what_it_holds_when_it_stops<U: Upstream>() {
    let mut bench = Bench::<U>::listening(1, 64).await;
    bench.mode(Mode::Hang);
    bench.publish(0..40).await;
    bench.holds(40).await;

    bench.tell_to_stop();
    bench.upstream.listening(&[]).await;
    bench.mode(Mode::Accept);
    bench.stopped().await;

    assert_eq!(bench.accepted(), (0..40).collect());
    if bench.upstream.capabilities().acknowledges {
        assert_eq!(bench.upstream.acknowledged().await, Some(40));
    }
}

/// While a source is held its upstream keeps what it can keep, and gives nothing to it.
pub async fn leaves_its_upstream_while_it_is_held<U: Upstream>() {
    let mut bench = Bench::<U>::listening(1, 1024).await;
    let topic = bench.topics[0].clone();
    bench.stopped().await;
    bench.upstream.listening(&[]).await;
    bench.publish(0..5).await;
    assert!(bench.accepted().is_empty());

    bench.start();
    bench.is_listening().await;
    bench.reaches(&topic).await;
    if bench.upstream.capabilities().replays {
        bench.has_accepted(0..5).await;
    } else {
        assert!(bench.accepted().is_empty(), "what nobody kept cannot come");
    }
    bench.stopped().await;
}

/// A message that cannot be read is kept as a dead letter, whole, and holds up nothing.
pub async fn keeps_what_it_cannot_read<U: Upstream>() {
    let mut bench = Bench::<U>::listening(1, 1024).await;
    let topic = bench.topics[0].clone();
    if bench.upstream.publish_unreadable(&topic).await {
        bench.publish([1]).await;
        bench.has_accepted([1]).await;
        eventually(PATIENCE, "the dead letter", async || bench.sink.seen().quarantined.len() == 1).await;
        let kept = bench.sink.seen().quarantined[0].clone();
        assert!(!kept.raw.is_empty() && !kept.why.is_empty(), "{kept:?}");
        if bench.upstream.capabilities().acknowledges {
            eventually(PATIENCE, "its acknowledgement", async || {
                bench.upstream.acknowledged().await == Some(2)
            })
            .await;
        }
    }
    bench.stopped().await;
}

/// However many messages cannot be read, each is kept and none holds up what follows.
pub async fn survives_thousands_of_malformed_messages<U: Upstream>() {
    let mut bench = Bench::<U>::listening(1, 1024).await;
    let topic = bench.topics[0].clone();
    if !bench.upstream.capabilities().decodes {
        return bench.stopped().await;
    }
    let malformed = scale(1_000, 10_000);
    for n in 0..malformed {
        assert!(bench.upstream.publish_unreadable(&topic).await, "what decodes can be given the malformed");
        if n % 100 == 0 {
            bench.publish([n]).await;
        }
    }
    bench.has_accepted((0..malformed).step_by(100)).await;
    let quarantined = async || bench.sink.seen().quarantined.len() >= malformed as usize;
    eventually(PATIENCE, "the dead letters", quarantined).await;

    let restarts = bench.status().disconnected.len();
    assert_eq!(restarts, 1, "no message ended the connection: only the start was without one");
    bench.stopped().await;
}

/// A broker that takes its time costs nothing but time.
pub async fn waits_for_a_slow_broker<U: Upstream>() {
    const MESSAGES: u32 = 200;
    let mut bench = Bench::<U>::listening(1, 256).await;
    bench.mode(Mode::Slow(Duration::from_millis(100)));

    bench.publish(0..MESSAGES).await;
    bench.has_accepted(0..MESSAGES).await;

    assert!(bench.nothing_twice());
    bench.stopped().await;
}

/// What was received, and could not be acknowledged any more, comes again with the same identity: it is recognised.
pub async fn repeats_nothing_already_received<U: Upstream>() {
    const MESSAGES: u32 = 40;
    let mut bench = Bench::<U>::listening(1, 1024).await;
    if !bench.upstream.capabilities().replays {
        return bench.stopped().await;
    }
    bench.mode(Mode::TakeAndHang);
    bench.publish(0..MESSAGES).await;
    bench.has_accepted(0..MESSAGES).await;

    bench.cut_off().await;
    bench.mode(Mode::Accept);
    bench.start();
    bench.is_listening().await;
    bench.publish(MESSAGES..MESSAGES + 10).await;
    bench.has_accepted(0..MESSAGES + 10).await;
    eventually(PATIENCE, "the redeliveries", async || {
        let repeated = bench.sink.seen().repeated;
        if repeated >= MESSAGES as usize { Ok(()) } else { Err(format!("{repeated} recognised")) }
    })
    .await;

    assert!(bench.nothing_twice(), "a redelivery has another identity than the first time");
    bench.stopped().await;
}

/// Told to stop while the broker takes nothing, a source gives back what it holds, and does not wait for better times.
pub async fn stops_while_everything_is_refused<U: Upstream>() {
    let mut bench = Bench::<U>::listening(1, 64).await;
    bench.mode(Mode::Refuse);
    bench.publish(0..40).await;
    eventually(PATIENCE, "offers", async || bench.sink.seen().offered() > 0).await;
    bench.stopped_whatever_it_lost().await;

    bench.mode(Mode::Accept);
    if bench.upstream.capabilities().replays {
        bench.start();
        bench.is_listening().await;
        bench.has_accepted(0..40).await;
        bench.stopped().await;
    } else {
        assert_eq!(bench.status().counts.dropped, 40, "what nobody can give again is counted");
    }
}

/// Cut off in the middle, a source has acknowledged nothing it did not hand over: everything comes again.
pub async fn is_given_again_what_it_held_when_it_was_cut_off<U: Upstream>() {
    let mut bench = Bench::<U>::listening(1, 64).await;
    bench.mode(Mode::Hang);
    bench.publish(0..40).await;
    bench.holds(40).await;
    bench.cut_off().await;

    bench.mode(Mode::Accept);
    bench.start();
    bench.is_listening().await;
    if bench.upstream.capabilities().replays {
        bench.has_accepted(0..40).await;
    }
    assert!(bench.nothing_twice());
    bench.stopped_whatever_it_lost().await;
}

/// Two replicas get each message once between them.
pub async fn shares_the_work_between_replicas<U: Upstream>() {
    const MESSAGES: u32 = 400;
    let mut bench = Bench::<U>::listening(1, 64).await;
    if !bench.upstream.capabilities().shares {
        return bench.stopped().await;
    }
    let replica = bench.replica().await;
    bench.mode(Mode::Slow(Duration::from_millis(2)));
    for first in (0..MESSAGES).step_by(20) {
        // No more at once than a window holds, for upstreams that cannot wait.
        bench.publish(first..first + 20).await;
        bench.has_accepted(0..first + 20).await;
    }
    assert!(bench.nothing_twice(), "both replicas got the same message");

    // What the one leaves, the other takes.
    replica.stopped().await;
    bench.publish(MESSAGES..MESSAGES + 20).await;
    bench.has_accepted(0..MESSAGES + 20).await;
    assert!(bench.nothing_twice(), "what one replica had was given to the other");
    bench.stopped().await;
}

/// Bytes of memory this process holds.
fn resident() -> usize {
    let status =
        std::fs::read_to_string("/proc/self/status").expect("Linux tells how much memory a process holds");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS is there");
    let kib: usize = line.trim().trim_end_matches(" kB").parse().expect("a number of kB");
    kib * 1024
}
