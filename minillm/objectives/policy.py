"""Policy gradients with a clipped ratio: GRPO (Shao et al. 2024), RLOO as one of its settings, and PPO.

The loss of a token is -min(ρ A, clip(ρ, 1 - ε, 1 + ε) A) with ρ = π(token) / π_rollout(token) (Schulman et al. 2017,
eq. 7). GRPO takes the same advantage A for all tokens of a completion, from the rewards of the group that continues the
same prompt. PPO estimates it for each token with a value head.

π is the distribution that rollouts are sampled from, temperature and forbidden ids included. So there is no top-k or
top-p here: a token that they had removed would have no probability.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from minillm.data.config import DataConfig
from minillm.data.datasets.prompts import PromptIds, Prompts
from minillm.nn.output import Output
from minillm.objectives.advantages import KL, Trajectory, all_equal, group_estimate, value_estimate
from minillm.objectives.base import IGNORE_INDEX, Batch, Decode, RowRNG, Score, Setup
from minillm.objectives.layout import pad
from minillm.objectives.policy_config import GRPOConfig, PPOConfig
from minillm.tokenizers.chat_template import ChatTemplate

FIGURE = "figure "
"""Begins the names of labels that are only averaged for metrics.jsonl."""


@dataclass(frozen=True)
class Policy:
    """The policy objective; `config` chooses its terms."""

    config: Any
    """GRPOConfig or PPOConfig."""
    pad_id: int
    end_ids: tuple[int, ...]
    """Ids that end a completion: first the end of a turn, if there is a chat template, then the tokenizer's EOS ids."""
    forbidden: tuple[int, ...]
    """Ids that are never sampled."""
    estimate: Callable[[Sequence[Trajectory], Any], list[dict[str, np.ndarray]]]
    """Trajectories of a whole rollout, config -> for each, (T,) `advantage` and, with a value head, `return`."""
    heads: tuple[str, ...] = ("lm",)
    template: ChatTemplate | None = None
    """The tokenizer's chat template, for previews."""
    max_len: int = 0
    """Maximum tokens of a row; up to it, rows are padded to a multiple of 8. 0: to the longest one."""

    covers_text: ClassVar[bool] = False
    primary: ClassVar[str] = "reward"
    prefix_prompts: ClassVar[bool] = False
    unit: ClassVar[str] = "tokens"

    @property
    def targets(self) -> dict[str, str]:
        return {"policy": "lm", "value": "value"} if "value" in self.heads else {"policy": "lm"}

    def examples(self, tokens: Prompts, data: DataConfig, length: int, *, training: bool) -> Prompts:
        """The prompts unchanged; ValueError for one that leaves too little room for its completions."""
        for row in tokens.rows:
            needed = len(row.ids) + self.config.max_new_tokens
            if needed > length or not len(row.ids):
                raise ValueError(
                    f"{row.where} has {len(row.ids)} tokens, {needed} with objective.max_new_tokens, but the model "
                    f"reads 1 to {length}: shorten the prompt or lower objective.max_new_tokens"
                )
        return tokens

    def collate(self, examples: Sequence[Trajectory], rng: RowRNG) -> Batch:
        """Trajectories -> tokens (B, S + T - 1), predict_at (B, T), and labels (B, T) or, for figures, (B).

        Padding is at the end, where no real token attends to it.
        """
        texts = [np.concatenate((row.prompt, row.completion))[:-1] for row in examples]
        ids, _ = pad(texts, self.pad_id, round_below=self.max_len)
        labels = {"ids": pad([row.completion for row in examples], IGNORE_INDEX, round_below=self.max_len)[0]}
        real = labels["ids"] != IGNORE_INDEX
        starts = torch.tensor([len(row.prompt) - 1 for row in examples])[:, None]
        labels["at"] = at = (starts + torch.arange(real.size(1))).clamp(max=ids.size(1) - 1)  # (B, T)
        for name in examples[0].tokens:
            labels[name] = torch.zeros(real.shape)
            labels[name][real] = torch.from_numpy(np.concatenate([row.tokens[name] for row in examples])).float()
        for name in examples[0].figures:
            labels[FIGURE + name] = torch.tensor([row.figures[name] for row in examples], dtype=torch.float32)
        kept = torch.tensor([not (self.config.mask_truncated and row.truncated) for row in examples])
        labels["weight"] = self._weights(real) * kept[:, None]
        num_targets = int((real & kept[:, None]).sum())
        counts = {"policy": num_targets if self.config.length_divisor == "tokens" else int(kept.sum())}
        counts |= {"value": num_targets} if "value" in self.heads else {}
        return Batch(
            {"tokens": ids, "predict_at": at}, labels, counts, sum(len(r.prompt) for r in examples) + int(real.sum())
        )

    def _weights(self, real: Tensor) -> Tensor:
        """(B, T) weights of the tokens' losses, whose sum over a batch is divided by its number of completions, or of
        tokens; `real` (B, T) is False for padding.
        """
        match self.config.length_divisor:
            case "completion":
                return real / real.sum(1, keepdim=True).clamp(min=1)
            case "constant":
                return real / self.config.max_new_tokens
            case _:
                return real.float()

    def log_distribution(self, output: Output) -> Tensor:
        """(B, T, V) fp32 log-probabilities of the sampling distribution, -inf for forbidden ids."""
        logits = output.logits["lm"].float() / self.config.temperature
        if self.forbidden:
            logits = logits.index_fill(-1, torch.tensor(self.forbidden, device=logits.device), -math.inf)
        return logits.log_softmax(-1)

    def read(self, output: Output, labels: dict[str, Tensor]) -> dict[str, Tensor]:
        """(B, T) each: "log_prob" of the completions' tokens, 0 for padding; "entropy" of their distributions; with a
        value head, "value" of the states before them.
        """
        log_probs, padding = self.log_distribution(output), labels["ids"] == IGNORE_INDEX
        log_prob = log_probs.gather(-1, labels["ids"].clamp(min=0)[..., None])[..., 0]
        found = {"log_prob": log_prob.masked_fill(padding, 0.0)}  # id 0 may be forbidden, and -inf times 0 is NaN
        with torch.no_grad():
            found["entropy"] = torch.special.entr(log_probs.exp()).sum(-1)
        if "value" in self.heads:
            found["value"] = output.logits["value"][..., 0].float().gather(1, labels["at"])
        return found

    def loss(self, output: Output, labels: dict[str, Tensor], *, training: bool) -> dict[str, Score]:
        """The clipped loss, with the KL divergence if it is part of the loss; and that of the values.

        Without label "old" the rollout is from these weights, so the ratio is 1.
        """
        config, now, weight = self.config, self.read(output, labels), labels["weight"]
        real, log_prob = labels["ids"] != IGNORE_INDEX, now["log_prob"]
        ratio = (log_prob - labels.get("old", log_prob.detach())).exp()
        advantage, clipped = labels["advantage"], ratio.clamp(1 - config.clip, 1 + config.clip)
        loss = -torch.minimum(ratio * advantage, clipped * advantage)
        figures, kl = {"entropy": now["entropy"], "clipped": (clipped * advantage < ratio * advantage).float()}, None
        if "reference" in labels:
            log_ratio = labels["reference"] - log_prob
            kl = (KL["k3"](log_ratio) * real).sum(1)  # (B) of a completion
            if config.kl_in == "loss":
                loss = loss + config.kl * KL[config.kl_estimator](log_ratio)
        named = {name: _average(figure, real) for name, figure in figures.items()}
        named |= {} if kl is None else {"kl": _average(kl)}
        named |= {k.removeprefix(FIGURE): _average(x) for k, x in labels.items() if k.startswith(FIGURE)}
        scores = {"policy": Score((loss * weight).sum(), figures=named)}
        if "value" in self.heads:
            scores["value"] = self._value_score(now["value"], labels)
        return scores

    def _value_score(self, value: Tensor, labels: dict[str, Tensor]) -> Score:
        """Half the squared error of the values, pessimistic about changes beyond `value_clip` (Ouyang et al. 2022)."""
        near = labels["value"] + (value - labels["value"]).clamp(-self.config.value_clip, self.config.value_clip)
        error = torch.maximum((value - labels["return"]).square(), (near - labels["return"]).square()) / 2
        counted = labels["weight"] > 0
        return Score(
            self.config.value_coef * (error * counted).sum(), figures={"value_error": _average(error, counted)}
        )

    def finish(self, rows: Sequence[Trajectory]) -> list[Trajectory]:
        """The trajectories of a whole rollout, with advantages and figures."""
        estimated = self.estimate(rows, self.config)
        groups, rewards = np.array([row.group for row in rows]), np.array([row.reward for row in rows])
        equal = {group: float(all_equal(rewards[groups == group])) for group in set(groups.tolist())}
        finished = []
        for row, tokens in zip(rows, estimated, strict=True):
            figures = {**row.figures, "reward": row.reward, "truncated": float(row.truncated)}
            figures["length"] = float(len(row.completion))
            if self.config.num_generations > 1:
                figures["groups_without_difference"] = equal[row.group]
            finished.append(replace(row, figures=figures, tokens={**row.tokens, **tokens}))
        return finished

    def measure(self, output: Output, batch: Batch) -> np.ndarray | None:
        return None

    def figures(self, measured: np.ndarray) -> dict[str, float]:
        return {}

    def prompt(self, example: PromptIds, decode: Decode) -> str:
        return example.text

    def encode_prompt(self, prompt: str) -> str | list[int]:
        return self.template.prompt_ids([{"role": "user", "content": prompt}]) if self.template else prompt

    @property
    def stop_id(self) -> int | None:
        return self.end_ids[0]

    def describe_cuts(self, tokens: Any) -> list[str]:
        return []


