//! Keeps the function list: asks the gateway, believes only complete lists, remembers the last one.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use broker_model::{Clock, Function, FunctionName, FunctionTable, Timestamp};

use crate::dispatch::Live;
use crate::functions::{ListProblem, State, annotations, table_file};
use crate::gateway::listing::ListedFunction;

/// Complete lists a function must be missing from before it is taken for gone.
const GONE_AFTER: u8 = 3;

/// Asks for the list, again and again. It never ends because of what it got.
pub(crate) struct Watcher {
    pub(crate) state: Arc<State>,
    pub(crate) live: Arc<arc_swap::ArcSwap<Live>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) file: Option<PathBuf>,
    pub(crate) sooner: Arc<Notify>,
}

/// Which functions are known, and how often each was missing lately. Pure.
#[derive(Default)]
pub(crate) struct Known {
    listed: HashMap<FunctionName, (ListedFunction, u8)>,
}

impl Known {
    /// Takes in a complete list; names that cannot be called are left out and returned.
    pub(crate) fn merge(&mut self, list: Vec<ListedFunction>, default_namespace: &str) -> Vec<String> {
        for (_, missing) in self.listed.values_mut() {
            *missing += 1;
        }
        let mut unusable = Vec::new();
        for listed in list {
            match name_of(&listed, default_namespace) {
                Some(name) => {
                    self.listed.insert(name, (listed, 0));
                }
                None => unusable.push(listed.name.chars().take(64).collect()),
            }
        }
        self.listed.retain(|_, (_, missing)| *missing < GONE_AFTER);
        unusable
    }

    /// What is known, in the order of names.
    fn functions(&self) -> Vec<ListedFunction> {
        let mut functions: Vec<(&FunctionName, &ListedFunction)> =
            self.listed.iter().map(|(name, (listed, _))| (name, listed)).collect();
        functions.sort_by_key(|(name, _)| *name);
        functions.into_iter().map(|(_, listed)| listed.clone()).collect()
    }

    /// The table, with annotations read.
    pub(crate) fn table(&self, default_namespace: &str, listed_at: Timestamp) -> FunctionTable {
        let functions = self
            .listed
            .iter()
            .map(|(name, (listed, _))| (name.clone(), function(name.clone(), listed, default_namespace)))
            .collect();
        FunctionTable { functions, listed_at }
    }
}

fn name_of(listed: &ListedFunction, default_namespace: &str) -> Option<FunctionName> {
    let namespace = listed.namespace.as_deref().unwrap_or(default_namespace);
    FunctionName::parse(&format!("{}.{namespace}", listed.name), default_namespace).ok()
}

fn function(name: FunctionName, listed: &ListedFunction, default_namespace: &str) -> Function {
    let reference = if listed.qualified { name.as_str().to_owned() } else { listed.name.clone() };
    let mut function = Function::plain(name, &reference);
    function.available_replicas = listed.available_replicas;
    function.max_inflight = listed.max_inflight;
    annotations::read(&mut function, &listed.annotations, default_namespace);
    function
}

impl Watcher {
    /// Reads the list kept on disk, so that what was wanted before a restart is wanted after it.
    pub(crate) fn load(&self, known: &mut Known) {
        let Some(path) = &self.file else { return };
        match table_file::load(path) {
            Ok(Some((listed_at, functions))) => {
                let live = self.live.load();
                let namespace = &live.settings.gateway.default_namespace;
                known.merge(functions, namespace);
                let table = known.table(namespace, listed_at);
                info!(functions = table.functions.len(), "function list loaded from disk");
                self.state.swap(table, &live.settings.delivery);
            }
            Ok(None) => {}
            Err(error) => warn!(%error, path = %path.display(), "the function list on disk cannot be used"),
        }
    }

