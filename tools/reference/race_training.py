"""A training step of GPT-2 in PyTorch, in llm.c and in eyas on the same device, in turn: tokens a second, and how many times as many.

    python3 tools/reference/race_training.py [--eyas target/release/eyas] [--device cuda] [--shape 124M] [--dropout 0]
        [--seconds 4] [--rounds 2] [--modes default reduce-overhead] [--llmc BINARY TOKENS] [64x1024x1 256x128x1 32x128x8]

A row is batch x context x micro-batches of an update. The ratios are of medians over the rounds, row by row; where rows are one update
cut in several ways, also of each side's fastest, since either may cut it as it likes. PyTorch's network is as lean as nanoGPT's: q, k and
v in one product, flash attention (scaled_dot_product_attention), bf16 autocast, loss over the flat logits, gradients clipped, fused AdamW,
whole model compiled, in each mode of torch.compile that is named (`eager`: not compiled); the fastest counts. llm.c, where its train_gpt2cu
(built with cuDNN) and a file of its tokens are given, keeps GELU's results (-r 0) with its vocabulary of 50,304. Needs PyTorch alone.
`--warm-up` compiles every row and stops, so that PyTorch's cache on disk is filled.
"""
import argparse, json, re, statistics, subprocess, time, torch
import torch.nn.functional as F
from torch import nn

p = argparse.ArgumentParser()
p.add_argument("rows", nargs="*", default=["64x1024x1", "256x128x1", "32x128x8"])
p.add_argument("--eyas", default="target/release/eyas")
p.add_argument("--device", default="cuda")
p.add_argument("--shape", default="124M", choices=["small", "124M"])
p.add_argument("--dropout", type=float, default=0.0)
p.add_argument("--seconds", type=float, default=4)
p.add_argument("--rounds", type=int, default=2)
p.add_argument("--modes", nargs="+", default=["default"], choices=["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs", "eager"])
p.add_argument("--llmc", nargs=2, metavar=("BINARY", "TOKENS"))
p.add_argument("--warm-up", action="store_true")
a = p.parse_args()
if a.llmc and (a.shape != "124M" or a.dropout):
    p.error("llm.c trains GPT-2's 124M parameters, and knows no dropout")
L, H, C, V = {"small": (6, 6, 384, 8192), "124M": (12, 12, 768, 50000)}[a.shape]  # as eyas bench training has them
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


def empty_cache():
    if a.device.startswith("cuda"):
        torch.cuda.empty_cache()


class PyTorch:
    """A network in training, compiled once."""

    def __init__(self, mode, batch, context, accumulation):
        torch.manual_seed(0)
        self.tokens, self.accumulation, self.mode = batch * context * accumulation, accumulation, mode
        self.model = Gpt().to(a.device).train()
        self.run = self.model if mode == "eager" else torch.compile(self.model, mode=mode, dynamic=False)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=5e-4, weight_decay=0.1, fused=True)
        self.ids = torch.randint(0, V, (batch, context), device=a.device)
        # A graph's results lie where its next run writes, so that gradients which stay need memory of their own.
        self.keeps = mode in ("reduce-overhead", "max-autotune") and accumulation > 1
        for parameter in self.model.parameters() if self.keeps else []:
            parameter.grad = torch.zeros_like(parameter)

    def step(self):
        for _ in range(self.accumulation):
            if self.mode in ("reduce-overhead", "max-autotune"):
                torch.compiler.cudagraph_mark_step_begin()
            with torch.autocast(a.device.split(":")[0], dtype=torch.bfloat16):
                loss = self.run(self.ids, self.ids) / self.accumulation
            loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=not self.keeps)

    def rate(self, seconds):
        """Tokens a second: the median of groups of steps, between which alone the device is waited for."""
        for _ in range(3):
            self.step()
        synchronize()
        begun = time.perf_counter()
        self.step()
        synchronize()
        group = max(1, round(0.4 / (time.perf_counter() - begun)))
        rates, end = [], time.perf_counter() + seconds
        while time.perf_counter() < end or len(rates) < 3:
            begun = time.perf_counter()
            for _ in range(group):
                self.step()
            synchronize()
            rates.append(group * self.tokens / (time.perf_counter() - begun))
        return statistics.median(rates)


