//! Events from a JetStream stream, on the current server and on the oldest.

mod consumer;
mod contract;
mod messages;
mod rig;
