//! How much of an answer is kept, and where.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use broker_model::{Attempt, Body, BodyReader, InvocationId, Spool, StoreError};

use crate::budget::{Budget, Permit};
use crate::waiting::Waiting;

/// Whether more of an answer is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Go on reading.
    More,
    /// The bound is reached: stop reading, and close the connection.
    Enough,
}

/// Who will want the answer's body after it was read.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// A callback tells it.
    pub(crate) by_callback: bool,
    /// Where callers wait for the call's end, and which call it is; asked when the answer begins.
    pub(crate) by_waiter: Option<(Arc<Waiting>, InvocationId)>,
}

impl Wanted {
    fn somebody_waits(&self) -> bool {
        self.by_waiter.as_ref().is_some_and(|(waiting, id)| waiting.may_want(*id))
    }
}

/// Takes an answer's body as it comes.
///
/// The first 1 KiB is always kept. The rest is kept only where somebody will want it, at most `limits.response` of it: for
/// a callback in memory while it is small and the byte budget has room, beyond that in a spool of the store; for callers
/// that wait in memory as far as the budget has room, beyond that it is cut and marked.
pub struct AnswerSink {
    wanted: Wanted,
    /// Somebody waited when the answer began: as much of it as there is room for stays in memory.
    for_waiter: bool,
    /// There was no room for more of it.
    cut_for_waiter: bool,
    limit: u64,
    seen: u64,
    truncated: bool,
    excerpt: BytesMut,
    first: Bytes,
    /// The body so far, once it is more than one piece; the budget's share of its room is taken.
    memory: Option<Vec<u8>>,
    permits: Vec<Permit>,
    spool: Option<Box<dyn Spool>>,
    failed: Option<StoreError>,
    budget: Budget,
    bodies: Arc<dyn BodyReader>,
}

/// What was kept of an answer.
pub(crate) struct Kept {
    /// Its first bytes.
    pub(crate) excerpt: Bytes,
    /// The body for a callback; empty unless one wants it.
    pub(crate) body: Body,
    /// The body for a waiting caller; `None` where nobody waited when it began, and it was too long to be kept anyway. It
    /// holds the budget's share of it wherever it goes.
    pub(crate) for_waiter: Option<Bytes>,
    /// Whether the body for a waiting caller was cut.
    pub(crate) cut_for_waiter: bool,
    /// Whether it was cut.
    pub(crate) truncated: bool,
    /// Whether the excerpt is all of it.
    pub(crate) excerpt_is_all: bool,
    /// Holds the budget's share for as long as the bytes are held.
    _permits: Arc<Vec<Permit>>,
}

/// An answer for whoever waits, with the budget's share of it: it is given back when the last of them has read it.
struct Counted {
    body: Bytes,
    _permits: Arc<Vec<Permit>>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

/// From here on a kept body goes to a spool.
const IN_MEMORY: u64 = 256 * 1024;

/// In pieces of this size what was held goes to the spool.
const PIECE: usize = 64 * 1024;

impl AnswerSink {
    pub(crate) fn new(wanted: Wanted, limit: u64, budget: Budget, bodies: Arc<dyn BodyReader>) -> Self {
        AnswerSink {
            wanted,
            for_waiter: false,
            cut_for_waiter: false,
            limit,
            seen: 0,
            truncated: false,
            excerpt: BytesMut::new(),
            first: Bytes::new(),
            memory: None,
            permits: Vec::new(),
            spool: None,
            failed: None,
            budget,
            bodies,
        }
    }

    /// Takes the next piece of the body.
    pub async fn push(&mut self, mut chunk: Bytes) -> Flow {
        let room = self.limit - self.seen;
        if chunk.len() as u64 > room {
            chunk.truncate(usize::try_from(room).unwrap_or(usize::MAX));
            self.truncated = true;
        }
        if self.seen == 0 {
            // Nearly every answer is one piece: it is kept as it came, without a copy.
            self.first = chunk.clone();
            self.for_waiter = self.wanted.somebody_waits();
        } else if self.seen < Attempt::EXCERPT as u64 {
            if self.excerpt.is_empty() {
                self.excerpt.extend_from_slice(&self.first);
            }
            let missing = Attempt::EXCERPT.saturating_sub(self.excerpt.len());
            self.excerpt.extend_from_slice(&chunk[..chunk.len().min(missing)]);
        }
        let before = self.seen;
        self.seen += chunk.len() as u64;
        if !chunk.is_empty() && (self.wanted.by_callback || self.for_waiter) {
            // Apart, because nearly no answer is wanted: what stands in an exchange is moved with each of them.
            Box::pin(self.keep(before, chunk)).await;
        }
        if self.truncated { Flow::Enough } else { Flow::More }
    }

