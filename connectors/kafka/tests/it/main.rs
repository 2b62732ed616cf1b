//! The Kafka source against the real broker: the contract of every source, and what is Kafka's own.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails as its test does")]

mod cluster;
mod contract;
#[cfg(feature = "tls")]
mod login;
mod loss;
mod minio;
mod plain;
mod pressure;
mod records;
mod replays;
mod rig;
mod subscriptions;
mod takeover;
