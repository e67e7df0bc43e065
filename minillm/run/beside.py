"""How far a model has moved from another one, measured on its own completions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from minillm.generation.adapters import evaluating
from minillm.generation.config import SampleConfig
from minillm.objectives.advantages import Trajectory, group_estimate
from minillm.objectives.policy import Policy
from minillm.objectives.policy_config import GRPOConfig
from minillm.rl.completions import write
from minillm.run.inference import LoadedRun, loaded_run

BATCH = 64


class Sampled(NamedTuple):
    """Completions of prompts, one of each."""

    texts: list[str]
    """Each prompt followed by its completion."""
    kl: float
    """Mean over the completions of log π(completion) - log reference(completion), in nats: an unbiased estimate of
    KL(π || reference) (k1; Schulman 2020)."""


@torch.inference_mode()
def sample_beside(
    run: LoadedRun | Path | str,
    reference: LoadedRun | Path | str,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    seed: int,
) -> Sampled:
    """Complete each prompt with the model of `run` and compare its log-probabilities with those of `reference`.

    The estimate is unbiased only for completions at temperature 1 without top-k or top-p, so these are not arguments.

    Args:
        run: a GPT.
        reference: a GPT with the same tokenizer.
        prompts: at least one; an empty prompt starts a document.
        max_new_tokens: maximum length of a completion in tokens.
        seed: of the random numbers; each prompt has its own.
    Raises:
        ValueError: there are no prompts, or the runs have different tokenizers.
    """
    if not prompts:
        raise ValueError("the divergence is a mean over completions; give at least one prompt")
    policy, other = loaded_run(run), loaded_run(reference)
    tokenizer = policy.tokenizer
    if other.tokenizer.hash != tokenizer.hash:
        raise ValueError(f"{policy.folder} and {other.folder} have different tokenizers: compare models that share one")
    allowed = torch.zeros(policy.model.config.vocab_size, dtype=torch.bool)
    allowed[: tokenizer.vocab_size] = torch.from_numpy(np.asarray(tokenizer.num_bytes) > 0)
    allowed[list(tokenizer.eos_ids)] = True
    forbidden = tuple(torch.nonzero(~allowed).flatten().tolist())
    ids = [[*tokenizer.prefix_ids, *tokenizer.encode(prompt).tolist()] or [tokenizer.eos_id] for prompt in prompts]
    sampling = SampleConfig(temperature=1.0, max_new_tokens=max_new_tokens, seed=seed)
    options: dict[str, Any] = {"end_ids": tokenizer.eos_ids, "forbidden": forbidden, "samples": range(len(ids))}
    found = write(policy.model, ids, sampling, **options)
    rows = [
        Trajectory(np.array(prompt), c.whole, group=0, truncated=c.truncated)
        for prompt, c in zip(ids, found, strict=True)
    ]
    objective = Policy(GRPOConfig(), tokenizer.pad_id, tokenizer.eos_ids, forbidden, group_estimate)
    total = 0.0
    for first in range(0, len(rows), BATCH):
        batch = objective.collate(rows[first : first + BATCH], np.random.default_rng).to(policy.compute.device)
        sums = []
        for loaded in (policy, other):
            with evaluating(loaded.model):
                read = objective.read(loaded.model(**batch.inputs), batch.labels)["log_prob"].double()
            sums.append(read.masked_fill(batch.labels["weight"] == 0, 0.0).sum().item())
        total += sums[0] - sums[1]
    texts = [prompt + tokenizer.decode(c.ids) for prompt, c in zip(prompts, found, strict=True)]
    return Sampled(texts, total / len(rows))
