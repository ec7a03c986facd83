//! The validation split: a function of a document's path alone, so that it never depends on order, on the machine or on
//! what else is in the corpus.

/// 64 bits that are a function of `path` alone (BLAKE3).
pub fn path_hash(path: &str) -> u64 {
    let hash = blake3::hash(path.as_bytes());
    u64::from_le_bytes(std::array::from_fn(|i| hash.as_bytes()[i]))
}

/// Whether the document at `path` is held out, as one in `one_in` documents is; 0 holds out none.
pub fn is_validation(path: &str, one_in: u64) -> bool {
    one_in > 0 && path_hash(path).is_multiple_of(one_in)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_twenty_and_stable() {
        let held_out = (0..20_000).filter(|i| is_validation(&format!("src/file_{i}.rs"), 20)).count();
        assert!((900..1100).contains(&held_out), "{held_out}");
        assert!(!is_validation("a", 0));
        // Frozen: a changed split would let validation documents into training.
        let first: Vec<usize> = (0..100).filter(|i| is_validation(&format!("f{i}"), 20)).collect();
        assert_eq!(first, FROZEN);
    }

    const FROZEN: &[usize] = &[70, 79, 81, 82];
}
