//! The built binary, end to end, in temporary folders.

mod bad_input;
mod commands;
mod common;
mod data;
mod devices;
mod quickstart;
mod report;
mod text;
mod torture;
mod training;
