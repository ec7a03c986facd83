use super::*;
use crate::filter::{Filters, Reason};
use crate::shards::Shards;
use crate::source::SourceOptions;
use eyas_token::{TrainOptions, WordCounts, train};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

/// More than two batches of rows, and a few files of code behind them.
struct World {
    dir: tempfile::TempDir,
    tokenizer: Tokenizer,
    data: Vec<String>,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("folder");
        let row =
            |i: usize| format!("{{\"path\": \"{i}.py\", \"content\": \"x_{} = {}\\n\"}}\n", i % 8000, i % 7);
        let rows: String = (0..9000).map(row).collect();
        fs::write(dir.path().join("rows.jsonl"), &rows).expect("rows");
        fs::create_dir(dir.path().join("src")).expect("folder");
        for i in 0..50 {
            fs::write(dir.path().join(format!("src/{i}.rs")), format!("fn f{i}() {{}}\n")).expect("file");
            // Sixty words, of which one differs from file to file.
            let words: String = (0..59).map(|word| format!("let word{word} = 0;\n")).collect();
            let near = format!("{words}let last = {i};\n");
            fs::write(dir.path().join(format!("src/near{i}.rs")), near).expect("file");
        }
        let mut counts = WordCounts::new();
        counts.add(&rows);
        let special_tokens =
            ["<|endoftext|>", "<fim_prefix>", "<fim_suffix>", "<fim_middle>"].map(String::from).to_vec();
        let options = TrainOptions { vocab_size: 300, special_tokens, ..Default::default() };
        let tokenizer = train(counts, &options, &mut |_, _| {}).expect("a tokenizer");
        let data = ["rows.jsonl", "src"].map(|name| dir.path().join(name).display().to_string()).to_vec();
        World { dir, tokenizer, data }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Prepares; the progress that `die_at` is told of kills it.
    fn prepare(&self, options: &PrepareOptions, name: &str, die_at: Option<usize>) -> Option<PrepareReport> {
        let mut num_told = 0;
        let run = || {
            prepare_durably(&self.data, &self.tokenizer, options, &self.path(name), 1, &mut |_| {
                num_told += 1;
                assert!(Some(num_told) != die_at, "killed");
            })
        };
        catch_unwind(AssertUnwindSafe(run)).ok().map(|result| result.expect("prepared"))
    }
}

fn options(mode: Mode) -> PrepareOptions {
    let filters = Filters { skip_near_duplicates: mode == Mode::Pack, ..Filters::default() };
    PrepareOptions {
        mode,
        context_length: 4,
        source: SourceOptions { filters, ..SourceOptions::default() },
        validation_one_in: Some(5),
        fim: (mode == Mode::Pack).then_some(Fim { rate: 0.5, spm_rate: 0.5, seed: 1 }),
    }
}

/// All files of a folder, by name.
fn content(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in ignore::WalkBuilder::new(dir).hidden(false).build().flatten() {
        if entry.file_type().is_some_and(|kind| kind.is_file()) {
            let name = entry.path().strip_prefix(dir).expect("below").to_owned();
            all.push((name, fs::read(entry.path()).expect("file")));
        }
    }
    all.sort();
    all
}

