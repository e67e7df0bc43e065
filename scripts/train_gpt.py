"""Train a small GPT on your own text, from Python. Copy this file and change it.

python scripts/train_gpt.py my.txt --out runs/mine
"""

from __future__ import annotations

import argparse
from pathlib import Path

import minillm
from minillm import (
    DataConfig,
    EvalConfig,
    OptimConfig,
    RunConfig,
    SampleConfig,
    ScheduleConfig,
    TokenizerConfig,
    TrainConfig,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", nargs="?", default="builtin:python-docs", help="file, folder, glob or builtin:NAME")
    parser.add_argument("--out", type=Path, help="run folder; a new one under runs/ if left out")
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()

    config = RunConfig(
        # A named shape; change what you like: d_model, num_layers, num_heads, dropout, position, ...
        model=minillm.preset("qwen3-nano", max_seq_len=128),
        # Byte-level BPE, trained on your text; "byte" and "char" need no training.
        tokenizer=TokenizerConfig(kind="bpe", vocab_size=2048),
        data=DataConfig(source=args.text),
        # Muon updates the matrices, AdamW the other parameters.
        optim=OptimConfig(name="muon", muon_lr=0.02, lr=3e-3),
        schedule=ScheduleConfig(name="wsd", warmup_steps=20, final_ratio=0.0, decay_fraction=0.5),
        train=TrainConfig(steps=args.steps, global_batch=16),
        eval=EvalConfig(every=100),
        sample=SampleConfig(prompt="The", max_new_tokens=60),
    )
    folder = minillm.train(config, args.out)

    # The run folder contains everything: the weights, the tokenizer, the config.
    loaded = minillm.load_run(folder)
    print(loaded.describe())
    for completion in minillm.sample(loaded, SampleConfig(prompt="The", num_samples=2, max_new_tokens=60)):
        print(f"--- {completion.finish_reason}\nThe{completion.text}")


if __name__ == "__main__":
    main()
