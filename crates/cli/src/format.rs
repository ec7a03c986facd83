//! Numbers as a person reads them.

use std::time::Duration;

/// `124,242,432`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `124.2M`, `8.2k`, `512`.
pub(crate) fn short(number: f64) -> String {
    scaled(number, &["", "k", "M", "B", "T"])
}

/// `12.3 MB`, as disks are sold: powers of 1000.
pub(crate) fn bytes(number: u64) -> String {
    scaled(number as f64, &[" bytes", " kB", " MB", " GB", " TB"])
}

fn scaled(number: f64, units: &[&str]) -> String {
    let (mut value, mut unit) = (number, 0);
    // 999.96 would be written 1000.0.
    while value >= 999.95 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{value:.0}{}", units[0]),
        _ => format!("{value:.1}{}", units[unit]),
    }
}

/// `0.8 s`, `42 s`, `9 min 30 s`, `2 h 05 min`.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let whole = seconds.round() as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// `12.5 %`.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (124_242_432, "124,242,432")] {
            assert_eq!(count(number), text);
        }
        for (number, text) in [(7.0, "7"), (999.97, "1.0k"), (8192.0, "8.2k"), (124_242_432.0, "124.2M")] {
            assert_eq!(short(number), text);
        }
        assert_eq!(bytes(12_345_678), "12.3 MB");
        for (seconds, text) in
            [(0.84, "0.8 s"), (42.4, "42 s"), (570.0, "9 min 30 s"), (7500.0, "2 h 05 min")]
        {
            assert_eq!(duration(Duration::from_secs_f64(seconds)), text);
        }
    }
}
