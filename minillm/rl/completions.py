"""Completions as a policy is trained on them: all sampled ids, including the one that ended the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from minillm.generation.config import SampleConfig
from minillm.generation.generate import generate


class Written(NamedTuple):
    """One completion."""

    ids: list[int]
    """Sampled ids without the one that ended the text."""
    end: tuple[int, ...]
    """The id that ended the text; empty if the maximum length did."""

    @property
    def whole(self) -> np.ndarray:
        """(T,) int64, all sampled ids."""
        return np.array([*self.ids, *self.end], np.int64)

    @property
    def truncated(self) -> bool:
        """Whether the maximum length ended the text."""
        return not self.end


def write(
    model: Any,
    prompts: Sequence[Sequence[int]],
    config: SampleConfig,
    *,
    end_ids: Sequence[int],
    forbidden: Sequence[int],
    samples: Sequence[int],
) -> list[Written]:
    """One completion of each prompt.

    Args:
        end_ids: ids that end a text. A model may have several, such as EOS and the end of a turn.
        forbidden: ids that are never sampled.
        samples: as in `generate`, which raises the same errors.
    """
    allowed = torch.ones(model.config.vocab_size, dtype=torch.bool)
    allowed[list(forbidden)] = False
    # With on_token, the id that ends a row is among its ids, as training needs it; with eos_id it would be left out.
    options: dict[str, Any] = {"allowed": allowed, "samples": samples, "on_token": lambda _, token: token in end_ids}
    found = [completion.ids for completion in generate(model, prompts, config, **options)]
    return [Written(ids[:-1], (ids[-1],)) if ids and ids[-1] in end_ids else Written(ids, ()) for ids in found]
