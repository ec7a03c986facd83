//! From sources to ids: documents that passed all filters, a batch at a time, encoded in parallel.

use super::PrepareOptions;
use crate::error::Error;
use crate::fim::{Fim, FimTokens};
use crate::shards::Mode;
use crate::source::{Document, Documents};
use eyas_token::Tokenizer;
use rayon::prelude::*;
use std::time::Instant;

/// Bytes of text that a token stands for at the least, nearly always: what is reserved for the ids of a document.
const BYTES_PER_TOKEN: usize = 3;

/// Sources, and how their documents become ids.
pub(super) struct Input<'a> {
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) documents: Documents,
    /// Seconds that encoding took.
    pub(super) seconds: f64,
    options: &'a PrepareOptions,
    fim: Option<(Fim, FimTokens)>,
}

/// Documents and their ids.
pub(super) struct Batch {
    pub(super) documents: Vec<Document>,
    pub(super) ids: Vec<Vec<u32>>,
}

impl<'a> Input<'a> {
    /// # Errors
    /// A tokenizer that lacks the tokens that the options need.
    pub(super) fn new(
        tokenizer: &'a Tokenizer,
        options: &'a PrepareOptions,
        documents: Documents,
    ) -> Result<Self, Error> {
        if options.mode == Mode::Pack && tokenizer.end_of_text().is_none() {
            return Err(Error::NoEndOfText);
        }
        let fim = options.fim.map(|fim| FimTokens::of(tokenizer).map(|tokens| (fim, tokens))).transpose()?;
        Ok(Input { tokenizer, documents, seconds: 0.0, options, fim })
    }

    /// The next batch; an empty one at the end.
    ///
    /// # Errors
    /// If reading or encoding fails.
    pub(super) fn next(&mut self) -> Result<Batch, Error> {
        let documents = self.documents.next_batch()?;
        let begun = Instant::now();
        let encode = |document| self.encode(document);
        let ids = documents.par_iter().map(encode).collect::<Result<_, _>>()?;
        self.seconds += begun.elapsed().as_secs_f64();
        Ok(Batch { documents, ids })
    }

    fn encode(&self, document: &Document) -> Result<Vec<u32>, Error> {
        let mut ids = Vec::with_capacity(document.text.len() / BYTES_PER_TOKEN);
        match self.fim {
            Some((fim, tokens)) => fim.encode(document, self.tokenizer, tokens, &mut ids)?,
            None if self.options.source.raw => self.tokenizer.encode(&document.text, &mut ids)?,
            None => self.tokenizer.encode_ordinary(&document.text, &mut ids)?,
        }
        Ok(ids)
    }
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    /// Tokens of all documents, before chunks are cut.
    pub(super) fn num_tokens(&self) -> u64 {
        self.ids.iter().map(|ids| ids.len() as u64).sum()
    }
}
