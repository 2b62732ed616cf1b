//! The waits between the attempts of a loop that must not give up and must not run hot.

use std::time::Duration;

use broker_model::{Backoff, Jitter};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long something must have worked for the next failure to be its first again.
pub const STABLE: Duration = Duration::from_secs(30);

/// Counts failures in a row and says how long to wait after each: growing, jittered, capped, and never nothing.
///
/// A connection that is made and lost at once, again and again, waits as one that is refused: only what worked for
/// [`STABLE`] counts as a success.
#[derive(Clone, Debug)]
pub struct Retries {
    backoff: Backoff,
    failures: u32,
    working_since: Option<Instant>,
}

impl Retries {
    /// For connections to an upstream: 100 ms to 30 s.
    pub fn reconnecting() -> Self {
        Retries::new(Backoff::RECONNECT)
    }

    /// For single requests on a connection that stands: 100 ms to 5 s.
    pub fn asking() -> Self {
        Retries::new(Backoff {
            min: Duration::from_millis(100),
            max: Duration::from_secs(5),
            jitter: Jitter::Equal,
        })
    }

    /// With waits of one's own.
    pub fn new(backoff: Backoff) -> Self {
        Retries { backoff, failures: 0, working_since: None }
    }

    /// It works from now on.
    pub fn works(&mut self) {
        self.working_since.get_or_insert_with(Instant::now);
    }

    /// What looked like working was waiting for a refusal, however long.
    pub fn never_worked(&mut self) {
        self.working_since = None;
    }

    /// An answer came that proves the way whole: the next failure is the first again. For requests that stand alone.
    pub fn answered(&mut self) {
        self.failures = 0;
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// It failed: how long to wait before the next attempt. `random` is uniform in `0.0..1.0`.
    pub fn failed_with(&mut self, random: f64) -> Duration {
        if self.working_since.take().is_some_and(|since| since.elapsed() >= STABLE) {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        self.backoff.wait(self.failures, random)
    }

    /// As [`Retries::failed_with`], with the thread's own randomness.
    pub fn failed(&mut self) -> Duration {
        self.failed_with(rand::random())
    }

    /// It failed: waits, at least as long as the upstream asked for. `false` when told to stop meanwhile.
    pub async fn wait(&mut self, at_least: Duration, shutdown: &CancellationToken) -> bool {
        let wait = self.failed().max(at_least);
        tokio::select! {
            biased;
            () = shutdown.cancelled() => false,
            () = tokio::time::sleep(wait) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(retries: &mut Retries, count: usize) -> Vec<u64> {
        (0..count).map(|_| retries.failed_with(1.0).as_millis() as u64).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn waits_double_up_to_the_cap() {
        assert_eq!(
            waits(&mut Retries::reconnecting(), 10),
            [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_works_for_a_moment_only_counts_as_a_failure() {
        let mut retries = Retries::reconnecting();
        waits(&mut retries, 5);
        retries.works();
        tokio::time::advance(STABLE - Duration::from_millis(1)).await;
        assert_eq!(waits(&mut retries, 1), [3200]);

        retries.works();
        tokio::time::advance(STABLE).await;
        assert_eq!(waits(&mut retries, 1), [100]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_of_failures_never_runs_hot() {
        let mut retries = Retries::asking();
        let (began, shutdown) = (Instant::now(), CancellationToken::new());
        for _ in 0..100 {
            assert!(retries.wait(Duration::ZERO, &shutdown).await);
        }
        assert!(began.elapsed() > Duration::from_secs(200), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_with_a_stop_and_lasts_as_long_as_it_was_asked_for() {
        let mut retries = Retries::asking();
        let (began, shutdown) = (Instant::now(), CancellationToken::new());
        assert!(retries.wait(Duration::from_secs(60), &shutdown).await);
        assert_eq!(began.elapsed(), Duration::from_secs(60));

        shutdown.cancel();
        assert!(!retries.wait(Duration::from_secs(60), &shutdown).await);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_begins_the_count_anew() {
        let mut retries = Retries::asking();
        waits(&mut retries, 3);
        retries.answered();

        assert_eq!((retries.failures(), waits(&mut retries, 1)), (0, vec![100]));
    }
}
