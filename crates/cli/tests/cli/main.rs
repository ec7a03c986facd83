//! The built binary, end to end, in temporary folders.

mod bad_input;
mod commands;
mod common;
mod quickstart;
mod training;
