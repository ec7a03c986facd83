"""A folder that eyas saved, opened by transformers: the same logits and the same ids.

    python3 tools/reference/check_export.py MODEL_DIR [--eyas target/release/eyas] [--text FILE]

Encodes a text (this script, unless --text) with AutoTokenizer and with `eyas tokenizer encode`, runs the first tokens
through AutoModelForCausalLM in f32 and through eyas's example dump_logits, and compares. Exit status 1 over 1e-5.
"""
import argparse, json, pathlib, subprocess, sys, tempfile, torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

p = argparse.ArgumentParser()
p.add_argument("model", type=pathlib.Path)
p.add_argument("--eyas", default="target/release/eyas")
p.add_argument("--text", type=pathlib.Path, default=pathlib.Path(__file__))
a = p.parse_args()
text = a.text.read_text(encoding="utf-8")
tokenizer, model = AutoTokenizer.from_pretrained(a.model), AutoModelForCausalLM.from_pretrained(a.model).eval()
theirs = tokenizer(text)["input_ids"]
ours = json.loads(subprocess.run([a.eyas, "tokenizer", "encode", "--tokenizer", a.model, a.text],
                                 check=True, capture_output=True).stdout)
print(f"{len(theirs)} ids, {sum(x != y for x, y in zip(ours, theirs)) + abs(len(ours) - len(theirs))} differ")
ids = theirs[: model.config.n_positions]
with tempfile.TemporaryDirectory() as tmp:
    out = pathlib.Path(tmp) / "logits.safetensors"
    subprocess.run(["cargo", "run", "--release", "--quiet", "-p", "eyas-model", "--example", "dump_logits", "--",
                    a.model, out, *map(str, ids)], check=True)
    got = load_file(out)["logits"]
with torch.no_grad():
    want = model(torch.tensor([ids])).logits
error = ((got - want).norm() / want.norm()).item()
print(f"{len(ids)} positions: largest difference {(got - want).abs().max().item():.2e}, relative error {error:.2e}")
sys.exit(ours != theirs or error > 1e-5)
