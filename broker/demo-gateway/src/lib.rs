//! A small OpenFaaS-compatible gateway with functions in it, on real sockets.
//!
//! Two users: `evoke demo`, which needs a gateway where none is installed, and every test of this repository that
//! needs one it can trust when it behaves and script when it must not.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use broker_demo_gateway::{Answer, DemoGateway, Fault, Function, Route};
//!
//! let gateway = DemoGateway::builder()
//!     .function(Function::echo("echo").annotation("topic", "orders.created"))
//!     .function(Function::answering("moody", |call| async move {
//!         if call.body.is_empty() { Answer::drop_connection() } else { Answer::ok("fine") }
//!     }))
//!     .start()
//!     .await?;
//!
//! gateway.faults().once(Route::List, Fault::empty_list()); // the next poll sees no functions
//! // ... point a broker at gateway.url() ...
//! let calls = gateway.wait_for_calls("echo", 3, Duration::from_secs(5)).await?;
//! assert_eq!(calls[0].header("x-topic"), Some("orders.created"));
//! gateway.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! # What it does
//!
//! - **The gateway**: `/function/NAME[.NS][/path][?query]` with the headers a gateway adds and drops on the way,
//!   `/system/functions` (list, deploy, update, remove), `/system/function/NAME`, `/system/namespaces`,
//!   `/system/scale-function/NAME`, `/system/info`, `/healthz`, basic auth on `/system/*`. `/async-function` answers
//!   404, as a gateway without a queue does: that route is what Evoke is for.
//! - **Functions**: built-in ones ([`Function::echo`], [`Function::flaky`], ...) and closures that give an
//!   [`Answer`], which can also be a delay, a cut, a hang or an endless body. They can be deployed, changed, scaled
//!   and removed while it runs.
//! - **Memory**: each call is recorded ([`RecordedCall`]), as the function saw it and as it came over the wire, and
//!   can be waited for. [`DemoGateway::activity`] streams the same live.
//! - **Faults**: per route ([`Faults`]), per connection ([`Door`]), and of the listener itself
//!   ([`DemoGateway::go_down`]).
//! - **Callbacks**: [`CallbackReceiver`] records what is posted to it and fails when told to.
//!
//! # What it refuses to know
//!
//! It imports nothing of ours and knows nothing about Evoke: no queue, no retries, no events, no dead letters. It
//! judges no call; it only says what came and when. It keeps nothing on disk, runs no containers, speaks HTTP/1.1
//! only (as the gateway does on its plain port) and has no TLS. All memory is bounded: the newest calls, the
//! beginning of their bodies, the newest call ids of a flaky function.
//!
//! # Reading order
//!
//! [`gateway`](DemoGateway) is the handle and the routes; `target` finds the route of a path; `pass` is what a
//! gateway does to headers; `system` the JSON side; `function`, `answer` and `registry` the functions; `record` and
//! `activity` what was seen; `fault` and `listen` what goes wrong; `callback` the receiver; `demo` the set of
//! functions of `evoke demo`.

mod gateway;

mod target;

mod pass;

mod system;

mod function;

mod answer;

mod registry;

mod record;

mod activity;

mod fault;

mod listen;

mod callback;

mod demo;

pub use activity::Activity;
pub use answer::Answer;
pub use callback::CallbackReceiver;
pub use demo::demo_functions;
pub use fault::{Fault, Faults, Route};
pub use function::{Function, FunctionCall, Recording};
pub use gateway::{DemoGateway, GatewayBuilder, UnknownFunction};
pub use listen::Door;
pub use record::{Outcome, RecordedCall, TooFew};
