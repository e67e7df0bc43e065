"""Chapter 9: residual connections and normalization; GPT, BERT and T5 from the same blocks."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from minillm import build_model, preset
from minillm.nn.mask import AttentionMask

from figures import run, save

DEPTH, LENGTH = 24, 16
SHAPE: dict[str, Any] = {"vocab_size": 50, "d_model": 32, "num_heads": 4, "max_seq_len": LENGTH}
VIEWS = {
    "GPT: causal": AttentionMask(causal=True),
    "BERT: both sides": AttentionMask(),
    "prefix LM: prompt, then causal": AttentionMask(causal=True, prefix_length=torch.tensor([3])),
}


def gradients_by_depth(norm_order: str) -> list[float]:
    """Gradient norm of each of DEPTH blocks at initialization, the first block first."""
    config = preset("gpt2", **SHAPE, num_layers=DEPTH, norm_order=norm_order, residual_init="plain", init_std=0.2)
    model = build_model(config)
    model.init_weights(torch.Generator().manual_seed(0))
    tokens = torch.randint(50, (8, LENGTH), generator=torch.Generator().manual_seed(1))
    logits = model(tokens).logits["lm"]
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    blocks = model.decoder.blocks.values()
    return [float(torch.stack([p.grad.norm() for p in block.parameters()]).norm()) for block in blocks]


def sees(model: Any, call: Any) -> Tensor:
    """(T, T) bool: whether the output at each position (row) changes with the token at each position (column)."""
    tokens = torch.arange(6)[None]
    before = call(model, tokens)
    changed = []
    for position in range(6):
        other = tokens.clone()
        other[0, position] += 20
        changed.append(((call(model, other) - before).abs().amax(-1) > 1e-6)[0])
    return torch.stack(changed, 1)


def models() -> dict[str, Tensor]:
    """For each model family, which inputs each output depends on."""
    torch.manual_seed(0)
    calls = {
        "gpt2": lambda model, tokens: model(tokens).logits["lm"],
        "bert-tiny": lambda model, tokens: model(tokens).logits["lm"],
        "t5-mini": lambda model, tokens: model(tokens, torch.arange(6)[None]).logits["lm"],
    }
    found = {}
    for name, call in calls.items():
        model = build_model(preset(name, **{**SHAPE, "num_layers": 2, "d_ff": 64, "dropout": 0.0}))
        model.init_weights(torch.Generator().manual_seed(0))
        with torch.no_grad():
            found[name] = sees(model.eval(), call)
    return found


def lesson(folder: Path) -> dict[str, Any]:
    norms = {order: gradients_by_depth(order) for order in ("pre", "post")}
    for order, values in norms.items():
        ratio = values[-1] / values[0]
        print(f"{order}-LN: the last block's gradient is {'larger' if ratio > 1 else 'smaller'} than the first one's")
    seen = models()
    print(
        "GPT: each output depends on its own and earlier tokens:",
        torch.equal(seen["gpt2"], torch.ones(6, 6).tril().bool()),
    )
    print("BERT: each output depends on all tokens:", bool(seen["bert-tiny"].all()))
    print("T5: each output of the decoder depends on the whole source:", bool(seen["t5-mini"].all()))
    draw(folder, norms)
    return {"norms": norms, "seen": {name: matrix.numpy() for name, matrix in seen.items()}}


def draw(folder: Path, norms: dict[str, list[float]]) -> None:
    figure, axes = plt.subplots(1, 4, figsize=(14, 3.4))
    for order, values in norms.items():
        axes[0].semilogy(range(1, DEPTH + 1), values, ".-", label=f"{order}-LN")
    axes[0].set(title="Gradient norm by block", xlabel="block")
    axes[0].legend()
    for axis, (title, mask) in zip(axes[1:], VIEWS.items(), strict=True):
        dense = mask.dense(0, 6, 6, torch.device("cpu"))
        axis.imshow((torch.ones(6, 6) if dense is None else dense[0, 0]).numpy(), cmap="Blues", vmin=0, vmax=1.5)
        axis.set(title=title, xlabel="key", ylabel="query")
        axis.set_xticks(torch.arange(0.5, 5).tolist(), minor=True)
        axis.set_yticks(torch.arange(0.5, 5).tolist(), minor=True)
        axis.grid(which="minor", color="white")
    save(figure, folder, "a_block")


if __name__ == "__main__":
    run(lesson)
