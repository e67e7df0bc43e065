"""Text-to-text tasks: examples of an input and a target, split, tokenized and mixed (Raffel et al. 2020).

A source is jsonl, csv, parquet or hub data with two text fields, or builtin:python-tasks. The task of an example is
the prefix of its input, `summarize` in "summarize: some text"; one without a prefix belongs to the task "". On disk an
example is one document, `input SEP target EOS`; the special tokens come from no text, so that they part them safely.
Examples are laid down in the order of their hashes: any stretch of them is a fair sample of all tasks.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from minillm.data import cache, sources
from minillm.data.builtin_tasks import TASKS, VERSION, Example
from minillm.data.config import DataConfig
from minillm.data.corpus import Corpus, CorpusInfo, SplitInfo, TokenizerBuilder, dtype_of
from minillm.data.mixture import TaskTokens
from minillm.data.records import read_records

if TYPE_CHECKING:
    from minillm.tokenizers.base import Tokenizer

SPLIT_VERSION = 2
"""Part of the fingerprint; raised when the same examples are split otherwise."""
_SMALL = ":small"
"""The name of no task: it begins with a colon."""
_PREFIX = re.compile(r"([^\W\d][^:\n]{0,39}):(?!\S)")


def task_of(text: str) -> str:
    """The task that an input belongs to: the short text before its first colon, if a blank follows; "" for none."""
    match = _PREFIX.match(text)
    return match[1] if match else ""


def read_examples(source: str, config: DataConfig) -> Iterator[Example]:
    """The examples of a source; those without an input or a target are passed over.

    Raises:
        FileNotFoundError, ValueError, OSError: as `records.read_records`.
    """
    if source.startswith(sources.BUILTIN):
        yield from TASKS[_builtin(source)]()
        return
    for record in read_records(source):
        text, target = record.text(config.input_field), record.text(config.target_field)
        if text and target:
            yield Example(text, target, text)


def fingerprint(source: str, config: DataConfig) -> str:
    """Hash of the content that `read_examples` would give."""
    if source.startswith(sources.BUILTIN):
        return cache.key(_builtin(source), VERSION, sources.fingerprint(f"{sources.BUILTIN}python-stdlib"))
    return sources.fingerprint(source, f"{config.input_field} {config.target_field}")


def _builtin(source: str) -> str:
    name = source.removeprefix(sources.BUILTIN)
    if name not in TASKS:
        known = ", ".join(sources.BUILTIN + known for known in TASKS)
        raise ValueError(f"{source} holds no text-to-text examples: take {known}, or data with an input and a target")
    return name


def prepare_tasks(config: DataConfig, tokenizer: Tokenizer | TokenizerBuilder, *, progress: bool = False) -> Corpus:
    """As `corpus.prepare`, for a source of text-to-text examples. All examples are held in memory once.

    Raises:
        FileNotFoundError, ValueError, OSError: the source or a setting is at fault; one line that names it.
    """
    folder = cache.cache_folder(config.cache)
    found, examples = _cached(config.source, config, folder, progress)
    if config.validation is None:
        train, validation = split_examples(examples, config.validation_fraction)
        found = cache.key(found, SPLIT_VERSION)
    else:
        own, validation = _cached(config.validation, config, folder, progress)
        if own == found:
            raise ValueError(f"data.validation {config.validation} is the training data itself: give other data")
        train, found = examples, cache.key(found, own)
    if callable(tokenizer):
        tokenizer = tokenizer(_texts(train), _texts(validation))
    splits = {"train": train, "validation": validation}
    tokens = {name: _tokenized(part, tokenizer, folder, progress) for name, part in splits.items()}
    sizes = {name: _size(part, tokens[name]) for name, part in splits.items()}
    info = CorpusInfo(config.source, found, config.validation, sizes["train"], sizes["validation"])
    return Corpus(tokens["train"], tokens["validation"], tokenizer, info)


def read_task_tokens(source: str, config: DataConfig, tokenizer: Tokenizer, *, progress: bool = False) -> TaskTokens:
    """All examples of `source`, nothing split off, to evaluate a finished model on."""
    folder = cache.cache_folder(config.cache)
    return _tokenized(_cached(source, config, folder, progress)[1], tokenizer, folder, progress)


def split_examples(examples: list[Example], fraction: float) -> tuple[list[Example], list[Example]]:
    """Training and validation examples: of each task that share, of whole groups in the order of their hashes.

    A task's share is passed by less than one group, or by groups that another task still needs. Tasks too small to
    give one example are taken together as one task. None loses its last group to validation, unless no other is left.

    Raises:
        ValueError: the fraction is out of range, or all examples are of one group.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"data.validation_fraction must be between 0 and 1, both excluded, not {fraction}")
    sizes = Counter(task_of(example.input) for example in examples)
    groups: dict[str, Counter[str]] = {}  # how many examples of each task; of _SMALL the others
    for example in examples:
        task = task_of(example.input)
        groups.setdefault(example.group, Counter())[task if fraction * sizes[task] >= 1 else _SMALL] += 1
    if len(groups) < 2:
        raise ValueError("there are fewer than two different examples to split: give more, or data.validation")
    in_order = sorted(groups, key=_hash)
    left: Counter[str] = Counter()  # groups that are still to train on
    sizes.clear()
    for tasks in groups.values():
        left.update(tasks.keys())
        sizes.update(tasks)
    short = {task: fraction * size for task, size in sizes.items()}
    held: set[str] = set()
    for group in in_order:
        tasks = groups[group]
        if any(short[task] > 1e-9 for task in tasks) and all(left[task] > 1 for task in tasks):
            held.add(group)
            left.subtract(tasks.keys())
            for task, number in tasks.items():
                short[task] -= number
    held = held or {in_order[0]}
    parts: tuple[list[Example], list[Example]] = ([], [])
    for example in examples:
        parts[example.group in held].append(example)
    return parts


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "little")


