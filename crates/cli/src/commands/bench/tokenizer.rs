//! `eyas bench tokenizer`: training and encoding, on documents in memory.

use super::super::source::tell;
use crate::errors::{Failure, Outcome};
use crate::format;
use crate::measure::Times;
use crate::output::{Output, note};
use crate::threads::{count_words, deal};
use eyas_data::{Documents, SourceOptions};
use eyas_ops::{Cpu, Device, Isa};
use eyas_token::{Pattern, Tokenizer, TrainOptions};
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;

/// Measure the tokenizer: training, encoding, decoding, and texts made to be slow
///
/// All documents are read into memory first, as they are; reading is not timed. Each round of encoding begins on new
/// threads that have seen no word. The peak beside a figure is what this machine reads of memory; the share is of the
/// text and of the ids, both moved once.
#[derive(clap::Args)]
#[command(after_long_help = "\
Examples:
  eyas bench tokenizer --data train.jsonl --threads 2 --json
  eyas bench tokenizer --data ~/src --vocab-size 8192
  eyas bench tokenizer --data train.jsonl --tokenizer DIR")]
pub(crate) struct TokenizerArgs {
    /// Documents, as everywhere: folders, source files, .jsonl; all of them, none filtered
    #[arg(long, required = true, num_args = 1.., value_name = "DATA")]
    data: Vec<String>,

    /// Encode with this tokenizer, and train none
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,

    /// Tokens in all of the one trained
    #[arg(long, value_name = "N", default_value_t = 50_000, conflicts_with = "tokenizer")]
    vocab_size: usize,

    /// Threads [default: one a core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    /// Times that each figure is measured
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,

    /// Field of a .jsonl that holds the text [default: `content`, then `text`]
    #[arg(long, value_name = "NAME")]
    text_field: Option<String>,

    /// One JSON object a figure: name, value, unit, share_of_peak, peak, threads, spread
    #[arg(long)]
    json: bool,
}

/// Length of the texts made to be slow, in bytes.
const WORST_BYTES: usize = 10_000_000;
/// What they repeat, and their names.
const WORST: [(&str, &str); 5] =
    [("^", "^"), (" ", "spaces"), ("a", "one letter"), ("(a+)+", "(a+)+"), ("é", "é")];

pub(crate) fn run(args: &TokenizerArgs) -> Outcome {
    let options =
        SourceOptions { raw: true, text_field: args.text_field.clone(), ..SourceOptions::default() };
    let mut documents = Documents::open(&args.data, &options)?;
    let texts: Vec<String> = documents.by_ref().map(|document| Ok(document?.text)).collect::<Outcome<_>>()?;
    tell("read", documents.report());
    let num_bytes: usize = texts.iter().map(String::len).sum();
    if num_bytes == 0 {
        return Err(Failure::failed("no text to measure with").hint("name other DATA"));
    }
    let threads = args.threads.map_or_else(eyas_ops::available_threads, usize::from);
    let peak = Cpu::<f32>::with(Isa::detect(), threads).peak_bytes();
    let bench = Bench { args, texts, num_bytes: num_bytes as f64, threads, peak };
    bench.run()
}

struct Bench<'a> {
    args: &'a TokenizerArgs,
    texts: Vec<String>,
    num_bytes: f64,
    threads: usize,
    /// Bytes a second that the machine reads.
    peak: f64,
}

impl Bench<'_> {
    fn run(&self) -> Outcome {
        let mut output = Output::new();
        let tokenizer = match &self.args.tokenizer {
            Some(path) => super::super::tokenizer::open(path)?,
            None => self.train(&mut output)?,
        };
        self.encode(&tokenizer, &mut output)?;
        self.worst_cases(&tokenizer, &mut output)?;
        output.flush()
    }
}

