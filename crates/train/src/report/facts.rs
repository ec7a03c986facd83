//! Facts in tables: settings, the machine, memory, data, evaluations.

use super::bars::key;
use super::chart::COLOURS;
use super::html::Html;
use super::number::{NONE, bytes, count, figure, flops, or_none, percent};
use super::run::Run;
use crate::record::RunRecord;
use crate::settings::TrainConfig;
use serde_json::{Map, Value};

/// A setting's value as a person writes it.
pub(super) fn spelt(value: &Value) -> String {
    match value {
        Value::Null => NONE.into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(spelt).collect::<Vec<_>>().join("\n"),
        other => other.to_string(),
    }
}

/// Names and values.
pub(super) type Rows<'a> = Vec<(&'a String, &'a Value)>;

/// Settings that differ from the defaults, and the others.
fn by_difference(settings: &Map<String, Value>) -> (Rows<'_>, Rows<'_>) {
    let defaults = TrainConfig::defaults().to_json();
    settings.iter().partition(|(name, value)| defaults.get(*name) != Some(*value))
}

/// Every section of facts that `run` has.
pub(super) fn sections(html: &mut Html, run: &Run) {
    evaluations(html, run);
    let Some(record) = &run.record else { return };
    html.raw("<section class=\"facts\">");
    let (own, defaults) = by_difference(&record.settings);
    settings(html, "differ from the defaults", &own, &defaults);
    machine(html, run, record);
    data(html, record);
    memory(html, record);
    html.raw("</section>");
}

/// Settings to be seen, which are so many that `are`; the others, which are at their defaults, are folded.
pub(super) fn settings(html: &mut Html, are: &'static str, own: &Rows<'_>, defaults: &Rows<'_>) {
    html.raw("<details class=\"card wide\" open><summary><h2>Settings</h2> <span class=\"unit\">");
    html.text(own.len()).raw(" ").raw(are).raw("</span></summary><dl class=\"settings\">");
    own.iter().for_each(|(name, value)| row(html, name, &spelt(value)));
    html.raw("</dl>");
    if !defaults.is_empty() {
        html.raw("<details><summary>")
            .text(defaults.len())
            .raw(" at their defaults</summary><dl class=\"settings\">");
        defaults.iter().for_each(|(name, value)| row(html, name, &spelt(value)));
        html.raw("</dl></details>");
    }
    html.raw("</details>");
}

/// A name and its value, in a `dl`.
pub(super) fn row(html: &mut Html, name: &str, value: &str) {
    html.raw("<div>").element("dt", "", name).element("dd", "", value).raw("</div>");
}

fn machine(html: &mut Html, run: &Run, record: &RunRecord) {
    html.raw("<section class=\"card\"><h2>Machine</h2><dl>");
    row(html, "device", &record.device);
    row(html, "peak", &flops(record.peak_flops, "FLOP/s"));
    let speed = run.tokens_per_second();
    row(html, "speed", &or_none(speed, |speed| format!("{} tokens/s", count(speed.round() as u64))));
    let arithmetic = speed.map(|speed| speed * record.flops_per_token);
    row(html, "arithmetic", &or_none(arithmetic, |number| flops(number, "FLOP/s")));
    row(html, "share of peak", &or_none(run.share_of_peak(), percent));
    row(html, "one token", &flops(record.flops_per_token, "FLOP"));
    row(html, "eyas", &record.eyas);
    html.raw("</dl></section>");
}

fn data(html: &mut Html, record: &RunRecord) {
    html.raw("<section class=\"card\"><h2>Data</h2><dl>");
    row(html, "learned from", &record.train_data.join("\n"));
    row(html, "tokens there", &count(record.num_train_tokens));
    row(html, "passes", &figure(record.epoch));
    row(html, "context", &format!("{} tokens", count(record.context_length as u64)));
    row(html, "an update", &format!("{} tokens", count(record.tokens_per_update)));
    if let Some(evaluated) = record.settings.get("eval_data").map(spelt).filter(|text| !text.is_empty()) {
        row(html, "evaluated on", &evaluated);
    }
    html.raw("</dl></section>");
}

