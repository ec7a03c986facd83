//! Numbers as a person reads them, in reports and on terminals alike.

/// `124,242,432`.
pub fn count(number: u64) -> String {
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
pub fn short(number: f64) -> String {
    scaled(number, 1000.0, &["", "k", "M", "B", "T"])
}

/// `12.3 MB`, as disks are sold: powers of 1000.
pub fn decimal_bytes(number: u64) -> String {
    scaled(number as f64, 1000.0, &[" bytes", " kB", " MB", " GB", " TB"])
}

/// `1.9 GiB`, as memory is counted.
pub fn binary_bytes(number: u64) -> String {
    scaled(number as f64, 1024.0, &[" bytes", " KiB", " MiB", " GiB", " TiB"])
}

/// A number in the largest of `units`, each `base` times the one before, that leaves 1 or more of it.
pub(crate) fn scaled(number: f64, base: f64, units: &[&str]) -> String {
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

/// Seconds as `0.8 s`, `42 s`, `9 min 30 s`, `2 h 05 min`, `3 d 04 h`.
pub fn duration(seconds: f64) -> String {
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
pub fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}
