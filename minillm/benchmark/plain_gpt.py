"""GPT-2 in plain torch as nanoGPT shapes it: a peer of the benchmarks.

python -m minillm.benchmark.plain_gpt --rows 32 --steps 40      (GPT-2 124 M on a GPU: prints tokens/s and GiB)
"""

import argparse
import time
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Shape(NamedTuple):
    """GPT-2 124 M, its vocabulary padded to a multiple of 64."""

    vocab: int = 50304
    context: int = 1024
    width: int = 768
    heads: int = 12
    layers: int = 12


class Layer(nn.Module):
    """Pre-LN attention with one matrix for q, k and v, and a GELU feed-forward layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.width
        self.heads = shape.heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, D) -> (B, T, D)."""
        parts = self.qkv(self.norm1(x)).split(x.size(-1), 2)
        q, k, v = (part.view(*x.shape[:2], self.heads, -1).transpose(1, 2) for part in parts)  # (B, H, T, K)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.out(y)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class PlainGPT(nn.Module):
    """Embeddings, layers, tied head, mean cross-entropy."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(shape.vocab, shape.width), nn.Embedding(shape.context, shape.width)
        self.layers = nn.Sequential(*(Layer(shape) for _ in range(shape.layers)))
        self.norm = nn.LayerNorm(shape.width)

    def forward(self, rows: Tensor) -> Tensor:
        """rows (B, T + 1) -> mean loss."""
        x = self.layers(self.tokens(rows[:, :-1]) + self.positions.weight[: rows.size(1) - 1])
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


def plain_weights(ours: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """The weights of minillm's GPT-2 under the names of PlainGPT."""
    found = {"tokens.weight": ours["embed.tokens.weight"], "positions.weight": ours["embed.position.table.weight"]}
    names = {"norm1": "attn.norm", "norm2": "ffn.norm", "out": "attn.sublayer.out"}
    names |= {"up": "ffn.sublayer.up", "down": "ffn.sublayer.down"}
    for kind in ("weight", "bias"):
        found[f"norm.{kind}"] = ours[f"decoder.final_norm.{kind}"]
        for i in range(layers):
            block = f"decoder.blocks.{i}"
            qkv = [ours[f"{block}.attn.sublayer.{part}.{kind}"] for part in "qkv"]
            found[f"layers.{i}.qkv.{kind}"] = torch.cat(qkv)
            found |= {f"layers.{i}.{to}.{kind}": ours[f"{block}.{name}.{kind}"] for to, name in names.items()}
    return found


def time_training() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--steps", type=int, default=40)
    args = parser.parse_args()
    shape = Shape()
    model = PlainGPT(shape).cuda()
    for p in model.parameters():
        nn.init.normal_(p, 0.0, 0.02)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    compiled, times = torch.compile(model), []
    for _ in range(args.steps):
        rows = torch.randint(shape.vocab, (args.rows, shape.context + 1)).pin_memory().cuda(non_blocking=True)
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
    print(f"{args.rows * shape.context / median:.0f} {torch.cuda.max_memory_allocated() / 2**30:.1f}")


if __name__ == "__main__":
    time_training()
