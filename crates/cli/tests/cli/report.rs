//! `eyas runs`, and its page in a real browser where there is one.

use crate::common::World;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder as a run of `lines` logged lines leaves it.
fn write_run(world: &World, name: &str, lines: u64, status: &str, learning_rate: f64) {
    let mut log = String::new();
    for i in 1..=lines {
        let (step, loss) = (5 * i, 2.5 + 6.0 / i as f64);
        log += &json!({"step": step, "epoch": 0.1, "loss": loss, "learning_rate": learning_rate, "grad_norm": 0.8,
            "tokens_per_second": 4000.0, "num_tokens": 1024 * step, "skipped_updates": u64::from(i > lines / 2)})
        .to_string();
        log += "\n";
        if i % 10 == 0 {
            log += &json!({"step": step, "epoch": 0.1, "eval_loss": loss + 0.1, "eval_perplexity": (loss + 0.1).exp(),
                "eval_bits_per_byte": loss / 2.4, "eval_next_token_accuracy": 0.4})
            .to_string();
            log += "\n";
        }
    }
    world.write(&format!("{name}/metrics.jsonl"), log);
    let record = json!({
        "eyas": "0.1.0", "status": status, "device": "CPU, 2 threads", "peak_flops": 4.6e11, "num_parameters": 2_990_208,
        "context_length": 256, "train_data": ["src"], "num_train_tokens": 10_051_852, "tokens_per_update": 1024,
        "num_steps": 1000, "flops_per_token": 1.8e7, "memory_bytes": {"weights": 11_960_832, "activations": 70_000_000},
        "step": 5 * lines, "epoch": 0.1, "num_tokens": 5 * 1024 * lines, "skipped_updates": 1, "elapsed_seconds": 75.0,
        "best": null, "settings": {"output_dir": name, "learning_rate": learning_rate, "seed": 42},
    });
    world.write(&format!("{name}/run.json"), record.to_string());
    let sample = |step: u64| {
        let completion = format!(
            "    return {step}</script><script>document.title = 'broken'</script>\n{}",
            "x".repeat(300)
        );
        json!({"step": step, "prompt": "def f():\n", "completion": completion}).to_string() + "\n"
    };
    world.write(&format!("{name}/samples.jsonl"), [50, 100, 150].map(sample).concat());
}

#[test]
fn runs_are_found_and_told_apart() {
    let world = World { dir: tempfile::tempdir().expect("a folder") };
    let nothing = world.run("runs").ok();
    assert!(nothing.stdout.is_empty() && nothing.stderr.contains("no run in ."), "{}", nothing.stderr);
    write_run(&world, "first", 40, "done", 1e-3);
    write_run(&world, "more/second", 20, "running", 2e-3);
    write_run(&world, "more/deep/er/third", 20, "done", 2e-3);
    write_run(&world, "first/checkpoint-100", 20, "done", 2e-3);
    let table = world.run("runs").ok();
    let lines: Vec<&str> = table.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{}", table.stdout);
    assert!(
        lines[0].starts_with("run") && lines[1].starts_with("first ") && lines[2].starts_with("more/second ")
    );
    for part in ["done", "200 of 1,000", "2.6500", "2.7500", "1.1042", "204.8k", "1 min 15 s", "3.0M"] {
        assert!(lines[1].contains(part), "no {part:?} in {}", lines[1]);
    }
    assert!(lines[2].contains("interrupted"), "{}", lines[2]);

    let lock = std::fs::File::create(world.path("more/second/.lock")).expect("the lock");
    lock.lock().expect("locked");
    let runs = world.run("runs more ./more/second --json").ok();
    let objects: Vec<Value> =
        runs.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let names: Vec<_> = objects.iter().map(|object| object["name"].as_str().unwrap_or_default()).collect();
    assert_eq!(names, ["more/second", "more/deep/er/third"][..1], "each once, two levels deep");
    assert_eq!((&objects[0]["status"], &objects[0]["step"]), (&json!("running"), &json!(100)));
    assert!(objects[0]["eval_bits_per_byte"].is_number() && objects[0]["best"].is_null());
}

