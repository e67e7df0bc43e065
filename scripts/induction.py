"""Trains a GPT of two layers in which a previous-token head and an induction head form, and shows them.

python scripts/induction.py                 (writes attention.html)

Its text is random letters that are repeated once, so that nothing but the repetition can be predicted.
"""

from __future__ import annotations

import argparse
import json
import random
import string
import tempfile
from pathlib import Path

import minillm
from minillm.run.looking import attention, describe_heads, write_attention

SETTINGS = {
    **{"model.preset": "qwen3-nano", "model.d_model": 64, "model.d_ff": 128, "model.max_seq_len": 64},
    **{"tokenizer.kind": "char", "optim.name": "muon", "optim.lr": 0.01, "train.global_batch": 32},
    **{"train.precision": "fp32", "eval.every": 0, "save.every": 0, "data.packing": "documents"},
}


def repeated(number: int) -> str:
    """Documents in JSON Lines: different letters in a random order, and the same ones again."""
    draw = random.Random(0)
    blocks = ("".join(draw.sample(string.ascii_letters, draw.randint(8, 30))) for _ in range(number))
    return "".join(json.dumps({"text": block + block}) + "\n" for block in blocks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--out", type=Path, default=Path("attention.html"), help="page, picture or data")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "repeated.jsonl"
        text.write_text(repeated(8000), encoding="utf-8")
        changes = {"data.source": str(text), "train.steps": args.steps, "sample.prompt": "qwertyuiopqwe"}
        run = minillm.train(minillm.load_config("gpt-nano", SETTINGS | changes))
        found = attention(run, "quicklyBROWNquicklyBROWN")
    for score in found.scores:
        print(f"layer {score.layer}, head {score.head}: previous {score.previous:.2f}, induction {score.induction:.2f}")
    print("\n".join(describe_heads(found.scores)))
    write_attention(found, args.out)
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
