//! What a function, a fault or a callback target answers: a reply, or one of the ways there is none.

use std::fmt::Display;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};

/// The header by which the core says that it, and not the function, made this reply.
pub(crate) const INTERNAL: HeaderName = HeaderName::from_static("x-openfaas-internal");

const FILLER: &[u8] = &[b'.'; 64 * 1024];

/// An answer to one request, good or bad.
///
/// Start with a constructor, add to it with `with_header`, `retry_after` and `after`:
///
/// ```
/// # use std::time::Duration;
/// # use broker_demo_gateway::Answer;
/// let busy = Answer::status(503).retry_after("2").after(Duration::from_millis(20));
/// ```
#[derive(Clone, Debug)]
pub struct Answer {
    delay: Duration,
    ending: Ending,
    maker: Maker,
}

#[derive(Clone, Debug)]
enum Ending {
    Reply(Box<Reply>),
    Drop,
    Hang,
}

#[derive(Clone, Debug)]
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    payload: Payload,
}

#[derive(Clone, Debug)]
enum Payload {
    Whole(Bytes),
    Cut { sent: Bytes, announced: u64 },
    Filler(u64),
    Trickle { chunk: Bytes, every: Duration, chunks: u64 },
}

/// Who made a reply decides whether the watchdog measured it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Maker {
    Function,
    Core,
}

/// The connection is to be closed without (more of) an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is dropped on purpose")]
pub(crate) struct Dropped;

impl Answer {
    /// 200 with this body.
    pub fn ok(body: impl Into<Bytes>) -> Self {
        Self::status(StatusCode::OK).with_body(body)
    }

    /// This status with an empty body.
    ///
    /// # Panics
    /// When `status` is a number that is no HTTP status.
    pub fn status<S>(status: S) -> Self
    where
        StatusCode: TryFrom<S>,
    {
        let Ok(status) = StatusCode::try_from(status) else { panic!("not an HTTP status") };
        let reply = Reply { status, headers: HeaderMap::new(), payload: Payload::Whole(Bytes::new()) };
        Self { delay: Duration::ZERO, ending: Ending::Reply(Box::new(reply)), maker: Maker::Function }
    }

    /// 200 with this text as `application/json`; the text need not be JSON.
    pub fn json(text: impl Into<Bytes>) -> Self {
        Self::ok(text).with_header(CONTENT_TYPE, "application/json")
    }

    /// 200 with an HTML page, as an ingress or a login page answers.
    pub fn html(page: impl Into<Bytes>) -> Self {
        Self::ok(page).with_header(CONTENT_TYPE, "text/html; charset=utf-8")
    }

    /// The request is read, then the connection closes without a byte of a reply.
    pub fn drop_connection() -> Self {
        Self { delay: Duration::ZERO, ending: Ending::Drop, maker: Maker::Function }
    }

    /// The request is read and never answered; it ends when the caller leaves or the gateway shuts down.
    pub fn hang() -> Self {
        Self { delay: Duration::ZERO, ending: Ending::Hang, maker: Maker::Function }
    }

    /// 200 that announces `announced` bytes, sends only `sent`, and closes the connection.
    pub fn cut(sent: impl Into<Bytes>, announced: u64) -> Self {
        Self::status(StatusCode::OK).with_payload(Payload::Cut { sent: sent.into(), announced })
    }

    /// 200 with `length` bytes of filler, made while they are sent (so a length of many GiB costs nothing here).
    pub fn large(length: u64) -> Self {
        Self::status(StatusCode::OK).with_payload(Payload::Filler(length))
    }

    /// 200 whose body comes without an announced length: `chunks` times `chunk`, one `every` so often.
    pub fn trickle(chunk: impl Into<Bytes>, every: Duration, chunks: u64) -> Self {
        Self::status(StatusCode::OK).with_payload(Payload::Trickle { chunk: chunk.into(), every, chunks })
    }

    /// What a watchdog says at its `max_inflight`: 429 from the core, without `Retry-After`.
    pub fn max_inflight_reached(max_inflight: usize) -> Self {
        let text = format!("Concurrent request limit exceeded. Max concurrent requests: {max_inflight}\n");
        Self::from_core(429, "faas-middleware", text)
    }

    /// What a watchdog says to a caller without a valid function token: 401 from the core.
    pub fn function_auth_missing() -> Self {
        let challenge = "Bearer realm=\"IAM function invoke\"";
        Self::from_core(401, "faas-middleware", "unauthorized\n").with_header(WWW_AUTHENTICATE, challenge)
    }

    /// What a watchdog says when it cannot reach the function's process: an empty 500 from the core.
    pub fn process_unreachable() -> Self {
        Self::from_core(500, "of-watchdog", "")
    }

    /// What a watchdog says at its `exec_timeout`: an empty 504 from the core.
    pub fn exec_timeout() -> Self {
        Self::from_core(504, "of-watchdog", "")
    }

    /// What the provider says when a pod is starting or going away: 500 from the core.
    pub fn pod_unreachable(name: impl Display) -> Self {
        Self::from_core(500, "proxy", format!("Can't reach service for: {name}.\n"))
    }

    /// What the provider says when it has no replica of this name: 503 from the core.
    pub fn no_endpoints(name: impl Display) -> Self {
        Self::from_core(503, "proxy", format!("No endpoints available for: {name}.\n"))
    }

    /// What the gateway says when its upstream failed or took too long: 502, empty, without the internal header.
    pub fn bad_gateway() -> Self {
        Self { maker: Maker::Core, ..Self::status(StatusCode::BAD_GATEWAY) }
    }

