"""Autoregressive generation of token ids: prefill, then one cached step a token, for a batch of ragged prompts.

Past the context window the oldest tokens fall out, first in, first out. A key computed with a token in view keeps a
trace of it in every layer above the first, so dropping columns from the cache would give logits that no uncached run
gives. Instead the cache is refilled from the tokens that stay, and `window_start` says exactly which those are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from minillm.generation.config import SampleConfig
from minillm.generation.network import Network, evaluating
from minillm.generation.prefixed import Prefixed
from minillm.generation.prompt_lookup import PromptLookup
from minillm.generation.sampling import Sampler
from minillm.nn.cache import KVCache

OnToken = Callable[[int, int], bool]
"""Called with (row, id) for each generated id but EOS; True ends the row."""


class Decodable(Network, Protocol):
    """A model that can continue tokens one by one.

    GPT is one, which `Prefixed` lets read its prompt in both directions; T5 is one once it is `Conditioned` on sources.
    """

    def start(self, tokens: Tensor, *, max_len: int, key_valid: Tensor | None = None) -> tuple[KVCache, Tensor]:
        """Read (B, T) tokens, padded on the left where (B, T) `key_valid` is False: a cache, and (B, V) next logits."""
        ...

    def step(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Read tokens (B, T) more of each row: (B, T, V) logits after each."""
        ...


@dataclass
class Completion:
    """One continuation of one prompt."""

    prompt_ids: tuple[int, ...]
    """What was continued, in ids."""
    sample: int
    """Number of this completion among those of its prompt, from 0."""
    ids: list[int] = field(default_factory=list)
    """Generated ids, those of a stop string included, EOS not."""
    finish_reason: Literal["eos", "stop", "length"] = "length"
    """Ended by the model, by a stop string (`on_token`), or by max_new_tokens."""
    text: str = ""
    """The generated text up to a stop string; empty where only ids were asked for."""
    score: float | None = None
    """Log-probability over the length penalty, where beam search chose; None where ids were sampled."""


