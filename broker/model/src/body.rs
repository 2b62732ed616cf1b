//! Bodies: small ones in memory, large ones where the store put them.

use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;

use crate::queue::StoreError;

/// What a call carries.
///
/// A body in hand is cheap to clone. A stored one is a place only its store understands; read it through
/// [`BodyReader::read`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// The bytes.
    Inline(Bytes),
    /// Where the store keeps them.
    Stored(StoredBody),
}

/// A place in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBody {
    /// How many bytes it has.
    pub len: u64,
    /// The store's own address of it, opaque to everybody else.
    pub location: Box<[u8]>,
}

impl Body {
    /// A body without bytes.
    pub const EMPTY: Body = Body::Inline(Bytes::new());

    /// How many bytes it has.
    pub fn len(&self) -> u64 {
        match self {
            Body::Inline(bytes) => bytes.len() as u64,
            Body::Stored(stored) => stored.len,
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Body::Inline(bytes)
    }
}

/// A body as it comes from disk, in pieces of bounded size.
pub type BodyChunks = Pin<Box<dyn Stream<Item = Result<Bytes, StoreError>> + Send>>;

/// Reads bodies and takes in large ones. The part of a store that moves bytes.
#[async_trait]
pub trait BodyReader: Send + Sync {
    /// Reads a body from its start, in pieces of at most 256 KiB.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when the bytes on disk are not those accepted.
    async fn read(&self, body: &Body) -> Result<BodyChunks, StoreError>;

    /// Opens a place for a body too large to hold (over 256 KiB), before its length is known.
    ///
    /// # Errors
    /// [`StoreError::Full`] when the uncommitted spool has reached its bound.
    async fn spool(&self) -> Result<Box<dyn Spool>, StoreError>;
}

/// A body on its way to disk. Dropped without [`Spool::finish`], it leaves nothing behind.
#[async_trait]
pub trait Spool: Send {
    /// Appends bytes. Resolves when the store has room for the next piece, so that a writer is slowed to the disk.
    ///
    /// # Errors
    /// [`StoreError::Full`] when the disk or the spool's bound has no room.
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError>;

    /// Syncs what was written and names it. Not yet anybody's: an acceptance that refers to it commits it.
    ///
    /// # Errors
    /// [`StoreError`] as for writing.
    async fn finish(self: Box<Self>) -> Result<Body, StoreError>;
}
