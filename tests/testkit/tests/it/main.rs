//! The contracts hold for the reference, and do not hold for what is broken on purpose. The servers are real.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod broken;
mod reference;
mod servers;
