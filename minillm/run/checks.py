"""What is looked at before a training starts, so that a mistake answers at once and not hours later."""

from __future__ import annotations

from collections.abc import Callable, Collection

from minillm.config import RunConfig
from minillm.data.datasets.corpus import Corpus
from minillm.data.datasets.tasks import TaskTokens
from minillm.objectives.base import Objective
from minillm.objectives.seq2seq import Seq2Seq
from minillm.run.build import seq_len
from minillm.tokenizers.base import Tokenizer

_TEXT = ("data.field", "data.split")
READS: dict[str, tuple[str, ...]] = {
    "clm": _TEXT,
    "prefix_lm": _TEXT,
    "mlm": (*_TEXT, *(f"objective.{key}" for key in ("mask_rate", "mask_share", "random_share", "whole_words"))),
    "span": (*_TEXT, "objective.span_density", "objective.mean_span_length"),
    "seq2seq": ("data.mixing", "data.mixing_temperature", "data.input_field", "data.target_field"),
}
"""Objective -> which it reads of the keys that not all do."""


def require_read(given: Collection[str], config: RunConfig) -> None:
    """ValueError for a key that somebody has set for this run although only other objectives read it.

    Not for what a file brings along: it may be meant for more objectives than one.
    """
    objective = config.objective.name
    for key in given:
        readers = [name for name, keys in READS.items() if key in keys]
        if readers and objective not in readers:
            raise ValueError(
                f"{key} has no effect with objective.name {objective}, only with {' or '.join(readers)}; leave it out"
            )
    if "data.mixing_temperature" in given and config.data.mixing != "temperature":
        raise ValueError(
            f"data.mixing_temperature has no effect with data.mixing {config.data.mixing}; leave it out, or set "
            "data.mixing to temperature"
        )


def require_prompt(prompt: str, tokenizer: Tokenizer) -> None:
    """Refuse a prompt that cannot be encoded before training, not at the first evaluation."""
    try:
        tokenizer.encode(prompt)
    except ValueError as error:
        raise ValueError(f"sample.prompt {prompt!r} cannot be used: {error}") from None


def require_enough(config: RunConfig, corpus: Corpus) -> None:
    """ValueError where the text has less than two training examples; of tasks, one example is enough."""
    if config.objective.name != "seq2seq":
        corpus.require(seq_len(config))


def say_what_is_cut(corpus: Corpus, objective: Objective, say: Callable[[str], None]) -> None:
    """Tell of text-to-text examples that are longer than what is read and written of them."""
    if not isinstance(objective, Seq2Seq):
        return
    room = objective.max_len
    for split, tokens in (("training", corpus.train), ("validation", corpus.validation)):
        assert isinstance(tokens, TaskTokens), "prepared as such"
        inputs, targets = tokens.lengths(objective.sep_id)
        for what, cut in (("inputs", inputs >= room), ("targets", targets > room)):
            if cut.any():
                say(f"{cut.sum():,} of {len(cut):,} {split} {what} are longer than {room} tokens and lose their ends")
