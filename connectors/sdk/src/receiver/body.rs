//! A body on its way in. Room for it is taken before it is read.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Body;
use tokio::time::{Instant, timeout};

use super::answers::{answer, try_again};
use super::room::{Room, Share};
use crate::byte_size::ByteSize;

/// What a body of unknown length begins with.
const FIRST: usize = 16 * 1024;

/// What is read and thrown away behind a refusal, so that the sender gets to read it.
const DISCARDED: usize = 1024 * 1024;

/// How long is read and thrown away.
const DISCARD_FOR: Duration = Duration::from_secs(1);

/// When to come again while others have the room.
const AGAIN: Duration = Duration::from_secs(2);

/// Why a body did not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    /// It is larger than `limits.body`.
    #[error("the body is larger than limits.body allows")]
    TooLarge,
    /// It came too slowly.
    #[error("the body comes too slowly")]
    TooSlow,
    /// The connection or the encoding broke.
    #[error("the body cannot be read")]
    Broken,
    /// Others have the room (`in_flight.bytes`).
    #[error("too much is on its way")]
    Busy,
    /// The source stops.
    #[error("the source stops")]
    Stopping,
}

impl Unread {
    pub(super) fn answer(self) -> Response<Bytes> {
        let line = self.to_string();
        match self {
            Unread::TooLarge => answer(StatusCode::PAYLOAD_TOO_LARGE, &line),
            Unread::TooSlow => answer(StatusCode::REQUEST_TIMEOUT, &line),
            Unread::Broken => answer(StatusCode::BAD_REQUEST, &line),
            Unread::Busy | Unread::Stopping => try_again(AGAIN, &line),
        }
    }
}

/// How slowly a body may come. Only time spent waiting for the sender counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// The longest wait for the next bytes.
    still: Duration,
}

impl Pace {
    /// Beyond six such waits in all, a second is allowed for each this many bytes received.
    const BYTES_A_SECOND: u64 = 16 * 1024;

    pub(super) fn new(still: Duration) -> Self {
        Pace { still }
    }

    /// How long may be waited for the next bytes, after `waited` in all and `received` bytes; `None` when no longer.
    fn allowance(self, received: usize, waited: Duration) -> Option<Duration> {
        let earned = Duration::from_secs(received as u64 / Self::BYTES_A_SECOND);
        let left = (self.still * 6 + earned).checked_sub(waited).filter(|left| !left.is_zero())?;
        Some(left.min(self.still))
    }
}

/// Reads a whole body, of at most `limit` bytes. Waits at most `queue` for its room.
pub(super) async fn read<B>(
    body: &mut B,
    limit: ByteSize,
    pace: &Pace,
    room: &Room,
    queue: Duration,
) -> Result<(Bytes, Share), Unread>
where
    B: Body<Data = Bytes> + Unpin,
{
    let limit = usize::try_from(limit.bytes()).unwrap_or(usize::MAX);
    let length = match body.size_hint().exact() {
        Some(length) => Some(usize::try_from(length).map_err(|_| Unread::TooLarge)?),
        None => None,
    };
    if length.is_some_and(|length| length > limit) {
        return Err(Unread::TooLarge);
    }
    let mut share =
        timeout(queue, room.take(length.unwrap_or(FIRST.min(limit)))).await.map_err(|_| Unread::Busy)?;
    let mut whole = BytesMut::with_capacity(share.bytes());
    let mut waited = Duration::ZERO;
    loop {
        let allowance = pace.allowance(whole.len(), waited).ok_or(Unread::TooSlow)?;
        let asked = Instant::now();
        let frame = timeout(allowance, body.frame()).await.map_err(|_| Unread::TooSlow)?;
        waited += asked.elapsed();
        // Trailers say nothing to us.
        let piece = match frame {
            None => return Ok((whole.freeze(), share)),
            Some(Err(_)) => return Err(Unread::Broken),
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
        };
        let needed = whole.len() + piece.len();
        if needed > limit {
            return Err(Unread::TooLarge);
        }
        if needed > share.bytes() {
            // Never waits with a share in hand: those who do wait for each other.
            share.grow(needed.max(share.bytes().saturating_mul(2)).min(limit)).ok_or(Unread::Busy)?;
        }
        whole.extend_from_slice(&piece);
    }
}

