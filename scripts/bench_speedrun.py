"""Measures the training time to nanoGPT's published loss of 1.88 on tiny Shakespeare, with its recipe and our speedrun.

python scripts/bench_speedrun.py tinyshakespeare.txt      (on an otherwise idle machine; 5 to 10 minutes)

Both recipes are trained in fp32 and, if the CPU is fast at it, in bf16.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from itertools import product
from pathlib import Path

import torch

import minillm
from minillm.models.profile import count_parameters
from minillm.training.metrics import read_metrics
from minillm.training.precision import choose_dtype

RECIPES = ("gpt-shakespeare-char-cpu", "gpt-speedrun")
SEEDS = (1, 2, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text")
    args = parser.parse_args()
    fast = choose_dtype("auto", torch.device("cpu"))
    precisions = ("fp32", "bf16") if fast == torch.bfloat16 else ("fp32",)
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in product(precisions, RECIPES)}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed, (precision, name) in product(SEEDS, seconds):  # they take turns, in case the machine's speed changes
            keys = {
                "data.source": args.text,
                "train.device": "cpu",
                "train.seed": seed,
                "train.precision": precision,
                "eval.every": 0,
                "eval.max_tokens": 0,  # the whole validation text
            }
            run = minillm.train(minillm.load_config(name, keys), Path(folder) / f"{name}-{precision}-{seed}")
            last = list(read_metrics(run / "metrics.jsonl"))[-1]
            parameters = sum(count_parameters(minillm.load_run(run).model).values())
            seconds[precision, name].append(last["seconds"])
            rows.append((name, precision, seed, parameters, last["step"], last["val_loss"], last["seconds"]))
    print(f"\n{'recipe':26} {'dtype':5} {'seed':>4} {'parameters':>10} {'steps':>5} {'val loss':>8} {'seconds':>8}")
    for row in rows:
        print("{:26} {:5} {:4} {:10,} {:5} {:8.4f} {:8.2f}".format(*row))
    for precision in precisions:
        slow, quick = (statistics.median(seconds[precision, name]) for name in RECIPES)
        print(f"{precision}: median seconds of training {slow:.1f} and {quick:.2f}, {slow / quick:.1f} times as fast")


if __name__ == "__main__":
    main()
