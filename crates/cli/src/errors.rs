//! Failures as a person reads them: what, where, expected and got from the library's own error, then a hint.
//!
//! Owns the exit status. The trick: a library error's message is complete by itself, so a cause is printed only where the
//! message before it does not already contain it.

use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::process::ExitCode;

/// Exit status of wrong usage.
pub(crate) const USAGE: u8 = 2;
const FAILED: u8 = 1;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something went wrong, or was wrongly asked for.
    Report {
        /// The exit status.
        status: u8,
        /// What, where, expected, got.
        message: String,
        /// What lies behind it, outermost first.
        causes: Vec<String>,
        /// What to do.
        hint: Option<String>,
    },
    /// A signal asked to stop, and everything worth keeping was saved.
    Stopped {
        /// 128 + the signal.
        status: u8,
        /// What was saved, and how to go on.
        message: String,
    },
    /// Nobody reads stdout any more: no error, and nothing to say.
    ClosedPipe,
}

/// What every command returns.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// Something went wrong.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Failure::Report { status: FAILED, message: message.into(), causes: Vec::new(), hint: None }
    }

    /// Something impossible was asked for.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Failure::Report { status: USAGE, message: message.into(), causes: Vec::new(), hint: None }
    }

    /// The operating system refused.
    pub(crate) fn io(action: &str, path: &std::path::Path, error: &io::Error) -> Self {
        Failure::failed(format!("cannot {action} {}: {error}", path.display())).maybe_hint(io_hint(error))
    }

    /// Writing to stdout failed.
    pub(crate) fn stdout(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::ClosedPipe,
            _ => Failure::failed(format!("cannot write to stdout: {error}")),
        }
    }

    /// Adds what to do, unless something was already said.
    pub(crate) fn hint(self, text: impl Into<String>) -> Self {
        self.maybe_hint(Some(text.into()))
    }

    /// Names the file that the message is about.
    pub(crate) fn in_file(mut self, path: &std::path::Path) -> Self {
        if let Failure::Report { message, .. } = &mut self {
            *message = format!("{}: {message}", path.display());
        }
        self
    }

    fn maybe_hint(mut self, text: Option<String>) -> Self {
        if let Failure::Report { hint: hint @ None, .. } = &mut self {
            *hint = text;
        }
        self
    }

    fn of(status: u8, error: &dyn Error) -> Self {
        let message = error.to_string();
        let (mut causes, mut said, mut source) = (Vec::new(), message.clone(), error.source());
        let mut hint = None;
        while let Some(cause) = source {
            let text = cause.to_string();
            if !said.contains(&text) {
                causes.push(text.clone());
                said = text;
            }
            if let Some(error) = cause.downcast_ref::<io::Error>() {
                hint = hint.or_else(|| io_hint(error));
            }
            source = cause.source();
        }
        Failure::Report { status, message, causes, hint }
    }

    /// The message with what lies behind it, in a line.
    pub(crate) fn summary(self) -> String {
        match self {
            Failure::ClosedPipe => "nobody reads stdout any more".into(),
            Failure::Stopped { message, .. } => message,
            Failure::Report { message, causes, .. } => {
                causes.into_iter().fold(message, |text, cause| format!("{text}: {cause}"))
            }
        }
    }

    /// Prints the failure and says with which status to end.
    pub(crate) fn report(self) -> ExitCode {
        let (status, text) = match self {
            Failure::ClosedPipe => return ExitCode::SUCCESS,
            Failure::Stopped { status, message } => (status, format!("{message}\n")),
            Failure::Report { status, message, causes, hint } => (status, render(&message, &causes, hint)),
        };
        // Where stderr is closed there is nobody to tell.
        let _ = io::stderr().write_all(text.as_bytes());
        ExitCode::from(status)
    }
}

fn render(message: &str, causes: &[String], hint: Option<String>) -> String {
    let paint = |code: &str, text: &str| match has_colour() {
        true => format!("\x1b[{code}m{text}\x1b[0m"),
        false => text.to_string(),
    };
    let mut text = format!("{} {message}\n", paint("1;31", "error:"));
    for cause in causes {
        let _ = writeln!(text, "  {} {cause}", paint("1", "cause:"));
    }
    if let Some(hint) = hint {
        let _ = writeln!(text, "  {} {hint}", paint("1;32", "hint:"));
    }
    text
}

