"""The figures of tasks on one of several ranks, for `worker.py`: examples of uneven lengths in uneven batches."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from minillm.data.config import DataConfig
from minillm.data.datasets.labeled import Labeled, LabeledTokens
from minillm.data.datasets.questions import Answer, Question, QuestionTokens
from minillm.data.datasets.tagged import Tagged, TaggedTokens
from minillm.data.loader import eval_batches
from minillm.distributed.runtime import Runtime
from minillm.evaluation.evaluator import evaluate
from minillm.models.build import build_model
from minillm.nn.config import ModelConfig
from minillm.objectives.base import Setup
from minillm.objectives.classify import ClassifyConfig
from minillm.objectives.extract import ExtractConfig
from minillm.objectives.tag import TagConfig
from minillm.registry import load, objective_spec
from minillm.tokenizers.byte import ByteTokenizer
from minillm.training.precision import Compute

CONTEXT = 24
TOKENIZER = ByteTokenizer()


def labeled(labels: list[Any]) -> LabeledTokens:
    return LabeledTokens([Labeled("ab" * (n % 5 + 1), "", labels[n % 3], "", "") for n in range(11)], TOKENIZER)


def tagged() -> TaggedTokens:
    tags = ("B-A", "I-A", "O", "B-C")
    words = [("a", "bc", "d", "ef")[: n % 4 + 1] for n in range(11)]
    spans = [tuple((2 * i, 2 * i + len(word)) for i, word in enumerate(row)) for row in words]
    texts = ["".join(f"{word:2}" for word in row) for row in words]
    made = [Tagged(text, "", own, tags[: len(own)], "", "") for text, own in zip(texts, spans, strict=True)]
    return TaggedTokens(made, TOKENIZER)


def asked() -> QuestionTokens:
    contexts = ["so it is " * (n % 5 + 1) for n in range(7)]  # up to four windows each, on either rank
    answers = [(Answer("it", context.rindex("it")),) if n % 3 else () for n, context in enumerate(contexts)]
    return QuestionTokens([Question("who", *one, "", "") for one in zip(contexts, answers, strict=True)], TOKENIZER)


TASKS: dict[str, tuple[Any, Any]] = {
    "one label": (ClassifyConfig(labels=("x", "y", "z")), labeled(["x", "y", "z"])),
    "several labels": (ClassifyConfig(kind="labels", labels=("x", "y")), labeled([("x",), (), ("x", "y")])),
    "a number": (ClassifyConfig(kind="number"), labeled(["0.5", "-2", "1"])),
    "entities": (TagConfig(labels=("B-A", "B-C", "I-A", "O")), tagged()),
    "answers": (ExtractConfig(stride=4, max_question_len=3, max_answer_len=4), asked()),
}


def figures(config: Any, tokens: Any, runtime: Runtime) -> dict[str, float]:
    """Loss and figures of an untrained encoder."""
    shape = ModelConfig(
        vocab_size=TOKENIZER.vocab_size, max_seq_len=CONTEXT, d_model=16, num_layers=1, num_heads=2, family="bert"
    )
    objective = load(objective_spec(config.name).builders["bert"])(
        config, Setup(shape, TOKENIZER, CONTEXT, DataConfig())
    )
    model = build_model(ModelConfig(**vars(shape) | {"heads": objective.heads, "init_std": 0.5}))
    model.init_weights(torch.Generator().manual_seed(1))
    examples = objective.examples(tokens, DataConfig(), CONTEXT, training=False)
    share = partial(eval_batches, examples, objective.collate, rank=runtime.rank, world_size=runtime.world_size)
    compute = Compute(torch.device("cpu"), torch.float32, compile=False)
    found = evaluate(model, share(2), objective, compute=compute, runtime=runtime, token_bytes=torch.zeros(0))
    return {"loss": found.loss, "targets": found.targets, **found.figures()}


def compare_evaluations(runtime: Runtime) -> dict[str, list[dict[str, float]]]:
    """Task -> its figures on all ranks together, and on one process."""
    return {name: [figures(*task, runtime), figures(*task, Runtime())] for name, task in TASKS.items()}
