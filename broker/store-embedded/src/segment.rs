//! The shape of a segment file: a header, then batches of records.
//!
//! Every batch states up to where the segment was synced before the batch was written. That is how a torn tail (cut)
//! is told from damage (kept apart and reported): what is bad below the last such statement was on disk once.
//!
//! ```text
//! segment  = header(64) batch*            zeros to the end of what was allocated
//! batch    = magic 4, version 1, zero 3, records 4, length 4, first journal number 8, synced offset 8, segment 4, crc 4
//!            record*                      padded with zeros to a multiple of 8
//! record   = length 4, kind 1, version 1, zero 2, crc of these and the journal number 4, crc of the payload 4, payload
//! ```
//! Checksums start from the directory's salt, so that bytes a caller sends cannot pass for a batch of ours.

use std::io;
use std::ops::Range;

use bytes::Bytes;
use crc32c::crc32c_append;

use crate::files::File;

/// The version of the format this code writes and the newest it reads.
pub(crate) const FORMAT: u32 = 2;

/// Where the first batch begins.
pub(crate) const HEADER: u64 = 64;
const BATCH_HEADER: usize = 40;
const RECORD_HEADER: usize = 16;
const MAGIC: &[u8; 8] = b"EVOKEJ\x01\x0a";
const BATCH_MAGIC: u32 = 0x4b42_5645;

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) format: u32,
    /// Its number.
    pub(crate) segment: u32,
    /// The directory's salt and tag, repeated here so that the loss of one small file loses nothing.
    pub(crate) salt: u32,
    pub(crate) tag: u32,
    /// Up to where the segment before was synced when this one was begun.
    pub(crate) previous_end: u64,
}

impl Head {
    pub(crate) fn write(&self) -> [u8; HEADER as usize] {
        let mut bytes = [0; HEADER as usize];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&self.format.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.segment.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.salt.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.tag.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.previous_end.to_le_bytes());
        let crc = crc32c_append(0, &bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// `None` when the bytes are no header, or a damaged one.
    pub(crate) fn read(bytes: &[u8]) -> Option<Head> {
        let bytes = bytes.get(..HEADER as usize)?;
        if &bytes[..8] != MAGIC || u32_at(bytes, 60)? != crc32c_append(0, &bytes[..60]) {
            return None;
        }
        Some(Head {
            format: u32_at(bytes, 8)?,
            segment: u32_at(bytes, 12)?,
            salt: u32_at(bytes, 16)?,
            tag: u32_at(bytes, 20)?,
            previous_end: u64_at(bytes, 24)?,
        })
    }
}

/// Puts records together to a batch, in a buffer that is used again and again.
#[derive(Debug)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    start: usize,
    records: u32,
    first: u64,
}

impl Batch {
    /// Begins a batch behind what the buffer holds already.
    pub(crate) fn begin(mut bytes: Vec<u8>, first: u64) -> Self {
        let start = bytes.len();
        bytes.resize(start + BATCH_HEADER, 0);
        Batch { bytes, start, records: 0, first }
    }

    /// Adds a record; where it begins in the buffer.
    pub(crate) fn push(&mut self, salt: u32, kind: u8, payload: &[u8]) -> usize {
        let at = self.bytes.len();
        let journal = self.first + u64::from(self.records);
        self.bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&[kind, 1, 0, 0]);
        let crc = record_crc(salt, &self.bytes[at..at + 8], journal);
        self.bytes.extend_from_slice(&crc.to_le_bytes());
        self.bytes.extend_from_slice(&crc32c_append(salt, payload).to_le_bytes());
        self.bytes.extend_from_slice(payload);
        self.records += 1;
        at
    }

    pub(crate) fn records(&self) -> u32 {
        self.records
    }

    /// Closes the batch and gives the buffer back.
    pub(crate) fn finish(mut self, salt: u32, segment: u32, synced: u64) -> Vec<u8> {
        let padded = self.bytes.len().next_multiple_of(8);
        self.bytes.resize(padded, 0);
        let length = (padded - self.start - BATCH_HEADER) as u32;
        let header = &mut self.bytes[self.start..self.start + BATCH_HEADER];
        header[..4].copy_from_slice(&BATCH_MAGIC.to_le_bytes());
        header[4] = 1;
        header[8..12].copy_from_slice(&self.records.to_le_bytes());
        header[12..16].copy_from_slice(&length.to_le_bytes());
        header[16..24].copy_from_slice(&self.first.to_le_bytes());
        header[24..32].copy_from_slice(&synced.to_le_bytes());
        header[32..36].copy_from_slice(&segment.to_le_bytes());
        let crc = crc32c_append(salt, &header[..36]);
        header[36..40].copy_from_slice(&crc.to_le_bytes());
        self.bytes
    }
}

