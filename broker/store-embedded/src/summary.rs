//! Summaries: the rows of a sealed segment in a file of their own, so that a start need not read bodies.
//!
//! A summary is derived from its segment and never needed: it is not synced, and one that is missing, torn, damaged, of
//! another version or of another segment is made again. It is believed when every page's checksum holds, its last page
//! is there, and the segment still begins and ends as the summary says.
//!
//! ```text
//! summary = magic 8 page*
//! page    = length 4, kind 1, zero 3, number 4, crc 4, content
//! rows    = row(48)*                      of what the names pages before it name
//! names   = (tag 1, length, bytes)*       lanes and dedup scopes by their order in the file, whole records by page
//! end     = what the summary is of, and how much it holds
//! ```
//! Pages' checksums start from the directory's salt and the segment's number.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use crc32c::crc32c_append;

use broker_model::{Acceptance, Body, DedupKey, Fingerprint, Headers, Lane};

use crate::codec::{Malformed, Put, Take};
use crate::files::{File, Files};
use crate::record::{self, BodyFile, KeyRow, Record, kind};
use crate::rows::{Life, New, Row, Said, Stands, Then, wait_nanos};
use crate::segment::Found;

/// The last byte but one is the version of the format.
const MAGIC: &[u8; 8] = b"EVOKES\x01\x0a";
const ROW: usize = 48;
const PAGE_HEADER: usize = 16;
/// A page is written when it holds this much.
const PAGE: usize = 256 << 10;

const ROWS: u8 = 1;
const NAMES: u8 = 2;
const END: u8 = 3;

const LANE: u8 = 0;
const SCOPE: u8 = 1;
const WHOLE: u8 = 2;

/// What a summary is of, and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Of {
    pub(crate) segment: u32,
    /// Up to where the segment was synced when the next one was begun.
    pub(crate) end: u64,
    /// Where its last batch with records begins, and that batch's checksum: no two segments share them.
    pub(crate) last_batch: (u64, u32),
    /// The journal numbers of its records, from and to.
    pub(crate) numbers: (u64, u64),
    pub(crate) records: u64,
    pub(crate) rows: u64,
}

/// The kinds of rows; the numbers stand on disk.
mod row {
    pub(super) const NEW: u8 = 1;
    pub(super) const MOVED: u8 = 2;
    /// The body file of the invocation that follows.
    pub(super) const BODY: u8 = 3;
    /// The first and second half of a dedup key.
    pub(super) const KEY: u8 = 4;
    pub(super) const KEY_OF: u8 = 5;
    pub(super) const STARTED: u8 = 6;
    pub(super) const SETTLED: u8 = 7;
    pub(super) const CANCELLED: u8 = 8;
    pub(super) const REDRIVEN: u8 = 9;
    pub(super) const REMOVED: u8 = 10;
    pub(super) const WHOLE: u8 = 11;
    pub(super) const BESIDE: u8 = 12;
    /// How the moved invocation that follows stands, its attempts, and those that are only counted.
    pub(super) const LIFE: u8 = 13;
    pub(super) const KEPT: u8 = 14;
    pub(super) const COUNTED: u8 = 15;
    /// A record that says nothing.
    pub(super) const NOTHING: u8 = 16;
}

/// A row as it stands on disk; what its fields mean is its kind's.
#[derive(Debug, Clone, Copy, Default)]
struct Raw {
    kind: u8,
    a: u8,
    b: u16,
    /// The record's journal number, counted from the segment's first.
    journal: u32,
    /// Where the record begins in the segment.
    offset: u32,
    w: u32,
    x: u32,
    y: u32,
    p: u64,
    q: u64,
    r: u64,
}

impl Raw {
    fn write(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&[self.kind, self.a]);
        to.extend_from_slice(&self.b.to_le_bytes());
        for value in [self.journal, self.offset, self.w, self.x, self.y] {
            to.extend_from_slice(&value.to_le_bytes());
        }
        for value in [self.p, self.q, self.r] {
            to.extend_from_slice(&value.to_le_bytes());
        }
    }

    fn read(bytes: &[u8; ROW]) -> Raw {
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        Raw {
            kind: bytes[0],
            a: bytes[1],
            b: u16::from_le_bytes([bytes[2], bytes[3]]),
            journal: u32_at(4),
            offset: u32_at(8),
            w: u32_at(12),
            x: u32_at(16),
            y: u32_at(20),
            p: u64_at(24),
            q: u64_at(32),
            r: u64_at(40),
        }
    }
}

