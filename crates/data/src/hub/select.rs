//! Which files of a dataset are its data.
//!
//! Without a pattern this follows Python's `datasets` where its rule goes by names alone: files of .jsonl, .ndjson or
//! .json (also compressed) and of .parquet, without those that describe the dataset; and where names of shards, folders
//! or files tell splits, the split `train`, or the only split there is. One format is read, the one with more files, since
//! two are most often the same rows twice. What a README.md says about configurations is not read: a pattern does that.
//! With a pattern, exactly the files that it names are taken.

use super::error::HubError;
use super::id::HubId;
use super::listing::RemoteEntry;
use glob::{MatchOptions, Pattern};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Names of files that are about data, as `datasets` passes them over or writes them beside data.
const ABOUT_DATA: [&str; 5] =
    ["config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"];

/// Words in names that tell a split, as `datasets` has them.
const SPLIT_WORDS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// In a glob, as in the shell, `*` stays within a name.
const MATCHING: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// The files that are read, and in words why these.
#[derive(Debug)]
pub(super) struct Selection {
    pub(super) files: Vec<RemoteEntry>,
    pub(super) summary: String,
}

/// A format that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Format {
    Json,
    Parquet,
}

/// The files of `entries` that `id` means.
pub(super) fn select(entries: &[RemoteEntry], id: &HubId) -> Result<Selection, HubError> {
    match id.pattern() {
        Some(pattern) => by_pattern(entries, id, pattern),
        None => by_names(entries, id),
    }
}

fn by_pattern(entries: &[RemoteEntry], id: &HubId, pattern: &str) -> Result<Selection, HubError> {
    let folder = format!("{}/", pattern.trim_end_matches('/'));
    let glob = Pattern::new(pattern).ok();
    let named = |path: &str| {
        path == pattern
            || path.starts_with(&folder)
            || glob.as_ref().is_some_and(|glob| glob.matches_with(path, MATCHING))
    };
    let (named, others): (Vec<_>, Vec<_>) = entries.iter().partition(|entry| named(&entry.path));
    let (files, unread): (Vec<_>, Vec<_>) = named.into_iter().partition(|e| format_of(&e.path).is_some());
    if files.is_empty() {
        let (what, shown) = if unread.is_empty() {
            (format!("nothing matches `{pattern}`"), &others)
        } else {
            (format!("`{pattern}` matches nothing that can be read"), &unread)
        };
        return Err(no_data(id, what, shown));
    }
    let mut summary = count(&files);
    if !unread.is_empty() {
        let _ = write!(summary, "; not read: {}", unread.len());
    }
    Ok(Selection { files: files.into_iter().cloned().collect(), summary })
}

fn by_names(entries: &[RemoteEntry], id: &HubId) -> Result<Selection, HubError> {
    let data: Vec<&RemoteEntry> = entries.iter().filter(|entry| is_data(&entry.path)).collect();
    if data.is_empty() {
        let what = "no file of it is data that can be read (.jsonl, .json, .parquet)".to_owned();
        return Err(no_data(id, what, &entries.iter().collect::<Vec<_>>()));
    }
    let (split, files, left_out) = choose_split(data, id)?;
    let (files, other_format) = choose_format(files);
    let mut summary = count(&files);
    if let Some(split) = split {
        let _ = write!(summary, " of the split {split}");
    }
    let mut left: Vec<String> = left_out.iter().map(|(name, count)| format!("{name} ({count})")).collect();
    if other_format > 0 {
        left.push(format!("another format ({other_format})"));
    }
    if !left.is_empty() {
        let _ = write!(summary, "; left out: {}", left.join(", "));
    }
    Ok(Selection { files: files.into_iter().cloned().collect(), summary })
}

/// Files by the name of their split, or of what they are instead.
type Counts = BTreeMap<String, usize>;

/// The split `train` or the only one, if names tell splits; how many files the others have.
fn choose_split<'a>(
    data: Vec<&'a RemoteEntry>,
    id: &HubId,
) -> Result<(Option<String>, Vec<&'a RemoteEntry>, Counts), HubError> {
    let ways: [fn(&str) -> Option<String>; 3] = [split_of_shard, split_of_folders, split_of_file];
    let Some(split_of) = ways.into_iter().find(|way| data.iter().any(|entry| way(&entry.path).is_some()))
    else {
        return Ok((None, data, Counts::new()));
    };
    let mut splits: BTreeMap<String, Vec<&RemoteEntry>> = BTreeMap::new();
    let mut left_out = Counts::new();
    for entry in data {
        match split_of(&entry.path) {
            Some(split) => splits.entry(split).or_default().push(entry),
            None => *left_out.entry("no split".to_owned()).or_default() += 1,
        }
    }
    let chosen = if splits.len() == 1 { splits.pop_first() } else { splits.remove_entry("train") };
    let Some((split, files)) = chosen else {
        let names: Vec<&str> = splits.keys().map(String::as_str).collect();
        return Err(HubError::NoData {
            dataset: id.to_string(),
            what: "it has several splits, and none of them is `train`".to_owned(),
            found: format!("there are {}", names.join(", ")),
            hint: format!("say which files, such as hub:{}:**/*{}*", id.name(), names[0]),
        });
    };
    left_out.extend(splits.into_iter().map(|(name, files)| (name, files.len())));
    Ok((Some(split), files, left_out))
}

