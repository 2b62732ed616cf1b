//! The product, or a server beside it, as a process that cannot fail unseen.
//!
//! A [`Process`] keeps what it prints. When it is dropped at the end of a passing test it fails that test if the process
//! logged an error the test did not declare, died by itself, would not end, or left processes of its own behind. It ends
//! only what it started, by id; also when the test process itself is killed.

pub(crate) mod guardian;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process_group};
use serde_json::Value;

use crate::time::eventually;

/// How much of what a process printed a failure shows.
const SHOWN: usize = 60;

/// A port that was free a moment ago.
///
/// # Panics
/// When the system has none.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("loopback has a free port");
    listener.local_addr().expect("a bound listener has an address").port()
}

/// How a process is started, and what it may do.
#[derive(Clone, Debug)]
pub struct Program {
    name: String,
    path: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    directory: Option<PathBuf>,
    is_error: fn(&str) -> bool,
    grace: Duration,
}

impl Program {
    /// A program that logs JSON lines with a `level`, as Evoke does.
    ///
    /// Nothing of the test's own environment reaches it but `PATH`, `HOME` and `TMPDIR`.
    pub fn new(path: impl AsRef<Path>) -> Program {
        let path = path.as_ref().to_path_buf();
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Program {
            name,
            path,
            arguments: Vec::new(),
            environment: Vec::new(),
            directory: None,
            is_error: logs_an_error,
            grace: Duration::from_secs(40),
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<OsString>) -> Program {
        self.arguments.push(argument.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn arguments<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Program {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn environment(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Program {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// The directory in which it runs.
    #[must_use]
    pub fn directory(mut self, directory: impl AsRef<Path>) -> Program {
        self.directory = Some(directory.as_ref().to_path_buf());
        self
    }

    /// Which of its lines are errors, for programs that do not log JSON.
    #[must_use]
    pub fn errors(mut self, is_error: fn(&str) -> bool) -> Program {
        self.is_error = is_error;
        self
    }

    /// How long it may take to end after SIGTERM.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Program {
        self.grace = grace;
        self
    }

    /// Starts it so that it outlives this process, in a process group of its own, and hands out its process id. What it
    /// prints is added to the file `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn detach(&self, log: &Path) -> std::io::Result<u32> {
        let log = std::fs::File::options().create(true).append(true).open(log)?;
        let mut command = self.command();
        command.stdout(log.try_clone()?).stderr(log);
        command.spawn().map(|child| child.id())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).env_clear();
        for kept in ["PATH", "HOME", "TMPDIR"] {
            // The harness is told by its caller's environment where things are, as every program is.
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        command.stdin(Stdio::null()).process_group(0);
        command
    }

    /// Starts it, in a process group of its own.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(self) -> Process {
        let running = Running::start(&self, &Log::default());
        let log = running.log.clone();
        Process { program: self, log, running: Some(running), expected: Vec::new(), ended: None }
    }
}

/// Whether a JSON line has the level of an error, or any line tells of a panic.
fn logs_an_error(line: &str) -> bool {
    if line.contains("panicked at") {
        return true;
    }
    let level = serde_json::from_str::<Value>(line)
        .ok()
        .and_then(|line| Some(line.get("level")?.as_str()?.to_owned()));
    level.is_some_and(|level| level.eq_ignore_ascii_case("error"))
}

/// What a process printed, on both streams, over all its lives.
#[derive(Clone, Default)]
struct Log(Arc<(Mutex<VecDeque<String>>, Condvar)>);

impl Log {
    fn lines(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, line: String) {
        self.lines().push_back(line);
        self.0.1.notify_all();
    }

    fn tail(&self) -> String {
        let lines = self.lines();
        let skipped = lines.len().saturating_sub(SHOWN);
        let shown: Vec<&str> = lines.iter().skip(skipped).map(String::as_str).collect();
        shown.join("\n")
    }
}

/// One life of a process.
struct Running {
    child: Child,
    pid: Pid,
    log: Log,
    readers: Vec<JoinHandle<()>>,
}

impl Running {
    fn start(program: &Program, log: &Log) -> Running {
        let mut command = program.command();
        command.env(guardian::MARK, guardian::mark()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", program.path.display()));
        let pid = Pid::from_child(&child);
        let mut readers = Vec::new();
        readers.extend(child.stdout.take().map(|stream| read_lines(stream, log.clone())));
        readers.extend(child.stderr.take().map(|stream| read_lines(stream, log.clone())));
        Running { child, pid, log: log.clone(), readers }
    }

    /// Waits for its end, for at most `limit`.
    fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let began = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if began.elapsed() < limit => std::thread::sleep(Duration::from_millis(5)),
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// Whether processes that it started outlive it by more than a moment; they are ended.
    fn leaves_others(&mut self) -> bool {
        // The group has its leader's id, and only what the leader started can be in it.
        let (began, patience) = (Instant::now(), Duration::from_secs(2));
        let mut left = test_kill_process_group(self.pid).is_ok();
        while left && began.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(5));
            left = test_kill_process_group(self.pid).is_ok();
        }
        if left {
            let _ = kill_process_group(self.pid, Signal::KILL);
        }
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        left
    }
}

fn read_lines(stream: impl Read + Send + 'static, log: Log) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        // Bytes that are no text are kept as far as they are: a log must not end a test's reading of it.
        while stream.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            log.add(String::from_utf8_lossy(&line).trim_end().to_owned());
            line.clear();
        }
    })
}

