//! Completions: what the network made of each prompt, from update to update.

use super::chart::swatch;
use super::html::Html;
use super::number::count;
use super::run::Run;
use crate::event::Sample;

/// Completions of a prompt between its first and its last that are shown, spread evenly.
const MAX_BETWEEN: usize = 48;

/// The prompts, in the order they were first given, each with its completions.
fn by_prompt(samples: &[Sample]) -> Vec<(&str, Vec<&Sample>)> {
    let mut prompts: Vec<(&str, Vec<&Sample>)> = Vec::new();
    for sample in samples {
        match prompts.iter_mut().find(|(prompt, _)| *prompt == sample.prompt) {
            Some((_, found)) => found.push(sample),
            None => prompts.push((&sample.prompt, vec![sample])),
        }
    }
    prompts.iter_mut().for_each(|(_, found)| found.sort_by_key(|sample| sample.step));
    prompts
}

/// The completions of one run: first and last of each prompt to be seen, those between folded.
pub(super) fn section(html: &mut Html, run: &Run) {
    let prompts = by_prompt(&run.samples);
    if prompts.is_empty() {
        return;
    }
    html.raw("<section class=\"samples\"><h2>Completions</h2><p class=\"lead\">What the network made of the same prompt as it learned. ")
        .raw("The prompt is pale.</p>");
    for (_, samples) in &prompts {
        html.raw("<article class=\"card\">");
        let (Some(first), Some(last)) = (samples.first(), samples.last()) else { continue };
        if samples.len() > 1 {
            completion(html, first, &format!("update {}", count(first.step)), false);
        }
        if samples.len() > 2 {
            let between = &samples[1..samples.len() - 1];
            let every = between.len().div_ceil(MAX_BETWEEN);
            html.raw("<details><summary>").text(count(between.len() as u64)).raw(" more between");
            html.raw(if every > 1 { ", of which some are shown" } else { "" }).raw("</summary>");
            for sample in between.iter().step_by(every) {
                completion(html, sample, &format!("update {}", count(sample.step)), false);
            }
            html.raw("</details>");
        }
        completion(html, last, &format!("update {}, the last", count(last.step)), true);
        html.raw("</article>");
    }
    html.raw("</section>");
}

fn completion(html: &mut Html, sample: &Sample, label: &str, is_last: bool) {
    html.raw(if is_last { "<div class=\"completion last\">" } else { "<div class=\"completion\">" });
    html.element("p", "step", label);
    text(html, sample);
    html.raw("</div>");
}

fn text(html: &mut Html, sample: &Sample) {
    // A browser drops a line end right after `pre`'s tag; the element between keeps it.
    html.raw("<pre>")
        .element("span", "prompt", &sample.prompt)
        .element("span", "new", &sample.completion)
        .raw("</pre>");
}

/// The last completions of several runs, prompt by prompt.
pub(super) fn comparison(html: &mut Html, runs: &[Run]) {
    let each: Vec<_> = runs.iter().map(|run| by_prompt(&run.samples)).collect();
    let mut prompts: Vec<&str> = Vec::new();
    for (prompt, _) in each.iter().flatten() {
        if !prompts.contains(prompt) {
            prompts.push(prompt);
        }
    }
    if prompts.is_empty() {
        return;
    }
    html.raw("<section class=\"samples\"><h2>Completions</h2><p class=\"lead\">The last of each run. The prompt is pale.</p>");
    for prompt in prompts {
        html.raw("<article class=\"card\">");
        for (i, (run, found)) in runs.iter().zip(&each).enumerate() {
            let last =
                found.iter().find(|(other, _)| *other == prompt).and_then(|(_, samples)| samples.last());
            let Some(last) = last else { continue };
            html.raw("<div class=\"completion\"><p class=\"step\">");
            swatch(html, i, i >= 8);
            html.text(&run.name).raw(", update ").text(count(last.step)).raw("</p>");
            text(html, last);
            html.raw("</div>");
        }
        html.raw("</article>");
    }
    html.raw("</section>");
}
