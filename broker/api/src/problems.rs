//! What can go wrong at the management API: a closed set, each with a stable type, and a page in `docs/problems/`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A problem document (RFC 9457, `application/problem+json`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `/problems/<kebab-case>`; stable, decide on this.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words; the same for every problem of the type.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong this time.
    pub detail: String,
    /// What can be done about it.
    pub remedy: String,
}

impl Problem {
    /// The problem of this kind, with what is wrong this time and the kind's own remedy.
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Problem {
            kind: format!("/problems/{}", kind.name()),
            title: kind.title().into(),
            status: kind.status(),
            detail: detail.into(),
            remedy: kind.remedy().into(),
        }
    }

    /// The same, with a remedy that fits this case better than the kind's own.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }

    /// The kind, when this version knows it.
    pub fn known(&self) -> Option<ProblemKind> {
        ProblemKind::named(self.kind.strip_prefix("/problems/")?)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.title, self.detail)
    }
}

macro_rules! problems {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $status:literal, $title:literal, $remedy:literal;)*) => {
        /// The kinds of problems.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ProblemKind {
            $($(#[$doc])* $variant,)*
        }

        impl ProblemKind {
            /// Every kind.
            pub const ALL: &[ProblemKind] = &[$(ProblemKind::$variant),*];

            /// The stable name, the last part of `type`.
            pub fn name(self) -> &'static str {
                match self { $(ProblemKind::$variant => $name,)* }
            }

            /// The HTTP status.
            pub fn status(self) -> u16 {
                match self { $(ProblemKind::$variant => $status,)* }
            }

            /// The kind in words.
            pub fn title(self) -> &'static str {
                match self { $(ProblemKind::$variant => $title,)* }
            }

            /// What can be done about it.
            pub fn remedy(self) -> &'static str {
                match self { $(ProblemKind::$variant => $remedy,)* }
            }
        }
    };
}

