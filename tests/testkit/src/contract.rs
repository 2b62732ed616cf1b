//! What the ports mean, as tests: written once, passed by every implementation.

pub mod source;
pub mod store;