/// The files of the format that has more of them, and how many have another one.
fn choose_format(files: Vec<&RemoteEntry>) -> (Vec<&RemoteEntry>, usize) {
    let num_files = files.len();
    let num_parquet = files.iter().filter(|entry| format_of(&entry.path) == Some(Format::Parquet)).count();
    let format = if num_parquet * 2 >= num_files { Format::Parquet } else { Format::Json };
    let chosen: Vec<_> = files.into_iter().filter(|entry| format_of(&entry.path) == Some(format)).collect();
    let num_other = num_files - chosen.len();
    (chosen, num_other)
}

/// The format of a file, by its name.
fn format_of(path: &str) -> Option<Format> {
    let name = path.to_ascii_lowercase();
    if name.ends_with(".parquet") {
        return Some(Format::Parquet);
    }
    let plain = [".gz", ".zst"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
    [".jsonl", ".ndjson", ".json"].iter().any(|end| plain.ends_with(end)).then_some(Format::Json)
}

/// Whether a file is data by its name, and neither hidden nor about data.
fn is_data(path: &str) -> bool {
    let hidden = |part: &str| part.starts_with('.') || part.starts_with("__");
    format_of(path).is_some() && !path.split('/').any(hidden) && !ABOUT_DATA.contains(&file_name(path))
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// `data/SPLIT-00000-of-00001...`, the name that `push_to_hub` gives to shards.
fn split_of_shard(path: &str) -> Option<String> {
    let name = path.strip_prefix("data/").filter(|name| !name.contains('/'))?;
    let (split, rest) = name.split_once('-')?;
    let (number, rest) = rest.split_once("-of-")?;
    let digits = |text: &str| text.len() >= 5 && text.bytes().take(5).all(|b| b.is_ascii_digit());
    let word = !split.is_empty() && split.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.".contains(&b));
    (word && number.len() == 5 && digits(number) && digits(rest)).then(|| split.to_owned())
}

fn split_of_folders(path: &str) -> Option<String> {
    let (folders, _) = path.rsplit_once('/')?;
    folders.split('/').find_map(split_of_name)
}

fn split_of_file(path: &str) -> Option<String> {
    split_of_name(file_name(path))
}

/// The split whose word stands in a name by itself: `my-train_01.json`, but not `trained.json`.
fn split_of_name(name: &str) -> Option<String> {
    let name = name.to_ascii_lowercase();
    let is_edge = |c: char| c.is_ascii_digit() || "-._ ".contains(c);
    let has = |words: &[&str]| name.split(is_edge).any(|word| words.contains(&word));
    SPLIT_WORDS.iter().find(|(_, words)| has(words)).map(|(split, _)| (*split).to_owned())
}

/// `12 files, 3.4 GB`, with the folders where there are several.
fn count(files: &[&RemoteEntry]) -> String {
    let num_bytes = files.iter().fold(0u64, |sum, entry| sum.saturating_add(entry.size));
    let plural = if files.len() == 1 { "" } else { "s" };
    let mut text = format!("{} file{plural}, {}", files.len(), human_bytes(num_bytes));
    let mut folders: Vec<&str> =
        files.iter().map(|e| e.path.rsplit_once('/').map_or(".", |(folder, _)| folder)).collect();
    folders.dedup();
    if folders.len() > 1 {
        let _ = write!(text, ", in {} folders ({})", folders.len(), some_of(&folders));
    }
    text
}

/// The first few of a list.
fn some_of<T: AsRef<str>>(names: &[T]) -> String {
    let mut text = names.iter().take(5).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    if names.len() > 5 {
        let _ = write!(text, " and {} more", names.len() - 5);
    }
    text
}

/// A size as people read it.
pub(super) fn human_bytes(num_bytes: u64) -> String {
    let units = ["kB", "MB", "GB", "TB", "PB", "EB"];
    let (mut value, mut unit) = (num_bytes as f64, "bytes");
    for next in units {
        if value < 999.5 {
            break;
        }
        (value, unit) = (value / 1000.0, next);
    }
    if value < 9.95 && unit != "bytes" { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

/// Says what there is, by the ends of names, and what to do.
fn no_data(id: &HubId, what: String, entries: &[&RemoteEntry]) -> HubError {
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for entry in entries {
        let name = file_name(&entry.path);
        let end = name.find('.').map_or(name, |dot| &name[dot..]);
        *ends.entry(end.chars().take(24).collect()).or_default() += 1;
    }
    let mut ends: Vec<(usize, String)> = ends.into_iter().map(|(end, count)| (count, end)).collect();
    ends.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let ends: Vec<String> = ends.into_iter().map(|(count, end)| format!("{count} {end}")).collect();
    let found =
        if ends.is_empty() { "it has no files".to_owned() } else { format!("it has {}", some_of(&ends)) };
    let hint = if id.revision() == "main" {
        let name = id.name();
        format!("the hub keeps most datasets as parquet too: try hub:{name}@refs/convert/parquet")
    } else {
        "look under \"Files\" on the dataset's page, and name files after a `:`".to_owned()
    };
    HubError::NoData { dataset: id.to_string(), what, found, hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(id: &str, paths: &[&str]) -> Result<(Vec<String>, String), String> {
        let entry = |path: &&str| RemoteEntry { path: (*path).to_owned(), size: 1500, hash: None };
        let entries: Vec<RemoteEntry> = paths.iter().map(entry).collect();
        let selection = select(&entries, &HubId::parse(id).expect("an id")).map_err(|e| e.to_string())?;
        Ok((selection.files.into_iter().map(|file| file.path).collect(), selection.summary))
    }

    fn files(id: &str, paths: &[&str]) -> Vec<String> {
        chosen(id, paths).expect("files").0
    }

    #[test]
    fn without_splits_all_data_is_taken() {
        let paths =
            [".gitattributes", "README.md", "dataset_infos.json", "file-00.json.gz", "file-01.json.gz"];
        let (files, summary) = chosen("hub:a/b", &paths).expect("files");
        assert_eq!(files, ["file-00.json.gz", "file-01.json.gz"]);
        assert_eq!(summary, "2 files, 3.0 kB");
    }

    #[test]
    fn of_splits_train_is_taken() {
        let paths = ["README.md", "other.jsonl", "test.jsonl", "train.jsonl", "valid_1.jsonl"];
        let (names, summary) = chosen("hub:a/b", &paths).expect("files");
        assert_eq!(names, ["train.jsonl"]);
        assert_eq!(
            summary,
            "1 file, 1.5 kB of the split train; left out: no split (1), test (1), validation (1)"
        );
        let folders = ["en/train/0.parquet", "en/validation/train.parquet"];
        assert_eq!(files("hub:a/b", &folders), ["en/train/0.parquet"]);
        let shards = ["data/train_sft-00000-of-00001-abc.parquet", "data/x.jsonl"];
        assert_eq!(files("hub:a/b", &shards), [shards[0]]);
        assert_eq!(files("hub:a/b", &["trained.json", "contest.json"]), ["trained.json", "contest.json"]);
    }

    #[test]
    fn the_only_split_is_taken_whatever_its_name() {
        assert_eq!(files("hub:a/b", &["README.md", "valid.json"]), ["valid.json"]);
        let error = chosen("hub:a/b", &["test.json", "valid.json"]).expect_err("no train");
        assert!(error.contains("test, validation") && error.contains("hub:a/b:**/*test*"), "{error}");
    }

    #[test]
    fn one_format_is_taken() {
        let (names, summary) =
            chosen("hub:a/b", &["a.parquet", "b.parquet", "tokenizer.json"]).expect("files");
        assert_eq!(names, ["a.parquet", "b.parquet"]);
        assert!(summary.ends_with("left out: another format (1)"), "{summary}");
    }

    #[test]
    fn patterns_name_files_folders_and_globs() {
        let paths = ["a.csv", "d/test.json", "d/x/0.json", "d/x/1.json.zst", "state.json", "train.json"];
        assert_eq!(files("hub:a/b:state.json", &paths), ["state.json"]);
        assert_eq!(files("hub:a/b:*.json", &paths), ["state.json", "train.json"]);
        assert_eq!(files("hub:a/b:d/*", &paths), ["d/test.json"]);
        assert_eq!(files("hub:a/b:d", &paths), ["d/test.json", "d/x/0.json", "d/x/1.json.zst"]);
        assert_eq!(files("hub:a/b:d/", &paths), ["d/test.json", "d/x/0.json", "d/x/1.json.zst"]);
        assert_eq!(files("hub:a/b:**/[0-9].json*", &paths), ["d/x/0.json", "d/x/1.json.zst"]);
        let error = |id: &str| chosen(id, &paths).expect_err(id);
        assert!(error("hub:a/b:*.csv").contains("matches nothing that can be read; it has 1 .csv"));
        assert!(error("hub:a/b:nothing").contains("nothing matches `nothing`; it has 4 .json"));
    }

    #[test]
    fn no_data_says_what_there_is() {
        let error = chosen("hub:a/b", &["README.md", "x.csv", "y.csv", ".gitattributes"]).expect_err("csv");
        assert!(error.contains("it has 2 .csv, 1 .gitattributes, 1 .md"), "{error}");
        assert!(error.contains("hub:a/b@refs/convert/parquet"), "{error}");
        assert!(chosen("hub:a/b", &[]).expect_err("empty").contains("it has no files"));
    }

    #[test]
    fn sizes_for_people() {
        let text = |n| human_bytes(n);
        assert_eq!(text(0), "0 bytes");
        assert_eq!(text(999), "999 bytes");
        assert_eq!(text(9_940), "9.9 kB");
        assert_eq!(text(999_600), "1.0 MB");
        assert_eq!(text(53_000_000_000), "53 GB");
        assert_eq!(text(u64::MAX), "18 EB");
    }
}