/// How many bytes a batch of these payload lengths takes, at most.
pub(crate) fn batch_size(payloads: usize, records: usize) -> usize {
    BATCH_HEADER + payloads + records * RECORD_HEADER + 8
}

/// How many bytes a record of this payload takes.
pub(crate) fn record_size(payload: usize) -> u32 {
    (RECORD_HEADER + payload) as u32
}

/// Reads one record that is known to begin at the front of `bytes`; its kind and the range of its payload.
///
/// The journal number is not known here, so the header's own checksum is left to the scan; the payload's is checked.
pub(crate) fn record_at(salt: u32, bytes: &[u8]) -> Option<(u8, Range<usize>)> {
    let length = u32_at(bytes, 0)? as usize;
    let payload = RECORD_HEADER..RECORD_HEADER.checked_add(length)?;
    let found = bytes.get(payload.clone())?;
    (u32_at(bytes, 12)? == crc32c_append(salt, found)).then_some((bytes[4], payload))
}

/// The length of the whole record that begins with these bytes.
pub(crate) fn record_length(front: &[u8]) -> Option<usize> {
    Some(RECORD_HEADER + u32_at(front, 0)? as usize)
}

/// A record found by a scan.
#[derive(Debug)]
pub(crate) struct Found {
    /// Its journal number.
    pub(crate) journal: u64,
    pub(crate) kind: u8,
    pub(crate) payload: Bytes,
    /// Where it begins in the segment.
    pub(crate) offset: u32,
    /// How much it takes there.
    pub(crate) size: u32,
    /// It lies above the last offset that is known to be synced.
    pub(crate) unproven: bool,
}

/// What a scan found besides records.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Scanned {
    /// Where the last good batch ends.
    pub(crate) end: u64,
    /// Up to where the segment is known to have been synced.
    pub(crate) proven: u64,
    /// What was on disk and cannot be read any more.
    pub(crate) damage: Vec<Range<u64>>,
    /// What was being written when the world ended.
    pub(crate) torn: Option<Range<u64>>,
}

#[derive(Clone, Copy)]
struct BatchHead {
    records: u32,
    length: usize,
    first: u64,
    synced: u64,
}

