"""The programs that generate: minillm, transformers, CTranslate2 and llama.cpp, each from its own file format.

A job has the fields of `generation_sides.Job`. No program ends a text before it has all requested tokens.
"""

import importlib
import json
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from minillm.benchmark.turns import Ready
from minillm.generation.config import SampleConfig
from minillm.generation.continuous import stream_queue
from minillm.generation.generate import stream
from minillm.generation.text import prepare_prompts
from minillm.run import load_run
from minillm.run.decoding import SLOTS

COMPARED = 32
"""Tokens of the first row that are compared between the sides."""

Write = Callable[[bool], list[list[int]]]
"""Returns the new ids of each row; if the argument is true, they are sampled as the job says, otherwise greedy."""


def minillm(run: str, job: dict[str, Any], *, drafts: bool = False, load: dict[str, Any] | None = None) -> Ready:
    """The package's own generation; `load` are arguments of `load_run`."""
    loaded = load_run(run, **(load or {}))
    is_batch = len(job["prompts"]) > 1
    ready = prepare_prompts(loaded.batch_decoder if is_batch else loaded.decoder, loaded.tokenizer, job["prompts"])
    ready.options["allowed"][list(ready.options["eos_id"])] = False
    options = {"max_new_tokens": job["num_new"], "num_draft_tokens": SampleConfig.num_draft_tokens if drafts else 0}

    def write(sampled: bool) -> list[list[int]]:
        config = SampleConfig(**options, **_settings(job, sampled))
        parts, rows = (ready.model, ready.prompts, config), [[] for _ in ready.prompts]
        events = stream_queue(*parts, **ready.options, slots=SLOTS) if is_batch else stream(*parts, **ready.options)
        with closing(events):
            for row, token, _ in events:
                rows[row].append(token)
        return rows

    return _ready(job, write)


def transformers(folder: str, job: dict[str, Any], dtype: str) -> Ready:
    """transformers' generate, prompts padded on the left."""
    import transformers as package

    model: Any = package.AutoModelForCausalLM.from_pretrained(folder)
    model = model.to(_device(), {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]).eval()
    longest = max(map(len, job["prompts"]))
    rows = torch.tensor([[0] * (longest - len(row)) + row for row in job["prompts"]], device=_device())
    lengths = torch.tensor([[len(row)] for row in job["prompts"]], device=_device())
    mask = (torch.arange(longest, device=_device()) >= longest - lengths).long()
    options = {"max_new_tokens": job["num_new"], "min_new_tokens": job["num_new"], "pad_token_id": 0}

    def write(sampled: bool) -> list[list[int]]:
        drawing = {"do_sample": True} | _settings(job, True) if sampled else {"do_sample": False}
        return model.generate(rows, attention_mask=mask, **options, **drawing)[:, longest:].tolist()

    return _ready(job, write)


def ctranslate2(folder: str, job: dict[str, Any], dtype: str) -> Ready:
    """CTranslate2 with the same number of threads."""
    package: Any = importlib.import_module("ctranslate2")
    import transformers as tokenizers

    name = {"fp32": "float32", "int8": "int8"}[dtype]
    out = f"{folder}-{name}"
    if not Path(out).exists():
        package.converters.TransformersConverter(folder).convert(out, quantization=name)
    threads = torch.get_num_threads()
    generator = package.Generator(out, compute_type=name, intra_threads=threads, inter_threads=1)
    tokenizer = tokenizers.AutoTokenizer.from_pretrained(folder)
    prompts = [tokenizer.convert_ids_to_tokens(row) for row in job["prompts"]]
    options = {"include_prompt_in_result": False, "max_length": job["num_new"], "min_length": job["num_new"]}

    def write(sampled: bool) -> list[list[int]]:
        drawing: dict[str, Any] = {"sampling_topk": 1}
        if sampled:
            drawing = {f"sampling_{key.replace('_', '')}": value for key, value in _settings(job, True).items()}
        return [found.sequences_ids[0] for found in generator.generate_batch(prompts, **options, **drawing)]

    return _ready(job, write)


def llama_cpp(file: str, job: dict[str, Any]) -> Ready:
    """llama.cpp's server inside this process."""
    package: Any = importlib.import_module("xllamacpp")

    settings = package.CommonParams()
    settings.model.path, settings.n_ctx, settings.n_parallel = file, 1024, 1
    settings.n_gpu_layers, settings.verbosity = 0, -1
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = torch.get_num_threads()
    server = package.Server(settings)
    content = {"prompt": job["prompts"][0], "n_predict": job["num_new"], "ignore_eos": True, "min_p": 0.0}
    content |= {"return_tokens": True, "cache_prompt": False}

    def write(sampled: bool) -> list[list[int]]:
        body = json.dumps(content | _settings(job, sampled)).encode()
        request = urllib.request.Request(f"{server.listening_address}/completion", body)
        request.add_header("content-type", "application/json")
        with urllib.request.urlopen(request, timeout=120) as answer:
            return [json.load(answer)["tokens"]]

    return _ready(job, write)


def _settings(job: dict[str, Any], sampled: bool) -> dict[str, Any]:
    """temperature, top_k and top_p of the job, or greedy ones."""
    return {key: job[key] for key in ("temperature", "top_k", "top_p")} if sampled else {"temperature": 0.0}


def _ready(job: dict[str, Any], write: Write) -> Ready:
    """Greedy tokens are compared. If only one token is new, the tokens of the prompt are counted."""
    read = sum(map(len, job["prompts"])) if job["num_new"] == 1 else 0

    def turn() -> int:
        written = sum(map(len, write(job["temperature"] > 0)))
        return read or written

    return Ready(turn, lambda: [float(token) for token in write(False)[0][:COMPARED]], is_warm=True)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
