//! A chart: lines in an SVG without a fixed size, and labels in HTML around it.
//!
//! The one trick: the SVG is stretched to whatever room there is while strokes keep their width (`non-scaling-stroke`), so
//! that one picture is sharp and its labels legible on a phone, a wall and paper. A dot is a line without length whose ends
//! are round, since a circle would be stretched too.

use super::axis::Axis;
use super::html::Html;
use super::number::{count, figure, percent, short};
use super::series::{Point, decimated, smoothed};
use serde_json::{Value, json};

/// Units of the picture along each side; about as many columns as a wide screen gives it pixels.
const UNITS: f64 = 1000.0;
/// Points from which a line is drawn faintly, below its running mean.
const MANY: usize = 150;
/// Points of a line up to which each has a dot; of evaluations it may be ten times as many.
const FEW: usize = 24;

/// One line.
pub(super) struct Series {
    /// What the legend calls it.
    pub(super) name: String,
    /// Which colour of the palette it has.
    pub(super) colour: usize,
    /// By x.
    pub(super) points: Vec<Point>,
    /// Dots on the points, and no running mean: few values that each count.
    pub(super) is_dotted: bool,
    /// Dashed: the second line of the same colour.
    pub(super) is_dashed: bool,
}

/// How the y axis is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// From the lowest value; the steep beginning of a curve may lie above the picture.
    Falling,
    /// From 0.
    FromZero,
    /// Logarithmic if the values span much.
    Wide,
}

/// A chart.
pub(super) struct Chart {
    pub(super) title: &'static str,
    /// What the values are, beside the title.
    pub(super) unit: &'static str,
    /// What x counts: `updates`, `tokens`.
    pub(super) x_unit: &'static str,
    pub(super) scale: Scale,
    pub(super) series: Vec<Series>,
    /// What a value of 1 is as a share, for an axis on the right.
    pub(super) share: Option<f64>,
    /// Where updates were skipped.
    pub(super) skipped: Vec<f64>,
    /// Several runs: lines are running means only.
    pub(super) is_comparison: bool,
    /// What stands in place of the picture when there is nothing to draw.
    pub(super) empty: &'static str,
    /// Takes the whole width.
    pub(super) is_large: bool,
    /// The values are exact: no running mean of them.
    pub(super) is_exact: bool,
}

