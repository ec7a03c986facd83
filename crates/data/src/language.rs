//! Which language a document is in: by its file name, else by the interpreter that its first line names.
//!
//! One table. The names are GitHub Linguist's in lower case, as datasets of code have them in their `language` column;
//! markup and configuration that lives beside code has languages too, since people complete those as well. An extension that
//! several languages share belongs to the one that is met most.

use std::path::Path;

/// A language: a row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Language(u8);

struct Entry {
    name: &'static str,
    /// Extensions in lower case, separated by blanks.
    extensions: &'static str,
    /// Whole file names.
    files: &'static str,
    /// Interpreters of `#!` lines, without a version.
    interpreters: &'static str,
}

const fn entry(
    name: &'static str,
    extensions: &'static str,
    files: &'static str,
    interpreters: &'static str,
) -> Entry {
    Entry { name, extensions, files, interpreters }
}

#[rustfmt::skip]
const TABLE: &[Entry] = &[
    entry("ada", "ada adb ads", "", ""),
    entry("assembly", "asm s", "", ""),
    entry("awk", "awk", "", "awk gawk mawk"),
    entry("batchfile", "bat cmd", "", ""),
    entry("c", "c h", "", ""),
    entry("c#", "cs", "", ""),
    entry("c++", "cc cpp cxx hh hpp hxx inl ipp", "", ""),
    entry("clojure", "clj cljs cljc", "", ""),
    entry("cmake", "cmake", "CMakeLists.txt", ""),
    entry("coffeescript", "coffee", "", "coffee"),
    entry("common lisp", "cl lisp", "", "sbcl"),
    entry("css", "css", "", ""),
    entry("cuda", "cu cuh", "", ""),
    entry("cython", "pyx pxd", "", ""),
    entry("d", "d", "", ""),
    entry("dart", "dart", "", ""),
    entry("dockerfile", "dockerfile", "Dockerfile Containerfile", ""),
    entry("elixir", "ex exs", "", "elixir"),
    entry("elm", "elm", "", ""),
    entry("erlang", "erl hrl", "", "escript"),
    entry("f#", "fs fsx", "", ""),
    entry("fish", "fish", "", "fish"),
    entry("fortran", "f f90 f95", "", ""),
    entry("gdscript", "gd", "", ""),
    entry("glsl", "glsl vert frag", "", ""),
    entry("go", "go", "", ""),
    entry("gradle", "gradle", "", ""),
    entry("graphql", "graphql gql", "", ""),
    entry("groovy", "groovy", "Jenkinsfile", "groovy"),
    entry("haskell", "hs", "", "runhaskell"),
    entry("haxe", "hx", "", ""),
    entry("hcl", "hcl tf", "", ""),
    entry("html", "html", "", ""),
    entry("idris", "idr", "", ""),
    entry("java", "java", "", ""),
    entry("javascript", "js jsx mjs cjs", "", "node nodejs"),
    entry("julia", "jl", "", "julia"),
    entry("just", "just", "Justfile justfile", "just"),
    entry("kotlin", "kt kts", "", ""),
    entry("less", "less", "", ""),
    entry("lua", "lua", "", "lua luajit"),
    entry("makefile", "mk", "Makefile GNUmakefile makefile", "make"),
    entry("markdown", "md", "", ""),
    entry("metal", "metal", "", ""),
    entry("nim", "nim", "", ""),
    entry("nix", "nix", "", ""),
    entry("objective-c", "m", "", ""),
    entry("objective-c++", "mm", "", ""),
    entry("ocaml", "ml mli", "", "ocaml"),
    entry("pascal", "pas", "", ""),
    entry("perl", "pl pm xs", "", "perl"),
    entry("php", "php", "", "php"),
    entry("powershell", "ps1 psm1", "", "pwsh"),
    entry("protocol buffer", "proto", "", ""),
    entry("python", "py pyi", "", "python pypy"),
    entry("r", "r", "", "rscript"),
    entry("racket", "rkt", "", "racket"),
    entry("restructuredtext", "rst", "", ""),
    entry("ruby", "rb", "Gemfile Rakefile", "ruby"),
    entry("rust", "rs", "", "rust-script"),
    entry("sass", "sass", "", ""),
    entry("scala", "scala", "", "scala"),
    entry("scheme", "scm", "", "guile"),
    entry("scss", "scss", "", ""),
    entry("shell", "bash sh zsh", "", "bash dash ksh sh zsh"),
    entry("solidity", "sol", "", ""),
    entry("sql", "sql", "", ""),
    entry("starlark", "bzl", "BUILD WORKSPACE", ""),
    entry("svelte", "svelte", "", ""),
    entry("swift", "swift", "", "swift"),
    entry("systemverilog", "sv svh", "", ""),
    entry("tcl", "tcl", "", "tclsh wish"),
    entry("tex", "tex", "", ""),
    entry("toml", "toml", "", ""),
    entry("typescript", "ts tsx", "", "deno tsx"),
    entry("verilog", "v", "", ""),
    entry("vhdl", "vhd vhdl", "", ""),
    entry("vim script", "vim", "", ""),
    entry("visual basic", "vb", "", ""),
    entry("vue", "vue", "", ""),
    entry("wgsl", "wgsl", "", ""),
    entry("yaml", "yaml yml", "", ""),
    entry("zig", "zig", "", ""),
];