#[test]
fn a_killed_preparation_goes_on_and_ends_with_the_same_bytes() {
    let world = World::new();
    for mode in [Mode::Chunk, Mode::Pack] {
        let options = options(mode);
        let whole = world.prepare(&options, "whole", None).expect("not killed");
        let want = content(&world.path("whole"));
        assert_eq!(want.len(), 8, "two folders of four files: {want:?}");
        let num_near = whole.source.skipped_for(Reason::NearDuplicate).num_documents;
        assert_eq!(num_near > 0, mode == Mode::Pack, "{num_near}");
        // Batches are told of once, and where near duplicates are sought, once more before that.
        let num_tells = if mode == Mode::Pack { 3 } else { 0 };
        for deaths in [vec![1], vec![2], vec![3], vec![num_tells + 3], vec![1, 1], vec![num_tells + 2, 1]] {
            for die_at in &deaths {
                assert!(world.prepare(&options, "parts", Some(*die_at)).is_none());
                assert!(!world.path("parts").exists(), "nothing is visible before it is whole");
            }
            let report = world.prepare(&options, "parts", None).expect("not killed");
            // A batch that has been told of is durable.
            let is_durable = deaths.iter().any(|die_at| *die_at > num_tells);
            assert!(report.num_resumed_documents > 0 || !is_durable, "{mode:?} {deaths:?}");
            assert!(content(&world.path("parts")) == want, "{mode:?} {deaths:?}");
            assert_eq!(report.source, whole.source);
            assert_eq!(report.lengths, whole.lengths);
            assert_eq!(report.num_encoded_tokens, whole.num_encoded_tokens);
            assert!(!world.path(".parts.eyas-prepare").exists());
            fs::remove_dir_all(world.path("parts")).expect("removed");
        }
        fs::remove_dir_all(world.path("whole")).expect("removed");
    }
}

#[test]
fn work_of_another_plan_is_not_gone_on_with() {
    let world = World::new();
    let options = options(Mode::Chunk);
    let whole = world.prepare(&options, "whole", None).expect("not killed");
    let want = content(&world.path("whole"));
    // A journal that cannot be read, and one that tells of files which were cut.
    let work = world.path(".parts.eyas-prepare");
    assert!(world.prepare(&options, "parts", Some(3)).is_none());
    let journal = fs::read(work.join("journal.json")).expect("a journal");
    fs::write(work.join("journal.json"), &journal[..journal.len() / 2]).expect("damaged");
    let report = world.prepare(&options, "parts", None).expect("from the beginning");
    assert_eq!(report.num_resumed_documents, 0);
    assert!(content(&world.path("parts")) == want);
    fs::remove_dir_all(world.path("parts")).expect("removed");
    // Other data.
    assert!(world.prepare(&options, "parts", Some(3)).is_none());
    fs::write(world.path("src/50.rs"), "fn f50() {}\n").expect("file");
    let report = world.prepare(&options, "parts", None).expect("from the beginning");
    assert_eq!(report.num_resumed_documents, 0);
    assert_eq!(report.source.num_documents, whole.source.num_documents + 1);
    // Killed when the new shards were in place, but the work not yet removed.
    fs::remove_dir_all(world.path("parts")).expect("removed");
    assert!(world.prepare(&options, "parts", Some(2)).is_none());
    fs::remove_dir_all(work.join("shards")).expect("gone to their place");
    assert!(world.prepare(&options, "parts", None).is_some());
}

#[test]
fn one_process_at_a_time() {
    let world = World::new();
    let out = world.path("out");
    let _other = WorkFolder::open(&out, "plan".into()).expect("free");
    let error = prepare(&world.data, &world.tokenizer, &options(Mode::Pack), &out, &mut |_| {});
    assert!(error.is_err_and(|e| e.to_string().contains("another process")));
}

#[test]
fn fill_in_the_middle_loses_nothing() {
    let world = World::new();
    let source = SourceOptions::default();
    let options = PrepareOptions { validation_one_in: None, source, ..options(Mode::Pack) };
    let report = world.prepare(&options, "out", None).expect("not killed");
    let shards = Shards::open(&world.path("out")).expect("shards");
    let mut ids = vec![0; shards.num_tokens() as usize];
    shards.read(0, &mut ids);
    let end = world.tokenizer.end_of_text().expect("end of text");
    let id = |token: &str| world.tokenizer.token_to_id(token).expect("a token");
    let (prefix, suffix, middle) = (id("<fim_prefix>"), id("<fim_suffix>"), id("<fim_middle>"));
    let mut texts = Vec::new();
    let mut num_fim = 0;
    for document in ids[1..].split(|id| *id == end).filter(|document| !document.is_empty()) {
        let Some(at_suffix) = document.iter().position(|id| *id == suffix) else {
            texts.push(world.tokenizer.decode_lossy(document, false));
            continue;
        };
        num_fim += 1;
        let at_middle = document.iter().position(|id| *id == middle).expect("a middle");
        assert_eq!(document[0], prefix);
        let text = |ids: &[u32]| world.tokenizer.decode_lossy(ids, false);
        // In SPM prefix and middle are one behind the mark.
        let parts =
            (&document[1..at_suffix], &document[at_middle + 1..], &document[at_suffix + 1..at_middle]);
        texts.push(text(parts.0) + &text(parts.1) + &text(parts.2));
    }
    assert_eq!(texts.len() as u64, report.source.num_documents);
    assert!((0.45..0.55).contains(&(f64::from(num_fim) / texts.len() as f64)), "{num_fim}");
    let mut want: Vec<String> = Vec::new();
    for document in Documents::open(&world.data, &options.source).expect("data") {
        want.push(document.expect("document").text);
    }
    assert_eq!(texts, want);
}

