//! What `eyas_data::secrets` finds in a corpus, to see what it takes for a secret and what that costs.
//!
//! ```text
//! cargo run --release -p eyas-data --example secrets -- corpus.jsonl... [--sample 100] [--seed 1] [--kind password]
//! ```
//!
//! Reads the field `content` of each line. Prints the counts by kind, the share of lines that were touched, the speed of
//! one thread (by its processor time where Linux tells it, else by the clock; reading is not in it), and a random sample of what was found,
//! each in its line between `[[` and `]]`, to be judged by eye. The same seed draws the same sample. The sample shows
//! secrets: it is for the screen.

#![expect(clippy::print_stdout, reason = "an example prints what it found")]

use eyas_data::secrets::{Found, Kind, Redacted, SecretCounts, redact};
use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

/// Bytes of context on either side of what was found.
const CONTEXT: usize = 60;
/// Bytes of documents that are timed together.
const BATCH_BYTES: usize = 8 << 20;

struct Arguments {
    files: Vec<String>,
    sample: usize,
    seed: u64,
    kind: Option<String>,
}

impl Arguments {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let mut parsed = Self { files: Vec::new(), sample: 0, seed: 1, kind: None };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} takes a value"));
            match argument.as_str() {
                "--sample" => parsed.sample = value()?.parse()?,
                "--seed" => parsed.seed = value()?.parse()?,
                "--kind" => parsed.kind = Some(value()?),
                _ => parsed.files.push(argument),
            }
        }
        Ok(parsed)
    }
}

/// What was measured over all documents.
#[derive(Default)]
struct Survey {
    counts: SecretCounts,
    num_documents: u64,
    num_bytes: u64,
    num_lines: u64,
    num_lines_touched: u64,
    time: Duration,
    sample: Sample,
}

/// A reservoir: each of all hits is in it with the same chance.
#[derive(Default)]
struct Sample {
    size: usize,
    state: u64,
    num_seen: u64,
    kind: Option<String>,
    lines: Vec<String>,
}

impl Sample {
    fn offer(&mut self, path: &str, text: &str, found: &Found) {
        if self.size == 0 || self.kind.as_ref().is_some_and(|kind| kind != found.kind.name()) {
            return;
        }
        self.num_seen += 1;
        // SplitMix64.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut random = (self.state ^ self.state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        random = (random ^ random >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        let slot = ((random ^ random >> 31) % self.num_seen) as usize;
        if self.lines.len() < self.size {
            self.lines.push(in_context(path, text, found));
        } else if slot < self.size {
            self.lines[slot] = in_context(path, text, found);
        }
    }
}

/// What was found, in its line.
fn in_context(path: &str, text: &str, found: &Found) -> String {
    let tail =
        |text: &str| text.chars().rev().take(CONTEXT).take_while(|c| *c != '\n').collect::<Vec<char>>();
    let before: String = tail(&text[..found.range.start]).into_iter().rev().collect();
    let after: String = text[found.range.end..].chars().take(CONTEXT).take_while(|c| *c != '\n').collect();
    let secret: String = text[found.range.clone()].chars().take(80).collect();
    format!("{:<22} {path}: {before}[[{}]]{after}", found.kind.name(), secret.escape_debug())
}

impl Survey {
    fn take(&mut self, batch: &mut Vec<(String, String)>) {
        let (start, used) = (Instant::now(), processor_time());
        let redacted: Vec<Redacted<'_>> = batch.iter().map(|(_, text)| redact(text)).collect();
        self.time += processor_time().zip(used).map_or(start.elapsed(), |(now, then)| now - then);
        for ((path, text), Redacted { found, .. }) in batch.iter().zip(redacted) {
            self.num_documents += 1;
            self.num_bytes += text.len() as u64;
            self.num_lines += text.lines().count() as u64;
            self.num_lines_touched += num_lines(text, &found);
            self.counts.add(&found);
            found.iter().for_each(|found| self.sample.offer(path, text, found));
        }
        batch.clear();
    }

    fn print(&self) {
        let megabytes = self.num_bytes as f64 / 1e6;
        let share = 100.0 * self.num_lines_touched as f64 / self.num_lines.max(1) as f64;
        println!("{} documents, {megabytes:.1} MB, {} lines", self.num_documents, self.num_lines);
        println!("lines touched: {} ({share:.4} %)", self.num_lines_touched);
        println!("one thread: {:.0} MB/s", megabytes / self.time.as_secs_f64());
        println!("found: {} of {} kinds", self.counts.total(), Kind::ALL.len());
        self.counts.iter().for_each(|(kind, count)| println!("{count:>8} {}", kind.name()));
        self.sample.lines.iter().for_each(|line| println!("{line}"));
    }
}

/// What this thread has used of a processor, which others on the machine do not change much.
fn processor_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// Lines that `found`, in order, lies on.
fn num_lines(text: &str, found: &[Found]) -> u64 {
    let (mut num, mut counted_to) = (0, 0);
    for Found { range, .. } in found {
        let first = text[..range.start].rfind('\n').map_or(0, |at| at + 1).max(counted_to);
        counted_to = text[range.end..].find('\n').map_or(text.len(), |at| range.end + at + 1);
        num += text[first.min(counted_to)..counted_to].lines().count() as u64;
    }
    num
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse(std::env::args().skip(1))?;
    let Arguments { sample: size, seed: state, kind, .. } = arguments;
    let mut survey =
        Survey { sample: Sample { size, state, kind, ..Sample::default() }, ..Survey::default() };
    let (mut batch, mut batch_bytes) = (Vec::new(), 0);
    for file in &arguments.files {
        for line in BufReader::new(File::open(file)?).lines() {
            let row: serde_json::Value = serde_json::from_str(&line?)?;
            let field = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
            batch.push((field("path"), field("content")));
            batch_bytes += batch.last().map_or(0, |(_, text)| text.len());
            if batch_bytes > BATCH_BYTES {
                survey.take(&mut batch);
                batch_bytes = 0;
            }
        }
    }
    survey.take(&mut batch);
    survey.print();
    Ok(())
}
