//! Which documents are worth learning from. Every filter has a name, which is its setting's, and is counted under it.
//!
//! Owns the settings, what each means, and the order in which they are asked: the cheap ones first. Duplicates are found
//! elsewhere, since whether a document is one depends on those before it.

mod heuristics;
mod license;

use crate::decontaminate::Decontaminator;
use crate::error::Error;
use crate::language::Language;
use crate::source::Document;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use serde::Serialize;
use std::path::PathBuf;

pub(crate) use license::{LicenseFiles, is_license_name, of_header};

use license::Allowed;

/// Bytes looked at for a NUL.
const BINARY_PREFIX: usize = 8 << 10;

/// The filters and their settings. The default is what is right for code of unknown origin.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Filters {
    /// Larger documents are skipped, in UTF-8 bytes; 0: none is.
    pub max_document_bytes: u64,
    /// Documents with a longer line are skipped, in characters; 0: none is. codeparrot's limit is 1,000.
    pub max_line_length: usize,
    /// Documents whose lines are longer on average are skipped, in characters; 0: none is. codeparrot's limit is 100.
    pub max_mean_line_length: usize,
    /// Documents with a smaller share of letters and digits are skipped. codeparrot's limit is 0.25.
    pub min_alphanumeric: f64,
    /// Skip documents that say in their first lines that a program wrote them.
    pub skip_generated: bool,
    /// Take only documents that hold one of these; all, if there is none. The course's are pandas, sklearn, matplotlib
    /// and seaborn.
    pub keywords: Vec<String>,
    /// Take only documents in these languages; all, if there is none.
    pub languages: Vec<String>,
    /// Take only documents whose path matches one of these patterns; all, if there is none. A pattern without a slash is
    /// one of file names.
    pub include_paths: Vec<String>,
    /// Skip documents whose path matches one of these patterns.
    pub exclude_paths: Vec<String>,
    /// Take only documents under these licences (SPDX identifiers); all, if there is none.
    pub licenses: Vec<String>,
    /// Skip documents equal to one before.
    pub skip_duplicates: bool,
    /// Skip documents that are nearly one before, when data are prepared.
    pub skip_near_duplicates: bool,
    /// Skip documents that hold part of the benchmark in this file or folder.
    pub decontaminate: Option<PathBuf>,
}

impl Default for Filters {
    fn default() -> Self {
        Filters {
            max_document_bytes: 1_000_000,
            max_line_length: 1000,
            max_mean_line_length: 100,
            min_alphanumeric: 0.25,
            skip_generated: true,
            skip_duplicates: true,
            ..Filters::none()
        }
    }
}

impl Filters {
    /// Every document that has a text, as it is.
    pub fn none() -> Self {
        Filters {
            max_document_bytes: 0,
            max_line_length: 0,
            max_mean_line_length: 0,
            min_alphanumeric: 0.0,
            skip_generated: false,
            keywords: Vec::new(),
            languages: Vec::new(),
            include_paths: Vec::new(),
            exclude_paths: Vec::new(),
            licenses: Vec::new(),
            skip_duplicates: false,
            skip_near_duplicates: false,
            decontaminate: None,
        }
    }
}

macro_rules! reasons {
    ($($variant:ident = $name:literal, $words:literal;)*) => {
        /// Why something was skipped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason {
            $(#[doc = $words] $variant,)*
        }

        impl Reason {
            /// All of them, in the order of a report.
            pub const ALL: &[Reason] = &[$(Reason::$variant,)*];

            /// Its key in reports: the setting that decides it, where there is one.
            pub fn name(self) -> &'static str {
                match self {
                    $(Reason::$variant => $name,)*
                }
            }

            /// In words.
            pub fn words(self) -> &'static str {
                match self {
                    $(Reason::$variant => $words,)*
                }
            }
        }
    };
}

reasons! {
    NotCode = "not_code", "not source code by name";
    Binary = "binary", "binary";
    NotUtf8 = "not_utf8", "not UTF-8";
    Empty = "empty", "empty";
    Unreadable = "unreadable", "unreadable";
    BrokenRow = "broken_rows", "broken rows";
    BrokenFile = "broken_files", "broken files";
    Excluded = "exclude_paths", "excluded by path";
    NotIncluded = "include_paths", "not included by path";
    Language = "languages", "in other languages";
    License = "licenses", "under other licences, or none that is known";
    TooLarge = "max_document_bytes", "too large";
    LongLine = "max_line_length", "with very long lines";
    LongLines = "max_mean_line_length", "with long lines on average";
    FewLetters = "min_alphanumeric", "of few letters and digits";
    Generated = "skip_generated", "written by a program";
    Keywords = "keywords", "without a keyword";
    Contaminated = "decontaminate", "with part of a benchmark";
    Duplicate = "skip_duplicates", "exact duplicates";
    NearDuplicate = "skip_near_duplicates", "near duplicates";
}