impl Language {
    /// All of them, by name.
    pub fn all() -> impl Iterator<Item = Language> {
        (0..TABLE.len()).map(|i| Language(i as u8))
    }

    /// Its name: `python`, `c++`.
    pub fn name(self) -> &'static str {
        TABLE[usize::from(self.0)].name
    }

    /// The language called `name`, whatever its case.
    pub fn named(name: &str) -> Option<Language> {
        Language::all().find(|language| language.name().eq_ignore_ascii_case(name))
    }

    /// The language that a file's name tells.
    pub fn of_path(path: &str) -> Option<Language> {
        let path = Path::new(path);
        let name = path.file_name()?.to_str()?;
        let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
        Language::all().find(|language| {
            let entry = &TABLE[usize::from(language.0)];
            extension.as_deref().is_some_and(|extension| has(entry.extensions, extension))
                || has(entry.files, name)
        })
    }

    /// The language of the interpreter that the first line names: `#!/usr/bin/env python3`.
    pub fn of_first_line(text: &[u8]) -> Option<Language> {
        let line = text.strip_prefix(b"#!")?;
        let line = line.split(|byte| *byte == b'\n').next()?;
        let line = std::str::from_utf8(&line[..line.len().min(256)]).ok()?;
        let mut words = line.split_ascii_whitespace();
        let mut program = words.next()?;
        if program.ends_with("/env") {
            program = words.find(|word| !word.starts_with('-') && !word.contains('='))?;
        }
        let program = program.rsplit('/').next()?.to_ascii_lowercase();
        let program = program.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
        Language::all().find(|language| has(TABLE[usize::from(language.0)].interpreters, program))
    }
}

fn has(words: &str, word: &str) -> bool {
    !word.is_empty() && words.split(' ').any(|one| one == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_nothing_stands_twice() {
        let names: Vec<&str> = TABLE.iter().map(|entry| entry.name).collect();
        assert!(names.is_sorted(), "{names:?}");
        for column in [|e: &Entry| e.extensions, |e: &Entry| e.files, |e: &Entry| e.interpreters] {
            let mut words: Vec<&str> =
                TABLE.iter().flat_map(|e| column(e).split(' ')).filter(|w| !w.is_empty()).collect();
            words.sort_unstable();
            let num_words = words.len();
            words.dedup();
            assert_eq!(words.len(), num_words);
        }
    }

    #[test]
    fn by_name_and_by_interpreter() {
        let by_name = |path| Language::of_path(path).map(Language::name);
        for (path, language) in [
            ("a.rs", "rust"),
            ("b/c.PY", "python"),
            ("Makefile", "makefile"),
            ("x.tsx", "typescript"),
            ("x/CMakeLists.txt", "cmake"),
        ] {
            assert_eq!(by_name(path), Some(language), "{path}");
        }
        for path in ["a.png", "b.jsonl", "LICENSE", "Cargo.lock", "c.min", "", "/"] {
            assert_eq!(by_name(path), None, "{path}");
        }
        let by_line = |line: &str| Language::of_first_line(line.as_bytes()).map(Language::name);
        for (line, language) in [
            ("#!/bin/sh\necho", "shell"),
            ("#!/usr/bin/env python3.11\n", "python"),
            ("#! /usr/bin/env -S A=1 node --x\n", "javascript"),
            ("#!/usr/bin/perl -w", "perl"),
        ] {
            assert_eq!(by_line(line), Some(language), "{line}");
        }
        for line in ["", "#!", "#!\n", "#!/usr/bin/env\n", "print()", "#!/opt/unknown"] {
            assert_eq!(by_line(line), None, "{line}");
        }
        assert_eq!(Language::named("Python").map(Language::name), Some("python"));
    }
}
