//! Words seen before and their ids, one cache a thread, bounded, so that the merges run once for most words.
//!
//! Words of up to 15 bytes live in a direct-mapped table of 32-byte slots with up to three ids in the slot itself;
//! a collision simply replaces. Longer words, and longer lists of ids, are in arenas. When an arena is full the whole
//! cache starts anew, which costs less than knowing what to evict.

use crate::bpe::Scratch;
use crate::word::{Interner, Key, SHORT};

/// 2 MiB of slots a thread: the words of a large corpus, and still mostly in the second-level cache.
const NUM_SLOTS: usize = 1 << 16;
/// Ids that fit into a slot.
const INLINE: usize = 3;
/// Longest word worth remembering, in bytes.
const LONGEST: usize = 256;
/// Bounds of the arenas, in ids and bytes.
const SPILL_LIMIT: usize = 1 << 19;
const LONG_LIMIT_BYTES: usize = 1 << 21;

#[derive(Clone, Copy, Default)]
struct Slot {
    key: Key,
    /// The ids, or where they start in `spill`.
    ids: [u32; INLINE],
    num_ids: u32,
}

/// The cache of one thread, for one tokenizer at a time.
pub(crate) struct Cache {
    /// The tokenizer whose ids these are.
    owner: u64,
    slots: Vec<Slot>,
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
            slots: Vec::new(),
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
        self.slots.clear();
        self.slots.resize(NUM_SLOTS, Slot::default());
        self.long.clear();
        self.long_ids.clear();
        self.spill.clear();
    }

    /// Appends the ids of `text[start..end]`, computed by `encode` when they are not known.
    #[inline]
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
        let at = key.hash(0) as usize % NUM_SLOTS;
        let slot = self.slots[at];
        if slot.key == key {
            let num_ids = slot.num_ids as usize;
            if num_ids <= INLINE {
                ids.extend_from_slice(&slot.ids[..num_ids]);
            } else {
                let first = slot.ids[0] as usize;
                ids.extend_from_slice(&self.spill[first..first + num_ids]);
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
        self.slots[at] = slot;
    }

    #[cold]
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
