//! The map on disk that the index is: redb, over the store's own files. This is the only file that knows redb.
//!
//! redb brings a file to what one of its commits said, or refuses it; on top of that each row has a checksum, because
//! pages are looked at whole only when the file is opened. A panic of its is an error like any other.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use redb::{Database, Durability, ReadTransaction, ReadableDatabase, StorageBackend, TableDefinition};

use broker_model::FunctionName;

use super::Key;
use super::row;
use crate::codec::{Malformed, Put, Take};
use crate::files::File;
use crate::state::Extra;

/// How much of it redb keeps in memory.
const CACHE: usize = 4 << 20;
/// What was written becomes durable this often: a start after a crash catches up from there.
const DURABLE_EVERY: Duration = Duration::from_secs(5);
/// The same in batches, because pages are used again only when what replaced them is durable.
const DURABLE_BATCHES: u32 = 32;
const VERSION: u8 = 1;

/// Number to row.
const ROWS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("rows");
/// Moment of death and number to reason.
const BY_TIME: TableDefinition<'_, Key, u8> = TableDefinition::new("by-time");
/// Name and namespace of the function, moment of death and number to reason.
const BY_FUNCTION: TableDefinition<'_, (&str, &str, u64, u64), u8> = TableDefinition::new("by-function");
const META: TableDefinition<'_, (), &[u8]> = TableDefinition::new("meta");

/// Why the index is not believed any more.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Doubt(pub(super) String);

macro_rules! doubted_by {
    ($($error:ty),*) => {$(
        impl From<$error> for Doubt {
            fn from(error: $error) -> Self {
                Doubt(error.to_string())
            }
        }
    )*};
}

doubted_by!(
    Malformed,
    io::Error,
    redb::CommitError,
    redb::DatabaseError,
    redb::SetDurabilityError,
    redb::StorageError,
    redb::TableError,
    redb::TransactionError
);

/// What the index says of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    /// The directory it was made for.
    pub(crate) identity: u64,
    /// The journal number up to which it is complete.
    pub(crate) applied: u64,
    /// Dead letters in it.
    pub(crate) count: u64,
}

impl Meta {
    fn write(&self) -> Vec<u8> {
        let mut put = Put::default();
        put.u8(VERSION);
        put.u64(self.identity);
        put.u64(self.applied);
        put.u64(self.count);
        put.0
    }

    fn read(bytes: &[u8]) -> Result<Meta, Doubt> {
        let mut take = Take::new(bytes.to_vec().into());
        if take.u8()? != VERSION {
            return Err(Doubt("another version wrote it".into()));
        }
        Ok(Meta { identity: take.u64()?, applied: take.u64()?, count: take.u64()? })
    }
}

/// A row to be written, or `None` for a number that is a dead letter no more.
pub(super) type Change = (u64, Option<Box<[u8]>>);

/// An open map.
#[derive(Debug)]
pub(super) struct Map {
    db: Database,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    meta: Meta,
    /// Batches that are not durable yet, and since when there are any.
    batches: u32,
    since: Instant,
}

impl Map {
    /// Makes an empty map in an empty file.
    pub(super) fn make(file: Arc<dyn File>, bytes: Arc<AtomicU64>, identity: u64) -> Result<Map, Doubt> {
        guarded(|| {
            let db = open(file, bytes)?;
            let txn = db.begin_write()?;
            txn.open_table(ROWS)?;
            txn.open_table(BY_TIME)?;
            txn.open_table(BY_FUNCTION)?;
            txn.open_table(META)?;
            txn.commit()?;
            Ok(Map::new(db, Meta { identity, ..Meta::default() }))
        })
    }

    /// Opens what a file holds, if every page of it is what was written and it is this directory's.
    pub(super) fn open(file: Arc<dyn File>, bytes: Arc<AtomicU64>, identity: u64) -> Result<Map, Doubt> {
        guarded(|| {
            let db = open(file, bytes)?;
            let meta = {
                let txn = db.begin_read()?;
                let found = txn.open_table(META)?.get(())?;
                Meta::read(found.ok_or_else(|| Doubt("it was never complete".into()))?.value())?
            };
            if meta.identity != identity {
                return Err(Doubt("it was made for another directory".into()));
            }
            Ok(Map::new(db, meta))
        })
    }

    fn new(db: Database, meta: Meta) -> Map {
        Map { db, written: Mutex::new(Written { meta, batches: 0, since: Instant::now() }) }
    }

