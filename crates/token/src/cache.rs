//! Words seen before and their ids, one cache a thread, bounded, so that the merges run once for most words.
//!
//! Words of up to 15 bytes live in a table of 32-byte slots, two in a cache line, with up to three ids in the slot
//! itself; of a line's two words the older gives way. Longer words, and longer lists of ids, are in arenas. When an
//! arena is full the whole cache starts anew, which costs less than knowing what to evict.

use crate::bpe::Scratch;
use crate::word::{Interner, Key, SHORT};

/// Lines of a new table, and the most it grows to: 8 MiB a thread, the words of a large corpus.
const FIRST_LINES: usize = 1 << 10;
const MOST_LINES: usize = 1 << 17;
/// Ids that fit into a slot.
pub(crate) const INLINE: usize = 3;
/// Longest word worth remembering, in bytes.
const LONGEST: usize = 256;
/// Bounds of the arenas, in ids and bytes.
const SPILL_LIMIT: usize = 1 << 21;
const LONG_LIMIT_BYTES: usize = 1 << 22;

/// A short word and its ids.
#[derive(Clone, Copy, Default)]
pub(crate) struct Slot {
    key: Key,
    /// The ids, or where they start in `spill`.
    ids: [u32; INLINE],
    num_ids: u32,
}

/// The two words of one cache line, the newer one first.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Line([Slot; 2]);

/// The cache of one thread, for one tokenizer at a time.
pub(crate) struct Cache {
    /// The tokenizer whose ids these are.
    owner: u64,
    lines: Vec<Line>,
    /// Words that were put into `lines` since it last grew.
    num_new: usize,
    long: Interner,
    /// Where the ids of each word of `long` start in `spill`, and how many they are.
    long_ids: Vec<(u32, u32)>,
    spill: Vec<u32>,
    scratch: Scratch,
}

impl Cache {
    /// Empty; allocates at its first use.
    pub(crate) fn new() -> Self {
        Self {
            owner: u64::MAX,
            lines: Vec::new(),
            num_new: 0,
            long: Interner::new(),
            long_ids: Vec::new(),
            spill: Vec::new(),
            scratch: Scratch::default(),
        }
    }

    /// Forgets everything unless it is about this tokenizer.
    pub(crate) fn serve(&mut self, owner: u64) {
        if self.owner != owner {
            self.clear();
            self.owner = owner;
        }
    }

    fn clear(&mut self) {
        let num_lines = self.lines.len().max(FIRST_LINES);
        self.lines.clear();
        self.lines.resize(num_lines, Line::default());
        self.num_new = 0;
        self.long.clear();
        self.long_ids.clear();
        self.spill.clear();
    }

    /// The ids of a word whose list fits a slot, and how many of the three they are. Only for words of up to
    /// [`SHORT`] bytes; `None` does not mean that [`Cache::encode`] would not know it.
    #[inline]
    pub(crate) fn find(&self, key: Key) -> Option<(&[u32; INLINE], usize)> {
        let Line([newer, older]) = &self.lines[self.line_of(key)];
        let slot = if newer.key == key { newer } else { older };
        (slot.key == key && !key.is_free() && slot.num_ids as usize <= INLINE)
            .then_some((&slot.ids, slot.num_ids as usize))
    }

    /// Asks for the line of this key, so that it is near when [`Cache::find`] wants it.
    #[inline]
    pub(crate) fn prefetch(&self, key: Key) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let line: *const Line = &self.lines[self.line_of(key)];
            // SAFETY: the instruction reads nothing that the program could see, and the address is a line's.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = key;
    }

    #[inline]
    fn line_of(&self, key: Key) -> usize {
        key.hash(0) as usize & (self.lines.len() - 1)
    }

    /// Appends the ids of `text[start..end]`, computed by `encode` when they are not known.
    #[cold]
    pub(crate) fn encode(
        &mut self,
        ids: &mut Vec<u32>,
        text: &[u8],
        start: usize,
        end: usize,
        encode: impl FnOnce(&[u8], &mut Scratch, &mut Vec<u32>),
    ) {
        if end - start > SHORT {
            self.encode_long(ids, &text[start..end], encode);
            return;
        }
        let key = Key::new(text, start, end);
        let Line(slots) = &self.lines[self.line_of(key)];
        if let Some(slot) = slots.iter().find(|slot| slot.key == key) {
            let (first, num_ids) = (slot.ids[0] as usize, slot.num_ids as usize);
            match num_ids <= INLINE {
                true => ids.extend_from_slice(&slot.ids[..num_ids]),
                false => ids.extend_from_slice(&self.spill[first..first + num_ids]),
            }
            return;
        }
        let before = ids.len();
        encode(&text[start..end], &mut self.scratch, ids);
        let (first, num_ids) = (&ids[before..], (ids.len() - before) as u32);
        let mut slot = Slot { key, ids: [0; INLINE], num_ids };
        if first.len() <= INLINE {
            slot.ids[..first.len()].copy_from_slice(first);
        } else {
            slot.ids[0] = self.keep(first);
        }
        self.insert(slot);
        self.num_new += 1;
        if self.num_new > self.lines.len() && self.lines.len() < MOST_LINES {
            self.grow();
        }
    }

    fn insert(&mut self, slot: Slot) {
        let at = self.line_of(slot.key);
        let Line([newer, older]) = &mut self.lines[at];
        *older = *newer;
        *newer = slot;
    }

    #[cold]
    fn grow(&mut self) {
        let num_lines = self.lines.len() * 4;
        let old = std::mem::replace(&mut self.lines, vec![Line::default(); num_lines]);
        for slot in old.iter().flat_map(|Line(slots)| slots.iter().rev()).filter(|slot| !slot.key.is_free()) {
            self.insert(*slot);
        }
        self.num_new = 0;
    }

    fn encode_long(
        &mut self,
        ids: &mut Vec<u32>,
        word: &[u8],
        encode: impl FnOnce(&[u8], &mut Scratch, &mut Vec<u32>),
    ) {
        if let Some(index) = self.long.find(word) {
            let (first, num_ids) = self.long_ids[index];
            ids.extend_from_slice(&self.spill[first as usize..][..num_ids as usize]);
            return;
        }
        let before = ids.len();
        encode(word, &mut self.scratch, ids);
        if word.len() > LONGEST {
            return;
        }
        if self.long.num_bytes() > LONG_LIMIT_BYTES {
            self.clear();
        }
        let num_ids = (ids.len() - before) as u32;
        let first = self.keep(&ids[before..]);
        self.long.intern(word);
        self.long_ids.push((first, num_ids));
    }

    /// Stores ids in the arena, and empties the whole cache first when that is full.
    fn keep(&mut self, ids: &[u32]) -> u32 {
        if self.spill.len() > SPILL_LIMIT {
            self.clear();
        }
        let first = self.spill.len() as u32;
        self.spill.extend_from_slice(ids);
        first
    }
}