/// A process under test.
pub struct Process {
    program: Program,
    log: Log,
    running: Option<Running>,
    expected: Vec<String>,
    ended: Option<String>,
}

impl Process {
    /// Declares that an error line with this text is right in this test.
    pub fn expect_error(&mut self, text: impl Into<String>) {
        self.expected.push(text.into());
    }

    /// Its process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.child.id())
    }

    /// Everything it printed so far, over all its lives.
    pub fn log(&self) -> Vec<String> {
        self.log.lines().iter().cloned().collect()
    }

    /// The JSON lines of its log.
    pub fn json_log(&self) -> Vec<Value> {
        self.log.lines().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits, without a runtime, for a line that has this text, and hands it out.
    ///
    /// # Panics
    /// When none came within `limit`.
    pub fn wait_for_line(&self, text: &str, limit: Duration) -> String {
        let began = Instant::now();
        let mut lines = self.log.lines();
        loop {
            if let Some(line) = lines.iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            let left = limit.saturating_sub(began.elapsed());
            if left.is_zero() {
                drop(lines);
                panic!(
                    "{} did not say {text:?} within {limit:?}; it said\n{}",
                    self.program.name,
                    self.log.tail()
                );
            }
            let waited = self.log.0.1.wait_timeout(lines, left.min(Duration::from_millis(100)));
            lines = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until a GET of this path on this address answers 200.
    ///
    /// # Panics
    /// When it does not within `limit`, or the process ends meanwhile.
    pub async fn ready(&mut self, at: SocketAddr, path: &str, limit: Duration) {
        let name = self.program.name.clone();
        eventually(limit, &format!("{name} to answer {path} at {at}"), async || {
            if let Some(status) = self.has_ended() {
                panic!("{name} ended ({status}) before it was ready; it said\n{}", self.log.tail());
            }
            match get(at, path).await {
                Ok(200) => Ok(()),
                Ok(status) => Err(format!("it answers {status}; its log:\n{}", self.log.tail())),
                Err(error) => Err(format!("{error}; its log:\n{}", self.log.tail())),
            }
        })
        .await;
    }

    /// Waits until something listens on this address.
    ///
    /// # Panics
    /// When nothing does within `limit`, or the process ends meanwhile.
    pub async fn listens(&mut self, at: SocketAddr, limit: Duration) {
        // A loop of its own: what waits in an async closure is not seen to be `Send` by an async trait that awaits it.
        let (name, began) = (self.program.name.clone(), Instant::now());
        while let Err(error) = tokio::net::TcpStream::connect(at).await {
            if let Some(status) = self.has_ended() {
                panic!("{name} ended ({status}) before it listened; it said\n{}", self.log.tail());
            }
            assert!(began.elapsed() < limit, "waited {limit:?} for {name} to listen at {at}; {error}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Gives it up: ends it with whatever it started, asks nothing of its end, and hands out the last it said.
    pub fn discard(mut self) -> String {
        if let Some(mut running) = self.running.take() {
            let _ = kill_process_group(running.pid, Signal::KILL);
            let _ = running.child.wait();
            running.leaves_others();
        }
        let said = self.log.tail();
        self.log.lines().clear();
        said
    }

    /// How it ended, if it did by itself.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.running.as_mut().and_then(|running| running.child.try_wait().ok().flatten())
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it does not run.
    pub fn signal(&self, signal: Signal) {
        let running = self.running.as_ref().expect("a process that runs is signalled");
        kill_process(running.pid, signal).expect("our own child can be signalled until it is waited for");
    }

    /// Ends it as a crash does (SIGKILL), with whatever it started: a crash cannot be asked to tidy up.
    ///
    /// # Panics
    /// When it had ended by itself.
    pub fn kill(&mut self) {
        self.check_alive();
        if let Some(running) = &self.running {
            kill_process_group(running.pid, Signal::KILL).expect("our own child's group can be signalled");
        }
        self.take_end("SIGKILL", Duration::from_secs(30));
    }

    /// Asks it to end (SIGTERM), and waits until it has.
    ///
    /// # Panics
    /// When it had ended by itself, does not end within its grace, or leaves processes of its own behind.
    pub fn terminate(&mut self) -> ExitStatus {
        self.check_alive();
        self.signal(Signal::TERM);
        self.take_end("SIGTERM", self.program.grace)
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// When it does not within `limit`, or leaves processes of its own behind.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        self.take_end("nothing", limit)
    }

    /// Starts it again, as it was started; killed or ended before.
    ///
    /// # Panics
    /// When it still runs, or cannot be started.
    pub fn start_again(&mut self) {
        assert!(self.running.is_none(), "{} still runs", self.program.name);
        self.running = Some(Running::start(&self.program, &self.log));
    }

    /// Ends it with SIGTERM and starts it again.
    ///
    /// # Panics
    /// As [`Process::terminate`] and [`Process::start_again`].
    pub fn restart(&mut self) {
        self.terminate();
        self.start_again();
    }

    fn check_alive(&mut self) {
        if let Some(status) = self.has_ended() {
            panic!("{} ended by itself ({}); it said\n{}", self.program.name, shown(status), self.log.tail());
        }
    }

    fn take_end(&mut self, after: &str, limit: Duration) -> ExitStatus {
        let Some(mut running) = self.running.take() else { panic!("{} does not run", self.program.name) };
        let ended = running.wait(limit);
        if ended.is_none() {
            let _ = kill_process_group(running.pid, Signal::KILL);
            let _ = running.child.wait();
        }
        let left = running.leaves_others();
        let name = &self.program.name;
        let Some(status) = ended else {
            panic!("{name} was left behind {limit:?} after {after}; it said\n{}", self.log.tail());
        };
        assert!(!left, "{name} ended after {after} and left processes behind; it said\n{}", self.log.tail());
        self.ended = Some(shown(status));
        status
    }

    /// The error lines that no test declared.
    fn undeclared(&self) -> Vec<String> {
        let declared = |line: &str| self.expected.iter().any(|text| line.contains(text));
        let lines = self.log.lines();
        lines.iter().filter(|line| (self.program.is_error)(line) && !declared(line)).cloned().collect()
    }
}

fn shown(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            if let Some(mut running) = self.running.take() {
                let _ = kill_process_group(running.pid, Signal::KILL);
                let _ = running.child.wait();
                running.leaves_others();
            }
            eprintln!("--- {} said\n{}\n---", self.program.name, self.log.tail());
            return;
        }
        if self.running.is_some() {
            self.terminate();
        }
        let undeclared = self.undeclared();
        assert!(
            undeclared.is_empty(),
            "{} logged errors that this test did not declare:\n{}",
            self.program.name,
            undeclared.join("\n")
        );
    }
}

/// The status of a GET.
async fn get(at: SocketAddr, path: &str) -> Result<u16, String> {
    let exchange = async {
        let stream = tokio::net::TcpStream::connect(at).await.map_err(|error| error.to_string())?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        let request = hyper::Request::get(path)
            .header("host", at.to_string())
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        // The sender moves into its half, so that the connection ends with it.
        let answer = async move {
            let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
            let status = answer.status().as_u16();
            let _ = answer.into_body().collect().await;
            Ok(status)
        };
        tokio::join!(answer, connection).0
    };
    match tokio::time::timeout(Duration::from_secs(5), exchange).await {
        Ok(status) => status,
        Err(_) => Err("no answer within 5 s".into()),
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    fn shell(script: &str) -> Program {
        Program::new("/bin/sh").arguments(["-c", script]).grace(Duration::from_secs(2))
    }

    fn failure(test: impl FnOnce()) -> String {
        let panic = catch_unwind(AssertUnwindSafe(test)).expect_err("the harness fails this test");
        panic.downcast_ref::<String>().cloned().expect("the harness says why")
    }

    #[test]
    fn a_quiet_process_that_ends_when_told_is_fine() {
        let mut process = shell("echo up; trap 'exit 0' TERM; while :; do sleep 0.05; done").start();
        process.wait_for_line("up", Duration::from_secs(10));

        assert_eq!(process.terminate().code(), Some(0));
        process.start_again();
        process.kill();
        process.start_again();
        assert!(process.log().iter().all(|line| line == "up"));
    }

    #[test]
    fn an_error_in_the_log_fails_the_test_unless_declared() {
        const SAYS: &str =
            r#"echo '{"level":"ERROR","message":"the disk is gone"}'; echo '{"level":"INFO"}'"#;

        let why = failure(|| {
            let mut process = shell(SAYS).start();
            process.wait(Duration::from_secs(10));
        });
        assert!(why.contains("did not declare") && why.contains("the disk is gone"), "{why}");

        let mut declared = shell(SAYS).start();
        declared.expect_error("the disk is gone");
        declared.wait(Duration::from_secs(10));
        assert_eq!(declared.json_log().len(), 2);
    }

    #[test]
    fn a_panic_in_the_log_fails_the_test() {
        let why = failure(|| {
            shell("echo \"thread 'main' panicked at src/x.rs:1:1\" >&2")
                .start()
                .wait(Duration::from_secs(10));
        });
        assert!(why.contains("panicked at"), "{why}");
    }

    #[test]
    fn a_process_that_will_not_end_is_ended_and_fails_the_test() {
        let mut id = None;
        let why = failure(|| {
            let deaf = shell("trap '' TERM; echo up; while :; do sleep 0.05; done").start();
            deaf.wait_for_line("up", Duration::from_secs(10));
            id = deaf.id();
        });
        assert!(why.contains("left behind"), "{why}");
        assert!(!Path::new(&format!("/proc/{}", id.unwrap())).exists(), "it is gone all the same");
    }

    #[test]
    fn a_process_that_leaves_others_behind_fails_the_test() {
        let why = failure(|| {
            shell("sleep 600 >/dev/null 2>&1 & exit 0").start().wait(Duration::from_secs(10));
        });
        assert!(why.contains("left processes behind"), "{why}");
    }

    #[test]
    fn a_process_that_ends_by_itself_fails_the_test() {
        let why = failure(|| {
            let mut process = shell("exit 3").start();
            while process.has_ended().is_none() {
                std::thread::yield_now();
            }
            process.kill();
        });
        assert!(why.contains("ended by itself (exit code 3)"), "{why}");
    }

    #[test]
    fn a_failing_test_keeps_its_own_message_and_leaves_nothing() {
        let mut id = None;
        let why = failure(|| {
            let process = shell("echo '{\"level\":\"ERROR\"}'; sleep 600").start();
            id = process.id();
            panic!("{}", String::from("the test's own failure"));
        });
        assert_eq!(why, "the test's own failure");
        assert!(!Path::new(&format!("/proc/{}", id.unwrap())).exists());
    }

    #[test]
    fn the_environment_is_what_the_test_says() {
        let mut process = shell("echo \"$EVOKE_X-$CARGO_PKG_NAME-\"").environment("EVOKE_X", "1").start();
        process.wait_for_line("1--", Duration::from_secs(10));
        process.wait(Duration::from_secs(10));
    }

    #[tokio::test]
    async fn readiness_is_an_answer_of_200() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            for status in ["503 Service Unavailable", "503 Service Unavailable", "200 OK"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 1024]).await.unwrap();
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let mut process = shell("sleep 600").start();

        process.ready(at, "/readyz", Duration::from_secs(20)).await;

        server.await.unwrap();
        process.kill();
    }
}
