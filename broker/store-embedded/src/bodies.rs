//! Bodies: small ones stand in their record, large ones in files of their own.
//!
//! A body file is a row of pieces, each with its length and checksum, so that a piece is checked before it is given on.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use crc32c::crc32c_append;
use futures::stream;

use broker_model::body::BodyChunks;
use broker_model::{Body, BodyReader, Spool, StoreError, StoredBody};

use crate::EmbeddedStore;
use crate::files::File;
use crate::record::{BodyFile, BodyPlace};
use crate::store::{ReadError, Shared};

/// Bodies above this are spooled, and pieces of reading are at most this.
pub(crate) const PIECE: usize = 256 << 10;
const PIECE_HEADER: usize = 8;
/// How much of a body that is being sent is gathered before it is written. Hundreds of slow uploads hold this much each,
/// and no more: it is one buffer, written as it stands and filled again.
const GATHERED: usize = 32 << 10;

#[async_trait]
impl BodyReader for EmbeddedStore {
    async fn read(&self, body: &Body) -> Result<BodyChunks, StoreError> {
        match body {
            Body::Inline(bytes) => Ok(pieces_of(bytes.clone())),
            Body::Stored(stored) => match BodyPlace::of(stored) {
                Some(BodyPlace::File(file)) => self.read_file(file, stored.len).await,
                Some(BodyPlace::Record(id)) => match self.accepted_body(id).await? {
                    Some(Body::Inline(bytes)) => Ok(pieces_of(bytes)),
                    Some(Body::Stored(StoredBody { len, location })) => {
                        match BodyPlace::of(&StoredBody { len, location }) {
                            Some(BodyPlace::File(file)) => self.read_file(file, len).await,
                            _ => Err(StoreError::NoBody),
                        }
                    }
                    None => Err(StoreError::NoBody),
                },
                None => Err(StoreError::NoBody),
            },
        }
    }

    async fn spool(&self) -> Result<Box<dyn Spool>, StoreError> {
        Ok(Box::new(begin(self.shared.clone()).await?))
    }
}

impl EmbeddedStore {
    async fn read_file(&self, file: BodyFile, len: u64) -> Result<BodyChunks, StoreError> {
        let shared = self.shared.clone();
        let opened = blocking(move || shared.files.open(&shared.body_path(file))).await?;
        let handle = match opened {
            Ok(handle) => handle,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(StoreError::NoBody),
            Err(error) => return Err(unreadable(&self.shared, file, &error.to_string())),
        };
        let shared = self.shared.clone();
        let from = (shared, handle, 0u64, 0u64);
        Ok(Box::pin(stream::try_unfold(from, move |(shared, handle, at, given)| async move {
            if given == len {
                return Ok(None);
            }
            let source = handle.clone();
            let salt = shared.salt;
            let piece = blocking(move || read_piece(&*source, salt, at)).await?;
            match piece {
                Some(piece) if given + piece.len() as u64 <= len => {
                    let (at, given) = (at + (PIECE_HEADER + piece.len()) as u64, given + piece.len() as u64);
                    Ok(Some((piece, (shared, handle, at, given))))
                }
                _ => Err(unreadable(&shared, file, "a piece is not what was written")),
            }
        })))
    }

    /// Puts a body that came whole, and is too large for a record, into a file of its own.
    pub(crate) async fn spool_large(&self, body: &mut Body) -> Result<(), StoreError> {
        let Body::Inline(bytes) = body else { return Ok(()) };
        if bytes.len() > PIECE {
            // Apart, because it is rare and large: a future is as large as the largest of its parts, and is moved whole.
            *body = Box::pin(self.spool_whole(bytes.clone())).await?;
        }
        Ok(())
    }

    async fn spool_whole(&self, bytes: Bytes) -> Result<Body, StoreError> {
        let mut spool: Box<dyn Spool> = Box::new(begin(self.shared.clone()).await?);
        spool.write(bytes).await?;
        spool.finish().await
    }
}

fn unreadable(shared: &Shared, file: BodyFile, what: &str) -> StoreError {
    StoreError::Damaged { what: format!("a body ({what})").into(), path: shared.body_path(file) }
}

/// The error of a record that could not be read, for whoever asked for it.
pub(crate) fn read_error(error: ReadError) -> StoreError {
    match error {
        ReadError::Gone => StoreError::NoBody,
        ReadError::Damaged(path) => StoreError::Damaged { what: "a record".into(), path },
        ReadError::Io(path, error) => {
            StoreError::Damaged { what: format!("a record ({error})").into(), path }
        }
    }
}

fn pieces_of(bytes: Bytes) -> BodyChunks {
    Box::pin(stream::unfold(bytes, |mut rest| async move {
        if rest.is_empty() {
            return None;
        }
        let piece = rest.split_to(rest.len().min(PIECE));
        Some((Ok(piece), rest))
    }))
}

fn read_piece(file: &dyn File, salt: u32, at: u64) -> Option<Bytes> {
    let mut header = [0; PIECE_HEADER];
    if file.read_at(&mut header, at).ok()? != PIECE_HEADER {
        return None;
    }
    let len = u32::from_le_bytes(header[..4].try_into().ok()?) as usize;
    let crc = u32::from_le_bytes(header[4..].try_into().ok()?);
    if len == 0 || len > PIECE {
        return None;
    }
    let mut piece = vec![0; len];
    let read = file.read_at(&mut piece, at + PIECE_HEADER as u64).ok()?;
    (read == len && crc32c_append(salt, &piece) == crc).then(|| piece.into())
}

