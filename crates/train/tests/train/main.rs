//! The trainer from end to end: real files, tiny networks, seconds.

mod checkpoints;
mod common;
mod documents;
mod durability;
mod evaluation;
mod golden;
mod recipe;
mod refusals;
mod rounding;
mod simulated;
mod training;