/// The filters, ready to be asked.
pub(crate) struct Judge {
    filters: Filters,
    languages: Vec<Language>,
    include: Option<GlobSet>,
    exclude: GlobSet,
    keywords: Option<aho_corasick::AhoCorasick>,
    licenses: Option<Allowed>,
    benchmark: Option<Decontaminator>,
}

impl Judge {
    /// # Errors
    /// Settings that mean nothing: a language or licence that nobody knows, a pattern that is none; a benchmark that cannot be
    /// read.
    pub(crate) fn new(filters: &Filters) -> Result<Self, Error> {
        let is_some = |list: &[String]| !list.is_empty();
        if !(0.0..=1.0).contains(&filters.min_alphanumeric) {
            let found = filters.min_alphanumeric.to_string();
            return Err(Error::Option { name: "min_alphanumeric", found, expected: "a share, from 0 to 1" });
        }
        if let Some(empty) = filters.keywords.iter().find(|word| word.is_empty()) {
            let found = format!("`{empty}`");
            return Err(Error::Option { name: "keywords", found, expected: "words that are not empty" });
        }
        let keywords = is_some(&filters.keywords).then(|| aho_corasick::AhoCorasick::new(&filters.keywords));
        let keywords = keywords.transpose().map_err(|error| Error::Option {
            name: "keywords",
            found: error.to_string(),
            expected: "fewer or shorter words",
        })?;
        Ok(Judge {
            languages: filters.languages.iter().map(|name| language(name)).collect::<Result<_, _>>()?,
            include: is_some(&filters.include_paths)
                .then(|| patterns("include_paths", &filters.include_paths))
                .transpose()?,
            exclude: patterns("exclude_paths", &filters.exclude_paths)?,
            keywords,
            licenses: is_some(&filters.licenses).then(|| Allowed::new(&filters.licenses)).transpose()?,
            benchmark: filters.decontaminate.as_deref().map(Decontaminator::load).transpose()?,
            filters: filters.clone(),
        })
    }

    /// A hash of what filters say beside their settings.
    pub(crate) fn fingerprint(&self) -> u128 {
        self.benchmark.as_ref().map_or(0, Decontaminator::fingerprint)
    }

    /// Whether a document's licence has to be known.
    pub(crate) fn needs_licenses(&self) -> bool {
        self.licenses.is_some()
    }

    /// The first filter that a document does not pass.
    pub(crate) fn check(&self, document: &Document) -> Option<Reason> {
        self.check_facts(document).or_else(|| self.check_text(&document.text))
    }

    /// What its name, language and licence say.
    fn check_facts(&self, document: &Document) -> Option<Reason> {
        if self.exclude.is_match(&document.path) {
            return Some(Reason::Excluded);
        }
        if self.include.as_ref().is_some_and(|include| !include.is_match(&document.path)) {
            return Some(Reason::NotIncluded);
        }
        let is_wanted = |language: Language| self.languages.contains(&language);
        if !self.languages.is_empty() && !document.language.is_some_and(is_wanted) {
            return Some(Reason::Language);
        }
        let allowed = self.licenses.as_ref();
        allowed.is_some_and(|allowed| !allowed.allow(document.license.as_deref())).then_some(Reason::License)
    }

    /// What its text says.
    fn check_text(&self, text: &str) -> Option<Reason> {
        let Filters { max_document_bytes, max_line_length, max_mean_line_length, .. } = self.filters;
        if max_document_bytes > 0 && text.len() as u64 > max_document_bytes {
            return Some(Reason::TooLarge);
        }
        if max_line_length > 0 || max_mean_line_length > 0 {
            let lines = heuristics::Lines::of(text);
            if max_line_length > 0 && lines.longest > max_line_length {
                return Some(Reason::LongLine);
            }
            if max_mean_line_length > 0 && lines.mean() > max_mean_line_length as f64 {
                return Some(Reason::LongLines);
            }
        }
        if self.filters.min_alphanumeric > 0.0
            && heuristics::share_of_alphanumeric(text) < self.filters.min_alphanumeric
        {
            return Some(Reason::FewLetters);
        }
        if self.filters.skip_generated && heuristics::is_generated(text) {
            return Some(Reason::Generated);
        }
        let has_none = |keywords: &aho_corasick::AhoCorasick| !keywords.is_match(text);
        if self.keywords.as_ref().is_some_and(has_none) {
            return Some(Reason::Keywords);
        }
        let is_in = |benchmark: &Decontaminator| benchmark.is_contaminated(text);
        self.benchmark.as_ref().is_some_and(is_in).then_some(Reason::Contaminated)
    }
}

