//! Axes: what part of the numbers a picture shows, and where its ticks are.
//!
//! The one trick: a tick's step is 1, 2 or 5 times a power of ten, so labels are short and all have the same digits.

use super::number::count;

/// One axis of a picture.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    is_log: bool,
    /// Values that have a line and a label.
    pub(super) ticks: Vec<(f64, String)>,
}

impl Axis {
    /// From `low` to `high`, with about `target` ticks. A range without extent is widened.
    pub(super) fn linear(low: f64, high: f64, target: usize) -> Self {
        let (low, high) = widened(low, high);
        Axis { low, high, is_log: false, ticks: linear_ticks(low, high, target) }
    }

    /// Logarithmic; both ends are above 0.
    pub(super) fn log(low: f64, high: f64) -> Self {
        let (low, high) = (low / 1.1, high * 1.1);
        let ticks = log_ticks(low, high);
        match ticks.len() {
            0 | 1 => Axis { ticks: linear_ticks(low, high, 4), low, high, is_log: true },
            _ => Axis { low, high, is_log: true, ticks },
        }
    }

    /// Where `value` is: 0 at the low end, 1 at the high one, beyond them outside of that.
    pub(super) fn place(&self, value: f64) -> f64 {
        match self.is_log {
            true => (value.max(f64::MIN_POSITIVE).ln() - self.low.ln()) / (self.high.ln() - self.low.ln()),
            false => (value - self.low) / (self.high - self.low),
        }
    }

    /// Whether it is logarithmic.
    pub(super) fn is_log(&self) -> bool {
        self.is_log
    }

    /// The high end.
    pub(super) fn high(&self) -> f64 {
        self.high
    }
}

/// The same range, never empty and never without an end.
fn widened(low: f64, high: f64) -> (f64, f64) {
    match (low.is_finite() && high.is_finite(), high > low) {
        (false, _) => (0.0, 1.0),
        (_, true) => (low, high),
        // A flat line lies in the middle.
        _ => (low - (0.1 * low.abs()).max(1e-9), high + (0.1 * high.abs()).max(1e-9)),
    }
}

fn linear_ticks(low: f64, high: f64, target: usize) -> Vec<(f64, String)> {
    let rough = (high - low) / target.max(1) as f64;
    let power = 10_f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= 0.75 * rough);
    let step = step.unwrap_or(rough);
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    // More would only come from numbers beyond what a float tells apart.
    let values = (first..=last).take(4 * target.max(1)).map(|i| i as f64 * step);
    values.map(|value| (value, label(value, high.abs().max(low.abs()), step))).collect()
}

/// Powers of ten, with 2 and 5 between them where there are few.
fn log_ticks(low: f64, high: f64) -> Vec<(f64, String)> {
    let decades = (high / low).log10();
    let factors: &[f64] = if decades < 2.5 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let every = (decades / 8.0).ceil().max(1.0) as i32;
    let powers = (low.log10().floor() as i32..=high.log10().ceil() as i32).filter(|power| power % every == 0);
    let values = powers.flat_map(|power| factors.iter().map(move |factor| factor * 10_f64.powi(power)));
    let shown = values.filter(|value| (low..=high).contains(value));
    shown.map(|value| (value, label(value, value, value))).collect()
}

/// A tick's label, with the digits that tell it from the next; `largest` decides on the unit that all have.
fn label(value: f64, largest: f64, step: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let decimals = |step: f64| (-(step * 1.001).log10().floor()).clamp(0.0, 12.0) as usize;
    let unit =
        [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e5, "k")].into_iter().find(|(size, _)| largest >= *size);
    match unit {
        _ if largest >= 1e15 => format!("{value:.0e}"),
        Some((size, name)) => {
            let size = if name == "k" { 1e3 } else { size };
            format!("{:.*}{name}", decimals(step / size), value / size)
        }
        None if largest < 0.01 => {
            let power = largest.log10().floor();
            let digits = decimals(step / 10_f64.powf(power));
            format!("{:.digits$}e{power:.0}", value / 10_f64.powf(power))
        }
        None if decimals(step) == 0 && value > 0.0 => count(value.round() as u64),
        None => format!("{value:.*}", decimals(step)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> String {
        axis.ticks.iter().map(|(_, label)| label.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn ticks_are_round_and_told_apart() {
        for (low, high, text) in [
            (0.0, 1680.0, "0 500 1,000 1,500"),
            (0.0, 3.0, "0 0.5 1.0 1.5 2.0 2.5 3.0"),
            (2.43, 5.1, "2.5 3.0 3.5 4.0 4.5 5.0"),
            (0.0, 100_000.0, "0 20k 40k 60k 80k 100k"),
            (0.0, 65_243.0, "0 10,000 20,000 30,000 40,000 50,000 60,000"),
            (0.0, 7_300_000.0, "0 2M 4M 6M"),
            (0.0, 0.0173, "0 0.005 0.010 0.015"),
            (0.0, 5e-4, "0 1e-4 2e-4 3e-4 4e-4 5e-4"),
            (0.0, 1.3e-3, "0 0.2e-3 0.4e-3 0.6e-3 0.8e-3 1.0e-3 1.2e-3"),
        ] {
            assert_eq!(labels(&Axis::linear(low, high, 5)), text);
        }
        assert_eq!(labels(&Axis::log(0.3, 40.0)), "0.5 1 2 5 10 20");
        assert_eq!(labels(&Axis::log(0.1, 1e6)), "0.1 1 10 100 1,000 10,000 100k 1M");
    }

    #[test]
    fn no_range_breaks_an_axis() {
        for (low, high) in [
            (0.0, 0.0),
            (3.0, 3.0),
            (f64::NAN, 1.0),
            (f64::INFINITY, f64::NEG_INFINITY),
            (-1e300, 1e300),
            (1e-300, 2e-300),
            (1.0, 1.0 + 1e-15),
            (-5.0, -2.0),
        ] {
            let axis = Axis::linear(low, high, 5);
            assert!(axis.ticks.len() <= 20 && axis.place(axis.low) == 0.0, "{axis:?}");
            assert!(axis.ticks.iter().all(|(value, _)| axis.place(*value).is_finite()), "{axis:?}");
        }
        for (low, high) in [(1.0, 1.0), (1e-300, 1e300), (1e-9, 1e-8), (5.1, 5.2)] {
            let axis = Axis::log(low, high);
            assert!((1..20).contains(&axis.ticks.len()), "{axis:?}");
        }
        assert!(Axis::log(1.0, 10.0).place(0.0).is_finite());
    }
}
