//! Each command for itself, through the built binary.

use crate::common::{World, entries, source};
use serde_json::{Value, json};

#[test]
fn ids_become_the_text_they_came_from() {
    let world = World::with_tokenizer();
    let text = "fn größe() -> u32 {\n\t\"naïve → 🦅\"\n}\n\n";
    let ids = world.run_with(&["tokenizer", "encode", "--tokenizer", "tokenizer"], text).ok();
    assert_eq!(ids.stdout.lines().count(), 1);
    let back = world.run_with(&["tokenizer", "decode", "--tokenizer", "tokenizer"], &ids.stdout).ok();
    assert_eq!(back.stdout, text);
}

#[test]
fn a_document_is_a_file_or_a_line() {
    let world = World::with_tokenizer();
    let files = world
        .run("tokenizer encode --tokenizer tokenizer code/module_0/file_0.rs code/module_1/file_1.rs")
        .ok();
    let rows: String = [0, 1].map(|i| json!({ "content": source(i) }).to_string() + "\n").concat();
    world.write("rows.jsonl", rows);
    let lines = world.run("tokenizer encode --tokenizer tokenizer --jsonl rows.jsonl").ok();
    assert_eq!(files.stdout, lines.stdout);
    assert_eq!(lines.stdout.lines().count(), 2);
    let decode = ["tokenizer", "decode", "--jsonl", "--tokenizer", "tokenizer"];
    let rows = world.run_with(&decode, &lines.stdout).ok();
    let first: Value = serde_json::from_str(rows.stdout.lines().next().expect("a line")).expect("JSON");
    assert_eq!(first["content"], source(0));
}

#[test]
fn special_tokens_take_the_first_ids() {
    let world = World::new();
    world.run("tokenizer train code --vocab-size 300 --out t --special-token <|endoftext|> --special-token <fim_prefix>").ok();
    let ids = world.run_with(&["tokenizer", "encode", "--tokenizer", "t"], "<fim_prefix><|endoftext|>").ok();
    assert_eq!(ids.stdout, "[1,0]\n");
}

#[test]
fn data_are_shown_and_prepared() {
    let world = World::with_tokenizer();
    let shown = world.run("data show code -n 2 --tokenizer tokenizer").ok();
    assert_eq!(shown.stdout.matches("──").count(), 4, "{}", shown.stdout);
    assert!(shown.stdout.contains("//! Module 0."));

    world.run("data prepare code --tokenizer tokenizer --mode pack --context-length 32 --out shards --validation-one-in 5").ok();
    assert_eq!(entries(&world.path("shards")), ["train", "valid"]);
    let sample = world.run("data show shards/train --tokenizer tokenizer").ok();
    assert!(sample.stdout.contains("<|endoftext|>//! Module"), "{}", sample.stdout);
    let chunks = world.run("data prepare code --tokenizer tokenizer --context-length 64 --out chunks").ok();
    assert!(chunks.stderr.contains("dropped"), "{}", chunks.stderr);
}

#[test]
fn a_shape_is_shown_as_transformers_prints_it() {
    let world = World { dir: tempfile::tempdir().expect("a folder") };
    let shown = world.run("model show --config gpt2 --vocab-size 50000").ok();
    assert!(
        shown
            .stdout
            .starts_with("GPT2LMHeadModel(\n  (transformer): GPT2Model(\n    (wte): Embedding(50000, 768)\n")
    );
    assert!(shown.stdout.contains("Conv1D(nf=2304, nx=768)"));
    assert!(shown.stdout.ends_with("\n124.2M parameters (124,242,432)\n"), "{}", shown.stdout);
    let shown = world.run("model show --vocab-size 50000 --json").ok().json();
    assert_eq!((&shown["num_parameters"], &shown["num_decayed"]), (&json!(124_242_432), &json!(124_121_088)));
    assert_eq!(shown["tensors"].as_array().map(Vec::len), Some(148));
    let wte = json!({ "name": "transformer.wte.weight", "shape": [50000, 768], "decay": true });
    assert_eq!(shown["tensors"][0], wte);
    let small = world.run("model show --set n_layer=1 --set n_embd=64 --set n_head=4").ok();
    assert!(small.stdout.contains("(0): GPT2Block("));
}

#[test]
fn a_model_is_evaluated_and_continues_text() {
    let world = World::with_model();
    let result = world.run("eval --model model --data code --json --device cpu").ok().json();
    let number = |key: &str| result[key].as_f64().unwrap_or_else(|| panic!("{key} in {result}"));
    assert_eq!(result.as_object().map(|fields| fields.len()), Some(6));
    assert!((number("perplexity") - number("loss").exp()).abs() < 1e-6 * number("perplexity"));
    let bits = number("loss") * number("num_targets") / (std::f64::consts::LN_2 * number("num_bytes"));
    assert!((number("bits_per_byte") - bits).abs() < 1e-9);
    assert!(number("loss") < 6.0 && number("next_token_accuracy") > 0.0);
    assert!(world.run("eval --model model --data code").ok().stdout.contains("bits per byte"));
    // Neither the batch nor the threads change a bit.
    let again = world
        .run("eval --model model --data code --json --device cpu --batch-size 1 --threads 1")
        .ok()
        .json();
    assert_eq!(again, result);

    let greedy = ["generate", "--model", "model", "--max-new-tokens", "8", "pub fn"];
    let text = world.run_with(&greedy, "").ok();
    assert!(text.stdout.starts_with("pub fn"), "{}", text.stdout);
    let one = world.run_with(&[&greedy[..], &["--json"]].concat(), "").ok().json();
    assert_eq!(
        text.stdout.trim_end_matches('\n'),
        format!("pub fn{}", one["text"].as_str().expect("text")).trim_end_matches('\n')
    );
    let ids = one["ids"].as_array().expect("ids");
    assert!(one["finish_reason"] == "stop" || ids.len() == 8, "{one}");
    let piped = ["generate", "--model", "model", "--max-new-tokens", "8", "-", "--json"];
    assert_eq!(world.run_with(&piped, "pub fn").ok().json(), one);
}

