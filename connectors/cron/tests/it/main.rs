//! The pure part against a table of the world's clocks and against a slow reading of the same rule; the source on simulated
//! time.

mod golden;
mod life;
mod rig;
mod rules;
