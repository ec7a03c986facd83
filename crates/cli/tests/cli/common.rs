//! A small world in a temporary folder: code to learn from, a tokenizer, a model.

use assert_cmd::Command;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// What a command printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Asserts that it ended well.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.status, 0, "{}", self.stderr);
        self
    }

    /// Asserts that it was refused with `status`, with one message that has all of `parts`, and did not panic.
    #[track_caller]
    pub(crate) fn refused(self, status: i32, parts: &[&str]) -> Self {
        assert_eq!(self.status, status, "{}{}", self.stdout, self.stderr);
        assert_eq!(self.stderr.matches("error:").count(), 1, "{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "no {part:?} in: {}", self.stderr);
        }
        self
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}

pub(crate) struct World {
    pub(crate) dir: TempDir,
}

impl World {
    /// A folder `code` with source files.
    pub(crate) fn new() -> Self {
        let world = World { dir: tempfile::tempdir().expect("a folder") };
        for i in 0..60 {
            let name = format!("code/module_{}/file_{i}.rs", i % 4);
            world.write(&name, source(i));
        }
        world
    }

    /// With a tokenizer in `tokenizer`.
    pub(crate) fn with_tokenizer() -> Self {
        let world = World::new();
        world.run("tokenizer train code --vocab-size 400 --out tokenizer").ok();
        world
    }

    /// And a trained model in `model`.
    pub(crate) fn with_model() -> Self {
        let world = World::with_tokenizer();
        world.train("--output-dir model --max-steps 12").ok();
        world
    }

    /// `eyas train` of a tiny network with more arguments.
    pub(crate) fn train(&self, more: &str) -> Ran {
        self.run(&format!("{TRAIN} {more}"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(&path, bytes).expect("a file");
        path
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Runs eyas with arguments separated by spaces.
    pub(crate) fn run(&self, arguments: &str) -> Ran {
        self.run_with(&arguments.split_whitespace().collect::<Vec<_>>(), "")
    }

    pub(crate) fn run_with(&self, arguments: &[&str], stdin: &str) -> Ran {
        let output = self.command().args(arguments).write_stdin(stdin).output().expect("eyas starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ran {
            status: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_eyas"));
        command.current_dir(self.dir.path()).env("NO_COLOR", "1").timeout(std::time::Duration::from_secs(60));
        command
    }
}

const TRAIN: &str = "train --train-data code --mode pack --context-length 32 --n-positions 32 --tokenizer tokenizer \
    --n-layer 2 --n-head 2 --n-embd 32 --per-device-train-batch-size 4 --learning-rate 1e-2 --logging-steps 4 \
    --save-steps 6 --device cpu";

/// A file of plausible code, each a little different.
pub(crate) fn source(i: usize) -> String {
    let mut text = format!("//! Module {i}.\n\nuse std::collections::HashMap;\n\n");
    for j in 0..6 {
        text += &format!(
            "/// Adds {j} to every value of the table.\npub fn add_{i}_{j}(table: &mut HashMap<String, u32>) -> usize {{\n    \
             for (_name, value) in table.iter_mut() {{\n        *value += {j};\n    }}\n    table.len()\n}}\n\n"
        );
    }
    text
}

/// The entries of a folder, sorted.
pub(crate) fn entries(path: &Path) -> Vec<String> {
    let read = std::fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut names: Vec<String> =
        read.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
