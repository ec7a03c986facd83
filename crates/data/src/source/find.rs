//! From arguments to the files that they name, in the order of the arguments and of names.

use crate::blob::{Blob, LocalFile};
use crate::error::Error;
use crate::filter::{LicenseFiles, Reason, is_license_name};
use crate::hub::{Dataset, HubId, HubOptions};
use crate::language::Language;
use crate::read::is_rows;
use crate::report::SourceReport;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

/// What an argument that means the hub begins with.
pub(super) const HUB: &str = "hub:";

/// What is to be read.
pub(super) enum Source {
    File { path: PathBuf, name: String },
    Rows(RowsFile),
}

/// A file of rows, here or on the hub.
pub(super) enum RowsFile {
    Local(PathBuf),
    /// A file of a dataset, by its number.
    Hub(Arc<Dataset>, usize),
}

impl RowsFile {
    /// Its bytes; a file of the hub may be downloaded for them.
    pub(super) fn blob(&self) -> Result<Arc<dyn Blob>, Error> {
        match self {
            RowsFile::Local(path) => Ok(Arc::new(LocalFile::open(path)?)),
            RowsFile::Hub(dataset, number) => dataset.blob(*number),
        }
    }
}

impl Source {
    /// What tells it from what was there at another time: name, size, and time or commit.
    pub(super) fn stamp(&self) -> String {
        match self {
            Source::File { path, .. } | Source::Rows(RowsFile::Local(path)) => {
                let metadata = path.metadata().ok();
                let size = metadata.as_ref().map(std::fs::Metadata::len);
                let modified = metadata.and_then(|metadata| metadata.modified().ok());
                let since = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
                format!("{path:?} {size:?} {:?}", since.map(|time| time.as_nanos()))
            }
            Source::Rows(RowsFile::Hub(dataset, number)) => {
                let file = &dataset.files()[*number];
                format!("{} {} {}", dataset.commit(), file.path, file.size)
            }
        }
    }
}

/// What arguments name.
#[derive(Default)]
pub(super) struct Found {
    pub(super) sources: VecDeque<Source>,
    pub(super) licenses: LicenseFiles,
    /// What was passed over on the way.
    pub(super) report: SourceReport,
    /// Each argument, a git repository or a dataset of the hub with its commit.
    pub(super) origins: Vec<String>,
    /// What was chosen of datasets of the hub, for people.
    pub(super) notes: Vec<String>,
}

impl Found {
    /// Adds what `argument` names.
    pub(super) fn add(&mut self, argument: &str, hub: &HubOptions) -> Result<(), Error> {
        if argument.starts_with(HUB) {
            return self.add_dataset(argument, hub);
        }
        refuse_unsupported(argument)?;
        let path = Path::new(argument);
        let commit = commit_of(path).map_or(String::new(), |commit| format!("@{commit}"));
        self.origins.push(format!("{argument}{commit}"));
        if path.exists() {
            return self.add_path(path);
        }
        let not_found = || Error::NotFound { data: argument.to_owned() };
        let matches = glob::glob(argument).map_err(|_| not_found())?;
        let mut paths = Vec::new();
        for found in matches {
            match found {
                Ok(path) => paths.push(path),
                Err(error) => self.unreadable(&error),
            }
        }
        if paths.is_empty() {
            return Err(not_found());
        }
        paths.sort();
        for path in paths {
            refuse_unsupported(&path.to_string_lossy())?;
            self.add_path(&path)?;
        }
        Ok(())
    }

    fn add_dataset(&mut self, argument: &str, hub: &HubOptions) -> Result<(), Error> {
        let dataset = Arc::new(Dataset::resolve(&HubId::parse(argument)?, hub)?);
        self.origins.push(format!("{argument}@{}", dataset.commit()));
        self.notes.push(dataset.summary().to_owned());
        let files = 0..dataset.files().len();
        self.sources.extend(files.map(|number| Source::Rows(RowsFile::Hub(dataset.clone(), number))));
        Ok(())
    }