    async fn keep(&mut self, before: u64, chunk: Bytes) {
        let small = before + chunk.len() as u64 <= IN_MEMORY;
        let for_memory = if self.for_waiter { !self.cut_for_waiter } else { small && self.spool.is_none() };
        let room = for_memory && self.find_room(before, chunk.len());
        let to_spool = self.wanted.by_callback && (self.spool.is_some() || !small || !room);
        if to_spool {
            self.spool(before, chunk.clone()).await;
        }
        if room
            && (self.for_waiter || !to_spool)
            && let Some(memory) = &mut self.memory
        {
            memory.extend_from_slice(&chunk);
        }
        self.cut_for_waiter |= self.for_waiter && !room;
    }

    /// Whether `more` bytes may be held behind those held before; their room is taken.
    fn find_room(&mut self, before: u64, more: usize) -> bool {
        let needed = usize::try_from(before).unwrap_or(usize::MAX).saturating_add(more);
        let held = self.memory.as_ref().map_or(0, Vec::capacity);
        if needed <= held {
            return true;
        }
        // It grows by doubling, as far as an answer may: what it grows into is memory like what it holds.
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let room = if before == 0 { needed } else { needed.max(held.saturating_mul(2).min(limit)) };
        let Some(permit) = self.budget.try_take_for_answer(room - held) else { return false };
        self.permits.push(permit);
        if before > 0 {
            let memory = self.memory.get_or_insert_default();
            if memory.is_empty() {
                memory.reserve_exact(room);
                memory.extend_from_slice(&self.first);
            } else {
                memory.reserve_exact(room - memory.len());
            }
        }
        true
    }

    async fn spool(&mut self, before: u64, chunk: Bytes) {
        if self.failed.is_some() {
            return;
        }
        let written = async {
            if self.spool.is_none() {
                let mut spool = self.bodies.spool().await?;
                if before > 0 {
                    let held = self.memory.as_deref().unwrap_or(&self.first);
                    for piece in held.chunks(PIECE) {
                        spool.write(Bytes::copy_from_slice(piece)).await?;
                    }
                }
                self.spool = Some(spool);
                if !self.for_waiter {
                    self.memory = None;
                    self.permits.clear();
                }
            }
            match &mut self.spool {
                Some(spool) => spool.write(chunk).await,
                None => Ok(()),
            }
        };
        let written: Result<(), StoreError> = written.await;
        if let Err(error) = written {
            self.failed = Some(error);
        }
    }

    /// The first bytes, as policy and attempts want them.
    pub(crate) fn excerpt(&self) -> Bytes {
        if self.excerpt.is_empty() {
            let mut excerpt = self.first.clone();
            excerpt.truncate(Attempt::EXCERPT);
            // A slice would keep the whole read buffer alive for as long as the attempt is remembered.
            Bytes::copy_from_slice(&excerpt)
        } else {
            Bytes::copy_from_slice(&self.excerpt)
        }
    }

    /// Ends the body. What could not be spooled is cut, and said so: an answer is never a reason to lose a result.
    pub(crate) async fn finish(mut self) -> Kept {
        let excerpt = self.excerpt();
        // Of one piece nothing was given up: whoever came to wait meanwhile has it as well.
        let for_waiter =
            self.for_waiter || (self.seen == self.first.len() as u64 && self.wanted.somebody_waits());
        let in_memory = match self.memory.take() {
            Some(memory) => memory.into(),
            None if self.wanted.by_callback || for_waiter => self.first.clone(),
            None => Bytes::new(),
        };
        let spooled = match (self.spool.take(), &self.failed) {
            (Some(spool), None) => Some(spool.finish().await),
            (_, Some(error)) => Some(Err(error.clone())),
            (None, None) => None,
        };
        let body = match spooled {
            Some(Ok(body)) => body,
            Some(Err(error)) => {
                tracing::warn!(%error, "cannot spool an answer; its callback carries the beginning only");
                self.truncated = true;
                Body::Inline(excerpt.clone())
            }
            None => Body::Inline(if self.wanted.by_callback { in_memory.clone() } else { Bytes::new() }),
        };
        let permits = Arc::new(self.permits);
        let counted = |body| Bytes::from_owner(Counted { body, _permits: permits.clone() });
        Kept {
            excerpt,
            body,
            for_waiter: for_waiter.then(|| counted(in_memory)),
            cut_for_waiter: self.truncated || self.cut_for_waiter,
            truncated: self.truncated,
            excerpt_is_all: self.seen <= Attempt::EXCERPT as u64,
            _permits: permits,
        }
    }
}

impl std::fmt::Debug for AnswerSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AnswerSink").field("seen", &self.seen).field("truncated", &self.truncated).finish()
    }
}
