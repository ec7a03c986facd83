//! What the trained model can do: held-out loss in bounded time, and prefixes of held-out files beside what they really say.

use super::plan::Plan;
use crate::device::{Choice, open_completer};
use crate::errors::{Failure, Outcome};
use crate::format;
use crate::output::Output;
use crate::progress::Progress;
use eyas_data::{Document, EvalStream};
use eyas_model::{Activations, Gpt};
use eyas_ops::Backend;
use eyas_serve::{Precision, Sampling};
use eyas_token::Tokenizer;
use eyas_train::{EvalData, EvalResult, evaluate};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

/// Documents that fit the time, and what the model makes of them.
pub(super) struct HeldOut {
    pub(super) result: EvalResult,
    pub(super) num_documents: usize,
}

/// Evaluates on as many of `documents` as `time` allows, the first ones: they are in the order of their hashes.
pub(super) fn evaluation<D: Backend>(
    gpt: &Gpt<D>,
    tokenizer: &Tokenizer,
    documents: &[Document],
    plan: &Plan,
    time: Duration,
) -> Outcome<HeldOut> {
    // A share is left for a machine that is slower now than when it was measured.
    const CAUTION: f64 = 0.7;
    const LEAST_TOKENS: f64 = 2000.0;
    let most = (CAUTION * time.as_secs_f64() * plan.eval_tokens_per_second).max(LEAST_TOKENS);
    let mut stream = EvalStream::new(tokenizer)?;
    for document in documents {
        if stream.num_documents > 0 && stream.ids.len() as f64 >= most {
            break;
        }
        stream.extend(std::slice::from_ref(&document.text), tokenizer)?;
    }
    // A single long document is cut where the time ends.
    if stream.ids.len() as f64 > 2.0 * most {
        stream.ids.truncate((2.0 * most) as usize);
        stream.num_bytes = stream.ids.iter().map(|id| bytes_of(tokenizer, *id)).sum();
    }
    let num_documents = stream.num_documents as usize;
    let (batch, context_length) = (plan.batch_size, plan.context_length);
    let mut activations = Activations::new(gpt, batch, context_length);
    let mut progress = Progress::new("eval");
    let data = EvalData::Stream(stream);
    let result = evaluate(gpt, &mut activations, &data, context_length, batch, &mut |done, of| {
        progress.set(done as f64 / of.max(1) as f64, &format_args!("{} targets", format::count(done)));
        ControlFlow::Continue(())
    })?;
    let result = result.ok_or_else(|| Failure::failed("the evaluation was stopped"))?;
    Ok(HeldOut { result, num_documents })
}

fn bytes_of(tokenizer: &Tokenizer, id: u32) -> u64 {
    match tokenizer.is_special(id) {
        true => 0,
        false => tokenizer.token_bytes(id).map_or(0, |bytes| bytes.len() as u64),
    }
}

pub(super) fn print_evaluation(output: &mut Output, held_out: &HeldOut, num_documents: usize) -> Outcome {
    let HeldOut { result, num_documents: used } = held_out;
    output.line(format_args!(
        "held-out code: {:.3} bits per byte, loss {:.3}, perplexity {:.1}, next token right {}",
        result.bits_per_byte,
        result.loss,
        result.perplexity,
        format::percent(result.next_token_accuracy)
    ))?;
    let of = format::count(num_documents as u64);
    let (used, bytes) = (format::count(*used as u64), format::bytes(result.num_bytes));
    output.line(format_args!("               on {used} of {of} held-out documents, {bytes}"))
}

/// A place in a held-out file.
struct Place<'a> {
    path: &'a str,
    line: usize,
    prefix: &'a str,
    rest: &'a str,
}

/// Lines of the file shown before the place, and lines of answer.
const LINES_BEFORE: usize = 4;
const LINES_OF_ANSWER: usize = 3;
const PLACES: usize = 3;