fn half(value: u128) -> (u64, u64) {
    (value as u64, (value >> 64) as u64)
}

fn whole(low: u64, high: u64) -> u128 {
    u128::from(low) | u128::from(high) << 64
}

fn seed(salt: u32, segment: u32) -> u32 {
    crc32c_append(salt, &segment.to_le_bytes())
}

// ---- Writing ----

/// Writes a summary while its segment is read.
#[derive(Debug)]
pub(crate) struct Scribe {
    seed: u32,
    first: u64,
    numbers: (u64, u64),
    records: u64,
    count: u64,
    lanes: HashMap<Lane, u32>,
    scopes: HashMap<Box<str>, u32>,
    rows: Vec<u8>,
    names: Put,
    wholes: u32,
    pages: u32,
    /// What is ready to be written.
    pub(crate) out: Vec<u8>,
}

impl Scribe {
    /// Begins the summary of a segment whose first record has this journal number.
    pub(crate) fn new(salt: u32, segment: u32, first: u64) -> Self {
        Scribe {
            seed: seed(salt, segment),
            first,
            numbers: (first, first),
            records: 0,
            count: 0,
            lanes: HashMap::new(),
            scopes: HashMap::new(),
            rows: Vec::with_capacity(PAGE + ROW),
            names: Put::default(),
            wholes: 0,
            pages: 0,
            out: MAGIC.to_vec(),
        }
    }

    /// Takes one record down. An error when it cannot be understood.
    pub(crate) fn record(&mut self, found: Found) -> Result<(), Malformed> {
        let Found { journal, kind, payload, offset, size, .. } = found;
        let record = record::read(kind, payload.clone())?;
        let journal_at =
            u32::try_from(journal.checked_sub(self.first).ok_or(Malformed)?).map_err(|_| Malformed)?;
        let base = Raw { journal: journal_at, offset, ..Raw::default() };
        let before = self.count;
        crate::rows::each(record, size, |row| self.row(base, row, kind, &payload));
        if self.count == before {
            self.push(Raw { kind: row::NOTHING, ..base });
        }
        self.records += 1;
        self.numbers.1 = journal + 1;
        if self.rows.len() + self.names.0.len() >= PAGE {
            self.flush();
        }
        Ok(())
    }

    /// Ends it. What is left to be written is in `out`.
    pub(crate) fn finish(&mut self, segment: u32, end: u64, last_batch: (u64, u32)) -> Of {
        self.flush();
        let of =
            Of { segment, end, last_batch, numbers: self.numbers, records: self.records, rows: self.count };
        let mut put = Put::default();
        put.u32(of.segment);
        put.u64(of.end);
        put.u64(of.last_batch.0);
        put.u32(of.last_batch.1);
        put.u64(of.numbers.0);
        put.u64(of.numbers.1);
        put.u64(of.records);
        put.u64(of.rows);
        self.page(END, &put.0);
        of
    }

    fn flush(&mut self) {
        let names = std::mem::take(&mut self.names.0);
        // Rows name whole records by their place in the page before them, so there always is one.
        self.page(NAMES, &names);
        let mut rows = std::mem::take(&mut self.rows);
        self.page(ROWS, &rows);
        rows.clear();
        self.rows = rows;
        self.wholes = 0;
    }

    fn page(&mut self, kind: u8, content: &[u8]) {
        let at = self.out.len();
        self.out.extend_from_slice(&(content.len() as u32).to_le_bytes());
        self.out.extend_from_slice(&[kind, 0, 0, 0]);
        self.out.extend_from_slice(&self.pages.to_le_bytes());
        let crc = crc32c_append(crc32c_append(self.seed, &self.out[at..]), content);
        self.out.extend_from_slice(&crc.to_le_bytes());
        self.out.extend_from_slice(content);
        self.pages += 1;
    }

    fn push(&mut self, raw: Raw) {
        raw.write(&mut self.rows);
        self.count += 1;
    }

    fn name(&mut self, tag: u8, bytes: &[u8]) {
        self.names.u8(tag);
        self.names.bytes(bytes);
    }

    fn lane(&mut self, lane: &Lane) -> u32 {
        if let Some(found) = self.lanes.get(lane) {
            return *found;
        }
        let mut put = Put::default();
        record::put_lane(&mut put, lane);
        self.name(LANE, &put.0);
        let number = self.lanes.len() as u32;
        self.lanes.insert(lane.clone(), number);
        number
    }

