//! The sections one after the other, each in a process of its own, until the time is up.

use super::{CudaArgs, SECTIONS, Section};
use crate::device::cache_dir;
use crate::errors::{Failure, Outcome};
use crate::format;
use crate::output::{Output, note};
use serde_json::json;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What a section may take at most.
const MOST_SECONDS: u64 = 150;
/// Lines of stderr that are kept of a section that failed.
const LINES: usize = 12;

/// How a section ended.
struct Ended {
    /// `None` if its time was up.
    status: Option<ExitStatus>,
    stdout: String,
    /// The last lines of stderr.
    stderr: Vec<String>,
}

/// The report as it grows: on stdout, and in a file.
struct Written<'a> {
    args: &'a CudaArgs,
    output: Output,
    text: String,
}

impl Written<'_> {
    fn add(&mut self, text: &str) -> Outcome {
        self.text += text;
        self.output.bytes(text.as_bytes())?;
        self.output.flush()?;
        match &self.args.out {
            Some(path) => {
                std::fs::write(path, &self.text).map_err(|error| Failure::io("write", path, &error))
            }
            None => Ok(()),
        }
    }

    /// Says something about a section instead of its figures.
    fn tell(&mut self, section: &Section, what: &str, why: &str) -> Outcome {
        match self.args.json {
            true => self.add(&format!("{}\n", json!({ "name": section.name, what: why }))),
            false => self.add(&format!("\n**{} {what}**: {why}\n", section.name)),
        }
    }
}

/// Runs the sections until `end` and writes the report.
pub(super) fn all(args: &CudaArgs, end: Instant, card: &str) -> Outcome {
    let mut report = Written { args, output: Output::new(), text: String::new() };
    match args.json {
        true => report.add(&format!("{}\n", json!({ "name": "card", "value": card })))?,
        false => report.add(&format!("# eyas {} on a GPU\n\n{card}\n", env!("CARGO_PKG_VERSION")))?,
    }
    let sections: Vec<_> = SECTIONS.iter().filter(|section| section.is_usual || args.all).collect();
    let (mut failed, mut skipped, mut title) = (Vec::new(), Vec::new(), "");
    for section in &sections {
        let left = end.saturating_duration_since(Instant::now());
        if left < Duration::from_secs(section.least_seconds) {
            skipped.push(section.name);
            report.tell(section, "skipped", "no time is left")?;
            title = "";
            continue;
        }
        if title != section.title && !args.json {
            report.add(&format!("\n## {}\n\n", section.title))?;
        }
        let start = Instant::now();
        let ended = run(args, section, title == section.title, left)?;
        report.add(&ended.stdout)?;
        let is_whole = ended.status.is_some_and(|status| status.success());
        let verdict = if is_whole { "done" } else { "failed" };
        note(format_args!("{}: {verdict} in {}", section.name, format::duration(start.elapsed())));
        title = section.title;
        if !is_whole {
            let why = ended.why(args.json);
            report.tell(section, "failed", &why)?;
            failed.push(section.name);
            title = "";
        }
    }
    let num_done = sections.len() - failed.len() - skipped.len();
    if !args.json {
        let summary = format!("{num_done} sections done, {} failed, {} skipped", failed.len(), skipped.len());
        report.add(&format!("\n{summary}\n"))?;
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(Failure::failed(format!("sections that failed: {}", failed.join(", ")))),
    }
}

/// Runs a section in a process of its own.
fn run(args: &CudaArgs, section: &Section, is_continued: bool, left: Duration) -> Outcome<Ended> {
    let cannot = |error: std::io::Error| Failure::failed(format!("cannot start {}: {error}", section.name));
    let mut command = Command::new(std::env::current_exe().map_err(cannot)?);
    command.args(["bench", "cuda", "--section", section.name, "--device", &args.device.to_string()]);
    command.args(args.json.then_some("--json")).args(is_continued.then_some("--continued"));
    // Its last lines go into the report, which should be words.
    command.env("RUST_BACKTRACE", "0");
    // Without a place for compiled kernels every section would compile them.
    if cache_dir().is_none() {
        command.env("EYAS_CACHE_DIR", std::env::temp_dir().join("eyas-cache"));
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(cannot)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        let stdout = scope.spawn(move || {
            let mut bytes = Vec::new();
            let _ = stdout.map(|mut pipe| pipe.read_to_end(&mut bytes));
            String::from_utf8_lossy(&bytes).into_owned()
        });
        let stderr = scope.spawn(move || {
            let lines =
                stderr.into_iter().flat_map(|pipe| BufReader::new(pipe).lines().map_while(Result::ok));
            lines.inspect(|line| note(format_args!("  {line}"))).collect::<Vec<_>>()
        });
        let status = wait(&mut child, left.min(Duration::from_secs(MOST_SECONDS)));
        let mut stderr = stderr.join().unwrap_or_default();
        stderr.drain(..stderr.len().saturating_sub(LINES));
        Ok(Ended { status, stdout: stdout.join().unwrap_or_default(), stderr })
    })
}

/// Waits for a process, and ends it when its time is up.
fn wait(child: &mut Child, time: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + time;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(20)),
            _ => {
                // One that has just ended needs no ending.
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
}

impl Ended {
    /// Why it failed: its status, and what it said last.
    fn why(&self, is_json: bool) -> String {
        let how = self.status.map_or_else(|| "its time was up".to_string(), |status| status.to_string());
        let said = self.stderr.join("\n");
        match (said.is_empty(), is_json) {
            (true, _) => how,
            (_, true) => format!("{how}: {said}"),
            (_, false) => format!("{how}\n\n```text\n{said}\n```"),
        }
    }
}
