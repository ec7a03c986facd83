//! `cargo xtask torture` in a size for every test run: the binary as it was built here, killed, stopped and damaged.
//!
//! Times are bounded so widely that only a process that hangs exceeds them.

use std::path::Path;
use std::time::Duration;
use xtask::torture::{Options, Part, Sizes};

const SIZES: Sizes =
    Sizes { kills: 10, kills_in_saves: 2, signals: 8, requests: 4, damages: 9, prepare_kills: 4, pairs: 1 };

#[track_caller]
fn survives(part: Part) {
    let folder = tempfile::tempdir().expect("a folder");
    let options = Options {
        // The tests run beside each other.
        jobs: 1,
        stop_within: Duration::from_secs(20),
        second_within: Duration::from_secs(10),
        ..Options::new(Path::new(env!("CARGO_BIN_EXE_eyas")), folder.path(), SIZES)
    };
    let report = part.run(&options).unwrap_or_else(|error| panic!("{error}"));
    assert!(report.is_ok(), "left in {}\n{report}", folder.keep().display());
}

#[test]
fn a_run_survives_being_killed() {
    survives(Part::Kill);
}

#[test]
fn a_run_survives_being_stopped() {
    survives(Part::Signals);
}

#[test]
fn a_run_saves_when_it_is_asked_to() {
    survives(Part::Requests);
}

#[test]
fn a_run_survives_damage_to_its_newest_checkpoint() {
    survives(Part::Damage);
}

#[test]
fn a_preparation_survives_being_killed() {
    survives(Part::Prepare);
}
