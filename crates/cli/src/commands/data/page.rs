//! The page of `data prepare --report`: where it may be written, and what goes into it beside the report itself.

use super::PrepareArgs;
use crate::errors::{Failure, Outcome};
use crate::format;
use crate::output::note;
use eyas_data::{PrepareOptions, PrepareReport};
use eyas_ops::{Isa, available_threads};
use eyas_token::Tokenizer;
use eyas_train::report::{self, Corpus};
use std::path::Path;
use std::time::Duration;

/// Refuses a place that no page can be written to, and one among the shards: a folder of shards that holds anything else is
/// not replaced by the next preparation.
pub(super) fn check(path: &Path, out: &Path) -> Outcome {
    report::check_place(path).map_err(|error| {
        Failure::from(error).hint("make the folder first, or name another file with --report")
    })?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (Ok(folder), Ok(out)) = (folder.canonicalize(), out.canonicalize()) else { return Ok(()) };
    match folder.starts_with(&out) {
        false => Ok(()),
        true => Err(Failure::failed(format!(
            "--report {}: it lies in the folder of the shards, which holds nothing else",
            path.display()
        ))
        .hint("name a file beside that folder")),
    }
}

/// Writes it, and says so.
pub(super) fn write(
    path: &Path,
    args: &PrepareArgs,
    tokenizer: &Tokenizer,
    options: &PrepareOptions,
    report: &PrepareReport,
    elapsed: Duration,
) -> Outcome {
    let num_tokens = format::count(tokenizer.vocab_size() as u64);
    let corpus = Corpus {
        report,
        options,
        out: args.out.clone(),
        num_output_bytes: num_bytes_below(&args.out)?,
        tokenizer: format!("{} of {num_tokens} tokens", args.tokenizer.display()),
        machine: format!(
            "{} threads, {}, {} {}",
            available_threads(),
            Isa::detect(),
            std::env::consts::ARCH,
            std::env::consts::OS
        ),
        elapsed_seconds: elapsed.as_secs_f64(),
    };
    report::write_corpus(&corpus, path)?;
    note(format_args!("wrote {}", path.display()));
    Ok(())
}

/// Bytes of the files in a folder and in the folders in it.
pub(crate) fn num_bytes_below(folder: &Path) -> Outcome<u64> {
    let failure = |error: std::io::Error| Failure::io("read", folder, &error);
    let mut num_bytes = 0;
    for entry in std::fs::read_dir(folder).map_err(failure)? {
        let entry = entry.map_err(failure)?;
        let metadata = entry.metadata().map_err(failure)?;
        num_bytes += if metadata.is_dir() { num_bytes_below(&entry.path())? } else { metadata.len() };
    }
    Ok(num_bytes)
}