#[test]
fn sampled_sequences_repeat_with_their_seed() {
    let world = World::with_model();
    let sample = |seed: &str| {
        let arguments =
            ["generate", "--model", "model", "fn", "--do-sample", "--num-return-sequences", "3", "--json"];
        world
            .run_with(&[&arguments[..], &["--max-new-tokens", "12", "--seed", seed]].concat(), "")
            .ok()
            .stdout
    };
    let first = sample("1");
    assert_eq!(first.lines().count(), 3);
    assert_eq!(first, sample("1"));
    assert_ne!(first, sample("2"));
}

#[test]
fn a_prompt_that_is_too_long_is_cut_and_said_so() {
    let world = World::with_model();
    let arguments = ["generate", "--model", "model", "--max-new-tokens", "4", "--json"];
    let ran = world.run_with(&arguments, &source(1)).ok();
    assert!(ran.stderr.contains("warning:") && ran.stderr.contains("32 positions"), "{}", ran.stderr);
    assert_eq!(ran.json()["prompt_ids"].as_array().map(Vec::len), Some(28));
}

#[test]
fn bench_prints_its_figures() {
    let world = World { dir: tempfile::tempdir().expect("a folder") };
    let arguments =
        "bench training --device cpu --batch-size 1 --context-length 8 --seconds 0 --json --precision fp32";
    let figure = world.run(arguments).ok().json();
    for key in ["value", "share_of_peak", "peak", "spread"] {
        assert!(figure[key].as_f64().is_some_and(|value| value >= 0.0), "{key} in {figure}");
    }
    assert_eq!(figure["unit"], "tokens/s");
    assert!(figure["device"].as_str().is_some_and(|device| device.contains("CPU")), "{figure}");
}

#[test]
fn bench_generation_prints_a_prompt_and_new_tokens() {
    let world = World { dir: tempfile::tempdir().expect("a folder") };
    for format in ["bf16", "int4"] {
        let arguments = format!(
            "bench generation --device cpu --prompt-length 9 --new-tokens 3 --json --format {format}"
        );
        let stdout = world.run(&arguments).ok().stdout;
        let figures: Vec<serde_json::Value> =
            stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(figures.len(), 2, "{stdout}");
        for (figure, what) in figures.iter().zip(["prompt of 9", "3 new"]) {
            assert!(figure["name"].as_str().is_some_and(|name| name.contains(what)), "{figure}");
            assert_eq!(figure["unit"], "tokens/s");
            for key in ["value", "share_of_peak", "peak", "threads", "spread"] {
                assert!(figure[key].as_f64().is_some_and(|value| value >= 0.0), "{key} in {figure}");
            }
        }
    }
}

#[test]
fn quantized_models_complete_and_are_evaluated() {
    let world = World::with_model();
    let loss = |more: &str| {
        let result =
            world.run(&format!("eval --model model --data code --json --device cpu {more}")).ok().json();
        result["loss"].as_f64().expect("a loss")
    };
    let exact = loss("");
    assert_eq!(exact, loss("--precision fp32"));
    for (precision, tolerance) in [("int8", 0.005), ("int4", 0.03)] {
        let loss = loss(&format!("--precision {precision}"));
        assert!(loss != exact && (loss / exact - 1.0).abs() < tolerance, "{precision}: {loss}, {exact}");
        let arguments = ["generate", "--model", "model", "--max-new-tokens", "6", "--precision", precision];
        let ran = world.run_with(&[&arguments[..], &["pub fn"]].concat(), "").ok();
        assert!(ran.stdout.starts_with("pub fn") && ran.stderr.contains(precision), "{ran:?}");
    }
}

#[test]
fn help_is_a_result_with_every_flag() {
    let world = World { dir: tempfile::tempdir().expect("a folder") };
    let all = world.run("--help").ok().stdout;
    for command in ["quickstart", "tokenizer", "data", "model", "train", "eval", "generate", "bench"] {
        assert!(all.contains(command), "{all}");
        let help = world.run(&format!("{command} --help")).ok();
        assert!(help.stdout.contains("Usage:") && help.stderr.is_empty(), "{help:?}");
    }
    let train = world.run("train --help").ok().stdout;
    for setting in eyas_train::SETTINGS.iter().chain(eyas_train::MODEL_SETTINGS) {
        assert!(train.contains(&format!("--{}", setting.name.replace('_', "-"))), "{}", setting.name);
    }
}

#[cfg(unix)]
#[test]
fn a_closed_stdout_ends_quietly() {
    use std::process::{Command, Stdio};
    let world = World::with_tokenizer();
    let mut child = Command::new(env!("CARGO_BIN_EXE_eyas"))
        .args(["data", "show", "code", "-n", "60"])
        .current_dir(world.dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("eyas starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}
