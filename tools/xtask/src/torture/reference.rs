//! The uninterrupted run: what all others must end like, and how long its pieces take.

use super::error::Error;
use super::left::{self, Left, Metrics};
use super::process::Ended;
use super::world::Training;
use std::path::Path;
use std::time::Duration;

/// Where the time of an uninterrupted run goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// From the start to the first line of metrics.jsonl.
    pub(crate) loading: Duration,
    /// From start to end.
    pub(crate) whole: Duration,
    /// A checkpoint's writing, the median: as long as its hidden folder is there.
    pub(crate) saving: Duration,
    /// An evaluation, the median.
    pub(crate) evaluating: Duration,
    /// Updates in all.
    pub(crate) num_steps: u64,
    /// Updates between checkpoints.
    pub(crate) save_steps: u64,
    /// Updates between evaluations.
    pub(crate) eval_steps: u64,
}

impl Pace {
    /// When update `step` is done.
    pub(crate) fn time_of(&self, step: u64) -> Duration {
        let training = self.whole.saturating_sub(self.loading);
        self.loading + training.mul_f64(step as f64 / self.num_steps.max(1) as f64)
    }
}

/// A finished run.
pub(crate) struct Reference {
    pub(crate) left: Left,
    pub(crate) pace: Pace,
    pub(crate) metrics: Metrics,
}

impl Reference {
    /// Trains without disturbance, and watches.
    pub(crate) fn new(training: &Training) -> Result<Self, Error> {
        let mut running = training.start()?;
        let (mut saving, mut evaluating) = (Spans::default(), Spans::default());
        let mut loading = None;
        let eval_steps = setting(training, "eval_steps");
        let ended = running.wait_until(&mut |now| {
            if loading.is_none() && has_begun(&training.out) {
                loading = Some(now);
            }
            saving.see(now, matches!(left::half_written(&training.out), Ok(Some(_))));
            evaluating.see(now, eval_steps > 0 && left::is_evaluating(&training.out, eval_steps));
            false
        })?;
        let whole = running.elapsed();
        if ended != Some(Ended::Exit(0)) {
            return Err(Error::Command {
                command: format!("{} {}", training.binary.display(), training.arguments.join(" ")),
                ended: ended.map_or("nothing".into(), |ended| ended.to_string()),
                stderr: running.said(),
            });
        }
        let left = Left::read(&training.out)?;
        let metrics = Metrics::read(&training.out)?;
        let number = |key: &str| left.find_in_state(key).and_then(|value| value.as_u64()).unwrap_or(0);
        let pace = Pace {
            loading: loading.unwrap_or(whole),
            whole,
            saving: saving.median(),
            evaluating: evaluating.median(),
            num_steps: number("global_step"),
            save_steps: number("save_steps"),
            eval_steps: number("eval_steps"),
        };
        let path = &training.folder;
        if pace.num_steps == 0 || pace.save_steps == 0 {
            let problem = "left no checkpoint that says global_step and save_steps".into();
            return Err(Error::Reference { path: path.clone(), problem });
        }
        Ok(Reference { left, pace, metrics })
    }
}

/// Whether an update has been told of in a run that began anew.
pub(crate) fn has_begun(out: &Path) -> bool {
    std::fs::metadata(out.join("metrics.jsonl")).is_ok_and(|metadata| metadata.len() > 0)
}

/// A setting in the file of a training, as far as it is a plain number there; 0 if it is not.
fn setting(training: &Training, key: &str) -> u64 {
    let file = training.arguments.get(1).map(|file| training.cwd.join(file));
    let text = file.and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
    let value = text.lines().find_map(|line| line.trim().strip_prefix(key)?.trim().strip_prefix('='));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

/// How long something lasted, each time.
#[derive(Default)]
pub(crate) struct Spans {
    since: Option<Duration>,
    all: Vec<Duration>,
}

impl Spans {
    pub(crate) fn see(&mut self, now: Duration, is_on: bool) {
        match (self.since, is_on) {
            (None, true) => self.since = Some(now),
            (Some(since), false) => {
                self.all.push(now - since);
                self.since = None;
            }
            _ => {}
        }
    }

    pub(crate) fn median(&mut self) -> Duration {
        self.all.sort_unstable();
        self.all.get(self.all.len() / 2).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::Spans;
    use std::time::Duration;

    #[test]
    fn the_median_of_spans() {
        let mut spans = Spans::default();
        for (now, is_on) in
            [(0, false), (1, true), (2, true), (4, false), (10, true), (20, false), (30, true)]
        {
            spans.see(Duration::from_secs(now), is_on);
        }
        assert_eq!(spans.all, [Duration::from_secs(3), Duration::from_secs(10)]);
        assert_eq!(spans.median(), Duration::from_secs(10));
    }
}
