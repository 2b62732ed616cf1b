//! Bodies: in hand, in place, and large ones on their way there.

use broker_model::{Body, BodyReader, InvocationQueue, Ledger};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;

use super::bench::{Bench, End, Engine};
use super::calls::{self, lane};
use crate::reference::PIECE;

const MIB: usize = 1024 * 1024;

pub(crate) async fn bodies_of_every_size_come_back_whole<E: Engine>() {
    let mut bench = Bench::<E>::new().await;
    let sizes = [0, 1, 1000, PIECE - 1, PIECE];
    let mut ids = Vec::new();
    for size in sizes {
        ids.push(bench.accept(calls::with_body(&lane("a"), pattern(size, size))).await[0]);
    }
    for end in [End::Closed, End::Killed] {
        for (id, size) in ids.iter().zip(sizes) {
            let body = bench.find(*id).await.invocation.body;
            assert_eq!(body.len(), size as u64);
            assert!(bench.body(&body).await == pattern(size, size), "{size} bytes of {id}");
        }
        bench = bench.reopen(end).await;
    }
    for (delivery, size) in bench.lease(&lane("a"), 10).await.iter().zip(sizes) {
        assert!(bench.body(&delivery.invocation.body).await == pattern(size, size));
    }
}

pub(crate) async fn a_large_body_is_spooled_and_streamed<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let spooled = spool(&bench, 64 * MIB, 1).await;
    assert_eq!(spooled.len(), 64 * MIB as u64);
    let ids = bench
        .accept(broker_model::Acceptance { body: spooled, ..calls::fan_out(&[lane("a"), lane("b")]) })
        .await;

    let bench = bench.reopen(End::Killed).await;

    let delivery = bench.lease_one(&lane("a")).await;
    assert_same(&bench, &delivery.invocation.body, 64 * MIB, 1).await;
    bench.settle(&delivery, calls::completed()).await;
    // One body serves the whole fan-out, and outlives the first of it.
    let other = bench.find(ids[1]).await;
    assert_same(&bench, &other.invocation.body, 64 * MIB, 1).await;
}

pub(crate) async fn a_spooled_body_that_nobody_took_leaves_nothing<E: Engine>() {
    let bench = Bench::<E>::new().await;
    bench.accept_one(&lane("a")).await;
    let before = bench.store.health().disk_bytes;
    for round in 0..24 {
        // Each is dropped half way; without giving back what they took, they would meet a bound of the spool.
        let mut spool = bench.store.spool().await.expect("room for one body");
        for piece in 0..8 * MIB / PIECE {
            spool.write(pattern(PIECE, piece)).await.unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
        drop(spool);
        crate::time::a_real_moment().await;
    }
    bench.until("the dropped bodies to be gone", async || smaller(&bench, before + 16 * MIB as u64)).await;

    // One that was finished but never accepted is gone after a restart.
    let finished = spool(&bench, 32 * MIB, 7).await;
    assert_eq!(finished.len(), 32 * MIB as u64);
    let bench = bench.reopen(End::Killed).await;
    bench.until("the orphan to be gone", async || smaller(&bench, before + 16 * MIB as u64)).await;
}

fn smaller<E: Engine>(bench: &Bench<E>, most: u64) -> Result<(), String> {
    let bytes = bench.store.health().disk_bytes;
    if bytes <= most { Ok(()) } else { Err(format!("{bytes} bytes on disk, more than {most}")) }
}

pub(crate) async fn a_callback_may_carry_a_spooled_body<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let delivery = bench.delivering(&lane("a")).await;
    let answer = spool(&bench, 3 * MIB + 5, 3).await;
    let callback = broker_model::Acceptance { body: answer, ..calls::callback_of(delivery.lease.id) };

    let follows = bench.settle(&delivery, calls::completed_then(vec![callback])).await;

    let bench = bench.reopen(End::Killed).await;
    let body = bench.find(follows[0]).await.invocation.body;
    assert_same(&bench, &body, 3 * MIB + 5, 3).await;
}

pub(crate) async fn a_dead_letter_keeps_its_body_until_removed<E: Engine>() {
    let bench = Bench::<E>::new().await;
    let spooled = spool(&bench, 2 * MIB, 9).await;
    let id = bench.accept(calls::with_body(&lane("a"), spooled)).await[0];
    let delivery = bench.lease_one(&lane("a")).await;
    bench.settle(&delivery, calls::dead()).await;

    let bench = bench.reopen(End::Closed).await;
    let body = bench.find(id).await.invocation.body;
    assert_same(&bench, &body, 2 * MIB, 9).await;

    assert_eq!(bench.store.remove(id).await.ok(), Some(true));
    assert_eq!(bench.store.find(id).await.ok(), Some(None));
}

async fn spool<E: Engine>(bench: &Bench<E>, size: usize, seed: usize) -> Body {
    let mut spool = bench.store.spool().await.expect("room for one body");
    let mut written = 0;
    while written < size {
        // Pieces as a network gives them: never the size in which they are read.
        let piece = (size - written).min(100_000);
        spool.write(slice(written, piece, seed)).await.expect("room for one body");
        written += piece;
    }
    spool.finish().await.expect("room for one body")
}

async fn assert_same<E: Engine>(bench: &Bench<E>, body: &Body, size: usize, seed: usize) {
    assert_eq!(body.len(), size as u64);
    let mut pieces = bench.store.read(body).await.expect("the body is there");
    let mut read = 0;
    while let Some(piece) = pieces.next().await {
        let piece = piece.expect("the body is whole");
        assert!(piece.len() <= PIECE, "a piece of {} bytes", piece.len());
        assert!(piece == slice(read, piece.len(), seed), "other bytes than were written, after {read}");
        read += piece.len();
    }
    assert_eq!(read, size);
}

fn pattern(size: usize, seed: usize) -> Bytes {
    slice(0, size, seed)
}

/// `len` bytes from `offset` of an endless text that repeats at no power of two.
fn slice(offset: usize, len: usize, seed: usize) -> Bytes {
    let line: Vec<u8> = (0..251 * 16).map(|n: usize| (n.wrapping_mul(31) + seed) as u8).collect();
    let mut bytes = BytesMut::with_capacity(len);
    let mut at = offset % line.len();
    while bytes.len() < len {
        let take = (line.len() - at).min(len - bytes.len());
        bytes.extend_from_slice(&line[at..at + take]);
        at = 0;
    }
    bytes.freeze()
}
