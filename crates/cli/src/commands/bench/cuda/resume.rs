//! A run that begins on one device and goes on on the other.

use super::Target;
use super::checks::small_config;
use super::report::Report;
use crate::device::{Choice, OnDevice, Place, Wanted};
use crate::errors::{Failure, Outcome};
use crate::measure::{Steps, Update};
use eyas_ops::Backend;
use eyas_train::{OptimizerKind, Precision};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Steps before and after the change.
const NUM_STEPS: u64 = 5;
/// Small, since the CPU does it too.
const UPDATE: Update = Update { accumulation: 2, ..Update::new(2, 64) };

/// Trains, saves, and trains on.
struct Begin<'a> {
    dir: &'a Path,
}

/// Goes on with what was saved.
struct GoOn<'a> {
    dir: &'a Path,
}

/// The loss where the device changes, and after the steps that follow.
type Losses = (f64, f64);

impl OnDevice for Begin<'_> {
    type Output = Losses;

    fn run<D: Backend>(self, device: D, _: Place) -> Outcome<Losses> {
        let mut steps = Steps::new(Arc::new(device), &small_config(), UPDATE, OptimizerKind::AdamW)?;
        (0..NUM_STEPS).try_for_each(|_| steps.step().map(drop))?;
        steps.save(self.dir)?;
        losses(&mut steps)
    }
}

impl OnDevice for GoOn<'_> {
    type Output = Losses;

    fn run<D: Backend>(self, device: D, _: Place) -> Outcome<Losses> {
        losses(&mut Steps::load(Arc::new(device), self.dir, UPDATE, OptimizerKind::AdamW, NUM_STEPS)?)
    }
}

fn losses<D: Backend>(steps: &mut Steps<D>) -> Outcome<Losses> {
    let before = steps.loss();
    (0..NUM_STEPS).try_for_each(|_| steps.step().map(drop))?;
    Ok((before, steps.loss()))
}

/// A folder that is removed in the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Outcome<Self> {
        let path = std::env::temp_dir().join(format!("eyas-bench-cuda-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| Failure::io("create the folder", &path, &error))?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is in the system's folder for such things.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Saves on one device, loads on the other, and compares the losses, there and some steps later.
pub(super) fn resume(target: &Target, report: &mut Report) -> Outcome {
    let gpu = target.device;
    let folder = Folder::new()?;
    report.columns(&[
        "begins",
        "goes on",
        "loss",
        "loss there",
        "5 steps later",
        "there",
        "allowed",
        "verdict",
    ])?;
    let mut num_wrong = 0;
    for ((from, of), (to, there), allowed) in [
        ((gpu, Precision::F32), (Choice::Cpu, Precision::F32), 1e-4),
        ((gpu, Precision::Bf16), (Choice::Cpu, Precision::F32), 1e-2),
        ((gpu, Precision::F16), (Choice::Cpu, Precision::F32), 1e-2),
        ((Choice::Cpu, Precision::F32), (gpu, Precision::Bf16), 1e-2),
    ] {
        let name = |choice: Choice, precision: Precision| format!("{choice} {precision:?}");
        let (begins, goes_on) = (name(from, of), name(to, there));
        let ours = Wanted::new(from, of).run(Begin { dir: &folder.0 })?;
        let theirs = Wanted::new(to, there).run(GoOn { dir: &folder.0 })?;
        let off = |a: f64, b: f64| ((a - b) / b).abs();
        let is_right = off(ours.0, theirs.0) <= allowed && off(ours.1, theirs.1) <= allowed;
        num_wrong += usize::from(!is_right);
        report.row(
            &[
                &begins,
                &goes_on,
                &format_args!("{:.5}", ours.0),
                &format_args!("{:.5}", theirs.0),
                &format_args!("{:.5}", ours.1),
                &format_args!("{:.5}", theirs.1),
                &format_args!("{allowed:.0e}"),
                &if is_right { "agrees" } else { "**differs**" },
            ],
            &json!({
                "name": "resume", "from": begins, "to": goes_on, "loss": ours.0, "loss_there": theirs.0,
                "later": ours.1, "later_there": theirs.1, "agrees": is_right,
            }),
        )?;
    }
    match num_wrong {
        0 => Ok(()),
        _ => Err(Failure::failed(format!("{num_wrong} of 4 runs go on with another loss"))),
    }
}