def eyas(batch, context, accumulation):
    """Tokens a second, and the share of the device's peak."""
    command = [a.eyas, "bench", "training", "--shape", a.shape, "--precision", "bf16", "--batch-size", batch, "--context-length", context,
               "--gradient-accumulation-steps", accumulation, "--dropout", a.dropout, "--seconds", a.seconds, "--device", a.device, "--json"]
    out = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True).stdout
    row = json.loads(out.splitlines()[0])
    return row["value"], row["share_of_peak"]


def llmc(batch, context, accumulation):
    """Tokens a second of the median step after the first five."""
    tokens = batch * context * accumulation
    steps = 8 + round(a.seconds * 500_000 / tokens)
    binary, data = a.llmc
    command = [binary, "-i", data, "-j", data, "-e", "d12", "-b", batch, "-t", context, "-d", tokens, "-x", steps, "-r", 0, "-v", 1_000_000, "-m", 1, "-s", 0, "-h", 0]
    out = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout
    times = [float(ms) for ms in re.findall(r"\| ([0-9.]+) ms \|", out)]
    return 1e3 * tokens / statistics.median(times[5:])


name = torch.cuda.get_device_name(a.device) if a.device.startswith("cuda") else f"{torch.get_num_threads()} threads"
print(f"PyTorch {torch.__version__}, {name}; {a.shape}, bf16, dropout {a.dropout}", flush=True)
rows, figures, networks = [tuple(map(int, row.split("x"))) for row in a.rows], {}, {}
for row in rows if a.warm_up else []:
    for mode in a.modes:
        begun, network = time.perf_counter(), PyTorch(mode, *row)
        network.step()
        synchronize()
        print(f"{row} {mode}: compiled in {time.perf_counter() - begun:.0f} s", flush=True)
for _ in range(0 if a.warm_up else a.rounds):
    for row in rows:
        now = {}
        for mode in a.modes:
            try:
                if (mode, row) not in networks:
                    networks[mode, row] = PyTorch(mode, *row)
                now[f"PyTorch {mode}"] = networks[mode, row].rate(a.seconds)
            except Exception as error:
                print(f"PyTorch {mode} at {row}: {type(error).__name__}: {str(error).splitlines()[0][:200]}", flush=True)
            empty_cache()
        try:
            now["eyas"], share = eyas(*row)
        except subprocess.CalledProcessError:
            continue  # It has said why.
        if a.llmc:
            try:
                now["llm.c"] = llmc(*row)
            except subprocess.CalledProcessError as error:
                print(f"llm.c at {row}: {(error.stdout + error.stderr)[-300:]}", flush=True)
        for who, rate in now.items():
            figures.setdefault(row, {}).setdefault(who, []).append(rate)
        print("B {} T {} x {}: ".format(*row) + ", ".join(f"{who} {rate:,.0f}" for who, rate in now.items()) + f" tokens/s; eyas {100 * share:.1f} % of peak", flush=True)


def ratios(what, rates):
    print(what + ": eyas " + ", ".join(f"{rates['eyas'] / rate:.3f} x {who}" for who, rate in rates.items() if who != "eyas"))


updates = {}
for row, of in figures.items():
    rates = {who: statistics.median(some) for who, some in of.items()}
    ratios("B {} T {} x {}".format(*row), rates)
    best = updates.setdefault((row[0] * row[2], row[1]), [0, {}])
    best[0] += 1
    for who, rate in rates.items():
        who = who.split()[0]
        best[1][who] = max(best[1].get(who, 0), rate)
for (samples, context), (num_ways, best) in updates.items():
    if num_ways > 1:
        ratios(f"updates of {samples} samples of {context} tokens, each side's fastest way", best)
