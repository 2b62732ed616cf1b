//! A body on its way in: small ones into memory, large ones through a window to the store's spool.
//!
//! Memory is taken from the budget before bytes are read from the socket. What may take long to arrive is taken from
//! the half that uploads share, so that any number of slow uploads leaves room for small calls.

use std::fmt::Display;
use std::time::Duration;

use broker_engine::{Budget, Permit};
use broker_model::{Body, BodyReader, StoreError};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body::Body as HttpBody;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout};

/// Calls that take up to this much are memory of the whole budget: they come with one or two packets.
const SMALL: usize = 16 * 1024;

/// Bodies up to this size are held in memory; larger ones go through the spool.
const INLINE: u64 = 256 * 1024;

/// What a spooled body holds at once: three rooms of 32 KiB that the connection reads into, and the 32 KiB that the store
/// gathers for its file.
const WINDOW: usize = 128 * 1024;

/// What is read and thrown away behind a refusal, so that the sender gets to read it.
const DISCARDED: u64 = 1024 * 1024;

/// How long is read and thrown away.
const DISCARD_FOR: Duration = Duration::from_secs(1);

/// A body before it is read.
pub(crate) struct Upload<B> {
    body: B,
    /// What its header fields take, which are kept beside it.
    head: usize,
    length: Option<u64>,
    /// The sender waits to be asked for it (`Expect: 100-continue`), which reading does.
    unasked: bool,
    received: u64,
    waited: Duration,
}

/// A body that came, in hand or in the store's spool, with the memory it holds.
#[derive(Debug)]
pub(crate) struct Received<T = Body> {
    pub(crate) body: T,
    pub(crate) permit: Option<Permit>,
}

/// Why a body did not come.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum UploadError {
    /// Longer than allowed.
    #[error("request body too large, maximum: {limit} bytes (limits.body)")]
    TooLarge {
        /// What is allowed.
        limit: u64,
    },
    /// The connection or the encoding broke.
    #[error("the request body cannot be read: {0}")]
    Broken(String),
    /// It came too slowly.
    #[error("the request body came too slowly")]
    TooSlow,
    /// Others have the memory.
    #[error("too many uploads at once (limits.in_flight)")]
    Busy,
    /// The spool did not take it.
    #[error(transparent)]
    Store(StoreError),
}

impl<B> Upload<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Display,
{
    pub(crate) fn new(body: B, headers: &HeaderMap) -> Self {
        let head = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        let length = body.size_hint().exact();
        let unasked = headers.contains_key(header::EXPECT);
        Upload { body, head, length, unasked, received: 0, waited: Duration::ZERO }
    }

    /// Reads the whole body, of at most `limit` bytes.
    ///
    /// Every request holds room for the largest way through here, and is moved with it: the long ways are boxed.
    pub(crate) async fn receive(
        mut self,
        limit: u64,
        pace: &crate::Pace,
        budget: &Budget,
        bodies: &dyn BodyReader,
    ) -> Result<Received, UploadError> {
        let outcome = match self.length {
            Some(0) if self.head <= SMALL => return Ok(Received { body: Body::EMPTY, permit: None }),
            Some(length) if length > limit => Err(UploadError::TooLarge { limit }),
            Some(length) if length > INLINE => {
                let permit = room(pace, budget.take_for_upload(WINDOW + self.head)).await?;
                let spooled = Box::pin(self.spool(BytesMut::new(), limit, pace, bodies)).await;
                spooled.map(|body| (body, permit))
            }
            Some(length) => self.known(length, pace, budget).await,
            None => Box::pin(self.unknown(limit, pace, budget, bodies)).await,
        };
        match outcome {
            Ok((body, permit)) => Ok(Received { body, permit: Some(permit) }),
            Err(error) => {
                if matches!(error, UploadError::TooLarge { .. }) {
                    Box::pin(self.discard()).await;
                }
                Err(error)
            }
        }
    }

    /// Reads the whole body into memory, of at most `limit` bytes: for what must be parsed as a whole.
    pub(crate) async fn receive_in_memory(
        mut self,
        limit: u64,
        pace: &crate::Pace,
        budget: &Budget,
    ) -> Result<Received<Bytes>, UploadError> {
        let announced = self.length;
        if announced.is_some_and(|length| length > limit) {
            self.discard().await;
            return Err(UploadError::TooLarge { limit });
        }
        let mut held = announced.unwrap_or(INLINE);
        let mut permit = twice(pace, budget, held).await?;
        let mut whole = BytesMut::new();
        while let Some(piece) = self.next(pace).await? {
            if self.received > limit {
                return Err(UploadError::TooLarge { limit });
            }
            if self.received > held {
                // It did not say how long it is, and is long. To wait for more with what is held in hand could wait for
                // another that does the same.
                drop(permit);
                held = limit;
                permit = twice(pace, budget, held).await?;
            }
            whole.extend_from_slice(&piece);
        }
        Ok(Received { body: whole.freeze(), permit: Some(permit) })
    }

