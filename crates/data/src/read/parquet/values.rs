//! Numbers as parquet packs them: runs and bits for levels and numbers of a dictionary, differences for lengths.
//!
//! Positions are kept instead of slices, so that a decoder can live beside the page it reads. Nothing is made by a claim: a
//! run is a number with a count, and lists grow as they are read, up to [`MAX_LENGTHS`].

use super::Fault;
use std::ops::Range;

/// Values of a page in an encoding that needs all lengths at once. Pages of real files have some ten thousand.
const MAX_LENGTHS: u64 = 4 << 20;
/// Largest block of differences; writers take 128.
const MAX_BLOCK: u64 = 64 << 10;

/// Runs of one number and stretches of packed bits, in turns.
pub(super) struct Runs {
    /// What is left to read of the page.
    range: Range<usize>,
    /// Bits of a number.
    width: u32,
    /// Numbers of this run or stretch that are left.
    left: u64,
    /// The number of a run, or the first bit of what is left of a stretch.
    state: State,
}

enum State {
    Run(u32),
    Packed { bit: u64 },
}

impl Runs {
    pub(super) fn new(range: Range<usize>, width: u32) -> Result<Self, Fault> {
        if width > 32 {
            return Err(Fault::new(format!(
                "has a page with numbers of {width} bits, expected 32 at the most"
            )));
        }
        Ok(Runs { range, width, left: 0, state: State::Run(0) })
    }

    /// The next number and how often it comes, `most` times at the most.
    pub(super) fn next(&mut self, page: &[u8], most: u64) -> Result<(u32, u64), Fault> {
        while self.left == 0 {
            self.begin(page)?;
        }
        match &mut self.state {
            State::Run(value) => {
                let count = self.left.min(most);
                self.left -= count;
                Ok((*value, count))
            }
            State::Packed { bit } => {
                let value = bits(page, *bit, self.width) as u32;
                *bit += u64::from(self.width);
                self.left -= 1;
                Ok((value, 1))
            }
        }
    }

    /// Reads what stands before a run or a stretch.
    fn begin(&mut self, page: &[u8]) -> Result<(), Fault> {
        let header = varint(page, &mut self.range)?;
        let count = header >> 1;
        if header & 1 == 0 {
            let num_bytes = self.width.div_ceil(8) as usize;
            let value = take(page, &mut self.range, num_bytes)?;
            let value = value.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
            (self.left, self.state) = (count, State::Run(value));
            return Ok(());
        }
        // Groups of eight numbers. The last may be cut short where the page ends.
        let left = self.range.len() as u64;
        let num_bytes = count.saturating_mul(u64::from(self.width)).min(left);
        let bit = self.range.start as u64 * 8;
        take(page, &mut self.range, num_bytes as usize)?;
        let count = count.saturating_mul(8);
        self.left = if self.width == 0 { count } else { count.min(num_bytes * 8 / u64::from(self.width)) };
        self.state = State::Packed { bit };
        Ok(())
    }
}

/// All lengths of a page, each written as its difference from the one before (DELTA_BINARY_PACKED). `range` is left behind
/// them.
pub(super) fn lengths(page: &[u8], range: &mut Range<usize>, most: u64) -> Result<Vec<u32>, Fault> {
    let block = varint(page, range)?;
    let num_parts = varint(page, range)?;
    let total = varint(page, range)?;
    let mut length = difference(page, range)?;
    if total > most.min(MAX_LENGTHS) {
        return Err(Fault::new(format!(
            "has a page of {total} lengths, expected {} at the most",
            most.min(MAX_LENGTHS)
        )));
    }
    if block == 0 || block > MAX_BLOCK || num_parts == 0 || num_parts > block || block % num_parts != 0 {
        return Err(Fault::new(format!("has a page with lengths in blocks of {block} in {num_parts} parts")));
    }
    let part = block / num_parts;
    if part % 8 != 0 {
        return Err(Fault::new(format!("has a page with lengths in parts of {part}, expected whole bytes")));
    }
    let mut all = Vec::new();
    if total > 0 {
        all.push(valid(length)?);
    }
    while (all.len() as u64) < total {
        let least = difference(page, range)?;
        let widths = range.start..range.start + take(page, range, num_parts as usize)?.len();
        for width in widths {
            let width = u32::from(page[width]);
            if width > 64 {
                return Err(Fault::new(format!("has a page with lengths of {width} bits")));
            }
            let count = part.min(total - all.len() as u64);
            if count == 0 {
                break;
            }
            let first = range.start as u64 * 8;
            take(page, range, (part / 8) as usize * width as usize)?;
            for i in 0..count {
                let step = bits(page, first + i * u64::from(width), width);
                length = length.wrapping_add(least).wrapping_add(step as i64);
                all.push(valid(length)?);
            }
        }
    }
    Ok(all)
}

