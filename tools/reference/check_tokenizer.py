"""The same ids, the same merges and the same files as Hugging Face tokenizers and transformers.

    python3 tools/reference/check_tokenizer.py CORPUS.jsonl [--vocab-size 8192] [--mb 60] [--eyas target/release/eyas]

1. Trains a tokenizer with either side on the same documents, and compares vocabulary and merges.
2. For tokenizers with the settings of GPT-2, StarCoder, Llama 3 and Qwen 2 and for some that have no fast path, encodes the
   documents, and every code point in several places, with both sides. Unigram and WordPiece take some minutes.
3. Has eyas save each into a model folder, and encodes with what transformers' AutoTokenizer makes of it.

Prints how many documents, code points and ids were compared and how many ids differ. Exit status 1 if anything does.
"""
import argparse, json, pathlib, random, subprocess, sys, tempfile, unicodedata
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer

p = argparse.ArgumentParser()
p.add_argument("corpus", type=pathlib.Path)
p.add_argument("--vocab-size", type=int, default=8192)
p.add_argument("--mb", type=float, default=60)
p.add_argument("--eyas", default="target/release/eyas")
a = p.parse_args()

CL100K = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# Numbers of Unicode 17, which the library's Digits knows and its expressions, of Unicode 16, do not. For eyas they are none.
NEWER = set(range(0x11DE0, 0x11DEA)) | set(range(0x16FF4, 0x16FF7))
byte_level = lambda regex: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)
split = lambda digits: pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(CL100K % digits), "isolated"), byte_level(False)])
digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(True)])
KINDS = {  # model, normalizer, pre-tokenizer, decoder, ignore_merges
    "GPT-2": (models.BPE(), None, byte_level(True), decoders.ByteLevel(), False),
    "StarCoder": (models.BPE(), None, digits, decoders.ByteLevel(), False),
    "Llama 3": (models.BPE(), None, split("{1,3}"), decoders.ByteLevel(), True),
    "Qwen 2": (models.BPE(), normalizers.NFC(), split(""), decoders.ByteLevel(), False),
    "Unigram": (models.Unigram(), normalizers.NFKC(), pre_tokenizers.Metaspace(), decoders.Metaspace(), False),
    "WordPiece": (models.WordPiece(unk_token="[UNK]"), normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer(), decoders.WordPiece(), False),
}


def trained(name, docs, vocab_size):
    model, normalizer, pre_tokenizer, decoder, ignore_merges = KINDS[name]
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoder
    if normalizer: tokenizer.normalizer = normalizer
    special = ["<|endoftext|>"] + ["[UNK]"] * (not isinstance(model, models.BPE))
    trainer = {models.BPE: trainers.BpeTrainer, models.Unigram: trainers.UnigramTrainer, models.WordPiece: trainers.WordPieceTrainer}[type(model)]
    more = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet()} if isinstance(model, models.BPE) else {}
    if isinstance(model, models.Unigram): more["unk_token"] = "[UNK]"
    tokenizer.train_from_iterator(docs, trainer(vocab_size=vocab_size, special_tokens=special, show_progress=False, **more))
    tokenizer.add_tokens([AddedToken("    ", normalized=False), AddedToken("def main"), AddedToken("É")])
    if ignore_merges:
        parsed = json.loads(tokenizer.to_str()); parsed["model"]["ignore_merges"] = True
        tokenizer = Tokenizer.from_str(json.dumps(parsed))
    return tokenizer


def every_code_point():
    """Texts with every code point beside letters, digits, quotes, line ends and itself, and random ones."""
    empty = lambda c: 0x40000 <= c < 0xE0000 and c % 61  # ten planes without a character: some of theirs will do
    all = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000 and c not in NEWER and not empty(c)]
    texts = ["".join(f"a{c}b {c}'{c}1{c}\n{c}  {c}{c}" for c in all[i:i + 512]) for i in range(0, len(all), 512)]
    assigned, rng = [c for c in all if unicodedata.category(c) not in ("Cn", "Co", "Lo")], random.Random(0)
    near = list(" \t\r\n'\"sSlL.1_") + ["'ll", "'RE", "\u017f", "\u0301", "  ", "\r\n", "<|endoftext|>", "    "]
    texts += ["".join(rng.choice(assigned if rng.random() < 0.5 else near) for _ in range(rng.randrange(60))) for _ in range(20000)]
    return texts, len(all)


