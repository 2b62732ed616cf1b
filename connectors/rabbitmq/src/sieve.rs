//! Keeps from the client what it cannot read.
//!
//! AMQP's short strings are UTF-8, and RabbitMQ does not look whether those in a message's properties are: a publisher may
//! write an id of any bytes. The client cannot read such a message, and hangs: no message behind it arrives, of whatever
//! queue, and nobody says so. So what comes from the server goes through a sieve. It puts, in place of properties that
//! cannot be read, ones that hold their bytes, and the message becomes a dead letter instead.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_rs::Tokio;
use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use futures::Stream;
use futures::io::{AsyncRead, AsyncWrite};
use lapin::protocol::basic::parse_properties;
use lapin::tcp::AsyncTcpStream;
use lapin::types::{AMQPValue, FieldTable};

/// The header that holds properties that cannot be read.
const UNREADABLE: &str = "evoke-unreadable-properties";

/// The bytes of a message's properties, where they could not be read.
pub(crate) fn unreadable(headers: &FieldTable) -> Option<&[u8]> {
    match headers.inner().get(UNREADABLE)? {
        AMQPValue::ByteArray(bytes) => Some(bytes.as_slice()),
        _ => None,
    }
}

/// Sifts a stream of frames, whatever the pieces in which it comes.
#[derive(Debug, Default)]
struct Sifter {
    /// The beginning of a frame that is not whole yet.
    begun: Vec<u8>,
    /// How much of the present frame passes as it is.
    passing: usize,
}

/// Type, channel and length of a frame.
const HEAD: usize = 7;

impl Sifter {
    fn sift(&mut self, mut bytes: &[u8], into: &mut Vec<u8>) {
        const CONTENT_HEADER: u8 = 2;
        while !bytes.is_empty() {
            if self.passing > 0 {
                let (passes, rest) = bytes.split_at(self.passing.min(bytes.len()));
                into.extend_from_slice(passes);
                self.passing -= passes.len();
                bytes = rest;
                continue;
            }
            let whole = match self.begun.get(3..HEAD) {
                Some(&[a, b, c, d]) => HEAD + u32::from_be_bytes([a, b, c, d]) as usize + 1,
                _ => HEAD,
            };
            let (more, rest) = bytes.split_at((whole - self.begun.len()).min(bytes.len()));
            self.begun.extend_from_slice(more);
            bytes = rest;
            let is_header = self.begun[0] == CONTENT_HEADER;
            if self.begun.len() == HEAD && whole == HEAD && !is_header {
                let length = u32::from_be_bytes([self.begun[3], self.begun[4], self.begun[5], self.begun[6]]);
                into.append(&mut self.begun);
                self.passing = length as usize + 1;
            } else if self.begun.len() == whole && whole > HEAD {
                match replaced(&self.begun) {
                    Some(frame) => into.extend(frame),
                    None => into.extend_from_slice(&self.begun),
                }
                self.begun.clear();
            }
        }
    }
}

/// The frame to put in place of a content header whose properties cannot be read.
fn replaced(frame: &[u8]) -> Option<Vec<u8>> {
    /// Class, weight and the body's size.
    const BEFORE: usize = 12;
    const HEADERS: u16 = 1 << 13;
    /// What every server's frames have room for.
    const ROOM: usize = 2048;
    let payload = frame.get(HEAD..frame.len() - 1)?;
    let (before, properties) = payload.split_at_checked(BEFORE)?;
    if matches!(parse_properties(properties), Ok((rest, _)) if rest.is_empty()) {
        return None;
    }
    // A frame must not become longer than the server's longest.
    let kept = &properties[..properties.len().min(payload.len().max(ROOM) - ROOM / 2)];
    let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes();
    let name = [&[u8::try_from(UNREADABLE.len()).unwrap_or(u8::MAX)], UNREADABLE.as_bytes()].concat();
    let entry = [&name, &b"x"[..], &length(kept.len()), kept].concat();
    let payload = [before, &HEADERS.to_be_bytes(), &length(entry.len()), &entry].concat();
    Some([&frame[..3], &length(payload.len()), &payload, &frame[frame.len() - 1..]].concat())
}

/// What the client reads from and writes to.
pub(crate) struct Sieve {
    stream: AsyncTcpStream<<Tokio as Reactor>::TcpStream>,
    sifter: Sifter,
    arrived: Box<[u8]>,
    /// Sifted, and read by the client up to `read`.
    sifted: Vec<u8>,
    read: usize,
}

impl Sieve {
    /// Before this stream of frames.
    pub(crate) fn before(stream: AsyncTcpStream<<Tokio as Reactor>::TcpStream>) -> Self {
        const ARRIVED: usize = 64 * 1024;
        Sieve {
            stream,
            sifter: Sifter::default(),
            arrived: vec![0; ARRIVED].into(),
            sifted: Vec::with_capacity(ARRIVED),
            read: 0,
        }
    }
}

