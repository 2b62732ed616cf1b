//! Positions where nothing keeps them.

use std::sync::Arc;

use async_trait::async_trait;
use broker_model::position::MarkStatus;
use broker_model::{Partition, Positions, Resume, SourceName, StoreError, Upstream};

/// Keeps no marks: a source goes on where its upstream says. For tests of a source alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPositions;

#[async_trait]
impl Positions for NoPositions {
    async fn take_up(&self, _partition: &Arc<Partition>, upstream: Upstream) -> Result<Resume, StoreError> {
        let from = upstream.committed.map(|committed| committed.max(upstream.earliest));
        Ok(Resume { from, voided: None })
    }

    async fn committed(&self, _partition: &Arc<Partition>, _next: u64) -> Result<(), StoreError> {
        Ok(())
    }

    async fn reset_positions(&self, _source: &SourceName) -> Result<usize, StoreError> {
        Ok(0)
    }

    fn marks(&self, _source: Option<&SourceName>) -> Vec<MarkStatus> {
        Vec::new()
    }
}
