"""Splits documents or examples into training and validation data."""

import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from minillm.data.datasets.text import Section, Text
from minillm.data.sources.files import CHUNK_BYTES
from minillm.data.sources.records import task_of

DOCUMENTS_FROM = 20
"""Smallest number of documents that `auto` splits by document."""
SMALL = ":small"
"""Name for all tasks that are too small for a validation example; task names never begin with a colon."""


def split_text(text: Text, how: Literal["auto", "tail", "document"], fraction: float) -> tuple[Section, Section]:
    """The training and the validation section of a text. `fraction` of the characters is for validation, at most."""
    _require_fraction(fraction)
    if how == "auto":
        how = "document" if len(text.documents) >= DOCUMENTS_FROM else "tail"
    return split_tail(text, fraction) if how == "tail" else split_documents(text, fraction)


def split_tail(text: Text, fraction: float) -> tuple[Section, Section]:
    """Validation gets the end of the text; the document at the boundary is cut in two."""
    ends = text.documents["chars"].cumsum()
    train_chars = int(ends[-1] * (1 - fraction))
    if train_chars < 1:
        raise ValueError(f"the text has only {ends[-1]} characters, too few to split: add text, or set data.validation")
    spans = text.spans
    cut = int(np.searchsorted(ends, train_chars))  # the document that holds the last training character
    inside = train_chars - int(ends[cut] - text.documents["chars"][cut])
    byte = _byte_of_character(text, int(spans[cut, 0]), inside)
    train = np.concatenate((spans[:cut], [[spans[cut, 0], byte]]))
    validation = np.concatenate(([[byte, spans[cut, 1]]], spans[cut + 1 :]))
    return Section(text, train), Section(text, validation[validation[:, 0] < validation[:, 1]])


def split_documents(text: Text, fraction: float) -> tuple[Section, Section]:
    """Validation gets whole documents, in the order of their hashes, while they fit. Duplicates stay together."""
    hashes, group = np.unique(text.documents["hash"], return_inverse=True)
    if len(hashes) < 2:
        raise ValueError("data.split document needs two different documents: set it to tail, or set data.validation")
    sizes = np.bincount(group, weights=text.documents["chars"]).astype(np.int64)
    limit, taken = int(sizes.sum() * fraction), 0
    chosen = np.zeros(len(hashes), bool)
    for i, size in enumerate(sizes.tolist()):
        if taken + size <= limit:
            chosen[i], taken = True, taken + size
    if not chosen.any():
        chosen[sizes.argmin()] = True
    in_validation = chosen[group]
    return Section(text, text.spans[~in_validation]), Section(text, text.spans[in_validation])


def _byte_of_character(text: Text, start: int, count: int) -> int:
    """Offset in bytes of the `count`-th character after byte `start`. A UTF-8 byte 10xxxxxx starts no character."""
    with text.path.open("rb") as file:
        file.seek(start)
        while True:
            data = np.frombuffer(file.read(CHUNK_BYTES), np.uint8)
            starts = np.flatnonzero((data & 0xC0) != 0x80)
            if count < len(starts) or len(data) == 0:
                return start + (int(starts[count]) if len(data) else 0)
            start, count = start + len(data), count - len(starts)


def input_task(example: Any) -> str:
    """The task named by an example's input."""
    return task_of(example[0])


def split_examples(
    examples: list[Any], fraction: float, task: Callable[[Any], str] = input_task
) -> tuple[list[Any], list[Any]]:
    """Training and validation examples. Validation gets `fraction` of each task, as whole groups in hash order.

    Validation may get more of a task, by less than one group, or by groups that another task still needs. Tasks too
    small for one validation example count as a single task. Training keeps at least one group of each task if possible.
    ValueError if all examples are in one group.
    """
    _require_fraction(fraction)
    sizes = Counter(map(task, examples))
    groups: dict[str, Counter[str]] = {}  # group -> task, or SMALL -> number of examples
    for example in examples:
        name = task(example)
        groups.setdefault(example.group, Counter())[name if fraction * sizes[name] >= 1 else SMALL] += 1
    if len(groups) < 2:
        raise ValueError("there are fewer than two different examples to split: add examples, or set data.validation")
    in_order = sorted(groups, key=text_hash)
    left: Counter[str] = Counter()  # task -> number of groups in the training data
    sizes.clear()
    for tasks in groups.values():
        left.update(tasks.keys())
        sizes.update(tasks)
    short = {name: fraction * size for name, size in sizes.items()}
    held: set[str] = set()
    for group in in_order:
        tasks = groups[group]
        if any(short[name] > 1e-9 for name in tasks) and all(left[name] > 1 for name in tasks):
            held.add(group)
            left.subtract(tasks.keys())
            for name, number in tasks.items():
                short[name] -= number
    held = held or {in_order[0]}
    return [e for e in examples if e.group not in held], [e for e in examples if e.group in held]


def text_hash(text: str) -> int:
    """64-bit hash of a text, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "little")


def _require_fraction(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise ValueError(f"data.validation_fraction must be between 0 and 1, both excluded, not {fraction}")
