//! All distinct words, end to end, as symbols that merge: one 32-bit cell a byte, and one after each word.
//!
//! A cell holds the id of the symbol that begins there. A symbol of several cells has its width in its last one, so that
//! the symbol before a place is one step away; the width of the one at a place follows from its id. The cell after a word
//! holds how often the word occurs, so that neither words nor their bounds need arrays of their own.
//! [`Words::compact`] makes every symbol one cell again.

use crate::arena::Buffer;
use crate::error::Error;
use std::ops::Range;

/// The two top bits of a cell that is no id.
const WIDTH: u32 = 2 << 30;
const END: u32 = 3 << 30;
/// The cell of a symbol that is neither its first nor its last: a width that nobody reads.
const INNER: u32 = WIDTH;
/// What is left of a cell below the two bits.
const VALUE: u32 = (1 << 30) - 1;
/// Counts from here on are kept apart, and the cell after the word has this plus their index.
const BIG: u32 = 1 << 29;
/// The end of a word is looked for in so many symbols, then among the words longer than that.
const NEAR: usize = 64;

/// See the head of this file.
pub(crate) struct Words {
    cells: Buffer<u32>,
    /// The width in cells of each id.
    widths: Vec<u32>,
    big_counts: Vec<i64>,
    /// The place after each word of more than [`NEAR`] cells, and the word's count.
    long_ends: Vec<(usize, i64)>,
}

impl Words {
    /// No words, in an empty `cells` that takes a cell for every byte and every word, and one more.
    pub(crate) fn new(mut cells: Buffer<u32>, num_ids: usize) -> Result<Self, Error> {
        cells.push(END)?;
        Ok(Self { cells, widths: vec![1; num_ids], big_counts: Vec::new(), long_ends: Vec::new() })
    }

    /// Adds a word that occurs `count` times.
    pub(crate) fn push(&mut self, ids: impl ExactSizeIterator<Item = u32>, count: i64) -> Result<(), Error> {
        let (start, length) = (self.cells.len(), ids.len());
        self.cells.resize(start + length + 1)?;
        let cells = &mut self.cells[start..];
        cells.iter_mut().zip(ids).for_each(|(cell, id)| *cell = id);
        let mut value = count as u32;
        if count >= i64::from(BIG) {
            value = BIG + self.big_counts.len() as u32;
            self.big_counts.push(count);
        }
        cells[length] = END | value;
        if length > NEAR {
            self.long_ends.push((start + length, count));
        }
        Ok(())
    }

    /// The cells in use.
    pub(crate) fn num_cells(&self) -> usize {
        self.cells.len()
    }

    /// The ids that have a width.
    pub(crate) fn num_ids(&self) -> usize {
        self.widths.len()
    }

    /// Gives back the memory of cells in a file.
    pub(crate) fn release(&mut self) {
        self.cells.release();
    }

    /// Makes `id` the name of what `left` and `right` make together.
    pub(crate) fn set_width(&mut self, id: u32, left: u32, right: u32) {
        let width = self.widths[left as usize] + self.widths[right as usize];
        if self.widths.len() <= id as usize {
            self.widths.resize(id as usize + 1, 0);
        }
        self.widths[id as usize] = width;
    }

    /// All of it as slices, so that where the cells are is asked once and not at every cell.
    pub(crate) fn view(&mut self) -> View<'_> {
        View {
            cells: &mut self.cells,
            widths: &self.widths,
            big_counts: &self.big_counts,
            long_ends: &self.long_ends,
        }
    }

    /// Makes every symbol one cell. `pause` is called now and then, with the cells.
    pub(crate) fn compact(&mut self, mut pause: impl FnMut(&mut Buffer<u32>)) -> Result<(), Error> {
        let (mut from, mut to, mut start) = (0, 0, 0);
        let mut long_ends = Vec::new();
        while from < self.cells.len() {
            let view = self.view();
            let stop = (from + STEP).min(view.cells.len());
            while from < stop {
                let cell = view.cells[from];
                view.cells[to] = cell;
                if cell < WIDTH {
                    from += view.width(cell);
                } else {
                    if to - start > NEAR {
                        long_ends.push((to, view.count(cell)));
                    }
                    start = to + 1;
                    from += 1;
                }
                to += 1;
            }
            pause(&mut self.cells);
        }
        self.long_ends = long_ends;
        self.widths.fill(1);
        self.cells.resize(to)
    }
}