    /// Asks at the configured interval until it is told to stop.
    pub(crate) async fn run(self, mut known: Known, stop: CancellationToken) {
        let mut kept_on_disk = known.functions();
        loop {
            let interval = self.live.load().settings.gateway.poll_interval;
            let asked = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                asked = self.ask(&mut known) => asked,
            };
            if asked {
                self.keep(&known, &mut kept_on_disk).await;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.sooner.notified() => {}
                () = tokio::time::sleep(interval.max(Duration::from_millis(100))) => {}
            }
        }
    }

    /// Asks once; whether a complete list came.
    async fn ask(&self, known: &mut Known) -> bool {
        let live = self.live.load_full();
        match live.gateway.list().await {
            Ok(list) => {
                let namespace = &live.settings.gateway.default_namespace;
                let unusable = known.merge(list, namespace);
                let problem = (!unusable.is_empty()).then(|| ListProblem {
                    at: self.clock.now(),
                    problem: format!("names outside the gateway's pattern are left out: {unusable:?}").into(),
                });
                self.state.swap(known.table(namespace, self.clock.now()), &live.settings.delivery);
                self.state.listed(problem);
                true
            }
            Err(failure) => {
                let problem = ListProblem { at: self.clock.now(), problem: failure.to_string().into() };
                if self.state.not_listed(problem) {
                    warn!(%failure, "no complete function list; the last one serves");
                }
                false
            }
        }
    }

    /// Writes the list when something but replica counts changed: only that is needed after a restart.
    async fn keep(&self, known: &Known, kept: &mut Vec<ListedFunction>) {
        let Some(path) = self.file.clone() else { return };
        let functions = known.functions();
        let same = |(a, b): (&ListedFunction, &ListedFunction)| {
            (&a.name, &a.namespace, a.qualified, a.max_inflight, &a.annotations)
                == (&b.name, &b.namespace, b.qualified, b.max_inflight, &b.annotations)
        };
        if path.exists() && functions.len() == kept.len() && functions.iter().zip(kept.iter()).all(same) {
            return;
        }
        let (listed_at, saved) = (self.clock.now(), functions.clone());
        let shown = path.display().to_string();
        let written = tokio::task::spawn_blocking(move || table_file::save(&path, listed_at, &saved)).await;
        match written {
            Ok(Ok(())) => *kept = functions,
            Ok(Err(error)) => warn!(%error, path = shown, "cannot keep the function list on disk"),
            Err(error) => warn!(%error, path = shown, "cannot keep the function list on disk"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn listed(name: &str, namespace: Option<&str>, qualified: bool) -> ListedFunction {
        ListedFunction {
            name: name.into(),
            namespace: namespace.map(str::to_owned),
            qualified,
            available_replicas: 1,
            max_inflight: None,
            annotations: BTreeMap::new(),
        }
    }

    fn names(known: &Known) -> Vec<String> {
        known.table("openfaas-fn", Timestamp::EPOCH).functions.keys().map(ToString::to_string).collect()
    }

    #[test]
    fn a_function_goes_after_three_complete_lists_without_it() {
        let mut known = Known::default();
        known.merge(vec![listed("a", None, false), listed("b", None, false)], "openfaas-fn");

        for _ in 0..2 {
            known.merge(vec![listed("a", None, false)], "openfaas-fn");
        }
        assert_eq!(names(&known), ["a.openfaas-fn", "b.openfaas-fn"]);
        known.merge(vec![listed("a", None, false)], "openfaas-fn");

        assert_eq!(names(&known), ["a.openfaas-fn"]);
    }

    #[test]
    fn one_empty_list_removes_nothing() {
        let mut known = Known::default();
        known.merge(vec![listed("a", None, false)], "openfaas-fn");
        known.merge(Vec::new(), "openfaas-fn");
        known.merge(vec![listed("a", None, false)], "openfaas-fn");
        known.merge(Vec::new(), "openfaas-fn");
        known.merge(Vec::new(), "openfaas-fn");

        assert_eq!(names(&known), ["a.openfaas-fn"]);
    }

    #[test]
    fn a14_functions_are_called_by_bare_names_unless_namespaces_are_listed() {
        let mut known = Known::default();
        known.merge(
            vec![
                listed("a", None, false),
                listed("b", Some("dev"), true),
                listed("c", Some("openfaas-fn"), true),
            ],
            "openfaas-fn",
        );

        let table = known.table("openfaas-fn", Timestamp::EPOCH);
        let references: Vec<&str> = table.functions.values().map(|function| &*function.reference).collect();
        assert_eq!(references, ["a", "b.dev", "c.openfaas-fn"]);
    }

    #[test]
    fn a_name_nobody_can_call_is_left_out_and_said() {
        let mut known = Known::default();

        let unusable =
            known.merge(vec![listed("a b", None, false), listed("ok", None, false)], "openfaas-fn");

        assert_eq!(unusable, ["a b"]);
        assert_eq!(names(&known), ["ok.openfaas-fn"]);
    }
}
