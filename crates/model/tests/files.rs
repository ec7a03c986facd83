//! Model folders: every layout that loads, what is saved, and a collection of hostile ones.

mod common;

use common::{cpu, host, network, tiny};
use eyas_model::{Config, Error, Gpt, Use};
use eyas_ops::Cpu;
use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView, serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// A folder with a tiny network's config.json, and the network's tensors.
fn fixture() -> (TempDir, Gpt<Cpu<f32>>, Tensors) {
    let gpt = network(tiny(), 1, Use::Inference);
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("config.json"), gpt.config().to_json()).unwrap();
    let tensors = gpt.declarations().iter().zip(gpt.weights().iter());
    let tensors =
        tensors.map(|(d, w)| (d.name.clone(), (d.shape.clone(), host(&**gpt.device(), w)))).collect();
    (dir, gpt, tensors)
}

fn encode(tensors: &Tensors, dtype: Dtype) -> Vec<u8> {
    let bytes = |values: &[f32]| -> Vec<u8> {
        match dtype {
            Dtype::F16 => values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
            Dtype::BF16 => values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
            Dtype::F64 => values.iter().flat_map(|&x| f64::from(x).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        }
    };
    let data: Vec<_> =
        tensors.iter().map(|(name, (shape, values))| (name, shape.clone(), bytes(values))).collect();
    let views =
        data.iter().map(|(name, shape, data)| (name, TensorView::new(dtype, shape.clone(), data).unwrap()));
    serialize(views, None).unwrap()
}

fn write(dir: &Path, tensors: &Tensors) {
    fs::write(dir.join("model.safetensors"), encode(tensors, Dtype::F32)).unwrap();
}

fn load(dir: &Path) -> Result<Gpt<Cpu<f32>>, Error> {
    Gpt::load(cpu(1), dir, Use::Inference)
}

/// The message of the error that loading must give, which must contain all of `parts`.
#[track_caller]
fn assert_refused(dir: &Path, parts: &[&str]) {
    let message = load(dir).err().expect("it must not load").to_string();
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

#[track_caller]
fn assert_loads(dir: &Path, expected: &Gpt<Cpu<f32>>, tolerance: f64) {
    let loaded = load(dir).unwrap();
    for ((declared, ours), theirs) in
        loaded.declarations().iter().zip(loaded.weights().iter()).zip(expected.weights().iter())
    {
        let error =
            common::relative_error(&host(&**loaded.device(), ours), &host(&**loaded.device(), theirs));
        assert!(error <= tolerance, "{}: {error:e}", declared.name);
    }
}

#[test]
fn what_is_saved_loads_and_is_what_the_reference_reads() {
    let (dir, gpt, tensors) = fixture();
    let out = dir.path().join("deeper/saved");
    gpt.save(&out).unwrap();
    assert_loads(&out, &gpt, 0.0);
    let bytes = fs::read(out.join("model.safetensors")).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header.metadata().as_ref().and_then(|m| m.get("format")).map(String::as_str), Some("pt"));
    let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(read.len(), tensors.len());
    for (name, (shape, values)) in &tensors {
        let tensor = read.tensor(name).unwrap();
        assert_eq!((tensor.shape(), tensor.dtype()), (shape.as_slice(), Dtype::F32));
        assert!(tensor.data().chunks_exact(4).zip(values).all(|(b, v)| b == v.to_le_bytes()), "{name}");
    }
    let mut names: Vec<_> = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["config.json", "generation_config.json", "model.safetensors"]);
    assert_eq!(Config::load(&out).unwrap(), *load(&out).unwrap().config());
    // Saving over it replaces it.
    gpt.save(&out).unwrap();
    assert_loads(&out, &gpt, 0.0);
}

#[test]
fn saving_where_no_folder_can_be_is_an_error() {
    let (dir, gpt, _) = fixture();
    let file = dir.path().join("config.json");
    assert!(gpt.save(&file.join("below")).is_err());
    assert!(gpt.save(&file).is_err());
}

