//! Numbers as a person reads them: those of reports, on a terminal.

pub(crate) use eyas_train::format::{count, decimal_bytes as bytes, percent, short};
use std::time::Duration;

/// `0.8 s`, `42 s`, `9 min 30 s`, `2 h 05 min`, `3 d 04 h`.
pub(crate) fn duration(time: Duration) -> String {
    eyas_train::format::duration(time.as_secs_f64())
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
