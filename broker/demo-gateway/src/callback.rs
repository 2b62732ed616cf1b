//! A target for callback URLs.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::sync::broadcast;

use crate::activity::{Activity, Feed};
use crate::answer::{Answer, Dropped, ReplyBody};
use crate::function::Recording;
use crate::gateway::{header, kept, target_text};
use crate::listen::{Door, Listening, Peer, Respond};
use crate::record::{CallLog, Outcome, RecordedCall, TooFew, read};

/// Names that are posted to come from outside; past this many, callbacks are refused with 507.
const NAMES: usize = 4096;

const BODY_KEPT: usize = 64 * 1024;

const CALLBACKS_KEPT: usize = 10_000;

/// A plain HTTP server that records what is sent to `/callback/NAME` and answers as told, else 200.
///
/// It has a port of its own, because a gateway has no such route. Headers are recorded as they came: there is no
/// gateway in between, so `headers` and `wire_headers` of a record are the same. Clones are handles of the same
/// receiver; it stops when the last is dropped.
#[derive(Clone)]
pub struct CallbackReceiver(Arc<Handle>);

struct Handle {
    core: Arc<Core>,
    listening: Listening,
}

struct Core {
    names: Mutex<HashMap<String, Named>>,
    feed: Feed,
}

struct Named {
    log: Arc<CallLog>,
    planned: VecDeque<Answer>,
}

impl CallbackReceiver {
    /// Starts one on 127.0.0.1 and a free port.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start() -> io::Result<Self> {
        Self::on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?)
    }

    /// Starts one on this listener, in the runtime of the caller.
    ///
    /// # Errors
    /// When the listener has no address.
    pub fn on(listener: TcpListener) -> io::Result<Self> {
        let core = Arc::new(Core { names: Mutex::default(), feed: Feed::new() });
        let listening = Listening::start(listener, core.clone())?;
        Ok(Self(Arc::new(Handle { core, listening })))
    }

    /// The URL that posts to `name`.
    pub fn url(&self, name: &str) -> String {
        format!("http://{}/callback/{name}", self.addr())
    }

    /// The address it listens on, or did before it went down.
    pub fn addr(&self) -> SocketAddr {
        self.0.listening.address()
    }

    /// The callbacks recorded for `name`, oldest first.
    pub fn received(&self, name: &str) -> Vec<RecordedCall> {
        self.log(name).calls()
    }

    /// How many callbacks `name` got.
    pub fn count(&self, name: &str) -> u64 {
        self.log(name).count()
    }

    /// Waits until `name` got `count` callbacks, failed ones included, and gives the recorded ones.
    ///
    /// # Errors
    /// [`TooFew`] when there were fewer `within` this time.
    pub async fn wait_for(
        &self,
        name: &str,
        count: u64,
        within: Duration,
    ) -> Result<Vec<RecordedCall>, TooFew> {
        let log = self.log(name);
        log.wait(|| format!("{count} callbacks to {name:?}"), within, |log| log.count() >= count).await?;
        Ok(log.calls())
    }

    /// The next `times` callbacks to `name` are answered with this status, after what is already planned.
    ///
    /// # Panics
    /// When `status` is no HTTP status.
    pub fn fail_next(&self, name: &str, times: usize, status: u16) {
        self.answer_next(name, std::iter::repeat_n(Answer::status(status), times));
    }

    /// The next callbacks to `name` are answered so, one each, after what is already planned.
    pub fn answer_next(&self, name: &str, answers: impl IntoIterator<Item = Answer>) {
        if let Some(named) = self.0.core.names().named(name) {
            named.planned.extend(answers);
        }
    }

    /// What is received from now on, live.
    pub fn activity(&self) -> broadcast::Receiver<Activity> {
        self.0.core.feed.subscribe()
    }

    /// Refuses connections and cuts those that are open.
    ///
    /// # Errors
    /// When the port could not be kept, or the receiver was shut down.
    pub async fn go_down(&self) -> io::Result<()> {
        self.0.listening.close().await?;
        self.0.listening.cut_connections();
        Ok(())
    }

    /// Listens again on the same port.
    ///
    /// # Errors
    /// When the port could not be bound again, or the receiver was shut down.
    pub async fn come_back(&self) -> io::Result<()> {
        self.0.listening.open().await
    }

    /// What happens to connections that are accepted from now on.
    pub fn set_door(&self, door: Door) {
        self.0.listening.set_door(door);
    }

    /// How many connections were accepted since the start.
    pub fn accepted_connections(&self) -> u64 {
        self.0.listening.accepted()
    }

    /// Stops listening, cuts every connection and waits until all of it is gone.
    pub async fn shutdown(&self) {
        self.0.listening.shutdown().await;
    }

    fn log(&self, name: &str) -> Arc<CallLog> {
        match self.0.core.names().named(name) {
            Some(named) => named.log.clone(),
            None => CallLog::new(0),
        }
    }
}

impl fmt::Debug for CallbackReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CallbackReceiver").field(&self.addr()).finish()
    }
}

impl Core {
    fn names(&self) -> Names<'_> {
        Names(self.names.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct Names<'a>(MutexGuard<'a, HashMap<String, Named>>);

impl Names<'_> {
    fn named(&mut self, name: &str) -> Option<&mut Named> {
        if !self.0.contains_key(name) {
            if self.0.len() >= NAMES {
                return None;
            }
            let named = Named { log: CallLog::new(CALLBACKS_KEPT), planned: VecDeque::new() };
            self.0.insert(name.to_owned(), named);
        }
        self.0.get_mut(name)
    }
}

impl Respond for Core {
    async fn respond(&self, request: Request<Incoming>, peer: Peer) -> Result<Response<ReplyBody>, Dropped> {
        let arrived = (Instant::now(), SystemTime::now());
        let (head, body) = request.into_parts();
        let body = read(body, BODY_KEPT, true).await?;
        let Some(name) = head.uri.path().strip_prefix("/callback/").filter(|name| !name.is_empty()) else {
            return Answer::plain(StatusCode::NOT_FOUND, "404 page not found\n").play().await;
        };
        let found = self.names().named(name).map(|named| (named.log.clone(), named.planned.pop_front()));
        let Some((log, planned)) = found else {
            return Answer::plain(StatusCode::INSUFFICIENT_STORAGE, "too many names\n").play().await;
        };
        let running = log.begin(|number| {
            Some(RecordedCall {
                number,
                function: name.to_owned(),
                written: name.to_owned(),
                method: head.method.clone(),
                target: target_text(&head.uri),
                headers: head.headers.clone(),
                wire_headers: head.headers.clone(),
                body: kept(&body.bytes, Recording::Everything, BODY_KEPT),
                body_len: body.len,
                body_sha256: body.sha256,
                connection: peer.connection,
                arrived: arrived.0,
                arrived_at: arrived.1,
                outcome: Outcome::Running,
                took: None,
            })
        });
        let response = planned.unwrap_or_else(|| Answer::status(StatusCode::OK)).play().await;
        let status = response.as_ref().ok().map(Response::status);
        running.end(status.map_or(Outcome::Dropped, Outcome::Answered));
        self.feed.tell(|| Activity::CalledBack {
            name: name.to_owned(),
            call_id: header(&head.headers, "x-call-id"),
            function_status: Some(header(&head.headers, "x-function-status")).filter(|text| !text.is_empty()),
            status,
        });
        response
    }
}