/// Reads a whole segment. `proven_elsewhere` is what the next segment says of this one's end, where there is one.
pub(crate) fn scan(
    bytes: &Bytes,
    salt: u32,
    segment: u32,
    proven_elsewhere: Option<u64>,
    mut found: impl FnMut(Found),
) -> Scanned {
    // First the batches, because what is proven of an early one may stand in a late one.
    let mut batches = Vec::new();
    let mut holes = Vec::new();
    let mut at = HEADER as usize;
    // A file cut within its header has no batches.
    while at <= bytes.len() {
        match batch_head(bytes, at, salt, segment) {
            Some(head) => {
                batches.push((at, head));
                let end = at + BATCH_HEADER + head.length;
                // A damaged length would be caught by the header's checksum; a cut file is not.
                at = end.min(bytes.len());
            }
            None => {
                let from = at;
                let next = next_batch(bytes, at + 8, salt, segment);
                let to = next.unwrap_or(bytes.len());
                holes.push(from..to);
                match next {
                    Some(next) => at = next,
                    None => break,
                }
            }
        }
        if at >= bytes.len() {
            break;
        }
    }
    let stated = batches.iter().map(|(_, head)| head.synced).max().unwrap_or(0);
    let proven = stated.max(proven_elsewhere.unwrap_or(0)).max(HEADER);

    let mut scanned = Scanned { end: HEADER, proven, ..Scanned::default() };
    let note = |scanned: &mut Scanned, range: Range<usize>| {
        let (from, to) = (range.start as u64, range.end as u64);
        if from < proven {
            scanned.damage.push(from..to.min(proven.max(from + 1)));
        } else {
            let torn = scanned.torn.get_or_insert(from..to);
            torn.end = torn.end.max(to);
        }
    };
    for (at, head) in batches {
        let end = at + BATCH_HEADER + head.length;
        let mut record = at + BATCH_HEADER;
        let mut good = true;
        for n in 0..head.records {
            let journal = head.first + u64::from(n);
            let front = bytes.get(record..record + RECORD_HEADER);
            let length = front
                .filter(|front| u32_at(front, 8) == Some(record_crc(salt, &front[..8], journal)))
                .and_then(record_length)
                .filter(|length| record + length <= end.min(bytes.len()));
            let Some(length) = length else {
                note(&mut scanned, record..end.min(bytes.len()).max(record + 1));
                good = false;
                break;
            };
            match record_at(salt, &bytes[record..record + length]) {
                Some((kind, payload)) => found(Found {
                    journal,
                    kind,
                    payload: bytes.slice(record + payload.start..record + payload.end),
                    offset: record as u32,
                    size: length as u32,
                    unproven: record as u64 >= proven,
                }),
                None => {
                    note(&mut scanned, record..record + length);
                    good = false;
                    // Above the proven offset nothing behind a torn record was ever acknowledged.
                    if record as u64 >= proven {
                        break;
                    }
                }
            }
            record += length;
        }
        if good || (end as u64) <= proven {
            scanned.end = scanned.end.max(end.min(bytes.len()) as u64);
        } else {
            scanned.end = scanned.end.max(record.min(bytes.len()) as u64);
        }
    }
    for hole in holes {
        let empty = is_zero(&bytes[hole.clone()]);
        let is_end = hole.end == bytes.len();
        // Zeros behind the last batch are what was allocated and never written; below the proven offset nothing is.
        if empty && is_end && hole.start as u64 >= proven {
            continue;
        }
        note(&mut scanned, hole);
    }
    if proven > HEADER.max(bytes.len() as u64) && scanned.damage.iter().all(|range| range.end < proven) {
        scanned.damage.push(bytes.len() as u64..proven);
    }
    scanned.damage.sort_by_key(|range| range.start);
    scanned
}

/// What a walk over a sealed segment came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Walked {
    /// Everything is as it was written. Where the last batch with records begins, and its checksum; zeros if there is none.
    Sound((u64, u32)),
    /// Something is not; a scan says what.
    Unsound,
    /// Whoever looks at the records wanted no more.
    Stopped,
}

/// How much of a segment a walk holds, unless one batch is larger.
const STRETCH: usize = 1 << 20;

