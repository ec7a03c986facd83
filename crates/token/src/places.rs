//! The places of all pairs, a range each, 32 bits a place where that is enough for all cells, else 40.

use crate::arena::Buffer;
use crate::count::MemoryLimit;
use crate::error::Error;
use std::ops::Range;

/// The most cells that a place can tell apart: a terabyte of distinct words.
const MAX_CELLS: u64 = 1 << 40;

/// See the head of this file.
pub(crate) struct Places {
    low: Buffer<u32>,
    /// The bits from 32 on. Empty where all places have none.
    high: Buffer<u8>,
    is_wide: bool,
}

impl Places {
    /// No places among so many cells.
    ///
    /// # Errors
    /// [`Error::CorpusTooLarge`] or [`Error::Spill`].
    pub(crate) fn new(in_file: Option<&MemoryLimit>, num_cells: u64) -> Result<Self, Error> {
        if num_cells >= MAX_CELLS {
            return Err(Error::CorpusTooLarge { num_bytes: num_cells, limit: MAX_CELLS });
        }
        let is_wide = num_cells > 1 << 32;
        let Some(limit) = in_file else {
            return Ok(Self { low: Buffer::in_memory(), high: Buffer::in_memory(), is_wide });
        };
        // All places once, and at most two new pairs for each symbol that a merge does away with.
        let most = 3 * num_cells;
        let high = Buffer::in_file(&limit.folder, if is_wide { most } else { 0 })?;
        Ok(Self { low: Buffer::in_file(&limit.folder, most)?, high, is_wide })
    }

    /// Room for so many more; says where it begins.
    pub(crate) fn allocate(&mut self, num: u64) -> Result<usize, Error> {
        let start = self.low.len();
        self.low.resize(start + num as usize)?;
        if self.is_wide {
            self.high.resize(start + num as usize)?;
        }
        Ok(start)
    }

    pub(crate) fn clear(&mut self) {
        self.low.clear();
        self.high.clear();
    }

    #[inline]
    pub(crate) fn put(&mut self, index: usize, place: usize) {
        self.low[index] = place as u32;
        if self.is_wide {
            self.high[index] = (place as u64 >> 32) as u8;
        }
    }

    #[inline]
    pub(crate) fn get(&self, index: usize) -> usize {
        self.slice(index..index + 1).get(0)
    }

    /// A part of them.
    pub(crate) fn slice(&self, range: Range<usize>) -> Slice<'_> {
        let high = if self.is_wide { &self.high[range.clone()] } else { &[] };
        Slice { low: &self.low[range], high }
    }

    pub(crate) fn num_bytes(&self) -> u64 {
        4 * self.low.len() as u64 + self.high.len() as u64
    }

    /// Gives back the memory of places in files.
    pub(crate) fn release(&mut self) {
        self.low.release();
        self.high.release();
    }
}

/// Places next to each other.
pub(crate) struct Slice<'p> {
    low: &'p [u32],
    high: &'p [u8],
}

impl Slice<'_> {
    #[inline]
    pub(crate) fn get(&self, index: usize) -> usize {
        let high = self.high.get(index).map_or(0, |&high| usize::from(high) << 32);
        self.low[index] as usize | high
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_beyond_32_bits() {
        for num_cells in [1 << 20, 1 << 38] {
            let mut places = Places::new(None, num_cells).expect("memory");
            let start = places.allocate(3).expect("memory");
            let some = [7, num_cells as usize / 3, num_cells as usize - 1];
            some.iter().enumerate().for_each(|(i, &place)| places.put(start + i, place));
            assert_eq!([0, 1, 2].map(|i| places.slice(start..start + 3).get(i)), some);
        }
        assert!(matches!(Places::new(None, 1 << 40), Err(Error::CorpusTooLarge { .. })));
    }
}
