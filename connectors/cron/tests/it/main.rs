//! The pure part against a table of the world's clocks, and against a slow reading of the same rule.

mod golden;
mod rules;
