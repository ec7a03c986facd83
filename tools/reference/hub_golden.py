"""What transformers writes and reads besides one plain model folder, for crates/model/tests/hub.rs.

    python3 tools/reference/hub_golden.py

Writes to crates/model/tests/golden:
  layouts/NAME: one tiny model in each layout that GPT-2 checkpoints come in on the hub; layouts/golden.safetensors holds
    input_ids and `logits.NAME`, from transformers' own reading of each folder in f32
  gpt2.json: the printed tree, config.json, generation_config.json, parameter count and tensor shapes of the 124M network
    with 50,000 tokens
  sampling.json: greedy ids with and without repetition penalty, every one at least 1e-3 above the runner-up; and
    probabilities after the logits processors, for logits with ties (with a stable sort, see there)
  greedy: the model folder of those greedy ids
Made with transformers 5.23 and torch 2.15; the same bytes at every run.
"""
import functools, itertools, json, shutil, tempfile, torch
from pathlib import Path
from unittest import mock
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, GPT2Model
from transformers.generation.logits_process import (LogitsProcessorList, RepetitionPenaltyLogitsProcessor,
                                                    TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper)
torch.set_num_threads(1)
OUT = Path(__file__).resolve().parents[2] / "crates/model/tests/golden"


def network(seed, **config):
    """A GPT-2 whose biases and LayerNorms are away from 0 and 1, where their errors would not show."""
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0, **config)).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1: p.add_(torch.randn_like(p) * 0.1)
    return model


def layouts():
    root = OUT / "layouts"
    shutil.rmtree(root, ignore_errors=True)
    model = network(2, vocab_size=43, n_positions=16, n_embd=16, n_layer=2, n_head=2, initializer_range=0.2)
    model.save_pretrained(root / "plain")
    plain = load_file(root / "plain/model.safetensors")
    bare = {name.removeprefix("transformer."): t for name, t in plain.items()}
    mask = torch.tril(torch.ones(16, 16)).view(1, 1, 16, 16)
    # As GPT2Model saves itself; as openai-community/gpt2 is stored; as transformers 4 saved the masks, with the head.
    base = GPT2Model(model.config).eval()
    base.load_state_dict(bare)
    base.save_pretrained(root / "no_prefix")
    write(root / "f32_masks", bare | {f"h.{i}.attn.bias": mask.clone() for i in range(2)})
    masks = {f"transformer.h.{i}.attn.bias": mask.bool() for i in range(2)}
    masks |= {f"transformer.h.{i}.attn.masked_bias": torch.tensor(-1e4) for i in range(2)}
    write(root / "bool_masks_and_head", plain | masks | {"lm_head.weight": plain["transformer.wte.weight"].clone()})
    write(root / "u8_masks", bare | {f"h.{i}.attn.bias": mask.byte() for i in range(2)})
    for name, dtype in (("f16", torch.float16), ("bf16", torch.bfloat16)):
        network(2, vocab_size=43, n_positions=16, n_embd=16, n_layer=2, n_head=2,
                initializer_range=0.2).to(dtype).save_pretrained(root / name)
    model.save_pretrained(root / "sharded", max_shard_size="12KB")
    assert len(list((root / "sharded").glob("*.safetensors"))) > 1
    ids = torch.randint(0, 43, (2, 16))
    golden = {"input_ids": ids.int()}
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        read, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        assert not info["missing_keys"], (folder, info)
        with torch.no_grad():
            golden["logits." + folder.name] = read.eval()(ids).logits.contiguous()
    save_file(golden, root / "golden.safetensors")


def write(folder, tensors):
    folder.mkdir(parents=True)
    shutil.copy(OUT / "layouts/plain/config.json", folder)
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / "model.safetensors", {"format": "pt"})


