//! What can be wrong: one clear message, status 1 or 2, and nothing half-written in place of something good.

use crate::common::{World, entries};

#[test]
fn usage_that_is_wrong_has_status_2_and_a_suggestion() {
    let world = World::new();
    world.run("trian").refused(2, &["trian", "'train'"]);
    world.run("train --lerning-rate 1").refused(2, &["--lerning-rate", "--learning-rate"]);
    world.run("generate").refused(2, &["--model"]);
    world.run("generate --model m --num-beams 4 x").refused(2, &["--num-beams"]);
    world.run("model show --set n_layers=3").refused(2, &["n_layers", "n_layer"]);
    world.run("model show --set n_layer").refused(2, &["KEY=VALUE"]);
    world.run("model show --config gtp2").refused(2, &["gtp2", "did you mean `gpt2`"]);
    world.run("model show --set n_head=5").refused(2, &["n_head", "768"]);
    world.run("train").refused(2, &["CONFIG.toml"]);
    world.run("train --train-data code run.toml").refused(2, &["put it first"]);
    // Tests have no terminal.
    world
        .run("train --train-data code --tokenizer code --output-dir out --tui")
        .refused(2, &["--tui", "not a terminal", "hint:"]);
    world.run("quickstart code --minutes 0").refused(2, &["--minutes"]);
    world.run("tokenizer train code --vocab-size 100 --out t").refused(2, &["100", "257"]);
    world.run("bench training --isa sse9").refused(2, &["sse9"]);
    for command in ["serve", "export", "hub"] {
        world.run(command).refused(2, &[command]);
    }
    assert_eq!(entries(world.dir.path()), ["code"]);
}

#[test]
fn sources_without_documents() {
    let world = World::with_tokenizer();
    std::fs::create_dir(world.path("empty")).expect("a folder");
    world.write("binary/a.rs", b"\0\0\0\0fn main() {}");
    world.write("blank/a.rs", b"  \n");
    world.write("empty.jsonl", b"");
    world.write("broken.jsonl", b"{\"content\": \n[1]\n{\"text\": 3}\n{\"other\": \"x\"}\n");
    for data in ["empty", "binary", "blank", "empty.jsonl", "broken.jsonl"] {
        for command in
            ["tokenizer train DATA --vocab-size 300 --out out", "quickstart DATA --minutes 0.1 --out out"]
        {
            world.run(&command.replace("DATA", data)).refused(1, &[data]);
            assert!(!world.path("out").exists(), "{command} {data}");
        }
        world.run(&format!("data prepare {data} --tokenizer tokenizer --out out")).refused(1, &[data]);
        assert!(!world.path("out").exists(), "{data}");
    }
    world.run("data show missing").refused(1, &["missing"]);
    world.run("data show missing*.jsonl").refused(1, &["missing*.jsonl"]);
    world.run("data show data.parquet").refused(1, &["parquet"]);
    world.run("data show hub:a/b/c").refused(2, &["hub:a/b/c", "OWNER/NAME"]);
}

#[test]
fn broken_lines_are_counted_and_named() {
    let world = World::new();
    let good = serde_json::json!({ "content": crate::common::source(1) }).to_string();
    world.write("rows.jsonl", format!("{good}\n{{\"content\": \n{{\"content\": 3}}\n{{}}\n"));
    let run = world.run("tokenizer train rows.jsonl --vocab-size 300 --out t").ok();
    assert!(run.stderr.contains("1 documents") && run.stderr.contains("3 broken rows"), "{}", run.stderr);
    assert!(run.stderr.contains("rows.jsonl:2"), "{}", run.stderr);
    world.run("tokenizer encode --tokenizer t --jsonl rows.jsonl").refused(1, &["rows.jsonl", "line 2"]);
}

#[test]
fn ids_and_text_that_cannot_be() {
    let world = World::with_tokenizer();
    let decode = ["tokenizer", "decode", "--tokenizer", "tokenizer"];
    world.run_with(&decode, "[1, 99999]").refused(1, &["99999"]);
    world.run_with(&decode, "[1]\nhello\n").refused(1, &["line 2"]);
    world.write("latin.rs", b"\xe9");
    world.run("tokenizer encode --tokenizer tokenizer latin.rs").refused(1, &["latin.rs", "byte 0", "UTF-8"]);
    world.run("tokenizer encode --tokenizer nowhere").refused(1, &["nowhere", "hint:"]);
    world.write("bad/tokenizer.json", "{\"model\": ");
    world.run("tokenizer encode --tokenizer bad").refused(1, &["bad/tokenizer.json"]);
}

#[test]
fn configurations_that_cannot_be() {
    let world = World::with_tokenizer();
    let base = "output_dir = 'out'\ntrain_data = 'code'\ntokenizer = 'tokenizer'\n";
    for (line, status, parts) in [
        ("lerning_rate = 1", 2, ["run.toml: line 4", "learning_rate"]),
        ("learning_rate = 'fast'", 2, ["run.toml: line 4", "learning_rate"]),
        ("n_head = 5", 2, ["n_head", "768"]),
        ("context_length = 2048", 2, ["context_length", "1024"]),
        ("per_device_train_batch_size = 0", 2, ["line 4", "per_device_train_batch_size"]),
        ("learning_rate = ", 2, ["run.toml", "line 4"]),
        ("fp16 = true\ndevice = 'cpu'", 2, ["fp16", "bf16"]),
        ("vocab_size = 300", 1, ["tokenizer", "300"]),
        ("context_length = 32\neval_strategy = 'epoch'\neval_data = 'nowhere'", 1, ["nowhere", "hint:"]),
    ] {
        world.write("run.toml", format!("{base}{line}\n"));
        world.run("train run.toml").refused(status, &parts);
    }
    world.run("train missing.toml").refused(1, &["missing.toml"]);
    world.train("--output-dir out --tokenizer hub:a/b").refused(2, &["hub"]);
    assert!(!world.path("out/model.safetensors").exists());
}

