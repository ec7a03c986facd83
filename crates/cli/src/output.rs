//! The two streams: results to stdout, everything else to stderr.
//!
//! A closed stdout ends the command quietly, as `| head` expects; a closed stderr changes nothing. While a screen has the
//! terminal, what is said goes there.

use crate::errors::{Failure, Outcome};
use serde::Serialize;
use std::fmt::Display;
use std::io::{self, BufWriter, Stdout, Write};
use std::sync::{Mutex, PoisonError};

/// stdout, buffered, with errors that commands can return.
pub(crate) struct Output {
    inner: BufWriter<Stdout>,
}

impl Output {
    pub(crate) fn new() -> Self {
        Output { inner: BufWriter::new(io::stdout()) }
    }

    /// Writes text or bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Outcome {
        self.inner.write_all(bytes).map_err(|error| Failure::stdout(&error))
    }

    /// Writes a line.
    pub(crate) fn line(&mut self, line: impl Display) -> Outcome {
        writeln!(self.inner, "{line}").map_err(|error| Failure::stdout(&error))
    }

    /// Writes a JSON value as a line.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Outcome {
        let text = serde_json::to_string(value)
            .map_err(|error| Failure::failed(format!("cannot write JSON: {error}")))?;
        self.line(text)
    }

    /// Makes what was written visible.
    pub(crate) fn flush(&mut self) -> Outcome {
        self.inner.flush().map_err(|error| Failure::stdout(&error))
    }
}

/// Something said to the person: the line, and whether it is a warning.
pub(crate) type Listener = Box<dyn Fn(&str, bool) + Send>;

/// Who hears what is said instead of stderr.
static LISTENER: Mutex<Option<Listener>> = Mutex::new(None);

/// From now on `listener` hears what is said; `None`: stderr does.
pub(crate) fn divert(listener: Option<Listener>) {
    *LISTENER.lock().unwrap_or_else(PoisonError::into_inner) = listener;
}

/// Whether a listener heard it.
fn is_heard(line: &dyn Display, is_warning: bool) -> bool {
    let listener = LISTENER.lock().unwrap_or_else(PoisonError::into_inner);
    listener.as_ref().map(|hear| hear(&line.to_string(), is_warning)).is_some()
}

/// Says something to the person, on stderr.
pub(crate) fn note(line: impl Display) {
    if !is_heard(&line, false) {
        print(line);
    }
}

/// Says that something may not be as meant, on stderr.
pub(crate) fn warn(line: impl Display) {
    if !is_heard(&line, true) {
        let label = if crate::errors::has_colour() { "\x1b[1;33mwarning:\x1b[0m" } else { "warning:" };
        print(format_args!("{label} {line}"));
    }
}

fn print(line: impl Display) {
    // Where stderr is closed there is nobody to tell.
    let _ = writeln!(io::stderr(), "{line}");
}
