//! The hidden folder beside the output, in which shards grow until they are whole, read as anybody could.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The journals as they are written, before they take their names.
const REPLACING: [&str; 2] = ["near.json.new", "journal.json.new"];
const JOURNALS: [&str; 2] = ["near.json", "journal.json"];
/// The last files of shards that are written, without and with a part for validation.
const INDEXES: [&str; 2] = ["shards/index.json", "shards/train/index.json"];

/// The folder beside one output.
pub(super) struct Hidden(PathBuf);

/// How far what is durable goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    /// Signatures of the first reading, where near duplicates are sought.
    pub(super) num_signatures: u64,
    /// Documents whose tokens are written.
    pub(super) num_documents: u64,
}

impl Hidden {
    /// The one of the output `out`.
    pub(super) fn beside(out: &Path) -> Self {
        let name = out.file_name().unwrap_or_default().to_string_lossy();
        Hidden(out.with_file_name(format!(".{name}.eyas-prepare")))
    }

    /// Whether it is there.
    pub(super) fn exists(&self) -> bool {
        self.0.exists()
    }

    /// Where older shards lie while others take their place.
    pub(super) fn aside(&self) -> PathBuf {
        self.0.join("replaced")
    }

    /// Whether older shards lie in it.
    pub(super) fn holds_older(&self) -> bool {
        self.aside().exists()
    }

    /// Where shards grow.
    pub(super) fn shards(&self) -> PathBuf {
        self.0.join("shards")
    }

    /// Whether the shards are in it, not in their place yet.
    pub(super) fn has_shards(&self) -> bool {
        self.shards().exists()
    }

    /// Whether a journal is being written, or was when the process died.
    pub(super) fn is_replacing(&self) -> bool {
        self.journal_begun().is_some()
    }

    /// When the journal was last written to that is not in its place yet; `None` if there is none.
    pub(super) fn journal_begun(&self) -> Option<SystemTime> {
        self.changed(REPLACING)
    }

    /// When the index of the shards was written; `None` before.
    pub(super) fn index_begun(&self) -> Option<SystemTime> {
        self.changed(INDEXES)
    }

    /// When a journal was last replaced; `None` if there is none.
    pub(super) fn journal_changed(&self) -> Option<SystemTime> {
        self.changed(JOURNALS)
    }

    fn changed(&self, names: [&str; 2]) -> Option<SystemTime> {
        let changed = |name: &str| fs::metadata(self.0.join(name)).and_then(|found| found.modified()).ok();
        names.into_iter().filter_map(changed).max()
    }

    /// What the journals tell, and how many documents the process that wrote the last one had gone on behind. One that cannot
    /// be read tells nothing, to eyas as well.
    pub(super) fn position(&self) -> (Position, u64) {
        let read = |name: &str| -> Value {
            let text = fs::read(self.0.join(name)).unwrap_or_default();
            serde_json::from_slice(&text).unwrap_or_default()
        };
        let number =
            |journal: &Value, place: &str| journal.pointer(place).and_then(Value::as_u64).unwrap_or(0);
        // Once the shards are in their place, a journal that is still there tells of nothing.
        let journal = if self.has_shards() { read(JOURNALS[1]) } else { Value::Null };
        let position = Position {
            num_signatures: number(&read(JOURNALS[0]), "/journal/num_signatures"),
            num_documents: number(&journal, "/journal/done/num_documents"),
        };
        (position, number(&journal, "/journal/done/num_resumed_documents"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journals_tell_how_far_it_is() {
        let dir = tempfile::tempdir().expect("a folder");
        let hidden = Hidden::beside(&dir.path().join("out"));
        let write = |name: &str, text: &str| {
            fs::write(dir.path().join(".out.eyas-prepare").join(name), text).expect("a file");
        };
        assert!(!hidden.exists());
        fs::create_dir_all(dir.path().join(".out.eyas-prepare/shards")).expect("a folder");
        assert!(hidden.exists() && !hidden.is_replacing() && hidden.position() == Default::default());
        write("near.json", r#"{"plan": "x", "journal": {"num_signatures": 7}}"#);
        write("journal.json", r#"{"journal": {"done": {"num_documents": 5, "num_resumed_documents": 3}}}"#);
        write("journal.json.new", "{");
        assert!(hidden.is_replacing() && hidden.index_begun().is_none() && !hidden.holds_older());
        assert_eq!(hidden.position(), (Position { num_signatures: 7, num_documents: 5 }, 3));
        write("journal.json", "{");
        assert_eq!(hidden.position(), (Position { num_signatures: 7, num_documents: 0 }, 0));
    }
}