problems! {
    /// No such route.
    NoSuchRoute = "no-such-route", 404, "no such route",
        "the routes of the management API begin with /v1; calls of functions go to /async-function/NAME";
    /// The route is there, the method is not.
    MethodNotAllowed = "method-not-allowed", 405, "method not allowed",
        "use one of the methods the Allow header names";
    /// A filter or parameter the route does not know.
    UnknownParameter = "unknown-parameter", 400, "unknown parameter",
        "leave it out: a filter that is not understood would show more than was asked for";
    /// A parameter's value cannot be used.
    InvalidParameter = "invalid-parameter", 400, "invalid parameter",
        "correct the value";
    /// The request's body cannot be used.
    InvalidBody = "invalid-body", 400, "invalid request body",
        "send the JSON object the route takes, and only keys it knows";
    /// The request's body is not JSON.
    UnsupportedMediaType = "unsupported-media-type", 415, "unsupported media type",
        "send JSON with the header Content-Type: application/json";
    /// The request is larger than allowed.
    BodyTooLarge = "body-too-large", 413, "body too large",
        "send less, or raise limits.body";
    /// The request's body did not come in time.
    UploadTooSlow = "upload-too-slow", 408, "upload too slow",
        "send the body without pauses; a slow link needs smaller bodies";
    /// Too many large uploads at once.
    UploadsBusy = "uploads-busy", 503, "no memory for another upload now",
        "try again as Retry-After says, or raise limits.in_flight";

    /// Credentials are missing or wrong.
    Unauthorized = "unauthorized", 401, "unauthorized",
        "send the credentials of the configuration key api.credentials as basic auth, or the API token as a bearer token";
    /// Without credentials the management API answers on loopback only.
    LoopbackOnly = "loopback-only", 403, "management API is closed beyond loopback",
        "configure api.credentials, or ask from the machine the broker runs on";
    /// The open API was asked under a name that is not this machine's.
    ForeignHost = "foreign-host", 403, "request for another host",
        "without api.credentials use http://127.0.0.1, http://[::1] or http://localhost, or configure credentials";
    /// The open API was asked by a page of another origin.
    ForeignOrigin = "foreign-origin", 403, "request of a page on another origin",
        "configure api.credentials; without them no web page but the broker's own may use the API";
    /// The open API was asked through a proxy.
    BehindProxy = "behind-proxy", 403, "request through a proxy",
        "configure api.credentials; a proxy on the same host would make the open API public";
    /// One of our own callbacks was aimed at the management API.
    CallbackToApi = "callback-to-api", 403, "callback aimed at the management API",
        "call a function of the gateway or /async-function/NAME instead";

    /// No such function.
    FunctionNotFound = "function-not-found", 404, "function not found",
        "see `evoke functions list` for the functions the gateway lists";
    /// No such source.
    SourceNotFound = "source-not-found", 404, "source not found",
        "see `evoke sources list` for the configured sources";
    /// No such schedule.
    ScheduleNotFound = "schedule-not-found", 404, "schedule not found",
        "see `evoke schedules list`; a function's schedules are in its annotations, and `evoke functions show NAME` says what is wrong with them";
    /// The schedule is kept, but its function no longer asks for it.
    ScheduleNotAsked = "schedule-not-asked", 409, "schedule not asked for",
        "annotate the function with this expression again, or call the function itself: `evoke invoke NAME`";
    /// No such invocation, or not any more.
    InvocationNotFound = "invocation-not-found", 404, "invocation not found",
        "completed and cancelled invocations are kept for a while only (store.embedded.retention)";
    /// No such dead letter.
    DeadLetterNotFound = "dead-letter-not-found", 404, "dead letter not found",
        "see `evoke dead-letters list`; a redriven or removed one is no dead letter any more";
    /// The body is not there any more.
    BodyGone = "body-gone", 410, "body gone",
        "ended invocations keep their bodies for a while only (store.embedded.retention)";
    /// The invocation has ended and cannot be cancelled.
    AlreadyEnded = "already-ended", 409, "invocation has ended",
        "nothing is left to cancel";
    /// The dead letter was put back already.
    AlreadyRedriven = "already-redriven", 409, "already redriven",
        "wait for the end of the life that began; if it dies again, redrive it again";
    /// The dead letter has nothing to run.
    NothingToRun = "nothing-to-run", 409, "nothing to run",
        "read its body, then remove it; only calls of functions and callbacks can be put back";

    /// No function list has been loaded yet, so nobody knows who wants an event.
    NoFunctionList = "no-function-list", 503, "no function list yet",
        "check gateway.url and the gateway's credentials; publishing works as soon as the gateway answered once";
    /// The broker is stopping.
    Draining = "draining", 503, "the broker is draining",
        "try again as Retry-After says, at another replica or after the restart";
    /// The source is paused.
    SourcePaused = "source-paused", 503, "source paused",
        "resume the source, or publish under another source";
    /// The idempotency key came with another request.
    IdempotencyKeyReused = "idempotency-key-reused", 422, "idempotency key reused",
        "use a new key for a new request";
    /// The bound of waiting invocations.
    TooManyWaiting = "too-many-waiting", 429, "too many waiting",
        "try again as Retry-After says, let functions catch up, or raise limits.waiting";
    /// The store has no room.
    StoreFull = "store-full", 507, "store full",
        "make room on the disk, remove dead letters, or raise store.embedded.max_bytes; it continues by itself";
    /// The store takes no writes until a restart.
    StoreFailed = "store-failed", 503, "store failed",
        "look into the log for the failed write, repair the disk, restart the broker";
    /// An index of the store is being made again.
    StoreRebuilding = "store-rebuilding", 503, "an index is being rebuilt",
        "try again as Retry-After says; calls are accepted and delivered meanwhile";
    /// What is asked for was damaged on disk.
    StoreDamaged = "store-damaged", 500, "record damaged",
        "what can be read was kept; see the dead letters of reason damaged";
    /// A fault of ours.
    Internal = "internal", 500, "internal error",
        "report it with the log lines of that moment";
}

impl ProblemKind {
    /// The kind of this name.
    pub fn named(name: &str) -> Option<ProblemKind> {
        ProblemKind::ALL.iter().copied().find(|kind| kind.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_problem_has_its_page() {
        let pages = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/problems");
        for kind in ProblemKind::ALL {
            let page = std::fs::read_to_string(format!("{pages}/{}.md", kind.name())).unwrap_or_default();
            assert!(
                page.starts_with(&format!("# {}", kind.name())),
                "docs/problems/{}.md is missing",
                kind.name()
            );
        }
    }

    #[test]
    fn names_are_kebab_case_and_different() {
        let names: BTreeSet<&str> = ProblemKind::ALL.iter().map(|kind| kind.name()).collect();

        assert_eq!(names.len(), ProblemKind::ALL.len());
        for name in names {
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{name}");
            assert_eq!(ProblemKind::named(name).map(ProblemKind::name), Some(name));
        }
    }

    #[test]
    fn a_problem_document_looks_like_this() {
        let problem = Problem::new(ProblemKind::AlreadyEnded, "invocation x is completed");

        assert_eq!(
            serde_json::to_value(&problem).unwrap(),
            serde_json::json!({
                "type": "/problems/already-ended",
                "title": "invocation has ended",
                "status": 409,
                "detail": "invocation x is completed",
                "remedy": "nothing is left to cancel",
            })
        );
        assert_eq!(problem.known(), Some(ProblemKind::AlreadyEnded));
    }
}
