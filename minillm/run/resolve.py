"""Completes a config with values that depend on tokenizer and data, and rejects contradictions before training."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from minillm.config import RunConfig
from minillm.data.datasets.corpus import Corpus
from minillm.models.presets import PRESETS
from minillm.objectives.base import Objective
from minillm.registry import OBJECTIVES, load, objective_spec
from minillm.run.build import build_objective, seq_len
from minillm.tokenizers.base import Tokenizer
from minillm.training.state import TrainState


def require_family(config: RunConfig) -> None:
    """ValueError if the model family cannot be trained with the objective."""
    name, family = config.objective.name, config.model.family
    spec = objective_spec(name)
    if family not in spec.builders:
        fitting = [objective for objective, other in OBJECTIVES.items() if family in other.builders]
        raise ValueError(
            f"objective.name {name} needs a model of family {' or '.join(spec.builders)}, but model.preset "
            f"{config.model.preset} is {family}; set objective.name to {' or '.join(fitting)}, or use another preset"
        )


def require_parent(config: RunConfig, init_from: Path | None, *, resume: bool, fresh: bool) -> None:
    """ValueError for an adapter or a reference model without --init-from, or with settings that contradict it."""
    adapter, objective = f"adapter.name {config.adapter.name}", f"objective.name {config.objective.name}"
    compares = objective_spec(config.objective.name).reference is not None
    wanted = {adapter: config.adapter.on, objective: compares}
    for name in (name for name in wanted if wanted[name] and (fresh or not (init_from or resume))):
        raise ValueError(f"{name} needs the weights of another run; give it with --init-from")
    if config.adapter.on and config.optim.name == "muon":
        raise ValueError(f"optim.name muon trains the weights that {adapter} freezes; use optim.name adamw")
    if compares and config.adapter.dropout:
        raise ValueError(f"{objective} compares the model with its reference without dropout: set adapter.dropout to 0")


def resolve(
    config: RunConfig,
    corpus: Corpus,
    *,
    inherited: bool,
    say: Callable[[str], None],
    resumed: TrainState | None = None,
) -> tuple[RunConfig, Objective]:
    """The final config and its objective. `say` receives notes about truncated examples.

    `inherited`: whether the model shape comes from another run, whose table may be larger than the vocabulary; it grows
    if the objective has added special tokens to the tokenizer. `resumed` is the state of the checkpoint that training
    continues from; None: it starts at step 0.
    ValueError if settings contradict the tokenizer or the data, or if the prompt cannot be encoded.
    """
    tokenizer = corpus.tokenizer
    if config.sample.prompt is not None:
        _require_prompt(config.sample.prompt, tokenizer)
    spec, model = objective_spec(config.objective.name), config.model
    if spec.needs_vocabulary:
        rows = max(model.vocab_size or 0, tokenizer.vocab_size) if inherited else _vocab_size(config, tokenizer)
        model = replace(model, vocab_size=rows)
    else:
        model = replace(model, input_shape=_input_shape(config, corpus, inherited=inherited))
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
    steps = _steps(config, corpus, objective, resumed or TrainState())
    return replace(config, train=replace(config.train, steps=steps)), objective


def _steps(config: RunConfig, corpus: Corpus, objective: Objective, state: TrainState) -> int:
    """train.steps, from train.epochs if that is given; ValueError if the objective makes its own training data."""
    if config.train.epochs is None:
        return config.train.steps
    if objective_spec(config.objective.name).source:
        raise ValueError(
            f"train.epochs has no effect with objective.name {config.objective.name}, which makes its own training "
            "data; set train.steps instead"
        )
    examples = len(objective.examples(corpus.train, config.data, seq_len(config), training=True))
    batch = config.train.global_batch  # it may have changed at a resume
    done = state.step * batch if state.examples is None else state.examples
    return max(1, state.step + math.ceil((config.train.epochs * examples - done) / batch))


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


def _input_shape(config: RunConfig, corpus: Corpus, *, inherited: bool) -> tuple[int, ...]:
    """The shape of the data; ValueError if the user set another one, or the weights of another run have another one.

    The shape in a preset does not count, as in `_vocab_size`.
    """
    wanted, shape = config.model.input_shape, corpus.train.features.shape[1:]
    free = () if inherited else PRESETS.get(config.model.preset, {}).get("input_shape")
    if wanted in ((), free, shape):
        return shape
    remedy = "use other data" if inherited else "leave model.input_shape out, or use other data"
    raise ValueError(
        f"{corpus.info.source} has examples of shape {list(shape)}, but the model reads {list(wanted)}: {remedy}"
    )


def _require_prompt(prompt: str, tokenizer: Tokenizer) -> None:
    """ValueError if the prompt cannot be encoded, now instead of at the first evaluation."""
    try:
        tokenizer.encode(prompt)
    except ValueError as error:
        raise ValueError(f"sample.prompt {prompt!r} cannot be used: {error}") from None
