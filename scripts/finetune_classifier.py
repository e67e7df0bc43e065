"""Fine-tune a model to predict labels, from Python, and predict the label of a text. Copy this file and change it.

python scripts/finetune_classifier.py runs/bert labels.csv --out runs/my-labels
"""

from __future__ import annotations

import argparse
from pathlib import Path

import minillm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run to start from: trained, or made by minillm import")
    parser.add_argument("data", help="file with a text and a label in each row")
    parser.add_argument("--out", type=Path, help="run folder; a new one under runs/ if left out")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--lora", action="store_true", help="train a low-rank change instead of all weights")
    parser.add_argument("--text", default="Film 3 was good.", help="text to predict the label of")
    args = parser.parse_args()

    changes: dict[str, object] = {
        "data.source": args.data,
        # kind "labels" predicts several labels of a text, "number" a number.
        "objective.kind": "label",
        "train.steps": args.steps,
        "optim.lr": 2e-3 if args.lora else 5e-5,
    }
    if args.lora:
        changes["adapter.name"] = "lora"
    config = minillm.finetune_config(args.run, changes, config="finetune-classify")
    folder = minillm.train(config, args.out, init_from=args.run)

    loaded = minillm.load_run(folder)
    print(loaded.describe())
    found = minillm.evaluate(loaded)
    print(found.describe(), f"; most frequent label: {found.baselines['most_frequent_accuracy']:.4f}")
    (result,) = minillm.predict(loaded, [args.text])
    print(f"{args.text!r}: {result['label']}, {result['probabilities']}")


if __name__ == "__main__":
    main()
