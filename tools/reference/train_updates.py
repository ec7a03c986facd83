"""Ten AdamW updates of PyTorch, for crates/train/tests/train/golden.rs.

    python3 tools/reference/train_updates.py

Writes crates/train/tests/golden/ten_updates: a model folder as the updates begin, final.safetensors as they end, and
updates.json with the samples of each micro-batch, the losses, the gradient norms and the learning rates. Made with
transformers 5.23 and torch 2.15.

A small GPT-2 without dropout; three micro-batches of two rows an update, fewer and shorter ones in the last; some targets
are -100; the loss is the sum over the update divided by its targets; decay 0.1 for all but biases and LayerNorm; clipping
to 1; cosine after a warm-up of three updates.
"""
import json, pathlib, torch
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel, get_cosine_schedule_with_warmup

OUT = pathlib.Path(__file__).resolve().parents[2] / "crates/train/tests/golden/ten_updates"
VOCAB, TIME, UPDATES = 101, 13, 10
torch.manual_seed(0)
torch.set_num_threads(1)
config = GPT2Config(vocab_size=VOCAB, n_positions=20, n_embd=24, n_layer=2, n_head=3, resid_pdrop=0, embd_pdrop=0,
                    attn_pdrop=0, bos_token_id=0, eos_token_id=0)
model = GPT2LMHeadModel(config).train()
with torch.no_grad():  # biases of 0 and norms of 1 would hide mistakes
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
model.save_pretrained(OUT)

no_decay = lambda name: name.endswith("bias") or ".ln_" in name
named = list(model.named_parameters())
optimizer = torch.optim.AdamW([{"params": [p for n, p in named if not no_decay(n)], "weight_decay": 0.1},
                               {"params": [p for n, p in named if no_decay(n)], "weight_decay": 0.0}], lr=5e-3)
schedule = get_cosine_schedule_with_warmup(optimizer, 3, UPDATES)
updates = []
for update in range(UPDATES):
    rows = [2, 2, 2] if update < UPDATES - 1 else [2, 1]
    batches = []
    for size in rows:
        ids = torch.randint(0, VOCAB, (size, TIME + 1))
        inputs, targets = ids[:, :-1].clone(), ids[:, 1:].clone()
        targets[torch.rand(targets.shape) < 0.1] = -100
        batches.append((inputs, targets))
    num_targets = sum((targets != -100).sum().item() for _, targets in batches)
    loss = 0.0
    for inputs, targets in batches:
        logits = model(input_ids=inputs).logits.reshape(-1, VOCAB)
        part = torch.nn.functional.cross_entropy(logits, targets.reshape(-1), reduction="sum") / num_targets
        part.backward()
        loss += part.item()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
    rate = optimizer.param_groups[0]["lr"]
    optimizer.step(); schedule.step(); optimizer.zero_grad()
    updates.append({"loss": loss, "grad_norm": norm, "learning_rate": rate,
                    "batches": [{"inputs": i.flatten().tolist(), "targets": t.flatten().tolist()} for i, t in batches]})
save_file({n: p.detach().contiguous() for n, p in named}, OUT / "final.safetensors", metadata={"format": "pt"})
(OUT / "updates.json").write_text(json.dumps({"time": TIME, "warmup_steps": 3, "peak": 5e-3, "weight_decay": 0.1,
                                              "updates": updates}) + "\n")
