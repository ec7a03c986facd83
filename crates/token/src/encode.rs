//! Text without added tokens to ids: cuts words, and looks each up among those seen before.
//!
//! What encoding remembers between words belongs to the thread, so that an [`Encoder`] is immutable and shared.

use crate::bpe::{Bpe, Scratch};
use crate::cache::{Cache, INLINE};
use crate::split::{self, Ends, Pattern};
use crate::word::{Key, SHORT};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// A vocabulary ready to encode.
pub(crate) struct Encoder {
    pattern: Pattern,
    bpe: Bpe,
    /// Ids of the vocabulary by their bytes.
    ids: HashMap<Box<[u8]>, u32>,
    /// A word that is a token needs no merges.
    ignore_merges: bool,
    /// Tells this encoder's cached words from another's; no two in a process are equal.
    serial: u64,
}

static NEXT_SERIAL: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static CACHE: RefCell<Cache> = RefCell::new(Cache::new());
}

impl Encoder {
    /// `ids` are those of all tokens spelled in the byte alphabet, the 256 single bytes among them; `merges` as in
    /// [`Bpe::new`].
    pub(crate) fn new(
        pattern: Pattern,
        ids: HashMap<Box<[u8]>, u32>,
        merges: &[(u32, u32, u32)],
        ignore_merges: bool,
    ) -> Self {
        let mut byte_ids = [0; 256];
        for (byte, id) in byte_ids.iter_mut().enumerate() {
            *id = ids.get(&[byte as u8][..]).copied().unwrap_or(0);
        }
        let bpe = Bpe::new(merges, byte_ids);
        let serial = NEXT_SERIAL.fetch_add(1, Ordering::Relaxed);
        Self { pattern, bpe, ids, ignore_merges, serial }
    }

    /// The id of the token of these bytes.
    pub(crate) fn id(&self, bytes: &[u8]) -> Option<u32> {
        self.ids.get(bytes).copied()
    }

    /// Appends the ids of `text`.
    pub(crate) fn encode(&self, text: &str, ids: &mut Vec<u32>) {
        CACHE.with_borrow_mut(|cache| {
            cache.serve(self.serial);
            self.encode_with(cache, text.as_bytes(), ids);
        });
    }

    fn encode_with(&self, cache: &mut Cache, text: &[u8], ids: &mut Vec<u32>) {
        let (mut one, mut other, mut found) = (Batch::new(), Batch::new(), [0; Batch::SIZE * INLINE]);
        let (mut current, mut next) = (&mut one, &mut other);
        current.gather(self.pattern, text, 0, cache);
        while current.num > 0 {
            next.gather(self.pattern, text, current.ends[current.num - 1], cache);
            self.encode_batch(current, cache, text, &mut found, ids);
            std::mem::swap(&mut current, &mut next);
        }
    }

    /// The ids of a batch. They gather in `found`, so that the common case writes a fixed number of them and asks for
    /// no memory.
    fn encode_batch(
        &self,
        batch: &Batch,
        cache: &mut Cache,
        text: &[u8],
        found: &mut [u32; Batch::SIZE * INLINE],
        ids: &mut Vec<u32>,
    ) {
        let (mut start, mut num) = (batch.start, 0);
        for (&end, &key) in batch.ends.iter().zip(&batch.keys).take(batch.num) {
            if let Some((known, num_known)) = cache.find(key) {
                found[num..num + INLINE].copy_from_slice(known);
                num += num_known;
            } else {
                ids.extend_from_slice(&found[..num]);
                num = 0;
                cache.encode(ids, text, start, end, |word, scratch, ids| {
                    self.encode_word(word, scratch, ids);
                });
            }
            start = end;
        }
        ids.extend_from_slice(&found[..num]);
    }

    /// One word that the cache did not know.
    fn encode_word(&self, word: &[u8], scratch: &mut Scratch, ids: &mut Vec<u32>) {
        match self.ignore_merges.then(|| self.ids.get(word)).flatten() {
            Some(&id) => ids.push(id),
            None => self.bpe.encode_word(word, scratch, ids),
        }
    }
}

/// Words on their way: cut, and their lines of the cache asked for, while the batch before is looked up.
struct Batch {
    start: usize,
    ends: Ends,
    /// The keys of short words; a longer one has none.
    keys: [Key; Self::SIZE],
    num: usize,
}

impl Batch {
    const SIZE: usize = split::MOST_ENDS;

    fn new() -> Self {
        Self { start: 0, ends: [0; Self::SIZE], keys: [Key::default(); Self::SIZE], num: 0 }
    }

    /// Takes the next words of `text`, from `start` on.
    fn gather(&mut self, pattern: Pattern, text: &[u8], start: usize, cache: &Cache) {
        self.start = start;
        self.num = pattern.next_words(text, start, &mut self.ends);
        let mut start = start;
        for (&end, key) in self.ends.iter().zip(&mut self.keys).take(self.num) {
            *key = if end - start <= SHORT { Key::new(text, start, end) } else { Key::default() };
            cache.prefetch(*key);
            start = end;
        }
    }
}