fn valid(length: i64) -> Result<u32, Fault> {
    match u32::try_from(length) {
        Ok(length) if length <= i32::MAX as u32 => Ok(length),
        _ => Err(Fault::new(format!("has a string of {length} bytes"))),
    }
}

/// `num` bytes of the page.
pub(super) fn take<'a>(page: &'a [u8], range: &mut Range<usize>, num: usize) -> Result<&'a [u8], Fault> {
    if num > range.len() {
        return Err(Fault::new(format!("has a page that ends {} bytes too early", num - range.len())));
    }
    let start = range.start;
    range.start += num;
    Ok(&page[start..start + num])
}

/// Up to 64 bits from bit `at` on, the lowest first. Those past the page's end are 0.
fn bits(page: &[u8], at: u64, width: u32) -> u64 {
    if width == 0 {
        return 0;
    }
    let tail = page.get((at / 8) as usize..).unwrap_or(&[]);
    let mut window = [0; 16];
    let len = tail.len().min(16);
    window[..len].copy_from_slice(&tail[..len]);
    let value = u128::from_le_bytes(window) >> (at % 8);
    value as u64 & (u64::MAX >> (64 - width))
}

/// Seven bits a byte, the lowest first.
fn varint(page: &[u8], range: &mut Range<usize>) -> Result<u64, Fault> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(page, range, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Fault::new("has a page with a number of more than 64 bits"))
}

/// A signed number.
fn difference(page: &[u8], range: &mut Range<usize>) -> Result<i64, Fault> {
    let value = varint(page, range)?;
    Ok((value >> 1) as i64 ^ -((value & 1) as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(page: &[u8], width: u32, num: usize) -> Vec<u32> {
        let mut runs = Runs::new(0..page.len(), width).unwrap_or_else(|fault| panic!("{}", fault.reason));
        let mut values = Vec::new();
        while values.len() < num {
            let Ok((value, count)) = runs.next(page, (num - values.len()) as u64) else { break };
            values.extend(std::iter::repeat_n(value, count as usize));
        }
        values
    }

    #[test]
    fn runs_and_stretches() {
        // The specification's own example: 0 to 7 in three bits each; then a run of four times 5.
        assert_eq!(all(&[0x03, 0x88, 0xc6, 0xfa, 0x08, 0x05], 3, 99), [0, 1, 2, 3, 4, 5, 6, 7, 5, 5, 5, 5]);
        assert_eq!(all(&[0x08, 0x34, 0x12], 13, 2), [0x1234, 0x1234]);
        assert_eq!(all(&[0x05], 0, 99), [0; 16], "a dictionary of one value");
        assert_eq!(all(&[0x05, 0xff], 1, 99), [1; 8], "cut short");
        assert!(all(&[0x00, 0x01, 0x00, 0x01], 1, 99).is_empty(), "empty runs end");
        assert!(all(&[0xff; 20], 1, 99).is_empty());
        assert!(Runs::new(0..0, 33).is_err());
    }

    #[test]
    fn lengths_by_differences() {
        // The specification's examples: 1 to 5, and 7 5 3 1 2 3 4 5 (the first difference is -2).
        let page = [0x80, 0x01, 0x04, 0x05, 0x02, 0x02, 0, 0, 0, 0, 0xee];
        let mut range = 0..page.len();
        assert_eq!(lengths(&page, &mut range, 5).ok(), Some(vec![1, 2, 3, 4, 5]));
        assert_eq!(range.start, 10);
        let mut page = vec![0x80, 0x01, 0x04, 0x08, 0x0e, 0x03, 2, 0, 0, 0];
        page.extend([0b1100_0000, 0b0011_1111, 0, 0, 0, 0, 0, 0]);
        assert_eq!(lengths(&page, &mut (0..page.len()), 8).ok(), Some(vec![7, 5, 3, 1, 2, 3, 4, 5]));
        for (at, byte) in [(2, 0x7f), (4, 0x01), (1, 0x00), (2, 0x00), (7, 65), (3, 0x7f)] {
            let mut broken = page.clone();
            broken[at] = byte;
            let _ = lengths(&broken, &mut (0..page.len()), 8);
        }
        assert!(lengths(&page, &mut (0..page.len()), 7).is_err(), "more than there are values");
        assert!(lengths(&page, &mut (0..page.len() - 1), 8).is_err(), "cut");
    }
}
