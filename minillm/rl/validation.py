"""Evaluation of a policy: the rewards of its completions of held-out prompts."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import Any

from torch import nn

from minillm.evaluation.evaluator import RunParts
from minillm.generation.config import SampleConfig
from minillm.rl.rewards import Judged, Rewards
from minillm.rl.rollouts import complete_ids
from minillm.training.evaluation import Evaluation

SHOWN = 4
"""Completions of an evaluation that are kept as samples."""


@dataclass(frozen=True)
class RewardEvaluator:
    """The trainer's Evaluator: the mean reward of one completion of each of the same prompts.

    `eval.max_tokens` bounds the prompts' tokens; a rank takes every world_size-th prompt.
    """

    parts: RunParts
    rewards: Rewards

    def __call__(self, model: nn.Module) -> Evaluation:
        parts, config = self.parts, self.parts.objective.config
        limit = parts.recipe.eval.max_tokens // parts.examples.seq_len
        total = min(len(parts.examples), max(1, limit)) if parts.recipe.eval.max_tokens else len(parts.examples)
        rows = [parts.examples.row(i) for i in range(parts.runtime.rank, total, parts.runtime.world_size)]
        sampling = SampleConfig(
            temperature=config.eval_temperature, max_new_tokens=config.max_new_tokens, seed=parts.recipe.train.seed
        )
        judged: list[Judged] = []
        figures: list[dict[str, float]] = []
        for first in range(0, len(rows), parts.recipe.eval.batch):
            some = rows[first : first + parts.recipe.eval.batch]
            numbers = [parts.runtime.rank + i * parts.runtime.world_size for i in range(first, first + len(some))]
            completions = complete_ids(parts, some, sampling, samples=numbers)
            texts = [parts.tokenizer.decode(completion.ids) for completion in completions]
            judged += [Judged(row.text, text, row.fields, row.where) for row, text in zip(some, texts, strict=True)]
            figures += [
                {"length": float(len(c.ids)), "truncated": float(c.finish_reason == "length")} for c in completions
            ]
        totals, terms = self.rewards(judged) if judged else ([], [])
        every = [{"reward": t} | term | f for t, term, f in zip(totals, terms, figures, strict=True)]
        gathered = parts.runtime.gather(every)
        measured = {name: fmean(line[name] for line in gathered) for name in gathered[0]}
        shown: Any = [
            {"prompt": row.prompt, "completion": row.completion, "reward": t}
            for row, t in zip(judged[:SHOWN], totals, strict=False)
        ]
        return Evaluation(
            {"reward": -measured["reward"] * len(gathered)},
            {"reward": len(gathered)},
            {},
            primary="reward",
            task=measured,
            samples=tuple(shown),
        )


def reward_evaluator(parts: RunParts) -> RewardEvaluator:
    """The evaluator of the policy objectives; its loss is the negative reward."""
    return RewardEvaluator(parts, Rewards(parts.objective.config.rewards, parts.scorer))
