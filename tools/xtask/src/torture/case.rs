//! One run that things are done to: what was done, what was found wrong, and whether it ends as it must.

use super::error::Error;
use super::left::{self, Left, Metrics};
use super::process::{Ended, Running};
use super::reference::Reference;
use super::report::Failure;
use super::world::Training;
use super::{Options, Part};

/// A run.
pub(crate) struct Case<'a> {
    pub(crate) training: Training,
    options: &'a Options,
    part: Part,
    run: u64,
    done: Vec<String>,
    pub(crate) failures: Vec<Failure>,
    /// The newest checkpoint when a process last ended, and the log as it was then.
    kept: Option<(u64, Metrics)>,
    /// Whether a log had its last line cut off.
    pub(crate) num_torn: u64,
    /// Processes started.
    pub(crate) num_processes: u64,
}

impl<'a> Case<'a> {
    pub(crate) fn new(training: Training, options: &'a Options, part: Part, run: u64) -> Self {
        Case {
            training,
            options,
            part,
            run,
            done: Vec::new(),
            failures: Vec::new(),
            kept: None,
            num_torn: 0,
            num_processes: 0,
        }
    }

    /// Starts a process of it.
    pub(crate) fn start(&mut self) -> Result<Running, Error> {
        self.num_processes += 1;
        self.training.start()
    }

    /// Notes what was done.
    pub(crate) fn note(&mut self, line: String) {
        self.done.push(line);
    }

    /// Notes what is wrong.
    pub(crate) fn fail(&mut self, what: &str, detail: impl Into<String>) {
        let Options { seed, binary, .. } = self.options;
        self.failures.push(Failure {
            what: what.into(),
            run: self.run,
            done: self.done.clone(),
            detail: detail.into(),
            folder: self.training.folder.clone(),
            reproduce: format!(
                "cargo xtask torture --only {} --seed {seed} --run {} --binary {}",
                self.part.name(),
                self.run,
                binary.display()
            ),
        });
    }

    /// Looks at what a process left: its newest checkpoint is returned, and its log. What an earlier process had saved must
    /// have been taken over, not done anew.
    pub(crate) fn examine(&mut self) -> Result<(u64, Metrics), Error> {
        let newest = left::newest(&self.training.out)?;
        let metrics = Metrics::read(&self.training.out)?;
        self.num_torn += u64::from(metrics.is_torn);
        if let Some((step, before)) = self.kept.take() {
            if newest < step {
                self.fail(
                    "a checkpoint is gone",
                    format!("checkpoint-{step} was the newest, now it is {newest}"),
                );
            }
            if let Some(first) = before.first_not_kept(step, &metrics) {
                let detail = format!(
                    "checkpoint-{step} was the newest, but update {first} was done again; it said:\n{}",
                    self.said()
                );
                self.fail("it did not go on from the newest checkpoint", detail);
            }
        }
        self.kept = Some((newest, metrics.clone()));
        Ok((newest, metrics))
    }

    /// What the last process said: its last lines.
    pub(crate) fn said(&self) -> String {
        let said = std::fs::read(self.training.folder.join("stderr")).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    /// Lets the run come to its end with the same command, and compares it. `ended`: how its last process ended, if that was
    /// not by what was done to it.
    pub(crate) fn finish(&mut self, reference: &Reference, ended: Option<Ended>) -> Result<(), Error> {
        let ended = match ended {
            Some(ended) => Some(ended),
            None => {
                let limit = self.training.limit;
                let ended = self.start()?.wait(limit)?;
                self.note("then it was left to its end".into());
                ended
            }
        };
        self.examine()?;
        match ended {
            Some(Ended::Exit(0)) => self.compare(reference),
            Some(ended) => {
                self.fail("it does not go on by itself", format!("{ended}; it said:\n{}", self.said()));
                Ok(())
            }
            None => {
                self.fail("it hangs", format!("for {:?}; it said:\n{}", self.training.limit, self.said()));
                Ok(())
            }
        }
    }

    /// Compares a finished run.
    fn compare(&mut self, reference: &Reference) -> Result<(), Error> {
        let left = Left::read(&self.training.out)?;
        for (file, how) in reference.left.differences(&left) {
            // Names of those have the process in them.
            if file.ends_with(".tmp") || file.contains(".partial-") {
                self.fail("a half-written file stays", file);
                continue;
            }
            // A checkpoint's name has a step; kinds of failures have none.
            let kind = file.split('/').map(|part| match part.strip_prefix("checkpoint-") {
                Some(_) => "checkpoint-N",
                None => part,
            });
            let kind = kind.collect::<Vec<_>>().join("/");
            self.fail(&format!("{kind} is not the uninterrupted run's"), format!("{file} {how}"));
        }
        if left.num_checkpoints() != reference.left.num_checkpoints() {
            let (expected, got) = (reference.left.num_checkpoints(), left.num_checkpoints());
            self.fail(
                "more or fewer checkpoints stay than should",
                format!("the uninterrupted run keeps {expected}, this one {got}"),
            );
        }
        let leftovers = left::leftovers(&self.training.out)?;
        if !leftovers.is_empty() {
            self.fail("hidden folders stay", leftovers.join(", "));
        }
        Ok(())
    }

    /// Its failures, after removing a folder that nobody needs.
    pub(crate) fn close(self) -> Result<Vec<Failure>, Error> {
        if self.failures.is_empty() && !self.options.keep {
            self.training.remove()?;
        }
        Ok(self.failures)
    }
}