    /// Reads on a little and throws it away, behind a refusal.
    pub(crate) async fn discard(mut self) {
        if self.unasked && self.received == 0 {
            return;
        }
        let reading = async {
            let mut discarded = 0;
            while discarded < DISCARDED && !self.body.is_end_stream() {
                match self.body.frame().await {
                    Some(Ok(frame)) => discarded += frame.data_ref().map_or(0, |data| data.len() as u64),
                    Some(Err(_)) | None => break,
                }
            }
        };
        // Either way the answer goes out now.
        let _ = timeout(DISCARD_FOR, reading).await;
    }

    async fn known(
        &mut self,
        length: u64,
        pace: &crate::Pace,
        budget: &Budget,
    ) -> Result<(Body, Permit), UploadError> {
        let room_for = usize::try_from(length).unwrap_or(usize::MAX);
        let memory = in_a_record(room_for).saturating_add(self.head);
        let permit = if memory <= SMALL {
            room(pace, budget.take(memory)).await?
        } else {
            room(pace, budget.take_for_upload(memory)).await?
        };
        let first = self.next(pace).await?.unwrap_or_default();
        if first.len() == room_for {
            return Ok((Body::Inline(first), permit));
        }
        let mut whole = BytesMut::with_capacity(room_for);
        whole.extend_from_slice(&first);
        while let Some(piece) = self.next(pace).await? {
            whole.extend_from_slice(&piece);
        }
        Ok((Body::Inline(whole.freeze()), permit))
    }

    async fn unknown(
        &mut self,
        limit: u64,
        pace: &crate::Pace,
        budget: &Budget,
        bodies: &dyn BodyReader,
    ) -> Result<(Body, Permit), UploadError> {
        let room_for = usize::try_from(INLINE).unwrap_or(usize::MAX);
        let permit = room(pace, budget.take_for_upload(in_a_record(room_for) + self.head)).await?;
        let mut held = BytesMut::new();
        while let Some(piece) = self.next(pace).await? {
            held.extend_from_slice(&piece);
            if held.len() as u64 > limit {
                return Err(UploadError::TooLarge { limit });
            }
            if held.len() as u64 > INLINE {
                return self.spool(held, limit, pace, bodies).await.map(|body| (body, permit));
            }
        }
        Ok((Body::Inline(held.freeze()), permit))
    }

    async fn spool(
        &mut self,
        begun: BytesMut,
        limit: u64,
        pace: &crate::Pace,
        bodies: &dyn BodyReader,
    ) -> Result<Body, UploadError> {
        let mut spool = bodies.spool().await.map_err(UploadError::Store)?;
        if !begun.is_empty() {
            spool.write(begun.freeze()).await.map_err(UploadError::Store)?;
        }
        while let Some(piece) = self.next(pace).await? {
            if self.received > limit {
                return Err(UploadError::TooLarge { limit });
            }
            spool.write(piece).await.map_err(UploadError::Store)?;
        }
        spool.finish().await.map_err(UploadError::Store)
    }

