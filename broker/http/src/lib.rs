//! What Evoke serves over HTTP: the front, the management API, health and metrics.
//!
//! Requests come in at [`server`] with path and query as they were written, because a router's decoding loses `%2F`.
//! From there:
//! * `/async-function/…` is the *front* (`front/`), as the gateway would answer: no router and no middleware, because
//!   this is the path whose speed is measured;
//! * `/v1/…` is the *management API* (`management/`), behind `auth`;
//! * `/healthz` and `/readyz` are for supervisors;
//! * everything else is the gateway's, and answers so until the proxy is built.
//!
//! This crate reads through the [`broker_model::Ledger`] and acts through the engine's handles. It does not know which
//! store it got, nor any connector. Nouns become wire shapes in `convert`, and nowhere else.

// What it is given.
mod parts;
pub mod settings;

// How requests come in.
pub mod server;

mod request_targets;
mod route;
mod socket;

// The gateway's asynchronous routes.
mod front;

// The management API.
mod auth;
mod convert;
mod management;
mod problem;
mod query;

// For supervisors and Prometheus.
mod health;
mod metrics;

pub use metrics::HttpMetrics;
pub use parts::{HttpParts, Phase};
pub use server::{Http, Shutdown};
pub use settings::{HttpSettings, Pace};
