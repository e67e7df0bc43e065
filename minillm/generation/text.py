"""Text generation from text prompts: encoding, decoding and stop strings.

A decoder continues the prompt. In an encoder-decoder the encoder reads the prompt and the decoder writes an answer.
Such a prompt may contain T5's sentinels, `<|extra_id_0|>` and so on, as the gaps that a model trained by span
corruption fills; then the answer may contain them too.
"""

import re
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from minillm.generation.adapters import ConditionedDecoder, Decodable
from minillm.generation.beam import beam_search
from minillm.generation.config import BeamConfig, SampleConfig
from minillm.generation.continuous import stream_queue
from minillm.generation.generate import Completion, FinishReason, require_rows, stream, unwritten
from minillm.generation.speculative import Draft
from minillm.generation.text_stream import TextStream
from minillm.models.gpt import GPT
from minillm.models.t5 import T5
from minillm.tokenizers.base import Tokenizer

OnText = Callable[[int, str], None]
"""Called with (row, piece of text) during generation."""

SENTINEL = re.compile(r"<\|extra_id_(\d{1,2})\|>")

Prompt = str | Sequence[int]
"""A text, or token ids. Encoding the text of some ids does not always return the same ids."""


class DecodingInput(NamedTuple):
    """A model ready for decoding, and the ids that it continues."""

    model: Decodable
    prompts: list[list[int]]
    options: dict[str, Any]
    """Arguments of `generate` and `beam_search`: prefix, eos_id and allowed."""
    decode: Callable[[int], bytes]
    """The bytes of an id."""
    leading_blank: bytes = b""
    """Removed from the start of a text: the space that some tokenizers put before the first word."""


def prepare_prompts(
    model: Any,
    tokenizer: Tokenizer,
    prompts: str | Sequence[Prompt],
    *,
    prefix: bool = False,
    eos_id: int | None = None,
) -> DecodingInput:
    """Encode the prompts; a single text is one prompt. An encoder reads them here.

    `eos_id` ends a text too, besides the tokenizer's own ids for that: the end of a turn in a chat template.

    ValueError if the model writes no text, or if a prompt cannot be encoded or is too long for the encoder.
    """
    prompts = [prompts] if isinstance(prompts, str) else prompts
    allowed = allowed_ids(tokenizer, model.config.vocab_size or tokenizer.vocab_size)
    ends = tuple(dict.fromkeys((*tokenizer.eos_ids, *(() if eos_id is None else (eos_id,)))))
    allowed[list(ends)] = True
    options: dict[str, Any] = {"eos_id": ends, "allowed": allowed}
    if model.writes == "nothing":
        raise ValueError(f"a {model.config.family} model writes no text; fill gaps in a text instead")
    if model.writes == "continuation":
        ids = [[*tokenizer.prefix_ids, *tokenizer.encode(p).tolist()] if isinstance(p, str) else [*p] for p in prompts]
        return DecodingInput(model, ids, options | {"prefix": prefix}, lambda token: tokenizer.decode_bytes([token]))
    names: dict[int, bytes] = {}
    if any(isinstance(prompt, str) and SENTINEL.search(prompt) for prompt in prompts):
        names = {token: f"<|extra_id_{i}|>".encode() for i, token in enumerate(tokenizer.extra_ids)}
        allowed[list(names)] = True
    sources = [source_ids(tokenizer, prompt) for prompt in prompts]
    longest, limit = max(map(len, sources), default=0), model.config.max_seq_len
    if longest > limit:
        raise ValueError(f"a prompt has {longest} tokens, including EOS, and this model reads {limit}; shorten it")
    return DecodingInput(
        ConditionedDecoder(model, sources),
        [[tokenizer.pad_id] for _ in prompts],
        options,
        lambda token: names.get(token) or tokenizer.decode_bytes([token]),
        leading_blank=b" " if tokenizer.first_blank else b"",
    )


def source_ids(tokenizer: Tokenizer, text: Prompt) -> list[int]:
    """Encoder input: the ids of the text and its sentinels, then EOS. Ids are returned unchanged."""
    if not isinstance(text, str):
        return [*text]
    ids: list[int] = []
    for number in SENTINEL.findall(text):
        if int(number) >= len(tokenizer.extra_ids):
            raise ValueError(
                f"the prompt has <|extra_id_{number}|>, but this tokenizer has {len(tokenizer.extra_ids)} such tokens"
            )
    for i, part in enumerate(SENTINEL.split(text)):
        ids += [tokenizer.extra_ids[int(part)]] if i % 2 else tokenizer.encode(part).tolist()
    return [*ids, tokenizer.eos_id]


