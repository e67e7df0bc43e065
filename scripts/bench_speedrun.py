"""Measures the training time to nanoGPT's published loss of 1.88 on tiny Shakespeare, with its recipe and our speedrun.

python scripts/bench_speedrun.py tinyshakespeare.txt      (on an otherwise idle machine; about six minutes)
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import minillm
from minillm.models.profile import count_parameters
from minillm.training.metrics import read_metrics

RECIPES = ("gpt-shakespeare-char-cpu", "gpt-speedrun")
SEEDS = (1, 2, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text")
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in RECIPES}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:  # the recipes take turns, so that changes in the machine's speed affect both
            for name in RECIPES:
                keys = {
                    "data.source": args.text,
                    "train.seed": seed,
                    "train.precision": "fp32",
                    "eval.every": 0,
                    "eval.max_tokens": 0,  # the whole validation text
                }
                run = minillm.train(minillm.load_config(name, keys), Path(folder) / f"{name}-{seed}")
                last = list(read_metrics(run / "metrics.jsonl"))[-1]
                parameters = sum(count_parameters(minillm.load_run(run).model).values())
                seconds[name].append(last["seconds"])
                rows.append((name, seed, parameters, last["step"], last["val_loss"], last["seconds"]))
    print(f"\n{'recipe':26} {'seed':>4} {'parameters':>10} {'steps':>5} {'val loss':>8} {'seconds':>8}")
    for row in rows:
        print("{:26} {:4} {:10,} {:5} {:8.4f} {:8.1f}".format(*row))
    slow, fast = (statistics.median(seconds[name]) for name in RECIPES)
    print(f"median seconds of training: {slow:.1f} and {fast:.1f}, {slow / fast:.1f} times as fast")


if __name__ == "__main__":
    main()
