//! What all kinds of servers have in common: a folder, ports, a process, and a question that tells whether it is up.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::future::BoxFuture;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::Port;
use crate::process::{Process, Program, guardian};

/// How a kind of server is started and asked whether it is up. The one definition that tests and the developer's command
/// `tests/servers` share. A value is its configuration.
// Boxed, so that the futures of generic tests that are sent to other threads are seen to be `Send`.
#[async_trait]
pub trait Kind: Send + Sync + 'static {
    /// What `tests/prepare` and `tests/servers` call it.
    const NAME: &'static str;

    /// How long it may take until it is up: a bound for a busy machine, many times what it takes on an idle one.
    const LIMIT: Duration = Duration::from_secs(30);

    /// What each of its ports is for. The first is the one clients use.
    fn ports(&self) -> Vec<&'static str>;

    /// Writes what it reads into its folder, and says how it is started. What it stored there earlier stays.
    ///
    /// # Errors
    /// With what is missing or cannot be written.
    fn program(&self, place: &Place) -> Result<Program, String>;

    /// A program that must listen before the server starts and runs as long as its folder is used, and its port.
    fn helper(&self, _place: &Place) -> Option<(Program, u16)> {
        None
    }

    /// Asks it in its own protocol whether it is up and warm. Asked again until it is.
    ///
    /// # Errors
    /// With what it answers instead.
    async fn is_ready(&self, place: &Place) -> Result<(), String>;
}

/// A server's folder and ports.
#[derive(Clone, Debug)]
pub struct Place {
    folder: PathBuf,
    ports: Vec<(&'static str, u16)>,
}

impl Place {
    /// This folder, with ports in the order of their purposes.
    pub fn new(folder: impl Into<PathBuf>, purposes: &[&'static str], ports: &[u16]) -> Place {
        let ports = purposes.iter().copied().zip(ports.iter().copied()).collect();
        Place { folder: folder.into(), ports }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The path of something in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The port for this purpose.
    ///
    /// # Panics
    /// When the kind has no such port.
    pub fn port(&self, purpose: &str) -> u16 {
        let found = self.ports.iter().find(|(known, _)| *known == purpose);
        found.unwrap_or_else(|| panic!("this server has no port for {purpose:?}, only {:?}", self.ports)).1
    }

    /// Where it listens for this purpose.
    ///
    /// # Panics
    /// As [`Place::port`].
    pub fn address(&self, purpose: &str) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port(purpose)))
    }

    /// All ports with their purposes.
    pub fn ports(&self) -> &[(&'static str, u16)] {
        &self.ports
    }

    /// Writes a file into the folder.
    ///
    /// # Errors
    /// With the path, when it cannot.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf, String> {
        let path = self.path(name);
        let written = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        written
            .and_then(|()| std::fs::write(&path, text))
            .map(|()| path.clone())
            .map_err(|error| format!("cannot write {}: {error}", path.display()))
    }
}

/// A running server of this test on loopback. Ended when dropped, as a crash does: its folder goes with it.
pub struct Server<K: Kind> {
    // Dropped in this order: the server, what it needs, what they used.
    process: Process,
    helper: Option<Process>,
    kind: K,
    place: Place,
    paused: bool,
    _ports: Vec<Port>,
    _folder: TempDir,
}

impl<K: Kind> Server<K> {
    /// Starts one that is configured as most tests want it.
    ///
    /// # Panics
    /// As [`Server::with`].
    pub fn start() -> BoxFuture<'static, Server<K>>
    where
        K: Default,
    {
        Server::with(K::default())
    }

