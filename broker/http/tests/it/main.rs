//! The public face of the HTTP side.
