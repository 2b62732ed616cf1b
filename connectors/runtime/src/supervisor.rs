//! One source's life: waiting, running, failing, running again, held, stopped.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use connectors_sdk::{
    Connector, HealthBoard, Retries, Retry, SourceContext, SourceError, SourceName, SourceState, describe,
};

/// How often a source was started again in this process, by what ended it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restarts {
    /// It returned an error.
    pub failed: u64,
    /// It panicked.
    pub panicked: u64,
    /// It returned without being told to stop.
    pub ended: u64,
}

#[derive(Default)]
pub(crate) struct RestartCounts {
    failed: AtomicU64,
    panicked: AtomicU64,
    ended: AtomicU64,
}

impl RestartCounts {
    pub(crate) fn read(&self) -> Restarts {
        let [failed, panicked, ended] =
            [&self.failed, &self.panicked, &self.ended].map(|count| count.load(Ordering::Relaxed));
        Restarts { failed, panicked, ended }
    }
}

/// Owns one source.
pub(crate) struct Supervisor {
    pub(crate) name: SourceName,
    pub(crate) connector: &'static dyn Connector,
    pub(crate) settings: serde_json::Value,
    pub(crate) ctx: SourceContext,
    pub(crate) board: HealthBoard,
    pub(crate) restarts: Arc<RestartCounts>,
    pub(crate) loaded: watch::Receiver<bool>,
    pub(crate) paused: watch::Receiver<bool>,
    pub(crate) stop: CancellationToken,
    pub(crate) grace: Duration,
    pub(crate) late: Arc<AtomicBool>,
}

/// How one run of a source was over.
enum Over {
    /// It was told to stop, for good or for a pause.
    Told,
    /// It ended by itself.
    Ended(Why),
}

/// Why a source ended by itself.
enum Why {
    Failed(SourceError),
    Panicked(String),
    Ended,
}

impl Supervisor {
    /// Runs the source again and again until it is stopped.
    pub(crate) async fn run(mut self) {
        let mut retries = Retries::reconnecting();
        while self.may_run().await {
            self.board.enter(SourceState::Connecting);
            retries.works();
            match self.one_run().await {
                Over::Told => retries = Retries::reconnecting(),
                Over::Ended(why) => {
                    let reached = !matches!(
                        why,
                        Why::Failed(SourceError::Unreachable { .. } | SourceError::Refused { .. })
                    );
                    if !reached {
                        retries.never_worked();
                    }
                    self.after(why, retries.failed()).await;
                }
            }
        }
        self.board.enter(SourceState::Stopped);
        info!(source = %self.name, "source {} stopped", self.name);
    }

    /// Waits until the source may run; `false` when it is to stop.
    async fn may_run(&mut self) -> bool {
        loop {
            if self.stop.is_cancelled() {
                return false;
            }
            if *self.paused.borrow_and_update() {
                self.board.enter(SourceState::Paused);
                tokio::select! {
                    () = self.stop.cancelled() => {}
                    changed = self.paused.changed() => if changed.is_err() { return false },
                }
            } else if !*self.loaded.borrow_and_update() {
                self.board.enter(SourceState::WaitingForFunctions);
                tokio::select! {
                    () = self.stop.cancelled() => {}
                    changed = self.paused.changed() => if changed.is_err() { return false },
                    // Without anybody left who could load a list, there is nothing but a stop to wait for.
                    changed = self.loaded.changed() => if changed.is_err() { self.stop.cancelled().await },
                }
            } else {
                return true;
            }
        }
    }

    async fn one_run(&mut self) -> Over {
        let source = match self.connector.build(&self.name, self.settings.clone()) {
            Ok(source) => source,
            // The settings were built once before they got here, and building does nothing but read them.
            Err(error) => {
                let key = error.problems.first().map_or_else(String::new, |problem| problem.key.clone());
                let error = SourceError::Misconfigured { key, what: error.to_string() };
                return Over::Ended(Why::Failed(error));
            }
        };
        let shutdown = CancellationToken::new();
        let ctx = SourceContext { shutdown: shutdown.clone(), ..self.ctx.clone() };
        // A task of its own, so that its panic ends here.
        let mut run = AbortOnDropHandle::new(tokio::spawn(source.run(ctx)));
        let result = tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            _ = self.paused.wait_for(|paused| *paused) => None,
            result = &mut run => Some(result),
        };
        match result {
            Some(Ok(Ok(()))) => Over::Ended(Why::Ended),
            Some(Ok(Err(error))) => Over::Ended(Why::Failed(error)),
            Some(Err(error)) => Over::Ended(Why::Panicked(match error.try_into_panic() {
                Ok(panic) => panic_message(&*panic),
                Err(error) => error.to_string(),
            })),
            None => {
                shutdown.cancel();
                self.wait_for_its_stop(run).await;
                Over::Told
            }
        }
    }

    async fn wait_for_its_stop(&self, mut run: AbortOnDropHandle<Result<(), SourceError>>) {
        match tokio::time::timeout(self.grace, &mut run).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => {
                warn!(source = %self.name, error = %describe(&error), "source {} stopped with an error", self.name);
                self.board.health().problem(describe(&error));
            }
            Ok(Err(join)) => {
                self.restarts.panicked.fetch_add(1, Ordering::Relaxed);
                error!(source = %self.name, error = %join, "source {} panicked while stopping", self.name);
                self.board.health().problem("it panicked while stopping");
            }
            Err(_elapsed) => {
                self.late.store(true, Ordering::Relaxed);
                let grace = self.grace;
                warn!(source = %self.name, ?grace, "source {} did not stop in time and is cut off", self.name);
                run.abort();
                // Only after this is it certain that it holds nothing any more.
                let _ = run.await;
            }
        }
    }

    /// Notes why the source ended, and waits before it may run again.
    async fn after(&mut self, why: Why, wait: Duration) {
        let name = &self.name;
        let retry = match &why {
            Why::Failed(error) => {
                self.restarts.failed.fetch_add(1, Ordering::Relaxed);
                self.board.health().disconnected(describe(error));
                error.retry()
            }
            Why::Panicked(message) => {
                self.restarts.panicked.fetch_add(1, Ordering::Relaxed);
                self.board.health().disconnected(format!("it panicked: {message}"));
                Retry::Soon
            }
            Why::Ended => {
                self.restarts.ended.fetch_add(1, Ordering::Relaxed);
                self.board.health().disconnected("it ended without being told to");
                Retry::Soon
            }
        };
        let wait = match retry {
            Retry::Never => None,
            Retry::Soon => Some(wait),
            Retry::After(at_least) => Some(wait.max(at_least)),
        };
        match &why {
            Why::Failed(error) => {
                warn!(source = %name, error = %describe(error), retry_in = ?wait, "source {name} lost its upstream");
            }
            Why::Panicked(message) => {
                error!(source = %name, panic = %message, retry_in = ?wait, "source {name} panicked, a bug of ours");
            }
            Why::Ended => {
                error!(source = %name, retry_in = ?wait, "source {name} ended by itself, a bug of ours");
            }
        }
        if wait.is_none() {
            self.board.enter(SourceState::Stopped);
        }
        let over = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                // Until somebody changes its settings, restarts it, or pauses and resumes it.
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.stop.cancelled() => {}
            _ = self.paused.changed() => {}
            () = over => {}
        }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}
