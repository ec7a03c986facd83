//! The page about prepared data: what was taken, what was not and why, and what came out.
//!
//! Shows what `eyas_data::prepare` returned and reads no file. Names in it (paths, rows, languages and licences of datasets)
//! are anybody's: all of them pass through [`Html::text`], and lists end where nobody would read on.

#[cfg(test)]
mod tests;

use super::bars::{Bars, Row};
use super::columns::Columns;
use super::facts::{self, row};
use super::html::Html;
use super::number::{NONE, count, duration, figure, percent, short};
use super::page::{main_figure, notes};
use crate::format::decimal_bytes as bytes;
use eyas_data::{Count, Mode, PrepareOptions, PrepareReport, Reason, SourceOptions, SourceReport};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Prepared data, and what is known of how they were made.
pub struct Corpus<'a> {
    /// What was done.
    pub report: &'a PrepareReport,
    /// How.
    pub options: &'a PrepareOptions,
    /// Where the shards are.
    pub out: PathBuf,
    /// Bytes of the shards and of their indexes.
    pub num_output_bytes: u64,
    /// The tokenizer, in words.
    pub tokenizer: String,
    /// The machine, in words.
    pub machine: String,
    /// Seconds of the whole of it, in this process.
    pub elapsed_seconds: f64,
}

/// What a bar counts: documents, and their text.
const OF_DOCUMENTS: usize = 0;
const OF_TEXT: usize = 1;
/// Pictures of one measure.
const OF_SECRETS: usize = 3;
const OF_TIME: usize = 2;
/// What has no name of its own: documents in no language that is known, time that no stage took.
const OF_THE_REST: usize = 7;

/// Sources up to which they are to be seen at once, and up to which they are on the page.
const FEW_SOURCES: usize = 8;
const MOST_SOURCES: usize = 500;

/// Names and values.
type Settings = Map<String, Value>;

