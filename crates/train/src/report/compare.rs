//! Several runs beside each other: their figures, in what they differ, their curves over each other.

use super::chart::swatch;
use super::curves;
use super::facts::differing;
use super::html::Html;
use super::number::{NONE, count, duration, figure, or_none, short};
use super::page::{notes, progress, status};
use super::run::Run;
use super::samples;

/// The page's content.
pub(super) fn body(html: &mut Html, runs: &[Run]) {
    html.raw("<header><h1>Runs compared</h1><p class=\"lead\">")
        .text(count(runs.len() as u64))
        .raw(" runs</p></header>");
    let all: Vec<String> = runs
        .iter()
        .flat_map(|run| run.notes.iter().map(move |note| format!("{}: {note}", run.name)))
        .collect();
    table(html, runs);
    curves::draw(html, runs);
    settings(html, runs);
    samples::comparison(html, runs);
    notes(html, &all);
}

fn name(html: &mut Html, runs: &[Run], i: usize) {
    swatch(html, i, i >= 8);
    html.text(&runs[i].name);
}

fn table(html: &mut Html, runs: &[Run]) {
    html.raw("<section class=\"card\"><h2>Figures</h2><div class=\"scroll\"><table class=\"runs figures-of\"><thead><tr><th>run</th><th>status</th>")
        .raw("<th>updates</th><th>loss</th><th>evaluation loss</th><th>bits per byte</th><th>perplexity</th><th>tokens</th>")
        .raw("<th>time</th><th>tokens/s</th><th>parameters</th></tr></thead><tbody>");
    let losses = runs.iter().map(|run| run.evaluations.last().map_or(f64::INFINITY, |line| line.loss));
    let best = losses.enumerate().filter(|(_, loss)| loss.is_finite()).min_by(|a, b| a.1.total_cmp(&b.1));
    for (i, run) in runs.iter().enumerate() {
        html.raw(if best.is_some_and(|best| best.0 == i) { "<tr class=\"best\"><th>" } else { "<tr><th>" });
        name(html, runs, i);
        html.raw("</th><td>");
        status(html, run.state);
        html.raw("</td>");
        let last = run.evaluations.last();
        let updates = progress(run).map_or_else(|| NONE.into(), |text| text.replace(" updates", ""));
        for text in [
            updates,
            or_none(run.loss(), figure),
            or_none(last, |line| figure(line.loss)),
            or_none(last, |line| figure(line.bits_per_byte)),
            or_none(last, |line| figure(line.perplexity)),
            or_none(run.num_tokens(), |tokens| short(tokens as f64)),
            or_none(run.elapsed_seconds(), duration),
            or_none(run.tokens_per_second(), |speed| count(speed.round() as u64)),
            or_none(run.record.as_ref(), |record| short(record.num_parameters as f64)),
        ] {
            html.element("td", "", text);
        }
        html.raw("</tr>");
    }
    html.raw("</tbody></table></div>");
    if best.is_some() && runs.len() > 1 {
        html.element("p", "unit", "Bold: the lowest loss of a last evaluation.");
    }
    html.raw("</section>");
}

fn settings(html: &mut Html, runs: &[Run]) {
    if runs.iter().all(|run| run.record.is_none()) {
        return;
    }
    let rows = differing(runs);
    html.raw("<section class=\"card\"><h2>Settings that differ</h2>");
    if rows.is_empty() {
        html.raw("<p class=\"empty\">None but the folder.</p></section>");
        return;
    }
    html.raw("<div class=\"scroll\"><table class=\"runs\"><thead><tr><th>run</th>");
    rows.iter().for_each(|(setting, _)| {
        html.element("th", "", setting);
    });
    html.raw("</tr></thead><tbody>");
    for i in 0..runs.len() {
        html.raw("<tr><th>");
        name(html, runs, i);
        html.raw("</th>");
        rows.iter().for_each(|(_, values)| {
            html.element("td", "", &values[i]);
        });
        html.raw("</tr>");
    }
    html.raw("</tbody></table></div></section>");
}