    fn scope(&mut self, scope: &str) -> u32 {
        if let Some(found) = self.scopes.get(scope) {
            return *found;
        }
        self.name(SCOPE, scope.as_bytes());
        let number = self.scopes.len() as u32;
        self.scopes.insert(scope.into(), number);
        number
    }

    fn whole(&mut self, kind: u8, payload: &[u8]) -> u32 {
        let mut bytes = Vec::with_capacity(1 + payload.len());
        bytes.push(kind);
        bytes.extend_from_slice(payload);
        self.name(WHOLE, &bytes);
        self.wholes += 1;
        self.wholes - 1
    }

    fn new_row(&mut self, base: Raw, new: &New<'_>, kind: u8) {
        if let Some(BodyFile(file)) = new.body {
            self.push(Raw { kind: row::BODY, p: file, ..base });
        }
        let lane = self.lane(new.lane);
        self.push(Raw {
            kind,
            a: new.origin,
            b: new.end.map_or(0, |reason| 1 + u16::from(reason)),
            w: lane,
            x: new.share,
            y: new.call,
            p: new.number,
            q: new.at,
            r: new.due,
            ..base
        });
    }

    fn row(&mut self, base: Raw, row: Row<'_>, of: u8, payload: &[u8]) {
        match row {
            Row::New(new) => self.new_row(base, &new, row::NEW),
            Row::Moved(new, life) => {
                let (state, reason, moment) = match life.stands {
                    Stands::Waiting { until: None } => (0, 0, 0),
                    Stands::Waiting { until: Some(until) } => (1, 0, until),
                    Stands::Dead { reason, died_at } => (2, reason, died_at),
                };
                self.push(Raw {
                    kind: row::LIFE,
                    a: u8::from(life.started) | state << 1,
                    b: u16::from(reason),
                    w: life.life,
                    x: life.interrupted,
                    p: life.life_began,
                    q: moment,
                    ..base
                });
                for kept in life.kept.chunks(24) {
                    let mut bytes = [0; 24];
                    bytes[..kept.len()].copy_from_slice(kept);
                    let part = |n: usize| u64::from_le_bytes(std::array::from_fn(|at| bytes[n * 8 + at]));
                    let (p, q, r) = (part(0), part(1), part(2));
                    self.push(Raw { kind: row::KEPT, a: kept.len() as u8, p, q, r, ..base });
                }
                for (class, count) in &life.counted {
                    self.push(Raw { kind: row::COUNTED, a: *class, w: *count, ..base });
                }
                self.new_row(base, &new, row::MOVED);
            }
            Row::Key(KeyRow { key, first, count, at }) => {
                let scope = self.scope(&key.scope);
                let ((p, q), (low, high)) = (half(key.key.0), half(key.request.0));
                self.push(Raw { kind: row::KEY, w: scope, x: count, p, q, r: first, ..base });
                self.push(Raw { kind: row::KEY_OF, p: low, q: high, r: at, ..base });
            }
            Row::Beside(acceptance) => {
                let bare = Acceptance {
                    headers: Headers::new(),
                    body: Body::EMPTY,
                    drafts: Vec::new(),
                    dedup: None,
                    ..acceptance.into_owned()
                };
                let mut put = Put::default();
                record::accepted(&mut put, &bare, None);
                let w = self.whole(kind::ACCEPTED, &put.0);
                self.push(Raw { kind: row::BESIDE, w, ..base });
            }
            Row::Started(p) => self.push(Raw { kind: row::STARTED, p, ..base }),
            Row::Settled { number, at, said } => {
                let (a, reason) = match said.then {
                    Then::Completed => (1, 0),
                    Then::Retry(_) => (2, 0),
                    Then::Released(_) => (3, 0),
                    Then::Dead(reason) => (4, reason),
                };
                let b = said.attempt.map_or(0, |class| 1 + u16::from(class));
                let r = wait_nanos(said.then);
                self.push(Raw {
                    kind: row::SETTLED,
                    a,
                    b,
                    w: u32::from(reason),
                    p: number,
                    q: at,
                    r,
                    ..base
                });
            }
            Row::Cancelled { number, at } => {
                self.push(Raw { kind: row::CANCELLED, p: number, q: at, ..base })
            }
            Row::Redriven { number, life, at } => {
                self.push(Raw { kind: row::REDRIVEN, w: life, p: number, q: at, ..base });
            }
            Row::Removed { number } => self.push(Raw { kind: row::REMOVED, p: number, ..base }),
            Row::Nothing => self.push(Raw { kind: row::NOTHING, ..base }),
            Row::Whole(_) => {
                let w = self.whole(of, payload);
                self.push(Raw { kind: row::WHOLE, w, ..base });
            }
        }
    }
}