    /// What the gateway says when it cannot find a function to scale: 404, without the internal header.
    pub fn not_found_by_gateway(full_name: impl Display) -> Self {
        let text = format!("error finding function {full_name}: no such function\n");
        Self::plain(StatusCode::NOT_FOUND, text)
    }

    /// A reply of the core itself, in plain text.
    pub(crate) fn plain(status: StatusCode, text: impl Into<Bytes>) -> Self {
        let reply = Self::status(status).with_body(text);
        Self { maker: Maker::Core, ..reply.with_header(CONTENT_TYPE, "text/plain; charset=utf-8") }
    }

    fn from_core(status: u16, part: &'static str, text: impl Into<Bytes>) -> Self {
        let text = text.into();
        let answer = Self::status(status).with_header(INTERNAL, part);
        let answer = match text.is_empty() {
            true => answer,
            false => answer.with_body(text).with_header(CONTENT_TYPE, "text/plain; charset=utf-8"),
        };
        Self { maker: Maker::Core, ..answer }
    }

    /// The same with this body.
    pub fn with_body(self, body: impl Into<Bytes>) -> Self {
        self.with_payload(Payload::Whole(body.into()))
    }

    /// The same with one more header; a name given twice is sent twice.
    ///
    /// # Panics
    /// When name or value cannot stand in a header.
    pub fn with_header<N, V>(mut self, name: N, value: V) -> Self
    where
        HeaderName: TryFrom<N>,
        HeaderValue: TryFrom<V>,
    {
        let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) else {
            panic!("not a header");
        };
        if let Ending::Reply(reply) = &mut self.ending {
            reply.headers.append(name, value);
        }
        self
    }

    /// The same with another status: `Answer::cut("{", 100).with_status(500)`.
    ///
    /// # Panics
    /// When `status` is a number that is no HTTP status.
    pub fn with_status<S>(mut self, status: S) -> Self
    where
        StatusCode: TryFrom<S>,
    {
        let Ok(status) = StatusCode::try_from(status) else { panic!("not an HTTP status") };
        if let Ending::Reply(reply) = &mut self.ending {
            reply.status = status;
        }
        self
    }

    /// The same with `Retry-After`: seconds, an HTTP date, or nonsense.
    pub fn retry_after(self, value: &str) -> Self {
        self.with_header(RETRY_AFTER, value)
    }

    /// The same, but only `delay` after the request was read. Also delays a dropped connection.
    pub fn after(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// Whether a watchdog would have put its duration on this reply.
    pub(crate) fn is_measured(&self) -> bool {
        self.maker == Maker::Function
    }

    /// Waits as told and makes the response, or says that there is none. Never returns for a hang.
    pub(crate) async fn play(self) -> Result<Response<ReplyBody>, Dropped> {
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        match self.ending {
            Ending::Drop => Err(Dropped),
            Ending::Hang => futures::future::pending().await,
            Ending::Reply(reply) => {
                let mut response = Response::new(ReplyBody::from(reply.payload));
                *response.status_mut() = reply.status;
                *response.headers_mut() = reply.headers;
                Ok(response)
            }
        }
    }

    fn with_payload(mut self, payload: Payload) -> Self {
        if let Ending::Reply(reply) = &mut self.ending {
            reply.payload = payload;
        }
        self
    }
}

/// The body of every response this crate sends.
pub(crate) enum ReplyBody {
    Whole(Bytes),
    Stream { chunks: BoxStream<'static, io::Result<Bytes>>, length: Option<u64> },
}

impl ReplyBody {
    /// The same announcement with half the bytes behind it, and then the end of the connection.
    pub(crate) fn half(self) -> Self {
        match self {
            Self::Whole(bytes) => {
                let announced = bytes.len() as u64;
                Self::from(Payload::Cut { sent: bytes.slice(..bytes.len() / 2), announced: announced.max(1) })
            }
            Self::Stream { length, .. } => {
                Self::from(Payload::Cut { sent: Bytes::new(), announced: length.unwrap_or(1) })
            }
        }
    }
}

impl From<Payload> for ReplyBody {
    fn from(payload: Payload) -> Self {
        match payload {
            Payload::Whole(bytes) => Self::Whole(bytes),
            Payload::Cut { sent, announced } => {
                let cut = futures::stream::once(async {
                    // Being pending once makes the server flush what came before; then the error closes.
                    tokio::task::yield_now().await;
                    Err(io::Error::other(Dropped))
                });
                let chunks = futures::stream::iter((!sent.is_empty()).then_some(Ok(sent))).chain(cut);
                Self::Stream { chunks: chunks.boxed(), length: Some(announced) }
            }
            Payload::Filler(length) => {
                let chunks = futures::stream::unfold(length, |left| async move {
                    let now = left.min(FILLER.len() as u64);
                    (now > 0).then(|| (Ok(Bytes::from_static(&FILLER[..now as usize])), left - now))
                });
                Self::Stream { chunks: chunks.boxed(), length: Some(length) }
            }
            Payload::Trickle { chunk, every, chunks } => {
                let chunks = futures::stream::unfold(chunks, move |left| {
                    let chunk = chunk.clone();
                    async move {
                        let left = left.checked_sub(1)?;
                        tokio::time::sleep(every).await;
                        Some((Ok(chunk), left))
                    }
                });
                Self::Stream { chunks: chunks.boxed(), length: None }
            }
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Stream { chunks, .. } => {
                chunks.poll_next_unpin(cx).map(|next| next.map(|c| c.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream { length: Some(length), .. } => SizeHint::with_exact(*length),
            Self::Stream { length: None, .. } => SizeHint::default(),
        }
    }
}
