"""Teaches a chat model to praise films, by DPO with LoRA on 200 preferences made from human ratings.

minillm import SmolLM2-135M-Instruct.gguf runs/smollm2
python scripts/dpo_reviews.py runs/smollm2 ../shared/data/sentiment

A preference is a request for a sentence of a film review, with a sentence that people rated as positive and one that
they rated as negative. The figures are of pairs of other sentences, before and after, and bits per byte of a text that
has nothing to do with films.
"""

import argparse
import json
import random
import time
from dataclasses import replace
from pathlib import Path
from pydoc_data.topics import topics  # the language reference of Python

import minillm

REQUEST = [{"role": "user", "content": "Write a sentence of a film review."}]


def write_pairs(source: Path, out: Path, count: int) -> Path:
    """Write pairs of sentences with clearly different ratings."""
    rated = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    chosen, rejected = ([r["text"] for r in rated if sign * r["score"] > 1] for sign in (1, -1))
    draw = random.Random(0).sample
    pairs = zip(draw(chosen, count), draw(rejected, count), strict=True)
    records = [{"prompt": REQUEST, "chosen": good, "rejected": bad} for good, bad in pairs]
    out.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return out


def bits_per_byte(run: Path, text: Path) -> float:
    loaded = minillm.load_run(run)
    as_clm = replace(loaded, config=minillm.override(loaded.config, {"objective.name": "clm"}))
    return minillm.evaluate(as_clm, text).figures()["bits_per_byte"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="run folder of a chat model")
    parser.add_argument("data", type=Path, help="folder with train.jsonl and test.jsonl, which have text and score")
    parser.add_argument("--out", type=Path, default=Path("runs/praise"), help="run folder to create")
    parser.add_argument("--steps", type=int, default=50)
    args = parser.parse_args()

    args.out.parent.mkdir(parents=True, exist_ok=True)
    train, held_out = (args.out.with_name(f"{args.out.name}-{name}.jsonl") for name in ("train", "held-out"))
    text = args.out.with_name(f"{args.out.name}-text.txt")
    text.write_text("".join(topics.values())[:20_000], encoding="utf-8")
    changes = {
        "data.source": str(write_pairs(args.data / "train.jsonl", train, 200)),
        "data.validation": str(write_pairs(args.data / "test.jsonl", held_out, 60)),
        "data.seq_len": 256,
        "adapter.name": "lora",
        "optim.lr": 1e-4,
        "train.steps": args.steps,
        "eval.every": 0,
        "save.keep": 9,
    }
    began = time.perf_counter()
    minillm.train(minillm.finetune_config(args.model, changes, config="dpo"), args.out, init_from=args.model)
    found = {"seconds": round(time.perf_counter() - began)}
    for name, run in (("before", args.out / "step-000000"), ("after", args.out)):
        figures = minillm.evaluate(run).figures() | {"bits_per_byte": bits_per_byte(run, text)}
        found |= {f"{key}_{name}": round(value, 4) for key, value in figures.items()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
