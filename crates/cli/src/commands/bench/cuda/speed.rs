//! What a GPU does in a second: its peaks, training and generation beside them, and where the time of a step goes.

use super::super::Shape;
use super::super::breakdown::{Work, breakdown};
use super::super::generation::figures;
use super::Target;
use super::report::{Report, attempt};
use crate::device::{OnDevice, Place, Wanted};
use crate::errors::{Failure, Outcome};
use crate::format;
use crate::measure::{Steps, Update};
use eyas_model::{Use, flops_per_token};
use eyas_ops::Backend;
use eyas_train::{OptimizerKind, Precision};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// How long a row is measured.
const TIME: Duration = Duration::from_secs(6);

/// A row of the table of training.
#[derive(Clone, Copy)]
pub(super) struct Row {
    precision: Precision,
    tf32: bool,
    update: Update,
    dropout: f32,
    kind: OptimizerKind,
}

const fn bf16(batch: usize, time: usize, accumulation: usize, dropout: f32) -> Row {
    let update = Update { accumulation, ..Update::new(batch, time) };
    Row { precision: Precision::Bf16, tf32: false, update, dropout, kind: OptimizerKind::AdamW }
}

pub(super) const B32_T1024: Row = bf16(32, 1024, 1, 0.0);
pub(super) const B32_T1024_DROPOUT: Row = bf16(32, 1024, 1, 0.1);
pub(super) const B64_T1024: Row = bf16(64, 1024, 1, 0.0);
pub(super) const B8_T1024: Row = bf16(8, 1024, 1, 0.0);
/// The tutorial's update in one pass, as training runs it.
pub(super) const B256_T128: Row = bf16(256, 128, 1, 0.0);
/// The tutorial's run.
pub(super) const TUTORIAL: Row = bf16(32, 128, 8, 0.1);
pub(super) const TUTORIAL_PLAIN: Row = bf16(32, 128, 8, 0.0);
/// One of its micro-batches as an update.
pub(super) const TUTORIAL_ONCE: Row = bf16(32, 128, 1, 0.1);
pub(super) const FP16_TUTORIAL: Row = Row { precision: Precision::F16, ..TUTORIAL };
pub(super) const FP16: Row = Row { precision: Precision::F16, ..B32_T1024 };
pub(super) const FP32: Row = Row { precision: Precision::F32, ..B32_T1024 };
pub(super) const TF32: Row = Row { tf32: true, ..FP32 };
pub(super) const MUON: Row = Row { kind: OptimizerKind::Muon, ..B32_T1024 };

impl Row {
    fn wanted(&self, target: &Target) -> Wanted {
        Wanted { tf32: self.tf32, ..Wanted::new(target.device, self.precision) }
    }

    fn precision(&self) -> &'static str {
        match (self.precision, self.tf32) {
            (Precision::F32, true) => "tf32",
            (Precision::F32, false) => "f32",
            (Precision::Bf16, _) => "bf16",
            (Precision::F16, _) => "fp16",
        }
    }

    fn optimizer(&self) -> &'static str {
        match self.kind {
            OptimizerKind::AdamW => "AdamW",
            OptimizerKind::Muon => "Muon",
        }
    }
}

/// Matrix products in each precision, and copies in memory.
pub(super) fn peaks(target: &Target, report: &mut Report) -> Outcome {
    struct Peaks;
    impl OnDevice for Peaks {
        type Output = (f64, f64);
        fn run<D: Backend>(self, device: D, _: Place) -> Outcome<(f64, f64)> {
            Ok((device.peak_flops(), device.peak_bytes()))
        }
    }
    report.columns(&["what", "measured", "unit"])?;
    let (mut bytes, mut num_failed) = (0.0_f64, 0);
    for (precision, tf32, name) in [
        (Precision::Bf16, false, "matrix product, bf16"),
        (Precision::F16, false, "matrix product, fp16"),
        (Precision::F32, true, "matrix product, tf32"),
        (Precision::F32, false, "matrix product, f32"),
    ] {
        let wanted = Wanted { tf32, ..Wanted::new(target.device, precision) };
        match attempt(|| wanted.run(Peaks)) {
            Ok((flops, copy)) => {
                bytes = bytes.max(copy);
                let object = json!({ "name": name, "value": flops / 1e12, "unit": "TFLOP/s" });
                report.row(&[&name, &format_args!("{:.1}", flops / 1e12), &"TFLOP/s"], &object)?;
            }
            Err(failure) => {
                num_failed += 1;
                let why = failure.summary();
                report.row(&[&name, &"**failed**", &why], &json!({ "name": name, "failed": why }))?;
            }
        }
    }
    let (name, value) = ("memory, read and written together", bytes / 1e9);
    let object = json!({ "name": name, "value": value, "unit": "GB/s" });
    report.row(&[&name, &format_args!("{value:.0}"), &"GB/s"], &object)?;
    match num_failed {
        0 => Ok(()),
        _ => Err(Failure::failed(format!("{num_failed} of 4 peaks could not be measured"))),
    }
}

