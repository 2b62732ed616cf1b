//! The public face of the embedded store.

mod durable;
mod kit;
mod space;
