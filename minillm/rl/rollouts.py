"""Rollouts: training batches that the model samples itself, a source of batches like any other.

The batches of a step are a function of (seed, step, weights). A rollout samples `num_generations` completions of each
prompt, scores them, and serves `num_updates` steps; a checkpoint in between holds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minillm.data.datasets.prompts import PromptIds
from minillm.data.loader import Loader
from minillm.data.prefetch import SourceError
from minillm.evaluation.evaluator import RunParts
from minillm.generation.adapters import evaluating
from minillm.generation.config import SampleConfig
from minillm.objectives.base import Batch
from minillm.objectives.policy import Trajectory
from minillm.rl.completions import Written, write
from minillm.rl.frozen import Reference
from minillm.rl.rewards import Judged, RewardError, Rewards

ROLLOUT = 3
"""Fourth word of the seed of a rollout; data/loader.py has others."""


class RolloutSource:
    """A BatchSource whose examples are completions sampled from the model that it trains."""

    def __init__(self, parts: RunParts) -> None:
        objective, train, world = parts.objective, parts.recipe.train, parts.runtime.world_size
        self.parts, self.config, self.model = parts, objective.config, parts.model
        size = self.config.num_generations
        if train.global_batch % (size * world):
            raise ValueError(
                f"train.global_batch is {train.global_batch} completions; it must be a multiple of "
                f"{size * world}, objective.num_generations times the number of processes"
            )
        prompts = train.global_batch // size
        self.prompts: Loader[list[PromptIds]] = Loader(
            parts.examples,
            lambda rows, rng: list(rows),
            seed=train.seed,
            global_batch=prompts,
            micro_batch=prompts,
            rank=parts.runtime.rank,
            world_size=world,
        )
        self.micro_batch = train.micro_batch or train.global_batch // world
        self.rewards = Rewards(self.config.rewards, parts.scorer)
        self.reference = Reference(parts) if self.config.kl else None
        self._rows: tuple[int, list[Trajectory]] | None = None  # the number of a rollout, and all its rows

    def batches(self, step: int) -> list[Batch]:
        """This rank's micro-batches; SourceError if a reward fails, on every rank."""
        number, update = divmod(step, self.config.num_updates)
        if self._rows is None or self._rows[0] != number:
            if update:
                raise ValueError(f"the checkpoint of step {step} lacks its rollout: resume from an earlier one")
            if self.reference is not None:
                self.reference.freeze(started=step > 0)
            self._rows = number, self._roll_out(number)
        made = self._collate(self._share(self._rows[1]))
        for batch in () if update else made:
            batch.labels.pop("old", None)  # the weights are those of the rollout: the ratio is exactly 1
        return made

    def _roll_out(self, number: int) -> list[Trajectory]:
        """All rows of a rollout, on every rank."""
        (prompts,) = self.prompts.batches(number)
        rows: list[Trajectory] = []
        problem: list[str] = []
        try:
            rows = self._sample(prompts, number)
        except RewardError as error:
            problem = [str(error)]
        if problems := self.parts.runtime.gather(problem):
            raise SourceError(f"rollout {number}: {problems[0]}")
        finished = self.parts.objective.finish(self.parts.runtime.gather(rows))
        return sorted(finished, key=lambda row: len(row.prompt) + len(row.completion))

    def _sample(self, prompts: Sequence[PromptIds], number: int) -> list[Trajectory]:
        """This rank's completions with rewards, and what the estimate of advantages needs."""
        config, size = self.config, self.config.num_generations
        seed = int(np.random.SeedSequence([self.prompts.seed, number, 0, ROLLOUT]).generate_state(1)[0])
        first = self.prompts.local.start * size  # numbers of rows over all ranks
        repeated = [row for row in prompts for _ in range(size)]
        sampling = SampleConfig(temperature=config.temperature, max_new_tokens=config.max_new_tokens, seed=seed)
        completions = complete_ids(self.parts, repeated, sampling, samples=range(first, first + len(repeated)))
        texts = [self.parts.tokenizer.decode(completion.ids) for completion in completions]
        judged = [Judged(row.text, text, row.fields, row.where) for row, text in zip(repeated, texts, strict=True)]
        totals, terms = self.rewards(judged)
        rows = [
            Trajectory(
                row.ids,
                c.whole,
                group=(first + i) // size,
                truncated=c.truncated,
                reward=totals[i],
                figures=terms[i],
            )
            for i, (row, c) in enumerate(zip(repeated, completions, strict=True))
        ]
        return self._with_log_probs(rows)

    def _with_log_probs(self, rows: list[Trajectory]) -> list[Trajectory]:
        """Add the log-probabilities and values that the loss compares with, as far as it does."""
        config, wanted = self.config, dict[str, str]()
        if config.num_updates > 1 or config.penalizes:
            wanted["old"] = "log_prob"
        if "value" in self.parts.objective.heads:
            wanted["value"] = "value"
        found: list[dict[str, np.ndarray]] = [{} for _ in rows]
        if wanted:
            self._read(self.model, rows, wanted, found)
        if self.reference is not None:
            with self.reference as model:
                self._read(model, rows, {"reference": "log_prob"}, found)
        return [replace(row, tokens=tokens) for row, tokens in zip(rows, found, strict=True)]

    @torch.no_grad()
    def _read(
        self, model: Any, rows: list[Trajectory], names: dict[str, str], found: list[dict[str, np.ndarray]]
    ) -> None:
        """Add to `found`, for each row, (T,) what the objective reads from the output; names: new name -> its name."""
        objective, device, compute = self.parts.objective, self.parts.compute.device, self.parts.compute
        at = 0
        for batch in self._collate(rows):
            batch = batch.to(device)
            with evaluating(model), compute.autocast():
                output = model(**batch.inputs)
            read = {
                new: objective.read(output, batch.labels)[name].float().cpu().numpy() for new, name in names.items()
            }
            for i in range(len(batch.labels["ids"])):
                found[at] |= {name: values[i, : len(rows[at].completion)] for name, values in read.items()}
                at += 1

    def _share(self, rows: list[Trajectory]) -> list[Trajectory]:
        """This rank's rows of all."""
        size = len(rows) // self.parts.runtime.world_size
        return rows[self.parts.runtime.rank * size :][:size]

    def _collate(self, rows: list[Trajectory]) -> list[Batch]:
        parts = (rows[i : i + self.micro_batch] for i in range(0, len(rows), self.micro_batch))
        return [self.parts.objective.collate(part, np.random.default_rng) for part in parts]

    def describe(self, step: int) -> str:
        return f"completions of {self.prompts.describe(step // self.config.num_updates)}"

    def examples_before(self, step: int) -> int:
        """Prompts, those of a rollout that is in use included."""
        return self.prompts.examples_before(-(-step // self.config.num_updates))

    def go_on(self, step: int, examples: int) -> None:
        self._rows = None
        self.prompts.go_on(-(-step // self.config.num_updates), examples)

    def state_dict(self) -> dict[str, Tensor]:
        """The rollout in use; empty if each step has its own, which the same weights sample again."""
        return {} if self._rows is None or self.config.num_updates == 1 else rows_to_tensors(*self._rows)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._rows = rows_from_tensors(state) if state else None

    def close(self) -> None: ...

    def halve_micro_batch(self) -> int | None:
        half = min(self.micro_batch, self.parts.recipe.train.global_batch // self.parts.runtime.world_size) // 2
        self.micro_batch = half or self.micro_batch
        return half or None


def complete_ids(
    parts: RunParts, prompts: Sequence[PromptIds], sampling: SampleConfig, *, samples: Sequence[int]
) -> list[Written]:
    """One completion of each prompt from the distribution of the objective; `samples` are as in `generate`."""
    ids, objective = [prompt.ids.tolist() for prompt in prompts], parts.objective
    options: dict[str, Any] = {"end_ids": objective.end_ids, "forbidden": objective.forbidden, "samples": samples}
    with parts.compute.autocast():
        return write(parts.model, ids, sampling, **options)


_IDS = ("prompt", "completion")


def rows_to_tensors(number: int, rows: Sequence[Trajectory]) -> dict[str, Tensor]:
    """A rollout as tensors: rows of different lengths one after the other, with their lengths."""
    packed = {"number": torch.tensor(number)}
    for name in _IDS:
        values = [getattr(row, name) for row in rows]
        packed[name] = torch.from_numpy(np.concatenate(values))
        packed[f"{name}_length"] = torch.tensor([len(value) for value in values])
    packed["group"] = torch.tensor([row.group for row in rows])
    packed["truncated"] = torch.tensor([row.truncated for row in rows])
    packed["reward"] = torch.tensor([row.reward for row in rows], dtype=torch.float64)
    for name in rows[0].figures:
        packed[f"figures.{name}"] = torch.tensor([row.figures[name] for row in rows], dtype=torch.float64)
    for name in rows[0].tokens:
        packed[f"tokens.{name}"] = torch.from_numpy(np.concatenate([row.tokens[name] for row in rows]))
    return packed


def rows_from_tensors(packed: dict[str, Tensor]) -> tuple[int, list[Trajectory]]:
    """The inverse of `rows_to_tensors`."""
    ends = {name: packed[f"{name}_length"].cumsum(0).tolist()[:-1] for name in _IDS}
    prompts, completions = (np.split(packed[name].numpy(), ends[name]) for name in _IDS)
    part = {name: value for name, value in packed.items() if name.startswith(("figures.", "tokens."))}
    figures = {k.partition(".")[2]: v.tolist() for k, v in part.items() if k.startswith("figures.")}
    tokens = {k.partition(".")[2]: np.split(v.numpy(), ends["completion"]) for k, v in part.items() if "tokens." in k}
    groups, truncated, rewards = (packed[name].tolist() for name in ("group", "truncated", "reward"))
    rows = [
        Trajectory(
            prompts[i],
            completions[i],
            groups[i],
            truncated[i],
            rewards[i],
            {name: values[i] for name, values in figures.items()},
            {name: values[i] for name, values in tokens.items()},
        )
        for i in range(len(prompts))
    ]
    return int(packed["number"]), rows


def build_rollouts(parts: RunParts) -> RolloutSource:
    """The source of batches of the policy objectives."""
    return RolloutSource(parts)