#[test]
fn every_layout_loads() {
    let (dir, gpt, tensors) = fixture();
    write(dir.path(), &tensors);
    assert_loads(dir.path(), &gpt, 0.0);

    let mut bare: Tensors =
        tensors.iter().map(|(name, t)| (name.trim_start_matches("transformer.").into(), t.clone())).collect();
    write(dir.path(), &bare);
    assert_loads(dir.path(), &gpt, 0.0);

    bare.insert("h.0.attn.bias".into(), (vec![1, 1, 24, 24], vec![1.0; 576]));
    bare.insert("h.1.attn.masked_bias".into(), (vec![], vec![-1e4]));
    bare.insert("lm_head.weight".into(), bare["wte.weight"].clone());
    write(dir.path(), &bare);
    assert_loads(dir.path(), &gpt, 0.0);

    for (dtype, tolerance) in [(Dtype::F16, 1e-3), (Dtype::BF16, 4e-3)] {
        fs::write(dir.path().join("model.safetensors"), encode(&tensors, dtype)).unwrap();
        assert_loads(dir.path(), &gpt, tolerance);
    }
}

/// Splits the tensors over two shards with an index, whose map `change` may spoil.
fn write_shards(dir: &Path, tensors: &Tensors, change: impl Fn(&mut serde_json::Value)) {
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let mut map = serde_json::Map::new();
    for (number, file) in names.iter().enumerate() {
        let shard = tensors.iter().enumerate().filter(|(i, _)| i % 2 == number);
        let shard: Tensors = shard.map(|(_, (name, tensor))| (name.clone(), tensor.clone())).collect();
        map.extend(shard.keys().map(|name| (name.clone(), (*file).into())));
        fs::write(dir.join(file), encode(&shard, Dtype::F32)).unwrap();
    }
    let mut index = serde_json::json!({"metadata": {"total_size": 0}, "weight_map": map});
    change(&mut index);
    fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

#[test]
fn shards_load_and_their_index_may_not_lie() {
    let (dir, gpt, tensors) = fixture();
    let name = "transformer.wte.weight";
    write_shards(dir.path(), &tensors, |_| {});
    assert_loads(dir.path(), &gpt, 0.0);
    for outside in
        ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", ".", "a\\b.safetensors", "x.bin"]
    {
        write_shards(dir.path(), &tensors, |index| index["weight_map"][name] = outside.into());
        assert_refused(dir.path(), &["index.json", name, "in this folder"]);
    }
    write_shards(dir.path(), &tensors, |index| index["weight_map"][name] = 7.into());
    assert_refused(dir.path(), &[name]);
    write_shards(dir.path(), &tensors, |index| {
        index["weight_map"]["nothing"] = "model-00001-of-00002.safetensors".into();
    });
    assert_refused(dir.path(), &["`nothing` is not in model-00001-of-00002.safetensors"]);
    write_shards(dir.path(), &tensors, |index| index["weight_map"] = 1.into());
    assert_refused(dir.path(), &["weight_map"]);
    write_shards(dir.path(), &tensors, |_| {});
    fs::remove_file(dir.path().join("model-00002-of-00002.safetensors")).unwrap();
    assert_refused(dir.path(), &["model-00002-of-00002.safetensors", "open"]);
}

#[test]
fn tensors_must_be_those_of_the_configuration() {
    let (dir, _, tensors) = fixture();
    let refused = |change: &dyn Fn(&mut Tensors), parts: &[&str]| {
        let mut changed = tensors.clone();
        change(&mut changed);
        write(dir.path(), &changed);
        assert_refused(dir.path(), parts);
    };
    let bias = "transformer.h.1.mlp.c_fc.bias";
    refused(&|t| drop(t.remove(bias)), &["1 tensors are missing", bias]);
    refused(
        &|t| drop(t.insert("score.weight".into(), (vec![1], vec![0.0]))),
        &["score.weight", "do not belong"],
    );
    refused(&|t| drop(t.insert("wpe.weight".into(), (vec![1], vec![0.0]))), &["wpe.weight"]);
    refused(
        &|t| drop(t.insert(bias.into(), (vec![95], vec![0.0; 95]))),
        &[bias, "expected shape [96], got [95]", "model.safetensors"],
    );
    refused(&|t| drop(t.insert(bias.into(), (vec![96, 1], vec![0.0; 96]))), &[bias, "[96, 1]"]);
    for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let wte = "transformer.wte.weight";
        refused(&|t| t.get_mut(wte).unwrap().1[24 * 5 + 3] = broken, &[wte, "[5, 3]", &broken.to_string()]);
    }
    let mut head = tensors["transformer.wte.weight"].clone();
    head.1[7] += 1.0;
    refused(
        &|t| drop(t.insert("lm_head.weight".into(), head.clone())),
        &["lm_head.weight", "tied", "element 7"],
    );
    fs::write(dir.path().join("model.safetensors"), encode(&tensors, Dtype::F64)).unwrap();
    assert_refused(dir.path(), &["F32, F16 or BF16", "F64"]);
}