/// [`Words`], ready to be read and merged.
pub(crate) struct View<'w> {
    cells: &'w mut [u32],
    widths: &'w [u32],
    big_counts: &'w [i64],
    long_ends: &'w [(usize, i64)],
}

impl View<'_> {
    #[inline]
    pub(crate) fn width(&self, id: u32) -> usize {
        self.widths[id as usize] as usize
    }

    /// Whether `id` begins at `at`, which may be any place.
    #[inline]
    pub(crate) fn is(&self, at: usize, id: u32) -> bool {
        self.cells[at] == id
    }

    /// The symbol that begins at `at`. `None` after a word.
    #[inline]
    pub(crate) fn id(&self, at: usize) -> Option<u32> {
        Some(self.cells[at]).filter(|&cell| cell < WIDTH)
    }

    /// Where the symbol before the one at `at` begins, and its id.
    #[inline]
    pub(crate) fn before(&self, at: usize) -> Option<(usize, u32)> {
        let last = self.cells[at - 1];
        let width = match last & END {
            END => return None,
            WIDTH => (last & VALUE) as usize,
            _ => return Some((at - 1, last)),
        };
        Some((at - width, self.cells[at - width]))
    }

    /// Makes `joined` of the symbols in `at..middle` and `middle..end`.
    #[inline]
    pub(crate) fn join(&mut self, at: usize, middle: usize, end: usize, joined: u32) {
        self.cells[at] = joined;
        self.cells[middle] = INNER;
        self.cells[end - 1] = WIDTH | (end - at) as u32;
    }

    /// Reads the cells at these places, so that all are on their way into the cache at once.
    #[inline]
    pub(crate) fn touch(&self, places: impl Iterator<Item = usize>) {
        std::hint::black_box(places.fold(0, |sum, at| sum | self.cells[at]));
    }

    /// The end of the word in which a symbol begins at `at`, or that ends there, and the word's count.
    #[inline]
    pub(crate) fn word_end(&self, mut at: usize) -> (usize, i64) {
        for _ in 0..=NEAR {
            match self.id(at) {
                Some(id) => at += self.width(id),
                None => return (at, self.count(self.cells[at])),
            }
        }
        self.long_ends[self.long_ends.partition_point(|&(end, _)| end < at)]
    }

    /// The first end of a word from `at` on, which may be any place.
    pub(crate) fn next_end(&self, at: usize) -> usize {
        let rest = self.cells.get(at..).unwrap_or_default();
        rest.iter().position(|cell| cell & END == END).map_or(self.cells.len(), |length| at + length)
    }

    fn count(&self, end: u32) -> i64 {
        let value = end & VALUE;
        match value.checked_sub(BIG) {
            None => i64::from(value),
            Some(index) => self.big_counts[index as usize],
        }
    }

    /// Calls `f` with each word that begins in `range`, its first place, and its count. `range` begins after a word; so
    /// does what is left to do, which is returned.
    pub(crate) fn for_each_word(&self, range: Range<usize>, mut f: impl FnMut(Symbols<'_>, i64)) -> usize {
        let mut at = range.start;
        while at < range.end {
            let (end, count) = self.word_end(at);
            f(Symbols { view: self, at, end }, count);
            at = end + 1;
        }
        at
    }

    /// Calls `f` with the place of each pair of neighbours, both ids and the count of their word; else as
    /// [`View::for_each_word`].
    pub(crate) fn for_each_pair(
        &self,
        range: Range<usize>,
        mut f: impl FnMut(usize, (u32, u32), i64),
    ) -> usize {
        self.for_each_word(range, |mut symbols, count| {
            let Some(mut last) = symbols.next() else { return };
            for (at, id) in symbols {
                f(last.0, (last.1, id), count);
                last = (at, id);
            }
        })
    }
}

/// The places and ids of the symbols of a word.
pub(crate) struct Symbols<'v> {
    view: &'v View<'v>,
    at: usize,
    end: usize,
}

impl Iterator for Symbols<'_> {
    type Item = (usize, u32);

    #[inline]
    fn next(&mut self) -> Option<(usize, u32)> {
        if self.at >= self.end {
            return None;
        }
        let (at, id) = (self.at, self.view.cells[self.at]);
        self.at += self.view.width(id);
        Some((at, id))
    }
}

/// Cells that are read in sequence before memory in use is thought of again.
pub(crate) const STEP: usize = 1 << 11;
