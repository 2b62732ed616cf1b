//! The public face of the HTTP side: real sockets, a real engine over the reference store, a real gateway.

mod fixture;

mod appendix_a;
mod callers;
mod front;
mod guard;
mod management;
mod memory;
mod metrics;
mod operator;
mod schedules;
mod stop;
mod uploads;
