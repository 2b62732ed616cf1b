//! Processes under test.
