"""Builds the parts of a run from its RunConfig."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from minillm.config import RunConfig
from minillm.data.datasets.corpus import Corpus
from minillm.data.loader import Loader, eval_batches
from minillm.data.prefetch import BatchSource, Prefetched
from minillm.distributed.runtime import Runtime
from minillm.evaluation.evaluator import LossEvaluator, RunParts
from minillm.objectives.base import Batch, Objective, Setup
from minillm.registry import DATASETS, load, objective_spec
from minillm.tokenizers.base import Tokenizer
from minillm.tokenizers.load import build_tokenizer
from minillm.training.config import Recipe
from minillm.training.evaluation import Evaluator
from minillm.training.precision import Compute


def build_recipe(config: RunConfig) -> Recipe:
    """The settings of the trainer."""
    return Recipe(optim=config.optim, schedule=config.schedule, train=config.train, eval=config.eval, save=config.save)


def prepare_corpus(config: RunConfig, tokenizer: Tokenizer | None, runtime: Runtime) -> Corpus:
    """The tokenized data, prepared by the first rank and read from the cache by others; ValueError if too short."""

    def build(train: Iterable[str], validation: Iterable[str]) -> Tokenizer:
        # merges are learned from the training text only; a character vocabulary must cover both
        return build_tokenizer(config.tokenizer, chain(train, validation) if config.tokenizer.kind == "char" else train)

    if not runtime.is_main:
        runtime.barrier()
    kind = DATASETS[objective_spec(config.objective.name).dataset]
    corpus: Corpus = load(kind.prepare)(config.data, tokenizer or build, progress=runtime.is_main)
    if runtime.is_main:
        runtime.barrier()
    if kind.windows:
        corpus.require(seq_len(config))
    return corpus


def read_data(config: RunConfig, source: str, tokenizer: Tokenizer) -> Any:
    """Tokenize all of another source for the run's objective."""
    kind = DATASETS[objective_spec(config.objective.name).dataset]
    return load(kind.read)(source, config.data, tokenizer, progress=True)


def seq_len(config: RunConfig) -> int:
    """Tokens in a training example; ValueError if the model cannot read that many."""
    length = config.data.seq_len or config.model.max_seq_len
    if length > config.model.max_seq_len:
        raise ValueError(f"data.seq_len {length} is more than model.max_seq_len {config.model.max_seq_len}")
    return length


def build_objective(config: RunConfig, tokenizer: Tokenizer) -> Objective:
    """The objective of the run."""
    build = load(objective_spec(config.objective.name).builders[config.model.family])
    return build(config.objective, Setup(config.model, tokenizer, seq_len(config), config.data))


def run_parts(
    config: RunConfig,
    model: Any,
    tokenizer: Tokenizer,
    objective: Objective,
    compute: Compute,
    runtime: Runtime,
    folder: Path | None = None,
) -> RunParts:
    """What sources and evaluators are built from, still without examples."""

    def scorer(path: str) -> Callable[[Sequence[str]], Sequence[float]]:
        from minillm.run.predictions import text_scorer  # which imports this module

        return text_scorer(path)

    return RunParts(model, tokenizer, objective, (), build_recipe(config), compute, runtime, folder, scorer)


def build_source(config: RunConfig, tokens: Any, parts: RunParts) -> BatchSource[Batch]:
    """Training batches of this rank: the objective's own source, or a loader of the data.

    A loader's batches are prefetched in a thread and, for CUDA, in pinned memory.
    """
    objective, runtime = parts.objective, parts.runtime
    examples = objective.examples(tokens, config.data, seq_len(config), training=True)
    if own := objective_spec(config.objective.name).source:
        return load(own)(replace(parts, examples=examples))
    share = config.train.global_batch // runtime.world_size
    loader = Loader(
        examples,
        objective.collate,
        seed=config.train.seed,
        global_batch=config.train.global_batch,
        micro_batch=config.train.micro_batch or max(1, share),
        rank=runtime.rank,
        world_size=runtime.world_size,
    )
    pinned = parts.compute.device.type == "cuda"
    return Prefetched(loader, (lambda batch: batch.map(torch.Tensor.pin_memory)) if pinned else None)


def build_evaluator(config: RunConfig, tokens: Any, parts: RunParts, max_tokens: int | None = None) -> Evaluator:
    """The objective's own evaluator, or the loss on `tokens`; `max_tokens` is as in `validation_batches`."""
    if own := objective_spec(config.objective.name).evaluator:
        examples = parts.objective.examples(tokens, config.data, seq_len(config), training=False)
        recipe = parts.recipe
        if max_tokens is not None:
            recipe = replace(recipe, eval=replace(recipe.eval, max_tokens=max_tokens))
        return load(own)(replace(parts, examples=examples, recipe=recipe))
    batches = partial(validation_batches, config, tokens, parts.objective, parts.runtime, max_tokens)
    token_bytes = torch.from_numpy(parts.tokenizer.num_bytes).to(parts.compute.device)
    return LossEvaluator(batches, parts.objective, parts.compute, parts.runtime, token_bytes)


def validation_batches(
    config: RunConfig, tokens: Any, objective: Objective, runtime: Runtime, max_tokens: int | None = None
) -> Iterable[Batch]:
    """This rank's share of the validation batches; `max_tokens` None: `eval.max_tokens`, 0: all."""
    return eval_batches(
        objective.examples(tokens, config.data, seq_len(config), training=False),
        objective.collate,
        batch=config.eval.batch,
        max_tokens=config.eval.max_tokens if max_tokens is None else max_tokens,
        rank=runtime.rank,
        world_size=runtime.world_size,
    )
