"""The network's golden files, for crates/model/tests/golden.rs.

    python3 tools/reference/model_golden.py

Writes a folder for each of six odd shapes to crates/model/tests/golden: a model as transformers saves it;
golden.safetensors with inputs, targets (-100: none), logits, the loss of each token and the gradient of every parameter
of the mean loss (`grad.` + name), in `weighted` also `weights` (B, T) and the gradients of the sum of weights x losses
(`weighted_grad.` + name); golden.json with the printed tree, greedy generations, and probabilities after transformers'
logits processors. Made with transformers 5.23 and torch 2.15.
"""
import json, torch
from pathlib import Path
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.generation.logits_process import (RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper,
                                                    TopKLogitsWarper, TopPLogitsWarper)
torch.set_num_threads(1)
OUT = Path(__file__).resolve().parents[2] / "crates/model/tests/golden"
# name, V, positions, C, L, NH, B, T, std, inner: head size 12, T = 1, head size 8 and T past a tile, MLP of odd width, large weights.
SHAPES = [("head12", 61, 96, 48, 3, 4, 2, 5, 0.02, None), ("single", 64, 16, 32, 2, 2, 3, 1, 0.02, None),
          ("head8", 50, 40, 40, 2, 5, 2, 17, 0.1, None), ("inner100", 257, 96, 60, 4, 3, 2, 33, 0.02, 100),
          ("large", 101, 24, 64, 2, 4, 4, 24, 0.15, None),
          # One layer, an odd batch, T = positions; each sample's losses weigh 1 + its number of key tokens, as in the course.
          ("weighted", 211, 19, 36, 1, 3, 3, 19, 0.08, None)]
for name, V, P, C, L, NH, B, T, std, inner in SHAPES:
    torch.manual_seed(1)
    out = OUT / name
    config = GPT2Config(vocab_size=V, n_positions=P, n_embd=C, n_layer=L, n_head=NH, n_inner=inner, bos_token_id=0,
                        eos_token_id=0, initializer_range=std)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():  # biases and LayerNorms away from 0 and 1, where their errors would not show
        for p in model.parameters():
            if p.ndim == 1: p.add_(torch.randn_like(p) * 0.1)
    model.save_pretrained(out)
    x, y = torch.randint(0, V, (B, T)), torch.randint(0, V, (B, T))
    if T > 1: y[0, -1] = -100
    logits = model(x).logits
    losses = torch.nn.functional.cross_entropy(logits.view(-1, V), y.view(-1), reduction="none", ignore_index=-100)
    (losses.sum() / (y != -100).sum()).backward(retain_graph=name == "weighted")
    tensors = {"input_ids": x.int(), "targets": y.int(), "logits": logits.detach(), "losses": losses.detach()}
    tensors |= {"grad." + n: p.grad for n, p in model.named_parameters()}
    if name == "weighted":  # ids below a quarter of the vocabulary stand for the key tokens
        weights = (1.0 + (x < V // 4).sum(1, keepdim=True)).expand(B, T).contiguous()
        sums = torch.autograd.grad((weights.flatten() * losses).sum(), list(model.parameters()))
        tensors |= {"weights": weights} | {"weighted_grad." + n: g for (n, _), g in zip(model.named_parameters(), sums)}
    save_file({k: v.contiguous() for k, v in tensors.items()}, out / "golden.safetensors")
    n = min(64, P - 3)
    greedy = []
    for penalty in (1.0, 1.3):
        prompt = torch.randint(0, V, (1, 3))
        ids = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=n, do_sample=False,
                             repetition_penalty=penalty, eos_token_id=None, pad_token_id=0)
        greedy.append({"prompt": prompt[0].tolist(), "ids": ids[0, 3:].tolist(), "repetition_penalty": penalty})
    filtered = []
    for penalty, temperature, k, p in ((1.2, 0.7, 40, 0.9), (1.0, 1.0, 5, 1.0), (1.0, 1.5, 0, 0.5), (1.0, 1.0, 1000, 0.95)):
        scores, tokens = torch.randn(1, V) * 3, torch.tensor([[5, 17, 5, 7]])
        before = scores[0].tolist()
        for use, f in ((penalty != 1, lambda: RepetitionPenaltyLogitsProcessor(penalty)), (True, lambda: TemperatureLogitsWarper(temperature)),
                       (k > 0, lambda: TopKLogitsWarper(k)), (p < 1, lambda: TopPLogitsWarper(p))):
            if use: scores = f()(tokens, scores)
        filtered.append({"repetition_penalty": penalty, "temperature": temperature, "top_k": k, "top_p": p,
                         "tokens": tokens[0].tolist(), "logits": before, "probabilities": torch.softmax(scores, -1)[0].tolist()})
    (out / "golden.json").write_text(json.dumps({"tree": str(model), "greedy": greedy, "filtered": filtered}) + "\n")
