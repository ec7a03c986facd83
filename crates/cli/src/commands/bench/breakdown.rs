//! `eyas bench training --breakdown`: where the time of a step goes, operation by operation, each beside the least time
//! that this machine's arithmetic or memory needs for it.

use super::training::TrainingArgs;
use crate::device::{OnDevice, Place};
use crate::errors::Outcome;
use crate::format;
use crate::measure::{Steps, Update};
use crate::output::{Output, note};
use eyas_model::Config;
use eyas_ops::{Backend, Device, Metered, Record};
use eyas_train::OptimizerKind;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// Measures steps and prints their operations, on whatever device.
pub(super) struct Breakdown<'a> {
    pub(super) args: &'a TrainingArgs,
    pub(super) config: &'a Config,
}

impl OnDevice for Breakdown<'_> {
    type Output = ();

    fn run<D: Backend>(self, device: D, place: Place) -> Outcome {
        let Breakdown { args, config } = self;
        note(format_args!("{} of {} tokens", args.name(), format::count(args.update().num_tokens() as u64)));
        let work = Work { config, update: args.update(), kind: args.optim.kind(), time: args.time() };
        let name = format!("{} ({place}, {} threads)", args.name(), device.num_threads());
        breakdown(device, &name, work, args.json, &mut Output::new())
    }
}

/// What is broken down.
pub(super) struct Work<'a> {
    pub(super) config: &'a Config,
    pub(super) update: Update,
    pub(super) kind: OptimizerKind,
    pub(super) time: Duration,
}

/// Measures steps and prints their operations, the one that takes most time first. On a GPU each operation is waited for,
/// so that the sum is more than a step takes.
pub(super) fn breakdown<D: Backend>(
    device: D,
    name: &str,
    work: Work<'_>,
    is_json: bool,
    output: &mut Output,
) -> Outcome {
    let peaks = Peaks { flops: device.peak_flops(), bytes: device.peak_bytes() };
    let threads = device.num_threads();
    let device = Arc::new(Metered::new(device));
    let times = device.install(|| {
        let mut steps = Steps::new(device.clone(), work.config, work.update, work.kind)?;
        steps.times(work.time, || {
            device.take();
        })
    })?;
    let (num_steps, step) = (times.len() as f64, times.total());
    let mut records = device.take();
    records.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    if !is_json {
        output.line(format_args!(
            "{name}: {:.1} ms a step; peaks {:.0} GFLOP/s, {:.1} GB/s",
            1e3 * step / num_steps,
            peaks.flops / 1e9,
            peaks.bytes / 1e9
        ))?;
        output.line(format_args!(
            "{:<38} {:>5} {:>9} {:>7} {:>9} {:>8}  {:<7} {:>8}",
            "operation", "calls", "ms", "of step", "GFLOP/s", "GB/s", "limit", "of limit"
        ))?;
    }
    for record in &records {
        match is_json {
            true => output.json(&peaks.object(record, num_steps, step, threads))?,
            false => output.line(peaks.row(record, num_steps, step))?,
        }
    }
    if !is_json {
        let sum = |of: fn(&Record) -> f64| records.iter().map(of).sum::<f64>();
        let total = Record {
            name: "all operations".into(),
            num_calls: records.iter().map(|record| record.num_calls).sum(),
            seconds: sum(|record| record.seconds),
            flops: sum(|record| record.flops),
            bytes: sum(|record| record.bytes),
        };
        output.line(peaks.row(&total, num_steps, step))?;
    }
    output.flush()
}

/// What the machine does at most.
struct Peaks {
    flops: f64,
    bytes: f64,
}

impl Peaks {
    /// The share of its limit, and whether that is arithmetic.
    fn share(&self, record: &Record) -> (f64, bool) {
        let is_compute = record.flops / self.flops > record.bytes / self.bytes;
        (record.limit_seconds(self.flops, self.bytes) / record.seconds, is_compute)
    }

    /// A line of the table: figures of one step.
    fn row(&self, record: &Record, num_steps: f64, all_steps: f64) -> String {
        let (share, is_compute) = self.share(record);
        format!(
            "{:<38} {:>5.0} {:>9.2} {:>7} {:>9.1} {:>8.1}  {:<7} {:>8}",
            record.name,
            record.num_calls as f64 / num_steps,
            1e3 * record.seconds / num_steps,
            format::percent(record.seconds / all_steps),
            record.flops / record.seconds / 1e9,
            record.bytes / record.seconds / 1e9,
            if is_compute { "compute" } else { "memory" },
            format::percent(share)
        )
    }

    /// The same as an object.
    fn object(&self, record: &Record, num_steps: f64, all_steps: f64, threads: usize) -> serde_json::Value {
        let (share, is_compute) = self.share(record);
        json!({
            "name": record.name,
            "value": 1e3 * record.seconds / num_steps,
            "unit": "ms",
            "share_of_peak": share,
            "peak": if is_compute { self.flops } else { self.bytes } / 1e9,
            "threads": threads,
            "limit": if is_compute { "compute" } else { "memory" },
            "calls": record.num_calls as f64 / num_steps,
            "share_of_step": record.seconds / all_steps,
            "gflop": record.flops / num_steps / 1e9,
            "gigabytes": record.bytes / num_steps / 1e9,
        })
    }
}
