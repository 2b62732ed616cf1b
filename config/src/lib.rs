//! Evoke's typed configuration.
//!
//! [`load()`] lays the sources of settings over one another (built-in, file, OpenFaaS' environment variables, `EVOKE_…`
//! variables, flags), remembers for each value where it came from, and answers either a [`Loaded`] whose [`Config`]
//! is plain typed data, or an [`Invalid`] that holds **every** problem at once, each with its place, its key, what is
//! wrong and what to do. Nothing falls back silently: an unknown key is a problem.
//!
//! A key is declared once, in the file of its topic, with its type, its default and its meaning (`section!`). Reading,
//! `config show`, `config reference`, the suggestion for a misspelled key and the list of what a reload changes all
//! follow from that one declaration, so that they cannot disagree.
//!
//! This crate does not know what a connector's settings mean: `sources.<name>.<kind>` is kept as it was written, with
//! positions, and the connector reads it. It never looks at the process' environment and opens no file but a secret's
//! ([`SecretSource::read`]): text and variables are passed in.

#[macro_use]
mod section;

// The keys, topic by topic.
mod api;
mod callbacks;
mod config;
mod dedup;
mod delivery;
mod front;
mod gateway;
mod limits;
mod listen;
mod log;
mod shutdown;
mod sources;
mod store;

// The types keys have.
mod byte_size;
mod duration;
pub mod go_duration;
mod host_rule;
mod http_url;
mod secret;
mod setting;

// How a configuration comes about.
mod changes;
mod check;
mod environment;
mod file;
mod inherited;
mod load;
mod openfaas;
mod problem;
mod reference;
mod show;
mod tree;

pub use api::Api;
pub use byte_size::{ByteSize, ByteSizeError};
pub use callbacks::{Callbacks, Signing};
pub use changes::Change;
pub use config::{Config, Unmatched};
pub use dedup::Dedup;
pub use delivery::{Backoff, Concurrency, DeadLetterTarget, Delivery, Retry, StatusCode};
pub use duration::{DurationError, format_duration, parse_duration};
pub use front::{BodyOverLimit, CancelAccess, Front};
pub use gateway::Gateway;
pub use host_rule::HostRule;
pub use http_url::HttpUrl;
pub use inherited::Kinds;
pub use limits::Limits;
pub use listen::Listen;
pub use load::{Check, File, Inputs, Loaded, Note, Override, load};
pub use log::{Level, Log, LogFormat};
pub use problem::{Invalid, Problem};
pub use reference::reference;
pub use secret::{Credentials, SecretSource};
pub use show::Leaf;
pub use shutdown::Shutdown;
pub use sources::{Source, Sources};
pub use store::{Completed, DeadLetterRetention, Embedded, Retention, Store};
pub use tree::Origin;
