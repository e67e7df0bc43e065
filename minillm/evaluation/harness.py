"""Evaluation by the tasks of EleutherAI's lm-evaluation-harness (Gao et al. 2021; Biderman et al. 2024).

Texts are tokenized and split into windows as in the harness's model for Hugging Face (`HFLM`), so that a run and its
exported folder get the same scores. Four things differ: the name of a special token in a text is ordinary text here;
a context of only whitespace counts as empty, where HFLM fails; an option that is not supported is an error; and only
HFLM applies the settings of [sample] that an export writes to generation_config.json.
"""

import random
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from minillm.generation.adapters import evaluating, padded
from minillm.generation.config import SampleConfig
from minillm.generation.generate import generate, require_finite
from minillm.generation.text import allowed_ids
from minillm.generation.text_stream import TextStream
from minillm.tokenizers.base import Tokenizer

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.defaults import DEFAULT_MAX_GEN_TOKS, DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
    from lm_eval.evaluator import evaluate
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as error:
    raise OSError(f'--harness needs lm-evaluation-harness: pip install "minillm[harness]" ({error})') from None

BATCH, MAX_LOGITS = 16, 2**28
"""Maximum rows and logits (1 GiB in fp32) in a batch."""
RESAMPLES = 1000
"""Bootstrap samples for standard errors without a formula; the harness's default of 100,000 takes minutes."""
OPTIONS = {"top_k", "top_p", "min_p", "repetition_penalty"}
"""Generation options of tasks that `SampleConfig` has under the same names."""
_TASK, _GROUP = (re.compile(rf"^{key}\s*:", re.MULTILINE) for key in ("task", "group"))


def run_harness(
    model: Any, tokenizer: Tokenizer, tasks: Sequence[str], *, prefix: bool = False
) -> dict[str, dict[str, float]]:
    """Score a GPT on tasks of the harness, in the dtype of its weights.

    Args:
        tasks: each a name or pattern of the harness's tasks, a task's YAML file, or a folder of such files, at any
            depth.
        prefix: whether the model reads its context in both directions.

    Returns:
        For each task and each group with its own metrics: the number of `examples`, and the metrics by their names in
        the harness, such as `acc`, its standard error `acc_stderr`, or `exact_match,strict` after a named filter.

    Raises:
        ValueError: a task is unknown or damaged, or needs something that is not supported.
        OSError: a task's data cannot be read or downloaded.
    """
    random.seed(DEFAULT_RANDOM_SEED)  # some tasks shuffle with it; the harness's command line sets the same seed
    loaded = load_tasks(tasks)
    for task in loaded["tasks"].values():
        task.set_fewshot_seed(DEFAULT_OTHER_SEED)
    harness_model = HarnessLM(model, tokenizer, prefix=prefix)
    with redirect_stdout(sys.stderr):  # the harness prints progress; standard output belongs to the caller
        scores: Any = evaluate(lm=harness_model, task_dict=loaded, bootstrap_iters=RESAMPLES, log_samples=False)
    return {name: metrics for name, score in scores["results"].items() if (metrics := _metrics(score))}


def load_tasks(wanted: Sequence[str]) -> Any:
    """The harness's tasks and groups; arguments and exceptions as in `run_harness`."""
    if not wanted:
        raise ValueError("--harness names no task; give names, YAML files or folders, separated by commas")
    names = [name for name in wanted if not Path(name).exists()]
    files = [file for name in wanted if name not in names for file in _files(Path(name))]
    if missing := next((name for name in names if name.endswith((".yaml", "/"))), None):
        raise FileNotFoundError(f"{missing} does not exist; --harness takes names of tasks, YAML files and folders")
    groups: list[Any] = [file.parent for file in files if _GROUP.search(file.read_text(encoding="utf-8"))]
    # To find its own tasks by name, the harness reads 14,000 files, which takes seconds.
    manager = TaskManager(include_path=groups, include_defaults=bool(names or groups))
    if unknown := next((name for name in names if not manager.match_tasks([name])), None):
        raise ValueError(f"{unknown} is neither a task of lm-evaluation-harness (see `lm-eval ls tasks`) nor a file")
    known = {entry.yaml_path: name for name, entry in manager.task_index.items()}  # a group can only be loaded by name
    try:
        return manager.load([*manager.match_tasks(names), *(known.get(file, str(file)) for file in files)])
    except OSError:
        raise
    except Exception as error:  # a task has its own code and templates, which may raise anything
        raise ValueError(f"{', '.join(wanted)} cannot be loaded: {type(error).__name__}: {error}") from error


