//! One merge: the places at which it joins two symbols, and what stands beside them.
//!
//! The trick: neighbours are counted in arrays by id, and only what was seen is looked at and cleared afterwards, so that a
//! place costs two additions and no look-up of a pair.

use crate::pairs::Candidate;
use crate::places::Places;
use crate::words::View;
use std::ops::Range;

/// Cells of a stretch: 2 MiB.
const STRETCH: usize = 1 << 19;

/// The place after the next stretch of words in which something is to be done; `None` at the end. A merge that is alone
/// does everything at once.
pub(crate) fn stretch(view: &View<'_>, places: &Places, batch: &[Merge]) -> Option<usize> {
    let unfinished = batch.iter().filter(|merge| merge.next < merge.range.end);
    let first = unfinished.map(|merge| places.get(merge.next)).min()?;
    Some(if batch.len() > 1 { view.next_end(first + STRETCH) } else { usize::MAX })
}

/// A merge in progress.
#[derive(Default)]
pub(crate) struct Merge {
    pub(crate) left: u32,
    pub(crate) right: u32,
    pub(crate) joined: u32,
    /// The places of its pair, and the next to look at.
    pub(crate) range: Range<usize>,
    pub(crate) next: usize,
    pub(crate) before: Neighbours,
    pub(crate) after: Neighbours,
    /// Of the pairs of `joined` and `left`, those of which `left` was about to be joined as well.
    pub(crate) chained: Tally,
}

impl Merge {
    pub(crate) fn begin(&mut self, best: Candidate, joined: u32, range: Range<usize>, num_ids: usize) {
        (self.left, self.right, self.joined) = (best.left(), best.right(), joined);
        (self.next, self.range) = (range.start, range);
        self.before.begin(num_ids);
        self.after.begin(num_ids);
        self.chained = Tally::default();
    }

    /// Joins the pair at this place, if it is still there. `word` is the end of the word met last, and its count.
    #[inline]
    pub(crate) fn join_at(&mut self, view: &mut View<'_>, at: usize, word: &mut (usize, i64)) -> bool {
        if !view.is(at, self.left) {
            return false;
        }
        let middle = at + view.width(self.left);
        if !view.is(middle, self.right) {
            return false;
        }
        let end = middle + view.width(self.right);
        // Places ascend, so that a word is not searched for its end more than once.
        if at > word.0 {
            *word = view.word_end(end);
        }
        let count = word.1;
        if let Some((_, id)) = view.before(at) {
            self.before.add(id, count);
        }
        if let Some(id) = view.id(end) {
            self.after.add(id, count);
            if id == self.left && view.is(end + view.width(id), self.right) {
                self.chained.add(count);
            }
        }
        view.join(at, middle, end, self.joined);
        true
    }
}

/// How often something occurs in the corpus, and at how many places of the distinct words.
#[derive(Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) count: i64,
    pub(crate) num: u64,
}

impl Tally {
    #[inline]
    pub(crate) fn add(&mut self, count: i64) {
        self.count += count;
        self.num += 1;
    }

    pub(crate) fn subtract(&mut self, other: Self) {
        self.count -= other.count;
        self.num -= other.num;
    }
}

/// The `num` of a [`Tally`] whose pair is not kept. For one that is kept it becomes where its next place goes.
pub(crate) const NOT_KEPT: u64 = u64::MAX;

/// The symbols beside a merge's places, on one side.
#[derive(Default)]
pub(crate) struct Neighbours {
    /// By id; zero but for those `seen`.
    pub(crate) tallies: Vec<Tally>,
    pub(crate) seen: Vec<u32>,
    pub(crate) has_cursors: bool,
}

impl Neighbours {
    pub(crate) fn begin(&mut self, num_ids: usize) {
        for id in self.seen.drain(..) {
            self.tallies[id as usize] = Tally::default();
        }
        self.has_cursors = false;
        if self.tallies.len() < num_ids {
            self.tallies.resize(num_ids.next_power_of_two(), Tally::default());
        }
    }

    #[inline]
    pub(crate) fn add(&mut self, id: u32, count: i64) {
        let tally = &mut self.tallies[id as usize];
        if tally.num == 0 {
            self.seen.push(id);
        }
        tally.add(count);
    }

    #[inline]
    pub(crate) fn put(&mut self, places: &mut Places, id: u32, place: usize) {
        let cursor = &mut self.tallies[id as usize].num;
        if *cursor != NOT_KEPT {
            places.put(*cursor as usize, place);
            *cursor += 1;
        }
    }
}