// ---- Reading ----

/// A summary that was read and is whole.
#[derive(Debug)]
pub(crate) struct Summary {
    pub(crate) of: Of,
    pages: Vec<(u8, Bytes)>,
}

impl Summary {
    /// Reads the summary of a segment. `None` for anything but a whole one of this version and segment.
    pub(crate) fn read(bytes: Bytes, salt: u32, segment: u32) -> Option<Summary> {
        let seed = seed(salt, segment);
        let mut pages = Vec::new();
        if bytes.get(..MAGIC.len())? != MAGIC {
            return None;
        }
        let mut at = MAGIC.len();
        let of = loop {
            let header = bytes.get(at..at + PAGE_HEADER)?;
            let word =
                |n: usize| u32::from_le_bytes([header[n], header[n + 1], header[n + 2], header[n + 3]]);
            let from = at + PAGE_HEADER;
            let to = from.checked_add(word(0) as usize)?;
            let content = bytes.get(from..to)?;
            let crc = crc32c_append(crc32c_append(seed, &header[..12]), content);
            if crc != word(12) || word(8) as usize != pages.len() {
                return None;
            }
            at = to;
            if header[4] == END {
                break read_end(bytes.slice(from..to)).ok()?;
            }
            pages.push((header[4], bytes.slice(from..to)));
        };
        let summary = Summary { of, pages };
        if at != bytes.len() || of.segment != segment {
            return None;
        }
        // Booked rows cannot be taken back: all of them are understood first.
        let mut rows = 0;
        summary.each(|_, _, _, raws| rows += raws).ok()?;
        (rows == of.rows).then_some(summary)
    }

    /// Whether the segment in this file is the one it was made from.
    pub(crate) fn fits(&self, file: &dyn File) -> bool {
        let (at, crc) = self.of.last_batch;
        file.len().is_ok_and(|len| len >= self.of.end)
            && (at == 0 || crate::segment::batch_check(file, at).is_ok_and(|found| found == Some(crc)))
    }

    /// Every row in order: its record's journal number and place in the segment, and how many rows of the file it took.
    pub(crate) fn each(&self, mut row: impl FnMut(u64, u32, Row<'_>, u64)) -> Result<(), Malformed> {
        let (mut lanes, mut scopes, mut wholes) = (Vec::<Lane>::new(), Vec::<Box<str>>::new(), Vec::new());
        let mut before = Before::default();
        for (kind, content) in &self.pages {
            match *kind {
                NAMES => {
                    wholes.clear();
                    let mut take = Take::new(content.clone());
                    while take.left() > 0 {
                        let (tag, bytes) = (take.u8()?, take.bytes()?);
                        match tag {
                            LANE => lanes.push(record::take_lane(&mut Take::new(bytes))?),
                            SCOPE => scopes.push(std::str::from_utf8(&bytes).map_err(|_| Malformed)?.into()),
                            WHOLE => wholes.push(bytes),
                            _ => return Err(Malformed),
                        }
                    }
                }
                ROWS => {
                    let (rows, rest) = content.as_chunks::<ROW>();
                    if !rest.is_empty() {
                        return Err(Malformed);
                    }
                    for bytes in rows {
                        let raw = Raw::read(bytes);
                        let names = Names { lanes: &lanes, scopes: &scopes, wholes: &wholes };
                        before.raws += 1;
                        let (journal, offset) = (self.of.numbers.0 + u64::from(raw.journal), raw.offset);
                        if let Some(found) = before.take(raw, &names)? {
                            let raws = std::mem::take(&mut before.raws);
                            row(journal, offset, found, raws);
                        }
                    }
                }
                _ => return Err(Malformed),
            }
        }
        if before.raws == 0 { Ok(()) } else { Err(Malformed) }
    }
}

fn read_end(bytes: Bytes) -> Result<Of, Malformed> {
    let take = &mut Take::new(bytes);
    let (segment, end) = (take.u32()?, take.u64()?);
    let last_batch = (take.u64()?, take.u32()?);
    let numbers = (take.u64()?, take.u64()?);
    Ok(Of { segment, end, last_batch, numbers, records: take.u64()?, rows: take.u64()? })
}

struct Names<'a> {
    lanes: &'a [Lane],
    scopes: &'a [Box<str>],
    wholes: &'a [Bytes],
}