impl AsyncRead for Sieve {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let Sieve { stream, sifter, arrived, sifted, read } = &mut *self;
        while *read == sifted.len() {
            sifted.clear();
            *read = 0;
            let length = ready!(Pin::new(&mut *stream).poll_read(cx, arrived))?;
            if length == 0 {
                return Poll::Ready(Ok(0));
            }
            sifter.sift(&arrived[..length], sifted);
        }
        let length = into.len().min(sifted.len() - *read);
        into[..length].copy_from_slice(&sifted[*read..*read + length]);
        *read += length;
        Poll::Ready(Ok(length))
    }
}

impl AsyncWrite for Sieve {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

/// The runtime of a client whose streams are sieves. It is given its stream, and opens none.
pub(crate) fn runtime() -> async_rs::Runtime<RuntimeParts<Tokio, Sieves>> {
    async_rs::Runtime::new(RuntimeParts::new(Tokio::current(), Sieves(Tokio::current())))
}

/// Tokio's reactor, but for its streams.
#[derive(Clone, Debug)]
pub(crate) struct Sieves(Tokio);

impl Reactor for Sieves {
    type TcpStream = Sieve;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H>(&self, _socket: H) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<Sieve, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, time: Duration) -> Self::Sleep {
        self.0.sleep(time)
    }

    fn interval(&self, time: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(time)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Sieve>> + Send + 'static {
        let stream = self.0.tcp_connect_addr(address);
        async { Ok(Sieve::before(AsyncTcpStream::Plain(stream.await?))) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MESSAGE_ID: u16 = 1 << 7;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[kind, 0, 1], &length[..], payload, &[0xce]].concat()
    }

    /// A content header with a message id of these bytes.
    fn header(id: &[u8]) -> Vec<u8> {
        let id = [&[u8::try_from(id.len()).unwrap()], id].concat();
        frame(2, &[&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1][..], &MESSAGE_ID.to_be_bytes(), &id].concat())
    }

    fn sifted(pieces: &[&[u8]]) -> Vec<u8> {
        let (mut sifter, mut into) = (Sifter::default(), Vec::new());
        pieces.iter().for_each(|piece| sifter.sift(piece, &mut into));
        into
    }

    #[test]
    fn what_can_be_read_passes_as_it_is() {
        let frames = [frame(1, b"method"), header(b"m-7"), frame(3, &[7; 5_000]), frame(8, b"")].concat();

        assert_eq!(sifted(&[&frames]), frames);
    }

    #[test]
    fn properties_that_cannot_be_read_are_replaced_by_their_bytes() {
        let came = sifted(&[&header(&[0xff, b'x'])]);

        // Type and channel stay, and class, weight and the body's size.
        assert_eq!((&came[..3], &came[HEAD..HEAD + 12]), (&[2, 0, 1][..], &header(b"")[HEAD..HEAD + 12]));
        let payload = &came[HEAD..came.len() - 1];
        assert_eq!(u32::from_be_bytes(came[3..HEAD].try_into().unwrap()) as usize, payload.len());
        let (rest, properties) = parse_properties(&payload[12..]).unwrap();
        assert!(rest.is_empty());
        let raw = unreadable(properties.headers().as_ref().unwrap()).unwrap();
        assert_eq!(raw, [&MESSAGE_ID.to_be_bytes()[..], &[2, 0xff, b'x']].concat());
    }

    #[test]
    fn long_properties_do_not_outgrow_a_frame() {
        let table = [&[0xff; 60_000][..]].concat();
        let long =
            frame(2, &[&[0; 12][..], &(1_u16 << 13).to_be_bytes(), &[0, 0, 0xea, 0x60], &table].concat());

        assert!(sifted(&[&long]).len() <= long.len());
    }

    proptest! {
        #[test]
        fn the_pieces_in_which_frames_come_change_nothing(
            frames in proptest::collection::vec(prop_oneof![
                (proptest::sample::select(vec![1_u8, 3, 8]), proptest::collection::vec(any::<u8>(), 0..40))
                    .prop_map(|(kind, payload)| frame(kind, &payload)),
                proptest::collection::vec(any::<u8>(), 0..8).prop_map(|id| header(&id)),
                proptest::collection::vec(any::<u8>(), 0..40).prop_map(|payload| frame(2, &payload)),
            ], 0..8),
            size in 1_usize..30,
        ) {
            let all = frames.concat();
            let pieces: Vec<&[u8]> = all.chunks(size).collect();

            prop_assert_eq!(sifted(&pieces), sifted(&[&all]));
            prop_assert_eq!(sifted(&frames.iter().map(Vec::as_slice).collect::<Vec<_>>()), sifted(&[&all]));
        }
    }
}
