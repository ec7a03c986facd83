//! The pairs of neighbouring symbols in all distinct words: how often each occurs, where, and which is next.
//!
//! What keeps this simple: a pair comes into being in one merge, the one that makes its later token. For a token is made
//! by one merge only. Wherever its bytes become one symbol, no earlier merge crossed their two ends, so the merges within
//! went the same way, and the last of them is the same. So the places of a pair are recorded once, as one ascending range
//! that is read once, and its count only falls from then on.
//!
//! What keeps it small: a pair that is rarer than the last merge there will be can never be chosen, so pairs below a
//! threshold are not kept at all. The threshold is a guess well below that last merge. Where it was too high, all words are
//! looked through again with a lower one, which changes no result.
//!
//! What makes it fast: within a merge, neighbours are counted in flat arrays by id. The table of pairs is asked once for
//! each kind of neighbour and not for each place. The queue is lazy: an entry whose count has changed goes back when it
//! comes up.

use crate::arena::{Buffer, Residency, TOUCH_BYTES};
use crate::count::MemoryLimit;
use crate::error::Error;
use crate::merge::{Merge, NOT_KEPT, Tally, stretch};
use crate::places::Places;
use crate::spill::{Run, for_each_word};
use crate::table::{Slot, Table, pair};
use crate::words::{STEP, Words};
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

/// A queued pair: the highest count first, then the lowest ids.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    count: i64,
    pair: u64,
}

impl Candidate {
    pub(crate) fn left(self) -> u32 {
        (self.pair >> 32) as u32
    }

    pub(crate) fn right(self) -> u32 {
        self.pair as u32
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.count, Reverse(self.pair)).cmp(&(other.count, Reverse(other.pair)))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What decides how [`Pairs`] work, but not what comes out.
pub(crate) struct Plan<'a> {
    /// Merges that are wanted.
    pub(crate) num_merges: usize,
    /// Pairs that occur less often are not merged.
    pub(crate) min_frequency: u64,
    pub(crate) limit: Option<&'a MemoryLimit>,
    /// Pairs that are rarer are not kept at first; by default a guess.
    pub(crate) threshold: Option<i64>,
}

/// The guess: bytes of the corpus by merges and this. Other values were not tried; one too low only keeps more pairs.
const GUESS: u64 = 256;
/// A threshold that was too high falls to this part.
const LOWER: i64 = 16;
/// Counters for sums of pairs that share one, where a threshold is lowered, at the most: 32 MiB.
const MAX_SUMS: usize = 1 << 22;
/// Places whose cells are fetched at once.
const GROUP: usize = 32;
/// Merges at once where cells are in a file: each stretch of them is brought in once for all.
const MAX_BATCH: usize = 64;
/// Neighbours on one side, of all merges of a batch and by all ids, at the most: 16 MiB.
const MAX_TALLIES: usize = 1 << 20;
/// What a [`STEP`] counts as, in places: its cells are next to each other, but it may write to as many pages.
const STEP_TOUCHES: usize = (STEP << 12) / TOUCH_BYTES as usize;
/// Memory for places by memory for cells, as estimated before there are any. Not measured.
const PLACES_BYTES: u64 = 8;

/// See the head of this file.
pub(crate) struct Pairs {
    words: Words,
    table: Table,
    places: Places,
    queue: BinaryHeap<Candidate>,
    /// Pairs of a lower count are in neither table nor queue.
    threshold: i64,
    /// The threshold never falls below this.
    least: i64,
    /// The merges of a batch; kept for their memory.
    merges: Vec<Merge>,
    residency: Residency,
    is_in_file: bool,
    /// Symbols and ends of words: the cells there would be without those that merges have left empty.
    num_live: usize,
    /// Words of one byte, which no merge changes.
    pub(crate) byte_counts: Box<[i64; 256]>,
    pub(crate) num_words: u64,
}