/// What the rows before one said of it.
#[derive(Default)]
struct Before {
    raws: u64,
    body: Option<BodyFile>,
    key: Option<Raw>,
    life: Option<Life>,
}

impl Before {
    fn take<'a>(&mut self, raw: Raw, names: &Names<'a>) -> Result<Option<Row<'a>>, Malformed> {
        let Raw { kind, a, b, w, x, y, p, q, r, .. } = raw;
        let of =
            |index: u32| names.wholes.get(index as usize).filter(|bytes| !bytes.is_empty()).ok_or(Malformed);
        let reason = |index: u32| {
            let known = (index as usize) < broker_model::Reason::ALL.len();
            u8::try_from(index).ok().filter(|_| known).ok_or(Malformed)
        };
        let class = |index: u8| record::class_of(index).map(|_| index);
        Ok(Some(match kind {
            row::NEW | row::MOVED => {
                let end = if b == 0 { None } else { Some(reason(u32::from(b) - 1)?) };
                let lane = names.lanes.get(w as usize).ok_or(Malformed)?;
                let body = self.body.take();
                let new = New { number: p, at: q, lane, due: r, call: y, share: x, origin: a, end, body };
                match (kind, self.life.take()) {
                    (row::NEW, None) => Row::New(new),
                    (row::MOVED, Some(life)) => Row::Moved(new, life),
                    _ => return Err(Malformed),
                }
            }
            row::BODY => {
                self.body = Some(BodyFile(p));
                return Ok(None);
            }
            row::KEY => {
                self.key = Some(raw);
                return Ok(None);
            }
            row::KEY_OF => {
                let first = self.key.take().ok_or(Malformed)?;
                let scope = names.scopes.get(first.w as usize).ok_or(Malformed)?.clone();
                let (key, request) = (Fingerprint(whole(first.p, first.q)), Fingerprint(whole(p, q)));
                let key = DedupKey { scope, key, request };
                Row::Key(KeyRow { key, first: first.r, count: first.x, at: r })
            }
            row::STARTED => Row::Started(p),
            row::SETTLED => {
                let wait = Duration::from_nanos(r);
                let then = match a {
                    1 => Then::Completed,
                    2 => Then::Retry(wait),
                    3 => Then::Released(wait),
                    4 => Then::Dead(reason(w)?),
                    _ => return Err(Malformed),
                };
                let attempt = match b {
                    0 => None,
                    n => Some(class(u8::try_from(n - 1).map_err(|_| Malformed)?)?),
                };
                Row::Settled { number: p, at: q, said: Said { attempt, then } }
            }
            row::CANCELLED => Row::Cancelled { number: p, at: q },
            row::REDRIVEN => Row::Redriven { number: p, life: w, at: q },
            row::REMOVED => Row::Removed { number: p },
            row::WHOLE => {
                let bytes = of(w)?;
                Row::Whole(record::read(bytes[0], bytes.slice(1..))?)
            }
            row::BESIDE => {
                let bytes = of(w)?;
                match record::read(bytes[0], bytes.slice(1..))? {
                    Record::Accepted(accepted) => Row::Beside(Cow::Owned(accepted.acceptance)),
                    _ => return Err(Malformed),
                }
            }
            row::LIFE => {
                let stands = match a >> 1 {
                    0 => Stands::Waiting { until: None },
                    1 => Stands::Waiting { until: Some(q) },
                    2 => Stands::Dead { reason: reason(u32::from(b))?, died_at: q },
                    _ => return Err(Malformed),
                };
                let (kept, counted) = (Vec::new(), Vec::new());
                let started = a & 1 == 1;
                self.life =
                    Some(Life { life: w, life_began: p, interrupted: x, started, stands, kept, counted });
                return Ok(None);
            }
            row::KEPT => {
                let life = self.life.as_mut().ok_or(Malformed)?;
                let bytes = [p, q, r].map(u64::to_le_bytes).concat();
                for index in bytes.get(..usize::from(a)).ok_or(Malformed)? {
                    life.kept.push(class(*index)?);
                }
                return Ok(None);
            }
            row::COUNTED => {
                let life = self.life.as_mut().ok_or(Malformed)?;
                life.counted.push((class(a)?, w));
                return Ok(None);
            }
            row::NOTHING => Row::Nothing,
            _ => return Err(Malformed),
        }))
    }
}

// ---- Files ----