def window_start(length: int, context: int) -> int:
    """Index of the oldest token that the model still sees of a text of `length` tokens.

    While the text fits into the context that is 0. Then the oldest quarter of a context falls out whenever the text
    outgrows it: between 3/4 and all of the newest `context` tokens are in view, and a refill of the cache, about 3/4
    of a context to read, serves a quarter of a context of new tokens.

    The window depends on the text's own length alone, so that a row of a batch sees what it would see by itself.
    """
    drop = max(1, context // 4)
    excess = max(0, length - context)
    return drop * -(-excess // drop)


@torch.inference_mode()
def generate(
    model: Decodable,
    prompts: Sequence[Sequence[int]],
    config: SampleConfig,
    *,
    eos_id: int | None = None,
    allowed: Tensor | None = None,
    on_token: OnToken | None = None,
) -> list[Completion]:
    """Continue each prompt `config.num_samples` times, all rows in one batch.

    A row's ids depend on its prompt, its sample number and `config` alone, not on the other rows. Reading the chosen
    ids back to the host (B numbers, once a step) is the only synchronisation with an accelerator.

    Args:
        model: put into evaluation mode meanwhile.
        prompts: ids, of any lengths; an empty prompt starts a document, that is, continues EOS.
        config: how to choose and when to end.
        eos_id: the id that ends a row; None: none does.
        allowed: (V,) bool, False = never chosen; None: every id may be.
        on_token: sees each id as it comes and may end the row.
    Returns:
        Completions, the samples of a prompt side by side: row = prompt number * num_samples + sample number.
    Raises:
        ValueError: an empty prompt without `eos_id`, an id outside the vocabulary, or logits that are not finite.
    """
    completions = [
        Completion(checked_prompt(prompt, eos_id, model.config.vocab_size), sample)
        for prompt in prompts
        for sample in range(config.num_samples)
    ]
    if completions and config.max_new_tokens:
        with evaluating(model):
            _decode(model, completions, config, eos_id, allowed, on_token)
    return completions


def checked_prompt(prompt: Sequence[int], eos_id: int | None, vocab_size: int | None) -> tuple[int, ...]:
    """The prompt's ids, EOS where there are none; ValueError where the model cannot read them."""
    ids = tuple(int(i) for i in prompt) or (() if eos_id is None else (eos_id,))
    if not ids:
        raise ValueError("the prompt is empty and there is no EOS to start from; give at least one token")
    if vocab_size is not None and not 0 <= min(ids) <= max(ids) < vocab_size:
        wrong = next(i for i in ids if not 0 <= i < vocab_size)
        raise ValueError(
            f"prompt token {wrong} is outside the model's vocabulary of {vocab_size}; use the model's own tokenizer"
        )
    return ids


def _decode(
    model: Decodable,
    rows: list[Completion],
    config: SampleConfig,
    eos_id: int | None,
    allowed: Tensor | None,
    on_token: OnToken | None,
) -> None:
    """Fill in the rows' ids and finish reasons."""
    texts = [list(row.prompt_ids) for row in rows]  # prompt and continuation
    live = dict(enumerate(rows))
    cache, logits = prefill(model, texts, config.max_new_tokens)
    require_finite(logits)
    sampler = Sampler(
        config,
        [row.prompt_ids for row in rows],
        [row.sample for row in rows],
        vocab_size=logits.size(-1),
        device=logits.device,
        allowed=allowed,
    )
    # Guessing pays where a pass over a few tokens costs what one does: for a single row.
    reader = PromptLookup(texts[0], config.num_draft_tokens) if len(rows) == 1 and config.num_draft_tokens else None
    for remaining in range(config.max_new_tokens - 1, -1, -1):
        tokens = sampler(logits)  # (B, 1)
        ids = tokens.flatten().tolist()
        for i, row in list(live.items()):
            reason = _accept(i, ids[i], row, eos_id, on_token)
            texts[i].append(ids[i])
            if reason is not None:
                row.finish_reason = reason
                texts[i] = [ids[i]]  # a finished row rides along as short as can be
                del live[i]
        if not live or not remaining:
            return
        known = None if reader is None else reader.confirm(ids[0], cache)
        if known is not None:
            logits = known
        elif cache.length == cache.max_len:
            cache, logits = prefill(model, texts, remaining, written=config.max_new_tokens - remaining)
        elif reader is None:
            logits = model.step(tokens, cache)[:, 0]
        else:
            logits = reader.read(model, tokens, cache, most=remaining - 1)


def _accept(
    i: int, token: int, row: Completion, eos_id: int | None, on_token: OnToken | None
) -> Literal["eos", "stop"] | None:
    """Take a token into row i; the reason why the row ends with it, if it does."""
    if token == eos_id:
        return "eos"
    row.ids.append(token)
    return "stop" if on_token is not None and on_token(i, token) else None


def prefill(
    model: Decodable, texts: Sequence[Sequence[int]], remaining: int, *, written: int = 0
) -> tuple[KVCache, Tensor]:
    """Read the window of every text, padded on the left; make room to choose `remaining` tokens, context permitting.

    The last `written` tokens of every text are not of its prompt.
    """
    context = model.config.max_seq_len
    windows = [text[window_start(len(text), context) :] for text in texts]
    ids, key_valid = padded(windows, side="left", device=next(iter(model.parameters())).device)
    prompt = {"written": written} if isinstance(model, Prefixed) else {}  # others read it as they read all else
    return model.start(ids, max_len=min(context, ids.size(1) + remaining - 1), key_valid=key_valid, **prompt)


def padded(
    rows: Sequence[Sequence[int]], *, side: Literal["left", "right"], device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Rows of ids as one (B, T) tensor, and (B, T) bool False for padding; None where no row needed any."""
    lengths = torch.tensor([[len(row)] for row in rows])  # (B, 1)
    width = int(lengths.max())
    fill = [[0] * (width - len(row)) for row in rows]
    filled = [pad + list(row) if side == "left" else list(row) + pad for pad, row in zip(fill, rows, strict=True)]
    ids = torch.tensor(filled).to(device)  # (B, T)
    if (lengths == width).all():
        return ids, None
    at = torch.arange(width)
    return ids, (at >= width - lengths if side == "left" else at < lengths).to(device)


def require_finite(logits: Tensor) -> None:
    """Raise ValueError where a diverged model would choose at random."""
    if not logits.isfinite().all():
        raise ValueError("the model's logits are not finite: its training diverged; go back to an earlier checkpoint")
