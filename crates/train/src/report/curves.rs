//! Which curves a run has: loss, learning rate, gradient norm, speed. One body draws those of one run and of several.

use super::chart::{Chart, Scale, Series};
use super::html::Html;
use super::run::{Evaluated, Logged, Run};
use super::series::Point;

/// The curves of `runs`, in a grid.
pub(super) fn draw(html: &mut Html, runs: &[Run]) {
    html.raw("<section class=\"charts\" aria-label=\"Curves\">");
    let x = X::of(runs);
    let is_comparison = runs.len() > 1;
    let skipped = match runs {
        [run] => skipped(run, &x),
        // With several runs the marks would not say whose they are.
        _ => Vec::new(),
    };
    let chart = |title, unit, scale, series| Chart {
        title,
        unit,
        x_unit: x.unit(),
        scale,
        series,
        share: None,
        skipped: skipped.clone(),
        is_comparison,
        empty: "Nothing was logged.",
        is_large: false,
        is_exact: false,
    };
    let training = |value: fn(&Logged) -> f64| -> Vec<Series> {
        runs.iter().enumerate().map(|(i, run)| x.training(run, i, value)).collect()
    };
    let mut losses = training(|line| line.loss);
    if is_comparison {
        Chart { is_large: true, ..chart("Loss in training", "nats a token", Scale::Falling, losses) }
            .draw(html);
        let evaluations =
            runs.iter().enumerate().map(|(i, run)| x.evaluations(run, i, |line| line.loss)).collect();
        let empty = "No run was evaluated.";
        Chart {
            is_large: true,
            empty,
            ..chart("Loss in evaluations", "nats a token", Scale::Falling, evaluations)
        }
        .draw(html);
    } else if let [run] = runs {
        losses[0].name = "training".into();
        losses.extend((!run.evaluations.is_empty()).then(|| Series {
            name: "evaluation".into(),
            colour: 1,
            ..x.evaluations(run, 1, |line| line.loss)
        }));
        Chart { is_large: true, ..chart("Loss", "nats a token", Scale::Falling, losses) }.draw(html);
    }
    Chart {
        is_exact: true,
        ..chart("Learning rate", "", Scale::FromZero, training(|line| line.learning_rate))
    }
    .draw(html);
    chart("Gradient norm", "before clipping", Scale::Wide, training(|line| line.grad_norm)).draw(html);
    let share = runs.first().and_then(Run::share_of_peak_per_token).filter(|_| !is_comparison);
    let unit = if share.is_some() { "tokens a second; right: share of peak" } else { "tokens a second" };
    Chart { share, ..chart("Speed", unit, Scale::FromZero, training(|line| line.tokens_per_second)) }
        .draw(html);
    html.raw("</section>");
}

/// What the x axis counts: updates, but tokens where runs have updates of different sizes.
enum X {
    Updates,
    Tokens,
}

impl X {
    fn of(runs: &[Run]) -> Self {
        let sizes: Vec<_> = runs.iter().map(tokens_per_update).collect();
        let is_same = sizes.windows(2).all(|pair| match (pair[0], pair[1]) {
            (Some(a), Some(b)) => (a - b).abs() < 0.01 * a.max(b),
            _ => false,
        });
        match is_same || sizes.iter().any(Option::is_none) {
            true => X::Updates,
            false => X::Tokens,
        }
    }

    fn unit(&self) -> &'static str {
        match self {
            X::Updates => "updates",
            X::Tokens => "tokens",
        }
    }

    fn training(&self, run: &Run, colour: usize, value: fn(&Logged) -> f64) -> Series {
        let at = |line: &Logged| match self {
            X::Updates => line.step as f64,
            X::Tokens => line.num_tokens as f64,
        };
        let points: Vec<Point> = run.training.iter().map(|line| (at(line), value(line))).collect();
        Series { name: run.name.clone(), colour, points, is_dotted: false, is_dashed: colour >= 8 }
    }

    fn evaluations(&self, run: &Run, colour: usize, value: fn(&Evaluated) -> f64) -> Series {
        let scale = match self {
            X::Updates => 1.0,
            X::Tokens => tokens_per_update(run).unwrap_or(1.0),
        };
        let points = run.evaluations.iter().map(|line| (line.step as f64 * scale, value(line))).collect();
        Series { name: run.name.clone(), colour, points, is_dotted: true, is_dashed: colour >= 8 }
    }
}

/// Tokens of an update, as recorded or as the log shows.
fn tokens_per_update(run: &Run) -> Option<f64> {
    let recorded = run.record.as_ref().map(|record| record.tokens_per_update as f64);
    let logged = || run.training.last().map(|line| line.num_tokens as f64 / line.step.max(1) as f64);
    recorded.or_else(logged).filter(|tokens| *tokens > 0.0)
}

/// Where the log's lines report more skipped updates than the line before.
fn skipped(run: &Run, x: &X) -> Vec<f64> {
    let counts = std::iter::once(0).chain(run.training.iter().map(|line| line.skipped_updates));
    let more = run.training.iter().zip(counts).filter(|(line, before)| line.skipped_updates > *before);
    let at = |line: &Logged| match x {
        X::Updates => line.step as f64,
        X::Tokens => line.num_tokens as f64,
    };
    more.map(|(line, _)| at(line)).collect()
}
