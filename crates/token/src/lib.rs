//! Text to token ids and back: byte-level BPE, its trainer, tokenizer.json.
//!
//! Owns everything between text and token ids, and equals Hugging Face `tokenizers` id for id and merge for
//! merge. Knows nothing of tensors, corpora or the command line. Byte-level BPE of known kinds is done here; every other
//! tokenizer.json goes through the `tokenizers` library, and says so ([`Tokenizer::slow_reason`]). A file whose ids
//! neither could give is refused, naming the field.
//!
//! Reading order: [`alphabet`](self) (bytes spelled as characters), `split` (regular expressions by hand), `bpe` (one word
//! merged), `cache` (words seen before), `tokenizer` (text to ids and back), `added` (special tokens), `count` and
//! `train` (a corpus to a vocabulary), `load`, `byte_level` and `save` (the files), `library` (all other kinds).
//!
//! ```
//! use eyas_token::{TrainOptions, WordCounts, train};
//! let mut counts = WordCounts::new();
//! counts.add("fn main() {}\nfn mainly() {}\n");
//! let tokenizer = train(counts, &TrainOptions { vocab_size: 260, ..Default::default() }, &mut |_, _| {})?;
//! let mut ids = Vec::new();
//! tokenizer.encode("fn main() {}", &mut ids)?;
//! let mut bytes = Vec::new();
//! tokenizer.decode(&ids, &mut bytes)?;
//! assert_eq!(bytes, b"fn main() {}");
//! # Ok::<(), eyas_token::Error>(())
//! ```

mod added;
mod alphabet;
mod arena;
mod bounded;
mod bpe;
mod byte_level;
mod cache;
mod count;
mod encode;
mod error;
mod file;
mod guard;
mod library;
mod load;
mod merge;
mod normalizer;
mod original;
mod pairs;
mod parts;
mod pipeline;
mod places;
mod report;
mod save;
mod spill;
mod split;
mod splitter;
mod stream;
mod table;
mod tokenizer;
mod train;
mod unicode;
mod unicode_tables;
mod vocabulary;
mod word;
mod words;

pub use count::{MemoryLimit, WordCounts};
pub use error::Error;
pub use report::{Odd, Report, TokenUse};
pub use split::Pattern;
pub use splitter::Splitter;
pub use stream::StreamDecoder;
pub use tokenizer::{END_OF_TEXT, Tokenizer};
pub use train::{Stage, TrainOptions, Trained, train, train_and_report};
