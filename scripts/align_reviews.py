"""All stages of learning from human feedback: a language model of film reviews, a reward model, then PPO, GRPO and DPO.

The reward model learns from pairs of one half of the rated sentences; the judge, a regression, from the other half.
"""

import argparse
import json
import random
import tempfile
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline

from minillm import evaluate, finetune_config, load_config, sample_beside, train

BASE = {"model.max_seq_len": 96, "model.num_layers": 3, "tokenizer.vocab_size": 1024, "train.steps": 600}
DPO = {"train.steps": 250, "train.global_batch": 16, "data.seq_len": 95, "eval.every": 125, "optim.lr": 1e-4}
PPO = {"train.steps": 200, "train.global_batch": 128, "objective.max_new_tokens": 24, "objective.kl": 0.2}
GRPO = PPO | {"train.steps": 100, "objective.kl_in": "reward", "objective.kl_estimator": "k1"}


def main(source: Path, seed: int) -> dict[str, float]:
    out, rng = Path(tempfile.mkdtemp()), random.Random(seed)
    rows, test = ([json.loads(x) for x in (source / f"{n}.jsonl").open(encoding="utf-8")] for n in ("train", "test"))
    rng.shuffle(rows)
    for name, part in {"train": rows[1000::2], "choice": rows[:1000:2], "test": test}.items():
        drawn = (sorted(rng.sample(part, 2), key=lambda row: row["score"]) for _ in range(5 * len(part)))
        pairs = ((b["text"], a["text"], b["score"] - a["score"], rng.choice((a, b))["text"].split()) for a, b in drawn)
        data = [{"chosen": b, "rejected": a, "margin": m, "start": " ".join(x[:3])} for b, a, m, x in pairs if m > 1]
        (out / f"{name}.jsonl").write_text("\n".join(map(json.dumps, data)), encoding="utf-8")
    same = {"data.cache": out, "train.seed": seed}
    base = train(load_config("gpt-nano", same | BASE | {"data.source": source / "train.jsonl"}), out / "before")
    same |= {"data.source": out / "train.jsonl", "data.validation": out / "choice.jsonl"}
    reward = train(load_config("reward-bytes", same | {"data.margin_field": "margin"}), out / "reward")
    online = same | {"data.prompt_field": "start", "objective.rewards": [f"run:{reward}"], "eval.max_tokens": 1000}
    for name, changes in {"dpo": same | DPO, "grpo": online | GRPO, "ppo": online | PPO}.items():
        train(finetune_config(base, changes, config=name), out / name, init_from=base)
    tfidf = [make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), Ridge()) for _ in range(2)]
    for model, part in zip(tfidf, (rows[::2], rows[1::2]), strict=True):
        model.fit([row["text"] for row in part], [row["score"] for row in part])
    better, worse = (tfidf[0].predict([pair[side] for pair in data]) for side in ("chosen", "rejected"))
    accuracy = evaluate(reward, out / "test.jsonl").figures()["pair_accuracy"]
    found = {"reward_pair_accuracy": accuracy, "tfidf_pair_accuracy": (better > worse).mean()}
    prompts = [pair["start"] for pair in data[:500]]
    for name in ("before", "ppo", "grpo", "dpo"):
        written, found[f"kl_{name}"] = sample_beside(out / name, base, prompts, max_new_tokens=24, seed=seed)
        found[f"judge_{name}"] = tfidf[1].predict(written).mean()
        print(*(f"{name}: {text}" for text in written[:8]), sep="\n")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with train.jsonl and test.jsonl, which have text and score")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_const", const=None, default=1, help="one line instead of indented JSON")
    args = parser.parse_args()
    print(json.dumps(main(args.data, args.seed), indent=args.json))
