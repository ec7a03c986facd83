//! Everything in one go, on a small corpus, in the time given.

use crate::common::{World, entries};
use std::time::{Duration, Instant};

#[test]
fn from_a_folder_of_code_to_a_model_that_completes_it() {
    let world = World::new();
    world.write("code/photo.png", b"\x89PNG");
    world.write("code/binary.rs", b"\0\0");
    // Of less, a busy machine leaves nothing for a step.
    let minutes = 0.3;
    let start = Instant::now();
    let run =
        world.run(&format!("quickstart code --device cpu --minutes {minutes} --out code/runs/quick")).ok();
    let (taken, given) = (start.elapsed(), Duration::from_secs_f64(60.0 * minutes));
    // 5 % over at the most; half a second is the machine's, which other tests share.
    assert!(
        taken < given.mul_f64(1.05) + Duration::from_millis(500),
        "{taken:?} of {given:?}: {}",
        run.stderr
    );
    for part in ["1 binary", "plan", "tokens/s measured", "held out: ", "trained: "] {
        assert!(run.stderr.contains(part), "no {part:?} in {}", run.stderr);
    }
    for part in ["bits per byte", "model │", " file │", "go on with", "eyas generate --model code/runs/quick"]
    {
        assert!(run.stdout.contains(part), "no {part:?} in {}", run.stdout);
    }
    let names = entries(&world.path("code/runs/quick"));
    for name in [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "metrics.jsonl",
        "README.md",
    ] {
        assert!(names.iter().any(|entry| entry == name), "{name} in {names:?}");
    }

    // What it says to go on with works.
    let result =
        world.run("eval --model code/runs/quick --data code/runs/quick/data/valid.jsonl --json").ok().json();
    assert!(result["bits_per_byte"].as_f64().is_some_and(|bits| bits > 0.0 && bits < 8.0), "{result}");
    world.run_with(&["generate", "--model", "code/runs/quick", "pub fn"], "").ok();
    world.run(
        "train --model-name-or-path code/runs/quick --train-data code/runs/quick/data/train.jsonl --mode pack \
         --context-length 256 --max-steps 2 --output-dir longer",
    ).ok();

    // A second run may replace the first, and does not learn from what the first wrote.
    let again = world.run("quickstart code --device cpu --minutes 0.25 --out code/runs/quick").ok();
    let learned = |text: &str| text.lines().find(|line| line.starts_with("to learn from")).map(String::from);
    assert_eq!(learned(&again.stderr), learned(&run.stderr));
}
