"""Adapters between models and generation: encoder-decoders as decoders, prompts as batches, evaluation mode."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from minillm.models.t5 import T5
from minillm.nn.cache import KVCache


class ConditionedDecoder(nn.Module):
    """The decoder of an encoder-decoder, conditioned on sources that were encoded once.

        generate(ConditionedDecoder(model, sources), [[start_id]] * len(sources), config)

    Each batch has the same number of adjacent rows for each source, in the order of the sources.
    """

    @torch.inference_mode()
    def __init__(self, model: T5, sources: Sequence[Sequence[int]]) -> None:
        """Encode the sources; ValueError unless each has 1 to max_seq_len ids."""
        super().__init__()
        self.model, self.config, self.draft_cost = model, model.config, model.draft_cost
        self.train(model.training)
        rows = [checked_prompt(source, None, model.config.vocab_size) for source in sources]
        if not rows:
            raise ValueError("there are no sources; give at least one")
        tokens, self.encoder_valid = padded(rows, side="right", device=next(model.parameters()).device)
        with evaluating(model):
            self.encoder_output = model.encode(tokens, key_valid=self.encoder_valid)  # (N, S, D)

    def start(
        self, tokens: Tensor, *, max_len: int, key_valid: Tensor | None = None, prefix_length: Tensor | None = None
    ) -> tuple[KVCache, Tensor]:
        """As `GPT.start`; (B, T) are the first tokens of each target, B a multiple of the number of sources."""
        if prefix_length is not None:
            raise ValueError("an encoder-decoder always reads its source in both directions; leave out prefix")
        copies, rest = divmod(tokens.size(0), self.encoder_output.size(0))
        if rest or not copies:
            raise ValueError(
                f"{tokens.size(0)} targets do not fit {self.encoder_output.size(0)} sources; give one prompt per source"
            )
        output, valid = self.encoder_output, self.encoder_valid
        if copies > 1:
            output = output.repeat_interleave(copies, 0)
            valid = None if valid is None else valid.repeat_interleave(copies, 0)
        return self.model.start(
            tokens, encoder_output=output, encoder_valid=valid, max_len=max_len, key_valid=key_valid
        )

    def step(self, tokens: Tensor, cache: KVCache) -> Tensor:
        return self.model.step(tokens, cache)


class Decodable(Protocol):
    """A model that generates tokens one by one: a GPT, a ConditionedDecoder, or a FastDecoder."""

    training: bool

    @property
    def draft_cost(self) -> float:
        """Cost of reading one more token in a step, as a fraction of the step."""
        ...

    @property
    def config(self) -> Any:
        """The model's ModelConfig."""
        ...

    def start(
        self, tokens: Tensor, *, max_len: int, key_valid: Tensor | None = None, prefix_length: Tensor | None = None
    ) -> tuple[Any, Tensor]:
        """As `GPT.start`."""
        ...

    def step(self, tokens: Tensor, cache: Any) -> Tensor:
        """As `GPT.step`."""
        ...

    def train(self, mode: bool = True) -> Any:
        """As `nn.Module.train`."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """As `nn.Module.parameters`."""
        ...


EndIds = int | Sequence[int] | None
"""The id or ids that end a row; None: no id."""


def end_ids(eos_id: EndIds) -> tuple[int, ...]:
    """The ids that end a row."""
    if eos_id is None:
        return ()
    return (eos_id,) if isinstance(eos_id, int) else tuple(eos_id)


def checked_prompt(prompt: Sequence[int], eos_id: EndIds, vocab_size: int | None) -> tuple[int, ...]:
    """The ids of the prompt, or the first EOS if it is empty; ValueError for ids outside the vocabulary."""
    ids = tuple(int(i) for i in prompt) or end_ids(eos_id)[:1]
    if not ids:
        raise ValueError("the prompt is empty and there is no EOS to start from; give at least one token")
    if vocab_size is not None and not 0 <= min(ids) <= max(ids) < vocab_size:
        wrong = next(i for i in ids if not 0 <= i < vocab_size)
        raise ValueError(
            f"prompt token {wrong} is outside the model's vocabulary of {vocab_size}; use the model's own tokenizer"
        )
    return ids


def padded(
    rows: Sequence[Sequence[int]], *, side: Literal["left", "right"], device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Rows of ids as one (B, T) tensor; and (B, T) bool, False for padding, or None if no row is padded."""
    lengths = torch.tensor([[len(row)] for row in rows])  # (B, 1)
    width = int(lengths.max())
    pads = [[0] * (width - len(row)) for row in rows]
    filled = [pad + list(row) if side == "left" else list(row) + pad for pad, row in zip(pads, rows, strict=True)]
    ids = torch.tensor(filled).to(device)  # (B, T)
    if (lengths == width).all():
        return ids, None
    at = torch.arange(width)
    return ids, (at >= width - lengths if side == "left" else at < lengths).to(device)


@contextmanager
def evaluating(model: nn.Module | Decodable) -> Iterator[None]:
    """Context in which the model is in evaluation mode; its mode is restored afterwards."""
    training = model.training
    model.train(False)
    try:
        yield
    finally:
        model.train(training)
