//! The report: what a run learned, how, and on what, as one page that needs nothing else; and such a page about prepared data.
//!
//! Owns the reading of an output folder and the making of pages; pictures are SVG drawn here. Refuses to ask for
//! anything: no script, font or picture from elsewhere, which the page's own content security policy also forbids. A short
//! script reads out values under the pointer; without it the page is complete. All text from files is escaped by the type
//! that the page is built with.
//!
//! One run gives its report, several a comparison:
//!
//! ```no_run
//! use eyas_train::report::{self, Run};
//! # fn main() -> Result<(), eyas_train::Error> {
//! let run = Run::open("runs/quickstart".as_ref())?;
//! report::write(&[run], "report.html".as_ref())
//! # }
//! ```

mod axis;
mod bars;
mod chart;
mod columns;
mod compare;
mod corpus;
mod curves;
mod facts;
mod html;
mod number;
mod page;
mod run;
mod samples;
mod series;
#[cfg(test)]
mod tests;

pub use corpus::Corpus;
pub use run::{Evaluated, Logged, Run, State};

use crate::checkpoint::write_text;
use crate::error::Error;
use html::Html;
use std::io::ErrorKind;
use std::path::Path;

/// The file's name in a run's own folder.
pub const REPORT: &str = "report.html";

/// The page: the report of one run, or a comparison of several.
pub fn page(runs: &[Run]) -> String {
    match runs {
        [run] => document(&run.name, |html| page::body(html, run)),
        runs => document("Runs compared", |html| compare::body(html, runs)),
    }
}

/// Writes [`page`] to `path`; a reader sees the file before or this one, whole.
///
/// # Errors
/// The operating system's.
pub fn write(runs: &[Run], path: &Path) -> Result<(), Error> {
    write_text(path, &page(runs))
}

/// The page about prepared data.
pub fn corpus_page(corpus: &Corpus<'_>) -> String {
    document(&corpus.name(), |html| corpus.body(html))
}

/// Writes [`corpus_page`] to `path`, as [`write()`] does.
///
/// # Errors
/// The operating system's.
pub fn write_corpus(corpus: &Corpus<'_>, path: &Path) -> Result<(), Error> {
    write_text(path, &corpus_page(corpus))
}

/// Finds out whether a page can be written to `path`, before the work that it will be about is done. Leaves nothing there.
///
/// # Errors
/// The operating system's: there is no such folder, it cannot be written, or `path` is a folder itself.
pub fn check_place(path: &Path) -> Result<(), Error> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let is_folder = std::fs::metadata(folder).map_err(Error::io("write to the folder", folder))?.is_dir();
    if !is_folder {
        return Err(Error::io("write to the folder", folder)(ErrorKind::NotADirectory.into()));
    }
    if path.is_dir() || path.file_name().is_none() {
        return Err(Error::io("write a page to", path)(ErrorKind::IsADirectory.into()));
    }
    let probe = folder.join(format!(".report-probe.{}.eyas-partial", std::process::id()));
    let made = std::fs::File::create(&probe).and_then(|_| std::fs::remove_file(&probe));
    made.map_err(Error::io("write to the folder", folder))
}

/// A whole document around a body.
fn document(title: &str, body: impl FnOnce(&mut Html)) -> String {
    let mut html = Html::default();
    html.raw("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n")
        .raw("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; ")
        .raw("script-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'\">\n")
        .raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n")
        .raw("<meta name=\"color-scheme\" content=\"light dark\">\n")
        .raw("<link rel=\"icon\" href=\"data:,\">\n<title>")
        .text(title)
        .raw(" · eyas</title>\n<style>\n")
        .raw(include_str!("style.css"))
        .raw("</style>\n</head>\n<body>\n<main>\n");
    body(&mut html);
    html.raw("\n<footer>Made by eyas ")
        .text(env!("CARGO_PKG_VERSION"))
        .raw(". One file: it asks for nothing from elsewhere.</footer>\n</main>\n<script>\n")
        .raw(include_str!("page.js"))
        .raw("</script>\n</body>\n</html>\n");
    html.finish()
}
