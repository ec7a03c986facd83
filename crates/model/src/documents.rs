//! Documents that share a row: where each token's begins, for attention that does not look past it.
//!
//! A document ends with its end-of-text token, so that borders follow from the inputs alone: data need not say where they
//! are, and a row that begins inside a document is as good as any other.

/// Sets `starts` (B, T) to the first token of the row that is of the same document as each of `inputs` (B, T). The token
/// `end` is the last of its document.
pub(crate) fn document_starts(starts: &mut [u32], inputs: &[u32], time: usize, end: u32) {
    for (starts, inputs) in starts.chunks_exact_mut(time).zip(inputs.chunks_exact(time)) {
        let mut first = 0;
        for (i, (start, &id)) in starts.iter_mut().zip(inputs).enumerate() {
            *start = first;
            if id == end {
                // A row has as many tokens as the network has positions at most, far below 2^32.
                first = i as u32 + 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::document_starts;

    #[test]
    fn a_document_begins_after_the_token_that_ends_the_one_before() {
        let starts = |inputs: &[u32], time| {
            let mut starts = vec![9; inputs.len()];
            document_starts(&mut starts, inputs, time, 0);
            starts
        };
        // Each row begins anew, whatever the row before was in; a document may be its end alone.
        assert_eq!(starts(&[5, 6, 0, 7, 8, 0, 0, 9], 8), [0, 0, 0, 3, 3, 3, 6, 7]);
        assert_eq!(starts(&[5, 6, 0, 7, 8, 0, 0, 9], 4), [0, 0, 0, 3, 0, 0, 2, 3]);
        assert_eq!(starts(&[0, 1, 2], 3), [0, 1, 1]);
        assert_eq!(starts(&[1, 2, 3], 3), [0, 0, 0]);
    }
}
