//! Pairs of ids by open addressing.

/// What is known of a pair.
#[derive(Clone, Copy)]
pub(crate) struct Slot {
    /// Left id in the high half, right id in the low; [`FREE`] without a pair.
    pub(crate) pair: u64,
    /// How often it occurs in the corpus.
    pub(crate) count: i64,
    /// Its places: `num` from `start` on.
    pub(crate) start: usize,
    pub(crate) num: u64,
}

const FREE: u64 = u64::MAX;
const FREE_SLOT: Slot = Slot { pair: FREE, count: 0, start: 0, num: 0 };

/// The key of two neighbours.
#[inline]
pub(crate) fn pair(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

/// Slots by pair. A pair that is removed keeps its slot, with a count of 0, until the next [`Table::retain`].
pub(crate) struct Table {
    slots: Vec<Slot>,
    num: usize,
}

impl Table {
    /// Room for all pairs of bytes.
    pub(crate) fn new() -> Self {
        Self { slots: vec![FREE_SLOT; 1 << 17], num: 0 }
    }

    /// Well-mixed bits.
    #[inline]
    pub(crate) fn hash(pair: u64) -> usize {
        (pair.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24) as usize
    }

    fn index(&self, pair: u64) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = Self::hash(pair) & mask;
        while self.slots[at].pair != pair && self.slots[at].pair != FREE {
            at = (at + 1) & mask;
        }
        at
    }

    /// The slot of a pair, or a free one.
    pub(crate) fn find(&self, pair: u64) -> &Slot {
        &self.slots[self.index(pair)]
    }

    /// The slot of a pair that is there.
    pub(crate) fn get(&mut self, pair: u64) -> Option<&mut Slot> {
        let at = self.index(pair);
        Some(&mut self.slots[at]).filter(|slot| slot.pair == pair)
    }

    /// How often the pair occurs, 0 where it is not kept.
    pub(crate) fn count(&self, pair: u64) -> i64 {
        self.find(pair).count
    }

    /// The slot of a pair that may be new. There must be room.
    pub(crate) fn insert(&mut self, pair: u64) -> &mut Slot {
        let at = self.index(pair);
        if self.slots[at].pair == FREE {
            self.slots[at].pair = pair;
            self.num += 1;
        }
        &mut self.slots[at]
    }

    pub(crate) fn subtract(&mut self, pair: u64, count: i64) {
        if let Some(slot) = self.get(pair) {
            slot.count -= count;
        }
    }

    pub(crate) fn remove(&mut self, pair: u64) {
        if let Some(slot) = self.get(pair) {
            slot.count = 0;
        }
    }

    pub(crate) fn for_each(&mut self, f: impl FnMut(&mut Slot)) {
        self.slots.iter_mut().filter(|slot| slot.pair != FREE).for_each(f);
    }

    /// Forgets the pairs that occur less often.
    pub(crate) fn retain(&mut self, threshold: i64) {
        let kept: Vec<Slot> =
            self.slots.iter().filter(|slot| slot.pair != FREE && slot.count >= threshold).copied().collect();
        *self = Self::new();
        self.reserve(kept.len());
        for slot in kept {
            *self.insert(slot.pair) = slot;
        }
    }

    /// Makes room for so many new pairs.
    pub(crate) fn reserve(&mut self, num_more: usize) {
        let needed = ((self.num + num_more) * 2).next_power_of_two();
        if needed <= self.slots.len() {
            return;
        }
        let old = std::mem::replace(&mut self.slots, vec![FREE_SLOT; needed]);
        for slot in old.into_iter().filter(|slot| slot.pair != FREE) {
            let at = self.index(slot.pair);
            self.slots[at] = slot;
        }
    }
}
