//! All sources of this process.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use connectors_sdk::{
    Capabilities, Clock, Connector, Demand, EventSink, HealthBoard, InvocationQueue, Pausable, Positions,
    Resumed, ScheduleAccess, Series, SettingsError, SourceContext, SourceName, SourceStatus, Sources,
    StoreError, Wildcards,
};

use crate::sink::CountedSink;
use crate::supervisor::{RestartCounts, Restarts, Supervisor};

/// What sources are given, and what the runtime itself needs.
#[derive(Clone)]
pub struct Ports {
    /// Takes events into custody.
    pub events: Arc<dyn EventSink>,
    /// Remembers what was received of partitions.
    pub positions: Arc<dyn Positions>,
    /// Remembers which sources are held.
    pub queue: Arc<dyn InvocationQueue>,
    /// Schedules, for the source that runs them.
    pub schedules: Option<ScheduleAccess>,
    /// What functions ask for.
    pub demand: watch::Receiver<Demand>,
    /// Whether a function list was loaded; nothing starts before.
    pub loaded: watch::Receiver<bool>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How long a source may take to stop before it is cut off.
    pub grace: Duration,
}

/// One source as the configuration has it.
#[derive(Clone)]
pub struct Configured {
    /// Its kind.
    pub connector: &'static dyn Connector,
    /// The kind's settings.
    pub settings: serde_json::Value,
    /// Whether the configuration holds it; an operator may hold it besides.
    pub paused: bool,
}

/// What became of sources when a configuration was applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// New ones.
    pub added: Vec<SourceName>,
    /// Stopped and started with other settings.
    pub changed: Vec<SourceName>,
    /// Stopped for good.
    pub removed: Vec<SourceName>,
    /// Held from now on, or no longer.
    pub paused: Vec<SourceName>,
}

/// The running sources. One per process.
pub struct SourcesRuntime {
    ports: Ports,
    running: Mutex<BTreeMap<SourceName, Running>>,
    /// Held while sources are being exchanged, so that two configurations never mix.
    changing: tokio::sync::Mutex<()>,
    stopping: CancellationToken,
}

struct Running {
    configured: Configured,
    capabilities: Capabilities,
    board: HealthBoard,
    restarts: Arc<RestartCounts>,
    paused: watch::Sender<bool>,
    stop: CancellationToken,
    late: Arc<AtomicBool>,
    task: Option<JoinHandle<()>>,
}

impl SourcesRuntime {
    /// No sources yet.
    pub fn new(ports: Ports) -> Arc<Self> {
        Arc::new(SourcesRuntime {
            ports,
            running: Mutex::default(),
            changing: tokio::sync::Mutex::new(()),
            stopping: CancellationToken::new(),
        })
    }

