//! `eyas tokenizer encode` and `decode`: any bytes, any number of documents, and what is said when it cannot be done.

use crate::common::{World, source};
use serde_json::{Value, json};

const ENCODE: [&str; 4] = ["tokenizer", "encode", "--tokenizer", "tokenizer"];
const DECODE: [&str; 4] = ["tokenizer", "decode", "--tokenizer", "tokenizer"];

#[test]
fn any_bytes_come_back() {
    let world = World::with_tokenizer();
    let all: Vec<u8> =
        (0..=255).chain((0..=255).rev()).chain(*b"fn \xc3 \xe2\x82 \xf0\x9f\x98 main<|endoftext|>").collect();
    world.write("any.bin", &all);
    let ids = world.run("tokenizer encode --tokenizer tokenizer --non-utf8 bytes any.bin").ok();
    let decoded = world.command().args(DECODE).write_stdin(ids.stdout).output().expect("eyas starts");
    assert_eq!(decoded.stdout, all);
    world
        .run("tokenizer encode --tokenizer tokenizer any.bin")
        .refused(1, &["any.bin: byte 128: expected UTF-8", "--non-utf8 bytes"]);
    world
        .run("tokenizer encode --tokenizer tokenizer --jsonl --non-utf8 bytes any.bin")
        .refused(2, &["--jsonl"]);
}

#[test]
fn objects_say_where_they_come_from() {
    let world = World::with_tokenizer();
    let text = "let x = \"é\";";
    world.write("a.rs", text);
    let row = json!({ "code": text }).to_string();
    world.write("rows.jsonl", format!("\n{row}\n  \n{row}"));
    let ids: Value = world.run_with(&ENCODE, text).ok().json();
    let file = world.run("tokenizer encode --tokenizer tokenizer --json a.rs").ok().json();
    assert_eq!(file, json!({"file": "a.rs", "num_bytes": text.len(), "ids": ids}));
    let rows =
        world.run("tokenizer encode --tokenizer tokenizer --json --jsonl --text-field code rows.jsonl").ok();
    let rows: Vec<Value> =
        rows.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let row = |line: usize| json!({"file": "rows.jsonl", "line": line, "num_bytes": text.len(), "ids": ids});
    assert_eq!(rows, [row(2), row(4)]);
    let back = world.run_with(&DECODE, &format!("{file}\n{ids}\n")).ok();
    assert_eq!(back.stdout, text.repeat(2));
}

#[test]
fn many_documents_keep_their_order() {
    let world = World::with_tokenizer();
    let texts: Vec<String> = (0..3000).map(|i| source(i % 60).repeat(i % 3) + &i.to_string()).collect();
    let rows: String = texts.iter().map(|text| json!({ "content": text }).to_string() + "\n").collect();
    let ids = world.run_with(&[&ENCODE[..], &["--jsonl"]].concat(), &rows).ok();
    assert_eq!(ids.stdout.lines().count(), texts.len());
    let back = world.run_with(&[&DECODE[..], &["--jsonl"]].concat(), &ids.stdout).ok();
    for (line, text) in back.stdout.lines().zip(&texts) {
        let row: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(row["content"], **text);
    }
    // What comes before a wrong line is written, and the line is named.
    let cut = rows.replacen("\"content\"", "\"other\"", 2000).replacen("\"other\"", "\"content\"", 1999);
    let run = world.run_with(&[&ENCODE[..], &["--jsonl"]].concat(), &cut);
    run.refused(1, &["stdin: line 2000: no field `content` or `text`"]);
}

#[test]
fn wrong_ids_are_named() {
    let world = World::with_tokenizer();
    world
        .run_with(&DECODE, "[1]\n\n[2, 3, 99999]\n")
        .refused(1, &["stdin: line 3: id 99999 at position 2 is no token"]);
    world.run_with(&DECODE, "[1]\n[-1]\n").refused(1, &["stdin: line 2: expected a JSON array of ids"]);
    world.run_with(&DECODE, "{\"text\": 3}").refused(1, &["stdin: line 1: expected a JSON array of ids"]);
}

#[test]
fn a_slow_tokenizer_says_so_once() {
    let world = World::with_tokenizer();
    let mut file: Value = serde_json::from_slice(&world.read("tokenizer/tokenizer.json")).expect("JSON");
    file["model"]["unk_token"] = "a".into();
    world.write("slow/tokenizer.json", file.to_string());
    let text = "fn main() {}\n";
    let slow = world.run_with(&["tokenizer", "encode", "--tokenizer", "slow"], text).ok();
    assert_eq!(slow.stdout, world.run_with(&ENCODE, text).ok().stdout);
    assert_eq!(slow.stderr.matches("slower: model.unk_token is \"a\"").count(), 1, "{}", slow.stderr);
    let prepared =
        world.run("data prepare code --tokenizer slow --context-length 32 --mode pack --out shards").ok();
    assert_eq!(prepared.stderr.matches("slower").count(), 1, "{}", prepared.stderr);
    file["pre_tokenizer"] = json!({"type": "Split", "pattern": {"Regex": "(?:(a|aa)+)(?<!c)b"}, "behavior": "Isolated", "invert": false});
    world.write("hard/tokenizer.json", file.to_string());
    let hard = world.run_with(&["tokenizer", "encode", "--tokenizer", "hard"], &"a".repeat(200));
    hard.refused(1, &["stdin: cannot encode text: the regular expression \"(?:(a|aa)+)(?<!c)b\""]);
}
