//! The contracts hold for the reference, and do not hold for what is broken on purpose.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod broken;
mod reference;
