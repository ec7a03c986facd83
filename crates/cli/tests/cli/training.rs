//! Runs of training: files and flags, the end, being stopped, going on.

use crate::common::{World, entries};

#[test]
fn a_run_leaves_a_model_its_log_and_checkpoints() {
    let world = World::with_tokenizer();
    let run = world
        .train("--output-dir out --max-steps 12 --eval-data code --eval-strategy steps --eval-steps 6")
        .ok();
    assert_eq!(run.stdout, "model saved to out\n");
    for part in ["parameters", "12 updates", "evaluation after 12 updates", "saved out/checkpoint-6"] {
        assert!(run.stderr.contains(part), "no {part:?} in {}", run.stderr);
    }
    let names = entries(&world.path("out"));
    for name in [
        "checkpoint-12",
        "checkpoint-6",
        "config.json",
        "metrics.jsonl",
        "model.safetensors",
        "tokenizer.json",
    ] {
        assert!(names.iter().any(|entry| entry == name), "{name} in {names:?}");
    }
    let log = String::from_utf8(world.read("out/metrics.jsonl")).expect("text");
    let first: serde_json::Value = serde_json::from_str(log.lines().next().expect("a line")).expect("JSON");
    for key in ["step", "epoch", "loss", "learning_rate", "grad_norm", "tokens_per_second", "num_tokens"] {
        assert!(first[key].is_number(), "{key} in {first}");
    }
    assert!(log.contains("eval_bits_per_byte"));
}

#[test]
fn a_file_and_flags_are_one_configuration() {
    let world = World::with_tokenizer();
    let toml = "output_dir = 'from-file'\ntrain_data = 'code'\ntokenizer = 'tokenizer'\nmode = 'pack'\ncontext_length = 32\n\
                n_layer = 1\nn_head = 2\nn_embd = 32\nmax_steps = 5\nsave_strategy = 'no'\nfp16 = true\n";
    world.write("run.toml", toml);
    world.run("train run.toml").refused(2, &["fp16", "bf16"]);
    assert!(!world.path("from-file").exists());
    let run = world.run("train run.toml --bf16 --max-steps 2 --shuffle false --output-dir=from-flag").ok();
    assert!(run.stderr.contains("2 updates") && run.stderr.contains("bfloat16"), "{}", run.stderr);
    assert!(world.path("from-flag/model.safetensors").exists() && !world.path("from-file").exists());
}

#[test]
fn a_resumed_run_ends_with_the_same_bits() {
    let world = World::with_tokenizer();
    world.train("--output-dir whole --max-steps 12").ok();
    world.train("--output-dir parts --max-steps 12 --save-strategy steps").ok();
    // As if it had been killed after its first checkpoint.
    for name in ["checkpoint-12", "model.safetensors", "config.json"] {
        let path = world.path("parts").join(name);
        if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }
            .expect("removed");
    }
    let resumed = world.train("--output-dir parts --max-steps 12").ok();
    assert!(resumed.stderr.contains("resumed from parts/checkpoint-6 after 6 updates"), "{}", resumed.stderr);
    assert_eq!(world.read("whole/model.safetensors"), world.read("parts/model.safetensors"));
}

#[test]
fn training_goes_on_from_a_model() {
    let world = World::with_model();
    let run = world.run(
        "train --model-name-or-path model --train-data code --mode pack --context-length 32 --max-steps 3 --output-dir more",
    );
    run.ok();
    assert!(world.path("more/model.safetensors").exists());
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_a_checkpoint_and_the_same_command_goes_on() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    let world = World::with_tokenizer();
    let arguments = "train --train-data code --mode pack --context-length 32 --tokenizer tokenizer --n-layer 2 --n-head 2 \
                     --n-embd 32 --max-steps 100000 --logging-steps 1 --save-steps 100000 --output-dir out";
    for (signal, status) in [("INT", 130), ("TERM", 143)] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_eyas"))
            .args(arguments.split_whitespace())
            .current_dir(world.dir.path())
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("eyas starts");
        let mut lines =
            BufReader::new(child.stderr.take().expect("stderr")).lines().map(|line| line.expect("text"));
        let mut begin = String::new();
        let logged = lines.by_ref().find(|line| {
            begin += line;
            line.starts_with("step ")
        });
        assert!(logged.is_some(), "{begin}");
        assert_eq!(begin.contains("resumed from"), signal == "TERM", "{begin}");
        let kill = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status();
        assert!(kill.expect("kill runs").success());
        let rest: Vec<String> = lines.collect();
        assert_eq!(child.wait().expect("it ends").code(), Some(status));
        assert!(rest.last().is_some_and(|line| line.contains("saved out/checkpoint-")), "{rest:?}");
    }
    assert!(!world.path("out/model.safetensors").exists());
}
