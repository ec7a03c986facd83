//! What `hub:` arguments mean: `hub:[OWNER/]NAME[@REVISION][:PATTERN]`.
//!
//! `OWNER/NAME` is a dataset's name as its page shows it. `REVISION` is a branch, a tag, a full commit, or any ref such as
//! `refs/convert/parquet`; `main` when it is absent. `PATTERN` picks files by their path in the dataset: a file, a folder
//! (then everything below it), or a glob in which `*`, `?` and `[...]` stay within a name and `**` crosses folders.
//!
//! The grammar needs no escapes: neither `@` nor `:` can be in a name, and no ref can have a `:`, so the first `:` after the
//! name begins the pattern, and the pattern may hold anything. All three parts become parts of addresses and of paths in
//! the cache, so what could leave either is refused here.

use super::error::HubError;
use std::fmt;

/// What an argument must begin with to mean the hub.
const PREFIX: &str = "hub:";
/// The revision that is meant when none is given.
const DEFAULT_REVISION: &str = "main";
/// Longest name and revision, in bytes; the hub allows names of 96.
const MAX_NAME_BYTES: usize = 96;
const MAX_REVISION_BYTES: usize = 255;

/// A dataset of the hub, a revision of it, and which of its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HubId {
    name: String,
    revision: String,
    pattern: Option<String>,
}

impl HubId {
    /// Reads `hub:owner/name@revision:pattern`.
    ///
    /// # Errors
    /// If it is not of that form.
    pub(crate) fn parse(text: &str) -> Result<Self, HubError> {
        let wrong = |what: &str| HubError::Id { text: text.to_owned(), what: what.to_owned() };
        let id = text.strip_prefix(PREFIX).ok_or_else(|| wrong("it does not begin with `hub:`"))?;
        let end = id.find(['@', ':']).unwrap_or(id.len());
        let (name, rest) = id.split_at(end);
        let (revision, pattern) = match rest.strip_prefix('@') {
            Some(rest) => match rest.split_once(':') {
                Some((revision, pattern)) => (revision, Some(pattern)),
                None => (rest, None),
            },
            None => (DEFAULT_REVISION, rest.strip_prefix(':')),
        };
        check_name(name).map_err(|what| wrong(&what))?;
        check_revision(revision).map_err(wrong)?;
        if pattern == Some("") {
            return Err(wrong("nothing follows the last `:`; expected a file, a folder or a glob"));
        }
        if let Some(Err(error)) = pattern.map(glob::Pattern::new) {
            return Err(wrong(&format!("the glob is wrong at {}: {}", error.pos, error.msg)));
        }
        Ok(HubId {
            name: name.to_owned(),
            revision: revision.to_owned(),
            pattern: pattern.map(|pattern| pattern.trim_start_matches("./").to_owned()),
        })
    }

    /// The dataset's name, with its owner.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The branch, tag, ref or commit.
    pub(crate) fn revision(&self) -> &str {
        &self.revision
    }

    /// Which files, if the argument says.
    pub(crate) fn pattern(&self) -> Option<&str> {
        self.pattern.as_deref()
    }
}

impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.name)?;
        if self.revision != DEFAULT_REVISION {
            write!(f, "@{}", self.revision)?;
        }
        self.pattern.as_ref().map_or(Ok(()), |pattern| write!(f, ":{pattern}"))
    }
}

/// The hub's own rule for names.
fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err(format!("a name has 1 to {MAX_NAME_BYTES} characters"));
    }
    let parts: Vec<&str> = name.split('/').collect();
    if parts.len() > 2 {
        return Err("a name is OWNER/NAME; a path in the dataset follows a `:`".to_owned());
    }
    for part in parts {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        let edge = part.starts_with(['-', '.']) || part.ends_with(['-', '.']);
        if part.is_empty() || edge || !part.bytes().all(legal) || part.contains("--") || part.contains("..") {
            return Err(format!(
                "`{part}` is no name of the hub: letters, digits, `-`, `_` and `.`, no `--` or `..`, \
                 and neither `-` nor `.` at its ends"
            ));
        }
    }
    Ok(())
}

