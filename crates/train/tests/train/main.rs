//! The trainer from end to end: real files, tiny networks, seconds.

mod checkpoints;
mod common;
mod evaluation;
mod golden;
mod refusals;
mod training;
