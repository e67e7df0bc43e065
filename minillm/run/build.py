"""Builds the parts of a run from its RunConfig."""

from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch

from minillm.config import RunConfig
from minillm.data.datasets.corpus import Corpus
from minillm.data.loader import Loader, eval_batches
from minillm.data.prefetch import Prefetched
from minillm.distributed.runtime import Runtime
from minillm.objectives.base import Batch, Objective, Setup
from minillm.registry import DATASETS, load, objective_spec
from minillm.tokenizers.base import Tokenizer
from minillm.tokenizers.load import build_tokenizer
from minillm.training.config import Recipe


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


def build_source(
    config: RunConfig, tokens: Any, objective: Objective, runtime: Runtime, device: torch.device
) -> Prefetched[Batch]:
    """Training batches of this rank, prefetched in a thread and, for CUDA, in pinned memory."""
    share = config.train.global_batch // runtime.world_size
    loader = Loader(
        objective.examples(tokens, config.data, seq_len(config), training=True),
        objective.collate,
        seed=config.train.seed,
        global_batch=config.train.global_batch,
        micro_batch=config.train.micro_batch or max(1, share),
        rank=runtime.rank,
        world_size=runtime.world_size,
    )
    pinned = device.type == "cuda"
    return Prefetched(loader, (lambda batch: batch.map(torch.Tensor.pin_memory)) if pinned else None)


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
