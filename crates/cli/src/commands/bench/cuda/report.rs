//! What a section of `eyas bench cuda` writes: tables of Markdown for a person, or an object a row for a program.

use crate::errors::{Failure, Outcome};
use crate::output::Output;
use serde_json::Value;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// One section on stdout.
pub(super) struct Report {
    output: Output,
    /// Objects instead of text.
    pub(super) is_json: bool,
    /// The table of the section before goes on.
    is_continued: bool,
}

impl Report {
    pub(super) fn new(is_json: bool, is_continued: bool) -> Self {
        Report { output: Output::new(), is_json, is_continued }
    }

    /// A line for a person.
    pub(super) fn line(&mut self, line: impl Display) -> Outcome {
        if !self.is_json {
            self.output.line(line)?;
        }
        self.output.flush()
    }

    /// The head of a table.
    pub(super) fn columns(&mut self, names: &[&str]) -> Outcome {
        match self.is_continued {
            true => Ok(()),
            false => {
                self.line(format_args!("| {} |", names.join(" | ")))?;
                self.line(format_args!("|{}", "---|".repeat(names.len())))
            }
        }
    }

    /// A row of it, and the same as an object.
    pub(super) fn row(&mut self, cells: &[&dyn Display], object: &Value) -> Outcome {
        match self.is_json {
            true => self.output.json(object)?,
            false => {
                let cells: Vec<String> = cells.iter().map(|cell| cell.to_string()).collect();
                self.output.line(format_args!("| {} |", cells.join(" | ")))?;
            }
        }
        self.output.flush()
    }

    /// Text that is laid out already, or objects.
    pub(super) fn block(&mut self, write: impl FnOnce(&mut Output) -> Outcome) -> Outcome {
        self.line("```text")?;
        write(&mut self.output)?;
        self.line("```")
    }
}

/// Does `work`; a panic is a failure with its message, so that what comes after is done too.
pub(super) fn attempt<T>(work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("without a message");
        Err(Failure::failed(format!("panic: {text}")))
    })
}
