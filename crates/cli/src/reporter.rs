//! What a training run tells, as a person reads it: a bar or plain lines, and notes that stay.

use crate::format;
use crate::progress::Progress;
use eyas_train::{Event, Plan, StepMetrics};
use std::path::Path;

/// Listens to a run.
pub(crate) struct Reporter {
    /// What the machine does at most, in FLOP/s; shares are of this.
    peak_flops: f64,
    flops_per_token: f64,
    num_steps: Option<u64>,
    first_step: u64,
    /// The last update, for what is told between updates.
    last: Option<StepMetrics>,
    /// The bar of what is going on now, and which that is.
    progress: Option<(Stage, Progress)>,
    /// Whether checkpoints, logged steps and the plan are told too.
    is_verbose: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Prepare,
    Train,
    Evaluate,
}

impl Reporter {
    /// For a run of `eyas train`: everything is told.
    pub(crate) fn new(peak_flops: f64) -> Self {
        Reporter {
            peak_flops,
            flops_per_token: 0.0,
            num_steps: None,
            first_step: 0,
            last: None,
            progress: None,
            is_verbose: true,
        }
    }

    /// For quickstart, which tells its own plan: progress and warnings only.
    pub(crate) fn quiet(peak_flops: f64) -> Self {
        Reporter { is_verbose: false, ..Reporter::new(peak_flops) }
    }

    /// Takes in an event.
    pub(crate) fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Preparing { progress, .. } => {
                let (documents, bytes) =
                    (format::count(progress.num_documents), format::bytes(progress.num_bytes));
                self.stage(Stage::Prepare).tick(&format_args!("{documents} documents, {bytes}"));
            }
            Event::Prepared { setting, path, report } => {
                let tokens = format::count(report.num_tokens);
                self.note(&format!("{setting}: {}; {tokens} tokens in {}", report.source, path.display()));
            }
            Event::Reused { setting, path } => {
                self.note(&format!("{setting}: prepared before, {}", path.display()));
            }
            Event::Plan(plan) => self.plan(plan),
            Event::Resumed { path, step } => {
                self.note(&format!("resumed from {} after {} updates", path.display(), format::count(*step)));
            }
            Event::Step(metrics) => {
                self.last = Some(**metrics);
                self.step(metrics);
            }
            Event::MicroBatch { done, of } => self.micro_batch(*done, *of),
            Event::Logged(metrics) => self.logged(metrics),
            Event::Evaluating { done, of } => {
                let share = *done as f64 / (*of).max(1) as f64;
                self.stage(Stage::Evaluate).set(share, &format_args!("{} targets", format::count(*done)));
            }
            Event::Evaluated { step, result } => {
                self.note(&format!(
                    "evaluation after {} updates: loss {:.4}, perplexity {:.2}, {:.4} bits per byte",
                    format::count(*step),
                    result.loss,
                    result.perplexity,
                    result.bits_per_byte
                ));
                self.progress = None;
            }
            Event::Saved(path) => self.tell_path("saved", path),
            Event::Removed(path) => self.tell_path("removed", path),
            Event::Warning(text) => match &self.progress {
                Some((_, progress)) => progress.warn(text),
                None => crate::output::warn(text),
            },
            Event::Done(_) => self.progress = None,
            // Events of later versions.
            _ => {}
        }
    }

    fn plan(&mut self, plan: &Plan) {
        self.progress = None;
        self.flops_per_token = plan.flops_per_token;
        self.num_steps = plan.num_steps();
        self.first_step = plan.first_step;
        if self.is_verbose {
            crate::output::note(plan);
        }
    }

    fn step(&mut self, metrics: &StepMetrics) {
        let of = self.num_steps.map_or_else(String::new, |steps| format!(" of {}", format::count(steps)));
        let message = format!(
            "step {}{of}, loss {:.3}, {}",
            format::count(metrics.step),
            metrics.loss,
            self.rate(metrics)
        );
        self.stage(Stage::Train).set(metrics.fraction, &message);
    }

    /// Long updates are followed micro-batch by micro-batch; the last one ends in a step.
    fn micro_batch(&mut self, done: usize, of: usize) {
        let Some(steps) = self.num_steps.filter(|_| done < of) else { return };
        let first = self.last.map_or(self.first_step, |last| last.step);
        let share = (first as f64 + done as f64 / of as f64) / steps as f64;
        let message = format!(
            "step {} of {}, micro-batch {done} of {of}",
            format::count(first + 1),
            format::count(steps)
        );
        self.stage(Stage::Train).set(share, &message);
    }

    fn logged(&mut self, metrics: &StepMetrics) {
        let rate = self.rate(metrics);
        self.note(&format!(
            "step {}, epoch {:.2}, loss {:.4}, learning rate {:.3e}, gradient norm {:.2}, {rate}",
            format::count(metrics.step),
            metrics.epoch,
            metrics.loss,
            metrics.learning_rate,
            metrics.grad_norm
        ));
    }

    /// `5,120 tokens/s (61.0 % of peak)`.
    fn rate(&self, metrics: &StepMetrics) -> String {
        let share = metrics.tokens_per_second * self.flops_per_token / self.peak_flops;
        format!(
            "{} tokens/s ({} of peak)",
            format::count(metrics.tokens_per_second as u64),
            format::percent(share)
        )
    }

    fn tell_path(&self, what: &str, path: &Path) {
        self.note(&format!("{what} {}", path.display()));
    }

    fn note(&self, line: &str) {
        match &self.progress {
            _ if !self.is_verbose => {}
            Some((_, progress)) => progress.note(line),
            None => crate::output::note(line),
        }
    }

    /// The bar of `stage`, begun if another stage was going on.
    fn stage(&mut self, stage: Stage) -> &mut Progress {
        let label = match stage {
            Stage::Prepare => "prepare",
            Stage::Train => "train",
            Stage::Evaluate => "eval",
        };
        match self.progress.take() {
            Some((current, progress)) if current == stage => &mut self.progress.insert((stage, progress)).1,
            _ => &mut self.progress.insert((stage, Progress::new(label))).1,
        }
    }
}
