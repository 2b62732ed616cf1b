//! One connection's socket: what it may hold while a request comes, and how long an answer may lie unread.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, Take};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tokio_util::sync::PollSemaphore;

use crate::request_targets::RequestTargets;

/// What one read from a socket takes at most.
///
/// hyper keeps room for twice as much, and up to three such rooms while a body passes: the piece in hand, the one behind
/// it, and the one being read. What an upload takes from the budget counts on that.
const READ_AT_ONCE: u64 = 16 * 1024;

/// Heads up to this size come as they like: this much a connection may hold at any time.
const COMMON_HEAD: usize = 16 * 1024;

/// How many larger heads may come, or be answered, at once, each of up to `limits.headers`.
const LARGE_HEADS: usize = 8;

/// Room for the large heads of all connections.
#[derive(Clone, Debug)]
pub(crate) struct HeadRoom(Arc<Semaphore>);

impl HeadRoom {
    pub(crate) fn new() -> Self {
        HeadRoom(Arc::new(Semaphore::new(LARGE_HEADS)))
    }
}

/// The room a large head takes, from before it is read until its request is dropped: an extension of the request.
#[derive(Clone, Debug)]
pub(crate) struct HeldHead {
    _permit: Arc<OwnedSemaphorePermit>,
}

/// What a connection's socket tells the service behind it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told(Arc<Cell>);

#[derive(Debug, Default)]
struct Cell {
    head: Mutex<Option<HeldHead>>,
    last: AtomicBool,
}

impl Told {
    fn head_came(&self, permit: OwnedSemaphorePermit) {
        *self.0.head.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(HeldHead { _permit: Arc::new(permit) });
    }

    /// The room of the head that has just come; `None` for nearly all.
    pub(crate) fn take_head(&self) -> Option<HeldHead> {
        self.0.head.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether the request is the connection's last: where the next one begins is anybody's guess.
    pub(crate) fn is_last(&self) -> bool {
        self.0.last.load(Ordering::Relaxed)
    }
}

/// A socket that gives at most [`READ_AT_ONCE`] bytes a read, request targets escaped, reads large heads only a few at a
/// time, and gives up on a peer that does not read.
pub(crate) struct Rationed {
    socket: Take<TcpStream>,
    targets: RequestTargets,
    /// What was escaped and did not fit into the reader's room.
    left: Bytes,
    /// What came of the head under way.
    head: usize,
    /// Whether that head has its room.
    admitted: bool,
    heads: PollSemaphore,
    told: Told,
    patience: Duration,
    /// Runs while the peer takes nothing of an answer.
    unread: Option<Pin<Box<Sleep>>>,
}

impl Rationed {
    pub(crate) fn new(stream: TcpStream, room: HeadRoom, told: Told, patience: Duration) -> Self {
        Rationed {
            socket: stream.take(READ_AT_ONCE),
            targets: RequestTargets::new(),
            left: Bytes::new(),
            head: 0,
            admitted: false,
            heads: PollSemaphore::new(room.0),
            told,
            patience,
            unread: None,
        }
    }

    /// Waits for room before more of a large head is read. The timeout of heads bounds the wait.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.head > COMMON_HEAD && !self.admitted {
            if let Some(permit) = ready!(self.heads.poll_acquire(cx)) {
                self.told.head_came(permit);
            }
            self.admitted = true;
        }
        Poll::Ready(())
    }

    fn came(&mut self, bytes: usize) {
        if self.targets.in_head() {
            self.head += bytes;
        } else {
            (self.head, self.admitted) = (0, false);
        }
        if self.targets.is_lost() {
            self.told.0.last.store(true, Ordering::Relaxed);
        }
    }

    /// Ends the connection whose peer takes nothing for too long: what it is sent would be held for ever.
    fn unless_unread<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.unread = None;
            return written;
        }
        let patience = self.patience;
        let unread = self.unread.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(unread.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the answer is not read")))
    }
}

impl AsyncRead for Rationed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.left.is_empty() {
            ready!(this.poll_room(cx));
            let before = buf.filled().len();
            this.socket.set_limit(READ_AT_ONCE);
            ready!(Pin::new(&mut this.socket).poll_read(cx, buf))?;
            let read = &buf.filled()[before..];
            let (count, escaped) = (read.len(), this.targets.pass(read));
            this.came(count);
            match escaped {
                None => return Poll::Ready(Ok(())),
                Some(escaped) => {
                    buf.set_filled(before);
                    this.left = escaped.into();
                }
            }
        }
        let fits = this.left.len().min(buf.remaining());
        buf.put_slice(&this.left.split_to(fits));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rationed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(self.socket.get_mut()).poll_write(cx, buf);
        self.unless_unread(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(self.socket.get_mut()).poll_write_vectored(cx, bufs);
        self.unless_unread(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.get_ref().is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.socket.get_mut()).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.socket.get_mut()).poll_shutdown(cx)
    }
}