impl Bench<'_> {
    fn train(&self, output: &mut Output) -> Outcome<Tokenizer> {
        let options = TrainOptions { vocab_size: self.args.vocab_size, ..TrainOptions::default() };
        let (mut counting, mut whole, mut trained) = (Vec::new(), Vec::new(), None);
        for _ in 0..self.args.rounds {
            let start = Instant::now();
            let counts = count_words(self.threads, &self.texts, |text| text)?;
            counting.push(start.elapsed().as_secs_f64());
            trained = Some(eyas_token::train(counts, &options, &mut |_, _| {})?);
            whole.push(start.elapsed().as_secs_f64());
        }
        self.rate("count words", self.num_bytes, Times::new(counting), output)?;
        let name = format!("train {} tokens, counting included", format::count(options.vocab_size as u64));
        self.rate(&name, self.num_bytes, Times::new(whole), output)?;
        trained.ok_or_else(|| Failure::usage("--rounds: expected 1 or more"))
    }

    fn encode(&self, tokenizer: &Tokenizer, output: &mut Output) -> Outcome {
        let cut = self.times(|| {
            let cut = |num: &mut usize, text: &String| {
                *num += Pattern::default().words(text).count();
                Ok(())
            };
            self.on_threads(cut)
        })?;
        self.rate("cut words", self.num_bytes, cut.1, output)?;
        let encode = |all: &mut Vec<Vec<u32>>, text: &String| {
            let mut ids = Vec::with_capacity(text.len() / 3);
            tokenizer.encode(text, &mut ids)?;
            all.push(ids);
            Ok(())
        };
        let (ids, times) = self.times(|| self.on_threads(encode))?;
        let ids: Vec<Vec<u32>> = ids.into_iter().flatten().collect();
        let num_tokens: usize = ids.iter().map(Vec::len).sum();
        let moved = self.num_bytes + 4.0 * num_tokens as f64;
        self.rate("encode, new threads", moved, times, output)?;
        note(format_args!(
            "{} tokens, {:.3} bytes a token",
            format::count(num_tokens as u64),
            self.num_bytes / num_tokens as f64
        ));
        let mut bytes = Vec::new();
        let (decoded, times) = self.times(|| {
            ids.iter().try_fold(0, |num, ids| {
                bytes.clear();
                tokenizer.decode(ids, &mut bytes)?;
                Ok(num + bytes.len())
            })
        })?;
        self.rate_of(1, "decode", moved, times, output)?;
        if decoded as f64 != self.num_bytes {
            note("decoding gives other bytes than those encoded: this tokenizer's normalizer changes text");
        }
        Ok(())
    }

    fn worst_cases(&self, tokenizer: &Tokenizer, output: &mut Output) -> Outcome {
        for (part, name) in WORST {
            let text = part.repeat(WORST_BYTES / part.len());
            let (_, times) = self.times(|| {
                // A new thread, as above.
                let encode = || tokenizer.encode(&text, &mut Vec::new()).map_err(Failure::from);
                deal(1, &[()], |(), ()| encode())
            })?;
            let name = format!("encode 10 MB of {name}, one thread");
            let (seconds, spread) = (times.median(), times.spread());
            match self.args.json {
                true => output.json(&json!({
                    "name": name, "value": seconds, "unit": "s", "share_of_peak": null, "peak": null,
                    "threads": 1, "spread": spread,
                }))?,
                false => output.line(format_args!(
                    "{name:<44} {seconds:>8.3} s    spread {}",
                    format::percent(spread)
                ))?,
            }
        }
        Ok(())
    }

    /// Deals all texts to new threads.
    fn on_threads<T: Default + Send>(
        &self,
        work: impl Fn(&mut T, &String) -> Outcome + Sync,
    ) -> Outcome<Vec<T>> {
        deal(self.threads, &self.texts, work)
    }

    /// What the last of all rounds made, and the time of each.
    fn times<T>(&self, mut work: impl FnMut() -> Outcome<T>) -> Outcome<(T, Times)> {
        let mut seconds = Vec::new();
        loop {
            let start = Instant::now();
            let made = work()?;
            seconds.push(start.elapsed().as_secs_f64());
            if seconds.len() >= usize::from(self.args.rounds) {
                return Ok((made, Times::new(seconds)));
            }
        }
    }

    /// Prints a rate of text, and of the bytes that were moved for it.
    fn rate(&self, name: &str, moved: f64, times: Times, output: &mut Output) -> Outcome {
        self.rate_of(self.threads, name, moved, times, output)
    }

    /// As [`Bench::rate`], for work of so many threads. The peak is always that of all.
    fn rate_of(&self, threads: usize, name: &str, moved: f64, times: Times, output: &mut Output) -> Outcome {
        let rate = self.num_bytes / times.median() / 1e6;
        let (share, peak) = (moved / times.median() / self.peak, self.peak / 1e9);
        let spread = times.spread();
        if self.args.json {
            return output.json(&json!({
                "name": name, "value": rate, "unit": "MB/s", "share_of_peak": share, "peak": peak,
                "threads": threads, "spread": spread,
            }));
        }
        output.line(format_args!(
            "{name:<44} {rate:>8.1} MB/s (threads: {threads}), {} of the {peak:.1} GB/s read, spread {}",
            format::percent(share),
            format::percent(spread)
        ))
    }
}
