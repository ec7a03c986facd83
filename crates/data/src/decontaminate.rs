//! Documents that hold a benchmark, or part of it: a model that has read the answers is measured by nothing.
//!
//! The rule is that of GPT-3 (Brown et al. 2020, appendix C), word for word in code: a document is contaminated if it
//! shares 13 words in a row with a text of the benchmark, punctuation, white space and the case of ASCII letters aside.
//! Of a text with 8 to 12 words the whole is looked for. GPT-3 takes 8 as the least too: fewer words, `return a + b`, are
//! in half of all code, so such texts are counted and not looked for.
//!
//! A benchmark is a file or a folder of them. Every string `prompt`, `canonical_solution`, `content` and `text` in a row
//! of a .jsonl, which may be compressed, is a text, and every other file is one. The texts are not kept: a run of words is a hash of 128 bits
//! (`duplicates::words`), which no other run of words has.

use crate::blob::LocalFile;
use crate::duplicates::words::{CASELESS, MAX_ROLLING, Rolling, Words};
use crate::error::Error;
use crate::read::{MAX_ROW_BYTES, RawRow, Rows, is_rows};
use serde::Deserialize;
use std::collections::HashSet;
use std::fs::File;
use std::hash::{BuildHasherDefault, Hasher};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// Words in a row that are no coincidence.
const GRAM_WORDS: usize = 13;
/// Words of the shortest text that is looked for.
const MIN_WORDS: usize = 8;
/// Most different runs of words, in about 150 MB.
const MAX_GRAMS: usize = 4 << 20;

/// Finds documents that hold part of a benchmark.
pub struct Decontaminator {
    /// By the number of words. Each rolling hash is new, to be copied for a document.
    grams: Vec<(Rolling, Grams)>,
    num_texts: u64,
    num_short_texts: u64,
}

/// Hashes of runs of words, all of the same number.
type Grams = HashSet<u128, BuildHasherDefault<HashedAlready>>;

impl Decontaminator {
    /// Reads a benchmark: a file, or every file in a folder and the folders in it, but hidden ones.
    ///
    /// # Errors
    /// If a file cannot be read or is neither UTF-8 text nor rows with one of the fields, if there is nothing to look
    /// for, or more than about four million different runs of words.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let grams = (MIN_WORDS..=GRAM_WORDS).map(|length| (Rolling::new(length), Grams::default())).collect();
        let mut this = Decontaminator { grams, num_texts: 0, num_short_texts: 0 };
        std::fs::metadata(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let files = ignore::WalkBuilder::new(path)
            .standard_filters(false)
            .hidden(true)
            .follow_links(true)
            .sort_by_file_path(|a, b| a.cmp(b))
            .build();
        for entry in files {
            let entry = entry.map_err(|error| {
                let source = std::io::Error::other(error.to_string());
                Error::Read { path: path.to_owned(), source }
            })?;
            if entry.file_type().is_some_and(|kind| kind.is_file()) {
                this.load_file(entry.path())?;
            }
        }
        this.grams.retain(|(_, grams)| !grams.is_empty());
        if this.grams.is_empty() {
            return Err(Error::Benchmark {
                place: path.display().to_string(),
                expected: "texts of at least 8 words",
                found: format!("{} texts, all of them shorter", this.num_texts),
                hint: "give the folder that holds the prompts",
            });
        }
        Ok(this)
    }

    /// A hash of all that is looked for.
    pub(crate) fn fingerprint(&self) -> u128 {
        let all = self
            .grams
            .iter()
            .flat_map(|(rolling, grams)| grams.iter().map(|hash| hash.rotate_left(rolling.length() as u32)));
        all.fold(0, |sum: u128, hash| sum.wrapping_add(hash))
    }

    /// Texts of the benchmark.
    pub fn num_texts(&self) -> u64 {
        self.num_texts
    }

    /// Those of fewer than 8 words, which are not looked for.
    pub fn num_short_texts(&self) -> u64 {
        self.num_short_texts
    }

    /// Whether a document holds part of the benchmark.
    pub fn is_contaminated(&self, text: &str) -> bool {
        self.passage(text).is_some()
    }

