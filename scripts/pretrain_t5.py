"""Pretrain a small T5 on your own text, from Python, and fill the gaps in a text. Copy this file and change it.

python scripts/pretrain_t5.py my.txt --out runs/my-t5
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
    SpanConfig,
    TokenizerConfig,
    TrainConfig,
)

GAPS = "If the argument is <|extra_id_0|>, a ValueError is <|extra_id_1|>."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", nargs="?", default="builtin:python-docs", help="file, folder, glob or builtin:NAME")
    parser.add_argument("--out", type=Path, help="run folder; a new one under runs/ if left out")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--gaps", default=GAPS, help="a text with sentinels, <|extra_id_0|> and so on")
    args = parser.parse_args()

    config = RunConfig(
        # As in T5 v1.1: relative position buckets, RMSNorm, gated GELU. The encoder reads 128 tokens.
        model=minillm.preset("t5-mini", d_model=192, num_layers=3, d_ff=512, max_seq_len=128),
        tokenizer=TokenizerConfig(kind="bpe", vocab_size=2048),
        data=DataConfig(source=args.text),
        # The published settings. PrefixConfig() instead predicts the rest of a text from its beginning.
        objective=SpanConfig(span_density=0.15, mean_span_length=3.0),
        optim=OptimConfig(name="adamw", lr=3e-3, weight_decay=0.01),
        schedule=ScheduleConfig(name="linear", warmup_steps=min(50, args.steps), final_ratio=0.0),
        train=TrainConfig(steps=args.steps, global_batch=32),
        eval=EvalConfig(every=200, max_tokens=50_000),
        sample=SampleConfig(prompt=args.gaps, temperature=0.0, max_new_tokens=24),
    )
    folder = minillm.train(config, args.out)

    loaded = minillm.load_run(folder)
    print(loaded.describe())
    print(f"tokens of the gaps predicted correctly: {minillm.evaluate(loaded).accuracies['lm']:.1%}")
    (answer,) = minillm.sample(loaded, loaded.config.sample)
    print(f"{args.gaps}\n{answer.text}")


if __name__ == "__main__":
    main()
