//! Time in the hands of a test.
//!
//! Three ways to run, each with its runtime:
//! * *simulated hours* ([`TestClock::start`] on a paused runtime): time leaps to the next timer whenever nothing runs. Right
//!   where everything happens on the runtime, as with the reference store;
//! * *held time* ([`TestClock::hold`] on a paused runtime): time moves by [`TestClock::pass`] only. Right where threads
//!   of their own work beside the runtime, which a leap would overtake;
//! * *real time* ([`TestClock::start`] on any other runtime): for real sockets and for stress.

use std::fmt::{self, Display};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use broker_model::{Clock, Timestamp};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Both clocks, driven by tokio's: paused with it, advanced with it. Only the wall clock can be made to jump.
///
/// Readable from any thread: it looks at the time of the runtime it was made on.
pub struct TestClock {
    runtime: Handle,
    origin: Instant,
    jumped: AtomicI64,
    held: Option<mpsc::Sender<()>>,
}

impl TestClock {
    /// Where the wall clock of every test begins: 2026-01-01T00:00:00Z.
    pub const BEGINNING: Timestamp = Timestamp::from_millis(1_767_225_600_000);

    /// A clock that runs as the current runtime's time does.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn start() -> Arc<TestClock> {
        Arc::new(TestClock::new(None))
    }

    /// A clock that moves by [`TestClock::pass`] only: while it lives, the paused runtime does not leap to its next timer.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn hold() -> Arc<TestClock> {
        // A paused runtime leaps only while no blocking task runs; this one runs until the clock is dropped.
        let (held, until_dropped) = mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || until_dropped.recv());
        Arc::new(TestClock::new(Some(held)))
    }

    fn new(held: Option<mpsc::Sender<()>>) -> TestClock {
        TestClock { runtime: Handle::current(), origin: Instant::now(), jumped: AtomicI64::new(0), held }
    }

    /// Lets `by` pass on both clocks, and runs what became due up to its first wait for somebody else.
    ///
    /// # Panics
    /// On a runtime that is not paused.
    pub async fn pass(&self, by: Duration) {
        tokio::time::advance(by).await;
        breathe().await;
    }

    /// Sets the wall clock forward, as a correction by NTP does. Nothing passes on the monotonic clock.
    pub fn jump_ahead(&self, by: Duration) {
        self.jumped.fetch_add(nanos(by), Ordering::SeqCst);
    }

    /// Sets the wall clock back.
    pub fn jump_back(&self, by: Duration) {
        self.jumped.fetch_sub(nanos(by), Ordering::SeqCst);
    }
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let running = TestClock::BEGINNING + self.monotonic();
        let jumped = self.jumped.load(Ordering::SeqCst);
        Timestamp::from_nanos(running.as_nanos().saturating_add_signed(jumped))
    }

    fn monotonic(&self) -> Duration {
        // Threads outside the runtime would read real time otherwise.
        let _inside = self.runtime.enter();
        self.origin.elapsed()
    }
}

impl fmt::Debug for TestClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.held.is_some() { "held" } else { "running" };
        write!(f, "TestClock({kind}, {:?}, wall {:?})", self.monotonic(), self.now())
    }
}

/// Gives every other task a few turns.
pub async fn breathe() {
    for _ in 0..16 {
        tokio::task::yield_now().await;
    }
}

/// What a probe of [`eventually`] answers: a `bool`, an `Option`, or a `Result` whose error says what is there instead.
pub trait Seen {
    /// What is handed out once it is there.
    type Value;

    /// The value, or what is there instead.
    ///
    /// # Errors
    /// What the failure message should show.
    fn seen(self) -> Result<Self::Value, String>;
}

impl Seen for bool {
    type Value = ();

    fn seen(self) -> Result<(), String> {
        if self { Ok(()) } else { Err("it is not so".into()) }
    }
}

impl<T> Seen for Option<T> {
    type Value = T;

    fn seen(self) -> Result<T, String> {
        self.ok_or_else(|| "it is not there".into())
    }
}

impl<T, E: Display> Seen for Result<T, E> {
    type Value = T;

    fn seen(self) -> Result<T, String> {
        self.map_err(|error| error.to_string())
    }
}