def gpt2():
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config(vocab_size=50_000, n_ctx=128, bos_token_id=0, eos_token_id=0))
    assert sum(p.numel() for p in model.parameters()) == 124_242_432
    # The configuration is written by save_pretrained of a network of that configuration; its weights are not kept.
    with tempfile.TemporaryDirectory() as tmp:
        GPT2LMHeadModel(model.config).save_pretrained(tmp)
        texts = {name: (Path(tmp) / name).read_text() for name in ("config.json", "generation_config.json")}
        shapes = {name: list(t.shape) for name, t in load_file(Path(tmp) / "model.safetensors").items()}
    assert len(shapes) == 148
    golden = {"tree": str(model), "num_parameters": 124_242_432, "tensors": shapes, **texts}
    (OUT / "gpt2.json").write_text(json.dumps(golden, indent=1) + "\n")


def margin(model, ids, prompt_len, penalty):
    """The least lead of the chosen token over the next, from whole forward passes."""
    with torch.no_grad():
        logits, least = model(ids).logits[0], float("inf")
    for at in range(prompt_len, ids.shape[1]):
        scores = logits[at - 1: at]
        if penalty != 1: scores = RepetitionPenaltyLogitsProcessor(penalty)(ids[:, :at], scores.clone())
        top = scores[0].topk(2)
        assert top.indices[0] == ids[0, at]
        least = min(least, (top.values[0] - top.values[1]).item())
    return least


def sampling():
    model = network(5, vocab_size=83, n_positions=80, n_embd=36, n_layer=2, n_head=3, initializer_range=0.35)
    shutil.rmtree(OUT / "greedy", ignore_errors=True)
    model.save_pretrained(OUT / "greedy")
    greedy = []
    for penalty, prompt_len in itertools.product((1.0, 1.3), (1, 7, 16)):
        prompt = torch.randint(0, 83, (1, prompt_len))
        ids = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=64, do_sample=False,
                             repetition_penalty=penalty, eos_token_id=None, pad_token_id=0)
        least = margin(model, ids, prompt_len, penalty)
        new = ids[0, prompt_len:].tolist()
        assert least > 1e-3 and len(new) == 64, least
        print(f"greedy: penalty {penalty}, prompt {prompt_len}: {len(set(new))} different ids, margin {least:.1e}")
        greedy.append({"prompt": prompt[0].tolist(), "ids": new, "repetition_penalty": penalty})
    # Quarters, so that many are equal; a tie across the tenth place, and equal runs where top-p cuts.
    logits = (torch.randn(1, 64) * 6).round() / 4
    filtered = []
    for penalty, temperature, k, p in itertools.product((1.0, 1.3), (1.0, 0.7), (0, 1, 10), (1.0, 0.8, 0.3)):
        processors, tokens = LogitsProcessorList(), torch.tensor([[3, 9, 3, 40, 63]])
        if penalty != 1: processors.append(RepetitionPenaltyLogitsProcessor(penalty))
        if temperature != 1: processors.append(TemperatureLogitsWarper(temperature))
        if k: processors.append(TopKLogitsWarper(k))
        if p < 1: processors.append(TopPLogitsWarper(p))
        # Top-p sorts with torch.sort, whose order of equal values is nobody's promise beyond 16 of them: with a stable sort in
        # its place, which of several equal tokens are kept is defined. How many, and how likely, must not depend on that.
        as_is = torch.softmax(processors(tokens, logits.clone()), -1)
        with mock.patch("torch.sort", functools.partial(torch.sort, stable=True)):
            scores = processors(tokens, logits.clone())
        assert torch.equal(as_is.sort().values, torch.softmax(scores, -1).sort().values)
        filtered.append({"repetition_penalty": penalty, "temperature": temperature, "top_k": k, "top_p": p,
                         "tokens": tokens[0].tolist(), "probabilities": torch.softmax(scores, -1)[0].tolist()})
    golden = {"greedy": greedy, "logits": logits[0].tolist(), "filtered": filtered}
    (OUT / "sampling.json").write_text(json.dumps(golden) + "\n")


layouts()
gpt2()
sampling()