#[test]
fn what_is_missing_or_cut_off_is_said() {
    let world = World { dir: tempfile::tempdir().expect("a folder") };
    write_run(&world, "run", 20, "done", 1e-3);
    std::fs::remove_file(world.path("run/run.json")).expect("removed");
    let log = world.read("run/metrics.jsonl");
    world.write("run/metrics.jsonl", &log[..log.len() - 9]);
    let run = world.run("runs run --report report.html").ok();
    assert!(run.stdout.contains("unknown"), "{}", run.stdout);
    for part in ["no run.json", "half a line", "wrote report.html"] {
        assert!(run.stderr.contains(part), "no {part:?} in {}", run.stderr);
    }
    world.run("runs missing").refused(1, &["missing"]);
    world.run("runs run/metrics.jsonl").refused(1, &["run/metrics.jsonl"]);
    std::fs::create_dir(world.path("empty")).expect("a folder");
    world.run("runs empty --report none.html").refused(1, &["empty", "hint:"]);
    world.run("runs run --report run/metrics.jsonl/x.html").refused(1, &["run/metrics.jsonl/x.html"]);
    assert!(!world.path("none.html").exists());
}

#[test]
fn a_real_run_is_listed() {
    let world = World::with_model();
    let object = world.run("runs model --json").ok().json();
    assert_eq!((&object["name"], &object["step"]), (&json!("model"), &json!(12)));
    assert!(object["loss"].is_number() && object["tokens_per_second"].is_number(), "{object}");
    let page = world.run("runs --report page.html").ok();
    assert!(page.stderr.contains("wrote page.html"), "{}", page.stderr);
}

/// A browser that can be run without a screen.
pub(crate) fn browser() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"];
    let path = std::env::var_os("PATH")?;
    let places: Vec<_> = std::env::split_paths(&path).collect();
    names.iter().flat_map(|name| places.iter().map(move |place| place.join(name))).find(|path| path.is_file())
}

/// Runs the browser without a network on a page; `what` is to be done with it.
pub(crate) fn browse(browser: &Path, profile: &Path, page: &Path, width: u32, what: &str) -> String {
    let output = Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--hide-scrollbars",
        ])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND", "--timeout=20000"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("--window-size={width},2400"))
        .arg(what)
        .arg(format!("file://{}", page.display()))
        .output()
        .expect("the browser starts");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn pages_look_sane_in_a_browser() {
    let Some(browser) = browser() else {
        eprintln!("skipped: no chromium or google-chrome on PATH");
        return;
    };
    let world = World { dir: tempfile::tempdir().expect("a folder") };
    write_run(&world, "short", 10, "running", 1e-3);
    write_run(&world, "long", 3000, "done", 2e-3);
    world.run("runs short --report short.html").ok();
    world.run("runs long --report long.html").ok();
    world.run("runs short long --report compared.html").ok();
    let profile = world.path("profile");
    // Loss, learning rate, gradient norm, speed; evaluations have a picture of their own where runs are compared.
    for (name, pictures) in [("short", 4), ("long", 4), ("compared", 5)] {
        let page = world.path(&format!("{name}.html"));
        for width in [1200, 390] {
            let dom = browse(&browser, &profile, &page, width, "--dump-dom");
            let root = dom.split("<head>").next().unwrap_or_default();
            assert!(root.contains("data-layout=\"sane\""), "{name} {width} wide: {root}");
            assert!(root.contains(&format!("data-pictures=\"{pictures}\"")), "{name}: {root}");
            assert!(!dom.contains("<title>broken"), "{name}: a completion became a script");
        }
    }
    // A page is more to look at than no page.
    let blank = world.write("blank.html", "<!doctype html><title>blank</title>");
    let picture = |page: &Path| {
        let png = world.path("picture.png");
        let _ = std::fs::remove_file(&png);
        browse(&browser, &profile, page, 1200, &format!("--screenshot={}", png.display()));
        let bytes = std::fs::read(&png).expect("a picture");
        assert!(bytes.starts_with(b"\x89PNG"));
        bytes.len()
    };
    let (page, blank) = (picture(&world.path("long.html")), picture(&blank));
    assert!(page > 4 * blank, "{page} bytes, and {blank} of a blank page");
}
