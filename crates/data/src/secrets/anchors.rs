//! Words beside which secrets stand: found all at once, then each looked at by the module that knows it.
//!
//! There are at most 64 of them, none shorter than four bytes, for then a vector search (Teddy) finds them at some
//! gigabytes a second. So names are searched by a part that they have in both cases: `assw` is in `password`, `Password`
//! and `passwd`.

use super::{Found, assignments, authorization, private_keys};
use aho_corasick::{AhoCorasick, MatchKind, packed};
use std::sync::OnceLock;

/// Looks at the anchor at a place, notes what it finds, and answers up to where it has seen everything.
type Look = fn(text: &[u8], at: usize, found: &mut Vec<Found>) -> usize;

#[rustfmt::skip]
static ANCHORS: &[(&str, Look)] = &[
    // password, passwd, passphrase, pass, pwd
    ("assw", assignments::find), ("ASSW", assignments::find), ("assphr", assignments::find), ("ASSPHR", assignments::find),
    ("pass=", assignments::find), ("pass:", assignments::find), ("pass ", assignments::find), ("pass\"", assignments::find),
    ("pass'", assignments::find), ("Pass=", assignments::find), ("Pass:", assignments::find), ("Pass ", assignments::find),
    ("PASS=", assignments::find), ("PASS:", assignments::find), ("PASS ", assignments::find), ("PASS\"", assignments::find),
    ("PASS'", assignments::find),
    ("pwd=", assignments::find), ("pwd:", assignments::find), ("pwd ", assignments::find), ("pwd\"", assignments::find),
    ("pwd'", assignments::find), ("Pwd=", assignments::find), ("Pwd:", assignments::find), ("Pwd ", assignments::find),
    ("PWD=", assignments::find), ("PWD:", assignments::find), ("PWD ", assignments::find), ("PWD\"", assignments::find),
    ("PWD'", assignments::find),
    ("PWD\\", assignments::find), ("pwd\\", assignments::find),
    // secret, token, credential
    ("ecret", assignments::find), ("ECRET", assignments::find), ("oken", assignments::find), ("OKEN", assignments::find),
    ("redential", assignments::find), ("REDENTIAL", assignments::find),
    // api_key and its like
    ("_key", assignments::find), ("_KEY", assignments::find), ("-key", assignments::find), ("-Key", assignments::find),
    ("pikey", assignments::find), ("PIKEY", assignments::find), ("piKey", assignments::find), ("sKey", assignments::find),
    ("eKey", assignments::find), ("tKey", assignments::find), ("nKey", assignments::find), ("hKey", assignments::find),
    // the rest
    ("_auth", assignments::find), ("\"auth\"", assignments::find), ("IDENTIFIED BY", assignments::identified_by),
    ("identified by", assignments::identified_by), (" -u ", authorization::command_line),
    ("earer ", authorization::bearer), ("asic ", authorization::basic), ("sig=", authorization::signature),
    ("$2a$", authorization::password_hash), ("$2b$", authorization::password_hash),
    ("$2y$", authorization::password_hash), ("BEGIN ", private_keys::find), ("Private-Lines", private_keys::putty),
];

/// Finds what is beside the anchors of `text`.
pub(super) fn find(text: &[u8], found: &mut Vec<Found>) {
    let mut done = 0;
    let mut visit = |anchor: usize, at: usize| {
        if at >= done {
            done = ANCHORS[anchor].1(text, at, found);
        }
    };
    match Searcher::get() {
        Searcher::Vector(searcher) => {
            searcher.find_iter(text).for_each(|hit| visit(hit.pattern().as_usize(), hit.start()));
        }
        Searcher::Automaton(searcher) => {
            searcher.find_iter(text).for_each(|hit| visit(hit.pattern().as_usize(), hit.start()));
        }
        Searcher::None => {}
    }
}

/// What finds the anchors: a vector search, or an automaton on machines that lack its instructions.
enum Searcher {
    Vector(packed::Searcher),
    Automaton(AhoCorasick),
    /// Never with the anchors above, as a test asserts.
    None,
}

impl Searcher {
    fn get() -> &'static Searcher {
        static SEARCHER: OnceLock<Searcher> = OnceLock::new();
        SEARCHER.get_or_init(|| {
            let words = || ANCHORS.iter().map(|(word, _)| word);
            let kind = packed::MatchKind::LeftmostFirst;
            if let Some(searcher) = packed::Config::new().match_kind(kind).builder().extend(words()).build() {
                return Searcher::Vector(searcher);
            }
            let automaton = AhoCorasick::builder().match_kind(MatchKind::LeftmostFirst).build(words());
            automaton.map_or(Searcher::None, Searcher::Automaton)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vector_search_takes_the_anchors() {
        assert!(ANCHORS.len() <= 64 && ANCHORS.iter().all(|(word, _)| word.len() >= 4), "{}", ANCHORS.len());
        assert!(!matches!(Searcher::get(), Searcher::None));
    }
}
