"""Ten updates of PyTorch's Muon, for crates/train/tests/train/golden.rs.

    python3 tools/reference/muon_updates.py

Begins with the model that train_updates.py wrote to crates/train/tests/golden/ten_updates, and learns from the same samples
at the same rates: the matrices of the blocks by torch.optim.Muon, at twice the rate, and the rest by AdamW. Writes beside
them muon.safetensors, the weights at the end, and muon.json, losses and gradient norms. Made with transformers 5.24 and torch
2.15.

All of it is torch.optim.Muon's own code but for two things. c_attn is given to it as three matrices, views of the one. And
its Newton-Schulz steps, which it takes in bfloat16 whatever the weights are, are taken in the weights' type: within its module
torch.bfloat16 is that type.

The same updates in float64 say how much of a difference is rounding: how far float32 ends from them is printed, and is what
the test's tolerance stands on. So is how far torch.optim.Muon as it is ends from them, which bfloat16 accounts for.
"""
import json, pathlib, torch
from safetensors.torch import save_file
from transformers import GPT2LMHeadModel

OUT = pathlib.Path(__file__).resolve().parents[2] / "crates/train/tests/golden/ten_updates"
MOMENTUM, MUON_RATE = 0.95, 2.0
golden = json.loads((OUT / "updates.json").read_text())
torch.set_num_threads(1)


class Torch:
    """The module torch, with another type for bfloat16."""
    def __init__(self, bfloat16):
        self.bfloat16 = bfloat16

    def __getattr__(self, name):
        return getattr(torch, name)


def ten_updates(dtype, newton_schulz_dtype):
    torch.optim._muon.torch = Torch(newton_schulz_dtype)
    model = GPT2LMHeadModel.from_pretrained(OUT).to(dtype).train()
    named = list(model.named_parameters())
    no_decay = lambda name: name.endswith("bias") or ".ln_" in name
    is_matrix = lambda name: ".h." in name and not no_decay(name)
    pieces = lambda name, tensor: tensor.chunk(3 if "c_attn" in name else 1, dim=1)
    matrices = [(n, p, [torch.nn.Parameter(piece) for piece in pieces(n, p.data)]) for n, p in named if is_matrix(n)]
    decay = golden["weight_decay"]
    muon = torch.optim.Muon([piece for _, _, own in matrices for piece in own], weight_decay=decay, momentum=MOMENTUM,
                            adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW([{"params": [p for n, p in named if not is_matrix(n) and not no_decay(n)], "weight_decay": decay},
                               {"params": [p for n, p in named if no_decay(n)], "weight_decay": 0.0}])
    updates = []
    for update in golden["updates"]:
        batches = [[torch.tensor(batch[key]).reshape(-1, golden["time"]) for key in ("inputs", "targets")]
                   for batch in update["batches"]]
        num_targets = sum((targets != -100).sum().item() for _, targets in batches)
        loss = 0.0
        for inputs, targets in batches:
            logits = model(input_ids=inputs).logits.flatten(0, 1)
            part = torch.nn.functional.cross_entropy(logits, targets.flatten(), reduction="sum") / num_targets
            part.backward()
            loss += part.item()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
        for name, parameter, own in matrices:
            for piece, grad in zip(own, pieces(name, parameter.grad)):
                piece.grad = grad
        for optimizer, factor in ((muon, MUON_RATE), (adamw, 1.0)):
            for group in optimizer.param_groups:
                group["lr"] = factor * update["learning_rate"]
            optimizer.step()
        model.zero_grad()
        updates.append({"loss": loss, "grad_norm": norm})
    return {n: p.detach().contiguous() for n, p in named}, updates


exact, exact_updates = ten_updates(torch.float64, torch.float64)
start = {n: p.detach() for n, p in GPT2LMHeadModel.from_pretrained(OUT).named_parameters()}


def off(weights, name):
    """How far a tensor ended from float64's, as a share of the way; without the bias of keys, whose gradient is rounding alone."""
    keep = torch.ones_like(start[name], dtype=torch.bool)
    if name.endswith("c_attn.bias"):
        keep.view(3, -1)[1] = False
    way = (exact[name] - start[name])[keep].norm()
    return ((weights[name] - exact[name])[keep].norm() / way).item()


for what, dtype in (("as it is", torch.bfloat16), ("in float32", torch.float32)):
    weights, updates = ten_updates(torch.float32, dtype)
    print(f"{what}: weights off by up to {max((off(weights, name), name) for name in weights)}")
    for key in ("loss", "grad_norm"):
        difference = max(abs(ours[key] / theirs[key] - 1) for ours, theirs in zip(updates, exact_updates))
        print(f"{what}: {key} off by up to {difference:.1e}; from {updates[0][key]:.3f} to {updates[-1][key]:.3f}")
# The loop ends with float32.
save_file(weights, OUT / "muon.safetensors", metadata={"format": "pt"})
(OUT / "muon.json").write_text(json.dumps({"momentum": MOMENTUM, "muon_rate": MUON_RATE, "updates": updates}) + "\n")