def _average(figure: Tensor, real: Tensor | None = None) -> Tensor:
    """(2,) sum and number of the terms, those where `real` is True."""
    figure = figure.detach().double()
    number = torch.tensor(figure.numel()) if real is None else real.sum()
    total = figure.sum() if real is None else figure.masked_fill(~real, 0.0).sum()
    return torch.stack((total, number.to(total)))


def build(config: GRPOConfig, setup: Setup) -> Policy:
    """GRPO for GPT."""
    return _build(config, setup, group_estimate, ("lm",))


def build_ppo(config: PPOConfig, setup: Setup) -> Policy:
    """PPO for GPT."""
    return _build(config, setup, value_estimate, ("lm", "value"))


def _build(config: Any, setup: Setup, estimate: Callable[..., Any], heads: tuple[str, ...]) -> Policy:
    """ValueError for dropout, with which the ratio to the rollout would not be 1 before the first update."""
    model, tokenizer = setup.model, setup.tokenizer
    if max(model.dropout, model.attention_drop, model.ff_drop):
        raise ValueError(
            f"objective {config.name} needs a model without dropout: set model.dropout, model.attention_dropout and "
            "model.ff_dropout to 0"
        )
    size = model.vocab_size or tokenizer.vocab_size
    template = None if tokenizer.chat_template is None else ChatTemplate(tokenizer)
    end_ids = tuple(dict.fromkeys((*(() if template is None else (template.stop_id,)), *tokenizer.eos_ids)))
    written = np.zeros(size, bool)
    written[: tokenizer.vocab_size] = np.asarray(tokenizer.num_bytes) > 0
    written[list(end_ids)] = True
    forbidden = tuple(np.flatnonzero(~written).tolist())
    return Policy(config, tokenizer.pad_id, end_ids, forbidden, estimate, heads, template, setup.seq_len)
