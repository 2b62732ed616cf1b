//! The RabbitMQ source against the real server: the contract of every source, and what is RabbitMQ's own.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails as its test does")]

mod client;
mod contract;
mod login;
mod malformed;
mod messages;
mod minio;
mod pressure;
mod queues;
mod rig;
mod trouble;
mod witness;
