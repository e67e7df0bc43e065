"""Text in, text out: prompts are encoded, ids become a stream of whole characters, stop strings end it.

Stop strings are looked for in bytes, so that it does not matter where the tokens happen to be cut; UTF-8 never finds
one character's bytes within another's.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence

from minillm.generation.beam import beam_search
from minillm.generation.begin import Prompt, Tokenizer, begin
from minillm.generation.conditioned import EncoderDecoder
from minillm.generation.config import BeamConfig, SampleConfig
from minillm.generation.generate import Completion, Decodable, generate

OnText = Callable[[int, str], None]
"""Called with (row, piece) as text comes; the pieces of a row joined are its text."""


class TextStream:
    """The bytes of one completion go in piece by piece; what is certain to be its text comes out in whole characters.

    Held back are an incomplete character and bytes that may turn out to begin a stop string. Bytes that are not UTF-8
    become U+FFFD. Where the bytes are cut into pieces makes no difference to the text.
    """

    def __init__(self, stop: Sequence[str], emit: Callable[[str], None], lead: bytes = b"") -> None:
        """`emit` gets each piece of text, never an empty one; `lead`, if the first piece begins with it, is dropped."""
        self.lead = lead
        self.stop, self.emit = [s.encode("utf-8") for s in stop], emit
        self.held = b""
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, piece: bytes) -> bool:
        """Add bytes; True if they complete a stop string. The match that is complete first ends the text."""
        self.held += piece.removeprefix(self.lead)
        self.lead = b""
        matches = [(at + len(s), at) for s in self.stop if (at := self.held.find(s)) >= 0]
        if matches:
            self._release(min(matches)[1])
            return True
        self._release(len(self.held) - self._undecided())
        return False

    def close(self) -> None:
        """The text ends here: let out what was held for a stop string, but no part of a character."""
        self._release(len(self.held))

    def _undecided(self) -> int:
        """Length of the longest end of the held bytes that begins a stop string."""
        longest = max(map(len, self.stop), default=1) - 1
        ends = range(min(longest, len(self.held)), 0, -1)
        return next((n for n in ends if any(s.startswith(self.held[-n:]) for s in self.stop)), 0)

    def _release(self, num_bytes: int) -> None:
        """Let out the first held bytes."""
        text = self.decoder.decode(self.held[:num_bytes])
        self.held = self.held[num_bytes:]
        if text:
            self.emit(text)


def complete(
    model: Decodable | EncoderDecoder,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    config: SampleConfig,
    *,
    on_text: OnText | None = None,
) -> list[Completion]:
    """Continue each prompt `config.num_samples` times, or answer it; `config.prompt` is not read.

    A text ends before the first stop string, before EOS, or after `max_new_tokens`; a character that the last leaves
    incomplete is not part of it.

    Args:
        model: of a vocabulary at least as large as the tokenizer's; an encoder-decoder reads the prompts with its
            encoder and answers.
        tokenizer: the one that the model was trained with.
        prompts: an empty one starts a document.
        config: how to choose and when to end.
        on_text: gets the text of each row while it grows.
    Returns:
        Completions in the order of `generate`, with their text.
    Raises:
        ValueError: as `generate`, or a prompt that the tokenizer cannot encode.
    """
    start = begin(model, tokenizer, prompts)
    pieces: list[list[str]] = [[] for _ in range(len(prompts) * config.num_samples)]
    streams = [TextStream(config.stop, _receiver(row, pieces[row], on_text), start.lead) for row in range(len(pieces))]
    completions = generate(
        start.model,
        start.prompts,
        config,
        eos_id=tokenizer.eos_id,
        allowed=start.allowed,
        on_token=lambda row, token: streams[row].push(start.spell(token)),
    )
    for row, completion in enumerate(completions):
        if completion.finish_reason != "stop":
            streams[row].close()
        completion.text = "".join(pieces[row])
    return completions


def search(
    model: Decodable | EncoderDecoder, tokenizer: Tokenizer, prompts: Sequence[Prompt], config: BeamConfig
) -> list[Completion]:
    """As `complete`, for the likeliest continuations that a beam finds; they come as `beam_search` returns them."""
    start = begin(model, tokenizer, prompts)
    completions = beam_search(start.model, start.prompts, config, eos_id=tokenizer.eos_id, allowed=start.allowed)
    for completion in completions:
        pieces: list[str] = []
        stream = TextStream(config.stop, pieces.append, start.lead)
        if any(stream.push(start.spell(token)) for token in completion.ids):
            completion.finish_reason = "stop"
        else:
            stream.close()
        completion.text = "".join(pieces)
    return completions


def _receiver(row: int, pieces: list[str], on_text: OnText | None) -> Callable[[str], None]:
    """Collects a row's pieces and passes them on."""

    def receive(piece: str) -> None:
        pieces.append(piece)
        if on_text is not None:
            on_text(row, piece)

    return receive
