"""Compares digit classifiers: the MLP and the ViT of configs/, and scikit-learn's MLPClassifier with the same layers.

python scripts/digits.py FOLDER_WITH_MNIST              (without a folder: digits drawn with matplotlib's fonts)
python scripts/digits.py FOLDER_WITH_MNIST --seeds 3 --configs mlp-digits
"""

from __future__ import annotations

import argparse
import time
from statistics import mean

from sklearn.neural_network import MLPClassifier

import minillm
from minillm.data.datasets.images import prepare_images


def sklearn_accuracy(config: minillm.RunConfig, seed: int) -> float:
    """Accuracy of the reference on the same images, pixels from 0 to 1, with its own defaults."""
    corpus = prepare_images(config.data, None)
    train, held_out = (split.features.reshape(len(split), -1) / 255 for split in (corpus.train, corpus.validation))
    model = MLPClassifier(config.model.hidden_sizes, random_state=seed).fit(train, corpus.train.labels)
    return float(model.score(held_out, corpus.validation.labels))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default="builtin:digits", help="folder with IDX files, or builtin:digits")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--configs", nargs="+", default=["mlp-digits", "vit-digits"])
    parser.add_argument("--steps", type=int, help="training steps; by default those of the config")
    args = parser.parse_args()

    found: dict[str, list[tuple[float, float]]] = {}
    for seed in range(1, args.seeds + 1):
        for name in args.configs:
            changes = {"data.source": args.data, "train.seed": seed}
            config = minillm.load_config(name, changes | ({"train.steps": args.steps} if args.steps else {}))
            began = time.perf_counter()
            run = minillm.train(config)
            seconds = time.perf_counter() - began
            found.setdefault(name, []).append((minillm.evaluate(run).figures()["accuracy"], seconds))
        config, began = minillm.load_config("mlp-digits", {"data.source": args.data}), time.perf_counter()
        accuracy = sklearn_accuracy(config, seed)
        found.setdefault("scikit-learn", []).append((accuracy, time.perf_counter() - began))
    for name, results in found.items():
        each = ", ".join(f"{accuracy:.2%}" for accuracy, _ in results)
        print(f"{name}: accuracy {each}; {mean(seconds for _, seconds in results):.0f} s")


if __name__ == "__main__":
    main()
