//! The NATS source against the real nats-server: the contract of every source, and what is NATS' own.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails as its test does")]

mod contract;
mod login;
mod rig;
mod sharing;
mod stream;