/// Whether stderr is a terminal that wants colour.
pub(crate) fn has_colour() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn io_hint(error: &io::Error) -> Option<String> {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "check who owns it and who may write there, or choose another place"
        }
        io::ErrorKind::StorageFull => "the disk is full: make room, or choose another place",
        io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only: choose another place",
        io::ErrorKind::NotADirectory => "a part of that path is a file: choose another place",
        _ => return None,
    };
    Some(hint.into())
}

impl From<eyas_token::Error> for Failure {
    fn from(error: eyas_token::Error) -> Self {
        use eyas_token::Error as E;
        let status = match error {
            E::VocabularyTooSmall { .. } | E::SpecialToken { .. } => USAGE,
            _ => FAILED,
        };
        let hint = match &error {
            E::NotFound { .. } => "make one: eyas tokenizer train DATA... --out DIR",
            E::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "give a folder with a tokenizer.json; make one: eyas tokenizer train DATA... --out DIR"
            }
            E::UnknownId { .. } => "are these ids of another tokenizer?",
            E::NotTrainable { .. } => {
                "leave --from out to train in GPT-2's way, or give it a tokenizer that cuts words as GPT-2, StarCoder, \
                 Llama 3 or Qwen 2 do"
            }
            E::VocabularyTooSmall { .. } => "ask for more with --vocab-size; 8192 suits a small corpus",
            E::Json { .. } | E::Invalid { .. } => "the file is damaged or was edited: copy or train it again",
            _ => return Failure::of(status, &error),
        };
        Failure::of(status, &error).hint(hint)
    }
}

impl From<eyas_model::Error> for Failure {
    fn from(error: eyas_model::Error) -> Self {
        use eyas_model::Error as E;
        let mut inner = &error;
        while let E::In { error, .. } = inner {
            inner = error;
        }
        let status = match (&error, inner) {
            // In a file they are the file's fault, on the command line the caller's.
            (E::In { .. }, _) => FAILED,
            (_, E::Config { .. } | E::UnknownKey { .. } | E::Sampling { .. }) => USAGE,
            _ => FAILED,
        };
        let hint = match inner {
            E::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "give a model folder: config.json, model.safetensors and tokenizer.json"
            }
            E::Safetensors { .. } => {
                "the file is truncated or damaged: copy it again, or take an earlier checkpoint"
            }
            E::MissingTensors { .. } | E::UnexpectedTensors { .. } | E::Tensor { .. } => {
                "config.json and the weights are not of the same model"
            }
            E::NotFinite { .. } => "training diverged before it was saved: take an earlier checkpoint",
            _ => return Failure::of(status, &error),
        };
        Failure::of(status, &error).hint(hint)
    }
}

impl From<eyas_serve::Error> for Failure {
    fn from(error: eyas_serve::Error) -> Self {
        match error {
            eyas_serve::Error::Model(error) => error.into(),
            eyas_serve::Error::Token(error) => error.into(),
            error => Failure::of(FAILED, &error),
        }
    }
}

impl From<eyas_data::Error> for Failure {
    fn from(error: eyas_data::Error) -> Self {
        use eyas_data::{Error as E, HubError};
        let error = match error {
            E::Token(error) => return error.into(),
            error => error,
        };
        let status = match error {
            E::Option { .. } | E::Unsupported { .. } => USAGE,
            E::Hub(HubError::Id { .. } | HubError::Option { .. }) => USAGE,
            _ => FAILED,
        };
        let hint = match &error {
            E::NotFound { .. } => "check the spelling, and quote globs: 'data/*.jsonl'",
            E::NoDocuments { .. } => {
                "give a folder that holds source code; --raw takes documents that filters skip"
            }
            _ => return split_hint(Failure::of(status, &error)),
        };
        Failure::of(status, &error).hint(hint)
    }
}

impl From<eyas_train::Error> for Failure {
    fn from(error: eyas_train::Error) -> Self {
        use eyas_train::Error as E;
        match error {
            E::Model(error) => error.into(),
            E::Source(error) => error.into(),
            E::Token(error) => error.into(),
            error => Failure::of(if error.is_usage() { USAGE } else { FAILED }, &error),
        }
    }
}

/// Puts a hint that is part of a message under it.
fn split_hint(failure: Failure) -> Failure {
    match failure {
        Failure::Report { status, message, causes, hint: None } => match message.split_once("; hint: ") {
            Some((message, hint)) => {
                Failure::Report { status, message: message.into(), causes, hint: Some(hint.into()) }
            }
            None => Failure::Report { status, message, causes, hint: None },
        },
        failure => failure,
    }
}
