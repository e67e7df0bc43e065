"""What pretraining is worth: a pretrained BERT beside the same model untrained, both taught a real label.

python scripts/bert_transfer.py                (pretrains bert-mini on Python source first)
python scripts/bert_transfer.py runs/my-bert   (takes a run that is there)

Both learn, for equal steps, to tell the class (keyword, name, number, operator, string) of a token they do not see.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from minillm.run.transfer import SOURCE, compare

import minillm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="run folder of a BERT; left out: one is trained")
    parser.add_argument("--pretrain-steps", type=int, default=800)
    parser.add_argument("--steps", type=int, default=200, help="of training on the label, for either model")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--files", type=int, default=400, help="of Python's library that examples are taken from")
    args = parser.parse_args()

    folder = args.run
    if folder is None:
        changes = {"data.source": SOURCE, "train.steps": args.pretrain_steps, "sample.prompt": "for i in [MASK](10):"}
        changes["schedule.warmup_steps"] = min(30, args.pretrain_steps)
        folder = minillm.train(minillm.load_config("bert-mini", changes))
    loaded = minillm.load_run(folder)
    print(loaded.describe())
    print(compare(loaded, steps=args.steps, seeds=range(args.seeds), files=args.files).describe())


if __name__ == "__main__":
    main()
