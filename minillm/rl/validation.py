"""Evaluation of a policy: the rewards of its completions of held-out prompts."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

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
    """The trainer's Evaluator: the mean reward of completions of the same prompts.

    `eval.max_tokens` bounds the prompts' tokens; a rank takes every world_size-th prompt.
    """

    parts: RunParts
    rewards: Rewards

    def __call__(self, model: nn.Module) -> Evaluation:
        parts = self.parts
        limit = parts.recipe.eval.max_tokens // parts.examples.seq_len
        total = min(len(parts.examples), max(1, limit)) if parts.recipe.eval.max_tokens else len(parts.examples)
        numbers = [n for n in range(parts.runtime.rank, total, parts.runtime.world_size) for _ in range(self.copies)]
        judged: list[Judged] = []
        figures: list[dict[str, float]] = []
        for first in range(0, len(numbers), parts.recipe.eval.batch):
            some = numbers[first : first + parts.recipe.eval.batch]
            rows = [parts.examples.row(n) for n in some]
            samples = [n * self.copies + (first + i) % self.copies for i, n in enumerate(some)]
            completions = complete_ids(parts, rows, self._sampling(), samples=samples)
            texts = [parts.tokenizer.decode(completion.ids) for completion in completions]
            judged += [Judged(row.text, text, row.fields, row.where) for row, text in zip(rows, texts, strict=True)]
            figures += [{"length": len(c.ids), "truncated": float(c.finish_reason == "length")} for c in completions]
        totals, terms = self.rewards(judged) if judged else ([], [])
        every = [{"reward": t} | term | f for t, term, f in zip(totals, terms, figures, strict=True)]
        gathered = parts.runtime.gather(every)
        measured = {name: fmean(line[name] for line in gathered) for name in gathered[0]}
        if self.copies > 1:
            rewards = [line["reward"] for line in gathered]
            best = [max(rewards[i : i + self.copies]) for i in range(0, len(rewards), self.copies)]
            measured[f"best_of_{self.copies}"] = fmean(best)
        shown = [
            {"prompt": row.prompt, "completion": row.completion, "reward": reward}
            for row, reward in zip(judged, totals, strict=True)
        ]
        return Evaluation(
            {"reward": -measured["reward"] * len(gathered)},
            {"reward": len(gathered)},
            {},
            primary="reward",
            task=measured,
            samples=tuple(shown[:: self.copies][:SHOWN]),
        )

    @property
    def copies(self) -> int:
        """Completions of each prompt."""
        return self.parts.objective.config.eval_samples

    def _sampling(self) -> SampleConfig:
        config, seed = self.parts.objective.config, self.parts.recipe.train.seed
        return SampleConfig(temperature=config.eval_temperature, max_new_tokens=config.max_new_tokens, seed=seed)


def reward_evaluator(parts: RunParts) -> RewardEvaluator:
    """The evaluator of the policy objectives; its loss is the negative reward."""
    return RewardEvaluator(parts, Rewards(parts.objective.config.rewards, parts.scorer))
