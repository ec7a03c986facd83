//! Charts: the loss over steps, and small curves with their range.

use super::curve::Curve;
use super::screen::Theme;
use crate::format;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Chart, Dataset, GraphType};

/// A curve with more points than this has a beginning that the rest need not share its scale with.
const SETTLED_POINTS: usize = 40;

/// Points as they are drawn, kept between frames.
#[derive(Default)]
pub(super) struct Points {
    train: Vec<(f64, f64)>,
    eval: Vec<(f64, f64)>,
}

impl Points {
    /// The loss of training and evaluation, on a logarithmic axis, since the first fall is many times what comes after.
    pub(super) fn loss(
        &mut self,
        frame: &mut Frame<'_>,
        area: Rect,
        theme: Theme,
        train: &Curve,
        eval: &Curve,
        is_log: bool,
    ) {
        let x = |step: f64| if is_log { step.max(1.0).log10() } else { step };
        for (points, curve) in [(&mut self.train, train), (&mut self.eval, eval)] {
            points.clear();
            points.extend(curve.points().map(|(step, loss)| (x(step), loss.max(1e-6).ln())));
        }
        let title = match (train.last(), eval.last()) {
            (Some(loss), Some(eval)) => format!(" loss {loss:.3}, evaluation {eval:.3} "),
            (Some(loss), None) => format!(" loss {loss:.3} "),
            _ => " loss ".into(),
        };
        let block = Block::bordered().title(title).border_style(theme.dim());
        let all = || self.train.iter().chain(&self.eval);
        let Some(x_range) = range(all().map(|point| point.0)) else {
            frame.render_widget(block, area);
            return;
        };
        let y_range =
            if is_log { range(all().map(|point| point.1)) } else { settled(&self.train, &self.eval) };
        let y_range = padded(y_range.unwrap_or([0.0, 1.0]), 0.02);
        let step = |x: f64| format::short(if is_log { 10f64.powf(x) } else { x });
        let x_labels = [x_range[0], 0.5 * (x_range[0] + x_range[1]), x_range[1]].map(step);
        let y_labels =
            [y_range[0], 0.5 * (y_range[0] + y_range[1]), y_range[1]].map(|y| format!("{:.2}", y.exp()));
        let label = |text: String| Span::styled(text, theme.dim());
        let sets = vec![
            dataset(&self.train).graph_type(GraphType::Line).style(theme.accent()),
            dataset(&self.eval).marker(Marker::Dot).graph_type(GraphType::Scatter).style(theme.eval()),
        ];
        let chart = Chart::new(sets)
            .block(block)
            .x_axis(
                Axis::default().bounds(padded(x_range, 0.0)).labels(x_labels.map(label)).style(theme.dim()),
            )
            .y_axis(Axis::default().bounds(y_range).labels(y_labels.map(label)).style(theme.dim()))
            .legend_position(None);
        frame.render_widget(chart, area);
    }

    /// A small curve without axes; its title says how it stands and what its height is. `scale` is monotonic.
    pub(super) fn small(
        &mut self,
        frame: &mut Frame<'_>,
        area: Rect,
        theme: Theme,
        name: &str,
        curve: &Curve,
        scale: fn(f64) -> f64,
        say: fn(f64) -> String,
    ) {
        self.train.clear();
        self.train.extend(curve.points());
        let x_range = range(self.train.iter().map(|point| point.0));
        let y_range = settled(&self.train, &[]);
        self.train.iter_mut().for_each(|(_, value)| *value = scale(*value));
        let (Some(last), Some(x_range), Some([low, high])) = (curve.last(), x_range, y_range) else {
            frame.render_widget(Block::bordered().title(format!(" {name} ")).border_style(theme.dim()), area);
            return;
        };
        let title = format!(" {name} {} ", say(last));
        let span = Line::from(format!(" {} to {} ", say(low), say(high))).right_aligned();
        let block = Block::bordered().title(title).border_style(theme.dim());
        let block = if area.height > 3 { block.title_bottom(span) } else { block };
        let chart = Chart::new(vec![dataset(&self.train).graph_type(GraphType::Line).style(theme.accent())])
            .block(block)
            .x_axis(Axis::default().bounds(padded(x_range, 0.0)))
            .y_axis(Axis::default().bounds(padded([low, high].map(scale), 0.05)))
            .legend_position(None);
        frame.render_widget(chart, area);
    }
}

fn dataset(points: &[(f64, f64)]) -> Dataset<'_> {
    Dataset::default().marker(Marker::Braille).data(points)
}

fn range(values: impl Iterator<Item = f64>) -> Option<[f64; 2]> {
    values.fold(None, |range, value| match range {
        None => Some([value, value]),
        Some([low, high]) => Some([value.min(low), value.max(high)]),
    })
}

/// The range of values without the beginning of a long curve.
fn settled(train: &[(f64, f64)], eval: &[(f64, f64)]) -> Option<[f64; 2]> {
    let first = match train.len() {
        ..=SETTLED_POINTS => f64::NEG_INFINITY,
        len => train[len / 20].0,
    };
    range(train.iter().chain(eval).filter(|point| point.0 >= first).map(|point| point.1))
}

/// A range that is not empty, with `share` of it free on both sides.
fn padded([low, high]: [f64; 2], share: f64) -> [f64; 2] {
    let least = 1e-3 * (low.abs() + high.abs()) + f64::MIN_POSITIVE;
    let pad = if high - low < least { least } else { share * (high - low) };
    [low - pad, high + pad]
}
