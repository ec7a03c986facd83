//! Licences: which are allowed, and what the licence files of a folder say.
//!
//! What a dataset's column or a file's SPDX header says is an expression (`MIT OR Apache-2.0`), which is allowed if what it
//! allows is; GNU licences are the same with and without `-only` and `-or-later`. A licence file is compared with the texts
//! of the SPDX list (Dice's coefficient of word pairs, as askalono does it). Of a folder with several such files any may be
//! chosen, as is the custom of those who have LICENSE-MIT beside LICENSE-APACHE.

use crate::error::Error;
use spdx::detection::{Store, TextData, scan::Scanner};
use spdx::{Expression, LicenseItem, LicenseReq, ParseMode};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// A longer file is no licence; the longest of the list has 40 KB.
const MAX_BYTES: u64 = 256 << 10;
/// Less likeness than this is another text; askalono's advice is 0.9 for whole files.
const MIN_LIKENESS: f32 = 0.9;
/// Where an SPDX header stands, in bytes from the start.
const HEADER_BYTES: usize = 2048;
const HEADER: &str = "SPDX-License-Identifier:";

/// The licences that are allowed.
pub(crate) struct Allowed(Vec<String>);

impl Allowed {
    /// # Errors
    /// A name that is no SPDX identifier.
    pub(crate) fn new(names: &[String]) -> Result<Self, Error> {
        let all = names.iter().map(|name| {
            identifier(name).map(plain).ok_or_else(|| Error::Option {
                name: "licenses",
                found: format!("`{name}`"),
                expected: "SPDX identifiers, such as MIT, Apache-2.0, BSD-3-Clause, GPL-3.0",
            })
        });
        Ok(Allowed(all.collect::<Result<_, _>>()?))
    }

    /// Whether a document under `license`, an SPDX expression, may be taken. One whose licence is not known may not.
    pub(crate) fn allow(&self, license: Option<&str>) -> bool {
        let Some(expression) = license.and_then(parse) else {
            return false;
        };
        expression.evaluate(|requirement: &LicenseReq| match &requirement.license {
            LicenseItem::Spdx { id, .. } => self.0.contains(&plain(id.name)),
            LicenseItem::Other { .. } => false,
        })
    }
}

/// An expression, whatever the case of its words: datasets have `apache-2.0`.
fn parse(text: &str) -> Option<Expression> {
    let mut canonical = String::with_capacity(text.len());
    for word in text.split_inclusive([' ', '(', ')']) {
        let (word, end) = word.split_at(word.trim_end_matches([' ', '(', ')']).len());
        match identifier(word) {
            Some(name) => canonical += name,
            None if ["or", "and", "with"].contains(&&*word.to_ascii_lowercase()) => {
                canonical += &word.to_ascii_uppercase();
            }
            None => canonical += word,
        }
        canonical += end;
    }
    Expression::parse_mode(&canonical, ParseMode::LAX).ok()
}

/// The identifier of the SPDX list that `name` is, whatever its case.
fn identifier(name: &str) -> Option<&'static str> {
    spdx::identifiers::LICENSES
        .iter()
        .map(|license| license.name)
        .find(|known| known.eq_ignore_ascii_case(name))
}

/// An identifier without what the GNU licences have behind theirs.
fn plain(name: &str) -> String {
    let name = name.strip_suffix("-only").or(name.strip_suffix("-or-later")).unwrap_or(name);
    name.to_ascii_lowercase()
}

/// The expression of an SPDX header in the first lines of a document.
pub(crate) fn of_header(text: &str) -> Option<String> {
    let mut end = text.len().min(HEADER_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let (_, rest) = text[..end].split_once(HEADER)?;
    let line = rest.lines().next()?.trim();
    let line = line.trim_end_matches(['*', '/', '-', '>', '#', '"', '\'']).trim();
    parse(line).map(|_| line.to_owned())
}

/// Whether a file of this name holds a licence.
pub(crate) fn is_license_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let stem = name.split(['.', '-', '_']).next().unwrap_or("");
    ["license", "licence", "copying", "unlicense"].contains(&stem)
        && [".md", ".txt", ".rst", ""].iter().any(|end| {
            let rest = name.strip_suffix(end).unwrap_or(&name);
            !rest.contains('.') || rest.rsplit('.').next().is_some_and(|part| part.parse::<u8>().is_ok())
        })
}

/// The licence files of a folder and those below it.
#[derive(Default)]
pub(crate) struct LicenseFiles {
    /// By the folder that they stand in.
    files: HashMap<PathBuf, Vec<PathBuf>>,
    /// What they say, once it was asked.
    found: HashMap<PathBuf, Option<Arc<str>>>,
}

impl LicenseFiles {
    /// Adds a file whose name is that of a licence.
    pub(crate) fn add(&mut self, file: &Path) {
        let folder = file.parent().unwrap_or(Path::new("")).to_owned();
        self.files.entry(folder).or_default().push(file.to_owned());
    }

