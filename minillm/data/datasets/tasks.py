"""Text-to-text tasks: examples with an input and a target, tokenized and mixed (Raffel et al. 2020).

The task of an example is the prefix of its input, `summarize` in "summarize: some text"; without a prefix it is "". In
the cache, an example is one document, `input SEP target EOS`; text never contains special tokens. Examples are sorted
by their hashes, so that any range of them is a random sample of all tasks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from tqdm import tqdm

from minillm.data import cache, sources
from minillm.data.config import DataConfig
from minillm.data.datasets.corpus import Corpus, Source, TokenizerBuilder, dtype_of, prepare_examples
from minillm.data.datasets.text import READING
from minillm.data.loader import Tokens
from minillm.data.sources.builtin_tasks import NAME as TASKS
from minillm.data.sources.builtin_tasks import VERSION, python_tasks
from minillm.data.sources.records import Example, Tally, task_of
from minillm.data.split import split_examples, text_hash

if TYPE_CHECKING:
    from minillm.tokenizers.base import Tokenizer

SPLIT_VERSION = 2
"""Part of the fingerprint; increase it when the same examples are split differently."""


def read_examples(source: str, config: DataConfig, tally: Tally) -> Iterator[Example]:
    """The examples of a source, except those with an empty input or target, which are only counted."""
    if source == TASKS:
        yield from python_tasks()
        return
    if source.startswith(sources.BUILTIN):
        raise ValueError(f"{source} has no text-to-text examples: give {TASKS}, or data with an input and a target")
    columns = {"data.input_field": config.input_field, "data.target_field": config.target_field}
    for record in sources.read_records(source, columns):
        text, target = record.text(config.input_field), record.text(config.target_field)
        if tally.keeps(input=text, target=target):
            yield Example(text, target, text)


def fingerprint(source: str, config: DataConfig) -> str:
    """Hash of the content that `read_examples` would return."""
    if source == TASKS:
        return cache.key("python-tasks", VERSION, sources.fingerprint(f"{sources.BUILTIN}python-stdlib"))
    return sources.fingerprint(source, f"{config.input_field} {config.target_field}")


def prepare_tasks(config: DataConfig, tokenizer: Tokenizer | TokenizerBuilder, *, progress: bool = False) -> Corpus:
    """Like `corpus.prepare`, for a source of text-to-text examples."""
    folder = cache.cache_folder(config.cache)
    corpus = prepare_examples(
        config,
        tokenizer,
        read=lambda source: cached_examples(source, config, folder, progress),
        split=lambda examples: split_examples(examples, config.validation_fraction),
        tokenize=lambda examples, tokenizer: _tokenized(examples, tokenizer, folder, progress),
    )
    if config.validation is not None:
        return corpus
    key = cache.key(corpus.info.fingerprint, SPLIT_VERSION)
    return replace(corpus, info=replace(corpus.info, fingerprint=key))


def read_task_tokens(source: str, config: DataConfig, tokenizer: Tokenizer, *, progress: bool = False) -> TaskTokens:
    """All examples of `source`, not split, to evaluate a trained model on."""
    folder = cache.cache_folder(config.cache)
    read = cached_examples(source, config, folder, progress)
    tokens = _tokenized(read.content, tokenizer, folder, progress)
    tokens.notes = read.notes
    return tokens


def cached_examples(source: str, config: DataConfig, folder: Path, progress: bool) -> Source:
    """The examples of a source, cached."""
    limit, key = config.max_documents, fingerprint(source, config)

    def make(temporary: Path) -> dict[str, Any]:
        tally = Tally("examples")
        found = read_examples(source, config, tally)
        bar = tqdm(found, desc="reading", disable=None if progress else True, leave=False)
        examples = list(islice(bar, limit))
        if not examples:
            raise ValueError(f"{source} has no examples with an input and a target: add some")
        examples.sort(key=lambda example: (text_hash(example.input), example))
        (temporary / "examples.jsonl").write_text("".join(map(_line, examples)), encoding="utf-8")
        return {"source": source, "examples": len(examples), "notes": tally.notes()}

    home = folder / f"examples-{cache.key(key, limit, READING)}"
    facts = cache.entry(home, make)
    notes = (*sources.left_out(source), *(f"{source}: {note}" for note in facts["notes"]))
    with (home / "examples.jsonl").open(encoding="utf-8") as file:
        return Source([Example(*json.loads(line)) for line in file], key, notes)


def _line(example: Example) -> str:
    return json.dumps(example) + "\n"


def _tokenized(examples: list[Example], tokenizer: Tokenizer, folder: Path, progress: bool) -> TaskTokens:
    names = tuple(sorted({task_of(example.input) for example in examples}))
    content = hashlib.sha256("".join(map(_line, examples)).encode()).hexdigest()
    home = folder / f"tasks-{cache.key(content, tokenizer.hash)}"
    dtype = dtype_of(tokenizer)

    def make(temporary: Path) -> dict[str, Any]:
        with (temporary / "ids.bin").open("wb") as file:
            for example in tqdm(examples, desc="tokenizing", disable=None if progress else True, leave=False):
                parts = tokenizer.encode(example.input), [tokenizer.sep_id], tokenizer.encode(example.target)
                file.write(np.concatenate((*parts, [tokenizer.eos_id])).astype(dtype).tobytes())
        return {"examples": len(examples)}

    cache.entry(home, make)
    indices = np.array([names.index(task_of(example.input)) for example in examples])
    return TaskTokens(np.memmap(home / "ids.bin", dtype, "r"), tokenizer.eos_id, names, indices)


class TaskTokens(Tokens):
    """The examples of one split, documents `input SEP target EOS`; `task_of` is (D,) indices into `tasks`."""

    def __init__(self, ids: np.ndarray, eos_id: int, tasks: tuple[str, ...], task_of: np.ndarray):
        super().__init__(ids, eos_id)
        self.tasks, self.task_of = tasks, task_of

    def lengths(self, sep_id: int) -> tuple[np.ndarray, np.ndarray]:
        """(D,) number of tokens of each input, and of each target with its EOS."""
        bounds = np.append(self.document_starts, self.num_tokens)
        parted = np.flatnonzero(self.slice(0, self.num_tokens) == sep_id)
        return parted - bounds[:-1], bounds[1:] - parted - 1


class TaskRows:
    """The examples in order, or only the first `limit` of them, or only those of `task`."""

    def __init__(self, tokens: TaskTokens, task: str | None = None, limit: int | None = None):
        self.tokens = tokens
        self.bounds = np.append(tokens.document_starts, tokens.num_tokens)
        chosen = np.ones(len(tokens.task_of), bool) if task is None else tokens.task_of == tokens.tasks.index(task)
        self.documents = np.flatnonzero(chosen)[:limit]

    @property
    def seq_len(self) -> int:
        """Average number of tokens in an example, input and target together."""
        return max(1, self.tokens.num_tokens // len(self.tokens.task_of))

    @property
    def num_offsets(self) -> int:
        return len(self.documents)

    def __len__(self) -> int:
        return len(self.documents)

    def document(self, window: int, offset: int) -> int:
        return int(self.documents[window])

    def span(self, window: int, offset: int = 0) -> tuple[int, int]:
        """[start, stop) of the document in the token stream, EOS included."""
        document = self.document(window, offset)
        return int(self.bounds[document]), int(self.bounds[document + 1])

    def row(self, window: int, offset: int = 0) -> np.ndarray:
        return self.tokens.slice(*self.span(window, offset)).astype(np.int64)


class Mixture(TaskRows):
    """Gives each task its share of an epoch, which has as many rows as there are examples.

    A task with fewer examples than its share repeats them. One with more uses only some of them; the offset decides
    which. `mixing` and `temperature` are data.mixing and data.mixing_temperature.
    """

    def __init__(
        self,
        tokens: TaskTokens,
        mixing: Literal["proportional", "temperature", "equal"] = "proportional",
        temperature: float = 2.0,
    ):
        super().__init__(tokens)
        self.members = [np.flatnonzero(tokens.task_of == task) for task in range(len(tokens.tasks))]
        sizes = np.array([len(members) for members in self.members], float)
        power = {"proportional": 1.0, "temperature": 1 / temperature, "equal": 0.0}[mixing]
        shares = np.where(sizes > 0, sizes**power, 0).cumsum()
        self.ends = np.round(shares / shares[-1] * len(self)).astype(np.int64)

    def document(self, window: int, offset: int) -> int:
        task = int(np.searchsorted(self.ends, window, side="right"))
        first = int(self.ends[task - 1]) if task else 0
        return int(self.members[task][(offset + window - first) % len(self.members[task])])
