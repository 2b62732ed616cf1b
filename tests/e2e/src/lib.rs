//! The product as a process, driven over HTTP and the command line only. Everything is in `tests/it`.
