//! What becomes of a hundred thousand numbers before they are drawn: a running mean, and no more points than pixels.
//!
//! The one trick: of the points that fall into one column of pixels only the first, the lowest, the highest and the last are
//! kept, in their order. The line that joins them covers the same pixels as the line through all of them.

/// A point: where it is on the x axis, and its value. A value that is not finite is a gap.
pub(super) type Point = (f64, f64);

/// Mean of each point and its `reach` neighbours on both sides, of which there are fewer at the ends; of logarithms if
/// `is_log`. A gap stays one.
pub(super) fn smoothed(points: &[Point], reach: usize, is_log: bool) -> Vec<Point> {
    let into = |value: f64| if is_log { value.max(f64::MIN_POSITIVE).ln() } else { value };
    let back = |value: f64| if is_log { value.exp() } else { value };
    let (mut sums, mut counts) = (vec![0.0], vec![0_usize]);
    let (mut sum, mut num) = (0.0, 0);
    for (_, value) in
        points.iter().filter(|(_, value)| value.is_finite()).map(|point| (point.0, into(point.1)))
    {
        sum += value;
        sums.push(sum);
    }
    for (_, value) in points {
        num += usize::from(value.is_finite());
        counts.push(num);
    }
    let mean = |i: usize| {
        // The same reach on both sides, or the mean would lag behind a curve that falls; but at the very ends a quarter of
        // it on one side, or there the mean would be single values.
        let near = reach.min(i).min(points.len() - 1 - i).max(reach / 4);
        let (from, to) = (counts[i.saturating_sub(near)], counts[(i + near + 1).min(points.len())]);
        back((sums[to] - sums[from]) / (to - from) as f64)
    };
    let at = |(i, &(x, value)): (usize, &Point)| (x, if value.is_finite() { mean(i) } else { f64::NAN });
    points.iter().enumerate().map(at).collect()
}

/// The points in pixels that a line through `points` needs, in pieces without gaps. `column` says which column of pixels a
/// point falls into.
pub(super) fn decimated(points: &[Point], column: impl Fn(f64) -> i64) -> Vec<Vec<Point>> {
    let pieces = points.split(|(_, value)| !value.is_finite()).filter(|piece| !piece.is_empty());
    pieces.map(|piece| thinned(piece, &column)).collect()
}

fn thinned(piece: &[Point], column: impl Fn(f64) -> i64) -> Vec<Point> {
    let mut kept = Vec::new();
    for group in piece.chunk_by(|a, b| column(a.0) == column(b.0)) {
        let index = |better: fn(f64, f64) -> bool| {
            (1..group.len()).fold(0, |best, i| if better(group[i].1, group[best].1) { i } else { best })
        };
        let mut wanted = [0, index(|a, b| a < b), index(|a, b| a > b), group.len() - 1];
        wanted.sort_unstable();
        kept.extend(
            wanted
                .iter()
                .enumerate()
                .filter(|(i, at)| *i == 0 || wanted[i - 1] != **at)
                .map(|(_, &at)| group[at]),
        );
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_neither_lags_nor_crosses_a_gap_s_place() {
        let line: Vec<Point> = (0..50).map(|i| (f64::from(i), 100.0 - f64::from(i))).collect();
        for (i, ((_, before), (_, after))) in line.iter().zip(smoothed(&line, 5, false)).enumerate() {
            let allowed = if (1..49).contains(&i) { 1e-9 } else { 0.51 };
            assert!((before - after).abs() < allowed, "{i}: {before} {after}");
        }
        let gap = [(0.0, 1.0), (1.0, f64::NAN), (2.0, 3.0), (3.0, 4.0), (4.0, 8.0)];
        let means = smoothed(&gap, 1, false);
        assert!(means[1].1.is_nan());
        assert_eq!((means[0].1, means[2].1, means[3].1, means[4].1), (1.0, 3.5, 5.0, 8.0));
        assert!((smoothed(&[(0.0, 1.0), (1.0, 10.0), (2.0, 100.0)], 1, true)[1].1 - 10.0).abs() < 1e-9);
        assert!(smoothed(&[], 3, false).is_empty());
    }

    #[test]
    fn a_column_keeps_its_ends_and_extremes() {
        let mut points: Vec<Point> = (0..100_000).map(|i| (f64::from(i), f64::from(i % 7))).collect();
        points[54_321].1 = 99.0;
        points[10].1 = f64::NAN;
        let pieces = decimated(&points, |x| (x / 100.0) as i64);
        assert_eq!(pieces.len(), 2);
        assert_eq!(pieces[0], [(0.0, 0.0), (6.0, 6.0), (9.0, 2.0)], "first and lowest, highest, last");
        assert!(pieces[1].len() <= 4000);
        assert!(pieces[1].contains(&(54_321.0, 99.0)) && pieces[1].last() == Some(&(99_999.0, 4.0)));
        assert!(pieces[1].is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(decimated(&points[..3], |x| x as i64), [points[..3].to_vec()]);
        assert!(decimated(&[(0.0, f64::NAN)], |_| 0).is_empty());
    }
}
