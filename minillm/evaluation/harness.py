"""A run under EleutherAI's lm-evaluation-harness (Gao et al. 2021; Biderman et al. 2024): its tasks, our passes.

Ids and windows are made of texts as by the harness's own Hugging Face model (`HFLM`), so that a run and the folder it
was exported to score the same. But the name of a special token in a text is text here, a context of nothing but blanks
counts as none, where HFLM stops, and an option that the model cannot honour is an error that names it.
"""

from __future__ import annotations

import random
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, cast

import torch
from tqdm import tqdm

from minillm.generation.adapters import evaluating, padded
from minillm.generation.config import SampleConfig
from minillm.generation.generate import generate, require_finite
from minillm.generation.text import TextStream, allowed_ids
from minillm.models.gpt import GPT
from minillm.run.loaded import LoadedRun

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.defaults import DEFAULT_MAX_GEN_TOKS, DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
    from lm_eval.evaluator import evaluate
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as error:
    raise OSError(f'--harness needs lm-evaluation-harness: pip install "minillm[harness]" ({error})') from None

BATCH = 16
"""Rows that are read or written side by side at most."""
MAX_LOGITS = 2**28
"""Logits of a batch at most, 1 GiB in fp32: a large vocabulary makes the batches smaller."""
RESAMPLES = 1000
"""Draws for a standard error that has no formula; the harness's 100,000 take minutes for a figure's third digit."""
OPTIONS = {"top_k", "top_p", "min_p", "repetition_penalty"}
"""Generation options of tasks that `SampleConfig` knows by the same names."""
_TASK, _GROUP = (re.compile(rf"^{key}\s*:", re.MULTILINE) for key in ("task", "group"))


def run_harness(loaded: LoadedRun, tasks: Sequence[str]) -> dict[str, dict[str, float]]:
    """Score a run on tasks of the harness, in fp32.

    Args:
        loaded: a run of a decoder-only model.
        tasks: each the name of a task that comes with the harness, or a pattern; or a task's YAML file; or a folder
            of such files, at any depth.

    Returns:
        For each task, and each group with figures of its own: the number of `examples`, and figures by their names
        in the harness, such as `acc`, its standard error `acc_stderr`, or `exact_match,strict` after a named filter.

    Raises:
        ValueError: the model is not a GPT, a task is unknown or damaged, or it asks for what the model cannot do.
        OSError: a task's data cannot be read or fetched.
    """
    model = HarnessLM(loaded)
    random.seed(DEFAULT_RANDOM_SEED)  # some tasks' own code shuffles by it; the harness's command line seeds it so
    found = load_tasks(tasks)
    for task in found["tasks"].values():
        task.set_fewshot_seed(DEFAULT_OTHER_SEED)
    with redirect_stdout(sys.stderr):  # the harness prints that it resamples; standard output is the caller's
        measured: Any = evaluate(lm=model, task_dict=found, bootstrap_iters=RESAMPLES, log_samples=False)
    return {name: figures for name, one in measured["results"].items() if (figures := _figures(one))}


def load_tasks(wanted: Sequence[str]) -> Any:
    """The harness's tasks and groups; `wanted` and what it raises as of `run_harness`.

    To know its own tasks by name the harness reads 14,000 files, which takes seconds: done only where it is needed.
    """
    if not wanted:
        raise ValueError("--harness names no task; give names, YAML files or folders, with commas between them")
    names = [one for one in wanted if not Path(one).exists()]
    files = [file for one in wanted if one not in names for file in _files(Path(one))]
    if lost := next((one for one in names if one.endswith((".yaml", "/"))), None):
        raise FileNotFoundError(f"{lost} is not there; --harness takes names of tasks, YAML files and folders")
    groups: list[Any] = [file.parent for file in files if _GROUP.search(file.read_text(encoding="utf-8"))]
    manager = TaskManager(include_path=groups, include_defaults=bool(names or groups))
    if lost := next((one for one in names if not manager.match_tasks([one])), None):
        raise ValueError(f"{lost} is neither a task of lm-evaluation-harness (see `lm-eval ls tasks`) nor a file here")
    known = {entry.yaml_path: name for name, entry in manager.task_index.items()}  # a group is found by its name alone
    try:
        return manager.load([*manager.match_tasks(names), *(known.get(file, str(file)) for file in files)])
    except OSError:
        raise
    except Exception as error:  # a task is code and templates of its own: anything may come out of it
        raise ValueError(f"{', '.join(wanted)} cannot be loaded: {type(error).__name__}: {error}") from error


