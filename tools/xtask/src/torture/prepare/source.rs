//! What is prepared: a folder of files, rows, and compressed rows, made from a seed.
//!
//! Among them are rows equal to one before, in the same file or the other, rows that nearly are, lines that are no rows, and
//! mail addresses, so that a process has more to go on from than the tokens.

use crate::torture::error::Error;
use crate::torture::random::Random;
use crate::torture::world::{code, write, write_code};
use serde_json::json;
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// What to prepare, by its place in the folder of the source.
pub(super) const NAMES: [&str; 3] = ["files", "rows.jsonl", "more.jsonl.zst"];
/// Fifteen batches of documents: work becomes durable between batches only.
const NUM_FILES: usize = 400;
const NUM_ROWS: [usize; 2] = [36_000, 24_000];
/// Of rows, so many are equal to one before, nearly so, or broken.
const DUPLICATES: f64 = 0.05;
const NEAR_DUPLICATES: f64 = 0.05;
const BROKEN: f64 = 0.002;

/// Writes it.
pub(super) fn write_all(folder: &Path, seed: u64) -> Result<(), Error> {
    let mut random = Random::new(seed, "source", 0);
    let [files, rows, more] = NAMES.map(|name| folder.join(name));
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    write_code(&files, NUM_FILES, &mut random)?;
    let mut texts = Vec::new();
    write(&rows, rows_of(NUM_ROWS[0], &mut texts, &mut random).as_bytes())?;
    write(&more, &zstd(rows_of(NUM_ROWS[1], &mut texts, &mut random).as_bytes()))
}

/// Rows as lines of JSON. `texts` are those before, among which duplicates are sought.
fn rows_of(num_rows: usize, texts: &mut Vec<String>, random: &mut Random) -> String {
    let mut lines = String::new();
    for _ in 0..num_rows {
        let what = random.unit();
        let i = texts.len();
        if what < BROKEN {
            lines += "{\"content\": \n";
            continue;
        }
        let is_copy = what < BROKEN + DUPLICATES + NEAR_DUPLICATES && !texts.is_empty();
        let mut text = match is_copy {
            true => random.choose(texts).clone(),
            false => code(i, 1 + random.below(4) as usize, random),
        };
        if is_copy && what >= BROKEN + DUPLICATES {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "// {i}");
        } else if random.happens(0.01) {
            let _ = writeln!(text, "// write to node{i}@buffer.io");
        }
        let row = match random.happens(0.3) {
            true => json!({"path": format!("rows/{i}.rs"), "content": text, "license": "mit"}),
            false => json!({"path": format!("rows/{i}.rs"), "content": text}),
        };
        let _ = writeln!(lines, "{row}");
        texts.push(text);
    }
    lines
}

/// A frame of Zstandard whose blocks are not compressed (RFC 8878, 3.1.1): a reader decodes it as any other.
fn zstd(bytes: &[u8]) -> Vec<u8> {
    /// The window, and the largest block there is.
    const WINDOW_BYTES: usize = 128 << 10;
    /// Magic number; neither sizes nor a checksum in the frame's header; a window of 2^(10 + 7) bytes.
    const HEADER: [u8; 6] = [0x28, 0xb5, 0x2f, 0xfd, 0, 7 << 3];
    let mut frame = HEADER.to_vec();
    let num_blocks = bytes.len().div_ceil(WINDOW_BYTES);
    for (i, block) in bytes.chunks(WINDOW_BYTES).enumerate() {
        let is_last = i + 1 == num_blocks;
        let header = (block.len() as u32) << 3 | u32::from(is_last);
        frame.extend(&header.to_le_bytes()[..3]);
        frame.extend(block);
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn rows_are_those_of_the_seed_and_some_are_alike() {
        let rows = |seed| rows_of(3000, &mut Vec::new(), &mut Random::new(seed, "source", 0));
        assert!(rows(1) == rows(1) && rows(1) != rows(2));
        let rows = rows(1);
        let parsed: Vec<serde_json::Value> =
            rows.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        assert!((1..30).contains(&(rows.lines().count() - parsed.len())));
        let distinct: HashSet<&str> = parsed.iter().filter_map(|row| row["content"].as_str()).collect();
        assert!((100..200).contains(&(parsed.len() - distinct.len())), "{}", distinct.len());
    }

    #[test]
    fn a_frame_is_a_header_and_blocks() {
        assert_eq!(zstd(b"ab"), b"\x28\xb5\x2f\xfd\x00\x38\x11\x00\x00ab");
        let two = zstd(&[b'x'; (128 << 10) + 1]);
        assert_eq!(two[6..9], [0, 0, 0x10]);
        assert_eq!(two[two.len() - 4..], [0x09, 0, 0, b'x']);
    }
}