    /// The first passage of a document that is part of the benchmark.
    pub fn passage<'a>(&self, text: &'a str) -> Option<&'a str> {
        let mut rolling: Vec<(Rolling, &Grams, usize)> =
            self.grams.iter().map(|(rolling, grams)| (rolling.clone(), grams, rolling.length())).collect();
        let mut starts = [0; MAX_ROLLING];
        for (number, word) in Words::new(text, &CASELESS).enumerate() {
            starts[number % MAX_ROLLING] = word.start;
            for (rolling, grams, length) in &mut rolling {
                if rolling.push(word.hash).is_some_and(|hash| grams.contains(&hash)) {
                    // Words begin and end beside ASCII or at the ends of the text, so where characters do.
                    return Some(&text[starts[(number + 1 - *length) % MAX_ROLLING]..word.end]);
                }
            }
        }
        None
    }

    fn load_file(&mut self, path: &Path) -> Result<(), Error> {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match extension.as_str() {
            "bz2" | "xz" | "zip" | "parquet" => Err(Error::Benchmark {
                place: path.display().to_string(),
                expected: "text, or .jsonl, which may be compressed with gzip or zstd",
                found: format!("a .{extension} file"),
                hint: "unpack or convert it first",
            }),
            _ if is_rows(&name) => self.load_rows(path),
            _ => self.load_text(path),
        }
    }

    fn load_text(&mut self, path: &Path) -> Result<(), Error> {
        let read = |source| Error::Read { path: path.to_owned(), source };
        let wrong = |found: String| Error::Benchmark {
            place: path.display().to_string(),
            expected: "at most 64 MiB of UTF-8 text",
            found,
            hint: "leave only the benchmark's prompts in the folder",
        };
        let mut bytes = Vec::new();
        File::open(path)
            .map_err(read)?
            .take(MAX_ROW_BYTES as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(read)?;
        if bytes.len() > MAX_ROW_BYTES {
            return Err(wrong("more".to_owned()));
        }
        let text = String::from_utf8(bytes)
            .map_err(|error| wrong(format!("other bytes at {}", error.utf8_error().valid_up_to())))?;
        self.add(&text, &|| path.display().to_string())
    }

    fn load_rows(&mut self, path: &Path) -> Result<(), Error> {
        let mut rows = Rows::open(Arc::new(LocalFile::open(path)?), None)?;
        while let Some(row) = rows.next()? {
            let wrong = |place: String, found: String| Error::Benchmark {
                place,
                expected: "a JSON object with a text in `prompt`, `canonical_solution`, `content` or `text`",
                found,
                hint: "give one such object a line",
            };
            let (name, bytes) = match row {
                RawRow::Json { name, bytes, .. } => (name, bytes),
                RawRow::Broken { reason, .. } => return Err(wrong(reason, "none".to_owned())),
                RawRow::Fields { name, .. } => return Err(wrong(name, "a column".to_owned())),
            };
            // Serde would take a list for the fields in their order.
            if !bytes.trim_ascii_start().starts_with(b"{") {
                return Err(wrong(name, "something else".to_owned()));
            }
            let row: Row =
                serde_json::from_slice(&bytes).map_err(|error| wrong(name.clone(), error.to_string()))?;
            let texts = [row.prompt, row.canonical_solution, row.content, row.text];
            if texts.iter().all(Option::is_none) {
                return Err(wrong(name, "none of them".to_owned()));
            }
            for text in texts.iter().flatten() {
                self.add(text, &|| name.clone())?;
            }
        }
        Ok(())
    }

    /// Adds a text that is at `place`.
    fn add(&mut self, text: &str, place: &dyn Fn() -> String) -> Result<(), Error> {
        self.num_texts += 1;
        let num_words = Words::new(text, &CASELESS).take(GRAM_WORDS).count();
        let Some(longest) = num_words.checked_sub(MIN_WORDS) else {
            self.num_short_texts += 1;
            return Ok(());
        };
        let mut num_grams: usize = self.grams.iter().map(|(_, grams)| grams.len()).sum();
        let (rolling, grams) = &mut self.grams[longest];
        let mut rolling = rolling.clone();
        for hash in Words::new(text, &CASELESS).filter_map(|word| rolling.push(word.hash)) {
            num_grams += usize::from(grams.insert(hash));
            if num_grams > MAX_GRAMS {
                return Err(Error::Benchmark {
                    place: place(),
                    expected: "a benchmark of at most 4194304 different runs of 13 words",
                    found: "more".to_owned(),
                    hint: "leave out what no model is measured by",
                });
            }
        }
        Ok(())
    }
}

/// The fields of a row that are texts. Others may be anything.
#[derive(Deserialize)]
struct Row {
    prompt: Option<String>,
    canonical_solution: Option<String>,
    content: Option<String>,
    text: Option<String>,
}

/// Passes hashes on.
#[derive(Default)]
struct HashedAlready(u64);

impl Hasher for HashedAlready {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, hash: u128) {
        // The upper half depends on every bit of every word.
        self.0 = (hash >> 64) as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMPT: &str = "def close(numbers: List[float], threshold: float) -> bool:\n    \"\"\" Check if in given list \
                          of numbers, are any two numbers closer to each other than given threshold.\"\"\"\n";

