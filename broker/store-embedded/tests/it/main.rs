//! The public face of the embedded store.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails as its test does")]

mod ahead;
mod contract;
mod damage;
mod durable;
mod faults;
mod formats;
mod index;
mod kit;
mod process;
mod received;
mod sim;
mod space;
mod summary;
