//! Near duplicates are sought before anything is encoded: everything is read once for its signatures, and then again for its
//! tokens. What is durable of the first reading is noted as in the second.

use super::work::{NEAR_JOURNAL as JOURNAL, SEEN_FIRST, SIGNATURES, WorkFolder};
use super::{PrepareOptions, PrepareProgress};
use crate::duplicates::{NearDuplicates, NearWriter, Signature};
use crate::error::Error;
use crate::source::{Documents, NewDocuments, ReadSoFar};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Memory in which duplicates are sought.
const BUDGET_BYTES: usize = 128 << 20;
/// What is made durable at once is measured in tokens, which nobody has counted yet.
const DURABLE_BYTES_PER_TOKEN: u64 = 4;

/// How far the first reading is.
#[derive(Serialize, Deserialize)]
struct Journal {
    documents: ReadSoFar,
    num_signatures: u64,
    is_complete: bool,
}

/// Near duplicates, and the documents among which they are.
pub(super) struct Near {
    pub(super) duplicates: NearDuplicates,
    pub(super) among: NewDocuments,
}

/// Whether an earlier process has noted anything.
pub(super) fn has_begun(work: &WorkFolder) -> bool {
    work.read_journal::<Journal>(JOURNAL).is_some()
}

/// Reads `data`, or the rest of it.
pub(super) fn find(
    data: &[String],
    options: &PrepareOptions,
    work: &WorkFolder,
    durable_tokens: u64,
    progress: &mut dyn FnMut(&PrepareProgress),
) -> Result<Near, Error> {
    let signatures = work.scratch(SIGNATURES);
    let journal: Option<Journal> = work.read_journal(JOURNAL);
    let mut writer = match &journal {
        Some(journal) => NearWriter::resume(&signatures, BUDGET_BYTES, journal.num_signatures)?,
        None => NearWriter::create(&signatures, BUDGET_BYTES)?,
    };
    if let Some(Journal { documents, is_complete: true, .. }) = &journal {
        return Ok(Near { duplicates: writer.finish()?, among: documents.new });
    }
    let mut documents = Documents::open(data, &options.source)?;
    documents.resume(&work.scratch(SEEN_FIRST), journal.map(|journal| journal.documents))?;
    let mut done = PrepareProgress { is_seeking_duplicates: true, ..PrepareProgress::default() };
    let mut durable = 0;
    let note = |documents: &mut Documents, writer: &mut NearWriter, is_complete| {
        writer.sync()?;
        let num_signatures = writer.num_signatures();
        work.write_journal(JOURNAL, &Journal { documents: documents.sync()?, num_signatures, is_complete })
    };
    loop {
        let batch = documents.next_batch()?;
        if batch.is_empty() {
            break;
        }
        let made: Vec<Option<Signature>> =
            batch.par_iter().map(|document| Signature::of(&document.text)).collect();
        let first = documents.new_documents().num_documents - batch.len() as u64;
        for (index, signature) in (first..).zip(&made) {
            signature.as_ref().map_or(Ok(()), |signature| writer.push(index, signature))?;
        }
        done.num_documents = documents.report().num_documents;
        done.num_bytes = documents.report().num_bytes;
        progress(&done);
        if done.num_bytes - durable >= DURABLE_BYTES_PER_TOKEN * durable_tokens {
            durable = done.num_bytes;
            note(&mut documents, &mut writer, false)?;
        }
    }
    note(&mut documents, &mut writer, true)?;
    Ok(Near { duplicates: writer.finish()?, among: documents.new_documents() })
}
