//! A curve of any length in bounded memory: when it is full, neighbours are joined to their mean.

/// Points that are kept at most: more than a wide terminal has columns of braille.
const CAPACITY: usize = 512;

/// A curve, in the order of its steps.
#[derive(Clone, Debug, Default)]
pub(super) struct Curve {
    points: Vec<Point>,
    /// What a whole point stands for, as a power of two.
    doublings: u32,
    last: f64,
}

/// The mean of one or more values.
#[derive(Clone, Copy, Debug)]
struct Point {
    step: f64,
    value: f64,
    count: u64,
}

impl Point {
    fn join(self, other: Point) -> Point {
        let count = self.count + other.count;
        let mean = |a: f64, b: f64| (a * self.count as f64 + b * other.count as f64) / count as f64;
        Point { step: mean(self.step, other.step), value: mean(self.value, other.value), count }
    }
}

impl Curve {
    /// Adds a value; what is not finite leaves a gap.
    pub(super) fn push(&mut self, step: u64, value: f64) {
        if !value.is_finite() {
            return;
        }
        self.last = value;
        let point = Point { step: step as f64, value, count: 1 };
        match self.points.last_mut() {
            Some(open) if open.count < 1 << self.doublings => *open = open.join(point),
            _ => self.points.push(point),
        }
        if self.points.len() > CAPACITY {
            self.doublings += 1;
            for i in 0..self.points.len() / 2 {
                self.points[i] = self.points[2 * i].join(self.points[2 * i + 1]);
            }
            // The one that is left over is open.
            self.points[CAPACITY / 2] = self.points[CAPACITY];
            self.points.truncate(CAPACITY / 2 + 1);
        }
    }

    /// Steps and values.
    pub(super) fn points(&self) -> impl DoubleEndedIterator<Item = (f64, f64)> + '_ {
        self.points.iter().map(|point| (point.step, point.value))
    }

    /// The newest value by itself.
    pub(super) fn last(&self) -> Option<f64> {
        (!self.points.is_empty()).then_some(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_curve_keeps_its_shape_in_bounded_memory() {
        let mut curve = Curve::default();
        for step in 0..100_000 {
            curve.push(step, 2.0 * step as f64);
            assert!(curve.points.len() <= CAPACITY);
        }
        assert_eq!(curve.points.iter().map(|point| point.count).sum::<u64>(), 100_000);
        for (step, value) in curve.points() {
            assert!((value - 2.0 * step).abs() < 1e-6, "{step} {value}");
        }
        assert!(curve.points().is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(curve.last(), Some(199_998.0));
    }

    #[test]
    fn values_that_are_not_finite_are_left_out() {
        let mut curve = Curve::default();
        curve.push(1, f64::NAN);
        assert_eq!((curve.last(), curve.points().count()), (None, 0));
        curve.push(2, 1.0);
        curve.push(3, f64::INFINITY);
        assert_eq!((curve.last(), curve.points().count()), (Some(1.0), 1));
    }
}
