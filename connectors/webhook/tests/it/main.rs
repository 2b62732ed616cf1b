//! The webhook source as senders meet it: over HTTP, on a real socket.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails as its test does")]

mod contract;
