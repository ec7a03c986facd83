//! What a training run tells, as a person reads it: a bar or plain lines, and notes that stay.

use crate::format;
use crate::progress::Progress;
use eyas_train::{Event, Plan, Sample, StepMetrics};
use std::fmt::Write as _;
use std::time::Duration;

/// Lines of a sample that are shown at most, the prompt's last one and those after it.
const SAMPLE_LINES: usize = 6;
/// Characters of a line of a sample.
const SAMPLE_COLUMNS: usize = 100;

/// Listens to a run.
pub(crate) struct Reporter {
    /// What the machine does at most, in FLOP/s; shares are of this.
    peak_flops: f64,
    flops_per_token: f64,
    num_steps: Option<u64>,
    first_step: u64,
    /// The last update, for what is told between updates.
    last: Option<StepMetrics>,
    /// Whether a checkpoint is being written while training goes on.
    is_saving: bool,
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
    pub(crate) fn new() -> Self {
        Reporter {
            peak_flops: 0.0,
            flops_per_token: 0.0,
            num_steps: None,
            first_step: 0,
            last: None,
            is_saving: false,
            progress: None,
            is_verbose: true,
        }
    }

    /// For quickstart, which tells its own plan: progress and warnings only.
    pub(crate) fn quiet() -> Self {
        Reporter { is_verbose: false, ..Reporter::new() }
    }

