"""Chapter 8: attention step by step, its scale, its heads, the causal mask, cross-attention."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from minillm.nn.attention import plain_attention
from minillm.nn.mask import AttentionMask

from figures import run, save

WORDS = ["The", "cat", "sat", "on", "the", "mat"]
WIDTH, HEAD = 8, 4


def embeddings() -> Tensor:
    """(6, 8) by hand: noun, verb, article, preposition, animal, thing, first, late."""
    rows = {
        "The": [0, 0, 2, 0, 0, 0, 1, 0],
        "cat": [2, 0, 0, 0, 2, 0, 1, 0],
        "sat": [0, 2, 0, 0, 0, 0, 0, 0],
        "on": [0, 0, 0, 2, 0, 0, 0, 0],
        "the": [0, 0, 2, 0, 0, 0, 0, 1],
        "mat": [2, 0, 0, 0, 0, 2, 0, 1],
    }
    return torch.tensor([rows[word] for word in WORDS], dtype=torch.float32)


def projections() -> tuple[Tensor, Tensor, Tensor]:
    """W_Q, W_K, W_V (8, 4), written by hand: a verb and a preposition look for nouns, a noun for its article."""
    w_q, w_k, w_v = torch.zeros(3, WIDTH, HEAD).unbind()
    w_q[1, 0] = w_q[3, 0] = 1.5  # verbs and prepositions ask on channel 0
    w_q[0, 1] = 1.5  # nouns ask on channel 1
    w_k[0, 0] = 1.5  # nouns answer on channel 0
    w_k[2, 1] = 1.5  # articles answer on channel 1
    w_v[4, 0] = w_v[5, 1] = w_v[6, 2] = w_v[7, 3] = 1.0  # what is handed on: animal, thing, first, late
    return w_q, w_k, w_v


def step_by_step(x: Tensor) -> dict[str, Tensor]:
    """Every intermediate result of softmax(Q K^T / sqrt(d_k)) V."""
    w_q, w_k, w_v = projections()
    q, k, v = x @ w_q, x @ w_k, x @ w_v  # (6, 4)
    scores = q @ k.T / HEAD**0.5  # (6, 6)
    weights = scores.softmax(-1)
    return {"q": q, "k": k, "v": v, "scores": scores, "weights": weights, "output": weights @ v}


def variances(width: int) -> tuple[float, float, float]:
    """Variance of q . k without and with 1 / sqrt(width), and the largest softmax weight without it."""
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 2000, width, generator=generator)
    raw = (q * k).sum(-1)
    logits = q[:100] @ k[:16].T
    return float(raw.var()), float((raw / width**0.5).var()), float(logits.softmax(-1).max(-1).values.mean())


def show(name: str, matrix: Tensor) -> None:
    print(name)
    for word, row in zip(WORDS, matrix, strict=True):
        print(f"  {word:4}", " ".join(f"{number:5.2f}" for number in row.tolist()))


def lesson(folder: Path) -> dict[str, Any]:
    x = embeddings()
    found = step_by_step(x)
    show("weights", found["weights"])
    show("output: animal, thing, first, late", found["output"])
    ours = plain_attention(*(found[name][None, None] for name in "qkv"), scale=HEAD**-0.5)[0, 0]
    print("equal to the package's attention:", torch.allclose(ours, found["output"], atol=1e-6))

    spread = {width: variances(width) for width in (4, 64, 1024)}
    for width, (raw, scaled, largest) in spread.items():
        print(
            f"d_k = {width}: variance {raw / width:.1f} d_k, scaled {scaled:.1f}; largest weight unscaled {largest:.1f}"
        )

    mask = AttentionMask(causal=True).dense(0, 6, 6, x.device)
    assert mask is not None
    causal = found["scores"].masked_fill(~mask[0, 0], float("-inf")).softmax(-1)
    show("weights with the causal mask", causal)

    heads = torch.randn(1, 2, 6, HEAD, generator=torch.Generator().manual_seed(3))
    both = plain_attention(heads, heads, heads, scale=HEAD**-0.5)
    alone = torch.cat([plain_attention(*(heads[:, i : i + 1],) * 3, scale=HEAD**-0.5) for i in (0, 1)], 1)
    print("two heads together equal each head alone:", torch.allclose(both, alone, atol=1e-6))

    source, target = torch.randn(9, HEAD, generator=torch.Generator().manual_seed(4)), found["q"]
    crossed = plain_attention(target[None, None], *(source[None, None],) * 2, scale=HEAD**-0.5)
    print(f"cross-attention: {len(target)} queries over {len(source)} keys give {crossed.size(2)} outputs")
    draw(folder, found["weights"].numpy(), causal.numpy())
    tensors = found | {"ours": ours, "causal": causal, "both": both, "alone": alone, "crossed": crossed}
    return {name: tensor.numpy() for name, tensor in tensors.items()} | {"spread": spread}


def draw(folder: Path, weights: np.ndarray, causal: np.ndarray) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9, 4))
    for axis, (title, matrix) in zip(axes, (("Attention", weights), ("With the causal mask", causal)), strict=True):
        axis.imshow(matrix, cmap="Blues", vmin=0, vmax=1)
        axis.set(title=title, xlabel="key", ylabel="query")
        axis.set_xticks(range(6), WORDS)
        axis.set_yticks(range(6), WORDS)
        for i in range(6):
            for j in range(6):
                axis.text(j, i, f"{matrix[i, j]:.2f}", ha="center", va="center", fontsize=8,
                          color="white" if matrix[i, j] > 0.6 else "black")  # fmt: skip
    save(figure, folder, "attention")


if __name__ == "__main__":
    run(lesson)
