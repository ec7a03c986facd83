//! Text without added tokens to ids: cuts words, and looks each up among those seen before.
//!
//! What encoding remembers between words belongs to the thread, so that an [`Encoder`] is immutable and shared.

use crate::bpe::{Bpe, Scratch};
use crate::cache::Cache;
use crate::split::Pattern;
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
            let text = text.as_bytes();
            let mut start = 0;
            while let Some(end) = self.pattern.next_word(text, start) {
                cache.encode(ids, text, start, end, |word, scratch, ids| {
                    self.encode_word(word, scratch, ids);
                });
                start = end;
            }
        });
    }

    /// One word that the cache did not know.
    fn encode_word(&self, word: &[u8], scratch: &mut Scratch, ids: &mut Vec<u32>) {
        match self.ids.get(word) {
            Some(&id) if self.ignore_merges => ids.push(id),
            _ => self.bpe.encode_word(word, scratch, ids),
        }
    }
}
