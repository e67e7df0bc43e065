"""Fine-tunes a small GPT to some skill at sums of three-digit numbers, then GRPO with a verifiable reward.

Two controls start from the same weights as GRPO: as many seconds of supervised training on the answers to its prompts,
and GRPO with rewards shuffled within each group. Accuracies are greedy, pass@8 at temperature 1, on unseen prompts.
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

from minillm import evaluate, finetune_config, load_config, train

SIZES = {"test": 500, "choice": 100, "sft": 20_000, "grpo": 20_000}
GRPO = {"objective.max_new_tokens": 6, "objective.eval_samples": 8, "train.steps": 500, "eval.every": 50}
GRPO |= {"optim.lr": 1e-3, "schedule.name": "linear", "schedule.warmup_steps": 20, "schedule.final_ratio": 0.0}


def record(a: int, b: int) -> str:
    answer = str(a + b)[::-1]  # the last digit first
    sides = {"role": "user", "content": f"{a}+{b}"}, {"role": "assistant", "content": answer}
    return json.dumps({"prompt": sides[:1], "completion": sides[1:], "answer": answer}) + "\n"


def shuffled(prompts: list[str], completions: list[str], answer: list[str], **_: object) -> list[float]:
    """Exact match, with the rewards of each group of 8 in a random order."""
    rewards, rng = [float(a == b) for a, b in zip(completions, answer, strict=True)], random.Random(str(completions))
    return [r for i in range(0, len(rewards), 8) for r in sorted(rewards[i : i + 8], key=lambda _: rng.random())]


def main(seed: int) -> dict[str, float]:
    began, out, numbers = time.perf_counter(), Path(tempfile.mkdtemp()), range(100, 1000)
    sums = iter(random.Random(seed).sample([(a, b) for a in numbers for b in numbers], sum(SIZES.values())))
    files = {name: out / f"{name}.jsonl" for name in SIZES}
    for name, file in files.items():
        file.write_text("".join(record(*next(sums)) for _ in range(SIZES[name])), encoding="utf-8")
    same = {"data.validation": files["choice"], "data.cache": out, "train.seed": seed, "save.keep": 99}
    sft = train(load_config("arithmetic", same | {"data.source": files["sft"]}), out / "sft")
    speed, seconds = 300 / (time.perf_counter() - began), 0.0  # steps per second
    able = (run for run in sorted(sft.glob("step-*")) if evaluate(run, files["choice"], objective="grpo").value >= 0.3)
    start, odd, found = next(able), {"objective.rewards": [f"{__file__}:shuffled"]}, {}
    for name, changes in {"grpo": GRPO, "continued_sft": {}, "shuffled_reward": GRPO | odd}.items():
        last, recipe = time.perf_counter(), "grpo" if changes else "arithmetic"
        settings = same | {"data.source": files["grpo"], "train.steps": max(1, round(speed * seconds))} | changes
        run = train(finetune_config(start, settings, config=recipe), out / name, init_from=start)
        seconds = seconds or time.perf_counter() - last
        found[f"{name}_exact"] = evaluate(run, files["test"], objective="grpo").value
    before, after = (evaluate(out / "grpo" / step, files["test"]).figures() for step in ("step-000000", ""))
    found |= {"pass_at_8_before": before["best_of_8"], "pass_at_8_after": after["best_of_8"]}
    return {"sft_exact": before["reward"]} | found | {"seconds": round(time.perf_counter() - began)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_const", const=None, default=1, help="one line instead of indented JSON")
    args = parser.parse_args()
    print(json.dumps(main(args.seed), indent=args.json))
