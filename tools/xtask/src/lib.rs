//! What the repository does with itself: `cargo xtask`.
//!
//! A library, so that a test can run the same with a small size; only the binary prints. It knows eyas from the outside
//! alone: arguments, files, exit statuses and what stands on stderr.

pub mod torture;
