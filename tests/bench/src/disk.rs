//! The raw disk: 1 KiB records appended and synced, by one thread, into a file whose room was allocated before.
//!
//! What a journal does at the least, without format, checksums or anything derived from it. The room is allocated, not
//! written, as a journal that does not write everything twice would have it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use rustix::fs::{FallocateFlags, fallocate};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::meter::{Cast, Progress, Sample, observe};
use crate::plan::{BODY, Bound};
use crate::schedule::{Schedule, now, sleep_until};

/// A file with room for so many records.
#[derive(Debug)]
struct Raw {
    file: File,
    record: Vec<u8>,
    buffer: Vec<u8>,
    end: u64,
}

impl Raw {
    fn create(dir: &Path, records: u64) -> Result<Raw> {
        let file =
            tempfile::tempfile_in(dir).with_context(|| format!("making a file in {}", dir.display()))?;
        let room = records * BODY as u64;
        fallocate(&file, FallocateFlags::empty(), 0, room)
            .with_context(|| format!("allocating {room} bytes"))?;
        file.sync_all().context("syncing the allocation")?;
        Ok(Raw { file, record: vec![b'x'; BODY], buffer: Vec::new(), end: 0 })
    }

    /// Writes so many records at once and syncs them.
    fn append(&mut self, records: usize) -> Result<()> {
        self.buffer.clear();
        for _ in 0..records {
            self.buffer.extend_from_slice(&self.record);
        }
        self.file.write_all_at(&self.buffer, self.end).context("appending")?;
        self.file.sync_data().context("syncing")?;
        self.end += self.buffer.len() as u64;
        Ok(())
    }
}

/// How many appends a second become durable when `producers` wait for each of theirs.
pub(crate) async fn group_commit(dir: &Path, producers: usize, bound: &Bound, cast: &Cast) -> Result<Sample> {
    let group = Arc::new(GroupCommit::start(dir, bound.most)?);
    let progress = Arc::new(Progress::up_to(bound.most));
    let mut tasks = JoinSet::new();
    for _ in 0..producers {
        let (group, progress) = (Arc::clone(&group), Arc::clone(&progress));
        tasks.spawn(async move {
            while progress.begin() {
                if !group.append().await {
                    return;
                }
                progress.done();
            }
        });
    }
    let observed = observe(&progress, bound, cast).await;
    tasks.join_all().await;
    Arc::into_inner(group).context("an append is still under way")?.end().await?;
    observed
}

/// How many appends a second become durable in batches of this size, one batch after the other.
pub(crate) async fn batches(dir: &Path, batch: usize, bound: &Bound, cast: &Cast) -> Result<Sample> {
    let most = bound.most / batch as u64;
    let mut raw = Raw::create(dir, most * batch as u64)?;
    let progress = Arc::new(Progress::up_to(most));
    let writer = tokio::task::spawn_blocking({
        let progress = Arc::clone(&progress);
        move || -> Result<()> {
            while progress.begin() {
                raw.append(batch)?;
                progress.done();
            }
            Ok(())
        }
    });
    let observed = observe(&progress, bound, cast).await;
    writer.await??;
    observed.map(|sample| Sample { rate: sample.rate * batch as f64, ..sample })
}

/// One writer for many who append: it takes what queued during the previous sync, writes once, syncs once, answers all.
#[derive(Debug)]
pub(crate) struct GroupCommit {
    queue: Arc<Queue>,
    writer: std::thread::JoinHandle<Result<()>>,
}

impl GroupCommit {
    /// With room for so many records.
    pub(crate) fn start(dir: &Path, records: u64) -> Result<GroupCommit> {
        let mut raw = Raw::create(dir, records)?;
        let queue = Arc::new(Queue::default());
        let writer = std::thread::spawn({
            let queue = Arc::clone(&queue);
            move || {
                while let Some(batch) = queue.take() {
                    raw.append(batch.len())?;
                    for waiting in batch {
                        // A producer is there until it is answered.
                        let _ = waiting.send(());
                    }
                }
                Ok(())
            }
        });
        Ok(GroupCommit { queue, writer })
    }

