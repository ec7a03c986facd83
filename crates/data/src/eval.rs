//! Documents as one stream in memory, for evaluation: the definition that losses and bits per byte are compared by.

use crate::error::Error;
use crate::source::{Documents, SourceOptions};
use eyas_token::Tokenizer;
use rayon::prelude::*;

/// Documents encoded together in parallel.
const BATCH: usize = 256;

/// Tokens of documents, with end-of-text before the first, between them, and after the last.
#[derive(Clone, Debug)]
pub struct EvalStream {
    /// The tokens.
    pub ids: Vec<u32>,
    /// UTF-8 bytes of the documents.
    pub num_bytes: u64,
    /// Number of documents.
    pub num_documents: u64,
}

/// Reads and encodes documents. Special tokens in a text become their ids, as Hugging Face does it.
///
/// # Errors
/// If the data cannot be read, holds no document, or the tokenizer has no end-of-text token.
pub fn eval_stream(
    data: &[String],
    tokenizer: &Tokenizer,
    source: &SourceOptions,
) -> Result<EvalStream, Error> {
    let mut documents = Documents::open(data, source)?;
    let mut texts = Vec::new();
    let mut stream = EvalStream::new(tokenizer)?;
    loop {
        let next = documents.next().transpose()?;
        let end = next.is_none();
        texts.extend(next.map(|document| document.text));
        if end || texts.len() == BATCH {
            stream.extend(&texts, tokenizer)?;
            texts.clear();
        }
        if end {
            return Ok(stream);
        }
    }
}

impl EvalStream {
    /// A stream of no document.
    ///
    /// # Errors
    /// If the tokenizer has no end-of-text token.
    pub fn new(tokenizer: &Tokenizer) -> Result<Self, Error> {
        let end = tokenizer.end_of_text().ok_or(Error::NoEndOfText)?;
        Ok(EvalStream { ids: vec![end], num_bytes: 0, num_documents: 0 })
    }

    /// Appends documents.
    ///
    /// # Errors
    /// If the tokenizer has no end-of-text token, or cannot encode one of them.
    pub fn extend(&mut self, texts: &[String], tokenizer: &Tokenizer) -> Result<(), Error> {
        let end = tokenizer.end_of_text().ok_or(Error::NoEndOfText)?;
        let encoded: Result<Vec<Vec<u32>>, Error> = texts
            .par_iter()
            .map(|text| {
                let mut ids = Vec::new();
                tokenizer.encode(text, &mut ids)?;
                ids.push(end);
                Ok(ids)
            })
            .collect();
        for (ids, text) in encoded?.iter().zip(texts) {
            self.ids.extend_from_slice(ids);
            self.num_bytes += text.len() as u64;
            self.num_documents += 1;
        }
        Ok(())
    }
}
