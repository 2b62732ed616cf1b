//! Starts, watches, restarts and stops sources.
//!
//! A source runs until it is told to stop; whatever else ends it, an error, a panic or a silent end, is noted, and it is
//! started again after a wait. Nothing starts before a function list is loaded, because until then it cannot be known who
//! wants an event. Sources are added, changed and removed while others run on, and held by an operator across restarts.
//!
//! This crate does not know any particular connector, the engine or the store: it holds the sdk's traits and the ports.
//!
//! In reading order: [`runtime`], `supervisor` (one source's life), `sink` (what counts the answers it gets).

pub mod runtime;
mod sink;
mod supervisor;

pub use runtime::{Changes, Configured, Ports, SourcesRuntime};
pub use supervisor::Restarts;
