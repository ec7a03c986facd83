//! The report of one run: what came out first, then how, then on what.

use super::curves;
use super::facts;
use super::html::Html;
use super::number::{count, duration, figure, or_none, percent, short};
use super::run::{Run, State};
use super::samples;

/// The page's content.
pub(super) fn body(html: &mut Html, run: &Run) {
    header(html, run);
    figures(html, run);
    notes(html, &run.notes);
    curves::draw(html, std::slice::from_ref(run));
    samples::section(html, run);
    facts::sections(html, run);
}

fn header(html: &mut Html, run: &Run) {
    html.raw("<header><h1>").text(&run.name).raw("</h1>");
    status(html, run.state);
    html.raw("<p class=\"lead\">").text(outline(run)).raw("</p>");
    if let Some(error) = run.record.as_ref().and_then(|record| record.error.as_ref()) {
        html.element("p", "error", error);
    }
    html.raw("</header>");
}

/// A word for the state, in its colour.
pub(super) fn status(html: &mut Html, state: State) {
    html.raw(match state {
        State::Running => "<span class=\"status running\">",
        State::Done => "<span class=\"status done\">",
        State::Failed => "<span class=\"status failed\">",
        State::Interrupted | State::Stopped => "<span class=\"status stopped\">",
        State::Unknown => "<span class=\"status\">",
    });
    html.text(state.name()).raw("</span>");
}

/// The run in a sentence.
fn outline(run: &Run) -> String {
    let mut parts = Vec::new();
    if let Some(record) = &run.record {
        parts.push(format!("{} parameters", short(record.num_parameters as f64)));
    }
    parts.extend(progress(run));
    if let Some(record) = &run.record {
        parts.push(record.device.clone());
    }
    parts.join(" · ")
}

/// `1,680 of 3,000 updates`.
pub(super) fn progress(run: &Run) -> Option<String> {
    let step = run.step()?;
    Some(match run.num_steps().filter(|steps| *steps != step) {
        Some(steps) => format!("{} of {} updates", count(step), count(steps)),
        None => format!("{} updates", count(step)),
    })
}

fn figures(html: &mut Html, run: &Run) {
    html.raw("<section class=\"figures\" aria-label=\"Figures\">");
    let last = run.evaluations.last();
    let best = run.best_evaluation().filter(|best| last.is_some_and(|last| last.step != best.step));
    if let Some(last) = last {
        let aside = best.map(|best| format!("best {} at update {}", figure(best.loss), count(best.step)));
        main_figure(
            html,
            "evaluation loss",
            &figure(last.loss),
            &aside.unwrap_or_else(|| "nats a token".into()),
        );
        main_figure(html, "bits per byte", &figure(last.bits_per_byte), "of held-out text");
        main_figure(html, "perplexity", &figure(last.perplexity), "a token");
        if last.next_token_accuracy.is_finite() {
            main_figure(html, "next token right", &percent(last.next_token_accuracy), "of held-out text");
        }
    }
    main_figure(html, "training loss", &or_none(run.loss(), figure), "mean of the last line");
    let of = run.record.as_ref().filter(|record| record.num_train_tokens > 0);
    let passes = of.map(|record| {
        format!("{} passes of {}", figure(record.epoch), short(record.num_train_tokens as f64))
    });
    let tokens = or_none(run.num_tokens(), |tokens| short(tokens as f64));
    main_figure(html, "tokens", &tokens, &passes.unwrap_or_default());
    let updates = progress(run).unwrap_or_default();
    main_figure(html, "time", &or_none(run.elapsed_seconds(), duration), &updates);
    let speed = run.tokens_per_second();
    let share = run.share_of_peak().map(|share| format!("{} of the peak", percent(share)));
    main_figure(
        html,
        "tokens a second",
        &or_none(speed, |speed| count(speed.round() as u64)),
        &share.unwrap_or_default(),
    );
    if run.skipped_updates() > 0 {
        main_figure(html, "skipped updates", &count(run.skipped_updates()), "something was not finite");
    }
    html.raw("</section>");
}

/// One of the large figures at the top.
pub(super) fn main_figure(html: &mut Html, name: &str, value: &str, aside: &str) {
    html.raw("<div>")
        .element("p", "name", name)
        .element("p", "value", value)
        .element("p", "aside", aside)
        .raw("</div>");
}

/// What is missing or broken.
pub(super) fn notes(html: &mut Html, notes: &[String]) {
    if notes.is_empty() {
        return;
    }
    html.raw("<ul class=\"notes\">");
    notes.iter().for_each(|note| {
        html.element("li", "", note);
    });
    html.raw("</ul>");
}
