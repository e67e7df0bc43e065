"""Completes a config with values that depend on tokenizer and data, and rejects contradictions before training."""

from collections.abc import Callable
from dataclasses import fields, replace

from minillm.config import RunConfig
from minillm.data.datasets.corpus import Corpus
from minillm.models.presets import PRESETS
from minillm.objectives.base import Objective
from minillm.registry import OBJECTIVES, load, objective_spec
from minillm.run.build import build_objective, seq_len
from minillm.tokenizers.base import Tokenizer


def require_family(config: RunConfig) -> None:
    """ValueError if the model family cannot be trained with the objective."""
    name, family = config.objective.name, config.model.family
    spec = objective_spec(name)
    if family not in spec.builders:
        fitting = [objective for objective, other in OBJECTIVES.items() if family in other.builders]
        raise ValueError(
            f"objective.name {name} needs a model of family {' or '.join(spec.builders)}, but model.preset "
            f"{config.model.preset} is {family}; set objective.name to {' or '.join(fitting)}, or take another preset"
        )


def resolve(
    config: RunConfig, corpus: Corpus, *, inherited: bool, say: Callable[[str], None]
) -> tuple[RunConfig, Objective]:
    """The final config and its objective. `say` receives notes about truncated examples.

    `inherited`: whether the model shape comes from another run, whose table may be larger than the vocabulary.
    ValueError if settings contradict the tokenizer or the data, or if the prompt cannot be encoded.
    """
    tokenizer = corpus.tokenizer
    if config.sample.prompt is not None:
        _require_prompt(config.sample.prompt, tokenizer)
    model = config.model if inherited else replace(config.model, vocab_size=_vocab_size(config, tokenizer))
    spec = objective_spec(config.objective.name)
    section = load(spec.resolve)(config.objective, corpus) if spec.resolve else config.objective
    config = replace(config, model=model, objective=section)
    objective = build_objective(config, tokenizer)
    config = replace(config, model=replace(model, heads=objective.heads))
    if config.sample.prompt is None:
        example = objective.examples(corpus.validation, config.data, seq_len(config), training=False).row(0)
        prompt = objective.prompt(example, lambda ids: tokenizer.decode(ids).strip("\ufffd"))  # no half characters
        config = replace(config, sample=replace(config.sample, prompt=prompt))
    for split, tokens in (("training", corpus.train), ("validation", corpus.validation)):
        for cut in objective.describe_cuts(tokens):
            say(f"{split}: {cut}")
    return config, objective


def _vocab_size(config: RunConfig, tokenizer: Tokenizer) -> int:
    """The tokenizer's vocabulary size, unless the user set another one; ValueError if that is too small.

    The published size in a preset does not count: it belongs to the tokenizer of its paper.
    """
    size = config.model.vocab_size
    if size is None or size == PRESETS.get(config.model.preset, {}).get("vocab_size"):
        return tokenizer.vocab_size
    if size < tokenizer.vocab_size:
        raise ValueError(
            f"model.vocab_size {size} is smaller than the {tokenizer.kind} tokenizer's {tokenizer.vocab_size}; "
            "leave model.vocab_size out, or raise it"
        )
    return size


def _require_prompt(prompt: str, tokenizer: Tokenizer) -> None:
    """ValueError if the prompt cannot be encoded, now instead of at the first evaluation."""
    try:
        tokenizer.encode(prompt)
    except ValueError as error:
        raise ValueError(f"sample.prompt {prompt!r} cannot be used: {error}") from None


CONTENT = {"source", "validation", "cache"}
"""Keys of [data] that may change in a resumed run, because the data is compared by content."""
LOSS = {"label_smoothing", "z_loss"}
"""Keys of [objective] that may change: they affect neither targets nor validation loss."""


def require_same_run(saved: RunConfig, config: RunConfig, where: object) -> None:
    """ValueError if a resumed run changes a key that must stay the same."""
    compared = {"model": set(), "tokenizer": set(), "data": CONTENT, "objective": LOSS}
    keys = [(section, f.name) for section in compared for f in fields(getattr(saved, section))]
    keys = [(section, key) for section, key in keys if key not in compared[section]] + [("train", "seed")]
    for section, key in keys:
        was, now = (getattr(getattr(run, section), key) for run in (saved, config))
        if was != now:
            raise ValueError(
                f"--resume cannot change {section}.{key}: it is {was!r} in {where}, now {now!r}; "
                "leave it as it was, or start a new run"
            )