def encoded(folder, docs, tmp):
    rows = tmp / "rows.jsonl"
    rows.write_text("".join(json.dumps({"content": doc}) + "\n" for doc in docs), encoding="utf-8")
    run = subprocess.run([a.eyas, "tokenizer", "encode", "--tokenizer", folder, "--jsonl", rows], check=True, capture_output=True)
    return [json.loads(line) for line in run.stdout.splitlines()]


def compare(ours, theirs):
    """The number of ids, and of those that differ."""
    differing = sum(sum(x != y for x, y in zip(o, t)) + abs(len(o) - len(t)) for o, t in zip(ours, theirs, strict=True))
    return sum(map(len, theirs)), differing


rows, size = [], 0
for line in a.corpus.open(encoding="utf-8"):
    rows.append(line); size += len(line.encode())
    if size > a.mb * 1e6: break
docs = [json.loads(row)["content"] for row in rows]
failed = False
with tempfile.TemporaryDirectory() as tmp:
    tmp = pathlib.Path(tmp)
    part, out = tmp / "part.jsonl", tmp / "tokenizer"
    part.write_text("".join(rows), encoding="utf-8")
    subprocess.run([a.eyas, "tokenizer", "train", part, "--raw", "--vocab-size", str(a.vocab_size), "--out", out], check=True)
    theirs = Tokenizer(models.BPE())
    theirs.pre_tokenizer, theirs.decoder = byte_level(True), decoders.ByteLevel()
    theirs.train_from_iterator(docs, trainers.BpeTrainer(vocab_size=a.vocab_size, special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    model = lambda text: json.loads(text)["model"]
    ours = model((out / "tokenizer.json").read_text(encoding="utf-8"))
    same_files = all(ours[key] == model(theirs.to_str())[key] for key in ("vocab", "merges"))
    num_ids, differing = compare(encoded(out, docs, tmp), [e.ids for e in theirs.encode_batch_fast(docs)])
    print(f"trained: {len(docs)} documents, {num_ids} ids, {differing} differ; same vocabulary and merges: {same_files}", flush=True)
    failed |= not same_files or differing > 0
    unicode_texts, num_code_points = every_code_point()
    for name in KINDS:
        is_fast = name in ("GPT-2", "StarCoder", "Llama 3", "Qwen 2")
        theirs, folder = trained(name, docs[:400], 4000), tmp / name
        folder.mkdir()
        theirs.save(str(folder / "tokenizer.json"))
        texts = (docs if is_fast else docs[:500]) + unicode_texts
        ids = [e.ids for e in theirs.encode_batch_fast(texts, add_special_tokens=False)]
        num_ids, differing = compare(encoded(folder, texts, tmp), ids)
        saved = tmp / (name + " model")
        subprocess.run([a.eyas, "train", "--train-data", part, "--tokenizer", folder, "--output-dir", saved, "--mode", "pack",
            "--context-length", "32", "--n-positions", "32", "--n-layer", "1", "--n-head", "1", "--n-embd", "16", "--max-steps", "1",
            "--per-device-train-batch-size", "1", "--device", "cpu"], check=True, capture_output=True)
        sample = texts[:200] + unicode_texts[-2000:]
        auto = AutoTokenizer.from_pretrained(saved)(sample, add_special_tokens=False)["input_ids"]
        _, auto_differing = compare([theirs.encode(text, add_special_tokens=False).ids for text in sample], auto)
        same_bytes = (folder / "tokenizer.json").read_bytes() == (saved / "tokenizer.json").read_bytes()
        print(f"{name}: {len(texts)} documents, {num_code_points} code points, {num_ids} ids, {differing} differ; "
              f"AutoTokenizer of the saved folder: {auto_differing} differ, same bytes: {same_bytes}", flush=True)
        failed |= differing > 0 or auto_differing > 0 or not same_bytes
sys.exit(failed)