    pub(super) fn meta(&self) -> Meta {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).meta
    }

    fn reading<T>(&self, read: impl FnOnce(&ReadTransaction) -> Result<T, Doubt>) -> Result<T, Doubt> {
        guarded(|| read(&self.db.begin_read()?))
    }

    /// Everything known of a dead letter; `None` when it is not here.
    pub(super) fn row(&self, number: u64) -> Result<Option<Extra>, Doubt> {
        self.reading(|txn| {
            let found = txn.open_table(ROWS)?.get(number)?;
            Ok(found.map(|found| row::read(number, found.value())).transpose()?.map(|row| row.extra))
        })
    }

    /// Up to `most` numbers that are here, from `from` up.
    pub(super) fn numbers(&self, from: u64, most: usize) -> Result<Vec<u64>, Doubt> {
        self.reading(|txn| {
            let rows = txn.open_table(ROWS)?.range(from..)?.take(most);
            rows.map(|row| Ok(row?.0.value())).collect()
        })
    }

    /// Up to `most` dead letters (of a function) that died before `before`, latest first, each with its reason's index.
    pub(super) fn before(
        &self,
        function: Option<&FunctionName>,
        before: Key,
        most: usize,
    ) -> Result<Vec<(Key, u8)>, Doubt> {
        self.reading(|txn| match function {
            Some(function) => {
                let (name, namespace) = (function.name(), function.namespace());
                let range = (name, namespace, 0, 0)..(name, namespace, before.0, before.1);
                let found = txn.open_table(BY_FUNCTION)?.range(range)?.rev().take(most);
                found
                    .map(|pair| {
                        let (key, reason) = pair?;
                        let (_, _, at, number) = key.value();
                        Ok(((at, number), reason.value()))
                    })
                    .collect()
            }
            None => {
                let found = txn.open_table(BY_TIME)?.range(..before)?.rev().take(most);
                found
                    .map(|pair| pair.map(|(key, reason)| (key.value(), reason.value())).map_err(Doubt::from))
                    .collect()
            }
        })
    }

    /// Up to `most` dead letters that died before this moment, earliest first.
    pub(super) fn oldest(&self, before: u64, most: usize) -> Result<Vec<Key>, Doubt> {
        self.reading(|txn| {
            let found = txn.open_table(BY_TIME)?.range(..(before, 0))?.take(most);
            found.map(|pair| Ok(pair?.0.value())).collect()
        })
    }

    /// Writes changes in one transaction, the last one of a number counts; with what is applied by them if they make
    /// the index complete.
    pub(super) fn apply(&self, changes: &[Change], applied: Option<u64>) -> Result<(), Doubt> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let durable = written.batches + 1 >= DURABLE_BATCHES || written.since.elapsed() >= DURABLE_EVERY;
        self.write(&mut written, changes, applied, durable)
    }

    /// Makes what was written durable if that is due.
    pub(super) fn settle(&self) -> Result<(), Doubt> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if written.batches == 0 || written.since.elapsed() < DURABLE_EVERY {
            return Ok(());
        }
        self.write(&mut written, &[], None, true)
    }

    /// Makes everything durable, with this as applied, and lets go of the file.
    pub(super) fn close(self, applied: u64) -> Result<(), Doubt> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        self.write(&mut written, &[], Some(applied), true)?;
        drop(written);
        guarded(|| {
            drop(self);
            Ok(())
        })
    }

    /// Lets go of the file, whatever it holds.
    pub(super) fn abandon(self) {
        // It may panic on its way out as well.
        let _ = guarded(|| {
            drop(self);
            Ok(())
        });
    }

    fn write(
        &self,
        written: &mut Written,
        changes: &[Change],
        applied: Option<u64>,
        durable: bool,
    ) -> Result<(), Doubt> {
        let last: BTreeMap<u64, Option<&[u8]>> =
            changes.iter().map(|(number, row)| (*number, row.as_deref())).collect();
        let mut meta = written.meta;
        guarded(|| {
            let mut txn = self.db.begin_write()?;
            txn.set_durability(if durable { Durability::Immediate } else { Durability::None })?;
            {
                let mut rows = txn.open_table(ROWS)?;
                let mut by_time = txn.open_table(BY_TIME)?;
                let mut by_function = txn.open_table(BY_FUNCTION)?;
                for (number, row) in last {
                    let old = match row {
                        Some(row) => rows.insert(number, row)?.map(|old| old.value().to_vec()),
                        None => rows.remove(number)?.map(|old| old.value().to_vec()),
                    };
                    if old.as_deref() == row {
                        continue;
                    }
                    if let Some(old) = old {
                        let old = row::read(number, &old)?;
                        by_time.remove((old.extra.ended_at, number))?;
                        if let Some((name, namespace)) = &old.function {
                            by_function.remove((&**name, &**namespace, old.extra.ended_at, number))?;
                        }
                        meta.count = meta.count.saturating_sub(1);
                    }
                    if let Some(new) = row {
                        let new = row::read(number, new)?;
                        by_time.insert((new.extra.ended_at, number), new.extra.reason)?;
                        if let Some((name, namespace)) = &new.function {
                            let key = (&**name, &**namespace, new.extra.ended_at, number);
                            by_function.insert(key, new.extra.reason)?;
                        }
                        meta.count += 1;
                    }
                }
                if let Some(applied) = applied {
                    meta.applied = applied;
                    txn.open_table(META)?.insert((), &*meta.write())?;
                }
            }
            Ok(txn.commit()?)
        })?;
        *written = Written {
            meta,
            batches: if durable { 0 } else { written.batches + 1 },
            since: if durable || written.batches == 0 { Instant::now() } else { written.since },
        };
        Ok(())
    }
}

/// Runs what calls into redb: a panic of its is a doubt like any error.
fn guarded<T>(work: impl FnOnce() -> Result<T, Doubt>) -> Result<T, Doubt> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(Doubt("it panicked".into())))
}

fn open(file: Arc<dyn File>, bytes: Arc<AtomicU64>) -> Result<Database, Doubt> {
    bytes.store(file.len()?, Ordering::Relaxed);
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE).set_check_integrity_on_open(true);
    Ok(builder.create_with_backend(Backend { file, bytes })?)
}

/// One file of the store, as redb wants it.
#[derive(Debug)]
struct Backend {
    file: Arc<dyn File>,
    /// Its length, for the store's disk use.
    bytes: Arc<AtomicU64>,
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match self.file.read_at(out, offset)? {
            read if read == out.len() => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.truncate(len)?;
        self.bytes.store(len, Ordering::Relaxed);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_at(data, offset)
    }
}