/// The part of git's rule for refs that keeps addresses and paths in their place.
fn check_revision(revision: &str) -> Result<(), &'static str> {
    if revision.is_empty() || revision.len() > MAX_REVISION_BYTES {
        return Err("the revision after `@` is empty or too long");
    }
    if revision.starts_with('-') || revision.split('/').any(|part| part.is_empty() || part.starts_with('.')) {
        return Err("the revision has a part that is empty or begins with `.` or `-`");
    }
    if revision.contains("..") || revision.chars().any(|c| c.is_control() || " ~^?*[\\".contains(c)) {
        return Err("the revision has a character that no branch, tag or commit can have");
    }
    Ok(())
}

/// Whether a revision is a whole commit hash, which always means the same files.
pub(crate) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (String, String, Option<String>) {
        let id = HubId::parse(text).expect(text);
        (id.name, id.revision, id.pattern)
    }

    fn want(name: &str, revision: &str, pattern: Option<&str>) -> (String, String, Option<String>) {
        (name.to_owned(), revision.to_owned(), pattern.map(str::to_owned))
    }

    #[test]
    fn the_grammar() {
        assert_eq!(parts("hub:a/b"), want("a/b", "main", None));
        assert_eq!(parts("hub:squad"), want("squad", "main", None));
        assert_eq!(parts("hub:a/b@v1.0"), want("a/b", "v1.0", None));
        assert_eq!(parts("hub:a/b:data/*.parquet"), want("a/b", "main", Some("data/*.parquet")));
        assert_eq!(
            parts("hub:codeparrot/codeparrot-clean@main:file-0*.json.gz"),
            want("codeparrot/codeparrot-clean", "main", Some("file-0*.json.gz"))
        );
        assert_eq!(
            parts("hub:a/b@refs/convert/parquet:x/**"),
            want("a/b", "refs/convert/parquet", Some("x/**"))
        );
        assert_eq!(parts("hub:a/b:odd@name:with.json"), want("a/b", "main", Some("odd@name:with.json")));
        assert_eq!(parts("hub:a/b:./x.json"), want("a/b", "main", Some("x.json")));
    }

    #[test]
    fn it_is_written_as_it_is_read() {
        for text in ["hub:a/b", "hub:a/b@v1", "hub:a/b:x*.json", "hub:a/b@refs/pr/1:d/x.json"] {
            assert_eq!(HubId::parse(text).expect(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_refused() {
        for text in [
            "a/b",
            "hub:",
            "hub:/",
            "hub:a/",
            "hub:a/b/c",
            "hub:../b",
            "hub:a/..",
            "hub:a/b..c",
            "hub:a--b/c",
            "hub:-a/b",
            "hub:a/b.",
            "hub:a b/c",
            "hub:a/b?x=1",
            "hub:a/b#c",
            "hub:a/b%2f",
            "hub:a/b@",
            "hub:a/b@:x",
            "hub:a/b@../x",
            "hub:a/b@x/../y",
            "hub:a/b@/x",
            "hub:a/b@x//y",
            "hub:a/b@-x",
            "hub:a/b@a b",
            "hub:a/b@a\nb",
            "hub:a/b:",
            "hub:a/b:x[",
            "hub:a/b:x***",
        ] {
            assert!(HubId::parse(text).is_err(), "{text}");
        }
        assert!(HubId::parse(&format!("hub:a/{}", "b".repeat(95))).is_err());
    }

    #[test]
    fn commits() {
        assert!(is_commit("0123456789abcdef0123456789abcdef01234567"));
        assert!(!is_commit("0123456789ABCDEF0123456789abcdef01234567"));
        assert!(!is_commit("main"));
    }
}
