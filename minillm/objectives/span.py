"""Span corruption: predict the spans that were removed from a text (Raffel et al. 2020, section 3.1.4).

    source: Thank you for inviting me to your party last week
    input:  Thank you <0> me to your party <1> week EOS
    target: <0> for inviting <1> last EOS

<0> and <1> are sentinels, one for each gap. This follows the authors' code (`random_spans_noise_mask` and
`compute_input_and_target_lengths`). The length alone determines the numbers of dropped tokens and spans, so full
windows fill the encoder exactly and need no padding. Spans and the text between them are random partitions into parts
of at least one token. Targets have no sentinel at their end, unlike those in the paper's figure.

Deviation: a text that would need more spans than there are sentinels gets longer spans.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minillm.data.config import DataConfig
from minillm.data.loader import Windows
from minillm.objectives.base import Batch, CrossEntropyObjective, Decode, RowRNG, Setup, TokenLossConfig, beginning
from minillm.objectives.layout import Pair, encoder_decoder_batch
from minillm.settings import setting


@dataclass(frozen=True, kw_only=True)
class SpanConfig(TokenLossConfig):
    """Span corruption: predict the spans that were removed from a text (Raffel et al. 2020)."""

    name: str = "span"
    span_density: float = setting(0.15, above=0, below=1)
    """Share of the tokens to drop (Raffel et al. 2020, section 3.3.3)."""
    mean_span_length: float = setting(3.0, at_least=1)
    """Mean length in tokens of a dropped span (Raffel et al. 2020, section 3.3.4)."""


@dataclass(frozen=True)
class SpanNoise:
    """Number and lengths of the dropped spans."""

    density: float = 0.15
    """Share of the tokens that are dropped."""
    mean_length: float = 3.0
    """Mean length of a dropped span, in tokens."""
    max_spans: int = 100
    """Number of sentinels."""

    def counts(self, length: int) -> tuple[int, int]:
        """Numbers of dropped tokens and spans in a text of `length` tokens; 0, 0 if it has fewer than two."""
        if length < 2:
            return 0, 0
        noise = min(max(round(length * self.density), 1), length - 1)
        spans = max(round(noise / self.mean_length), 1)
        return noise, min(spans, noise, length - noise, self.max_spans)

    def lengths(self, length: int) -> tuple[int, int]:
        """Tokens in the input and target made from `length` tokens, including sentinels and EOS."""
        noise, spans = self.counts(length)
        return length - noise + spans + 1, noise + spans + 1

    def raw_length(self, input_length: int) -> int:
        """Length of the longest text whose input has `input_length` tokens; ValueError if that is below 2."""
        if input_length < 2:
            raise ValueError(f"span corruption needs model.max_seq_len of at least 2, not {input_length}")
        length = input_length - 1
        while self.lengths(length + 1)[0] <= input_length:
            length += 1
        return length

    def mask(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """(length,) bool, True where a token is dropped: kept and dropped spans alternate, a kept one first."""
        noise, spans = self.counts(length)
        if not spans:
            return np.zeros(length, bool)
        kept, dropped = partition(length - noise, spans, rng), partition(noise, spans, rng)
        lengths = np.stack((kept, dropped), axis=1).ravel()
        return np.repeat(np.arange(2 * spans) % 2 == 1, lengths)


def partition(total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """(parts,) lengths of at least 1 that sum to `total`; all such partitions are equally likely."""
    cuts = np.sort(rng.choice(total - 1, parts - 1, replace=False)) + 1
    return np.diff(cuts, prepend=0, append=total)


def corrupt(text: np.ndarray, dropped: np.ndarray, sentinels: Sequence[int], eos_id: int) -> Pair:
    """The text (N,) with a sentinel for each run of `dropped` (N,) tokens; and the runs, each after its sentinel.

    Both end with EOS. There must be at least as many sentinels as runs.
    """
    starts = dropped & ~np.concatenate(([False], dropped[:-1]))
    marks = np.asarray(sentinels)[starts.cumsum()[starts] - 1]
    source = np.where(starts, 0, text)
    source[starts] = marks
    source = source[~dropped | starts]
    target = np.insert(text[dropped], np.flatnonzero(starts[dropped]), marks)
    return Pair(np.append(source, eos_id), np.append(target, eos_id))


@dataclass(frozen=True)
class SpanCorruption(CrossEntropyObjective):
    """Makes inputs with gaps and targets that fill them, for an encoder-decoder."""

    eos_id: int = 0
    sentinels: tuple[int, ...] = ()
    """Ids that mark the gaps of a row, in order."""
    noise: SpanNoise = SpanNoise()
    max_len: int | None = None
    """Maximum tokens in a target; None: no limit."""

    def examples(self, tokens: Any, data: DataConfig, length: int, *, training: bool) -> Windows:
        """Windows whose inputs have `length` tokens."""
        raw_length = self.noise.raw_length(length)
        while self.max_len is not None and self.noise.lengths(raw_length)[1] > self.max_len:
            raw_length -= 1  # with a density above one half the target is longer than the input
        return Windows(tokens, raw_length)

    def collate(self, examples: Sequence[np.ndarray], rng: RowRNG) -> Batch:
        """Rows of N + 1 ids; the first one precedes the window and is skipped.

        A row of `noise.raw_length(S)` tokens becomes S tokens for the encoder; other lengths work too.
        """
        pairs = []
        for i, row in enumerate(examples):
            text = np.asarray(row[1:], np.int64)
            pairs.append(corrupt(text, self.noise.mask(len(text), rng(i)), self.sentinels, self.eos_id))
        return encoder_decoder_batch(pairs, self.pad_id)

    def prompt(self, example: np.ndarray, decode: Decode) -> str:
        """The beginning of a text with a gap in it."""
        before, after = beginning(example[1:], decode), decode(example[15:21].tolist())
        return f"{before} <|extra_id_0|>{after}"


def build(config: SpanConfig, setup: Setup) -> SpanCorruption:
    """The objective for T5; ValueError if the tokenizer has no sentinels."""
    tokenizer = setup.tokenizer
    if not tokenizer.extra_ids:
        raise ValueError(
            f"objective.name span marks gaps with sentinel tokens, but the tokenizer {tokenizer.name} has none; "
            "set objective.name to prefix_lm or seq2seq"
        )
    noise = SpanNoise(config.span_density, config.mean_span_length, len(tokenizer.extra_ids))
    loss = (config.label_smoothing, config.z_loss)
    ids = (tokenizer.eos_id, tokenizer.extra_ids)
    return SpanCorruption(tokenizer.pad_id, *loss, *ids, noise, setup.model.max_seq_len)
