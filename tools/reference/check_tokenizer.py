"""The same ids, and the same merges, as Hugging Face tokenizers over a .jsonl.

    python3 tools/reference/check_tokenizer.py CORPUS.jsonl [--vocab-size 8192] [--mb 60] [--eyas target/release/eyas]

Trains a tokenizer with either side on the same documents, compares the files, encodes the documents with both, and
prints how many ids differ. Exit status 1 if anything does.
"""
import argparse, json, pathlib, subprocess, sys, tempfile
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

p = argparse.ArgumentParser()
p.add_argument("corpus", type=pathlib.Path)
p.add_argument("--vocab-size", type=int, default=8192)
p.add_argument("--mb", type=float, default=60)
p.add_argument("--eyas", default="target/release/eyas")
a = p.parse_args()
rows, size = [], 0
for line in a.corpus.open(encoding="utf-8"):
    rows.append(line); size += len(line.encode())
    if size > a.mb * 1e6: break
docs = [json.loads(row)["content"] for row in rows]
with tempfile.TemporaryDirectory() as tmp:
    part, out = pathlib.Path(tmp) / "part.jsonl", pathlib.Path(tmp) / "tokenizer"
    part.write_text("".join(rows), encoding="utf-8")
    subprocess.run([a.eyas, "tokenizer", "train", part, "--raw", "--vocab-size", str(a.vocab_size), "--out", out], check=True)
    theirs = Tokenizer(models.BPE())
    theirs.pre_tokenizer, theirs.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    theirs.train_from_iterator(docs, trainers.BpeTrainer(vocab_size=a.vocab_size, special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    model = lambda text: json.loads(text)["model"]
    ours = model((out / "tokenizer.json").read_text(encoding="utf-8"))
    same_files = all(ours[key] == model(theirs.to_str())[key] for key in ("vocab", "merges"))
    encode = subprocess.run([a.eyas, "tokenizer", "encode", "--tokenizer", out, "--jsonl", part], check=True, capture_output=True)
tokens = differing = 0
for line, encoding in zip(encode.stdout.splitlines(), theirs.encode_batch_fast(docs), strict=True):
    ids = json.loads(line)
    tokens += len(encoding.ids)
    differing += sum(x != y for x, y in zip(ids, encoding.ids)) + abs(len(ids) - len(encoding.ids))
print(f"{len(docs)} documents, {tokens} ids, {differing} differ; same vocabulary and merges: {same_files}")
sys.exit(not same_files or differing > 0)