    /// Makes the running sources those of the configuration: starts new ones, stops those that are gone, exchanges those
    /// whose settings differ. The others run on. Returns when all is done, at the latest after the grace.
    ///
    /// # Errors
    /// Every source whose settings are wrong, each with all its problems; nothing was changed.
    pub async fn apply(
        &self,
        wanted: BTreeMap<SourceName, Configured>,
    ) -> Result<Changes, Vec<(SourceName, SettingsError)>> {
        let _changing = self.changing.lock().await;
        let mut capabilities = BTreeMap::new();
        let mut wrong = Vec::new();
        for (name, configured) in &wanted {
            match configured.connector.build(name, configured.settings.clone()) {
                Ok(source) => {
                    capabilities.insert(name.clone(), source.capabilities());
                }
                Err(error) => wrong.push((name.clone(), error)),
            }
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let mut changes = Changes::default();
        if self.stopping.is_cancelled() {
            return Ok(changes);
        }

        let mut leaving = Vec::new();
        for (name, running) in self.lock().iter() {
            match wanted.get(name) {
                None => changes.removed.push(name.clone()),
                Some(configured) if configured.same_as(&running.configured) => {
                    if configured.paused != running.configured.paused {
                        changes.paused.push(name.clone());
                    }
                    continue;
                }
                Some(_) => changes.changed.push(name.clone()),
            }
            leaving.push(name.clone());
        }
        let left = self.take_out(&leaving).await;
        for (name, configured) in wanted {
            if let Some(running) = self.lock().get_mut(&name) {
                running.configured.paused = configured.paused;
                running.hold(self.is_held(&name));
                continue;
            }
            let before = left.iter().find(|(gone, _)| *gone == name).map(|(_, running)| running);
            if before.is_none() {
                changes.added.push(name.clone());
            }
            let Some(&capabilities) = capabilities.get(&name) else {
                debug_assert!(false, "every wanted source was built above");
                continue;
            };
            self.start(name, configured, capabilities, before);
        }
        Ok(changes)
    }

    /// Stops a source and starts it afresh, with the settings it has. `false` when there is no such source.
    pub async fn restart(&self, name: &SourceName) -> bool {
        let _changing = self.changing.lock().await;
        if self.stopping.is_cancelled() {
            return self.lock().contains_key(name);
        }
        let Some((name, before)) = self.take_out(std::slice::from_ref(name)).await.pop() else {
            return false;
        };
        self.start(name, before.configured.clone(), before.capabilities, Some(&before));
        true
    }

    /// The metrics of connectors' own, by source.
    pub fn series(&self) -> Vec<(SourceName, Series)> {
        self.lock().iter().map(|(name, running)| (name.clone(), running.board.series())).collect()
    }

    /// How often each source was started again, by what ended it.
    pub fn restarts(&self) -> BTreeMap<SourceName, Restarts> {
        self.lock().iter().map(|(name, running)| (name.clone(), running.restarts.read())).collect()
    }

    /// Stops all sources, at the latest after the grace, and starts none any more. Answers which ones had to be cut off:
    /// what their upstreams were not told comes again, where upstreams replay.
    pub async fn stop(&self) -> Vec<SourceName> {
        self.stopping.cancel();
        let _changing = self.changing.lock().await;
        let mut tasks = Vec::new();
        for (name, running) in self.lock().iter_mut() {
            running.stop.cancel();
            tasks.extend(running.task.take().map(|task| (name.clone(), task)));
        }
        for (name, task) in tasks {
            joined(&name, task).await;
        }
        self.lock()
            .iter()
            .filter(|(_, running)| running.late.load(Ordering::Relaxed))
            .map(|(name, _)| name.clone())
            .collect()
    }

    fn start(
        &self,
        name: SourceName,
        configured: Configured,
        capabilities: Capabilities,
        before: Option<&Running>,
    ) {
        // What people read of a source goes on over a change of its settings.
        let board = before.map_or_else(|| HealthBoard::new(self.ports.clock.clone()), |b| b.board.clone());
        let restarts = before.map(|b| b.restarts.clone()).unwrap_or_default();
        let is_paused = configured.paused || self.is_held(&name);
        let (paused, paused_seen) = watch::channel(is_paused);
        let stop = CancellationToken::new();
        let late = Arc::<AtomicBool>::default();
        let supervisor = Supervisor {
            name: name.clone(),
            connector: configured.connector,
            settings: configured.settings.clone(),
            ctx: SourceContext {
                events: Arc::new(CountedSink { inner: self.ports.events.clone(), board: board.clone() }),
                demand: self.ports.demand.clone(),
                positions: self.ports.positions.clone(),
                schedules: self.ports.schedules.clone(),
                health: board.health(),
                shutdown: stop.clone(),
                clock: self.ports.clock.clone(),
            },
            board: board.clone(),
            restarts: restarts.clone(),
            loaded: self.ports.loaded.clone(),
            paused: paused_seen,
            stop: stop.clone(),
            grace: self.ports.grace,
            late: late.clone(),
        };
        info!(source = %name, kind = configured.connector.kind(), paused = is_paused, "source {name} starts");
        let task = Some(tokio::spawn(supervisor.run()));
        let running = Running { configured, capabilities, board, restarts, paused, stop, late, task };
        self.lock().insert(name, running);
    }

    /// Stops the named sources, all at once, and takes them out. They are listed until the last moment.
    async fn take_out(&self, names: &[SourceName]) -> Vec<(SourceName, Running)> {
        let mut tasks = Vec::new();
        for name in names {
            if let Some(running) = self.lock().get_mut(name) {
                running.stop.cancel();
                tasks.extend(running.task.take().map(|task| (name, task)));
            }
        }
        for (name, task) in tasks {
            joined(name, task).await;
        }
        names.iter().filter_map(|name| self.lock().remove_entry(name)).collect()
    }

    /// Whether its configuration holds it besides; `None` when there is no such source.
    async fn hold(&self, name: &SourceName, hold: bool) -> Result<Option<bool>, StoreError> {
        let _changing = self.changing.lock().await;
        if !self.lock().contains_key(name) {
            return Ok(None);
        }
        let what = Pausable::Source(name.clone());
        if hold {
            self.ports.queue.pause(what).await?;
        } else {
            self.ports.queue.resume(what).await?;
        }
        Ok(self.lock().get(name).map(|running| {
            running.hold(hold);
            running.configured.paused
        }))
    }

    /// Whether an operator holds it.
    fn is_held(&self, name: &SourceName) -> bool {
        self.ports.queue.paused().contains(&Pausable::Source(name.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SourceName, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    /// Holds the source when an operator or the configuration does.
    fn hold(&self, by_operator: bool) {
        let hold = by_operator || self.configured.paused;
        self.paused.send_if_modified(|paused| std::mem::replace(paused, hold) != hold);
    }
}

impl Configured {
    fn same_as(&self, other: &Configured) -> bool {
        self.connector.kind() == other.connector.kind() && self.settings == other.settings
    }
}

/// Waits for a supervisor, which catches what its source does and so has no reason to panic.
async fn joined(name: &SourceName, task: JoinHandle<()>) {
    if let Err(panic) = task.await {
        error!(source = %name, %panic, "the supervisor of source {name} panicked, a bug of ours");
    }
}

#[async_trait]
impl Sources for SourcesRuntime {
    fn list(&self) -> Vec<SourceStatus> {
        self.lock()
            .iter()
            .map(|(name, running)| {
                running.board.status(name.clone(), running.configured.connector.kind(), running.capabilities)
            })
            .collect()
    }

    fn wildcards(&self, name: &SourceName) -> Option<Wildcards> {
        Some(self.lock().get(name)?.configured.connector.wildcards())
    }

    /// Returns once it is remembered; the source then finishes what it has begun, and shows as paused when it has.
    async fn pause(&self, name: &SourceName) -> Result<bool, StoreError> {
        Ok(self.hold(name, true).await?.is_some())
    }

    async fn resume(&self, name: &SourceName) -> Result<Option<Resumed>, StoreError> {
        let held = self.hold(name, false).await?;
        Ok(held.map(|held| if held { Resumed::HeldByConfiguration } else { Resumed::Runs }))
    }

    async fn reset_positions(&self, name: &SourceName) -> Result<Option<usize>, StoreError> {
        let _changing = self.changing.lock().await;
        if self.stopping.is_cancelled() {
            return Ok(None);
        }
        // Stopped first: what it is receiving would count as received anew.
        let Some((name, before)) = self.take_out(std::slice::from_ref(name)).await.pop() else {
            return Ok(None);
        };
        let forgotten = self.ports.positions.reset_positions(&name).await;
        if let Ok(partitions) = &forgotten {
            info!(source = %name, "what was received of {partitions} partitions of source {name} is forgotten");
        }
        self.start(name, before.configured.clone(), before.capabilities, Some(&before));
        forgotten.map(Some)
    }
}