/// Reads a segment that was synced up to `end` batch by batch, holding little of it at a time, for as long as everything is
/// as it was written and `found` says to go on.
pub(crate) fn walk(
    file: &dyn File,
    salt: u32,
    segment: u32,
    end: u64,
    mut found: impl FnMut(Found) -> bool,
) -> io::Result<Walked> {
    let mut stretch = Bytes::new();
    let mut from = 0;
    let mut fill = |at: u64, needed: usize| -> io::Result<Bytes> {
        let begins = at.wrapping_sub(from);
        if at >= from && begins + needed as u64 <= stretch.len() as u64 {
            return Ok(stretch.slice(begins as usize..));
        }
        let most = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; needed.max(STRETCH).min(most)];
        let read = file.read_at(&mut bytes, at)?;
        bytes.truncate(read);
        (stretch, from) = (bytes.into(), at);
        Ok(stretch.clone())
    };
    let head = fill(0, HEADER as usize)?;
    if Head::read(&head).is_none_or(|head| head.segment != segment || head.salt != salt) {
        return Ok(Walked::Unsound);
    }
    let (mut at, mut last) = (HEADER, (0, 0));
    while at < end {
        let bytes = fill(at, BATCH_HEADER)?;
        let Some(head) = batch_head(&bytes, 0, salt, segment) else { return Ok(Walked::Unsound) };
        let length = BATCH_HEADER + head.length;
        let bytes = fill(at, length)?;
        if bytes.len() < length {
            return Ok(Walked::Unsound);
        }
        let mut record = BATCH_HEADER;
        for n in 0..head.records {
            let journal = head.first + u64::from(n);
            let front = bytes.get(record..record + RECORD_HEADER);
            let whole = front
                .filter(|front| u32_at(front, 8) == Some(record_crc(salt, &front[..8], journal)))
                .and_then(record_length)
                .filter(|whole| record + whole <= length);
            let Some(whole) = whole else { return Ok(Walked::Unsound) };
            let Some((kind, payload)) = record_at(salt, &bytes[record..record + whole]) else {
                return Ok(Walked::Unsound);
            };
            let goes_on = found(Found {
                journal,
                kind,
                payload: bytes.slice(record + payload.start..record + payload.end),
                offset: (at + record as u64) as u32,
                size: whole as u32,
                unproven: false,
            });
            if !goes_on {
                return Ok(Walked::Stopped);
            }
            record += whole;
        }
        if head.records > 0 {
            last = (at, u32_at(&bytes, 36).unwrap_or(0));
        }
        at += length as u64;
    }
    Ok(Walked::Sound(last))
}

/// The checksum of the batch that begins here, which covers its numbers and its segment; `None` when the file is shorter.
pub(crate) fn batch_check(file: &dyn File, at: u64) -> io::Result<Option<u32>> {
    let mut header = [0; BATCH_HEADER];
    let read = file.read_at(&mut header, at)?;
    Ok(u32_at(&header[..read], 36)
        .filter(|crc| read == BATCH_HEADER && u32_at(&header, 0) == Some(BATCH_MAGIC) && *crc != 0))
}

/// Most of a segment was never written; its zeros are passed over in stretches of this length.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// Whether nothing was ever written here.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(ZEROS.len()).all(|stretch| *stretch == ZEROS[..stretch.len()])
}

/// Where the next batch begins, from `from` on.
fn next_batch(bytes: &[u8], from: usize, salt: u32, segment: u32) -> Option<usize> {
    let mut at = from;
    while at < bytes.len() {
        let end = bytes.len().min(at + ZEROS.len());
        // No batch begins among zeros, because its magic is none.
        if !is_zero(&bytes[at..end]) {
            let found = (at..end).step_by(8).find(|at| batch_head(bytes, *at, salt, segment).is_some());
            if found.is_some() {
                return found;
            }
        }
        at = end;
    }
    None
}

fn batch_head(bytes: &[u8], at: usize, salt: u32, segment: u32) -> Option<BatchHead> {
    let header = bytes.get(at..at + BATCH_HEADER)?;
    if u32_at(header, 0)? != BATCH_MAGIC
        || u32_at(header, 36)? != crc32c_append(salt, &header[..36])
        || u32_at(header, 32)? != segment
    {
        return None;
    }
    Some(BatchHead {
        records: u32_at(header, 8)?,
        length: u32_at(header, 12)? as usize,
        first: u64_at(header, 16)?,
        synced: u64_at(header, 24)?,
    })
}

