//! What `data prepare` did, as a person reads it.

use crate::errors::Outcome;
use crate::format::{bytes, count, percent};
use crate::output::Output;
use eyas_data::{Count, PrepareReport, Reason, SourceReport, SourceTokens};
use std::collections::BTreeMap;

/// Rows of a table of languages or licences.
const MAX_ROWS: usize = 8;

/// Prints all of it.
pub(super) fn print(output: &mut Output, report: &PrepareReport) -> Outcome {
    let source = &report.source;
    for text in &report.notes {
        output.line(format_args!("hub      {text}"))?;
    }
    output.line(format_args!(
        "read     {} documents, {}, taken of {}",
        count(source.num_documents),
        bytes(source.num_bytes),
        count(source.num_documents + source.num_skipped())
    ))?;
    skipped(output, source)?;
    if !source.secrets.is_empty() {
        let mut kinds: Vec<_> = source.secrets.iter().collect();
        kinds.sort_by_key(|(name, many)| (std::cmp::Reverse(**many), *name));
        let kinds: Vec<String> = kinds
            .iter()
            .map(|(name, many)| format!("{} {}", count(**many), name.replace('_', " ")))
            .collect();
        output.line(format_args!("replaced {}", kinds.join(", ")))?;
    }
    largest(output, "language", &source.languages, source.num_bytes)?;
    largest(output, "licence", &source.licenses, source.num_bytes)?;
    let per_token = source.num_bytes as f64 / report.num_encoded_tokens.max(1) as f64;
    output.line(format_args!(
        "tokens   {}, {per_token:.2} bytes each; documents of {}",
        count(report.num_encoded_tokens),
        lengths(&report.lengths)
    ))?;
    sources(output, &report.sources)?;
    let seconds = &report.seconds;
    let near = match seconds.near_duplicates {
        0.0 => String::new(),
        near => format!("{near:.1} s for near duplicates, "),
    };
    output.line(format_args!(
        "time     {near}{:.1} s reading, {:.1} s filtering, {:.1} s encoding, {:.1} s writing",
        seconds.read, seconds.filter, seconds.encode, seconds.write
    ))?;
    if report.num_resumed_documents > 0 {
        let many = count(report.num_resumed_documents);
        output.line(format_args!("resumed  behind {many} documents that an earlier run had done"))?;
    }
    Ok(())
}

fn skipped(output: &mut Output, source: &SourceReport) -> Outcome {
    let rows = Reason::ALL.iter().map(|reason| (reason.words(), source.skipped_for(*reason)));
    let mut heading = "skipped ";
    for (words, Count { num_documents, num_bytes }) in rows.filter(|(_, many)| many.num_documents > 0) {
        let size = if num_bytes > 0 { format!(", {}", bytes(num_bytes)) } else { String::new() };
        output.line(format_args!("{heading} {} {words}{size}", count(num_documents)))?;
        heading = "        ";
    }
    for example in &source.examples {
        output.line(format_args!("         {example}"))?;
    }
    Ok(())
}

/// What each of several arguments gave: what weights are chosen by.
fn sources(output: &mut Output, sources: &[SourceTokens]) -> Outcome {
    let rows = if sources.len() > 1 { sources } else { &[] };
    for (i, SourceTokens { name, num_documents, num_tokens }) in rows.iter().enumerate() {
        let heading = if i == 0 { "sources" } else { "" };
        let (tokens, documents) = (count(*num_tokens), count(*num_documents));
        output.line(format_args!("{heading:8} {name}: {tokens} tokens, {documents} documents"))?;
    }
    Ok(())
}

/// The largest of a kind, and how many others there are.
fn largest(output: &mut Output, kind: &str, all: &BTreeMap<String, Count>, num_bytes: u64) -> Outcome {
    let mut rows: Vec<(&String, &Count)> = all.iter().collect();
    rows.sort_by_key(|(name, many)| (std::cmp::Reverse(many.num_bytes), *name));
    let parts: Vec<String> = rows
        .iter()
        .take(MAX_ROWS)
        .map(|(name, many)| format!("{name} {}", percent(many.num_bytes as f64 / num_bytes.max(1) as f64)))
        .collect();
    if parts.is_empty() {
        return Ok(());
    }
    let others = match rows.len().saturating_sub(MAX_ROWS) {
        0 => String::new(),
        others => format!(", {others} others"),
    };
    output.line(format_args!("{kind:8} {}{others}", parts.join(", ")))
}

/// The lengths that most documents have: `64 to 4,095 tokens in nine of ten`.
fn lengths(classes: &[u64]) -> String {
    let all: u64 = classes.iter().sum();
    let at = |share: f64| {
        let (mut sum, wanted) = (0, share * all as f64);
        classes.iter().position(|many| {
            sum += many;
            sum as f64 >= wanted
        })
    };
    let (Some(low), Some(high)) = (at(0.05), at(0.95)) else { return "no length".into() };
    format!("{} to {} tokens in nine of ten", count(1 << low), count((1 << (high + 1)) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_most_documents() {
        assert_eq!(lengths(&[]), "no length");
        assert_eq!(lengths(&[0, 0, 0, 100]), "8 to 15 tokens in nine of ten");
        assert_eq!(lengths(&[1, 0, 50, 50, 0, 1]), "4 to 15 tokens in nine of ten");
    }
}
