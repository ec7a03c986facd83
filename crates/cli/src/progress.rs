//! Progress of long work on stderr: a bar on a terminal, else a plain line now and then.
//!
//! Nothing else may write to stderr while a bar stands: [`Progress::note`] writes above it.

use crate::format;
use indicatif::{ProgressBar, ProgressStyle};
use std::fmt::Display;
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

/// Plain lines come this far apart.
const PLAIN_EVERY: Duration = Duration::from_secs(10);
/// A bar is drawn at most this often.
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// One piece of long work.
pub(crate) struct Progress {
    label: String,
    bar: Option<ProgressBar>,
    left: TimeLeft,
    last: Instant,
}

/// The time left, by what was done since the first share that was told: a resumed run begins in its middle.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TimeLeft {
    /// The first share, and when it was told.
    first: Option<(Instant, f64)>,
}

impl TimeLeft {
    /// Now that `share` is done; `None` in the first moments, which say little about the rest.
    pub(crate) fn at(&mut self, share: f64) -> Option<Duration> {
        let now = Instant::now();
        let (start, first) = *self.first.get_or_insert((now, share));
        let (elapsed, done) = (now - start, share - first);
        let is_known = done > 0.0 && elapsed > Duration::from_secs(1);
        is_known.then(|| elapsed.mul_f64(((1.0 - share) / done).clamp(0.0, 1e9)))
    }
}

impl Progress {
    /// Begins; `label` says what is going on: `tokenizer`, `train`.
    pub(crate) fn new(label: &str) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{prefix} {bar:20} {wide_msg}");
            let bar = ProgressBar::new(1000).with_prefix(label.to_string());
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸ "));
            bar
        });
        Progress { label: label.into(), bar, left: TimeLeft::default(), last: Instant::now() }
    }

    /// `share` of the work is done, and `message` says more: counts, rates. The time left is added here.
    pub(crate) fn set(&mut self, share: f64, message: &dyn Display) {
        self.set_with(share, None, message);
    }

    /// The same with a better estimate of the time left, where there is one.
    pub(crate) fn set_with(&mut self, share: f64, left: Option<Duration>, message: &dyn Display) {
        let by_share = self.left.at(share);
        let left = left.or(by_share).map(|left| format!("{} left", format::duration(left)));
        // A narrow terminal cuts off the end of a bar's line, which has to be something else.
        let is_bar = self.bar.is_some();
        self.draw(Some(share), &|| match &left {
            Some(left) if is_bar => format!("{left}, {message}"),
            Some(left) => format!("{message}, {left}"),
            None => message.to_string(),
        });
    }

    /// Work of unknown size.
    pub(crate) fn tick(&mut self, message: &dyn Display) {
        self.draw(None, &|| message.to_string());
    }

    fn draw(&mut self, share: Option<f64>, message: &dyn Fn() -> String) {
        let every = if self.bar.is_some() { DRAW_EVERY } else { PLAIN_EVERY };
        if self.last.elapsed() < every {
            return;
        }
        self.last = Instant::now();
        match &self.bar {
            Some(bar) => {
                bar.set_message(message());
                bar.set_position((1000.0 * share.unwrap_or(0.0)) as u64);
            }
            None => {
                let share = share.map_or_else(String::new, |share| format!("{:3.0} %  ", 100.0 * share));
                crate::output::note(format_args!("{}: {share}{}", self.label, message()));
            }
        }
    }

    /// Writes a line that stays.
    pub(crate) fn note(&self, line: impl Display) {
        match &self.bar {
            Some(bar) => bar.suspend(|| crate::output::note(line)),
            None => crate::output::note(line),
        }
    }

    /// Writes a warning that stays.
    pub(crate) fn warn(&self, line: impl Display) {
        match &self.bar {
            Some(bar) => bar.suspend(|| crate::output::warn(line)),
            None => crate::output::warn(line),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