fn record_crc(salt: u32, front: &[u8], journal: u64) -> u32 {
    crc32c_append(crc32c_append(salt, front), &journal.to_le_bytes())
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: u32 = 0xdead_beef;

    /// Three batches of two records each; the last is not proven by a later one.
    fn segment() -> (Vec<u8>, Vec<usize>) {
        let head = Head { format: FORMAT, segment: 1, salt: SALT, tag: 2, previous_end: 0 };
        let mut bytes = head.write().to_vec();
        let mut ends = Vec::new();
        for n in 0..3u64 {
            let synced = bytes.len() as u64;
            let mut batch = Batch::begin(bytes, 10 + 2 * n);
            batch.push(SALT, 1, format!("first of {n}").as_bytes());
            batch.push(SALT, 2, format!("second of {n}").as_bytes());
            bytes = batch.finish(SALT, 1, synced);
            ends.push(bytes.len());
        }
        bytes.resize(bytes.len() + 256, 0);
        (bytes, ends)
    }

    fn scanned(bytes: Vec<u8>) -> (Vec<u64>, Scanned) {
        let mut numbers = Vec::new();
        let scanned = scan(&bytes.into(), SALT, 1, None, |found| numbers.push(found.journal));
        (numbers, scanned)
    }

    #[test]
    fn a_whole_segment_reads_back_and_its_last_batch_is_unproven() {
        let (bytes, ends) = segment();
        let (numbers, scanned) = scanned(bytes);

        assert_eq!(numbers, (10..16).collect::<Vec<_>>());
        assert_eq!(scanned.damage, []);
        assert_eq!(scanned.torn, None);
        assert_eq!((scanned.end, scanned.proven), (ends[2] as u64, ends[1] as u64));
    }

    #[test]
    fn a_flipped_bit_in_any_byte_loses_at_most_its_own_batch() {
        let (clean, ends) = segment();
        for at in HEADER as usize..ends[2] {
            let mut bytes = clean.clone();
            bytes[at] ^= 0x10;
            let (numbers, scanned) = scanned(bytes);

            let hit = ends.iter().position(|end| at < *end).unwrap();
            assert!(numbers.len() >= 4, "byte {at}: {numbers:?}");
            if hit < 2 {
                assert!(scanned.torn.is_none(), "byte {at}: {scanned:?}");
            } else {
                assert!(scanned.damage.is_empty(), "byte {at}: {scanned:?}");
            }
            // What pads a batch belongs to no record.
            assert_eq!(
                numbers.len() < 6,
                !scanned.damage.is_empty() || scanned.torn.is_some(),
                "byte {at}: {numbers:?} {scanned:?}"
            );
        }
    }

    #[test]
    fn bytes_a_caller_sends_do_not_pass_for_a_batch() {
        let forged = Batch::begin(Vec::new(), 500);
        let mut forged = {
            let mut b = forged;
            b.push(0, 1, b"forged");
            b.finish(0, 1, 1 << 40)
        };
        let synced = HEADER;
        let head = Head { format: FORMAT, segment: 1, salt: SALT, tag: 2, previous_end: 0 };
        let mut batch = Batch::begin(head.write().to_vec(), 1);
        forged.resize(forged.len().next_multiple_of(8), 0);
        batch.push(SALT, 1, &forged);
        let mut bytes = batch.finish(SALT, 1, synced);
        bytes[HEADER as usize] ^= 1;

        let (numbers, scanned) = scanned(bytes);

        assert_eq!(numbers, Vec::<u64>::new());
        assert_eq!(scanned.proven, HEADER);
    }

    #[test]
    fn a_cut_file_is_a_torn_tail_above_and_damage_below_the_proven_offset() {
        let (clean, ends) = segment();
        for len in HEADER as usize..ends[2] {
            let (numbers, scanned) = scanned(clean[..len].to_vec());
            let whole = ends.iter().filter(|end| **end <= len).count();
            assert!(numbers.len() >= 2 * whole, "{len} bytes: {numbers:?}");
            assert_eq!(scanned.damage, [], "{len} bytes: nothing later says what was synced");
        }
        let (_, scanned) = {
            let mut numbers = Vec::new();
            let cut: Bytes = clean[..ends[0] + 3].to_vec().into();
            let scanned = scan(&cut, SALT, 1, Some(ends[2] as u64), |found| numbers.push(found.journal));
            (numbers, scanned)
        };
        assert!(!scanned.damage.is_empty());
    }
}
