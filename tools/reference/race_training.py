"""A training step of GPT-2 in PyTorch and in eyas on the same device, in turn: tokens a second, and how many times as many.

    python3 tools/reference/race_training.py [--eyas target/release/eyas] [--device cuda] [--shape 124M] [--dropout 0]
        [--seconds 6] [--rounds 2] [--eager] [64x1024x1 256x128x1 32x128x8]

A row is batch x context x micro-batches of an update. Rows that are one update cut in several ways compete together, since either side
may cut it as it likes: the fastest of each counts. PyTorch's network is as lean as nanoGPT's: q, k and v in one product, flash attention
(scaled_dot_product_attention), bf16 autocast, loss over the flat logits, gradients clipped, fused AdamW, whole model compiled.
Needs PyTorch alone. Tried with 2.15, on the CPU and uncompiled; not yet on a GPU.
"""
import argparse, contextlib, json, statistics, subprocess, time, torch
import torch.nn.functional as F
from torch import nn

p = argparse.ArgumentParser()
p.add_argument("rows", nargs="*", default=["64x1024x1", "256x128x1", "32x128x8"])
p.add_argument("--eyas", default="target/release/eyas")
p.add_argument("--device", default="cuda")
p.add_argument("--shape", default="124M", choices=["small", "124M"])
p.add_argument("--dropout", type=float, default=0.0)
p.add_argument("--seconds", type=float, default=6)
p.add_argument("--rounds", type=int, default=2)
p.add_argument("--eager", action="store_true")
a = p.parse_args()
L, H, C, V = {"small": (6, 6, 384, 8192), "124M": (12, 12, 768, 50000)}[a.shape]  # as eyas bench training has them
torch.manual_seed(0)
torch.set_float32_matmul_precision("high")


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.qkv, self.proj, self.fc, self.down = nn.Linear(C, 3 * C), nn.Linear(C, C), nn.Linear(C, 4 * C), nn.Linear(4 * C, C)
        self.drop = nn.Dropout(a.dropout)

    def forward(self, x):
        B, T, _ = x.shape
        q, k, v = (y.view(B, T, H, C // H).transpose(1, 2) for y in self.qkv(self.ln_1(x)).split(C, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=a.dropout, is_causal=True)
        x = x + self.drop(self.proj(y.transpose(1, 2).reshape(B, T, C)))
        return x + self.drop(self.down(F.gelu(self.fc(self.ln_2(x)), approximate="tanh")))


class Gpt(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte, self.wpe, self.ln_f = nn.Embedding(V, C), nn.Embedding(1024, C), nn.LayerNorm(C)
        self.drop, self.blocks = nn.Dropout(a.dropout), nn.ModuleList(Block() for _ in range(L))
        self.apply(lambda m: nn.init.normal_(m.weight, std=0.02) if isinstance(m, (nn.Linear, nn.Embedding)) else None)

    def forward(self, ids, targets):
        x = self.drop(self.wte(ids) + self.wpe(torch.arange(ids.shape[1], device=ids.device)))
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(F.linear(self.ln_f(x), self.wte.weight).view(-1, V), targets.view(-1))


def synchronize():
    if a.device.startswith("cuda"):
        torch.cuda.synchronize()


def pytorch(batch, context, accumulation):
    """Tokens a second of the median update."""
    model = Gpt().to(a.device).train()
    run = model if a.eager else torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.1, fused=True)
    ids = torch.randint(0, V, (batch, context), device=a.device)
    def step():
        for _ in range(accumulation):
            with torch.autocast(a.device.split(":")[0], dtype=torch.bfloat16):
                loss = run(ids, ids) / accumulation
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    for _ in range(3):
        step()
    synchronize()
    times, end = [], time.perf_counter() + a.seconds
    while time.perf_counter() < end or len(times) < 3:
        begun = time.perf_counter()
        step()
        synchronize()
        times.append(time.perf_counter() - begun)
    return batch * context * accumulation / statistics.median(times)


def eyas(batch, context, accumulation):
    """Tokens a second, and the share of the device's peak."""
    command = [a.eyas, "bench", "training", "--shape", a.shape, "--precision", "bf16", "--batch-size", batch, "--context-length", context,
               "--gradient-accumulation-steps", accumulation, "--dropout", a.dropout, "--seconds", a.seconds, "--device", a.device, "--json"]
    out = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout
    row = json.loads(out.splitlines()[0])
    return row["value"], row["share_of_peak"]


name = torch.cuda.get_device_name(a.device) if a.device.startswith("cuda") else f"{torch.get_num_threads()} threads"
print(f"PyTorch {torch.__version__}, {'eager' if a.eager else 'compiled'}, {name}; {a.shape}, bf16, dropout {a.dropout}")
best = {}
for _ in range(a.rounds):
    for row in a.rows:
        batch, context, accumulation = map(int, row.split("x"))
        figures = best.setdefault((batch * accumulation, context), {"eyas": 0.0, "PyTorch": 0.0})
        try:
            theirs = pytorch(batch, context, accumulation)
        except torch.cuda.OutOfMemoryError as error:
            print(f"PyTorch B {batch} T {context}: {str(error).splitlines()[0]}")
            theirs = 0.0
        torch.compiler.reset()
        if a.device.startswith("cuda"):
            torch.cuda.empty_cache()
        ours, share = eyas(batch, context, accumulation)
        print(f"B {batch} T {context} x {accumulation}: eyas {ours:,.0f} tokens/s ({100 * share:.1f} % of peak), PyTorch {theirs:,.0f}", flush=True)
        figures["eyas"], figures["PyTorch"] = max(figures["eyas"], ours), max(figures["PyTorch"], theirs)
for (samples, context), figures in best.items():
    ratio = figures["eyas"] / figures["PyTorch"] if figures["PyTorch"] else float("inf")
    print(f"updates of {samples} samples of {context} tokens: {ratio:.2f} times")
