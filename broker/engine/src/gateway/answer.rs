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
/// The first 1 KiB is always kept. The rest is kept only where somebody will want it: in memory while it is small and
/// the byte budget has room, beyond that in a spool of the store; at most `limits.response` of it.
pub struct AnswerSink {
    wanted: Wanted,
    /// Somebody waited when the answer began: all of it stays in memory.
    for_waiter: bool,
    limit: u64,
    seen: u64,
    truncated: bool,
    excerpt: BytesMut,
    first: Bytes,
    memory: Option<BytesMut>,
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
    /// The body for a waiting caller; `None` where nobody waited when it began, and it was too long to be kept anyway.
    pub(crate) for_waiter: Option<Bytes>,
    /// Whether it was cut.
    pub(crate) truncated: bool,
    /// Whether the excerpt is all of it.
    pub(crate) excerpt_is_all: bool,
    /// Holds the budget's share for as long as the bytes are held.
    _permits: Vec<Permit>,
}

/// From here on a kept body goes to a spool.
const IN_MEMORY: u64 = 256 * 1024;

impl AnswerSink {
    pub(crate) fn new(wanted: Wanted, limit: u64, budget: Budget, bodies: Arc<dyn BodyReader>) -> Self {
        AnswerSink {
            wanted,
            for_waiter: false,
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
            self.keep(before, chunk).await;
        }
        if self.truncated { Flow::Enough } else { Flow::More }
    }

    async fn keep(&mut self, before: u64, chunk: Bytes) {
        let permit = self.budget.try_take(chunk.len());
        let to_spool = self.wanted.by_callback
            && (self.spool.is_some() || permit.is_none() || before + chunk.len() as u64 > IN_MEMORY);
        if to_spool {
            self.spool(before, &chunk).await;
        }
        if self.for_waiter || !to_spool {
            if before > 0 {
                let first = &self.first;
                self.memory.get_or_insert_with(|| BytesMut::from(&first[..])).extend_from_slice(&chunk);
            }
            self.permits.extend(permit);
        }
    }

    async fn spool(&mut self, before: u64, chunk: &Bytes) {
        if self.failed.is_some() {
            return;
        }
        let written = async {
            if self.spool.is_none() {
                let mut spool = self.bodies.spool().await?;
                if before > 0 {
                    spool.write(self.held()).await?;
                }
                self.spool = Some(spool);
                if !self.for_waiter {
                    self.memory = None;
                    self.permits.clear();
                }
            }
            match &mut self.spool {
                Some(spool) => spool.write(chunk.clone()).await,
                None => Ok(()),
            }
        };
        let written: Result<(), StoreError> = written.await;
        if let Err(error) = written {
            self.failed = Some(error);
        }
    }

    /// What lies in memory.
    fn held(&mut self) -> Bytes {
        match self.memory.take() {
            Some(memory) => {
                let held = memory.freeze();
                if self.for_waiter {
                    self.memory = Some(BytesMut::from(&held[..]));
                }
                held
            }
            None => self.first.clone(),
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
            Some(memory) => memory.freeze(),
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
        Kept {
            excerpt,
            body,
            for_waiter: for_waiter.then_some(in_memory),
            truncated: self.truncated,
            excerpt_is_all: self.seen <= Attempt::EXCERPT as u64,
            _permits: self.permits,
        }
    }
}

impl std::fmt::Debug for AnswerSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AnswerSink").field("seen", &self.seen).field("truncated", &self.truncated).finish()
    }
}
