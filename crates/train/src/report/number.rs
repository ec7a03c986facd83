//! Numbers as a person reads them on the page, beside those of [`crate::format`].

use crate::format::scaled;
pub(super) use crate::format::{binary_bytes as bytes, count, duration, percent, short};

/// What stands where a number is not known.
pub(super) const NONE: &str = "–";

/// `464.0 GFLOP/s`, with `unit` `FLOP/s`.
pub(super) fn flops(number: f64, unit: &str) -> String {
    scaled(number, 1000.0, &[" ", " k", " M", " G", " T", " P"]) + unit
}

/// With about four digits that count: `2.544`, `13.82`, `48,103`, `3.20e-4`.
pub(super) fn figure(number: f64) -> String {
    let size = number.abs();
    match size {
        _ if !number.is_finite() => NONE.into(),
        0.0 => "0".into(),
        _ if size < 0.01 => format!("{number:.2e}"),
        _ if size < 10.0 => format!("{number:.3}"),
        _ if size < 100.0 => format!("{number:.2}"),
        _ if size < 1000.0 => format!("{number:.1}"),
        _ if size < 1e15 && number > 0.0 => count(number.round() as u64),
        _ => format!("{number:.3e}"),
    }
}

/// `text` of a number that is known, else a dash.
pub(super) fn or_none<T>(number: Option<T>, text: impl FnOnce(T) -> String) -> String {
    number.map_or_else(|| NONE.into(), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        for (number, text) in [
            (0.0, "0"),
            (2.5441, "2.544"),
            (13.8199, "13.82"),
            (48_103.2, "48,103"),
            (3.2e-4, "3.20e-4"),
            (f64::NAN, "–"),
            (f64::INFINITY, "–"),
            (-2e6, "-2.000e6"),
            (1e300, "1.000e300"),
        ] {
            assert_eq!(figure(number), text);
        }
        assert_eq!(
            (bytes(1023), bytes(1024), bytes(3 << 29)),
            ("1023 bytes".into(), "1.0 KiB".into(), "1.5 GiB".into())
        );
        assert_eq!((short(999.97), short(124_242_432.0)), ("1.0k".into(), "124.2M".into()));
        assert_eq!(
            (duration(0.84), duration(570.0), duration(273_600.0)),
            ("0.8 s".into(), "9 min 30 s".into(), "3 d 04 h".into())
        );
        assert_eq!((percent(0.4567), flops(4.64e11, "FLOP/s")), ("45.7 %".into(), "464.0 GFLOP/s".into()));
    }
}
