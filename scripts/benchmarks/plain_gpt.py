"""GPT-2 in plain torch as nanoGPT shapes it: the peer of the GPU benchmark. Trains itself and prints tokens/s.

python scripts/benchmarks/plain_gpt.py --rows 32 --steps 40
"""

import argparse
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCAB, CONTEXT, WIDTH, HEADS, LAYERS = 50304, 1024, 768, 12, 12


class Layer(nn.Module):
    """Pre-LN attention with one matrix for q, k and v, and a GELU feed-forward layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.view(*x.shape[:2], HEADS, -1).transpose(1, 2) for part in self.qkv(self.norm1(x)).split(WIDTH, 2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.out(y)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class PlainGPT(nn.Module):
    """Embeddings, layers, tied head, mean cross-entropy."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCAB, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.layers = nn.Sequential(*(Layer() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, rows: Tensor) -> Tensor:
        """rows (B, T + 1) -> mean loss."""
        x = self.layers(self.tokens(rows[:, :-1]) + self.positions.weight[: rows.size(1) - 1])
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--steps", type=int, default=40)
    args = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    model = PlainGPT().cuda()
    for p in model.parameters():
        nn.init.normal_(p, 0.0, 0.02)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    compiled, times = torch.compile(model), []
    for _ in range(args.steps):
        rows = torch.randint(VOCAB, (args.rows, CONTEXT + 1)).pin_memory().cuda(non_blocking=True)
        began = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16):
            loss = compiled(rows)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    median = sorted(times[args.steps // 2 :])[args.steps // 4]
    print(f"{args.rows * CONTEXT / median:.0f} {torch.cuda.max_memory_allocated() / 2**30:.1f}")


if __name__ == "__main__":
    main()
