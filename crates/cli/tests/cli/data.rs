//! Prepared data: the page about them, and how fast they are made.

use crate::common::{World, entries, source};
use crate::report::{browse, browser};
use serde_json::Value;
use std::path::Path;

const PREPARE: &str = "data prepare code --tokenizer tokenizer --mode pack --context-length 32";

#[test]
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn a_preparation_has_a_page() {
    let world = World::with_tokenizer();
    world.write("code/owner.py", "OWNER = 'jane.roe@falconry.net'\n");
    let ran = world.run(&format!("{PREPARE} --out <script>alert(1) --report page.html --json")).ok();
    assert!(ran.stderr.contains("wrote page.html"), "{}", ran.stderr);
    assert_eq!(ran.json()["source"]["secrets"]["email"], 1);
    let page = String::from_utf8(world.read("page.html")).expect("text");
    for part in [
        "<title>&lt;script&gt;alert(1)",
        "<dt>rust</dt>",
        "<dt>email</dt><dd>1</dd>",
        "tokenizer of 400 tokens",
    ] {
        assert!(page.contains(part), "no {part:?} in {page}");
    }
    assert!(!page.contains("<script>alert"), "{page}");
    let Some(browser) = browser() else {
        eprintln!("skipped: no chromium or google-chrome on PATH");
        return;
    };
    for width in [1200, 390] {
        let dom = browse(&browser, &world.path("profile"), &world.path("page.html"), width, "--dump-dom");
        let root = dom.split("<head>").next().unwrap_or_default();
        assert!(root.contains("data-layout=\"sane\"") && root.contains("data-pictures=\"1\""), "{root}");
    }
}

#[test]
fn a_wrong_place_for_the_page_is_told_before_the_work() {
    let world = World::with_tokenizer();
    for bad in ["missing/page.html", "code", "code/module_0/file_0.rs/page.html"] {
        let ran = world.run(&format!("{PREPARE} --out shards --report {bad}"));
        ran.refused(1, &["cannot write", bad.split('/').next().unwrap_or_default(), "hint:"]);
        assert_eq!(entries(world.dir.path()), ["code", "tokenizer"]);
    }
    world.run(&format!("{PREPARE} --out shards")).ok();
    let inside = world.run(&format!("{PREPARE} --out shards --report ./shards/page.html"));
    inside.refused(1, &["./shards/page.html", "the folder of the shards", "hint:"]);
}

/// The lines of JSON that `bench data` printed: of decompression, and of the preparation.
fn figures(stdout: &str) -> [Value; 2] {
    let lines: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    lines.try_into().expect("two figures")
}

fn has_scratch(dir: &Path) -> bool {
    entries(dir).iter().any(|name| name.starts_with("eyas-bench-data"))
}

#[test]
fn preparation_is_measured_on_copies() {
    let world = World::with_tokenizer();
    let ran = world.run("bench data code --tokenizer tokenizer --gigabytes 0.001 --scratch . --json").ok();
    let [reading, preparation] = figures(&ran.stdout);
    for figure in [&reading, &preparation] {
        for key in ["value", "share_of_peak", "peak", "threads", "spread", "seconds"] {
            assert!(figure[key].as_f64().is_some_and(|value| value >= 0.0), "{key} in {figure}");
        }
        assert_eq!(figure["unit"], "MB/s");
    }
    let number = |key: &str| preparation[key].as_f64().unwrap_or_else(|| panic!("{key} in {preparation}"));
    // Whole documents, of which each copy has all.
    assert!((1e6..1.01e6).contains(&number("num_bytes")) && number("num_copies") > 5.0, "{preparation}");
    assert!(number("num_documents") > 5.0 * 60.0 && number("num_taken_documents") == number("num_documents"));
    assert!(number("num_tokens") > 1e5 && number("disk_bytes_per_token") >= 2.0, "{preparation}");
    let stages = preparation["stages"].as_object().expect("stages");
    let sum: f64 = stages.values().map(|stage| stage["seconds"].as_f64().expect("seconds")).sum();
    assert!(sum >= 0.99 * number("seconds") && stages.contains_key("encode"), "{preparation}");
    assert!(!has_scratch(world.dir.path()));
}

#[test]
fn near_duplicates_are_measured_on_one_copy() {
    let world = World::new();
    world.write("code/near.rs", source(3) + "// One line more.\n");
    let ran = world.run("bench data code --near-duplicates --gigabytes 0.01 --scratch . --json").ok();
    let [_, preparation] = figures(&ran.stdout);
    assert_eq!((&preparation["num_documents"], &preparation["num_copies"]), (&61.into(), &1.0.into()));
    assert!(preparation["num_taken_documents"].as_u64().is_some_and(|taken| taken < 61), "{preparation}");
    assert!(preparation["stages"]["near_duplicates"].is_object(), "{preparation}");
    // A tokenizer was made of what there was.
    assert!(ran.stderr.contains("tokenizer: "), "{}", ran.stderr);
    let text = world.run("bench data code --gigabytes 0.0005 --scratch .").ok().stdout;
    for part in ["decompression alone", "MB/s", "encode", "bytes on disk", "copies"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert!(!has_scratch(world.dir.path()));
}

#[test]
fn what_cannot_be_measured_leaves_nothing() {
    let world = World::with_tokenizer();
    world.write("binary/x.bin", b"\0\0");
    world.write("blank.jsonl", "{\"content\": \"\"}\n");
    for (arguments, status, parts) in [
        ("code --gigabytes 0", 2, &["--gigabytes 0"][..]),
        ("code --gigabytes nan", 2, &["--gigabytes NaN"]),
        ("code --context-length 0", 2, &["--context-length"]),
        ("code --scratch missing", 1, &["missing", "--scratch"]),
        ("code --scratch . --gigabytes 1000000", 1, &["too little room", "hint:"]),
        ("missing --scratch .", 1, &["missing"]),
        ("binary --scratch .", 1, &["no usable document in binary", "hint:"]),
        ("blank.jsonl --scratch .", 1, &["no text to measure with in blank.jsonl", "hint:"]),
        ("code --scratch . --tokenizer code", 1, &["code", "tokenizer.json"]),
    ] {
        world.run(&format!("bench data {arguments}")).refused(status, parts);
    }
    assert!(!has_scratch(world.dir.path()));
}

#[cfg(unix)]
#[test]
fn a_measurement_that_is_stopped_leaves_nothing() {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};
    let world = World::with_tokenizer();
    for (signal, status) in [("INT", 130), ("TERM", 143)] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_eyas"))
            .args(["bench", "data", "code", "--tokenizer", "tokenizer", "--gigabytes", "2", "--scratch", "."])
            .current_dir(world.dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("eyas starts");
        let begun = Instant::now();
        let has_rows = || {
            let found =
                entries(world.dir.path()).into_iter().find(|name| name.starts_with("eyas-bench-data"));
            found.is_some_and(|name| world.path(&name).join("corpus.jsonl.zst").exists())
        };
        while !has_rows() {
            assert!(begun.elapsed() < Duration::from_secs(30), "it has not begun");
            std::thread::sleep(Duration::from_millis(5));
        }
        let kill = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status();
        assert!(kill.expect("kill runs").success());
        assert_eq!(child.wait().expect("it ends").code(), Some(status));
        assert!(!has_scratch(world.dir.path()), "{:?}", entries(world.dir.path()));
    }
}
