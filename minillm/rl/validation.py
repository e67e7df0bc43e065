"""Evaluation of a policy: the rewards of its completions of held-out prompts."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from torch import nn

from minillm.data.prefetch import SourceError
from minillm.evaluation.evaluator import RunParts
from minillm.generation.config import SampleConfig
from minillm.rl.rewards import Judged, RewardError, Rewards
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
        config, gather = self.parts.objective.config, self.parts.runtime.gather
        judged, lines = self._completions(1, config.eval_temperature)
        every = gather(lines)
        measured = {name: fmean(line[name] for line in every) for name in every[0]}
        if config.eval_samples > 1:
            rewards = [line["reward"] for line in gather(self._completions(config.eval_samples, config.temperature)[1])]
            groups = [rewards[i : i + config.eval_samples] for i in range(0, len(rewards), config.eval_samples)]
            measured["sampled_reward"] = fmean(rewards)
            measured[f"best_of_{config.eval_samples}"] = fmean(map(max, groups))
        shown = [
            {"prompt": row.prompt, "completion": row.completion, "reward": line["reward"]}
            for row, line in zip(judged[:SHOWN], lines, strict=False)
        ]
        sums, counts = {"reward": -measured["reward"] * len(every)}, {"reward": len(every)}
        return Evaluation(sums, counts, {}, primary="reward", task=measured, samples=tuple(shown))

    def _completions(self, copies: int, temperature: float) -> tuple[list[Judged], list[dict[str, float]]]:
        """This rank's completions, `copies` of each prompt, and their figures."""
        parts, config, settings = self.parts, self.parts.objective.config, self.parts.recipe.eval
        limit = settings.max_tokens // parts.examples.seq_len
        total = min(len(parts.examples), max(1, limit)) if settings.max_tokens else len(parts.examples)
        numbers = [n for n in range(parts.runtime.rank, total, parts.runtime.world_size) for _ in range(copies)]
        sampling = SampleConfig(
            temperature=temperature, max_new_tokens=config.max_new_tokens, seed=parts.recipe.train.seed
        )
        judged: list[Judged] = []
        figures: list[dict[str, float]] = []
        for first in range(0, len(numbers), settings.batch):
            some = numbers[first : first + settings.batch]
            rows = [parts.examples.row(n) for n in some]
            samples = [n * copies + (first + i) % copies for i, n in enumerate(some)]
            completions = complete_ids(parts, rows, sampling, samples=samples)
            texts = [parts.tokenizer.decode(completion.ids) for completion in completions]
            judged += [Judged(row.text, text, row.fields, row.where) for row, text in zip(rows, texts, strict=True)]
            figures += [{"length": len(c.ids), "truncated": float(c.truncated)} for c in completions]
        totals, terms, problem = list[float](), list[dict[str, float]](), list[str]()
        try:
            totals, terms = self.rewards(judged) if judged else ([], [])
        except RewardError as error:
            problem = [str(error)]
        if problems := parts.runtime.gather(problem):
            raise SourceError(problems[0])
        return judged, [{"reward": t} | term | f for t, term, f in zip(totals, terms, figures, strict=True)]


def reward_evaluator(parts: RunParts) -> RewardEvaluator:
    """The evaluator of the policy objectives; its loss is the negative reward."""
    return RewardEvaluator(parts, Rewards(parts.objective.config.rewards, parts.scorer))
