//! Bars that lie: a name, what it counts, and a bar below both. Plain HTML, so that a name is text that breaks where it must.
//!
//! Bars of one picture have one scale: the longest of them has the whole width. Rows past the first few are folded.

use super::chart::COLOURS;
use super::html::Html;
use super::number::count;

/// Rows that are to be seen at once.
const SHOWN: usize = 10;
/// Rows in all; nobody reads more, and a dataset may have a thousand licences.
const MOST: usize = 200;

/// One row.
pub(super) struct Row {
    pub(super) name: String,
    /// What the bars show, in figures.
    pub(super) text: String,
    /// A length and a colour each; lengths of one picture have the same unit.
    pub(super) bars: Vec<(f64, usize)>,
}

/// A picture of bars.
pub(super) struct Bars {
    pub(super) title: &'static str,
    /// What the figures are, beside the title.
    pub(super) unit: &'static str,
    /// What each colour means, where there are several.
    pub(super) legend: &'static [(&'static str, usize)],
    /// In the order in which they are shown.
    pub(super) rows: Vec<Row>,
    /// What stands there where there is no row.
    pub(super) empty: &'static str,
    /// Takes two columns of three.
    pub(super) is_wide: bool,
}

impl Bars {
    /// The picture as a `figure`.
    pub(super) fn draw(&self, html: &mut Html) {
        html.raw(if self.is_wide { "<figure class=\"chart wide\">" } else { "<figure class=\"chart\">" });
        html.raw("<figcaption>").element("b", "", self.title).raw(" ").element("span", "unit", self.unit);
        if !self.legend.is_empty() {
            html.raw("<span class=\"legend\">");
            for (name, colour) in self.legend {
                html.raw("<span>");
                key(html, *colour);
                html.text(name).raw("</span>");
            }
            html.raw("</span>");
        }
        html.raw("</figcaption>");
        let (shown, folded) = self.rows.split_at(self.rows.len().min(SHOWN));
        match shown {
            [] => {
                html.element("p", "empty", self.empty);
            }
            _ => self.list(html, shown),
        }
        if !folded.is_empty() {
            html.raw("<details><summary>").text(count(folded.len() as u64)).raw(" more");
            html.raw(if folded.len() > MOST { ", of which the first are shown" } else { "" });
            html.raw("</summary>");
            self.list(html, &folded[..folded.len().min(MOST)]);
            html.raw("</details>");
        }
        html.raw("</figure>");
    }

    fn list(&self, html: &mut Html, rows: &[Row]) {
        let lengths = self.rows.iter().flat_map(|row| &row.bars).map(|bar| bar.0);
        let longest = lengths.filter(|length| length.is_finite()).fold(0.0, f64::max);
        html.raw("<dl class=\"bars\">");
        for row in rows {
            html.raw("<div>").element("dt", "", &row.name).element("dd", "", &row.text);
            for (length, colour) in &row.bars {
                let share = length / longest;
                html.raw("<dd class=\"track\"><i class=\"c").number((colour % COLOURS) as f64);
                // What is there is to be seen, however little it is.
                html.raw(if *length > 0.0 { " some\" style=\"width:" } else { "\" style=\"width:" });
                html.number(if share.is_finite() { 100.0 * share } else { 0.0 }).raw("%\"></i></dd>");
            }
            html.raw("</div>");
        }
        html.raw("</dl>");
    }
}

/// A square of the legend's colour.
pub(super) fn key(html: &mut Html, colour: usize) {
    html.raw("<i class=\"key c").number((colour % COLOURS) as f64).raw("\"></i>");
}