/// Asks `probe` again and again until it sees `what`, for at most `deadline` of the runtime's time.
///
/// On a paused runtime the deadline is simulated time, so that an hour costs nothing; not for held time.
///
/// # Panics
/// At the deadline, with `what` and the last answer.
pub async fn eventually<S: Seen>(
    deadline: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> S,
) -> S::Value {
    let began = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        let instead = match probe().await.seen() {
            Ok(value) => return value,
            Err(instead) => instead,
        };
        assert!(began.elapsed() < deadline, "waited {deadline:?} for {what}; {instead}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// As [`eventually`], for held time: the deadline is real, and no time passes on the runtime.
///
/// # Panics
/// At the deadline, with `what` and the last answer.
pub async fn eventually_in_held_time<S: Seen>(
    deadline: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> S,
) -> S::Value {
    let began = std::time::Instant::now();
    loop {
        let instead = match probe().await.seen() {
            Ok(value) => return value,
            Err(instead) => instead,
        };
        assert!(began.elapsed() < deadline, "waited {deadline:?} for {what}; {instead}");
        a_real_moment().await;
    }
}

/// A millisecond for threads that work beside a runtime whose time is held.
pub async fn a_real_moment() {
    breathe().await;
    // Only a sleeping thread lets real time pass while the runtime's own is held.
    let _ = tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(1))).await;
}

/// Runs `work` for at most `limit` of real time, also where the runtime's time is held.
///
/// # Panics
/// At the limit, with `what`.
pub async fn within<T>(limit: Duration, what: &str, work: impl Future<Output = T>) -> T {
    let (alarm, alarmed) = oneshot::channel();
    let (finished, watch) = mpsc::channel::<()>();
    let watchman = std::thread::spawn(move || {
        if watch.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
            let _ = alarm.send(());
        }
    });
    let result = tokio::select! {
        biased;
        result = work => Some(result),
        Ok(()) = alarmed => None,
    };
    drop(finished);
    let _ = watchman.join();
    result.unwrap_or_else(|| panic!("{what} is not done after {limit:?} of real time"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn held_time_moves_by_hand_only_while_threads_work() {
        let clock = TestClock::hold();
        let waiting = tokio::spawn(tokio::time::sleep(Duration::from_secs(3600)));

        for _ in 0..5 {
            a_real_moment().await;
        }
        assert_eq!(clock.monotonic(), Duration::ZERO);
        assert!(!waiting.is_finished());

        clock.pass(Duration::from_secs(3601)).await;
        assert!(waiting.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn other_threads_read_the_same_clock() {
        let clock = TestClock::hold();
        clock.pass(Duration::from_secs(42)).await;

        let elsewhere = clock.clone();
        let read = std::thread::spawn(move || elsewhere.monotonic()).join().unwrap();

        assert_eq!(read, Duration::from_secs(42));
    }

    #[tokio::test(start_paused = true)]
    async fn a_jump_moves_the_wall_clock_alone() {
        let clock = TestClock::start();
        tokio::time::sleep(Duration::from_secs(10)).await;

        clock.jump_back(Duration::from_secs(60));
        assert_eq!(clock.now(), Timestamp::from_nanos(TestClock::BEGINNING.as_nanos() - 50_000_000_000));
        clock.jump_ahead(Duration::from_secs(120));
        assert_eq!(clock.now(), TestClock::BEGINNING + Duration::from_secs(70));
        assert_eq!(clock.monotonic(), Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn eventually_waits_simulated_hours_for_nothing() {
        let clock = TestClock::start();

        eventually(Duration::from_secs(7200), "an hour to pass", async || {
            clock.monotonic() >= Duration::from_secs(3600)
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "waited 5s for rain; the sky is blue")]
    async fn eventually_says_what_it_waited_for_and_what_is_there_instead() {
        eventually(Duration::from_secs(5), "rain", async || Err::<(), _>("the sky is blue")).await;
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "the impossible is not done after 20ms of real time")]
    async fn a_real_limit_ends_what_hangs_in_held_time() {
        let _clock = TestClock::hold();

        within(Duration::from_millis(20), "the impossible", std::future::pending::<()>()).await;
    }
}