impl Chart {
    /// The chart as a `figure`.
    pub(super) fn draw(&self, html: &mut Html) {
        html.raw(if self.is_large { "<figure class=\"chart large\">" } else { "<figure class=\"chart\">" });
        self.caption(html);
        let finite =
            || self.series.iter().flat_map(|series| &series.points).filter(|point| point.1.is_finite());
        if finite().next().is_none() {
            html.element("p", "empty", self.empty).raw("</figure>");
            return;
        }
        let last = finite().map(|point| point.0).fold(0.0, f64::max);
        let x = Axis::linear(0.0, if last > 0.0 { last } else { 1.0 }, if self.is_large { 7 } else { 4 });
        let y = self.y_axis(last);
        html.raw(if self.share.is_some() { "<div class=\"plot shared\">" } else { "<div class=\"plot\">" });
        self.labels(html, &x, &y);
        html.raw("<svg viewBox=\"0 0 1000 1000\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"")
            .text(format_args!("{} by {}", self.title, self.x_unit))
            .raw("\">");
        grid(html, &x, &y);
        self.series.iter().for_each(|series| self.line(html, series, &x, &y));
        html.raw("</svg>");
        let mut marked = f64::NEG_INFINITY;
        for step in &self.skipped {
            // Marks that would cover each other are one.
            if x.place(*step) - marked < 0.004 {
                continue;
            }
            marked = x.place(*step);
            let tip = format!("skipped update {}", count(*step as u64));
            html.raw("<i class=\"skip\" title=\"").text(tip).raw("\" style=\"left:");
            html.number(100.0 * x.place(*step)).raw("%\"></i>");
        }
        html.raw("</div>");
        html.raw("<div class=\"below\">");
        self.notes(html, &y);
        html.element("p", "x-unit", self.x_unit).raw("</div>");
        html.raw("<script type=\"application/json\">").json(&self.read_out(&x, &y)).raw("</script></figure>");
    }

    fn caption(&self, html: &mut Html) {
        html.raw("<figcaption>").element("b", "", self.title).raw(" ").element("span", "unit", self.unit);
        // Several runs have the same colours in all charts.
        if self.series.len() > 1 && (self.is_large || !self.is_comparison) {
            html.raw("<span class=\"legend\">");
            for series in &self.series {
                html.raw("<span>");
                swatch(html, series.colour, series.is_dashed);
                html.text(&series.name);
                if !self.is_comparison {
                    let last = series.points.iter().rev().find(|point| point.1.is_finite());
                    html.raw(" ").element("em", "", last.map_or_else(String::new, |point| figure(point.1)));
                }
                html.raw("</span>");
            }
            html.raw("</span>");
        }
        html.raw("</figcaption>");
    }

    fn y_axis(&self, last_x: f64) -> Axis {
        let mut values: Vec<Point> = self
            .series
            .iter()
            .flat_map(|series| &series.points)
            .copied()
            .filter(|point| point.1.is_finite())
            .collect();
        let low = values.iter().map(|point| point.1).fold(f64::INFINITY, f64::min);
        let high = values.iter().map(|point| point.1).fold(f64::NEG_INFINITY, f64::max);
        match self.scale {
            Scale::FromZero => Axis::linear(low.min(0.0), 1.08 * high, 4),
            Scale::Wide => {
                values.sort_by(|a, b| a.1.total_cmp(&b.1));
                let median = values[values.len() / 2].1;
                match low > 0.0 && high > 12.0 * median {
                    true => Axis::log(low, high),
                    false => Axis::linear(low.min(0.0), 1.08 * high, 4),
                }
            }
            Scale::Falling => {
                let tail = values.iter().filter(|point| point.0 > 0.06 * last_x).map(|point| point.1);
                let tail = tail.fold(f64::NEG_INFINITY, f64::max);
                // Where the beginning takes more than a third of the height, the rest has all of it.
                let is_cut = values.len() > 20 && high - low > 1.5 * (tail - low) && tail > low;
                let high = if is_cut { tail } else { high };
                let room = 0.06 * (high - low);
                Axis::linear(low - room, high + room, 5)
            }
        }
    }

    fn labels(&self, html: &mut Html, x: &Axis, y: &Axis) {
        html.raw("<div class=\"y\" aria-hidden=\"true\">");
        for (value, label) in &y.ticks {
            html.raw("<span style=\"top:")
                .number(100.0 * (1.0 - y.place(*value)))
                .raw("%\">")
                .text(label)
                .raw("</span>");
        }
        html.raw("</div><div class=\"x\" aria-hidden=\"true\">");
        for (value, label) in &x.ticks {
            html.raw("<span style=\"left:")
                .number(100.0 * x.place(*value))
                .raw("%\">")
                .text(label)
                .raw("</span>");
        }
        html.raw("</div>");
        let Some(share) = self.share else { return };
        html.raw("<div class=\"y right\" aria-hidden=\"true\">");
        for (value, label) in &Axis::linear(0.0, 100.0 * share * y.high(), 4).ticks {
            let place = y.place(value / (100.0 * share));
            html.raw("<span style=\"top:")
                .number(100.0 * (1.0 - place))
                .raw("%\">")
                .text(label)
                .raw(" %</span>");
        }
        html.raw("</div>");
    }

    fn line(&self, html: &mut Html, series: &Series, x: &Axis, y: &Axis) {
        if self.has_mean(series) {
            if !self.is_comparison {
                path(html, "faint", series, &decimated(&series.points, |at| column(x, at)), x, y);
            }
            let mean = smoothed(&series.points, series.points.len() / 40, y.is_log());
            path(html, "mean", series, &decimated(&mean, |at| column(x, at)), x, y);
        } else {
            let class = if series.is_dashed { "line dashed" } else { "line" };
            path(html, class, series, &decimated(&series.points, |at| column(x, at)), x, y);
        }
        if series.points.len() <= if series.is_dotted { 10 * FEW } else { FEW } {
            let dots = series.points.iter().filter(|point| point.1.is_finite()).map(|point| vec![*point]);
            path(html, "dots", series, &dots.collect::<Vec<_>>(), x, y);
        }
    }

    /// Whether a line is drawn as its running mean.
    fn has_mean(&self, series: &Series) -> bool {
        series.points.len() > MANY && !series.is_dotted && !self.is_exact
    }

    /// What lies outside of the picture, and what its marks mean.
    fn notes(&self, html: &mut Html, y: &Axis) {
        let mut notes = Vec::new();
        let points = || self.series.iter().flat_map(|series| &series.points);
        let above = points().filter(|point| point.1 > y.high());
        let highest = above.clone().max_by(|a, b| a.1.total_cmp(&b.1));
        if let Some((at, value)) = highest {
            let (values, of) = (count(above.count() as u64), count(points().count() as u64));
            let (top, at) = (figure(*value), short(*at));
            notes.push(format!(
                "Above the picture: {values} of {of} values, up to {top} at {at} {}.",
                self.x_unit
            ));
        }
        let gaps = points().filter(|point| !point.1.is_finite()).count();
        if gaps > 0 {
            notes.push(format!("Gaps: {} of the values were not finite.", count(gaps as u64)));
        }
        if self.is_large && !self.skipped.is_empty() {
            notes.push("▾ Updates were skipped.".into());
        }
        if self.is_large && self.series.iter().any(|series| self.has_mean(series)) {
            let mean = if self.is_comparison {
                "Lines are running means."
            } else {
                "The strong line is a running mean."
            };
            notes.push(mean.into());
        }
        if !notes.is_empty() {
            html.element("p", "note", notes.join(" "));
        }
    }

    /// What the script under the page reads out: for each line its points, as place, x, and the texts of their values.
    fn read_out(&self, x: &Axis, y: &Axis) -> Value {
        let text = |value: f64| match self.share {
            Some(share) => format!("{} ({})", figure(value), percent(share * value)),
            None => figure(value),
        };
        let points = |series: &Series| -> Vec<Value> {
            // One a column: a pointer cannot aim between two.
            let mut kept = decimated(&series.points, |at| column(x, at)).concat();
            kept.dedup_by_key(|point| column(x, point.0));
            let place = |point: &Point| {
                let height = (1.0 - y.place(point.1)).clamp(0.0, 1.0);
                json!([column(x, point.0), count(point.0 as u64), text(point.1), (height * UNITS).round()])
            };
            kept.iter().map(place).collect()
        };
        let series = self.series.iter().map(|series| {
            json!({"name": series.name, "colour": series.colour % COLOURS, "points": points(series)})
        });
        json!({"x": self.x_unit, "series": series.collect::<Vec<_>>()})
    }
}

/// Colours of the palette in style.css.
pub(super) const COLOURS: usize = 8;

/// A line of the legend's colour.
pub(super) fn swatch(html: &mut Html, colour: usize, is_dashed: bool) {
    html.raw(if is_dashed { "<i class=\"swatch dashed c" } else { "<i class=\"swatch c" });
    html.number((colour % COLOURS) as f64).raw("\"></i>");
}

fn column(x: &Axis, at: f64) -> i64 {
    (UNITS * x.place(at)) as i64
}

fn grid(html: &mut Html, x: &Axis, y: &Axis) {
    html.raw("<path class=\"grid\" d=\"");
    for (value, _) in &y.ticks {
        html.raw("M0 ").number(UNITS * (1.0 - y.place(*value))).raw("H1000");
    }
    for (value, _) in &x.ticks {
        html.raw("M").number(UNITS * x.place(*value)).raw(" 1000v-1000");
    }
    html.raw("\"/><path class=\"base\" d=\"M0 1000H1000\"/>");
}

fn path(html: &mut Html, class: &'static str, series: &Series, pieces: &[Vec<Point>], x: &Axis, y: &Axis) {
    html.raw("<path class=\"").raw(class).raw(" c").number((series.colour % COLOURS) as f64).raw("\" d=\"");
    for piece in pieces {
        for (i, (at, value)) in piece.iter().enumerate() {
            html.raw(if i == 0 { "M" } else { "L" }).number(UNITS * x.place(*at));
            // Far outside is outside; the browser need not know how far.
            html.raw(" ").number(UNITS * (1.0 - y.place(*value)).clamp(-1.0, 2.0));
        }
        if piece.len() == 1 {
            html.raw("h0");
        }
    }
    html.raw("\"/>");
}