#[test]
fn too_little_data_for_one_sample() {
    let world = World::with_tokenizer();
    world.write("tiny/a.rs", "fn a() {}\n");
    world
        .run("train --train-data tiny --tokenizer tokenizer --output-dir out --n-layer 1")
        .refused(1, &["context_length"]);
    world
        .run("data prepare tiny --tokenizer tokenizer --out shards")
        .refused(1, &["too little data", "hint:"]);
    world.run("quickstart tiny --minutes 0.1 --out out2").refused(1, &["one document"]);
    assert!(!world.path("shards").exists() && !world.path("out2").exists());
}

#[test]
fn model_folders_that_are_not_whole() {
    let world = World::with_model();
    let copy = |name: &str| {
        let to = world.path(name);
        std::fs::create_dir(&to).expect("a folder");
        for file in ["config.json", "model.safetensors", "tokenizer.json"] {
            std::fs::copy(world.path("model").join(file), to.join(file)).expect("copied");
        }
        to
    };
    let generate = |name: &str| world.run_with(&["generate", "--model", name, "fn"], "");
    generate("nowhere").refused(1, &["nowhere", "hint:"]);
    generate("code").refused(1, &["code/config.json"]);

    std::fs::remove_file(copy("no-weights").join("model.safetensors")).expect("removed");
    generate("no-weights").refused(1, &["no-weights"]);
    std::fs::remove_file(copy("no-tokenizer").join("tokenizer.json")).expect("removed");
    generate("no-tokenizer").refused(1, &["no-tokenizer", "hint:"]);

    let weights = world.read("model/model.safetensors");
    copy("truncated");
    world.write("truncated/model.safetensors", &weights[..weights.len() - 1000]);
    generate("truncated").refused(1, &["truncated/model.safetensors", "expected", "got", "hint:"]);
    world.run("eval --model truncated --data code").refused(1, &["truncated/model.safetensors"]);

    copy("nan");
    let mut broken = weights.clone();
    let end = broken.len();
    broken[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    world.write("nan/model.safetensors", broken);
    generate("nan").refused(1, &["nan/model.safetensors", "NaN"]);

    let config = String::from_utf8(world.read("model/config.json")).expect("text");
    copy("misshaped");
    world.write("misshaped/config.json", config.replace("\"n_embd\": 32", "\"n_embd\": 34"));
    generate("misshaped").refused(1, &["misshaped", "expected"]);
    copy("deeper");
    world.write("deeper/config.json", config.replace("\"n_layer\": 2", "\"n_layer\": 3"));
    generate("deeper").refused(1, &["deeper", "missing"]);
    copy("other");
    world.write("other/config.json", config.replace("\"gpt2\"", "\"llama\""));
    generate("other").refused(1, &["other/config.json", "llama"]);

    world.run("tokenizer train code --vocab-size 500 --out larger").ok();
    world
        .run_with(&["generate", "--model", "model", "--tokenizer", "larger", "fn"], "")
        .refused(1, &["larger", "400"]);
}

#[test]
fn sampling_that_cannot_be() {
    let world = World::with_model();
    for (arguments, part) in [
        ("--do-sample --temperature 0", "temperature"),
        ("--do-sample --top-p 1.5", "top_p"),
        ("--max-new-tokens 0", "max_new_tokens"),
        ("--repetition-penalty -1", "repetition"),
        ("--num-return-sequences 2", "--do-sample"),
        ("--num-return-sequences 0", "num-return-sequences"),
        ("--fp32 --bf16", "--bf16"),
        ("--threads 0", "--threads"),
    ] {
        world.run(&format!("generate --model model fn {arguments}")).refused(2, &[part]);
    }
    world.run("eval --model model --data code --context-length 64").refused(2, &["context_length", "32"]);
    world.run("eval --model model --data code --batch-size 0").refused(2, &["--batch-size"]);
}

#[test]
fn output_folders_that_cannot_be() {
    let world = World::with_tokenizer();
    world.write("file", "x");
    for command in [
        "tokenizer train code --vocab-size 300 --out file/below",
        "data prepare code --tokenizer tokenizer --out file/below",
        "quickstart code --minutes 0.1 --out file/below",
        "quickstart code --minutes 0.1 --out file",
    ] {
        world.run(command).refused(1, &["file"]);
    }
    world.train("--output-dir file --max-steps 1").refused(1, &["file"]);
    assert_eq!(world.read("file"), b"x");
    // Somebody else's folder.
    world.write("mine/notes.txt", "precious");
    world.run("quickstart code --minutes 0.1 --out mine").refused(1, &["mine", "--out"]);
    world.run("data prepare code --tokenizer tokenizer --out mine").refused(1, &["mine"]);
    assert_eq!(entries(&world.path("mine")), ["notes.txt"]);
}

#[test]
fn an_output_folder_in_use_is_left_alone() {
    let world = World::with_tokenizer();
    world.train("--output-dir out --max-steps 2").ok();
    let before = world.read("out/model.safetensors");
    let lock = std::fs::OpenOptions::new().write(true).open(world.path("out/.lock")).expect("the lock");
    lock.lock().expect("locked");
    world.train("--output-dir out --max-steps 4").refused(1, &["out", "in use"]);
    assert_eq!(world.read("out/model.safetensors"), before);
}
