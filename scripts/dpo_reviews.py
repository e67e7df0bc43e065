"""Teaches a chat model to praise films: DPO with LoRA on 200 preferences made from human ratings of sentences.

minillm import SmolLM2-135M-Instruct.gguf runs/smollm2
python scripts/dpo_reviews.py runs/smollm2 FOLDER_WITH_RATED_SENTENCES

Prints figures for held-out pairs before and after training, and the bits per byte of a text that is not about films.
"""

import argparse
import json
import random
import time
from pathlib import Path
from pydoc_data.topics import topics  # the language reference of Python

import minillm

REQUEST = [{"role": "user", "content": "Write a sentence of a film review."}]
SETTINGS = {"data.seq_len": 256, "adapter.name": "lora", "optim.lr": 1e-4, "eval.every": 0, "save.keep": 9}


def write_pairs(source: Path, out: Path, count: int) -> str:
    """Write pairs of a sentence that people rated as positive and one that they rated as negative."""
    rated = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    sides = ([r["text"] for r in rated if sign * r["score"] > 1] for sign in (1, -1))
    pairs = zip(*(random.Random(0).sample(side, count) for side in sides), strict=True)
    records = [{"prompt": REQUEST, "chosen": good, "rejected": bad} for good, bad in pairs]
    out.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(out)


def figures(run: Path, text: Path) -> dict[str, float]:
    return minillm.evaluate(run).figures() | minillm.evaluate(run, text, objective="clm").figures()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="run folder of a chat model")
    parser.add_argument("data", type=Path, help="folder with train.jsonl and test.jsonl, which have text and score")
    parser.add_argument("--out", type=Path, default=Path("runs/praise"), help="run folder to create")
    parser.add_argument("--steps", type=int, default=50)
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    train, held_out, text = (args.out.with_name(f"{args.out.name}-{n}") for n in ("train.jsonl", "test.jsonl", "text"))
    text.write_text("".join(topics.values())[:20_000], encoding="utf-8")
    changes = SETTINGS | {"data.source": write_pairs(args.data / "train.jsonl", train, 200)}
    changes |= {"data.validation": write_pairs(args.data / "test.jsonl", held_out, 60), "train.steps": args.steps}
    began = time.perf_counter()
    minillm.train(minillm.finetune_config(args.model, changes, config="dpo"), args.out, init_from=args.model)
    found = {"seconds": round(time.perf_counter() - began)}
    for name, run in (("before", args.out / "step-000000"), ("after", args.out)):
        found |= {f"{key}_{name}": round(value, 4) for key, value in figures(run, text).items()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