#[test]
fn damaged_work_is_done_again() {
    let world = World::new();
    let options = options(Mode::Pack);
    assert!(world.prepare(&options, "whole", None).is_some());
    let want = content(&world.path("whole"));
    let work = world.path(".parts.eyas-prepare");
    for file in ["shards/train/tokens-00000.bin", "shards/valid/documents.bin", "signatures/near-signatures"]
    {
        assert!(world.prepare(&options, "parts", Some(6)).is_none());
        fs::OpenOptions::new()
            .write(true)
            .open(work.join(file))
            .and_then(|file| file.set_len(7))
            .expect(file);
        let report = world.prepare(&options, "parts", None).expect(file);
        assert_eq!(report.num_resumed_documents, 0, "{file}");
        assert!(content(&world.path("parts")) == want, "{file}");
        fs::remove_dir_all(world.path("parts")).expect("removed");
    }
    assert!(world.prepare(&options, "parts", Some(6)).is_none());
    fs::remove_dir_all(work.join("seen")).expect("removed");
    assert!(world.prepare(&options, "parts", None).is_some());
    assert!(content(&world.path("parts")) == want);
}

#[test]
fn what_is_not_ours_is_neither_replaced_nor_removed() {
    let world = World::new();
    let chunks = PrepareOptions { validation_one_in: None, ..options(Mode::Chunk) };
    let split = options(Mode::Chunk);
    let refused = |options: &PrepareOptions, name: &str| {
        let out = world.path(name);
        let error = prepare(&world.data, &world.tokenizer, options, &out, &mut |_| {}).expect_err("refused");
        assert!(matches!(error, Error::OutputInUse { .. }), "{error}");
    };
    // One thing of a user's, beside nothing, shards, or a part of them.
    fs::create_dir(world.path("user")).expect("folder");
    fs::write(world.path("user/thesis.tex"), "text").expect("file");
    refused(&split, "user");
    refused(&chunks, "user");
    assert!(world.prepare(&chunks, "one", None).is_some());
    assert!(world.prepare(&chunks, "one", None).is_some(), "shards are replaced");
    fs::write(world.path("one/NOTES.md"), "text").expect("file");
    refused(&chunks, "one");
    assert!(world.prepare(&split, "two", None).is_some());
    fs::create_dir(world.path("two/valid/tokenizer")).expect("folder");
    refused(&split, "two");
    fs::write(world.path("file"), "text").expect("file");
    refused(&chunks, "file");
    // What came while shards were made.
    let out = world.path("late");
    let late = prepare(&world.data, &world.tokenizer, &chunks, &out, &mut |_| {
        fs::create_dir_all(&out).and_then(|()| fs::write(out.join("thesis.tex"), "text")).expect("file");
    });
    assert!(matches!(late, Err(Error::OutputInUse { .. })));
    assert!(out.join("thesis.tex").exists());
    // A process was stopped between the two renames.
    let (work, old) = (world.path(".one.eyas-prepare"), world.path("one"));
    fs::create_dir(&work).and_then(|()| fs::rename(&old, work.join("replaced"))).expect("moved");
    drop(WorkFolder::open(&old, "plan".into()).expect("opened"));
    assert!(old.join("NOTES.md").exists());
    assert!(WorkFolder::open(Path::new("."), "plan".into()).is_err(), "no name");
}