    fn load(files: &[(&str, &[u8])]) -> Result<Decontaminator, Error> {
        let dir = tempfile::tempdir().expect("folder");
        for (name, bytes) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("folder");
            std::fs::write(path, bytes).expect("file");
        }
        Decontaminator::load(dir.path())
    }

    fn words(range: std::ops::Range<usize>) -> String {
        range.map(|i| format!("word{i} ")).collect()
    }

    #[test]
    fn thirteen_words_are_enough_and_twelve_are_not() {
        let texts = load(&[("a.txt", words(0..40).as_bytes())]).expect("a benchmark");
        for start in [0, 1, 13, 27] {
            let text = format!("something before, {}; and after", words(start..start + 13));
            assert_eq!(texts.passage(&text), Some(words(start..start + 13).trim()), "{start}");
            let text = format!("something before {} and after", words(start..start + 12));
            assert!(!texts.is_contaminated(&text), "{start}");
        }
        assert!(!texts.is_contaminated(""));
        assert_eq!((texts.num_texts(), texts.num_short_texts()), (1, 0));
    }

    #[test]
    fn case_and_punctuation_do_not_matter() {
        let row = serde_json::json!({"task_id": 3, "prompt": PROMPT, "canonical_solution": "return a + b"});
        let texts = load(&[("HumanEval.jsonl", format!("{row}\n\n").as_bytes())]).expect("a benchmark");
        assert!(texts.is_contaminated(PROMPT));
        assert!(texts.is_contaminated(&PROMPT.to_uppercase().replace(' ', "\n\t")));
        assert!(texts.is_contaminated(&format!("# é {}", PROMPT.replace(',', ";"))));
        assert!(
            !texts.is_contaminated("def add(a, b):\n    return a + b\n"),
            "a short text is in everything"
        );
        assert_eq!((texts.num_texts(), texts.num_short_texts()), (2, 1));
    }

    #[test]
    fn of_a_shorter_text_the_whole_is_looked_for() {
        for length in MIN_WORDS..GRAM_WORDS {
            let texts = load(&[("sub/a.py", words(0..length).as_bytes())]).expect("a benchmark");
            assert!(texts.is_contaminated(&format!("é{{{}}}", words(0..length))));
            assert!(!texts.is_contaminated(&words(1..length + 30)));
            assert!(!texts.is_contaminated(&words(0..length - 1)));
        }
    }

    #[test]
    fn a_long_document_is_found_by_its_last_words() {
        let texts =
            load(&[("a", words(0..14).as_bytes()), ("b", words(100..109).as_bytes())]).expect("a benchmark");
        let long = words(1000..30_000);
        assert!(!texts.is_contaminated(&long));
        assert!(texts.is_contaminated(&(long.clone() + &words(1..14))));
        assert_eq!(texts.passage(&(long + &words(100..109))), Some(words(100..109).trim()));
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        let error = |files: &[(&str, &[u8])]| match load(files) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("accepted"),
        };
        let good = words(0..20);
        for (files, parts) in [
            (
                vec![("a.jsonl", &b"{\"prompt\":\"x\"}\n{\"prompt\":3}\n"[..])],
                ["a.jsonl:2", "expected a string"],
            ),
            (vec![("a.jsonl", b"{\"prompt\":\"x\"}\n{\"x\":\"y\"}\n")], ["a.jsonl:2", "none of them"]),
            (vec![("a.json", b"[\"w\", \"x\", \"y\", \"z\"]")], ["a.json:1", "one such object a line"]),
            (vec![("a.jsonl", b"{\"prompt\":")], ["a.jsonl:1", "EOF"]),
            (vec![("a.txt", good.as_bytes()), ("b.txt", b"ab\xff")], ["b.txt", "other bytes at 2"]),
            (vec![("a.jsonl.xz", b"\xfd7zXZ")], ["a.jsonl.xz", "unpack"]),
            (vec![("a.txt", b"one two three"), (".hidden", good.as_bytes())], ["8 words", "1 texts"]),
            (vec![], ["8 words", "0 texts"]),
        ] {
            let error = error(&files);
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
        let missing = Decontaminator::load(Path::new("/nowhere/at/all"));
        assert!(matches!(missing, Err(Error::Read { .. })));
    }

    #[test]
    fn a_benchmark_larger_than_memory_allows_is_refused() {
        let mut text = String::new();
        for i in 0..=MAX_GRAMS as u32 + 12 {
            text += &format!("{i:x} ");
        }
        let error = load(&[("all.txt", text.as_bytes())]).err().expect("an error").to_string();
        assert!(error.contains("all.txt") && error.contains("4194304"), "{error}");
    }
}