impl Corpus<'_> {
    /// What it is called: the folder's name.
    pub(super) fn name(&self) -> String {
        let name = self.out.file_name().map(|name| name.to_string_lossy().into_owned());
        name.unwrap_or_else(|| self.out.display().to_string())
    }

    /// The page's content.
    pub(super) fn body(&self, html: &mut Html) {
        self.header(html);
        self.figures(html);
        let (own, others, problem) = match self.settings() {
            Ok([own, others]) => (own, others, None),
            Err(error) => (Map::new(), Map::new(), Some(format!("The settings cannot be shown: {error}."))),
        };
        self.notes(html, problem);
        html.raw("<section class=\"charts\" aria-label=\"Plots\">");
        self.lengths(html);
        self.time(html);
        self.skipped(html);
        self.secrets(html);
        Bars {
            title: "Languages",
            empty: "No document has a language that is known.",
            is_wide: true,
            ..self.shares(&self.source().languages)
        }
        .draw(html);
        Bars {
            title: "Licences",
            empty: "No document has a licence that is known.",
            ..self.shares(&self.source().licenses)
        }
        .draw(html);
        html.raw("</section><section class=\"facts\">");
        facts::settings(html, "chosen", &own.iter().collect::<Vec<_>>(), &others.iter().collect::<Vec<_>>());
        self.sources(html);
        self.input(html);
        self.output(html);
        self.machine(html);
        html.raw("</section>");
    }

    fn source(&self) -> &SourceReport {
        &self.report.source
    }

    /// What was read, as far as anybody knows: taken and skipped.
    fn all(&self) -> Count {
        let skipped = self.source().skipped.values();
        let num_bytes: u64 = skipped.map(|count| count.num_bytes).sum();
        Count {
            num_documents: self.source().num_documents + self.source().num_skipped(),
            num_bytes: self.source().num_bytes + num_bytes,
        }
    }

    fn header(&self, html: &mut Html) {
        html.raw("<header><h1>").text(self.name()).raw("</h1><p class=\"lead\">");
        let report = self.report;
        let mode = match self.options.mode {
            Mode::Chunk => "cut into chunks",
            Mode::Pack => "packed",
        };
        html.text(format_args!(
            "{} tokens of {} · {mode}, {} tokens a sample · {}",
            short((report.num_tokens + report.num_validation_tokens) as f64),
            documents(self.source().num_documents),
            count(self.options.context_length as u64),
            self.tokenizer
        ));
        html.raw("</p></header>");
    }

    fn figures(&self, html: &mut Html) {
        html.raw("<section class=\"figures\" aria-label=\"Figures\">");
        let (report, source, all) = (self.report, self.source(), self.all());
        let of = |whole: String| format!("of {whole} read");
        main_figure(html, "documents", &count(source.num_documents), &of(count(all.num_documents)));
        main_figure(html, "text", &bytes(source.num_bytes), &of(bytes(all.num_bytes)));
        let held_out = match report.num_validation_tokens {
            0 => count(report.num_tokens),
            held_out => format!("and {} held out", short(held_out as f64)),
        };
        main_figure(html, "tokens", &short(report.num_tokens as f64), &held_out);
        main_figure(html, "bytes a token", &self.bytes_per_token(), "of text");
        let skipped = source.num_skipped();
        let share = ratio(skipped, all.num_documents).map_or_else(|| NONE.into(), percent);
        main_figure(html, "skipped", &share, &documents(skipped));
        let (duplicates, aside) = self.duplicates();
        main_figure(html, "duplicates", &duplicates, &aside);
        let secrets = source.secrets.values().sum::<u64>();
        let aside = if self.keeps_secrets() { "left as they are" } else { "replaced by placeholders" };
        let number = if self.keeps_secrets() { NONE.into() } else { count(secrets) };
        main_figure(html, "secrets and addresses", &number, aside);
        main_figure(html, "time", &duration(self.elapsed_seconds), &self.speed().unwrap_or_default());
        html.raw("</section>");
    }

    fn bytes_per_token(&self) -> String {
        ratio(self.source().num_bytes, self.report.num_encoded_tokens).map_or_else(|| NONE.into(), figure)
    }

    /// Text a second; of a preparation that was gone on with nobody knows it.
    fn speed(&self) -> Option<String> {
        let rate = self.all().num_bytes as f64 / self.elapsed_seconds;
        let is_known = self.report.num_resumed_documents == 0 && rate.is_finite();
        is_known.then(|| format!("{}/s", bytes(rate as u64)))
    }

    /// How many there were, and which.
    fn duplicates(&self) -> (String, String) {
        let filters = &self.options.source.filters;
        let is_sought = |is_sought: bool| is_sought && !self.options.source.raw;
        let many = |reason| self.source().skipped_for(reason).num_documents;
        let (exact, near) = (many(Reason::Duplicate), many(Reason::NearDuplicate));
        match (is_sought(filters.skip_duplicates), is_sought(filters.skip_near_duplicates)) {
            (false, false) => (NONE.into(), "were not sought".into()),
            (true, false) => (count(exact), "exact; near ones were not sought".into()),
            (false, true) => (count(near), "near; exact ones were not sought".into()),
            (true, true) => (count(exact + near), format!("{} exact, {} near", count(exact), count(near))),
        }
    }

    fn keeps_secrets(&self) -> bool {
        self.options.source.keep_secrets || self.options.source.raw
    }

    fn notes(&self, html: &mut Html, problem: Option<String>) {
        let mut all = self.report.notes.clone();
        if self.report.num_resumed_documents > 0 {
            let many = count(self.report.num_resumed_documents);
            all.push(format!(
                "Gone on behind {many} documents that an earlier process had done; times are of this one."
            ));
        }
        all.extend(problem);
        notes(html, &all);
    }

    fn lengths(&self, html: &mut Html) {
        let length = self.options.context_length as u64;
        Columns {
            title: "Lengths of documents",
            unit: "how many have so many tokens",
            x_unit: "tokens",
            counts: &self.report.lengths,
            mark: Some((length, format!("a sample has {} tokens", count(length)))),
            empty: "No document was encoded.",
        }
        .draw(html);
    }

    fn time(&self, html: &mut Html) {
        // By the names that --json gives the stages, whichever there are.
        let stages = serde_json::to_value(self.report.seconds).ok();
        let stages = stages.as_ref().and_then(Value::as_object);
        let stages =
            stages.into_iter().flatten().filter_map(|(name, seconds)| Some((name, seconds.as_f64()?)));
        let mut times: Vec<(String, f64, usize)> = stages
            .filter(|(_, seconds)| *seconds > 0.0)
            .map(|(name, seconds)| (name.replace('_', " "), seconds, OF_TIME))
            .collect();
        let rest = self.elapsed_seconds - times.iter().map(|time| time.1).sum::<f64>();
        if rest > 0.01 * self.elapsed_seconds {
            times.push(("all else".into(), rest, OF_THE_REST));
        }
        let row = |(name, seconds, colour): (String, f64, usize)| Row {
            name,
            text: format!("{} · {}", duration(seconds), percent(seconds / self.elapsed_seconds.max(seconds))),
            bars: vec![(seconds, colour)],
        };
        Bars {
            title: "Time",
            unit: "by stage, as shares of the whole; writing goes on beside the others",
            legend: &[],
            rows: times.into_iter().map(row).collect(),
            empty: "None was measured.",
            is_wide: false,
        }
        .draw(html);
    }

    fn skipped(&self, html: &mut Html) {
        let all = self.all();
        let words = |name: &str| {
            let reason = Reason::ALL.iter().find(|reason| reason.name() == name);
            reason.map_or_else(|| name.to_owned(), |reason| reason.words().to_owned())
        };
        let row = |(name, many): (&String, &Count)| {
            let shares = [
                (OF_DOCUMENTS, count(many.num_documents), ratio(many.num_documents, all.num_documents)),
                // Of what was not read nobody knows the size.
                (OF_TEXT, bytes(many.num_bytes), ratio(many.num_bytes, all.num_bytes)),
            ];
            let known = shares.iter().filter_map(|(colour, text, share)| Some((*colour, text, (*share)?)));
            let known: Vec<_> = known.filter(|(.., share)| *share > 0.0).collect();
            let texts = known.iter().map(|(_, text, share)| format!("{text} ({})", percent(*share)));
            Row {
                name: words(name),
                text: texts.collect::<Vec<_>>().join(" · "),
                bars: known.iter().map(|(colour, _, share)| (*share, *colour)).collect(),
            }
        };
        let mut reasons: Vec<_> = self.source().skipped.iter().collect();
        reasons.sort_by_key(|(name, many)| (std::cmp::Reverse(many.num_documents), *name));
        Bars {
            title: "Skipped",
            unit: "by reason: documents, text, and their shares of what was read",
            legend: &[("documents", OF_DOCUMENTS), ("text", OF_TEXT)],
            rows: reasons.into_iter().map(row).collect(),
            empty: "Nothing was skipped.",
            is_wide: true,
        }
        .draw(html);
    }

    fn secrets(&self, html: &mut Html) {
        let mut kinds: Vec<_> = self.source().secrets.iter().collect();
        kinds.sort_by_key(|(name, many)| (std::cmp::Reverse(**many), *name));
        let row = |(name, many): (&String, &u64)| Row {
            name: name.replace('_', " "),
            text: count(*many),
            bars: vec![(*many as f64, OF_SECRETS)],
        };
        Bars {
            title: "Secrets",
            unit: "replaced, by kind",
            legend: &[],
            rows: kinds.into_iter().map(row).collect(),
            empty: match self.keeps_secrets() {
                true => "They were not sought.",
                false => "None was found.",
            },
            is_wide: false,
        }
        .draw(html);
    }

    /// Documents that were taken, by a property of theirs, and those that have none.
    fn shares(&self, parts: &BTreeMap<String, Count>) -> Bars {
        let source = self.source();
        let row = |name: &str, many: &Count, colour: usize| {
            let share = ratio(many.num_bytes, source.num_bytes).unwrap_or(0.0);
            Row {
                name: name.to_owned(),
                text: format!(
                    "{} · {} · {}",
                    count(many.num_documents),
                    bytes(many.num_bytes),
                    percent(share)
                ),
                bars: vec![(share, colour)],
            }
        };
        let known = |part: fn(&Count) -> u64| parts.values().map(part).sum::<u64>();
        let unknown = Count {
            num_documents: source.num_documents.saturating_sub(known(|many| many.num_documents)),
            num_bytes: source.num_bytes.saturating_sub(known(|many| many.num_bytes)),
        };
        let mut sorted: Vec<_> = parts.iter().map(|(name, many)| (name.as_str(), *many, OF_TEXT)).collect();
        if unknown.num_documents > 0 && !parts.is_empty() {
            sorted.push(("not known", unknown, OF_THE_REST));
        }
        sorted.sort_by_key(|(name, many, _)| (std::cmp::Reverse(many.num_bytes), *name));
        let rows = sorted.iter().map(|(name, many, colour)| row(name, many, *colour)).collect();
        let unit = "documents, text, share of it";
        Bars { title: "", unit, legend: &[], rows, empty: "", is_wide: false }
    }

    /// Settings that say something, and the others. How documents become samples is always chosen; of how they are read only
    /// what differs from the defaults is.
    fn settings(&self) -> Result<[Settings; 2], serde_json::Error> {
        let (mut all, mut defaults) = (Map::new(), Map::new());
        flatten("", serde_json::to_value(self.options)?, &mut all);
        flatten("", serde_json::to_value(SourceOptions::default())?, &mut defaults);
        // The page shows licences whoever asked for them.
        all.remove("with_licenses");
        let is_default = |name: &String, value: &Value| value.is_null() || defaults.get(name) == Some(value);
        let (own, others) = all.into_iter().partition(|(name, value)| !is_default(name, value));
        Ok([own, others])
    }

    fn input(&self, html: &mut Html) {
        html.raw("<section class=\"card\"><h2>Read</h2><dl>");
        let all = self.all();
        row(html, "sources", &count(self.report.data.len() as u64));
        row(html, "documents", &count(all.num_documents));
        row(html, "text", &bytes(all.num_bytes));
        row(html, "taken", &documents(self.source().num_documents));
        row(html, "text of these", &bytes(self.source().num_bytes));
        html.raw("</dl></section>");
    }

    /// What was read, by name, and what of it was broken.
    fn sources(&self, html: &mut Html) {
        let (all, examples) = (&self.report.data, &self.source().examples);
        html.raw("<details class=\"card wide\"").raw(if all.len() <= FEW_SOURCES { " open>" } else { ">" });
        html.raw("<summary><h2>Sources</h2> <span class=\"unit\">").text(count(all.len() as u64));
        html.raw(if all.len() > MOST_SOURCES { ", of which the first are shown" } else { "" });
        html.raw("</span></summary>");
        list(html, &all[..all.len().min(MOST_SOURCES)]);
        html.raw("</details>");
        if !examples.is_empty() {
            html.raw("<section class=\"card wide\"><h2>Broken or unreadable</h2> <span class=\"unit\">the first of them</span>");
            list(html, examples);
            html.raw("</section>");
        }
    }

    fn output(&self, html: &mut Html) {
        let report = self.report;
        html.raw("<section class=\"card\"><h2>Written</h2><dl>");
        row(html, "to", &self.out.display().to_string());
        row(html, "tokens to train on", &count(report.num_tokens));
        if self.options.validation_one_in.is_some() {
            row(html, "tokens held out", &count(report.num_validation_tokens));
        }
        let kept = report.num_tokens + report.num_validation_tokens;
        let dropped = report.num_encoded_tokens.saturating_sub(kept);
        if dropped > 0 {
            let share = ratio(dropped, report.num_encoded_tokens).map_or_else(|| NONE.into(), percent);
            row(html, "ends dropped", &format!("{} ({share})", count(dropped)));
        }
        row(html, "on disk", &bytes(self.num_output_bytes));
        let per_token = ratio(self.num_output_bytes, kept).map_or_else(|| NONE.into(), figure);
        row(html, "bytes a token there", &per_token);
        html.raw("</dl></section>");
    }

    fn machine(&self, html: &mut Html) {
        html.raw("<section class=\"card\"><h2>Machine</h2><dl>");
        row(html, "machine", &self.machine);
        row(html, "time", &duration(self.elapsed_seconds));
        row(html, "speed", &self.speed().unwrap_or_else(|| NONE.into()));
        row(html, "tokenizer", &self.tokenizer);
        row(html, "eyas", env!("CARGO_PKG_VERSION"));
        html.raw("</dl></section>");
    }
}

/// Puts the settings of groups beside those of none, under the names that flags have: fill-in-the-middle's begin with its own.
fn flatten(prefix: &str, settings: Value, into: &mut Settings) {
    let Value::Object(settings) = settings else { return };
    for (name, value) in settings {
        match value {
            Value::Object(_) if ["source", "filters"].contains(&name.as_str()) => flatten("", value, into),
            Value::Object(_) => flatten(&format!("{name}_"), value, into),
            _ => {
                into.insert(format!("{prefix}{name}"), value);
            }
        }
    }
}

fn list(html: &mut Html, items: &[String]) {
    html.raw("<ul class=\"names\">");
    items.iter().for_each(|item| {
        html.element("li", "", item);
    });
    html.raw("</ul>");
}

/// `1 document`, `1,234 documents`.
fn documents(number: u64) -> String {
    format!("{} document{}", count(number), if number == 1 { "" } else { "s" })
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}