/// Runs what blocks where blocking is allowed.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StoreError> {
    // The runtime goes down, or the work panicked: in both cases nobody is served any more.
    tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Closed)
}

async fn begin(shared: Arc<Shared>) -> Result<OpenSpool, StoreError> {
    let file = {
        let mut core = shared.core();
        core.check_open()?;
        if let Some(what) = core.full.clone() {
            return Err(core.full_error(&what));
        }
        let file = BodyFile(core.next_body);
        core.next_body += 1;
        core.spooled.insert(file, (0, None));
        file
    };
    let mut spool = OpenSpool {
        shared: shared.clone(),
        file,
        handle: None,
        at: 0,
        len: 0,
        piece: Vec::new(),
        finished: false,
    };
    let path = shared.body_path(file);
    let created = blocking(move || shared.files.create(&path)).await?;
    spool.handle = Some(created.map_err(|error| spool.refused(&error))?);
    Ok(spool)
}

/// A body file being written.
struct OpenSpool {
    shared: Arc<Shared>,
    file: BodyFile,
    handle: Option<Arc<dyn File>>,
    at: u64,
    len: u64,
    /// What is gathered, behind room for its header. Empty, or of room for a whole piece.
    piece: Vec<u8>,
    finished: bool,
}

impl OpenSpool {
    /// A body nobody was promised anything about: whatever the disk says, the caller may come again.
    fn refused(&self, error: &std::io::Error) -> StoreError {
        self.shared.core().full_error(&format!("disk: {error}"))
    }

    /// Writes what is gathered.
    async fn put(&mut self) -> Result<(), StoreError> {
        let mut piece = std::mem::take(&mut self.piece);
        let bytes = piece.len() as u64;
        {
            let mut core = self.shared.core();
            core.check_open()?;
            let spooled: u64 = core.spooled.values().map(|(len, _)| len).sum();
            if spooled + bytes > self.shared.options.spool_bytes {
                return Err(core.full_error("the spool of bodies on their way in"));
            }
            if let Some((len, _)) = core.spooled.get_mut(&self.file) {
                *len += bytes;
            }
            *core.body_lengths.entry(self.file).or_default() += bytes;
            core.body_bytes += bytes;
        }
        let Some(handle) = self.handle.clone() else { return Err(StoreError::NoBody) };
        let (shared, at) = (self.shared.clone(), self.at);
        self.at += bytes;
        let written = blocking(move || {
            crate::upkeep::room_for(&shared, bytes).map_err(|what| Err(what.to_string()))?;
            let (header, data) = piece.split_at_mut(PIECE_HEADER);
            header[..4].copy_from_slice(&(data.len() as u32).to_le_bytes());
            header[4..].copy_from_slice(&crc32c_append(shared.salt, data).to_le_bytes());
            handle.write_at(&piece, at).map_err(Ok)?;
            piece.clear();
            Ok(piece)
        })
        .await?;
        self.piece = written.map_err(|error: Result<std::io::Error, String>| match error {
            Ok(error) => self.refused(&error),
            Err(what) => self.shared.core().full_error(&what),
        })?;
        Ok(())
    }
}

#[async_trait]
impl Spool for OpenSpool {
    async fn write(&mut self, mut bytes: Bytes) -> Result<(), StoreError> {
        self.len += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.piece.is_empty() {
                self.piece.reserve_exact(PIECE_HEADER + GATHERED);
                self.piece.resize(PIECE_HEADER, 0);
            }
            let room = PIECE_HEADER + GATHERED - self.piece.len();
            self.piece.extend_from_slice(&bytes.split_to(room.min(bytes.len())));
            if self.piece.len() == PIECE_HEADER + GATHERED {
                self.put().await?;
            }
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<Body, StoreError> {
        if !self.piece.is_empty() {
            self.put().await?;
        }
        let Some(handle) = self.handle.take() else { return Err(StoreError::NoBody) };
        let shared = self.shared.clone();
        let synced = blocking(move || {
            handle.sync_data()?;
            shared.files.sync_dir(&shared.bodies_dir())
        })
        .await?;
        // A body that could not be synced is nobody's: the journal is as whole as before.
        synced.map_err(|error| self.refused(&error))?;
        self.finished = true;
        let now = self.shared.clock.monotonic();
        if let Some((_, whole)) = self.shared.core().spooled.get_mut(&self.file) {
            *whole = Some(now);
        }
        Ok(BodyPlace::File(self.file).stored(self.len))
    }
}

impl Drop for OpenSpool {
    fn drop(&mut self) {
        if !self.finished {
            self.shared.abandon_body(self.file);
        }
    }
}

impl Shared {
    /// Gives up a body that belongs to nobody; the upkeep removes its file.
    pub(crate) fn abandon_body(&self, file: BodyFile) {
        let mut core = self.core();
        // One whose acceptance the writer refused for want of room is nobody's either.
        let refused = core.body_lengths.contains_key(&file) && !core.state.owns(file);
        if core.spooled.remove(&file).is_some() || refused {
            core.state.doomed.push(file);
        }
    }
}
