//! Byte-level BPE: pre-tokenizer, encoder, trainer, tokenizer.json
