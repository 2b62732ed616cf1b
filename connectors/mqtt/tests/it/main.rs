//! The MQTT source against the real Mosquitto: the contract of every source, and what is MQTT's own.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails as its test does")]

mod contract;
mod delivery;
mod login;
mod publisher;
mod rig;
mod server_log;
mod sessions;
mod subscriptions;
mod web_socket;