    /// Appends one record. `false` when the writer failed.
    pub(crate) async fn append(&self) -> bool {
        self.queue.put().await.is_ok()
    }

    /// Ends the writer, and says how it fared.
    pub(crate) async fn end(self) -> Result<()> {
        self.queue.close();
        let written = tokio::task::spawn_blocking(move || self.writer.join()).await?;
        written.map_err(|_| anyhow::anyhow!("the writing thread panicked"))?
    }
}

/// Who waits for the next sync.
#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    producers: Vec<oneshot::Sender<()>>,
    closed: bool,
}

impl Queue {
    /// Answers when the record is durable; never, with an error, when the writer failed.
    fn put(&self) -> oneshot::Receiver<()> {
        let (durable, answer) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.producers.push(durable);
        let first = waiting.producers.len() == 1;
        drop(waiting);
        if first {
            self.changed.notify_one();
        }
        answer
    }

    /// All who wait, once there is one; `None` at the end.
    fn take(&self) -> Option<Vec<oneshot::Sender<()>>> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut waiting = self
            .changed
            .wait_while(waiting, |waiting| waiting.producers.is_empty() && !waiting.closed)
            .unwrap_or_else(PoisonError::into_inner);
        let batch = std::mem::take(&mut waiting.producers);
        (!batch.is_empty()).then_some(batch)
    }

    fn close(&self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.changed.notify_one();
    }
}

/// What appends on a schedule took, in nanoseconds.
#[derive(Debug)]
pub(crate) struct Paced {
    /// Of each append, from when it was due to when it was durable.
    pub(crate) from_due: Vec<u64>,
    /// Of each pair of write and sync alone.
    pub(crate) of_the_call: Vec<u64>,
}

/// Appends and syncs on a schedule. What became due during a sync goes into the next one. Blocks.
pub(crate) fn paced(dir: &Path, schedule: Schedule) -> Result<Paced> {
    let mut raw = Raw::create(dir, schedule.count())?;
    let mut paced = Paced { from_due: Vec::new(), of_the_call: Vec::new() };
    let mut next = 0;
    while next < schedule.count() {
        sleep_until(schedule.due_at(next));
        let started = now();
        let due = schedule.due_by(started);
        ensure!(due > next, "the clock went back");
        raw.append(usize::try_from(due - next)?)?;
        let done = now();
        paced.of_the_call.push(done - started);
        paced.from_due.extend((next..due).map(|n| done - schedule.due_at(n)));
        next = due;
    }
    Ok(paced)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_producer_is_answered_and_the_room_is_never_exceeded() {
        let dir = tempfile::tempdir().unwrap();
        let bound = Bound { warm_up: Duration::ZERO, window: Duration::from_secs(60), most: 200 };

        let sample = group_commit(dir.path(), 8, &bound, &Cast::with(&[])).await.unwrap();

        assert!(sample.rate > 0.0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn batches_are_whole_and_the_room_is_never_exceeded() {
        let dir = tempfile::tempdir().unwrap();
        let bound = Bound { warm_up: Duration::ZERO, window: Duration::from_secs(60), most: 20_020 };

        let sample = batches(dir.path(), 64, &bound, &Cast::with(&[])).await.unwrap();

        assert!(sample.rate > 0.0);
    }

    #[test]
    fn appends_follow_each_other_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut raw = Raw::create(dir.path(), 4).unwrap();

        raw.append(1).unwrap();
        raw.append(2).unwrap();

        let mut read = [0; BODY * 4];
        raw.file.read_exact_at(&mut read, 0).unwrap();
        assert!(read[..BODY * 3].iter().all(|&byte| byte == b'x'));
        assert!(read[BODY * 3..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn every_append_of_the_schedule_is_timed_from_when_it_was_due() {
        let dir = tempfile::tempdir().unwrap();

        let paced = paced(dir.path(), Schedule::soon(20_000, 50)).unwrap();

        assert_eq!(paced.from_due.len(), 50);
        assert!((1..=50).contains(&paced.of_the_call.len()));
        // The schedule is faster than any disk, so the later ones of a batch waited less than the first.
        assert!(paced.from_due.iter().max() >= paced.of_the_call.iter().max());
    }
}