impl Pairs {
    /// Takes over all words of `runs`. `progress` gets the number of words now and then.
    pub(crate) fn new(
        runs: Vec<Run>,
        byte_ids: &[u32; 256],
        plan: &Plan<'_>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, Error> {
        let num_ids = byte_ids.iter().max().map_or(0, |&id| id as usize + 1);
        let size = |run: &Run| run.size();
        let (num_bytes, num_words) =
            runs.iter().map(size).fold((0, 0), |(bytes, words), run| (bytes + run.0, words + run.1));
        // An upper bound: a word may be in several runs.
        let num_cells = num_bytes + num_words + 1;
        let table_bytes = runs.iter().map(Run::num_memory_bytes).sum::<u64>() + (64 << 20);
        let in_file =
            plan.limit.filter(|limit| num_cells * (4 + PLACES_BYTES) + table_bytes > limit.max_bytes);
        let cells = match in_file {
            Some(limit) => Buffer::in_file(&limit.folder, num_cells)?,
            None => Buffer::in_memory(),
        };
        let mut pairs = Self {
            words: Words::new(cells, num_ids)?,
            table: Table::new(),
            places: Places::new(in_file, num_cells)?,
            queue: BinaryHeap::new(),
            threshold: 1,
            least: plan.min_frequency.clamp(1, i64::MAX as u64) as i64,
            merges: Vec::new(),
            residency: Residency::new(in_file),
            is_in_file: in_file.is_some(),
            num_live: 0,
            byte_counts: Box::new([0; 256]),
            num_words: 0,
        };
        let (bytes, total_bytes) = pairs.take_words(runs, byte_ids, progress)?;
        let guess = total_bytes / GUESS / plan.num_merges.max(1) as u64;
        pairs.threshold = plan.threshold.unwrap_or(guess as i64).max(pairs.least);
        for (index, tally) in bytes.iter().enumerate().filter(|(_, tally)| tally.count >= pairs.threshold) {
            let key = pair(byte_ids[index >> 8], byte_ids[index & 255]);
            *pairs.table.insert(key) = Slot { pair: key, count: tally.count, start: 0, num: tally.num };
        }
        pairs.record_all()?;
        Ok(pairs)
    }

    /// Lays out all words, and counts pairs of bytes, and the bytes of the corpus.
    fn take_words(
        &mut self,
        runs: Vec<Run>,
        byte_ids: &[u32; 256],
        progress: &mut dyn FnMut(u64),
    ) -> Result<(Vec<Tally>, u64), Error> {
        let mut tallies = vec![Tally::default(); 1 << 16];
        let (mut total_bytes, mut next_pause) = (0, STEP);
        for_each_word(runs, &mut |word, count| {
            self.num_words += 1;
            total_bytes += word.len() as u64 * count;
            if let [byte] = word {
                self.byte_counts[usize::from(*byte)] = count as i64;
                return Ok(());
            }
            for two in word.windows(2) {
                let tally = &mut tallies[usize::from(two[0]) << 8 | usize::from(two[1])];
                tally.add(count as i64);
            }
            self.words.push(word.iter().map(|&byte| byte_ids[usize::from(byte)]), count as i64)?;
            if self.words.num_cells() >= next_pause {
                next_pause += STEP;
                progress(self.num_words);
                self.pause(STEP_TOUCHES);
            }
            Ok(())
        })?;
        self.num_live = self.words.num_cells();
        Ok((tallies, total_bytes))
    }

    /// Takes the best pair off the queue, or `None` when nothing is left that occurs, and often enough.
    pub(crate) fn pop_best(&mut self) -> Result<Option<Candidate>, Error> {
        loop {
            if let Some(mut best) = self.queue.peek_mut() {
                let count = self.table.count(best.pair);
                if best.count != count {
                    best.count = count;
                    continue;
                }
                if count >= self.threshold {
                    return Ok(Some(PeekMut::pop(best)));
                }
            }
            if self.threshold == self.least {
                return Ok(None);
            }
            self.lower_threshold()?;
        }
    }