/// Memory by kind, largest first: a bar, and a line each.
fn memory(html: &mut Html, record: &RunRecord) {
    let mut kinds: Vec<_> = record.memory_bytes.iter().filter(|(_, bytes)| **bytes > 0).collect();
    kinds.sort_by_key(|(_, bytes)| std::cmp::Reverse(**bytes));
    let total: f64 = kinds.iter().map(|(_, bytes)| **bytes as f64).sum();
    if kinds.is_empty() {
        return;
    }
    html.raw("<section class=\"card\"><h2>Memory</h2> <span class=\"unit\">")
        .text(bytes(total as u64))
        .raw("</span>");
    html.raw("<div class=\"bar\" aria-hidden=\"true\">");
    for (i, (_, size)) in kinds.iter().enumerate() {
        html.raw("<i class=\"c").number((i % COLOURS) as f64).raw("\" style=\"width:");
        html.number(100.0 * **size as f64 / total).raw("%\"></i>");
    }
    html.raw("</div><dl>");
    for (i, (kind, size)) in kinds.iter().enumerate() {
        html.raw("<div><dt>");
        key(html, i);
        html.text(kind);
        html.raw("</dt><dd>").text(bytes(**size)).raw("</dd></div>");
    }
    html.raw("</dl></section>");
}

/// The lines of a table of evaluations that are shown; a few hundred are as many as anybody reads.
const MAX_ROWS: usize = 200;

fn evaluations(html: &mut Html, run: &Run) {
    let all = &run.evaluations;
    if all.is_empty() {
        return;
    }
    let every = all.len().div_ceil(MAX_ROWS);
    html.raw("<details class=\"card\"><summary><h2>Evaluations</h2> <span class=\"unit\">")
        .text(count(all.len() as u64));
    html.raw(if every > 1 { ", of which some are shown" } else { "" });
    html.raw("</span></summary><div class=\"scroll\"><table><thead><tr><th>update</th><th>loss</th><th>perplexity</th>")
        .raw("<th>bits per byte</th><th>next token right</th></tr></thead><tbody>");
    let best = run.best_evaluation().map(|line| line.step);
    for (i, line) in all.iter().enumerate() {
        if i % every != 0 && i + 1 != all.len() && best != Some(line.step) {
            continue;
        }
        html.raw(if best == Some(line.step) { "<tr class=\"best\">" } else { "<tr>" });
        let accuracy = Some(line.next_token_accuracy).filter(|share| share.is_finite());
        html.element("td", "", count(line.step));
        html.element("td", "", figure(line.loss));
        html.element("td", "", figure(line.perplexity));
        html.element("td", "", figure(line.bits_per_byte));
        html.element("td", "", or_none(accuracy, percent)).raw("</tr>");
    }
    html.raw("</tbody></table></div></details>");
}

/// Settings in which `runs` differ, by name, with each run's value; folders are not among them.
pub(super) fn differing(runs: &[Run]) -> Vec<(String, Vec<String>)> {
    let mut names: Vec<&String> = Vec::new();
    for record in runs.iter().filter_map(|run| run.record.as_ref()) {
        let new: Vec<_> = record.settings.keys().filter(|name| !names.contains(name)).collect();
        names.extend(new);
    }
    let value = |run: &Run, name: &str| {
        let Some(record) = &run.record else { return "?".to_string() };
        record.settings.get(name).map_or_else(|| NONE.into(), spelt)
    };
    let rows = names.into_iter().filter(|name| name.as_str() != "output_dir");
    let rows = rows.map(|name| (name.clone(), runs.iter().map(|run| value(run, name)).collect::<Vec<_>>()));
    let differs = |values: &[String]| {
        let mut known = values.iter().filter(|value| *value != "?");
        let first = known.next();
        known.any(|value| Some(value) != first)
    };
    rows.filter(|(_, values)| differs(values)).collect()
}