def _cached(source: str, config: DataConfig, folder: Path, progress: bool) -> tuple[str, list[Example]]:
    """The source's fingerprint and its examples, read at the first call and found in the cache later."""
    limit, found = config.max_documents, fingerprint(source, config)

    def make(temporary: Path) -> dict[str, Any]:
        bar = tqdm(read_examples(source, config), desc="reading", disable=not progress, leave=False)
        examples = list(islice(bar, limit))
        if not examples:
            raise ValueError(f"{source} has no example with an input and a target: give some")
        examples.sort(key=lambda example: (_hash(example.input), example))
        (temporary / "examples.jsonl").write_text("".join(map(_line, examples)), encoding="utf-8")
        return {"source": source, "examples": len(examples)}

    home = folder / f"examples-{cache.key(found, limit)}"
    cache.entry(home, make)
    with (home / "examples.jsonl").open(encoding="utf-8") as file:
        return found, [Example(*json.loads(line)) for line in file]


def _line(example: Example) -> str:
    return json.dumps(example) + "\n"


def _texts(examples: Iterable[Example]) -> Iterator[str]:
    for example in examples:
        yield example.input
        yield example.target


def _tokenized(examples: list[Example], tokenizer: Tokenizer, folder: Path, progress: bool) -> TaskTokens:
    """The tokens of the examples, from the cache."""
    names = tuple(sorted({task_of(example.input) for example in examples}))
    content = hashlib.sha256("".join(map(_line, examples)).encode()).hexdigest()
    home = folder / f"tasks-{cache.key(content, tokenizer.hash)}"
    dtype = dtype_of(tokenizer)

    def make(temporary: Path) -> dict[str, Any]:
        with (temporary / "ids.bin").open("wb") as file:
            for example in tqdm(examples, desc="tokenizing", disable=not progress, leave=False):
                parts = tokenizer.encode(example.input), [tokenizer.sep_id], tokenizer.encode(example.target)
                file.write(np.concatenate((*parts, [tokenizer.eos_id])).astype(dtype).tobytes())
        return {"examples": len(examples)}

    cache.entry(home, make)
    indices = np.array([names.index(task_of(example.input)) for example in examples])
    return TaskTokens(np.memmap(home / "ids.bin", dtype, "r"), tokenizer.eos_id, names, indices)


def _size(examples: list[Example], tokens: TaskTokens) -> SplitInfo:
    return SplitInfo(len(examples), sum(len(text.encode("utf-8")) for text in _texts(examples)), tokens.num_tokens)
