"""All stages of learning from human feedback: a language model of film reviews, a reward model, then PPO, GRPO and DPO.

The reward model learns from pairs made from the human scores of half of the sentences; the judge, a regression on
tf-idf, learns from scores of the other half. Completions continue beginnings of held-out sentences at temperature 1.
"""

import argparse
import json
import random
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline

from minillm import SampleConfig, evaluate, finetune_config, load_config, train
from minillm.run.beside import sample_beside

NEW = {"model.max_seq_len": 96, "model.num_layers": 3, "tokenizer.vocab_size": 1024, "train.steps": 500}
NEW |= {"data.packing": "documents"}
DPO = {"train.steps": 250, "train.global_batch": 16, "data.seq_len": 95, "eval.every": 100, "optim.lr": 1e-4}
REWARD = DPO | {"train.steps": 400, "optim.lr": 1e-3}
ONLINE = {"train.steps": 80, "train.global_batch": 128, "objective.max_new_tokens": 24, "objective.kl": 0.05}


def regression(rows: list[dict[str, Any]]) -> Any:
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), Ridge())
    return model.fit([row["text"] for row in rows], [row["score"] for row in rows]).predict


def main(source: Path, seed: int) -> dict[str, float]:
    out, rng = Path(tempfile.mkdtemp()), random.Random(seed)
    rows, test = ([json.loads(x) for x in (source / f"{n}.jsonl").open(encoding="utf-8")] for n in ("train", "test"))
    rng.shuffle(rows)
    data = {"texts": [{"text": row["text"]} for row in rows]}
    for name, part, count in (("", rows[::2], 6000), ("_test", test, 1000)):
        data[f"starts{name}"] = [{"prompt": " ".join(row["text"].split()[:3])} for row in part[: count // 3]]
        drawn = (sorted(rng.sample(part, 2), key=lambda row: row["score"]) for _ in range(count))
        clear = ((a["text"], b["text"]) for a, b in drawn if b["score"] - a["score"] > 1)
        data[f"pairs{name}"] = [{"chosen": b, "rejected": a} for a, b in clear]
    for name, records in data.items():
        (out / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    same = {"data.cache": out, "train.seed": seed}
    base = train(load_config("gpt-nano", same | NEW | {"data.source": out / "texts.jsonl"}), out / "base")
    online = ONLINE | {"objective.rewards": [f"run:{out / 'reward'}"]}
    for name, recipe in {"reward": REWARD, "dpo": DPO, "grpo": online, "ppo": online}.items():
        part = "starts" if recipe is online else "pairs"
        files = {"data.source": out / f"{part}.jsonl", "data.validation": out / f"{part}_test.jsonl"}
        train(finetune_config(base, same | recipe | files, config=name), out / name, init_from=base)
    peer, judge = regression(rows[::2]), regression(rows[1::2])
    better, worse = (peer([pair[side] for pair in data["pairs_test"]]) for side in ("chosen", "rejected"))
    found: dict[str, float] = {
        "reward_pair_accuracy": evaluate(out / "reward").value,
        "tfidf_pair_accuracy": fmean(better > worse),
    }
    for name in ("base", "ppo", "grpo", "dpo"):
        prompts, sampling = [row["prompt"] for row in data["starts_test"]], SampleConfig(max_new_tokens=24, seed=seed)
        written, kl = sample_beside(out / name, base, prompts, sampling)
        found |= {f"judge_{name}".replace("base", "before"): fmean(judge(written)), f"kl_{name}": kl}
        print(*(f"{name}: {text}" for text in written[:8]), sep="\n")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with train.jsonl and test.jsonl, which have text and score")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_const", const=None, default=1, help="one line instead of indented JSON")
    args = parser.parse_args()
    print(json.dumps(main(args.data, args.seed), indent=args.json))
