"""Chapter 10: a small GPT learns to write; temperature, top-k and top-p; the context window."""

import json
import tempfile
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch

import minillm
from minillm.generation.generate import window_start
from minillm.generation.sampling import keep_top_k, keep_top_p, scale_temperature

from figures import run, save

STEPS = (5, 40, 200)
SETTINGS: dict[str, Any] = {
    "model.d_model": 64,
    "model.num_heads": 4,
    "model.num_kv_heads": 4,
    "model.d_ff": 192,
    "model.max_seq_len": 64,
    "tokenizer.kind": "byte",
    "data.validation_fraction": 0.02,
    "train.steps": STEPS[-1],
    "train.global_batch": 16,
    "train.log_every": 1,
    "train.precision": "fp32",
    "train.device": "cpu",
    "eval.every": 0,
    "eval.max_tokens": 4000,
    "save.every": 5,
    "save.keep": 100,
    "sample.max_new_tokens": 1,
}


def samples(trained: Path) -> dict[int, str]:
    """What the model writes after "The " at several steps of its training."""
    config = minillm.SampleConfig(prompt="The ", max_new_tokens=60, temperature=0.7, seed=1)
    found = {}
    for step in STEPS:
        loaded = minillm.load_run(trained / f"step-{step:06d}", device="cpu")
        found[step] = minillm.sample(loaded, config)[0].text
    return found


@torch.no_grad()
def next_logits(loaded: Any, prompt: str) -> torch.Tensor:
    """(1, V) the model's logits for the byte after `prompt`."""
    ids = torch.tensor(loaded.tokenizer.encode(prompt).astype("int64"))[None]
    return loaded.model(ids).logits["lm"][:, -1].float()


def choices(logits: torch.Tensor) -> dict[str, np.ndarray]:
    """The distribution of the next byte under each setting."""
    settings = {"temperature 1": logits, "temperature 0.5": scale_temperature(logits, temperature=0.5)}
    settings |= {"temperature 2": scale_temperature(logits, temperature=2.0)}
    settings |= {"top-k 5": keep_top_k(logits, k=5), "top-p 0.8": keep_top_p(logits, p=0.8)}
    return {name: changed.softmax(-1)[0].numpy() for name, changed in settings.items()}


def lesson(folder: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        keys = SETTINGS | {"data.cache": str(Path(temporary) / "cache")}
        trained = minillm.train(minillm.load_config("gpt-nano", keys), Path(temporary) / "run")
        written = samples(trained)
        loaded = minillm.load_run(trained, device="cpu")
        distributions = choices(next_logits(loaded, "The "))
        lines = (trained / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        losses = [line for line in map(json.loads, lines) if "grad_norm" in line]
    for step, text in written.items():
        print(f"step {step:3}: {text!r}")
    print("kept by top-k 5:", int((distributions["top-k 5"] > 0).sum()), "bytes")
    for length in (60, 64, 65, 81):
        print(
            f"a text of {length} tokens in a context of 64: tokens {window_start(length, 64)} to {length - 1} are read"
        )
    draw(folder, losses, distributions)
    return {"losses": [line["loss"] for line in losses], "written": written, "distributions": distributions}


def draw(folder: Path, losses: list, distributions: dict[str, np.ndarray]) -> None:
    figure, axes = plt.subplots(1, 4, figsize=(14, 3.4))
    axes[0].plot([line["step"] for line in losses], [line["loss"] for line in losses])
    axes[0].set(title="Loss during training", xlabel="step", ylabel="nats per byte")
    top = distributions["temperature 1"].argsort()[::-1][:10]
    names = [repr(chr(i))[1:-1] if 32 < i < 127 else f"{int(i)}" for i in top.tolist()]
    groups = (("temperature 0.5", "temperature 1", "temperature 2"), ("top-k 5",), ("top-p 0.8",))
    for axis, shown in zip(axes[1:], groups, strict=True):
        for number, name in enumerate(shown):
            offset = (number - (len(shown) - 1) / 2) * 0.8 / len(shown)
            axis.bar([i + offset for i in range(10)], distributions[name][top], 0.8 / len(shown), label=name)
        axis.set_xticks(range(10), names)
        axis.set(title=", ".join(shown) if len(shown) == 1 else "temperature", ylim=(0, 1))
        axis.legend(fontsize=8)
    save(figure, folder, "training_and_writing")


if __name__ == "__main__":
    run(lesson)
