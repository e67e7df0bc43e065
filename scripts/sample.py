"""Generate text with a trained GPT, from Python. Copy this file and change it.

python scripts/sample.py runs/mine --prompt "Once upon a time"
"""

from __future__ import annotations

import argparse
from pathlib import Path

import minillm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, help="run folder; the latest under runs/ if left out")
    parser.add_argument("--prompt", default="The")
    parser.add_argument("--max-new-tokens", type=int, default=200)
    parser.add_argument("--temperature", type=float, default=0.8, help="0 is greedy")
    parser.add_argument("--seed", type=int, default=1337)
    args = parser.parse_args()

    loaded = minillm.load_run(args.run)
    print(loaded.describe())

    config = minillm.SampleConfig(
        prompt=args.prompt,
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        top_p=0.95,
        seed=args.seed,
    )
    print(args.prompt, end="", flush=True)
    # on_text is called for each new piece of text; row is the number of the sample.
    minillm.sample(loaded, config, on_text=lambda row, piece: print(piece, end="", flush=True))
    print()


if __name__ == "__main__":
    main()