    /// What tells the licence files from those of another time: name, size and time of each.
    pub(crate) fn stamps(&self) -> Vec<String> {
        let mut paths: Vec<&PathBuf> = self.files.values().flatten().collect();
        paths.sort();
        let stamp = |path: &&PathBuf| {
            let metadata = path.metadata().ok();
            let modified = metadata.as_ref().and_then(|metadata| metadata.modified().ok());
            format!("{path:?} {:?} {modified:?}", metadata.map(|metadata| metadata.len()))
        };
        paths.iter().map(stamp).collect()
    }

    /// The licence of a file: what the licence files say in its folder, or the nearest above it that has any.
    pub(crate) fn of(&mut self, file: &Path) -> Option<Arc<str>> {
        let folder = file.ancestors().skip(1).find(|folder| self.files.contains_key(*folder))?;
        if let Some(found) = self.found.get(folder) {
            return found.clone();
        }
        let mut names: Vec<String> =
            self.files[folder].iter().filter_map(|file| recognize(&read(file)?)).collect();
        names.sort();
        names.dedup();
        let expression = (!names.is_empty()).then(|| Arc::from(names.join(" OR ")));
        self.found.insert(folder.to_owned(), expression.clone());
        expression
    }
}

fn read(path: &Path) -> Option<String> {
    let is_small = path.metadata().is_ok_and(|metadata| metadata.len() <= MAX_BYTES);
    // A licence that cannot be read is not known, and what needs one is then not taken.
    is_small.then(|| std::fs::read_to_string(path).ok()).flatten()
}

/// The licence that a text is.
fn recognize(text: &str) -> Option<String> {
    static STORE: OnceLock<Option<Store>> = OnceLock::new();
    let store = STORE.get_or_init(|| Store::load_inline().ok()).as_ref()?;
    let scanner = Scanner::new(store).confidence_threshold(MIN_LIKENESS).optimize(false).max_passes(1);
    scanner.scan(&TextData::new(text)).license.map(|license| license.name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIT: &str = "MIT License\n\nCopyright (c) 2020 A Person\n\nPermission is hereby granted, free of charge, to any \
        person obtaining a copy of this software and associated documentation files (the \"Software\"), to deal in the \
        Software without restriction, including without limitation the rights to use, copy, modify, merge, publish, \
        distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is furnished \
        to do so, subject to the following conditions:\n\nThe above copyright notice and this permission notice shall be \
        included in all copies or substantial portions of the Software.\n\nTHE SOFTWARE IS PROVIDED \"AS IS\", WITHOUT \
        WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS \
        FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY \
        CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN \
        CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.\n";

    #[test]
    fn expressions() {
        let allowed = Allowed::new(&["mit".into(), "GPL-3.0".into()]).expect("known licences");
        for yes in [
            "MIT",
            "mit",
            "GPL-3.0-only",
            "gpl-3.0",
            "Apache-2.0 OR MIT",
            "GPL-3.0-or-later",
            "MIT AND GPL-3.0",
        ] {
            assert!(allowed.allow(Some(yes)), "{yes}");
        }
        for no in ["Apache-2.0", "MIT AND Apache-2.0", "", "other", "NOASSERTION", "GPL-2.0", "MIT OR"] {
            assert!(!allowed.allow(Some(no)), "{no}");
        }
        assert!(!allowed.allow(None));
        assert!(Allowed::new(&["my own".into()]).is_err());
    }

    #[test]
    fn headers() {
        assert_eq!(
            of_header("// SPDX-License-Identifier: MIT OR Apache-2.0\nx").as_deref(),
            Some("MIT OR Apache-2.0")
        );
        assert_eq!(of_header("/* SPDX-License-Identifier: MIT */").as_deref(), Some("MIT"));
        assert_eq!(of_header("// SPDX-License-Identifier: whatever it takes"), None);
        assert_eq!(of_header(&format!("{}é", "x".repeat(HEADER_BYTES - 1))), None);
    }

    #[test]
    fn names_of_licence_files() {
        for yes in
            ["LICENSE", "LICENCE.txt", "COPYING", "license.md", "LICENSE-MIT", "LICENSE-2.0.txt", "UNLICENSE"]
        {
            assert!(is_license_name(yes), "{yes}");
        }
        for no in ["license.rs", "licenses", "README.md", "license_checker.py", "copying.go"] {
            assert!(!is_license_name(no), "{no}");
        }
    }

    #[test]
    fn the_nearest_licence_counts() {
        let dir = tempfile::tempdir().expect("folder");
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("folder");
            std::fs::write(&path, text).expect("file");
            path
        };
        let mut files = LicenseFiles::default();
        files.add(&write("LICENSE-MIT", MIT));
        files.add(&write("vendor/LICENSE", "All rights reserved, and all wrongs too."));
        let of =
            |files: &mut LicenseFiles, name: &str| files.of(&dir.path().join(name)).map(|l| l.to_string());
        assert_eq!(of(&mut files, "src/main.rs").as_deref(), Some("MIT"));
        assert_eq!(of(&mut files, "vendor/a.rs"), None);
    }
}
