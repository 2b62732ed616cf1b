//! The NATS source against the real nats-server: the contract of every source, and what is NATS' own.

mod contract;
mod login;
mod rig;
mod sharing;
