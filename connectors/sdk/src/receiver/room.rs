//! What all requests together may hold, in bytes.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::byte_size::ByteSize;

/// Bodies up to this size come with one or two packets: nobody can hold their room for long.
const SMALL: usize = 16 * 1024;

/// This part of the room is for small bodies alone, so that slow large ones cannot hold up everybody.
const FOR_SMALL: usize = 32;

/// The room. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Room {
    all: Arc<Semaphore>,
    /// Of it, what bodies that are not small may have.
    large: Arc<Semaphore>,
    capacity: usize,
}

impl Room {
    /// So many bytes.
    pub(super) fn new(bytes: ByteSize) -> Self {
        // What a semaphore can be asked for at once.
        let capacity = u32::try_from(bytes.bytes()).unwrap_or(u32::MAX).max(1) as usize;
        Room {
            all: Arc::new(Semaphore::new(capacity)),
            large: Arc::new(Semaphore::new(capacity - capacity / FOR_SMALL)),
            capacity,
        }
    }

    /// Waits for room for so many bytes. What is more than all the room gets all that large ones may have.
    pub(super) async fn take(&self, bytes: usize) -> Share {
        // Neither is ever closed.
        let mut share = Share { room: self.clone(), bytes, large: None, all: None };
        if bytes > SMALL {
            share.large = Arc::clone(&self.large).acquire_many_owned(self.of_large(bytes)).await.ok();
        }
        share.all = Arc::clone(&self.all).acquire_many_owned(self.of_all(bytes)).await.ok();
        share
    }

    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.all.available_permits()
    }

    fn of_large(&self, bytes: usize) -> u32 {
        if bytes > SMALL { self.of_all(bytes) } else { 0 }
    }

    fn of_all(&self, bytes: usize) -> u32 {
        let most = if bytes > SMALL { self.capacity - self.capacity / FOR_SMALL } else { self.capacity };
        u32::try_from(bytes.min(most)).unwrap_or(u32::MAX)
    }
}

/// Room that is taken, until it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    room: Room,
    bytes: usize,
    large: Option<OwnedSemaphorePermit>,
    all: Option<OwnedSemaphorePermit>,
}

impl Share {
    /// For how many bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes more at once, up to `bytes` in all, or nothing.
    pub(super) fn grow(&mut self, bytes: usize) -> Option<()> {
        let room = &self.room;
        let large = room.of_large(bytes) - room.of_large(self.bytes);
        let all = room.of_all(bytes) - room.of_all(self.bytes);
        let large = Arc::clone(&room.large).try_acquire_many_owned(large).ok()?;
        let all = Arc::clone(&room.all).try_acquire_many_owned(all).ok()?;
        merge(&mut self.large, large);
        merge(&mut self.all, all);
        self.bytes = bytes;
        Some(())
    }
}

fn merge(held: &mut Option<OwnedSemaphorePermit>, more: OwnedSemaphorePermit) {
    match held {
        Some(held) => held.merge(more),
        None => *held = Some(more),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    #[tokio::test]
    async fn large_ones_leave_something_to_small_ones() {
        let room = Room::new(ByteSize::from_mebibytes(16));
        let large = room.take(100 * MIB).await;

        assert_eq!((large.bytes(), room.free()), (100 * MIB, MIB / 2), "one that is too large goes alone");
        let small = room.take(SMALL).await;
        assert_eq!(room.free(), MIB / 2 - SMALL);
        drop((large, small));
        assert_eq!(room.free(), 16 * MIB);
    }

    #[tokio::test]
    async fn a_share_grows_while_there_is_room_and_not_by_half() {
        let room = Room::new(ByteSize::from_mebibytes(1));
        let mut growing = room.take(10).await;
        assert!(growing.grow(100 * 1024).is_some());
        let other = room.take(800 * 1024).await;

        assert!(growing.grow(400 * 1024).is_none());
        assert_eq!((growing.bytes(), room.free()), (100 * 1024, MIB - 900 * 1024));
        drop(other);
        assert!(growing.grow(400 * 1024).is_some());
        drop(growing);
        assert_eq!((room.free(), room.large.available_permits()), (MIB, MIB - MIB / FOR_SMALL));
    }

    #[tokio::test]
    async fn the_smallest_room_serves_one_at_a_time() {
        let room = Room::new(ByteSize::from_bytes(0));
        let one = room.take(5).await;
        assert_eq!(room.free(), 0);
        drop(one);
        assert_eq!(room.take(0).await.bytes(), 0);
    }
}