#[test]
fn a_folder_without_weights_says_what_to_do() {
    let (dir, _, _) = fixture();
    assert_refused(dir.path(), &["model.safetensors", "saved completely"]);
    fs::write(dir.path().join("pytorch_model.bin"), "pickle").unwrap();
    assert_refused(dir.path(), &["pytorch_model.bin", "safe_serialization=True"]);
    fs::remove_file(dir.path().join("config.json")).unwrap();
    assert_refused(dir.path(), &["config.json", "open"]);
    assert_refused(&dir.path().join("nowhere"), &["nowhere"]);
    assert_refused(&dir.path().join("pytorch_model.bin"), &["pytorch_model.bin"]);
}

fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

#[test]
fn damaged_and_hostile_files_are_refused() {
    let (dir, _, tensors) = fixture();
    let whole = encode(&tensors, Dtype::F32);
    let file = dir.path().join("model.safetensors");
    let refused = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        assert_refused(dir.path(), &["model.safetensors"]);
    };
    // Truncated anywhere, or with something after the end.
    for len in [0, 1, 7, 8, 9, 100, whole.len() / 2, whole.len() - 1] {
        refused(&whole[..len]);
    }
    refused(&[&whole[..], &[0]].concat());
    // Claims of headers and tensors that are not there.
    for claim in [u64::MAX, 1 << 62, 100_000_001, 99_999_999] {
        refused(&[&claim.to_le_bytes(), &whole[8..]].concat());
    }
    let entry = |dtype: &str, shape: &str, offsets: &str| {
        format!(
            r#"{{"transformer.wte.weight":{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}}}"#
        )
    };
    let huge = u64::MAX;
    for header in [
        String::new(),
        "[]".into(),
        "{".into(),
        "null".into(),
        "[".repeat(10_000),
        r#"{"transformer.wte.weight":1}"#.into(),
        entry("\"F32\"", "[37,24]", "[0,4]"),
        entry("\"F32\"", "[37,24]", "[4,0]"),
        entry("\"F32\"", "[37,24]", "[0,-4]"),
        entry("\"F32\"", "[37,24]", "[0]"),
        entry("\"F32\"", "[37,24]", &format!("[0,{huge}]")),
        entry("\"F32\"", "[37,24]", &format!("[{},{huge}]", huge - 4)),
        entry("\"F32\"", &format!("[{huge},{huge}]"), "[0,8]"),
        entry("7", "[37,24]", "[0,8]"),
        entry("\"F32\"", "\"37\"", "[0,8]"),
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#.into(),
    ] {
        refused(&raw(&header, &[0; 8]));
    }
}

#[test]
fn no_damaged_byte_of_a_header_brings_the_reader_down() {
    let (dir, _, tensors) = fixture();
    let whole = encode(&tensors, Dtype::F32);
    let header_bytes = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let file = dir.path().join("model.safetensors");
    let mut num_refused = 0;
    for at in (0..header_bytes).step_by(3) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 7);
        fs::write(&file, damaged).unwrap();
        num_refused += usize::from(load(dir.path()).is_err());
    }
    // White space and metadata do not matter; everything else does.
    assert!(num_refused > header_bytes / 3 * 9 / 10, "{num_refused} of {}", header_bytes / 3);
}

#[test]
fn a_configuration_cannot_claim_memory() {
    let (dir, _, tensors) = fixture();
    write(dir.path(), &tensors);
    let text = fs::read_to_string(dir.path().join("config.json")).unwrap();
    // A valid shape of four terabytes: refused by the tensors that are there, before anything is allocated.
    let claim = text.replace("\"vocab_size\": 37", "\"vocab_size\": 1000000000");
    fs::write(dir.path().join("config.json"), claim).unwrap();
    assert_refused(dir.path(), &["transformer.wte.weight", "[37, 24]"]);
}