    /// Takes the next best pair off the queue, if it is certain to be the best once all of `batch` are joined. The ids that
    /// those become must be higher than all before.
    ///
    /// It is where no merge of the batch ends in the symbol that it begins with, or begins with the one that it ends in:
    /// then they leave its count alone. The pairs that they make have counts no higher, since each is made of places of an
    /// older pair that is not in the batch, and higher ids. (A pair of a symbol with itself makes pairs of its own places.)
    pub(crate) fn pop_beside(&mut self, batch: &[(Candidate, u32)]) -> Option<Candidate> {
        if !self.is_in_file || batch.len() >= self.max_batch() {
            return None;
        }
        loop {
            let mut best = self.queue.peek_mut()?;
            let count = self.table.count(best.pair);
            if best.count != count {
                best.count = count;
                continue;
            }
            let is_apart = batch.iter().all(|(other, _)| {
                let makes_runs = other.left() == other.right();
                best.left() != other.right() && best.right() != other.left() && !makes_runs
            });
            return (count >= self.threshold && is_apart).then(|| PeekMut::pop(best));
        }
    }

    /// How many merges can be in a batch: neighbours of all have room for the ids there are and those that it makes.
    fn max_batch(&self) -> usize {
        MAX_BATCH.min(MAX_TALLIES / (self.words.num_ids() + MAX_BATCH).next_power_of_two())
    }

    /// Joins each pair of the batch into the id beside it, everywhere, in this order. `num_ids` is the number of ids there
    /// are, these included.
    pub(crate) fn merge(&mut self, batch: &[(Candidate, u32)], num_ids: usize) -> Result<(), Error> {
        let mut merges = std::mem::take(&mut self.merges);
        if merges.len() < batch.len() {
            merges.resize_with(batch.len(), Merge::default);
        }
        for (merge, &(best, joined)) in merges.iter_mut().zip(batch) {
            let slot = self.table.find(best.pair);
            merge.begin(best, joined, slot.start..slot.start + slot.num as usize, num_ids);
            self.words.set_width(joined, merge.left, merge.right);
        }
        let batch = &mut merges[..batch.len()];
        self.join_all(batch);
        self.replace_pairs(batch)?;
        self.record(batch);
        merges.truncate(self.max_batch().max(1));
        self.merges = merges;
        // Half of the cells are empty: what is in a file comes closer to what memory holds.
        if self.is_in_file && self.num_live * 2 < self.words.num_cells() {
            self.record_all()?;
        }
        Ok(())
    }

    /// Joins at all places, a stretch of words after the other: in each first those of the first merge.
    fn join_all(&mut self, batch: &mut [Merge]) {
        loop {
            let view = self.words.view();
            let Some(stop) = stretch(&view, &self.places, batch) else { return };
            // Each merge's next place was looked at.
            self.pause(batch.len());
            for merge in &mut *batch {
                self.join_until(stop, merge);
            }
        }
    }

    fn join_until(&mut self, stop: usize, merge: &mut Merge) {
        let mut word = (0, 0);
        while merge.next < merge.range.end && self.places.get(merge.next) < stop {
            let num_places = (merge.range.end - merge.next).min(GROUP).min(self.residency.num_left());
            let mut view = self.words.view();
            let places = self.places.slice(merge.next..merge.next + num_places);
            let num_places = (0..num_places).take_while(|&i| places.get(i) < stop).count();
            view.touch((0..num_places).map(|i| places.get(i)));
            for i in 0..num_places {
                let is_joined = merge.join_at(&mut view, places.get(i), &mut word);
                self.num_live -= usize::from(is_joined);
            }
            merge.next += num_places;
            self.pause(num_places);
        }
    }

