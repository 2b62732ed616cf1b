//! The gateway from outside: over real sockets, with a client that shows every byte.

// Clippy exempts test functions by itself, but not what they call.
#![allow(clippy::unwrap_used)]

mod client;

mod callbacks;
mod faults;
mod functions;
mod gateway;
