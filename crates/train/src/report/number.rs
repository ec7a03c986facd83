//! Numbers as a person reads them on the page.

/// What stands where a number is not known.
pub(super) const NONE: &str = "–";

/// `124,242,432`.
pub(super) fn count(number: u64) -> String {
    crate::plan::grouped(number)
}

/// `124.2M`, `8.2k`, `512`.
pub(super) fn short(number: f64) -> String {
    scaled(number, 1000.0, &["", "k", "M", "B", "T"])
}

/// `1.9 GiB`, as memory is counted.
pub(super) fn bytes(number: u64) -> String {
    scaled(number as f64, 1024.0, &[" bytes", " KiB", " MiB", " GiB", " TiB"])
}

/// `464.0 GFLOP/s`, with `unit` `FLOP/s`.
pub(super) fn flops(number: f64, unit: &str) -> String {
    scaled(number, 1000.0, &[" ", " k", " M", " G", " T", " P"]) + unit
}

fn scaled(number: f64, base: f64, units: &[&str]) -> String {
    let (mut value, mut unit) = (number, 0);
    // 999.96 would be written 1000.0.
    while value >= base - 0.05 && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    match unit {
        0 => format!("{value:.0}{}", units[0]),
        _ => format!("{value:.1}{}", units[unit]),
    }
}

/// `0.8 s`, `42 s`, `9 min 30 s`, `2 h 05 min`, `3 d 04 h`.
pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        3600..172_800 => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {:02} h", whole / 86_400, whole % 86_400 / 3600),
    }
}

/// `12.5 %`.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
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
