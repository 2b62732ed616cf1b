//! The marks of ordered sources in memory, for tests of a source alone: what a data directory knows of positions.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use broker_model::position::{MarkChange, MarkStatus, Marks};
use broker_model::{Partition, Position, Positions, Resume, SourceName, StoreError, Upstream};

/// Keeps marks by the rules of the model. Clones share them, as the processes that use one data directory after another do.
#[derive(Clone, Debug, Default)]
pub struct MarksInMemory(Arc<Mutex<Marks>>);

impl MarksInMemory {
    /// Receives a position; `false` when it was received before.
    pub fn take(&self, position: &Position) -> bool {
        let mut marks = self.lock();
        let new = !marks.is_done(position);
        marks.take(position);
        new
    }

    fn lock(&self) -> MutexGuard<'_, Marks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Positions for MarksInMemory {
    async fn take_up(&self, partition: &Arc<Partition>, upstream: Upstream) -> Result<Resume, StoreError> {
        let mut marks = self.lock();
        let (resume, change) = marks.judge(partition, &upstream)?;
        marks.apply(&change);
        Ok(resume)
    }

    async fn committed(&self, partition: &Arc<Partition>, next: u64) -> Result<(), StoreError> {
        self.lock().apply(&MarkChange::Committed { partition: partition.clone(), next });
        Ok(())
    }

    async fn reset_positions(&self, source: &SourceName) -> Result<usize, StoreError> {
        let mut marks = self.lock();
        let before = marks.len();
        marks.apply(&MarkChange::Reset { source: source.clone() });
        Ok(before - marks.len())
    }

    fn marks(&self, source: Option<&SourceName>) -> Vec<MarkStatus> {
        let marks = self.lock();
        let of = |partition: &Partition| source.is_none_or(|source| partition.source() == source);
        marks.iter().filter(|(p, _)| of(p)).map(|(p, mark)| mark.status(p)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_position_is_received_once_until_its_upstream_contradicts() {
        let source = SourceName::parse("events").unwrap();
        let partition = Arc::new(Partition::new(source.clone(), "orders", "", 0).unwrap());
        let marks = MarksInMemory::default();
        let at = |offset| Position { partition: partition.clone(), offset };
        let upstream = |committed| Upstream { committed, earliest: 0, end: 9 };
        assert_eq!(marks.take_up(&partition, upstream(Some(3))).await.unwrap().from, Some(3));
        marks.committed(&partition, 4).await.unwrap();

        assert!(!marks.take(&at(3)) && marks.take(&at(4)) && !marks.take(&at(4)));
        assert_eq!(Positions::marks(&marks, Some(&source))[0].below, 5);

        assert!(marks.take_up(&partition, upstream(Some(1))).await.unwrap().voided.is_some());
        assert!(marks.take(&at(4)));
        assert_eq!(marks.reset_positions(&source).await.unwrap(), 1);
        assert!(Positions::marks(&marks, None).is_empty());
    }
}