def _files(path: Path) -> list[Path]:
    """The file itself, or the files in a folder that define one task each."""
    if not path.is_dir():
        return [path]
    texts = {file: file.read_text(encoding="utf-8") for file in sorted(path.rglob("*.yaml"))}
    tasks = [file for file, text in texts.items() if _TASK.search(text) and not _GROUP.search(text)]
    if not tasks:
        raise ValueError(f"{path} has no task: no .yaml file in it has a line `task: NAME`")
    return tasks


def _metrics(score: Mapping[str, Any]) -> dict[str, float]:
    """A task's metrics, which the harness names `metric,filter`; those that it could not compute are strings."""
    numbers = {key: float(value) for key, value in score.items() if "," in key and isinstance(value, int | float)}
    metrics = {key.removesuffix(",none"): value for key, value in numbers.items()}
    return {"examples": score["sample_len"], **metrics} if metrics else {}


class HarnessLM(TemplateLM):
    """A model for the harness. `loglikelihood`, which tokenizes texts, is inherited, as in HFLM."""

    def __init__(self, model: Any, tokenizer: Tokenizer, *, prefix: bool = False) -> None:
        super().__init__()
        self.model, self.ids, self.prefix = model, tokenizer, prefix
        self._device, self.max_length = next(model.parameters()).device, model.config.max_seq_len
        self.allowed = allowed_ids(tokenizer, model.config.vocab_size or tokenizer.vocab_size)

    @property
    def eot_token_id(self) -> int:
        """The id that ends a text."""
        return self.ids.eos_id

    @property
    def prefix_token_id(self) -> int:
        """The id before a text without a context, the same as in HFLM with the exported folder."""
        return self.ids.start_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Ids of a text, after the prefix of an imported tokenizer unless `add_special_tokens` is False."""
        prefix = () if add_special_tokens is False else self.ids.prefix_ids
        return [*prefix, *self.ids.encode(string).tolist()]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of each whole text in nats; a text longer than the context is scored in windows."""
        windows = []
        for request in requests:
            ids = self.tok_encode(request.args[0])
            parts = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, context_len=1)
            windows.append([(("", request.args[0]), *make_disjoint_window(part)) for part in parts])
        scores = iter(self._loglikelihood_tokens([*chain.from_iterable(windows)], disable_tqdm))
        return [sum((next(scores)[0] for _ in parts), 0.0) for parts in windows]

    @torch.inference_mode()
    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """For each (texts, context ids, continuation ids): the log-probability of the continuation in nats, and
        whether each of its tokens is the most likely one. A long context is truncated at its start.
        """
        rows: list[tuple[list[int], int]] = []
        for texts, context, continuation in requests:
            if not 0 < len(continuation) <= self.max_length:
                raise ValueError(
                    f"{texts[1]!r} after {texts[0][-40:]!r} is {len(continuation)} tokens, and the model scores 1 to "
                    f"{self.max_length}; change the task, or its target_delimiter if the two merge into one token"
                )
            ids = [*(context or [self.prefix_token_id]), *continuation]
            rows.append((ids[-self.max_length - 1 :], len(continuation)))
        with evaluating(self.model):
            return self._in_batches(rows, self._score, lambda row: len(row[0]), disable_tqdm)

    def _score(self, rows: list[tuple[list[int], int]]) -> list[tuple[float, bool]]:
        """Scores of rows (ids, number of ids at the end to score); the ids before those are the context."""
        # Padding needs no mask: it is at the end, and no token attends to later tokens outside the context.
        tokens, _ = padded([ids[:-1] for ids, _ in rows], side="right", device=self._device)  # (B, T)
        targets, scored = padded([ids[-count:] for ids, count in rows], side="left", device=self._device)  # (B, P)
        ends = torch.tensor([[len(ids) - 1] for ids, _ in rows], device=self._device)  # (B, 1)
        at = ends + torch.arange(-targets.size(1), 0, device=self._device)  # (B, P)
        context = torch.tensor([len(ids) - count for ids, count in rows], device=self._device) if self.prefix else None
        logits = self.model(tokens, predict_at=at.clamp(min=0), prefix_length=context).logits["lm"]  # (B, P, V)
        scores = logits.gather(-1, targets[..., None])[..., 0] - logits.logsumexp(-1)  # (B, P)
        require_finite(scores)
        correct = logits.argmax(-1) == targets
        if scored is not None:
            scores, correct = scores.masked_fill(~scored, 0.0), correct | ~scored
        return list(zip(scores.sum(1).tolist(), correct.all(1).tolist(), strict=True))

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The generated text after each context, up to a stop string; ValueError for an unsupported option."""
        repeats: Counter[str] = Counter()
        alike: dict[tuple[str, int], list[int]] = defaultdict(list)
        for i, request in enumerate(requests):
            repeats[repr(request.args)] += 1  # a repeated request gets a new seed, and so a new sample
            alike[repr(request.args[1]), repeats[repr(request.args)]].append(i)
        texts = [""] * len(requests)
        for (_, seed), members in alike.items():
            config = self._options(requests[members[0]], seed)
            room = self.max_length - config.max_new_tokens
            prompts = [self.tok_encode(requests[i].args[0])[-room:] for i in members]
            generated = self._in_batches(prompts, partial(self._write, config=config), len, disable_tqdm)
            for i, text in zip(members, generated, strict=True):
                texts[i] = text
        return texts

    def _options(self, request: Any, seed: int) -> SampleConfig:
        """The SampleConfig of a request; greedy unless it sets do_sample."""
        where = f"{request.task_name}: generation_kwargs"
        given = {key: value for key, value in request.args[1].items() if value is not None}
        options: Any = normalize_gen_kwargs(given, DEFAULT_MAX_GEN_TOKS)
        until, longest, draw = (options.pop(key) for key in ("until", "max_gen_toks", "do_sample"))
        temperature = options.pop("temperature", 0.0)
        if unknown := sorted(options.keys() - OPTIONS):
            raise ValueError(f"{where}.{unknown[0]} is not supported; remove it from the task")
        if draw and not temperature:
            raise ValueError(f"{where}.do_sample needs a temperature above 0")
        if not 0 < longest < self.max_length:
            raise ValueError(f"{where}.max_gen_toks is {longest}; the model reads {self.max_length}, context included")
        options |= {"temperature": temperature if draw else 0.0, "max_new_tokens": longest, "stop": tuple(until)}
        return SampleConfig(**options, seed=seed, num_draft_tokens=0)

    def _write(self, prompts: list[list[int]], config: SampleConfig) -> list[str]:
        streams = [TextStream(config.stop, lambda _: None) for _ in prompts]

        def stops(row: int, token: int) -> bool:
            return streams[row].push(self.ids.decode_bytes([token]))

        options: Any = {"prefix": self.prefix, "eos_id": self.ids.eos_ids, "allowed": self.allowed, "on_token": stops}
        completions = generate(self.model, prompts, config, **options)
        # Cut at stop strings as HFLM does, which matters if they overlap or if the last character is incomplete.
        texts = [self.ids.decode(completion.ids) for completion in completions]
        for stop in config.stop:
            texts = [text.split(stop)[0] for text in texts]
        return texts

    def _in_batches(self, rows: list[Any], work: Any, length: Callable[[Any], int], quiet: bool) -> list[Any]:
        """`work` on batches of rows of similar lengths, longest first, since those need the most memory."""
        order = sorted(range(len(rows)), key=lambda i: -length(rows[i]))
        done: dict[int, Any] = {}
        with tqdm(total=len(rows), disable=quiet or None, leave=False) as bar:  # None: only on a terminal
            while order:
                longest = length(rows[order[0]])
                size = max(1, min(BATCH, MAX_LOGITS // (len(self.allowed) * max(1, longest))))
                part = [i for i in order[:size] if 2 * length(rows[i]) >= longest]  # at most half is padding
                done |= zip(part, work([rows[i] for i in part]), strict=True)
                order = order[len(part) :]
                bar.update(len(part))
        return [done[i] for i in range(len(rows))]
