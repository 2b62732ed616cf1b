//! What can be seen from outside, and the rules the tree keeps.
//!
//! `broker` starts the product beside a gateway of the test's own and speaks to it; the other files are what it must do.

#![allow(clippy::unwrap_used, reason = "what helps a test is part of it")]

mod broker;

mod contract;
mod crash;
mod demo;
mod drain;
mod faults;
mod layering;
mod listed;
mod operate;
mod schedules;
mod sources;
mod sources_tour;
mod tour;
mod transcript;
