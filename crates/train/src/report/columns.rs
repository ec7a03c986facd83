//! Columns that stand: how often numbers of each size occur, in classes of powers of two.
//!
//! Drawn as curves are: a stretched SVG, labels in HTML around it, and values for the script to read out.

use super::axis::Axis;
use super::html::Html;
use super::number::{count, percent};
use serde_json::{Value, json};

/// Units of the picture along each side.
const UNITS: f64 = 1000.0;
/// What of a column's place is left free on each side.
const GAP: f64 = 0.06;

/// A histogram.
pub(super) struct Columns<'a> {
    pub(super) title: &'static str,
    /// What is counted, beside the title.
    pub(super) unit: &'static str,
    /// What the sizes are: `tokens`.
    pub(super) x_unit: &'static str,
    /// Entry `i` counts sizes from `2^i` to `2^(i+1) - 1`; 0 stands in the first.
    pub(super) counts: &'a [u64],
    /// A size to be marked, and what it is.
    pub(super) mark: Option<(u64, String)>,
    /// What stands in place of the picture when there is nothing to draw.
    pub(super) empty: &'static str,
}

impl Columns<'_> {
    /// The picture as a `figure`, two columns of three wide.
    pub(super) fn draw(&self, html: &mut Html) {
        html.raw("<figure class=\"chart wide\"><figcaption>").element("b", "", self.title).raw(" ");
        html.element("span", "unit", self.unit).raw("</figcaption>");
        let first = self.counts.iter().position(|many| *many > 0);
        let last = self.counts.iter().rposition(|many| *many > 0);
        let (Some(first), Some(last)) = (first, last) else {
            html.element("p", "empty", self.empty).raw("</figure>");
            return;
        };
        let classes = &self.counts[first..=last];
        let highest = classes.iter().copied().max().unwrap_or(0) as f64;
        // Below that a tick would be part of a document.
        let y = Axis::linear(0.0, (1.08 * highest).max(4.0), 4);
        let place = |edge: usize| edge as f64 / classes.len() as f64;
        let mark = self.mark.as_ref().and_then(|(size, text)| {
            let at = ((*size).max(1) as f64).log2() - first as f64;
            (0.0..=classes.len() as f64).contains(&at).then_some((at / classes.len() as f64, text))
        });
        html.raw("<div class=\"plot\">");
        labels(html, &y, first, classes.len());
        html.raw("<svg viewBox=\"0 0 1000 1000\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"")
            .text(format_args!("{} by {}", self.title, self.x_unit))
            .raw("\"><path class=\"grid\" d=\"");
        for (value, _) in &y.ticks {
            html.raw("M0 ").number(UNITS * (1.0 - y.place(*value))).raw("H1000");
        }
        html.raw("\"/><path class=\"column c0\" d=\"");
        for (i, many) in classes.iter().enumerate().filter(|(_, many)| **many > 0) {
            let (from, to) = (place(i), place(i + 1));
            let gap = GAP * (to - from);
            html.raw("M").number(UNITS * (from + gap)).raw(" 1000V");
            html.number(UNITS * (1.0 - y.place(*many as f64)))
                .raw("H")
                .number(UNITS * (to - gap))
                .raw("V1000Z");
        }
        html.raw("\"/><path class=\"base\" d=\"M0 1000H1000\"/></svg>");
        if let Some((at, text)) = &mark {
            html.raw("<i class=\"mark\" title=\"").text(text).raw("\" style=\"left:");
            html.number(100.0 * at).raw("%\"></i>");
        }
        html.raw("</div><div class=\"below\">");
        if let Some((_, text)) = &mark {
            html.raw("<p class=\"note\"><i class=\"swatch dotted\"></i>").text(text).raw("</p>");
        }
        html.element("p", "x-unit", self.x_unit).raw("</div><script type=\"application/json\">");
        html.json(&self.read_out(first, classes, &y)).raw("</script></figure>");
    }

    /// What the script under the page reads out, as that of curves.
    fn read_out(&self, first: usize, classes: &[u64], y: &Axis) -> Value {
        let all = classes.iter().map(|many| *many as f64).sum::<f64>();
        let point = |(i, many): (usize, &u64)| {
            let at = ((i as f64 + 0.5) / classes.len() as f64 * UNITS).round();
            let text = format!("{} ({})", count(*many), percent(*many as f64 / all));
            json!([at, range(first + i), text, ((1.0 - y.place(*many as f64)) * UNITS).round()])
        };
        let points: Vec<Value> = classes.iter().enumerate().map(point).collect();
        json!({"x": self.x_unit, "series": [{"name": self.title, "colour": 0, "points": points}]})
    }
}

fn labels(html: &mut Html, y: &Axis, first: usize, num_classes: usize) {
    html.raw("<div class=\"y\" aria-hidden=\"true\">");
    for (value, label) in &y.ticks {
        html.raw("<span style=\"top:").number(100.0 * (1.0 - y.place(*value))).raw("%\">");
        html.text(label).raw("</span>");
    }
    html.raw("</div><div class=\"x\" aria-hidden=\"true\">");
    for edge in 0..=num_classes {
        html.raw("<span style=\"left:").number(100.0 * edge as f64 / num_classes as f64).raw("%\">");
        html.text(power(first + edge)).raw("</span>");
    }
    html.raw("</div>");
}

/// `2^exponent` in as few characters as tell it: `512`, `64k` of 1,024, `2M`.
fn power(exponent: usize) -> String {
    const UNITS: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
    let unit = (exponent / 10).min(UNITS.len() - 1);
    match exponent - 10 * unit {
        rest @ 0..10 => format!("{}{}", 1 << rest, UNITS[unit]),
        _ => format!("2^{exponent}"),
    }
}

/// The sizes of a class: `64 to 127`.
fn range(class: usize) -> String {
    let from = |class: usize| u32::try_from(class).ok().and_then(|class| 1_u64.checked_shl(class));
    match (class, from(class), from(class + 1)) {
        (0, ..) => "0 or 1".into(),
        (_, Some(low), Some(next)) => format!("{} to {}", count(low), count(next - 1)),
        (_, Some(low), None) => format!("{} and more", count(low)),
        _ => format!("2^{class} and more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_named() {
        let names: Vec<String> = [0, 9, 10, 16, 21, 63, 64, 69, 70].map(power).into();
        assert_eq!(names, ["1", "512", "1k", "64k", "2M", "8E", "16E", "512E", "2^70"]);
        assert_eq!(
            [0, 1, 6, 63, 64].map(range),
            ["0 or 1", "2 to 3", "64 to 127", "9,223,372,036,854,775,808 and more", "2^64 and more"]
        );
    }
}