    fn add_path(&mut self, path: &Path) -> Result<(), Error> {
        if path.is_dir() {
            return self.walk(path);
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let path = path.to_owned();
        self.sources.push_back(if is_rows(&name) {
            Source::Rows(RowsFile::Local(path))
        } else {
            Source::File { path, name }
        });
        Ok(())
    }

    /// Adds all files of a folder that git would not ignore, by name. Links are not followed.
    fn walk(&mut self, folder: &Path) -> Result<(), Error> {
        std::fs::read_dir(folder).map_err(Error::read(folder))?;
        let walker = ignore::WalkBuilder::new(folder)
            .require_git(false)
            .git_global(false)
            .sort_by_file_path(|a, b| a.cmp(b))
            .build();
        for entry in walker {
            match entry {
                Ok(entry) if entry.file_type().is_some_and(|kind| kind.is_file()) => {
                    let path = entry.into_path();
                    let name = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
                    if path.file_name().and_then(|name| name.to_str()).is_some_and(is_license_name) {
                        self.licenses.add(&path);
                    }
                    if Language::of_path(&name).is_some() || path.extension().is_none() {
                        self.sources.push_back(Source::File { path, name });
                    } else {
                        self.report.skip(Reason::NotCode, 0);
                    }
                }
                Ok(_) => {}
                Err(error) => self.unreadable(&error),
            }
        }
        Ok(())
    }

    /// Counts a folder that cannot be looked into.
    fn unreadable(&mut self, error: &dyn std::error::Error) {
        self.report.skip(Reason::Unreadable, 0);
        self.report.example(|| error.to_string());
    }
}

fn refuse_unsupported(argument: &str) -> Result<(), Error> {
    let is = |end: &str| argument.ends_with(end);
    let (kind, hint) = if is(".bz2") || is(".xz") {
        ("compressed with bzip2 or xz", "compress it with zstd or gzip instead")
    } else if (is(".gz") || is(".zst")) && !is_rows(argument) {
        ("compressed, and not .jsonl, .ndjson or .json by its name", "decompress it first")
    } else {
        return Ok(());
    };
    Err(Error::Unsupported { data: argument.to_owned(), kind, hint })
}

/// The commit that a git repository is at, as its files say: HEAD, and the reference that it names, loose or packed.
fn commit_of(folder: &Path) -> Option<String> {
    let git = folder.join(".git");
    let is_hash = |text: &str| text.len() >= 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let head = std::fs::read_to_string(git.join("HEAD")).ok()?;
    let Some(reference) = head.trim().strip_prefix("ref: ") else {
        return Some(head.trim().to_owned()).filter(|hash| is_hash(hash));
    };
    if reference.split('/').any(|part| part == "..") {
        return None;
    }
    let loose = std::fs::read_to_string(git.join(reference)).ok();
    let packed = || {
        let refs = std::fs::read_to_string(git.join("packed-refs")).ok()?;
        let line =
            refs.lines().find(|line| line.split_once(' ').is_some_and(|(_, name)| name == reference))?;
        line.split_once(' ').map(|(hash, _)| hash.to_owned())
    };
    loose.or_else(packed).map(|hash| hash.trim().to_owned()).filter(|hash| is_hash(hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn commits_of_repositories() {
        let dir = tempfile::tempdir().expect("folder");
        let git = dir.path().join(".git");
        assert_eq!(commit_of(dir.path()), None);
        fs::create_dir_all(git.join("refs/heads")).expect("folder");
        let (one, two) = ("1".repeat(40), "2".repeat(40));
        fs::write(git.join("HEAD"), "ref: refs/heads/main\n").expect("file");
        assert_eq!(commit_of(dir.path()), None, "no commit yet");
        fs::write(git.join("packed-refs"), format!("# pack-refs\n{one} refs/heads/main\n")).expect("file");
        assert_eq!(commit_of(dir.path()), Some(one.clone()));
        fs::write(git.join("refs/heads/main"), format!("{two}\n")).expect("file");
        assert_eq!(commit_of(dir.path()), Some(two));
        fs::write(git.join("HEAD"), format!("{one}\n")).expect("file");
        assert_eq!(commit_of(dir.path()), Some(one));
        fs::write(git.join("HEAD"), "ref: ../../secret").expect("file");
        assert_eq!(commit_of(dir.path()), None);
    }
}