/// Reads on for a moment behind a refusal: a sender that is still writing when the connection ends would not see why.
pub(super) async fn discard<B>(mut body: B, headers: &HeaderMap)
where
    B: Body<Data = Bytes> + Unpin,
{
    // Who waits to be asked for the body (`Expect: 100-continue`) has sent none of it.
    if headers.contains_key(header::EXPECT) || body.is_end_stream() {
        return;
    }
    let reading = async {
        let mut read = 0;
        while read < DISCARDED {
            let Some(Ok(frame)) = body.frame().await else { return };
            read += frame.data_ref().map_or(0, Bytes::len);
        }
    };
    // Whether it ended or not, the answer goes out.
    let _ = timeout(DISCARD_FOR, reading).await;
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::StreamExt;
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;

    use super::*;

    const MIB: usize = 1024 * 1024;

    fn room() -> Room {
        Room::new(ByteSize::from_mebibytes(16))
    }

    async fn received<B>(mut body: B, room: &Room) -> Result<(Bytes, Share), Unread>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let pace = Pace::new(Duration::from_secs(10));
        read(&mut body, ByteSize::from_mebibytes(4), &pace, room, Duration::from_secs(5)).await
    }

    /// A chunked body that sends pieces of 64 KiB with a pause before each.
    fn trickle(pieces: usize, pause: Duration) -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
        StreamBody::new(Box::pin(futures::stream::iter(0..pieces).then(move |_| async move {
            tokio::time::sleep(pause).await;
            Ok(Frame::data(Bytes::from(vec![b'x'; 64 * 1024])))
        })))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_comes_whole_with_its_share_and_gives_it_back() {
        let room = room();
        let (told, first) = received(Full::new(Bytes::from_static(b"small")), &room).await.unwrap();
        let (chunked, second) = received(trickle(10, Duration::ZERO), &room).await.unwrap();

        assert_eq!((&told[..], chunked.len()), (&b"small"[..], 10 * 64 * 1024));
        assert_eq!(first.bytes(), 5);
        assert!((chunked.len()..2 * chunked.len()).contains(&second.bytes()), "{}", second.bytes());
        assert_eq!(room.free(), 16 * MIB - first.bytes() - second.bytes());
        drop((first, second));
        assert_eq!(room.free(), 16 * MIB);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_over_the_limit_is_refused_whether_it_says_so_or_not() {
        let room = room();
        let told = received(Full::new(Bytes::from(vec![0; 5 * MIB])), &room).await;
        let untold = received(trickle(65, Duration::ZERO), &room).await;

        assert_eq!((told.err(), untold.err()), (Some(Unread::TooLarge), Some(Unread::TooLarge)));
        assert!(received(trickle(64, Duration::ZERO), &room).await.is_ok());
        assert_eq!(room.free(), 16 * MIB);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stands_still_or_crawls_is_given_up() {
        let room = room();
        let stands = received(trickle(1, Duration::from_secs(11)), &room).await;
        let crawls = received(trickle(40, Duration::from_secs(9)), &room).await;
        let steady = received(trickle(60, Duration::from_millis(3_900)), &room).await;

        assert_eq!((stands.err(), crawls.err()), (Some(Unread::TooSlow), Some(Unread::TooSlow)));
        assert!(steady.is_ok(), "16 KiB a second is enough");
    }

    #[tokio::test(start_paused = true)]
    async fn without_room_a_sender_waits_and_is_then_told_to_come_again() {
        let room = room();
        let mut all = vec![room.take(16 * MIB).await];
        while room.free() > 0 {
            all.push(room.take(room.free().min(16 * 1024)).await);
        }

        let began = Instant::now();
        let refused = received(Full::new(Bytes::from_static(b"small")), &room).await;
        assert_eq!(refused.err(), Some(Unread::Busy));
        assert!(began.elapsed() >= Duration::from_secs(5));
        drop(all);
        assert!(received(Full::new(Bytes::from_static(b"small")), &room).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn slow_large_bodies_leave_room_for_small_ones() {
        let room = room();
        let mut slow = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let room = room.clone();
            slow.spawn(async move { received(trickle(16, Duration::from_secs(9)), &room).await.err() });
        }
        tokio::time::sleep(Duration::from_secs(20)).await;

        let small = received(Full::new(Bytes::from(vec![0; 10 * 1024])), &room);
        let small = timeout(Duration::from_millis(1), small).await;
        assert!(matches!(small, Ok(Ok(_))), "{} bytes are free", room.free());
        slow.shutdown().await;
        drop(small);
        assert_eq!(room.free(), 16 * MIB);
    }
}