    /// The next bytes; `None` at the end. Trailers are dropped, as the gateway drops them.
    async fn next(&mut self, pace: &crate::Pace) -> Result<Option<Bytes>, UploadError> {
        loop {
            let allowance = pace.allowance(self.received, self.waited).ok_or(UploadError::TooSlow)?;
            let asked = Instant::now();
            let frame = timeout(allowance, self.body.frame()).await.map_err(|_| UploadError::TooSlow)?;
            self.waited += asked.elapsed();
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(UploadError::Broken(error.to_string())),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.received += data.len() as u64;
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

/// What a body in memory takes until it is durable: as it came, and as it stands in its record on the way to disk.
fn in_a_record(length: usize) -> usize {
    length.saturating_mul(2)
}

/// Room for a text of this length, and for what is made of it.
async fn twice(pace: &crate::Pace, budget: &Budget, length: u64) -> Result<Permit, UploadError> {
    let bytes = usize::try_from(length.saturating_mul(2)).unwrap_or(usize::MAX);
    if length <= SMALL as u64 {
        room(pace, budget.take(bytes)).await
    } else {
        room(pace, budget.take_for_upload(bytes)).await
    }
}

async fn room(pace: &crate::Pace, taking: impl Future<Output = Permit>) -> Result<Permit, UploadError> {
    timeout(pace.queue, taking).await.map_err(|_| UploadError::Busy)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use async_trait::async_trait;
    use broker_model::{BodyChunks, Spool, StoredBody};
    use futures::{StreamExt, stream};
    use http_body::Frame;
    use http_body_util::{Full, StreamBody};

    use super::*;

    /// A spool that only counts.
    #[derive(Debug)]
    struct Counting(u64);

    #[async_trait]
    impl BodyReader for Counting {
        async fn read(&self, _: &Body) -> Result<BodyChunks, StoreError> {
            Err(StoreError::NoBody)
        }

        async fn spool(&self) -> Result<Box<dyn Spool>, StoreError> {
            Ok(Box::new(Counting(0)))
        }
    }

    #[async_trait]
    impl Spool for Counting {
        async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
            self.0 += bytes.len() as u64;
            Ok(())
        }

        async fn finish(self: Box<Self>) -> Result<Body, StoreError> {
            Ok(Body::Stored(StoredBody { len: self.0, location: [].into() }))
        }
    }

    const MIB: u64 = 1024 * 1024;

    async fn receive<B>(body: B, budget: &Budget) -> Result<Received, UploadError>
    where
        B: HttpBody<Data = Bytes> + Unpin,
        B::Error: Display,
    {
        Upload::new(body, &HeaderMap::new())
            .receive(4 * MIB, &crate::Pace::default(), budget, &Counting(0))
            .await
    }

    /// A chunked body that sends `pieces` of 64 KiB with a pause before each.
    fn trickle(pieces: usize, pause: Duration) -> impl HttpBody<Data = Bytes, Error = Infallible> + Unpin {
        StreamBody::new(Box::pin(stream::iter(0..pieces).then(move |_| async move {
            tokio::time::sleep(pause).await;
            Ok(Frame::data(Bytes::from(vec![b'x'; 64 * 1024])))
        })))
    }

    #[tokio::test(start_paused = true)]
    async fn small_bodies_stay_in_memory_and_large_ones_are_spooled() {
        let budget = Budget::new(64 * MIB);

        let small = receive(Full::new(Bytes::from_static(b"small")), &budget).await.unwrap();
        let large = receive(Full::new(Bytes::from(vec![0; 300_000])), &budget).await.unwrap();
        let chunked = receive(trickle(3, Duration::ZERO), &budget).await.unwrap();
        let chunked_large = receive(trickle(10, Duration::ZERO), &budget).await.unwrap();

        assert_eq!(small.body, Body::Inline(Bytes::from_static(b"small")));
        assert!(matches!(large.body, Body::Stored(StoredBody { len: 300_000, .. })));
        assert!(matches!(chunked.body, Body::Inline(bytes) if bytes.len() == 3 * 65_536));
        assert!(matches!(chunked_large.body, Body::Stored(StoredBody { len: 655_360, .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_over_the_limit_is_refused_whether_it_says_so_or_not() {
        let budget = Budget::new(64 * MIB);

        let told = receive(Full::new(Bytes::from(vec![0; 5 * 1024 * 1024])), &budget).await;
        let untold = receive(trickle(65, Duration::ZERO), &budget).await;

        assert!(matches!(told, Err(UploadError::TooLarge { .. })), "{told:?}");
        assert!(matches!(untold, Err(UploadError::TooLarge { .. })), "{untold:?}");
        assert_eq!(budget.free(), budget.capacity());
    }

    #[tokio::test(start_paused = true)]
    async fn a_text_in_memory_takes_its_room_and_gives_it_back() {
        let budget = Budget::new(64 * MIB);
        let read = async |body| {
            Upload::new(body, &HeaderMap::new())
                .receive_in_memory(MIB, &crate::Pace::default(), &budget)
                .await
        };

        let short = read(trickle(1, Duration::ZERO)).await.unwrap();
        assert_eq!((short.body.len(), budget.free()), (65_536, 64 * MIB - 2 * INLINE));
        drop(short);
        let long = read(trickle(10, Duration::ZERO)).await.unwrap();
        assert_eq!((long.body.len(), budget.free()), (655_360, 62 * MIB));
        drop(long);
        assert!(matches!(read(trickle(17, Duration::ZERO)).await, Err(UploadError::TooLarge { .. })));
        assert_eq!(budget.free(), budget.capacity());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stalls_or_crawls_is_given_up() {
        let budget = Budget::new(64 * MIB);

        let stalls = receive(trickle(1, Duration::from_secs(31)), &budget).await;
        let crawls = receive(trickle(60, Duration::from_secs(20)), &budget).await;
        let steady = receive(trickle(60, Duration::from_millis(900)), &budget).await;

        assert!(matches!(stalls, Err(UploadError::TooSlow)), "{stalls:?}");
        assert!(matches!(crawls, Err(UploadError::TooSlow)), "{crawls:?}");
        assert!(steady.is_ok(), "{steady:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn slow_uploads_hold_no_more_than_their_half_and_small_calls_pass() {
        let budget = Budget::new(64 * MIB);
        let mut uploads = tokio::task::JoinSet::new();
        for _ in 0..600 {
            let budget = budget.clone();
            uploads
                .spawn(async move { receive(trickle(10, Duration::from_secs(25)), &budget).await.is_ok() });
        }
        tokio::time::sleep(Duration::from_secs(1)).await;

        let small =
            timeout(Duration::from_millis(1), receive(Full::new(Bytes::from_static(b"small")), &budget))
                .await;

        assert!(matches!(small, Ok(Ok(_))), "{small:?}");
        drop(small);
        assert!(budget.free() >= 32 * MIB, "{} bytes are free", budget.free());
        while uploads.join_next().await.is_some() {}
        assert_eq!(budget.free(), budget.capacity());
    }
}
