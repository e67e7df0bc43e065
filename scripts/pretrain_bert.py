"""Pretrain a small BERT on your own text, from Python, and fill in a masked word. Copy this file and change it.

python scripts/pretrain_bert.py my.txt --out runs/my-bert
"""

from __future__ import annotations

import argparse
from pathlib import Path

import minillm
from minillm import (
    DataConfig,
    EvalConfig,
    MaskedConfig,
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
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument(
        "--gap", default="If the file does not exist, an [MASK] is raised.", help="a text with a [MASK]"
    )
    args = parser.parse_args()

    config = RunConfig(
        # The published shape, but with rotary positions and pre-norm, which learn faster on little text.
        model=minillm.preset("bert-tiny", position="rotary", qk_norm=True, norm_order="pre", residual_init="zero"),
        tokenizer=TokenizerConfig(kind="bpe", vocab_size=4096),
        data=DataConfig(source=args.text),
        # whole_words=True masks whole words; next_sentence=True adds the second task of Devlin et al. 2019.
        objective=MaskedConfig(mask_rate=0.15, whole_words=False, next_sentence=False),
        optim=OptimConfig(name="muon", muon_lr=0.02, lr=5e-3, weight_decay=0.01),
        schedule=ScheduleConfig(name="linear", warmup_steps=20, final_ratio=0.0),
        train=TrainConfig(steps=args.steps, global_batch=32),
        eval=EvalConfig(every=200, max_tokens=20_000),
        sample=SampleConfig(prompt=args.gap),
    )
    folder = minillm.train(config, args.out)

    loaded = minillm.load_run(folder)
    print(loaded.describe())
    found = minillm.evaluate(loaded)
    print(f"masked tokens predicted correctly: {found.accuracies['mlm']:.1%}; ", end="")
    print(f"always the most frequent token: {found.baselines['most_frequent_accuracy']:.1%}")
    for candidate in minillm.fill(loaded, args.gap, top_k=5).candidates[0]:
        print(f"  {candidate.probability:.3f} {candidate.text!r}")


if __name__ == "__main__":
    main()