    /// Takes the neighbours from the pairs they made, and keeps those that they make with the new symbols.
    fn replace_pairs(&mut self, batch: &mut [Merge]) -> Result<(), Error> {
        for k in 0..batch.len() {
            let (earlier, rest) = batch.split_at_mut(k);
            let Merge { left, right, joined, before, after, .. } = &rest[0];
            // Their ids follow each other: only the last of a batch may have one that there was.
            let first = earlier.first().map_or(0, |merge| merge.joined);
            let made_by = |id: u32| id.checked_sub(first).map(|i| i as usize).filter(|&i| i < k);
            let mut taken = Vec::new();
            for (&id, tally) in before.seen.iter().map(|id| (id, before.tallies[*id as usize])) {
                match made_by(id) {
                    Some(i) => taken.push((i, true, *left, tally)),
                    None if id == *joined => {}
                    None => self.table.subtract(pair(id, *left), tally.count),
                }
            }
            for (&id, tally) in after.seen.iter().map(|id| (id, after.tallies[*id as usize])) {
                match made_by(id) {
                    Some(i) => taken.push((i, false, *right, tally)),
                    None => self.table.subtract(pair(*right, id), tally.count),
                }
            }
            for (i, is_after, id, tally) in taken {
                let side = if is_after { &mut earlier[i].after } else { &mut earlier[i].before };
                side.tallies[id as usize].subtract(tally);
            }
        }
        for merge in batch {
            let Merge { left, right, joined, before, after, chained, .. } = merge;
            self.table.remove(pair(*left, *right));
            if let Some(tally) = after.tallies.get_mut(*left as usize).filter(|tally| tally.num > 0) {
                tally.subtract(*chained);
            }
            for (side, is_after) in [(before, false), (after, true)] {
                self.table.reserve(side.seen.len());
                for &id in &side.seen {
                    let key = if is_after { pair(*joined, id) } else { pair(id, *joined) };
                    let tally = &mut side.tallies[id as usize];
                    tally.num = match tally.num > 0 && tally.count >= self.threshold {
                        true => keep(key, *tally, &mut self.table, &mut self.places, &mut self.queue)?,
                        false => NOT_KEPT,
                    };
                    side.has_cursors |= tally.num != NOT_KEPT;
                }
            }
        }
        Ok(())
    }

    /// Writes down the places of the pairs that the merges have made and that are kept.
    fn record(&mut self, batch: &mut [Merge]) {
        if batch.iter().all(|merge| !merge.before.has_cursors && !merge.after.has_cursors) {
            return;
        }
        batch.iter_mut().for_each(|merge| merge.next = merge.range.start);
        let last = batch.last().map(|merge| merge.joined);
        let num_merges = batch.len();
        loop {
            let view = self.words.view();
            let Some(stop) = stretch(&view, &self.places, batch) else { return };
            self.pause(batch.len());
            for (k, merge) in batch.iter_mut().enumerate() {
                // A pair of two new symbols is the later one's, which saw the other; of the same one twice, the right one's.
                self.record_until(stop, merge, last.filter(|_| k + 1 < num_merges));
            }
        }
    }

    /// `last` is the id of the last merge of the batch, where others follow this one.
    fn record_until(&mut self, stop: usize, merge: &mut Merge, last: Option<u32>) {
        let (start, joined, view) = (merge.next, merge.joined, self.words.view());
        // New ids ascend; the last merge's may be one that there was.
        let is_later = |id: u32| last.is_some_and(|last| id > joined || id == last);
        while merge.next < merge.range.end && merge.next - start < self.residency.num_left() {
            let at = self.places.get(merge.next);
            if at >= stop {
                break;
            }
            merge.next += 1;
            if !view.is(at, joined) {
                continue;
            }
            if let Some((place, id)) = view.before(at).filter(|&(_, id)| !is_later(id)) {
                merge.before.put(&mut self.places, id, place);
            }
            let after = view.id(at + view.width(joined));
            if let Some(id) = after.filter(|&id| id != joined && !is_later(id)) {
                merge.after.put(&mut self.places, id, at);
            }
        }
        self.pause(merge.next - start);
    }

