//! The engine's public face: hours on virtual time with a scripted gateway, and real sockets with the demo gateway.

mod broker;
mod logged;
mod script;

mod acceptance;
mod control;
mod delivery;
mod outage;
mod restart;

mod sockets;
mod troubles;
mod ways;
