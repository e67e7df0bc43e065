"""Supervised fine-tuning to some skill at sums of three-digit numbers, then GRPO with a verifiable reward.

python scripts/align_arithmetic.py --seed 1 --json

Answers begin with their last digit. Two controls start from the same weights as GRPO: as many seconds of supervised
training on the answers to GRPO's prompts, and GRPO with rewards shuffled within each group. Accuracies are on prompts
that no stage has seen, greedy except for pass@8, which samples at temperature 1.
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import minillm

GROUP, SHARES = 8, {"test": 500, "choice": 200, "sft": 20_000, "grpo": 20_000}
SHAPE = {f"model.{key}": value for key, value in {"num_layers": 3, "d_model": 96, "num_heads": 3, "max_seq_len": 32}.items()}
TRAIN = {"train.precision": "fp32", "train.device": "cpu", "schedule.name": "constant", "data.validation_fraction": 0.01}
SFT = TRAIN | {"tokenizer.kind": "char", "data.packing": "documents", "data.seq_len": 26, "train.global_batch": 128}


def exact(run: Path, rows: list[dict[str, str]], samples: int = 1) -> float:
    """Share of prompts whose greedy answer, or one of several sampled answers, is right."""
    loaded = minillm.load_run(run)
    config = minillm.SampleConfig(temperature=float(samples > 1), num_samples=samples, max_new_tokens=6)
    prompts = [loaded.tokenizer.encode(row["prompt"]).tolist() for row in rows]
    found = minillm.generate(loaded.decoder, prompts, config, eos_id=loaded.tokenizer.eos_id)
    right = [loaded.tokenizer.decode(c.ids) == rows[i // samples]["answer"] for i, c in enumerate(found)]
    return sum(any(right[i : i + samples]) for i in range(0, len(right), samples)) / len(rows)


def shuffled(prompts: list[str], completions: list[str], answer: list[str], **_: Any) -> list[float]:
    """Exact match, with the rewards of each group in a random order."""
    rewards = [float(a == b) for a, b in zip(completions, answer, strict=True)]
    groups = [rewards[i : i + GROUP] for i in range(0, len(rewards), GROUP)]
    rng = random.Random(str(completions))
    return [reward for group in groups for reward in rng.sample(group, len(group))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=200, help="of GRPO")
    parser.add_argument("--json", action="store_true", help="only the JSON object at the end")
