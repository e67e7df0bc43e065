"""Heads for sequences, tokens and spans under Hugging Face's names, and the labels in config.json."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from minillm.exchange.weight_map import Rule
from minillm.nn.config import HeadSpec

NAMES = ("score.", "classifier.", "qa_outputs.")
"""Beginnings of the names of their heads' weights."""
CLASSES = {"class": "ForSequenceClassification", "tag": "ForTokenClassification", "span": "ForQuestionAnswering"}
"""Our head -> the end of the name of the class that has it."""
PIPELINES = {"class": "text-classification", "tag": "token-classification", "span": "question-answering"}
OBJECTIVES = {"class": "classify", "tag": "tag", "span": "extract"}
PROBLEMS = {"label": "single_label_classification", "labels": "multi_label_classification", "number": "regression"}
"""Our kind of labels -> their problem_type."""
QA_DROPOUT = 0.1
"""DistilBERT's default."""


class TaskNames(NamedTuple):
    """Their names of the heads' layers in one family."""

    of_class: str = "classifier"
    of_tag: str = "classifier"
    class_bias: bool = True
    pooler: str | None = "bert.pooler.dense"
    """Name of the class head's first layer, whose activation is tanh; None: the head has one layer."""


BERT, GPT2, LLAMA = TaskNames(), TaskNames("score", "classifier", False, None), TaskNames("score", "score", False, None)
ROBERTA = TaskNames("classifier.out_proj", pooler="classifier.dense")


def task_head(heads: Collection[str]) -> str | None:
    """The only one of our heads, if it is for a task; None otherwise. ValueError if there are others beside it."""
    names = [HeadSpec.parse(head).name for head in heads]
    found = [name for name in names if name in CLASSES]
    if found and len(names) > 1:
        raise ValueError(f"model.heads is {list(heads)}; no transformers class has this combination")
    return found[0] if found else None


def pipeline_of(heads: Collection[str]) -> str | None:
    """The task on the hub of a model with this head; None for other models."""
    name = task_head(heads)
    return PIPELINES[name] if name else None


def auto_class_of(heads: Collection[str]) -> str | None:
    """The class of transformers that loads a model with this head for a task; None for other models."""
    name = task_head(heads)
    return f"AutoModel{CLASSES[name]}" if name else None


def head_of(config: Mapping[str, Any]) -> str | None:
    """Our head for their config, such as `class:3`; None if its architecture has none for a task."""
    architecture = next(iter(config.get("architectures") or [""]))
    name = next((name for name, ending in CLASSES.items() if str(architecture).endswith(ending)), None)
    return name if name in (None, "span") else f"{name}:{len(labels_of(config))}"


def task_rows(heads: Collection[str], names: TaskNames) -> tuple[Rule, ...]:
    """Rows of the weights of a task's head; empty for other models."""
    name = task_head(heads)
    if name is None:
        return ()
    layer = {"class": names.of_class, "tag": names.of_tag, "span": "qa_outputs"}[name]
    parts = ("weight", "bias") if name != "class" or names.class_bias else ("weight",)
    rows = [Rule(f"{layer}.{part}", f"heads.{name}.proj.{part}") for part in parts]
    if name == "class" and names.pooler:
        rows += [Rule(f"{names.pooler}.{part}", f"heads.class.pooler.{part}") for part in parts]
    return tuple(rows)


def labels_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the classes, in order; without names LABEL_0, LABEL_1 and so on, as in transformers."""
    named = config.get("id2label")
    if not isinstance(named, Mapping) or not named:
        return tuple(f"LABEL_{i}" for i in range(config.get("num_labels") or 2))
    try:
        by_id = {int(i): str(name) for i, name in named.items()}
        return tuple(by_id[i] for i in range(len(by_id)))
    except (ValueError, KeyError):
        raise ValueError(f"id2label is {dict(named)!r}; its keys must be the numbers from 0") from None


def objective_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of our objective for their model; empty for a model without a head for a task."""
    head = head_of(config)
    if head is None:
        return {}
    name = HeadSpec.parse(head).name
    found: dict[str, Any] = {"name": OBJECTIVES[name]}
    if name == "class":
        alone = "number" if head == "class:1" else "label"
        found["kind"] = next((ours for ours, hf in PROBLEMS.items() if hf == config.get("problem_type")), alone)
    named = name == "tag" or (name == "class" and found["kind"] != "number")
    return found | ({"labels": labels_of(config)} if named else {})


def unused_dropout(config: Mapping[str, Any]) -> str | None:
    """A line about dropout before the head for answers, which ours does not have; None if there is none."""
    rate = config.get("qa_dropout", QA_DROPOUT) if config.get("model_type") == "distilbert" else 0.0
    if head_of(config) != "span" or not rate:
        return None
    return f"qa_dropout is {rate}; minillm trains the head for answers without dropout"


def label_settings(objective: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of config.json for the labels in our objective's settings."""
    labels, kind = objective.get("labels", ()), objective.get("kind")
    names = labels or (("LABEL_0",) if kind == "number" else ())
    settings: dict[str, Any] = {"problem_type": PROBLEMS[kind]} if kind in PROBLEMS else {}
    if names:
        settings |= {"id2label": {str(i): name for i, name in enumerate(names)}}
        settings |= {"label2id": {name: i for i, name in enumerate(names)}}
    return settings
