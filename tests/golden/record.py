"""The golden curves: what training gave when it was last known to be right.

Record them anew, after a change that is meant to move them, with

    python tests/golden/record.py [OBJECTIVE ...]
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import minillm
from minillm import RunConfig, override, preset
from minillm.training.metrics import read_metrics

STEPS = 30
CONFIG: dict[str, object] = {
    "model.num_layers": 2,
    "model.num_heads": 2,
    "model.d_model": 32,
    "model.max_seq_len": 32,
    "tokenizer.kind": "byte",
    "data.split": "tail",
    "optim.name": "adamw",
    "optim.lr": 1e-2,
    "schedule.name": "cosine",
    "schedule.warmup_steps": 5,
    "train.steps": STEPS,
    "train.global_batch": 8,
    "train.micro_batch": 3,
    "train.log_every": 1,
    "train.precision": "fp32",
    "train.device": "cpu",
    "train.seed": 7,
    "eval.every": 10,
    "eval.max_tokens": 0,
    "save.every": 0,
    "sample.max_new_tokens": 1,
}
CURVES: dict[str, tuple[str, str, dict[str, object]]] = {
    "clm": ("gpt2", "rhyme.txt", {}),
    "mlm": (
        "bert-tiny",
        "rhyme.jsonl",
        {"objective.name": "mlm", "objective.next_sentence": True, "objective.whole_words": True}
        | {"model.norm_order": "pre", "model.max_seq_len": 48, "data.split": "document"},
    ),
    "span": ("t5-mini", "rhyme.txt", {"objective.name": "span", "model.d_ff": 64}),
    "prefix_lm": ("gpt2", "rhyme.txt", {"objective.name": "prefix_lm"}),
    "seq2seq": (
        "t5-mini",
        "rhyme.jsonl",
        {"objective.name": "seq2seq", "model.d_ff": 64, "model.max_seq_len": 64, "data.split": "auto"},
    ),
    "chat": (
        "gpt2",
        "rhyme.jsonl",
        {"objective.name": "chat", "model.max_seq_len": 160, "data.split": "auto"},
    ),
}
"""Objective -> preset, text, and what is otherwise than in CONFIG."""


def verses() -> list[str]:
    """A text of four kilobytes that no file has to hold."""
    verse = "{0} bottles of ink on the wall,\n{0} bottles of ink!\nIf one should happen to fall,\nwe'd write {1}.\n\n"
    return [verse.format(n, n - 1) for n in range(45, 0, -1)]


def curve(folder: Path, objective: str = "clm") -> dict[str, list[float]]:
    """Training loss at every step, and validation loss at every tenth."""
    name, text, otherwise = CURVES[objective]
    (folder / "rhyme.txt").write_text("".join(verses()), encoding="utf-8")
    halves = [verse.split("\n", 2) for verse in verses()]
    lines = [
        json.dumps({"text": verse, "input": f"next: {first}", "target": second, "prompt": first, "completion": second})
        + "\n"
        for verse, (first, second, _) in zip(verses(), halves, strict=True)
    ]
    (folder / "rhyme.jsonl").write_text("".join(lines), encoding="utf-8")
    here = {"data.source": str(folder / text), "data.cache": str(folder / "cache")}
    config = override(RunConfig(model=preset(name)), CONFIG | otherwise | here)
    run = minillm.train(config, folder / "run")
    lines = list(read_metrics(run / "metrics.jsonl"))
    return {
        "loss": [line["loss"] for line in lines if "loss" in line],
        "val_loss": [line["val_loss"] for line in lines if "val_loss" in line],
    }


if __name__ == "__main__":
    for name in sys.argv[1:] or CURVES:
        with tempfile.TemporaryDirectory() as temporary:
            found = {key: [round(value, 6) for value in values] for key, values in curve(Path(temporary), name).items()}
        Path(__file__).with_name(f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
