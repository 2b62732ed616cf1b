//! The functions that are deployed, and the logs of what was called.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use jiff::Timestamp;

use crate::function::Function;
use crate::record::CallLog;

/// Logs are also kept for names that are called without being deployed, up to this many names.
const LOGS: usize = 4096;

/// A function at work. An update makes a new one that shares what runs.
pub(crate) struct Deployed {
    pub(crate) function: Function,
    pub(crate) namespace: String,
    pub(crate) log: Arc<CallLog>,
    pub(crate) created: Timestamp,
    replicas: Arc<AtomicU32>,
    /// Calls running now, for `max_inflight`.
    running: Arc<AtomicUsize>,
}

/// Namespace, then name; sorted, so that lists are stable.
type Names = BTreeMap<String, BTreeMap<String, Arc<Deployed>>>;

pub(crate) struct Registry {
    names: RwLock<Names>,
    logs: Mutex<HashMap<String, Arc<CallLog>>>,
    /// Takes what no log of its own is left for.
    overflow: Arc<CallLog>,
    default_namespace: String,
    calls_kept: usize,
}

impl Registry {
    pub(crate) fn new(default_namespace: String, calls_kept: usize) -> Self {
        Self {
            names: RwLock::default(),
            logs: Mutex::default(),
            overflow: CallLog::new(calls_kept),
            default_namespace,
            calls_kept,
        }
    }

    pub(crate) fn default_namespace(&self) -> &str {
        &self.default_namespace
    }

    /// Name and namespace of a name as written: the last dot separates them.
    pub(crate) fn split<'a>(&'a self, written: &'a str) -> (&'a str, &'a str) {
        written.rsplit_once('.').unwrap_or((written, &self.default_namespace))
    }

    pub(crate) fn full_name(&self, written: &str) -> String {
        let (name, namespace) = self.split(written);
        format!("{name}.{namespace}")
    }

    pub(crate) fn find(&self, written: &str) -> Option<Arc<Deployed>> {
        let (name, namespace) = self.split(written);
        self.read().get(namespace)?.get(name).cloned()
    }

    pub(crate) fn list(&self, namespace: Option<&str>) -> Vec<Arc<Deployed>> {
        let names = self.read();
        let wanted = names.iter().filter(|(name, _)| namespace.is_none_or(|wanted| wanted == *name));
        wanted.flat_map(|(_, functions)| functions.values().cloned()).collect()
    }

    /// Deploys, or replaces the function of that name. Its calls so far stay recorded.
    pub(crate) fn deploy(&self, function: Function) {
        let namespace = function.namespace.clone().unwrap_or_else(|| self.default_namespace.clone());
        let deployed = Deployed {
            log: self.log(&format!("{}.{namespace}", function.name)),
            created: Timestamp::now(),
            replicas: Arc::new(AtomicU32::new(function.replicas)),
            running: Arc::default(),
            namespace: namespace.clone(),
            function,
        };
        let mut names = self.write();
        names.entry(namespace).or_default().insert(deployed.function.name.clone(), Arc::new(deployed));
    }

    /// Changes what is told about a function; what runs goes on. `false` when there is none of this name.
    pub(crate) fn update(&self, written: &str, change: impl FnOnce(&mut Function)) -> bool {
        let (name, namespace) = self.split(written);
        let mut names = self.write();
        let Some(deployed) = names.get_mut(namespace).and_then(|functions| functions.get_mut(name)) else {
            return false;
        };
        let mut function = deployed.function.clone();
        change(&mut function);
        *deployed = Arc::new(Deployed {
            function,
            namespace: deployed.namespace.clone(),
            log: deployed.log.clone(),
            created: deployed.created,
            replicas: deployed.replicas.clone(),
            running: deployed.running.clone(),
        });
        true
    }

    pub(crate) fn remove(&self, written: &str) -> bool {
        let (name, namespace) = self.split(written);
        self.write().get_mut(namespace).is_some_and(|functions| functions.remove(name).is_some())
    }

    /// The log of a name, deployed or not.
    pub(crate) fn log(&self, full_name: &str) -> Arc<CallLog> {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(log) = logs.get(full_name) {
            return log.clone();
        }
        if logs.len() >= LOGS {
            return self.overflow.clone();
        }
        let log = CallLog::new(self.calls_kept);
        logs.insert(full_name.to_owned(), log.clone());
        log
    }

    fn read(&self) -> RwLockReadGuard<'_, Names> {
        self.names.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Names> {
        self.names.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deployed {
    pub(crate) fn replicas(&self) -> u32 {
        self.replicas.load(Ordering::Relaxed)
    }

    pub(crate) fn scale(&self, replicas: u32) {
        self.replicas.store(replicas, Ordering::Relaxed);
    }

    /// Takes one of the `max_inflight` places; the error is how many there are.
    pub(crate) fn enter(&self) -> Result<Place, usize> {
        let limit = self.function.max_inflight.unwrap_or(usize::MAX);
        let enter = |running| (running < limit).then_some(running + 1);
        match self.running.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enter) {
            Ok(_) => Ok(Place(self.running.clone())),
            Err(_) => Err(limit),
        }
    }
}

/// A place among the running calls, given back when dropped.
pub(crate) struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