    /// Makes every symbol one cell and writes down the places of all pairs that are kept, from the start.
    fn record_all(&mut self) -> Result<(), Error> {
        let residency = &mut self.residency;
        self.words.compact(|cells| {
            if residency.is_used_up(STEP_TOUCHES) {
                cells.release();
            }
        })?;
        self.table.retain(self.threshold);
        self.places.clear();
        self.queue.clear();
        self.table.for_each(|slot| slot.num = 0);
        self.pass(|_, (left, right), _, table, _| {
            if let Some(slot) = table.get(pair(left, right)) {
                slot.num += 1;
            }
        })?;
        let mut total = 0;
        self.table.for_each(|slot| {
            self.queue.push(Candidate { count: slot.count, pair: slot.pair });
            slot.start = total;
            total += slot.num as usize;
        });
        self.places.allocate(total as u64)?;
        self.pass(|at, (left, right), _, table, places| {
            if let Some(slot) = table.get(pair(left, right)) {
                places.put(slot.start, at);
                slot.start += 1;
            }
        })?;
        self.table.for_each(|slot| slot.start -= slot.num as usize);
        Ok(())
    }

    /// Finds the pairs that a lower threshold keeps.
    ///
    /// Pairs that share a counter cannot hide: the counter has at least what each of them has. So only pairs whose counter
    /// reaches the threshold are counted one by one.
    fn lower_threshold(&mut self) -> Result<(), Error> {
        self.threshold = (self.threshold / LOWER).max(self.least);
        let mut sums = vec![0_i64; self.num_live.next_power_of_two().min(MAX_SUMS)];
        let mask = sums.len() - 1;
        self.pass(|_, (left, right), count, _, _| sums[Table::hash(pair(left, right)) & mask] += count)?;
        self.table = Table::new();
        let threshold = self.threshold;
        self.pass(|_, (left, right), count, table, _| {
            let key = pair(left, right);
            if sums[Table::hash(key) & mask] >= threshold {
                table.reserve(1);
                table.insert(key).count += count;
            }
        })?;
        drop(sums);
        self.record_all()
    }

    /// Calls `f` with each pair of neighbours, as [`View::for_each_pair`], and what it may change.
    fn pass(
        &mut self,
        mut f: impl FnMut(usize, (u32, u32), i64, &mut Table, &mut Places),
    ) -> Result<(), Error> {
        let mut at = 1;
        while at < self.words.num_cells() {
            let end = self.words.num_cells().min(at + STEP);
            let view = self.words.view();
            at = view.for_each_pair(at..end, |at, ids, count| {
                f(at, ids, count, &mut self.table, &mut self.places);
            });
            self.pause(STEP_TOUCHES);
        }
        Ok(())
    }

    /// Calls `f` with the symbols of each word of more than one byte, and its count.
    pub(crate) fn for_each_word(&mut self, mut f: impl FnMut(&mut dyn Iterator<Item = u32>, i64)) {
        let mut at = 1;
        while at < self.words.num_cells() {
            let end = self.words.num_cells().min(at + STEP);
            let view = self.words.view();
            at = view.for_each_word(at..end, |symbols, count| f(&mut symbols.map(|(_, id)| id), count));
            self.pause(STEP_TOUCHES);
        }
    }

    /// Gives memory back, where it is used up.
    #[inline]
    fn pause(&mut self, num_touched: usize) {
        if self.residency.is_used_up(num_touched) {
            self.words.release();
            self.places.release();
        }
    }

    /// Bytes of files in use, if there are any.
    pub(crate) fn num_file_bytes(&self) -> u64 {
        match self.is_in_file {
            true => 4 * self.words.num_cells() as u64 + self.places.num_bytes(),
            false => 0,
        }
    }
}

/// Keeps a new pair, and says where its places begin.
fn keep(
    pair: u64,
    tally: Tally,
    table: &mut Table,
    places: &mut Places,
    queue: &mut BinaryHeap<Candidate>,
) -> Result<u64, Error> {
    let start = places.allocate(tally.num)?;
    let slot = table.insert(pair);
    debug_assert!(slot.num == 0, "a pair came into being twice");
    *slot = Slot { pair, count: tally.count, start, num: tally.num };
    queue.push(Candidate { count: tally.count, pair });
    Ok(start as u64)
}
