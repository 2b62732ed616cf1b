//! A directory that an earlier version wrote: format 1, which had no positions, schedules, summaries or statements of the
//! journal's front, and kept its dead letters in sled.

use std::fs;
use std::path::Path;

use broker_model::queue::Pausable;
use broker_model::{InvocationQueue, Ledger, Settlement, State};
use broker_model::{Reason, ledger};
use tempfile::TempDir;

use crate::kit::*;

const SEGMENT_HEADER: usize = 64;
const BATCH_HEADER: usize = 40;
const RECORD_HEADER: usize = 16;
const CHECKPOINT: u8 = 10;
/// Kinds of records that format 1 had.
const OLD_KINDS: std::ops::RangeInclusive<u8> = 1..=11;

/// One record of a segment: its kind and payload.
type Record = (u8, Vec<u8>);

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// The records of a segment, and the header it begins with.
fn read_segment(bytes: &[u8]) -> Vec<Record> {
    let (mut records, mut at) = (Vec::new(), SEGMENT_HEADER);
    while bytes.len() > at + BATCH_HEADER && &bytes[at..at + 4] == b"EVBK" {
        let (count, length) = (number(bytes, at + 8), number(bytes, at + 12) as usize);
        let mut from = at + BATCH_HEADER;
        for _ in 0..count {
            let length = number(bytes, from) as usize;
            let payload = from + RECORD_HEADER..from + RECORD_HEADER + length;
            records.push((bytes[from + 4], bytes[payload.clone()].to_vec()));
            from = payload.end;
        }
        at += BATCH_HEADER + length;
    }
    records
}

/// The records as format 1 writes them, in one batch that begins with this journal number.
fn write_segment(header: &[u8], salt: u32, first: u64, records: &[Record]) -> Vec<u8> {
    let crc = |salt, bytes: &[u8]| crc32c::crc32c_append(salt, bytes).to_le_bytes();
    let mut bytes = header[..SEGMENT_HEADER].to_vec();
    bytes[8..12].copy_from_slice(&1u32.to_le_bytes());
    let check = crc(0, &bytes[..60]);
    bytes[60..].copy_from_slice(&check);
    let segment = bytes[12..16].to_vec();
    let mut body = Vec::new();
    for (journal, (kind, payload)) in (first..).zip(records) {
        let front = [&(payload.len() as u32).to_le_bytes()[..], &[*kind, 1, 0, 0]].concat();
        let own = crc32c::crc32c_append(salt, &front);
        body.extend_from_slice(&front);
        body.extend_from_slice(&crc32c::crc32c_append(own, &journal.to_le_bytes()).to_le_bytes());
        body.extend_from_slice(&crc(salt, payload));
        body.extend_from_slice(payload);
    }
    body.resize(body.len().next_multiple_of(8), 0);
    let mut head = b"EVBK\x01\0\0\0".to_vec();
    head.extend_from_slice(&(records.len() as u32).to_le_bytes());
    head.extend_from_slice(&(body.len() as u32).to_le_bytes());
    head.extend_from_slice(&first.to_le_bytes());
    head.extend_from_slice(&(SEGMENT_HEADER as u64).to_le_bytes());
    head.extend_from_slice(&segment);
    let check = crc(salt, &head);
    head.extend_from_slice(&check);
    [bytes, head, body].concat()
}

/// Makes of a directory what a version of format 1 would have left, its first record numbered `first`.
fn make_older(dir: &Path, mut first: u64) {
    let text = fs::read_to_string(dir.join("format")).unwrap();
    let salt = text.lines().find_map(|line| line.strip_prefix("salt ")).unwrap();
    let salt = u32::from_str_radix(salt, 16).unwrap();
    fs::write(dir.join("format"), text.replace("evoke-store 2", "evoke-store 1")).unwrap();
    for entry in fs::read_dir(dir.join("journal")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        let mut records = read_segment(&bytes);
        if records.is_empty() {
            fs::remove_file(&path).unwrap();
            continue;
        }
        records.retain(|(kind, _)| OLD_KINDS.contains(kind));
        for (_, payload) in records.iter_mut().filter(|(kind, _)| *kind == CHECKPOINT) {
            // No marks, no schedules, and the front in one byte: what format 1 does not say.
            let tail = payload.split_off(payload.len() - 3);
            assert_eq!(tail[..2], [0, 0], "a checkpoint without marks and schedules");
        }
        fs::write(&path, write_segment(&bytes, salt, first, &records)).unwrap();
        first += records.len() as u64;
    }
    fs::remove_dir_all(dir.join("summaries")).unwrap();
    for file in ["closed", "index"] {
        let _ = fs::remove_file(dir.join(file));
    }
    // sled's database was a directory of that name.
    fs::create_dir_all(dir.join("index/blobs")).unwrap();
    fs::write(dir.join("index/db"), "what sled wrote").unwrap();
}

/// A store with a call in each state and a pause; the ids of one that waits, one that is dead, one that is completed.
async fn filled(dir: &Path, clock: &std::sync::Arc<HandClock>) -> [broker_model::InvocationId; 3] {
    let (store, _) = open(options(dir), clock);
    let completed = accept(&store, call("env", "completed")).await;
    drain(&store, "env").await;
    let dead = accept(&store, call("other", "dead")).await;
    let delivery = store.lease(&[(lane("other"), 1)]).await.unwrap().pop().unwrap();
    let settlement = Settlement::Dead {
        attempt: Some(attempt(1, 400)),
        reason: Reason::Rejected,
        detail: "no".into(),
        then: Vec::new(),
    };
    store.settle(delivery.lease, settlement).await.unwrap();
    let waits = accept(&store, call("env", "waits")).await;
    store.pause(Pausable::Function(function("held"))).await.unwrap();
    store.close().await.unwrap();
    [waits, dead, completed]
}

#[tokio::test]
async fn a_directory_of_format_1_opens_whole_and_is_of_this_format_from_then_on() {
    // As a young directory, and as one whose first segments were given back.
    for first in [1, 900] {
        let (dir, clock) = (TempDir::new().unwrap(), HandClock::new());
        let [waits, dead, completed] = filled(dir.path(), &clock).await;
        make_older(dir.path(), first);

        let (store, recovered) = open(options(dir.path()), &clock);

        assert_eq!((recovered.damage.len(), recovered.missing_records, recovered.reconciled), (0, 0, 0));
        assert_eq!((recovered.held, recovered.dead), (1, 1), "{recovered:?}");
        for (id, state) in [(waits, State::Waiting), (dead, State::Dead), (completed, State::Completed)] {
            assert_eq!(store.find(id).await.unwrap().unwrap().state, state);
        }
        assert_eq!(store.paused(), [Pausable::Function(function("held"))]);
        let page = ledger::Page { limit: 10, cursor: None };
        let letters = store.dead_letters(&ledger::Filter::default(), &page).await.unwrap();
        assert_eq!(letters.items.iter().map(|letter| letter.invocation.id).collect::<Vec<_>>(), [dead]);
        assert_eq!(drain(&store, "env").await, 1);
        assert_no_drift(&store);
        let index = dir.path().join("index");
        eventually(|| index.is_file()).await;
        store.close().await.unwrap();
        drop(store);

        let format = fs::read_to_string(dir.path().join("format")).unwrap();
        assert!(format.starts_with("evoke-store 2\n"), "an older version refuses it from now on: {format}");
        let (store, recovered) = open(options(dir.path()), &clock);
        assert!(recovered.index_kept, "{recovered:?}");
        assert_eq!((recovered.held, recovered.dead, recovered.damage.len()), (0, 1, 0));
        assert_no_drift(&store);
    }
}
