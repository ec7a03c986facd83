//! What a file of the hub must hash to. The hash is also its ETag, and its name in the cache.
//!
//! The trick: the number of digits says which hash it is. Large files have 64, the SHA-256 of their bytes; files that lie
//! in git itself have 40, git's SHA-1 of `blob SIZE\0` and their bytes. So everything the hub sends can be verified.
//! Both come from the library that TLS brings anyway.

use ring::digest;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The hash of a file, in lower-case hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct ContentHash(String);

impl ContentHash {
    /// `None` if `text` is neither 40 nor 64 digits: it is part of a path, so nothing else may be in it.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (matches!(text.len(), 40 | 64) && text.bytes().all(digit)).then(|| ContentHash(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Hashes a file of `size` bytes in the way that this hash was made.
    pub(super) fn hasher(&self, size: u64) -> ContentHasher {
        if self.0.len() == 64 {
            return ContentHasher(digest::Context::new(&digest::SHA256));
        }
        let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
        context.update(format!("blob {size}\0").as_bytes());
        ContentHasher(context)
    }

    /// Whether an ETag speaks against this hash. Many servers on the way make ETags of their own, which say nothing; but
    /// one that is a hash of the same kind must be this one.
    pub(super) fn is_contradicted_by(&self, etag: &str) -> bool {
        ContentHash::parse(etag).is_some_and(|other| other.0.len() == self.0.len() && other != *self)
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for ContentHash {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        ContentHash::parse(&text).ok_or("expected a hash of 40 or 64 hexadecimal digits")
    }
}

impl From<ContentHash> for String {
    fn from(hash: ContentHash) -> String {
        hash.0
    }
}

/// A hash being made.
#[derive(Clone)]
pub(super) struct ContentHasher(digest::Context);

impl ContentHasher {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(super) fn finish(self) -> ContentHash {
        ContentHash(self.0.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_git_and_of_git_lfs() {
        // `printf hello | git hash-object --stdin`, `printf hello | sha256sum`.
        for want in [
            "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0",
            "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
        ] {
            let hash = ContentHash::parse(want).expect("a hash");
            let mut hasher = hash.hasher(5);
            hasher.update(b"hel");
            hasher.update(b"lo");
            assert_eq!(hasher.finish(), hash);
        }
    }

    #[test]
    fn what_is_no_hash() {
        for text in ["", "main", "../../../../etc/passwd", &"g".repeat(40), &"A".repeat(64), &"a".repeat(41)]
        {
            assert_eq!(ContentHash::parse(text), None);
        }
    }

    #[test]
    fn etags() {
        let hash = ContentHash::parse(&"a".repeat(64)).expect("a hash");
        assert!(hash.is_contradicted_by(&"b".repeat(64)));
        for etag in ["", "5d41402abc4b2a76b9719d911017c592-3", &"b".repeat(40), &"a".repeat(64)] {
            assert!(!hash.is_contradicted_by(etag), "{etag}");
        }
    }
}
