//! The contracts hold for the reference, and do not hold for what is broken on purpose.

mod store;
