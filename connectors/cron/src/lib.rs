//! Events at the instants of functions' schedules.
//!
//! What is here so far is the pure part: how an expression is read, exactly as OpenFaaS' cron connector reads it
//! ([`expression`]), and when it fires, under each rule for where clocks are set ([`fires`]). Nothing in it reads a clock.

pub mod expression;
pub mod fires;
