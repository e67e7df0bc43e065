"""Measures the benefit of pretraining: fine-tunes a pretrained BERT and the same model without pretraining.

python scripts/bert_transfer.py                (pretrains bert-mini on Python source first)
python scripts/bert_transfer.py runs/my-bert   (uses an existing run)

Both learn for the same number of steps to classify a hidden token of source code as a keyword, name, number, operator
or string.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean, stdev

import minillm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="run folder of a BERT; if left out, one is trained")
    parser.add_argument("--pretrain-steps", type=int, default=800)
    parser.add_argument("--steps", type=int, default=500, help="fine-tuning steps")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()

    parent = args.run
    if parent is None:
        changes = {"data.source": "builtin:python-stdlib", "train.steps": args.pretrain_steps, "sample.prompt": None}
        parent = minillm.train(minillm.load_config("bert-mini", changes))
    changes = {
        "objective.name": "classify",
        "data.source": "builtin:python-token-classes",
        "optim.lr": 5e-4,
        "train.steps": args.steps,
        "train.global_batch": 32,
        "eval.every": 0,
        "save.every": 0,
    }
    found: dict[str, list[float]] = {"pretrained": [], "not pretrained": []}
    baseline = 0.0
    for seed in range(1, args.seeds + 1):
        config = minillm.finetune_config(parent, changes | {"train.seed": seed})
        for name, accuracies in found.items():
            measured = minillm.evaluate(minillm.train(config, init_from=parent, fresh=name == "not pretrained"))
            accuracies.append(measured.figures()["accuracy"])
            baseline = measured.baselines["most_frequent_accuracy"]
    for name, accuracies in found.items():
        spread = f" ± {stdev(accuracies):.4f}" if len(accuracies) > 1 else ""
        print(f"{name}: accuracy {mean(accuracies):.4f}{spread} over {len(accuracies)} seeds")
    print(f"always the most frequent class: {baseline:.4f}")


if __name__ == "__main__":
    main()