    /// Takes in an event.
    pub(crate) fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Preparing { progress, .. } => {
                let (documents, bytes) =
                    (format::count(progress.num_documents), format::bytes(progress.num_bytes));
                self.stage(Stage::Prepare).tick(&format_args!("{documents} documents, {bytes}"));
            }
            Event::Plan(plan) => self.plan(plan),
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
            Event::Evaluated { .. } => self.tell(event),
            Event::Sampled(samples) => {
                self.note(&sample_block(samples, crate::errors::has_colour()));
                self.progress = None;
            }
            Event::Saving { .. } => self.is_saving = true,
            Event::NotSaved { .. } => self.is_saving = false,
            Event::Saved(_) => {
                self.is_saving = false;
                self.tell(event);
            }
            Event::Warning(text) => match &self.progress {
                Some((_, progress)) => progress.warn(text),
                None => crate::output::warn(text),
            },
            Event::Done(_) => self.progress = None,
            _ => self.tell(event),
        }
    }

    fn plan(&mut self, plan: &Plan) {
        self.progress = None;
        (self.peak_flops, self.flops_per_token) = (plan.peak_flops, plan.flops_per_token);
        self.num_steps = plan.num_steps();
        self.first_step = plan.first_step;
        if self.is_verbose {
            crate::output::note(plan);
        }
    }

    fn step(&mut self, metrics: &StepMetrics) {
        let of = self.num_steps.map_or_else(String::new, |steps| format!(" of {}", format::count(steps)));
        let saving = if self.is_saving { ", saving a checkpoint" } else { "" };
        let message = format!(
            "step {}{of}, loss {:.3}, learning rate {:.2e}, {}{saving}",
            format::count(metrics.step),
            metrics.loss,
            metrics.learning_rate,
            self.rate(metrics)
        );
        let left = metrics.seconds_left.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        self.stage(Stage::Train).set_with(metrics.fraction, left, &message);
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

    fn tell(&self, event: &Event<'_>) {
        if let Some(line) = line_of(event) {
            self.note(&line);
        }
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

/// The line that an event stays as, whoever shows it; `None` for what is only progress, or is more than a line.
pub(crate) fn line_of(event: &Event<'_>) -> Option<String> {
    Some(match event {
        Event::Plan(plan) => return plan.passes(),
        Event::Prepared { setting, path, report } => {
            let tokens = format::count(report.num_tokens);
            format!("{setting}: {}; {tokens} tokens in {}", report.source, path.display())
        }
        Event::Reused { setting, path } => format!("{setting}: prepared before, {}", path.display()),
        Event::Resumed { path, step } => {
            format!("resumed from {} after {} updates", path.display(), format::count(*step))
        }
        Event::Evaluated { step, result } => format!(
            "evaluation after {} updates: loss {:.4}, perplexity {:.2}, {:.4} bits per byte",
            format::count(*step),
            result.loss,
            result.perplexity,
            result.bits_per_byte
        ),
        Event::Saved(path) => format!("saved {}", path.display()),
        Event::Removed(path) => format!("removed {}", path.display()),
        Event::Reported(path) => format!("the run as a page: {}", path.display()),
        Event::StoppingEarly { step, evaluations } => format!(
            "stopping early after {} updates: the last {evaluations} evaluations were no better than the best",
            format::count(*step)
        ),
        Event::LoadedBest { path, metric, value } => {
            format!("took back the best weights: {}, {metric} {value:.4}", path.display())
        }
        _ => return None,
    })
}

/// Samples as an indented block: each prompt, dimmed where there are colours, and what it was continued with.
fn sample_block(samples: &[Sample], has_colour: bool) -> String {
    let Some(first) = samples.first() else { return "no samples".into() };
    let mut text = format!("samples after {} updates", format::count(first.step));
    for (i, sample) in samples.iter().enumerate() {
        if i > 0 {
            text.push('\n');
        }
        for parts in sample_lines(sample, SAMPLE_LINES, SAMPLE_COLUMNS) {
            let [prompt, completion] = &parts;
            let _ = match has_colour && !prompt.is_empty() {
                true => write!(text, "\n  \x1b[2m{prompt}\x1b[0m{completion}"),
                false => write!(text, "\n  {prompt}{completion}"),
            };
        }
    }
    text
}

/// The last line of a sample's prompt and what follows, at most `num_lines` of `columns`, each as its part of the prompt and
/// its part of the completion. Control characters, which a young model likes to write, do nothing to the terminal.
pub(crate) fn sample_lines(sample: &Sample, num_lines: usize, columns: usize) -> Vec<[String; 2]> {
    let prompt = sample.prompt.trim_end_matches('\n');
    let cut = &sample.prompt[prompt.len()..];
    let shown = prompt.rsplit('\n').next().unwrap_or_default();
    let mut lines = vec![[printable(shown), String::new()]];
    for (i, line) in format!("{cut}{}", sample.completion).trim_end().split('\n').enumerate() {
        match lines.last_mut() {
            Some([_, completion]) if i == 0 => *completion = printable(line),
            _ => lines.push([String::new(), printable(line)]),
        }
    }
    let is_longer = lines.len() > num_lines;
    lines.truncate(num_lines);
    for [prompt, completion] in &mut lines {
        *prompt = clipped(prompt, columns);
        *completion = clipped(completion, columns - prompt.chars().count());
    }
    if let Some([_, last]) = lines.last_mut().filter(|_| is_longer) {
        last.push_str(" …");
    }
    lines
}

fn printable(line: &str) -> String {
    line.trim_end_matches('\r')
        .replace('\t', "    ")
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

fn clipped(text: &str, columns: usize) -> String {
    match text.char_indices().nth(columns) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(prompt: &str, completion: &str) -> Sample {
        Sample { step: 1200, prompt: prompt.into(), completion: completion.into() }
    }

    #[test]
    fn samples_are_a_short_block_that_does_nothing_to_the_terminal() {
        let samples = [
            sample("import x\ndef main():", "\n\treturn \x1b[31m1\n\n"),
            sample("a", &"b\n".repeat(20)),
            sample("c\n", &"d".repeat(200)),
        ];
        let text = sample_block(&samples, false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[..3],
            ["samples after 1,200 updates", "  def main():", "      return \u{fffd}[31m1"]
        );
        assert_eq!(lines[3], "");
        assert_eq!(lines[4..10], ["  ab", "  b", "  b", "  b", "  b", "  b …"]);
        assert_eq!(lines[11..], ["  c", &format!("  {}…", "d".repeat(SAMPLE_COLUMNS))]);
        let text = sample_block(&samples[..1], true);
        assert!(text.contains("\n  \x1b[2mdef main():\x1b[0m\n"), "{text:?}");
    }
}
