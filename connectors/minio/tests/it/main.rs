//! A MinIO source on the real MinIO, and on a stand-in for the stream that some builds do not pass on.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod contract;
mod listen;
mod repair;
mod rig;
mod stand_in;
mod targets;
mod webhook;