pub(crate) fn summary_name(segment: u32) -> String {
    format!("{segment:010}.sum")
}

pub(crate) fn summary_of(name: &str) -> Option<u32> {
    name.strip_suffix(".sum").filter(|digits| digits.len() == 10)?.parse().ok()
}

/// A summary file on its way. Not synced: one that a power cut takes is made again.
pub(crate) struct Writing<'a> {
    files: &'a dyn Files,
    dir: &'a Path,
    name: String,
    file: std::sync::Arc<dyn File>,
    at: u64,
}

impl<'a> Writing<'a> {
    pub(crate) fn begin(files: &'a dyn Files, dir: &'a Path, segment: u32) -> io::Result<Self> {
        let name = summary_name(segment);
        let file = files.create(&dir.join(format!("{name}.new")))?;
        Ok(Writing { files, dir, name, file, at: 0 })
    }

    /// Writes what is ready.
    pub(crate) fn take(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        self.file.write_at(out, self.at)?;
        self.at += out.len() as u64;
        out.clear();
        Ok(())
    }

    /// Gives the file its name; its length.
    pub(crate) fn finish(self) -> io::Result<u64> {
        self.files.rename(&self.dir.join(format!("{}.new", self.name)), &self.dir.join(&self.name))?;
        Ok(self.at)
    }

    /// Removes what was written.
    pub(crate) fn abandon(self) {
        let _ = self.files.remove(&self.dir.join(format!("{}.new", self.name)));
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::codec::Put;

    const SALT: u32 = 7;

    /// The summary of a segment with a few small records.
    fn written() -> Vec<u8> {
        let mut scribe = Scribe::new(SALT, 3, 40);
        let mut settled = Put::default();
        record::settled(&mut settled, &record::How::Released { wait: Duration::from_secs(5) }, &[]);
        let records = [
            (kind::STARTED, record::started(&[5, 6])),
            (kind::SETTLED, settled.0),
            (kind::CANCELLED, record::cancelled(6, 99)),
            (kind::REDRIVEN, record::redriven(7, 2, 98)),
            (kind::REMOVED, record::removed(8)),
            (kind::STARTED, record::started(&[])),
            (kind::FRONT, record::front(12)),
        ];
        for (n, (kind, payload)) in records.into_iter().enumerate() {
            let (journal, offset) = (40 + n as u64, 104 + n as u32 * 64);
            let payload = Bytes::from(payload);
            scribe.record(Found { journal, kind, payload, offset, size: 64, unproven: false }).unwrap();
        }
        scribe.finish(3, 1000, (64, 77));
        scribe.out
    }

    #[test]
    fn rows_are_read_in_the_order_of_their_records_with_their_places() {
        let summary = Summary::read(written().into(), SALT, 3).unwrap();
        let mut rows = Vec::new();
        summary.each(|journal, offset, row, _| rows.push(format!("{journal} {offset} {row:?}"))).unwrap();

        let said = "Said { attempt: None, then: Released(5s) }";
        let expected = [
            "40 104 Started(5)".to_owned(),
            "40 104 Started(6)".to_owned(),
            format!("41 168 Settled {{ number: 0, at: 0, said: {said} }}"),
            "42 232 Cancelled { number: 6, at: 99 }".to_owned(),
            "43 296 Redriven { number: 7, life: 2, at: 98 }".to_owned(),
            "44 360 Removed { number: 8 }".to_owned(),
            "45 424 Nothing".to_owned(),
            "46 488 Whole(Front(12))".to_owned(),
        ];
        assert_eq!(rows, expected);
        let of = Of { segment: 3, end: 1000, last_batch: (64, 77), numbers: (40, 47), records: 7, rows: 8 };
        assert_eq!(summary.of, of);
    }

    #[test]
    fn a_summary_with_any_bit_flipped_any_byte_missing_or_of_elsewhere_is_none() {
        let whole = written();
        assert!(Summary::read(whole.clone().into(), SALT, 3).is_some());
        assert!(Summary::read(whole.clone().into(), SALT, 4).is_none());
        assert!(Summary::read(whole.clone().into(), SALT + 1, 3).is_none());
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            assert!(Summary::read(flipped.into(), SALT, 3).is_none(), "byte {at}");
            assert!(Summary::read(whole[..at].to_vec().into(), SALT, 3).is_none(), "cut at {at}");
        }
        assert!(Summary::read([whole, vec![0]].concat().into(), SALT, 3).is_none());
    }
}