def _files(path: Path) -> list[Path]:
    """The file itself, or those in a folder that each hold one task."""
    if not path.is_dir():
        return [path]
    texts = {file: file.read_text(encoding="utf-8") for file in sorted(path.rglob("*.yaml"))}
    tasks = [file for file, text in texts.items() if _TASK.search(text) and not _GROUP.search(text)]
    if not tasks:
        raise ValueError(f"{path} holds no task: no .yaml file below it has a line `task: NAME`")
    return tasks


def _figures(measured: Mapping[str, Any]) -> dict[str, float]:
    """A task's figures, which the harness writes as `metric,filter`; one that it cannot compute is a text there."""
    numbers = {key: float(one) for key, one in measured.items() if "," in key and isinstance(one, int | float)}
    figures = {key.removesuffix(",none"): one for key, one in numbers.items()}
    return {"examples": measured["sample_len"], **figures} if figures else {}


class HarnessLM(TemplateLM):
    """A run as the harness's model; `loglikelihood`, which makes ids of texts, is inherited from where HFLM has it."""

    def __init__(self, loaded: LoadedRun) -> None:
        """ValueError where the run is not of a decoder-only model."""
        super().__init__()
        shape = loaded.config.model
        if shape.family != "gpt":
            raise ValueError(f"{loaded.folder} is a {shape.family} model; the harness's tasks are for a gpt, a decoder")
        self.model, self.ids, self._device = cast(GPT, loaded.model), loaded.tokenizer, loaded.compute.device
        self.prefix = loaded.prefix
        self.allowed = allowed_ids(self.ids, shape.vocab_size or self.ids.vocab_size)
        self.max_length = shape.max_seq_len

    @property
    def eot_token_id(self) -> int:
        """The id that ends a text."""
        return self.ids.eos_id

    @property
    def prefix_token_id(self) -> int:
        """The id that stands before a text without a context, as the exported folder tells HFLM."""
        return self.ids.start_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Ids of a text, after those that an imported tokenizer begins every text with unless that is False."""
        prefix = () if add_special_tokens is False else self.ids.prefix_ids
        return [*prefix, *self.ids.encode(string).tolist()]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-probability, in nats, of each whole text; one longer than the model reads is scored in windows."""
        windows = []
        for request in requests:
            ids = self.tok_encode(request.args[0])
            parts = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, context_len=1)
            windows.append([(("", request.args[0]), *make_disjoint_window(part)) for part in parts])
        scores = iter(self._loglikelihood_tokens([*chain.from_iterable(windows)], disable_tqdm))
        return [sum((next(scores)[0] for _ in own), 0.0) for own in windows]

    @torch.inference_mode()
    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """Log-probability, in nats, of each (texts, context ids, continuation ids), and whether each token of the
        continuation is the likeliest there; what is too long to be read is cut off the context's beginning.
        """
        rows: list[tuple[list[int], int]] = []
        for texts, context, continuation in requests:
            if not 0 < len(continuation) <= self.max_length:
                raise ValueError(
                    f"{texts[1]!r} after {texts[0][-40:]!r} is {len(continuation)} tokens, and the model scores 1 to "
                    f"{self.max_length}; change the task, its target_delimiter where both melt into one token"
                )
            ids = [*(context or [self.prefix_token_id]), *continuation]
            rows.append((ids[-self.max_length - 1 :], len(continuation)))
        with evaluating(self.model):
            return self._each(rows, self._score, lambda row: len(row[0]), disable_tqdm)

    def _score(self, rows: list[tuple[list[int], int]]) -> list[tuple[float, bool]]:
        """Score of each row's ids the last ones, as many as it says; those before them are the context."""
        # The padding needs no mask: it stands after every token that counts, and none looks ahead of the context.
        tokens, _ = padded([ids[:-1] for ids, _ in rows], side="right", device=self._device)  # (B, T)
        targets, scored = padded([ids[-count:] for ids, count in rows], side="left", device=self._device)  # (B, P)
        ends = torch.tensor([[len(ids) - 1] for ids, _ in rows], device=self._device)  # (B, 1)
        at = ends + torch.arange(-targets.size(1), 0, device=self._device)  # (B, P)
        context = torch.tensor([len(ids) - count for ids, count in rows], device=self._device)  # (B)
        prefix_length = context if self.prefix else None
        logits = self.model(tokens, predict_at=at.clamp(min=0), prefix_length=prefix_length).logits["lm"]  # (B, P, V)
        found = logits.gather(-1, targets[..., None])[..., 0] - logits.logsumexp(-1)  # (B, P)
        require_finite(found)
        likeliest = logits.argmax(-1) == targets
        if scored is not None:
            found, likeliest = found.masked_fill(~scored, 0.0), likeliest | ~scored
        return list(zip(found.sum(1).tolist(), likeliest.all(1).tolist(), strict=True))

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each context, up to a stop string; ValueError for an option beyond it."""
        asked: Counter[str] = Counter()
        alike: dict[tuple[str, int], list[int]] = defaultdict(list)
        for i, request in enumerate(requests):
            asked[repr(request.args)] += 1  # a request that comes again is to be drawn anew: another seed
            alike[repr(request.args[1]), asked[repr(request.args)]].append(i)
        texts = [""] * len(requests)
        for (_, seed), members in alike.items():
            config = self._options(requests[members[0]], seed)
            room = self.max_length - config.max_new_tokens
            prompts = [self.tok_encode(requests[i].args[0])[-room:] for i in members]
            written = self._each(prompts, partial(self._write, config=config), len, disable_tqdm)
            for i, text in zip(members, written, strict=True):
                texts[i] = text
        return texts

    def _options(self, request: Any, seed: int) -> SampleConfig:
        """A request's generation options as ours; greedy unless it asks for drawing."""
        where = f"{request.task_name}: generation_kwargs"
        given = {key: value for key, value in request.args[1].items() if value is not None}
        options: Any = normalize_gen_kwargs(given, DEFAULT_MAX_GEN_TOKS)
        until, longest, draw = (options.pop(key) for key in ("until", "max_gen_toks", "do_sample"))
        temperature = options.pop("temperature", 0.0)
        if unknown := sorted(options.keys() - OPTIONS):
            raise ValueError(f"{where}.{unknown[0]} cannot be honoured here; leave it out of the task")
        if draw and not temperature:
            raise ValueError(f"{where}.do_sample needs a temperature above 0; add one")
        if not 0 < longest < self.max_length:
            raise ValueError(f"{where}.max_gen_toks is {longest}; the model reads {self.max_length}, context included")
        options |= {"temperature": temperature if draw else 0.0, "max_new_tokens": longest, "stop": tuple(until)}
        return SampleConfig(**options, seed=seed, num_draft_tokens=0)

    def _write(self, prompts: list[list[int]], config: SampleConfig) -> list[str]:
        streams = [TextStream(config.stop, lambda _: None) for _ in prompts]

        def stops(row: int, token: int) -> bool:
            return streams[row].push(self.ids.decode_bytes([token]))

        options: Any = {"prefix": self.prefix, "eos_id": self.ids.eos_id, "allowed": self.allowed, "on_token": stops}
        written = generate(self.model, prompts, config, **options)  # not `loaded.decoder`, which may be in bf16
        # Cut as HFLM cuts, which shows where stop strings overlap and where the last character is incomplete.
        texts = [self.ids.decode(completion.ids) for completion in written]
        for stop in config.stop:
            texts = [text.split(stop)[0] for text in texts]
        return texts

    def _each(self, rows: list[Any], work: Callable[[list[Any]], list[Any]], length: Any, silent: bool) -> list[Any]:
        """What `work` makes of each row, in batches of like lengths: the longest first, which needs the most memory."""
        order = sorted(range(len(rows)), key=lambda i: -length(rows[i]))
        done: dict[int, Any] = {}
        with tqdm(total=len(rows), disable=silent or None, leave=False) as bar:  # None: where there is no terminal
            while order:
                longest = length(rows[order[0]])
                size = max(1, min(BATCH, MAX_LOGITS // (len(self.allowed) * max(1, longest))))
                part = [i for i in order[:size] if 2 * length(rows[i]) >= longest]  # at most half is padding
                done |= zip(part, work([rows[i] for i in part]), strict=True)
                order = order[len(part) :]
                bar.update(len(part))
        return [done[i] for i in range(len(rows))]