def allowed_ids(tokenizer: Tokenizer, vocab_size: int) -> Tensor:
    """(vocab_size,) bool: True for ids of text and EOS, False for other special ids and padding of the table."""
    if vocab_size < tokenizer.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} ids and the model {vocab_size}, so they do not belong together; "
            "use the tokenizer of the model's run"
        )
    allowed = torch.zeros(vocab_size, dtype=torch.bool)
    allowed[: tokenizer.vocab_size] = torch.from_numpy(np.asarray(tokenizer.num_bytes) > 0)
    allowed[list(tokenizer.eos_ids)] = True
    return allowed


class TextEvent(NamedTuple):
    """One token of one row, or the end of a row, as text."""

    row: int
    token: int | None
    """The generated id; None: the row ended with EOS."""
    text: str
    """What is new in the row's text; empty while a character is incomplete or a stop string may begin."""
    finish_reason: FinishReason | None
    """Why the row ends with this event; None: it goes on."""


TextEvents = Generator[TextEvent, bool | None, None]
"""Text events. Sending True ends the row of the last event; closing ends all rows."""


def stream_text(
    model: GPT | T5,
    tokenizer: Tokenizer,
    prompts: str | Sequence[Prompt],
    config: SampleConfig,
    *,
    prefix: bool = False,
    eos_id: int | None = None,
    draft: Draft | None = None,
) -> TextEvents:
    """The text of each row as it is generated; otherwise as `complete`. Sending and closing are as in `stream`."""
    ready = prepare_prompts(model, tokenizer, prompts, prefix=prefix, eos_id=eos_id)
    require_rows(len(ready.prompts) * config.num_samples)
    return _text_events(ready, config, draft)


def _text_events(
    ready: DecodingInput, config: SampleConfig, draft: Draft | None = None, slots: int | None = None
) -> TextEvents:
    pieces: list[str] = []
    num_rows, end = len(ready.prompts) * config.num_samples, None
    texts = [TextStream(config.stop, pieces.append, ready.leading_blank) for _ in range(num_rows)]
    if slots is None or isinstance(ready.model, ConditionedDecoder):
        tokens = stream(ready.model, ready.prompts, config, **ready.options, draft=draft)
    else:
        tokens = stream_queue(ready.model, ready.prompts, config, **ready.options, slots=slots)
    with closing(tokens) as events, suppress(StopIteration):
        while True:
            row, token, finish_reason = events.send(end)
            stopped = token is not None and texts[row].push(ready.decode(token))
            finish_reason = "stop" if stopped else finish_reason
            if finish_reason and not stopped:
                texts[row].close()
            end = bool((yield TextEvent(row, token, "".join(pieces), finish_reason))) or stopped
            pieces.clear()


def complete(
    model: GPT | T5,
    tokenizer: Tokenizer,
    prompts: str | Sequence[Prompt],
    config: SampleConfig,
    *,
    prefix: bool = False,
    eos_id: int | None = None,
    on_text: OnText | None = None,
    draft: Draft | None = None,
    slots: int | None = None,
) -> list[Completion]:
    """Continue each prompt `config.num_samples` times, or answer it; `config.prompt` is not used.

    A text ends before the first stop string, before EOS, or after `max_new_tokens`, without an incomplete character.
    Order, other arguments and errors are as in `prepare_prompts` and `generate`. `on_text` receives the text of each
    row as it is generated; `draft` is as in `generate`. A decoder reads at most `slots` rows in a batch, and others
    follow as these end (generation/continuous.py); an encoder reads all prompts at once.
    """
    ready = prepare_prompts(model, tokenizer, prompts, prefix=prefix, eos_id=eos_id)
    rows = unwritten(ready.model, ready.prompts, config, eos_id=ready.options["eos_id"])
    with closing(_text_events(ready, config, draft, slots)) as events:
        for row, token, text, finish_reason in events:
            rows[row].ids += [] if token is None else [token]
            rows[row].text += text
            rows[row].finish_reason = finish_reason or "length"
            if text and on_text is not None:
                on_text(row, text)
    return rows


def search(
    model: GPT | T5, tokenizer: Tokenizer, prompts: str | Sequence[Prompt], config: BeamConfig, *, prefix: bool = False
) -> list[Completion]:
    """As `complete`, with beam search: the most likely continuations, in the order of `beam_search`."""
    ready = prepare_prompts(model, tokenizer, prompts, prefix=prefix)
    completions = beam_search(ready.model, ready.prompts, config, **ready.options)
    for completion in completions:
        pieces: list[str] = []
        stream = TextStream(config.stop, pieces.append, ready.leading_blank)
        if any(stream.push(ready.decode(token)) for token in completion.ids):
            completion.finish_reason = "stop"
        else:
            stream.close()
        completion.text = "".join(pieces)
    return completions
