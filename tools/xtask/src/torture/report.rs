//! What a part found: its figures, and what eyas did wrong.

use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::path::PathBuf;

/// Something that eyas did wrong.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// What; the same words for the same thing.
    pub what: String,
    /// The run it was found in.
    pub run: u64,
    /// What had been done to that run until then, in order.
    pub done: Vec<String>,
    /// Expected and got.
    pub detail: String,
    /// The folder of the run, as it was left.
    pub folder: PathBuf,
    /// The command that does the same again, as far as the machine's speed allows.
    pub reproduce: String,
}

/// What a part found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The part.
    pub part: &'static str,
    /// The seed of all that was drawn.
    pub seed: u64,
    /// How long it took.
    pub seconds: f64,
    /// Its figures by name.
    pub figures: Map<String, Value>,
    /// What went wrong; empty if nothing did.
    pub failures: Vec<Failure>,
}

impl Report {
    /// Whether nothing went wrong.
    pub fn is_ok(&self) -> bool {
        self.failures.is_empty()
    }
}

/// One line with the figures; then, for each kind of failure, how often it was seen and the first in full.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.is_ok() { "ok" } else { "FAILED" };
        write!(f, "{:<10} {verdict}", self.part)?;
        for (name, value) in &self.figures {
            let text = value.as_str().map_or_else(|| value.to_string(), Into::into);
            write!(f, "{} {text} {name}", if name == self.first_name() { ":" } else { "," })?;
        }
        write!(f, "; {:.0} s, seed {}", self.seconds, self.seed)?;
        let mut kinds: BTreeMap<&str, Vec<&Failure>> = BTreeMap::new();
        for failure in &self.failures {
            kinds.entry(&failure.what).or_default().push(failure);
        }
        let mut told = None;
        for (what, failures) in kinds {
            let first = failures[0];
            let mut done = String::new();
            // What was done to a run is told once.
            if told.replace(first.run) != Some(first.run) {
                first.done.iter().try_for_each(|line| writeln!(done, "    {line}"))?;
            }
            write!(
                f,
                "\n  {what}: {} times, the first in run {}\n    {}\n{done}    folder: {}\n    again:  {}",
                failures.len(),
                first.run,
                first.detail.replace('\n', "\n    "),
                first.folder.display(),
                first.reproduce
            )?;
        }
        Ok(())
    }
}

impl Report {
    fn first_name(&self) -> &str {
        self.figures.keys().next().map_or("", String::as_str)
    }
}