/// Completes prefixes of held-out files with the saved model.
pub(super) fn print_completions(
    output: &mut Output,
    model: &Path,
    documents: &[Document],
    choice: Choice,
    precision: Precision,
    num_threads: Option<usize>,
) -> Outcome {
    let completer = open_completer(model, choice, num_threads, precision, None)?;
    let sampling = Sampling { max_new_tokens: 40, ..Sampling::default() };
    let places: Vec<Place<'_>> = documents.iter().filter_map(place).take(PLACES).collect();
    for place in places {
        let ids = completer.prompt_ids(place.prefix)?;
        let ids = completer.fit(&ids, sampling.max_new_tokens);
        let mut lines = 0;
        let completions = completer.complete(ids, &sampling, 1, &mut |_, text| {
            lines += text.matches('\n').count();
            if lines >= LINES_OF_ANSWER { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        let answer = completions.first().map_or("", |completion| completion.text.as_str());
        print_place(output, &place, answer)?;
    }
    Ok(())
}

/// A place to complete: about the middle of the file, in the middle of a line that is not trivial.
fn place(document: &Document) -> Option<Place<'_>> {
    const LEAST_LINE: usize = 24;
    const MOST_LINE: usize = 90;
    let text = &document.text;
    let (mut start, half) = (0, text.len() / 2);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let code = line.trim();
        if start >= half && (LEAST_LINE..MOST_LINE).contains(&code.len()) && code.is_ascii() {
            // Before a space, because a token begins with the space before its word.
            let indent = line.len() - line.trim_start().len();
            let cut = line[..indent + code.len() / 2].rfind(' ').filter(|cut| *cut > indent)?;
            let (prefix, rest) = text.split_at(start + cut);
            return Some(Place { path: &document.path, line: number + 1, prefix, rest });
        }
        start += line.len();
    }
    None
}

/// Separates what the model was given from what it answered.
const CUT: char = '┃';

fn print_place(output: &mut Output, place: &Place<'_>, answer: &str) -> Outcome {
    output.line("")?;
    output.line(format_args!("── {}, line {} ──", place.path, place.line))?;
    let before: Vec<&str> = place.prefix.lines().collect();
    let (given, whole) = before.split_last().unwrap_or((&"", &[]));
    for line in &whole[whole.len().saturating_sub(LINES_BEFORE)..] {
        output.line(format_args!("      │ {line}"))?;
    }
    print_answer(output, "model", given, answer)?;
    print_answer(output, "file", given, place.rest)
}

fn print_answer(output: &mut Output, who: &str, given: &str, text: &str) -> Outcome {
    for (i, line) in text.lines().take(LINES_OF_ANSWER).enumerate() {
        match i {
            0 => output.line(format_args!("{who:>5} │ {given}{CUT}{line}"))?,
            _ => output.line(format_args!("      │ {line}"))?,
        }
    }
    Ok(())
}

/// A beginning in the language of the documents.
pub(super) fn example_prompt(documents: &[Document]) -> &'static str {
    const BEGINNINGS: [(&[&str], &str); 8] = [
        (&["rs"], "fn main() {"),
        (&["py"], "def main():"),
        (&["js", "ts", "jsx", "tsx", "mjs"], "export function "),
        (&["go"], "func main() {"),
        (&["c", "h", "cc", "cpp", "hpp"], "int main("),
        (&["java", "kt"], "public class "),
        (&["rb"], "def initialize("),
        (&["sh"], "if [ "),
    ];
    let is_of = |document: &&Document, ends: &[&str]| {
        ends.iter().any(|end| document.path.rsplit_once('.').is_some_and(|(_, extension)| extension == *end))
    };
    let count = |ends: &[&str]| documents.iter().filter(|document| is_of(document, ends)).count();
    let most = BEGINNINGS.into_iter().max_by_key(|(ends, _)| count(ends));
    most.filter(|(ends, _)| count(ends) > 0).map_or("import ", |(_, beginning)| beginning)
}
