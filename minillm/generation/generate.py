"""Autoregressive generation of token ids: a prefill, then one cached step per token, for a batch of ragged prompts.

When a text exceeds the context, its oldest tokens are dropped and the cache is refilled from the rest (`window_start`);
nn/cache.py explains why dropping columns of the cache would be wrong.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from minillm.generation.adapters import Decodable, EndIds, checked_prompt, end_ids, evaluating, padded
from minillm.generation.config import SampleConfig
from minillm.generation.sampling import Sampler
from minillm.generation.speculative import Draft, verifier_for
from minillm.nn.cache import KVCache

MAX_ROWS = 65_536
"""Maximum rows in one batch; a mistyped number would otherwise exhaust memory before the first token."""

FinishReason = Literal["eos", "stop", "length"]

OnToken = Callable[[int, int], bool]
"""Called with (row, id) for each generated id except EOS; True ends the row."""


@dataclass
class Completion:
    """One continuation of one prompt."""

    prompt_ids: tuple[int, ...]
    """The ids that were continued."""
    sample: int
    """Number of this completion among those of its prompt, from 0."""
    ids: list[int] = field(default_factory=list)
    """Generated ids, including those of a stop string, without EOS."""
    finish_reason: FinishReason = "length"
    """Ended by EOS, by a stop string (`on_token`), or by max_new_tokens."""
    text: str = ""
    """The generated text up to a stop string; empty if only ids were requested."""
    score: float | None = None
    """Log-probability divided by the length penalty, from beam search; None for a sampled completion."""
    prompt_tokens_cut: int = 0
    """Tokens dropped at the start of a prompt that exceeds the context."""


class TokenEvent(NamedTuple):
    """One token of one row, or the end of a row."""

    row: int
    """Number of the row."""
    token: int | None
    """The generated id; None: the row ended with EOS."""
    finish_reason: FinishReason | None
    """Why the row ends with this event; None: it goes on."""


TokenEvents = Generator[TokenEvent, bool | None, None]
"""Token events. Sending True ends the row of the last event; closing ends all rows."""


def window_start(length: int, context: int) -> int:
    """Index of the first token that the model reads of a text of `length` tokens; 0 while the text fits.

    Whenever the text outgrows the context, a quarter of the context is dropped, so the cache is refilled once per
    quarter. The window depends on the length of the text only, so a row reads the same alone and in a batch.
    """
    drop = max(1, context // 4)
    excess = max(0, length - context)
    return drop * -(-excess // drop)


def stream(
    model: Decodable,
    prompts: Sequence[Sequence[int]],
    config: SampleConfig,
    *,
    prefix: bool = False,
    eos_id: EndIds = None,
    allowed: Tensor | None = None,
    draft: Draft | None = None,
) -> TokenEvents:
    """Continue each prompt `config.num_samples` times, all rows in one batch, and yield each token as it is chosen.

    Row number prompt * num_samples + sample. A row's ids depend on its prompt, its sample number and `config` only, not
    on other rows. `events.send(True)` ends the row of the last event, and `events.close()` ends all of them; the model
    computes nothing more then. Copying the chosen ids to the host (B numbers per step) is the only synchronization with
    an accelerator. Arguments and errors are as in `generate`.
    """
    rows = unwritten(model, prompts, config, eos_id=eos_id)
    return _events(model, rows, config, prefix, eos_id, allowed, draft)


def generate(
    model: Decodable,
    prompts: Sequence[Sequence[int]],
    config: SampleConfig,
    *,
    prefix: bool = False,
    eos_id: EndIds = None,
    allowed: Tensor | None = None,
    draft: Draft | None = None,
    on_token: OnToken | None = None,
    samples: Sequence[int] | None = None,
) -> list[Completion]:
    """Collect the tokens of `stream`.

    Args:
        model: in evaluation mode during the call; an encoder-decoder as `ConditionedDecoder`.
        prompts: ids of any lengths; an empty prompt continues EOS, that is, it starts a document.
        config: how to choose tokens and when to end.
        prefix: read the prompt in both directions, as a prefix language model does (Raffel et al. 2020, section 3.2.1).
        eos_id: the id or ids that end a row; None: no id. An empty prompt starts from the first one.
        allowed: (V,) bool, False for ids that are never chosen; None: all are allowed.
        draft: a smaller model whose tokens are verified; None: they come from prompt lookup. Only for a single row.
        on_token: receives each id as it is chosen and may end the row.
        samples: sample number of each row, on which its random numbers depend; None: from 0 for each prompt.
    Returns:
        Completions in the order prompt number * num_samples + sample number.
    Raises:
        ValueError: an empty prompt without `eos_id`, an id outside the vocabulary, more rows than MAX_ROWS, or logits
            that are not finite.
    """
    rows = unwritten(model, prompts, config, eos_id=eos_id)
    for row, sample in zip(rows, samples or (), strict=samples is not None):
        row.sample = sample
    collect(rows, _events(model, rows, config, prefix, eos_id, allowed, draft), on_token)
    return rows


def unwritten(
    model: Decodable, prompts: Sequence[Sequence[int]], config: SampleConfig, *, eos_id: EndIds
) -> list[Completion]:
    """A completion without ids for each row; errors as in `generate`."""
    require_rows(len(prompts) * config.num_samples)
    context = model.config.max_seq_len
    return [
        Completion(ids, sample, prompt_tokens_cut=window_start(len(ids), context))
        for ids in (checked_prompt(prompt, eos_id, model.config.vocab_size) for prompt in prompts)
        for sample in range(config.num_samples)
    ]


def collect(rows: Sequence[Completion], events: TokenEvents, on_token: OnToken | None = None) -> None:
    """Fill in the ids and finish reasons of `rows` from all `events`; `on_token` as in `generate`."""
    end: bool | None = None
    with closing(events), suppress(StopIteration):
        while True:
            row, token, finish_reason = events.send(end)
            end = False
            if token is not None:
                rows[row].ids.append(token)
                end = on_token is not None and on_token(row, token)
            if end or finish_reason:
                rows[row].finish_reason = "stop" if end else finish_reason or "length"


def require_rows(num_rows: int) -> None:
    """ValueError if a batch of `num_rows` is too large."""
    if num_rows > MAX_ROWS:
        raise ValueError(
            f"{num_rows:,} texts are too many for one batch, which has at most {MAX_ROWS:,}; "
            "give fewer prompts, samples or beams"
        )


@torch.inference_mode()
def _events(
    model: Decodable,
    rows: Sequence[Completion],
    config: SampleConfig,
    prefix: bool,
    eos_id: EndIds,
    allowed: Tensor | None,
    draft: Draft | None,
) -> TokenEvents:
    """The events of `stream`; `rows` are not changed."""
    if not rows or not config.max_new_tokens:
        return
    texts = [list(row.prompt_ids) for row in rows]  # prompt and continuation
    live, ends = dict.fromkeys(range(len(rows))), end_ids(eos_id)
    with evaluating(model):
        cache, logits = prefill(model, texts, config.max_new_tokens, prefix=prefix)
        require_finite(logits)
        sampler = Sampler(config, texts, [row.sample for row in rows], logits, allowed)
        verifier = verifier_for(model, texts, config.num_draft_tokens, draft)
        for remaining in range(config.max_new_tokens - 1, -1, -1):
            tokens = sampler(logits)  # (B, 1)
            ids = tokens.flatten().tolist()
            for i in list(live):
                texts[i].append(ids[i])
                is_eos = ids[i] in ends
                event = TokenEvent(i, None, "eos") if is_eos else TokenEvent(i, ids[i], None if remaining else "length")
                if (yield event) or is_eos:
                    texts[i] = [ids[i]]  # a finished row stays in the batch, as short as possible
                    del live[i]
            if not live or not remaining:
                return
            drafted = None if verifier is None else verifier.accept(ids[0], cache)
            if drafted is not None:
                logits = drafted
            elif cache.length == cache.max_len:
                num_written = config.max_new_tokens - remaining
                cache, logits = prefill(model, texts, remaining, prefix=prefix, num_written=num_written)
            elif verifier is None:
                logits = model.step(tokens, cache)[:, 0]
            else:
                logits = verifier.step(model, tokens, cache, max_drafts=remaining - 1)


def prefill(
    model: Decodable, texts: Sequence[Sequence[int]], remaining: int, *, prefix: bool, num_written: int = 0
) -> tuple[KVCache, Tensor]:
    """Read the texts' windows, padded on the left -> a cache and logits (B, V).

    The cache has room for `remaining` more tokens if the context allows. With `prefix`, all tokens but the last
    `num_written` are the prompt.
    """
    context = model.config.max_seq_len
    windows = [text[window_start(len(text), context) :] for text in texts]
    ids, key_valid = padded(windows, side="left", device=next(model.parameters()).device)
    prefix_length = ids.new_full(ids.shape[:1], max(0, ids.size(1) - num_written)) if prefix else None
    max_len = min(context, ids.size(1) + remaining - 1)
    return model.start(ids, max_len=max_len, key_valid=key_valid, prefix_length=prefix_length)


def require_finite(logits: Tensor) -> None:
    """ValueError unless the logits are finite; a diverged model would choose tokens at random."""
    if not logits.isfinite().all():
        raise ValueError("the model's logits are not finite: its training diverged; use an earlier checkpoint")