    /// Starts one, and waits until it answers in its own protocol.
    ///
    /// # Panics
    /// When it cannot be installed or does not answer in time, with the end of what it said.
    pub fn with(kind: K) -> BoxFuture<'static, Server<K>> {
        // Boxed, so that whoever awaits it in an async trait is seen to be `Send`.
        Box::pin(async move { Server::try_with(kind).await.unwrap_or_else(|error| panic!("{error}")) })
    }

    /// As [`Server::with`], for a configuration that may be wrong.
    ///
    /// # Errors
    /// When it cannot be installed or does not answer in time, with the end of what it said.
    pub async fn try_with(kind: K) -> Result<Server<K>, String> {
        let folder = tempfile::Builder::new()
            .prefix(&format!("evoke-{}-", K::NAME))
            .tempdir()
            .map_err(|error| format!("no temporary folder for {}: {error}", K::NAME))?;
        guardian::removes(folder.path());
        let purposes = kind.ports();
        let ports: Vec<Port> = purposes.iter().map(|_| Port::reserve()).collect();
        let numbers: Vec<u16> = ports.iter().map(Port::number).collect();
        let place = Place::new(folder.path(), &purposes, &numbers);

        let program = kind.program(&place)?;
        let mut helper = None;
        if let Some((program, port)) = kind.helper(&place) {
            let began = Instant::now();
            let process = helper.insert(program.start());
            while tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err() {
                if process.has_ended().is_some() || began.elapsed() >= K::LIMIT {
                    let said = helper.take().map(Process::discard).unwrap_or_default();
                    return Err(format!("what {} needs does not listen; it said\n{said}", K::NAME));
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        let mut process = program.start();
        if let Err(error) = until_ready(&kind, &place, || {
            process.has_ended().map(|status| format!("{} ended by itself ({status})", K::NAME))
        })
        .await
        {
            return Err(format!("{error}; it said\n{}", process.discard()));
        }
        Ok(Server { process, helper, kind, place, paused: false, _ports: ports, _folder: folder })
    }

    /// Its configuration.
    pub fn kind(&self) -> &K {
        &self.kind
    }

    /// Its folder and ports.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Where clients reach it.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.place.ports[0].1))
    }

    /// Its process id, while it runs. What it starts itself is in the process group of this id.
    pub fn id(&self) -> Option<u32> {
        self.process.id()
    }

    /// The process, to read its log or to declare the errors it will log.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Ends it, as an operator does.
    pub fn terminate(&mut self) {
        self.process.terminate();
    }

    /// Ends it, as a crash does.
    pub fn kill(&mut self) {
        self.process.kill();
        self.paused = false;
    }

    /// Starts it again, on the same ports with what it stored, and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub async fn start_again(&mut self) {
        self.process.start_again();
        let process = &mut self.process;
        let ended = || process.has_ended().map(|status| format!("{} ended by itself ({status})", K::NAME));
        if let Err(error) = until_ready(&self.kind, &self.place, ended).await {
            panic!("{error}; it said\n{}", self.process.log().join("\n"));
        }
    }

    /// Stops it where it is (SIGSTOP): its connections stay open, and nothing moves on them.
    pub fn pause(&mut self) {
        self.process.signal(Signal::STOP);
        self.paused = true;
        // The signal only asks: until each thread stands, one may still answer what comes.
        let began = Instant::now();
        while !self.process.id().is_none_or(stands_still) && began.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&mut self) {
        self.process.signal(Signal::CONT);
        self.paused = false;
    }
}

/// Whether every thread of a process is stopped.
fn stands_still(id: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{id}/task")) else { return true };
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The state stands behind the name, which may hold anything; a thread that has gone has none.
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['T', 't', 'Z', 'X']))
    })
}

impl<K: Kind> Drop for Server<K> {
    fn drop(&mut self) {
        // A process that panics is tidied up by its own drop, which also shows what it said.
        if std::thread::panicking() || self.process.id().is_none() {
            return;
        }
        // What it would write while it ends goes with the folder.
        self.process.kill();
        if let Some(helper) = &mut self.helper {
            helper.kill();
        }
    }
}

/// Waits until a server is ready; `ended` says when there is nothing to wait for any more.
///
/// # Errors
/// With what it answers instead at the limit, or how it ended.
pub fn until_ready<'a, K: Kind>(
    kind: &'a K,
    place: &'a Place,
    mut ended: impl FnMut() -> Option<String> + Send + 'a,
) -> BoxFuture<'a, Result<(), String>> {
    // Boxed, because a future that holds the kind's own is not seen to be `Send` where its type is known.
    const ANSWER: Duration = Duration::from_secs(10);
    Box::pin(async move {
        // Real time, whatever the test's runtime does with its own.
        let began = Instant::now();
        let mut pause = Duration::from_millis(2);
        loop {
            let instead = match tokio::time::timeout(ANSWER, kind.is_ready(place)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(instead)) => instead,
                Err(_) => format!("no answer within {ANSWER:?}"),
            };
            if let Some(end) = ended() {
                return Err(end);
            }
            if began.elapsed() >= K::LIMIT {
                return Err(format!("{} is not ready after {:?}: {instead}", K::NAME, K::LIMIT));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    })
}

/// One server for all tests of a test binary, in a static. Started by the first that asks, ended with the process. Its
/// tests keep to queues and topics of their own.
pub struct Shared<K: Kind>(OnceCell<Server<K>>);

impl<K: Kind> Shared<K> {
    /// Nothing is started yet.
    pub const fn new() -> Shared<K> {
        Shared(OnceCell::const_new())
    }

    /// The server, configured as most tests want it.
    ///
    /// # Panics
    /// As [`Server::with`].
    pub async fn server(&self) -> &Server<K>
    where
        K: Default,
    {
        self.server_with(K::default).await
    }

    /// The server, configured by `kind` if it does not run yet.
    ///
    /// # Panics
    /// As [`Server::with`].
    pub async fn server_with(&self, kind: impl FnOnce() -> K) -> &Server<K> {
        self.0.get_or_init(|| Server::with(kind())).await
    }
}

impl<K: Kind> Default for Shared<K> {
    fn default() -> Self {
        Shared::new()
    }
}
