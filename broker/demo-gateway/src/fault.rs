//! Faults of the gateway itself, per route, changed while it runs.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::WWW_AUTHENTICATE;
use tokio::sync::watch;

use crate::answer::Answer;

/// A group of requests that can be made to fail, and is counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Route {
    /// Every request. A fault set for a narrower route goes first.
    Any,
    /// Calls of functions, `/function/...`.
    Function,
    /// The function list, of every namespace.
    List,
    /// The function list asked for with `?namespace=` this one.
    ListOf(String),
    /// One function, `/system/function/NAME`.
    One,
    /// `/system/namespaces`
    Namespaces,
    /// `/system/info`
    Info,
    /// `/healthz`
    Health,
}

/// What happens instead of the ordinary answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This is answered.
    Answer(Answer),
    /// The ordinary answer with its full `Content-Length`, cut in the middle of its body by closing the connection.
    Half,
    /// The ordinary answer, so much later.
    Late(Duration),
    /// Nothing, until the faults are changed; the request is then handled as if it had come only now.
    Hang,
}

impl Fault {
    /// The connection closes without a byte of an answer.
    pub fn drop_connection() -> Self {
        Self::Answer(Answer::drop_connection())
    }

    /// This status with an empty body.
    ///
    /// # Panics
    /// When `status` is no HTTP status.
    pub fn status(status: u16) -> Self {
        Self::Answer(Answer::status(status))
    }

    /// 200 with this text as `application/json`; it need not be JSON.
    pub fn json(text: impl Into<Bytes>) -> Self {
        Self::Answer(Answer::json(text))
    }

    /// 200 with an HTML page, as from a login page or an ingress without a backend.
    pub fn html() -> Self {
        Self::Answer(Answer::html("<!doctype html><html><body><h1>Please sign in</h1></body></html>"))
    }

    /// 200 with `null`, which is a complete and empty list.
    pub fn null() -> Self {
        Self::json("null")
    }

    /// 200 with `[]`.
    pub fn empty_list() -> Self {
        Self::json("[]")
    }

    /// 401, word for word as a gateway refuses credentials.
    pub fn unauthorized() -> Self {
        Self::Answer(unauthorized())
    }
}

pub(crate) fn unauthorized() -> Answer {
    Answer::plain(StatusCode::UNAUTHORIZED, "invalid credentials\n")
        .with_header(WWW_AUTHENTICATE, "Basic realm=\"Restricted\"")
}

/// The plan of faults, and the count of requests it was asked about.
///
/// A route's faults are used in the order they were added; one added with [`always`](Self::always) stays until it is
/// cleared, so nothing behind it is reached.
pub struct Faults {
    plans: Mutex<HashMap<Route, Vec<Planned>>>,
    /// The number of planned faults, so that the path of every healthy request takes no lock.
    planned: AtomicUsize,
    changes: watch::Sender<u64>,
}

struct Planned {
    fault: Fault,
    /// `None` is for ever.
    left: Option<u64>,
}

impl Faults {
    pub(crate) fn new() -> Self {
        Self { plans: Mutex::default(), planned: AtomicUsize::new(0), changes: watch::Sender::new(0) }
    }

    /// The next request to `route` fails so.
    pub fn once(&self, route: Route, fault: Fault) {
        self.times(route, 1, fault);
    }

    /// The next `times` requests to `route` fail so.
    pub fn times(&self, route: Route, times: u64, fault: Fault) {
        if times > 0 {
            self.change(|plans| plans.entry(route).or_default().push(Planned { fault, left: Some(times) }));
        }
    }

    /// Every request to `route` fails so until it is cleared. Replaces what was planned for it.
    pub fn always(&self, route: Route, fault: Fault) {
        self.change(|plans| {
            plans.insert(route, vec![Planned { fault, left: None }]);
        });
    }

    /// `route` works again, as far as its own faults go: those of wider routes stay.
    pub fn clear(&self, route: &Route) {
        self.change(|plans| {
            plans.remove(route);
        });
    }

    /// Everything works again.
    pub fn clear_all(&self) {
        self.change(HashMap::clear);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.planned.load(Ordering::Acquire) == 0
    }

    /// Takes the fault for a request of the first of `routes` (narrowest first) that has one.
    pub(crate) fn take(&self, routes: &[Route]) -> Option<Fault> {
        if self.is_empty() {
            return None;
        }
        let mut plans = self.locked();
        let route = routes.iter().find(|route| plans.get(*route).is_some_and(|plan| !plan.is_empty()))?;
        let plan = plans.get_mut(route)?;
        let first = plan.first_mut()?;
        let fault = first.fault.clone();
        if let Some(left) = &mut first.left {
            *left -= 1;
            if *left == 0 {
                plan.remove(0);
                self.planned.fetch_sub(1, Ordering::Release);
            }
        }
        Some(fault)
    }

    /// To be subscribed before a fault is taken, so that no change in between is missed.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn change(&self, change: impl FnOnce(&mut HashMap<Route, Vec<Planned>>)) {
        let mut plans = self.locked();
        change(&mut plans);
        self.planned.store(plans.values().map(Vec::len).sum(), Ordering::Release);
        drop(plans);
        self.changes.send_modify(|version| *version += 1);
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<Route, Vec<Planned>>> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").field("planned", &self.planned).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(fault: Option<Fault>) -> Option<u16> {
        match fault? {
            Fault::Late(d) => Some(d.as_secs() as u16),
            other => panic!("only late ones here, not {other:?}"),
        }
    }

    fn late(n: u64) -> Fault {
        Fault::Late(Duration::from_secs(n))
    }

    #[test]
    fn faults_of_a_route_are_used_up_in_order_and_the_narrower_route_goes_first() {
        let faults = Faults::new();
        let dev = [Route::ListOf("dev".into()), Route::List, Route::Any];
        faults.always(Route::Any, late(9));
        faults.times(Route::ListOf("dev".into()), 2, late(1));
        faults.once(Route::ListOf("dev".into()), late(2));

        let taken: Vec<_> = (0..5).map(|_| status(faults.take(&dev))).collect();

        assert_eq!(taken, [Some(1), Some(1), Some(2), Some(9), Some(9)]);
        faults.clear(&Route::Any);
        assert!(faults.is_empty());
        assert_eq!(status(faults.take(&dev)), None);
    }

    #[test]
    fn always_replaces_what_was_planned() {
        let faults = Faults::new();
        faults.times(Route::List, 5, late(1));
        faults.always(Route::List, late(2));

        assert_eq!(status(faults.take(&[Route::List])), Some(2));
    }
}