/// The text of a file, or why it has none.
pub(crate) fn text_of(bytes: Vec<u8>) -> Result<String, Reason> {
    if bytes[..bytes.len().min(BINARY_PREFIX)].contains(&0) {
        return Err(Reason::Binary);
    }
    String::from_utf8(bytes).map_err(|_| Reason::NotUtf8)
}

fn language(name: &str) -> Result<Language, Error> {
    let distance = |language: Language| strsim::damerau_levenshtein(&name.to_lowercase(), language.name());
    let nearest = || Language::all().map(|language| (distance(language), language.name())).min();
    let hint = |(distance, nearest): (usize, &str)| {
        (distance * 3 <= name.len()).then(|| format!(", did you mean `{nearest}`?"))
    };
    Language::named(name).ok_or_else(|| Error::Option {
        name: "languages",
        found: format!("`{name}`{}", nearest().and_then(hint).unwrap_or_default()),
        expected: "languages by their names, such as python, rust, c++, javascript, shell",
    })
}

fn patterns(name: &'static str, patterns: &[String]) -> Result<GlobSet, Error> {
    let bad = |pattern: &str, error: globset::Error| Error::Option {
        name,
        found: format!("`{pattern}` ({})", error.kind()),
        expected: "patterns such as *.py, tests/** or {src,lib}/*.rs",
    };
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let anywhere = if pattern.contains('/') { pattern.clone() } else { format!("**/{pattern}") };
        let glob = GlobBuilder::new(&anywhere).literal_separator(true).build();
        set.add(glob.map_err(|error| bad(pattern, error))?);
    }
    set.build().map_err(|error| bad(&patterns.join(" "), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "fn main() {\n    println!(\"hello\");\n}\n";

    fn reason(filters: &Filters, path: &str, text: &str) -> Option<&'static str> {
        let document = Document { language: Language::of_path(path), ..Document::new(path, text) };
        Judge::new(filters).expect("filters").check(&document).map(Reason::name)
    }

    #[test]
    fn every_filter_by_its_name() {
        let usual = Filters::default();
        assert_eq!(reason(&usual, "a.rs", CODE), None);
        for (text, name) in [
            ("x = 1\n".repeat(200_000), "max_document_bytes"),
            ("x=1;".repeat(300), "max_line_length"),
            (format!("{}\n", "x = 1; ".repeat(20)).repeat(3), "max_mean_line_length"),
            ("{}{}{};;;;\n((()))\n".to_owned(), "min_alphanumeric"),
            (format!("// AUTO-GENERATED by x\n{CODE}"), "skip_generated"),
        ] {
            assert_eq!(reason(&usual, "a.rs", &text), Some(name));
            assert_eq!(reason(&Filters::none(), "a.rs", &text), None);
        }
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let only = Filters { keywords: words(&["pandas", "sklearn"]), ..Filters::none() };
        assert_eq!(reason(&only, "a.py", "import pandas as pd"), None);
        assert_eq!(reason(&only, "a.py", "import numpy as np"), Some("keywords"));
        let only = Filters { languages: words(&["Python", "c++"]), ..Filters::none() };
        assert_eq!(reason(&only, "a.py", ""), None);
        assert_eq!(reason(&only, "a.rs", ""), Some("languages"));
        let only = Filters {
            include_paths: words(&["*.{py,rs}"]),
            exclude_paths: words(&["**/tests/**", "setup.py"]),
            ..Filters::none()
        };
        assert_eq!(reason(&only, "a/b/c.py", ""), None);
        assert_eq!(reason(&only, "a/b/c.go", ""), Some("include_paths"));
        assert_eq!(reason(&only, "a/tests/b/c.py", ""), Some("exclude_paths"));
        assert_eq!(reason(&only, "a/setup.py", ""), Some("exclude_paths"));
    }

    #[test]
    fn settings_that_mean_nothing() {
        let error = |filters: Filters| Judge::new(&filters).err().map(|e| e.to_string()).unwrap_or_default();
        let one = |word: &str| vec![word.to_owned()];
        assert!(
            error(Filters { languages: one("pyhton"), ..Filters::none() }).contains("did you mean `python`?")
        );
        assert!(error(Filters { include_paths: one("a{b"), ..Filters::none() }).contains("a{b"));
        assert!(error(Filters { keywords: one(""), ..Filters::none() }).contains("keywords"));
        assert!(error(Filters { min_alphanumeric: 25.0, ..Filters::none() }).contains("from 0 to 1"));
        assert!(error(Filters { licenses: one("no such licence"), ..Filters::none() }).contains("SPDX"));
    }

    #[test]
    fn bytes_without_a_text() {
        assert_eq!(text_of(vec![b'a', 0, b'b']), Err(Reason::Binary));
        assert_eq!(text_of(vec![0xff, 0xfe]), Err(Reason::NotUtf8));
        assert_eq!(text_of(b"a".to_vec()), Ok("a".into()));
    }
}