/// A row of training.
pub(super) fn training(target: &Target, report: &mut Report, row: Row) -> Outcome {
    report.columns(&[
        "precision",
        "B",
        "T",
        "micro-batches",
        "dropout",
        "optimizer",
        "ms a step",
        "tokens/s",
        "TFLOP/s",
        "of peak",
        "GPU memory, GiB",
        "spread",
    ])?;
    row.wanted(target).run(Measure { row, report })
}

struct Measure<'a> {
    row: Row,
    report: &'a mut Report,
}

impl OnDevice for Measure<'_> {
    type Output = ();

    fn run<D: Backend>(self, device: D, _: Place) -> Outcome {
        let Row { update, dropout, kind, .. } = self.row;
        let Update { batch, time, accumulation, .. } = update;
        let config = Shape::Gpt2.config(dropout)?;
        let (peak, device) = (device.peak_flops(), Arc::new(device));
        let mut steps = Steps::new(device, &config, update, kind)?;
        let times = steps.times(TIME, || {})?;
        let (median, spread) = (times.median(), times.spread());
        let rate = update.num_tokens() as f64 / median;
        let achieved = rate * flops_per_token(&config, time);
        let memory = steps.device_bytes().map(|bytes| bytes as f64 / f64::from(1 << 30));
        let (precision, optimizer) = (self.row.precision(), self.row.optimizer());
        self.report.row(
            &[
                &precision,
                &batch,
                &time,
                &accumulation,
                &dropout,
                &optimizer,
                &format_args!("{:.2}", 1e3 * median),
                &format::count(rate as u64),
                &format_args!("{:.1}", achieved / 1e12),
                &format::percent(achieved / peak),
                &memory.map_or_else(String::new, |memory| format!("{memory:.2}")),
                &format::percent(spread),
            ],
            &json!({
                "name": format!("training 124M {precision} B{batch} T{time} x{accumulation} dropout {dropout} {optimizer}"),
                "value": rate, "unit": "tokens/s", "share_of_peak": achieved / peak, "peak": peak / 1e9,
                "spread": spread, "step_ms": 1e3 * median, "memory_gib": memory, "num_steps": times.len(),
            }),
        )
    }
}

/// Where the time of a step goes.
pub(super) fn operations(target: &Target, report: &mut Report, row: Row) -> Outcome {
    struct Operations<'a>(Row, &'a mut Report);
    impl OnDevice for Operations<'_> {
        type Output = ();
        fn run<D: Backend>(self, device: D, _: Place) -> Outcome {
            let Operations(row, report) = self;
            let (config, is_json) = (Shape::Gpt2.config(row.dropout)?, report.is_json);
            let work = Work { config: &config, update: row.update, kind: row.kind, time: TIME };
            report.block(|output| breakdown(device, "each operation waited for", work, is_json, output))
        }
    }
    row.wanted(target).run(Operations(row, report))
}

pub(super) fn generation_bf16(target: &Target, report: &mut Report) -> Outcome {
    generation(target, report, Precision::Bf16)
}

pub(super) fn generation_fp16(target: &Target, report: &mut Report) -> Outcome {
    generation(target, report, Precision::F16)
}

pub(super) fn generation_fp32(target: &Target, report: &mut Report) -> Outcome {
    generation(target, report, Precision::F32)
}

/// A prompt, and new tokens one at a time.
fn generation(target: &Target, report: &mut Report, precision: Precision) -> Outcome {
    struct Generation<'a>(Precision, &'a mut Report);
    impl OnDevice for Generation<'_> {
        type Output = ();
        fn run<D: Backend>(self, device: D, _: Place) -> Outcome {
            const PROMPT: usize = 512;
            const NEW: usize = 256;
            let Generation(precision, report) = self;
            let config = Shape::Gpt2.config(0.0)?;
            let (reading, growing) = figures(Arc::new(device), config, Use::Inference, PROMPT, NEW)?;
            let what = [format!("prompt of {PROMPT} tokens"), format!("{NEW} new tokens, each")];
            for (what, figure) in what.iter().zip([reading, growing]) {
                let (rate, seconds) = (figure.rate(), figure.times.median());
                report.row(
                    &[
                        &what,
                        &format_args!("{precision:?}"),
                        &format_args!("{:.3}", 1e3 * seconds),
                        &format::count(rate as u64),
                        &format::percent(figure.share()),
                    ],
                    &json!({
                        "name": format!("{what}, {precision:?}"), "value": rate, "unit": "tokens/s",
                        "share_of_peak": figure.share(), "peak": figure.peak / 1e9, "spread": figure.times.spread(),
                    }),
                )?;
            }
            Ok(())
        }
    }
    report.columns(&["what", "precision", "ms", "tokens/s", "of the limit"])?;
    Wanted::new(target.device, precision).run(Generation(precision, report))
}
