"""Generation by one run's weights: minillm, transformers, CTranslate2 and llama.cpp, each from its own file format.

decode: greedy tokens after a short prompt, one row. prefill: a long prompt and one token. batch: many uneven prompts.
"""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from minillm.benchmark.machine import Machine
from minillm.benchmark.turns import Ready, Side
from minillm.cli.output import SPIN_COUNT
from minillm.config import load_config
from minillm.generation.config import SampleConfig
from minillm.generation.text import complete
from minillm.run import export_model, load_run, train
from minillm.run.decoding import SLOTS

NEW, COMPARED = 128, 32
"""Tokens that a turn generates, and how many of them are compared between the sides."""
HERE = "minillm.benchmark.generation_sides"
OURS, PEER = {"GOMP_SPINCOUNT": SPIN_COUNT}, {"GOMP_SPINCOUNT": "300000"}
"""`minillm sample` sets the first on an idle machine; the second is what GNU's OpenMP does by itself."""


class Job(NamedTuple):
    """What all sides do, in token ids."""

    prompts: list[list[int]]
    num_new: int


def make_run(folder: Path) -> Path:
    """A run of 13.8 M parameters to measure with: Qwen3's shape, 6 layers of width 384, trained for one step."""
    shape = {"num_layers": 6, "d_model": 384, "num_heads": 6, "num_kv_heads": 6, "d_ff": 1024, "max_seq_len": 1024}
    keys: dict[str, object] = {f"model.{key}": value for key, value in shape.items()}
    keys |= {"train.steps": 1, "train.global_batch": 4, "data.seq_len": 128, "eval.every": 0, "eval.max_tokens": 512}
    return train(load_config("gpt-nano", keys | {"sample.max_new_tokens": 1}), folder)


def make_job(work: str, run: Path) -> Job:
    """The prompts of a work: ids that depend on the vocabulary alone."""
    config = load_config(Path(run) / "config.toml").model
    largest = min(256, (config.vocab_size or 256) // 2)
    generator = torch.Generator().manual_seed(0)

    def prompt(length: int) -> list[int]:
        return torch.randint(largest, (length,), generator=generator).tolist()

    if work == "prefill":
        return Job([prompt(min(512, config.max_seq_len - 2))], 1)
    if work == "batch":
        lengths = torch.randint(4, 64, (16,), generator=generator).tolist()
        return Job([prompt(length) for length in lengths], min(64, config.max_seq_len - 64))
    return Job([prompt(16)], min(NEW, config.max_seq_len - 17))


def sides(work: str, machine: Machine, peers: Sequence[str], run: Path, folder: Path) -> list[Side]:
    """Ours with its defaults first, then every installed peer in each dtype that it is fast in."""
    job = make_job(work, run)._asdict()
    found = _ours(run, job)
    if {"transformers", "ctranslate2"} & set(peers):
        exported = folder / "exported"
        if not exported.exists():
            export_model(load_run(run, device="cpu"), exported, say=lambda message: None)
        options = {"folder": str(exported), "job": job}
        kinds = {"transformers": machine.fast, "ctranslate2": ("fp32", "int8")}
        for name, dtypes in kinds.items():
            build = f"{HERE}:{name}"
            found += [Side(name, d, build, options | {"dtype": d}, environment=PEER) for d in dtypes if name in peers]
    if "xllamacpp" in peers and work != "batch":
        kinds_of_gguf: dict[str, Literal["f32", "q8_0"]] = {"fp32": "f32", "int8": "q8_0"}
        for dtype, kind in kinds_of_gguf.items():
            file = folder / f"model-{kind}.gguf"
            if not file.exists():
                export_model(load_run(run, device="cpu"), file, dtype=kind, say=lambda message: None)
            options = {"file": str(file), "job": job}
            found.append(Side("llama.cpp", dtype, f"{HERE}:llama_cpp", options, environment=PEER))
    return found


def _ours(run: Path, job: dict[str, Any]) -> list[Side]:
    """With the defaults of `minillm sample`, then in each dtype without drafts."""
    build, options = f"{HERE}:minillm", {"run": str(run), "job": job}
    found = [Side("minillm", "auto", build, options, "as `minillm sample` runs it", OURS)]
    kinds: dict[str, dict[str, Any]] = {"fp32": {"dtype": "fp32"}, "bf16": {"dtype": "bf16"}}
    kinds |= {"int8": {"quantize": 8}, "int4": {"quantize": 4}}
    note = "without drafts"
    return found + [Side("minillm", dtype, build, options | own, note, OURS) for dtype, own in kinds.items()]


def limit(work: str, machine: Machine, side: Side, parameters: int) -> float | None:
    """Tokens per second if only the weights were read once for each token; None for other works than decode."""
    size = {"fp32": 4, "bf16": 2, "int8": 1, "int4": 0.5}.get(side.dtype)
    return None if work != "decode" or size is None else machine.read / (parameters * size)


def minillm(run: str, job: dict[str, Any], **options: Any) -> Ready:
    """The package's own generation; without options (of `load_run`) as `minillm sample` runs it, drafts included."""
    loaded = load_run(run, **options)
    drafts = 0 if options else SampleConfig.num_draft_tokens
    config = SampleConfig(temperature=0.0, max_new_tokens=job["num_new"], num_draft_tokens=drafts)
    slots = SLOTS if len(job["prompts"]) > 1 else None
    decoder = loaded.decoder if slots is None else loaded.batch_decoder
    parts = (decoder, loaded.tokenizer, job["prompts"], config)
    return _ready(job, lambda: [found.ids for found in complete(*parts, slots=slots)])


def transformers(folder: str, job: dict[str, Any], dtype: str) -> Ready:
    """transformers' generate, prompts padded on the left."""
    import transformers as package

    model: Any = package.AutoModelForCausalLM.from_pretrained(folder)
    model = model.to(_device(), {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]).eval()
    longest = max(map(len, job["prompts"]))
    rows = torch.tensor([[0] * (longest - len(row)) + row for row in job["prompts"]], device=_device())
    lengths = torch.tensor([[len(row)] for row in job["prompts"]], device=_device())
    mask = (torch.arange(longest, device=_device()) >= longest - lengths).long()
    options = {"max_new_tokens": job["num_new"], "min_new_tokens": job["num_new"], "do_sample": False}
    return _ready(
        job, lambda: model.generate(rows, attention_mask=mask, pad_token_id=0, **options)[:, longest:].tolist()
    )


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
    options = {"sampling_topk": 1, "include_prompt_in_result": False}
    options |= {"max_length": job["num_new"], "min_length": job["num_new"]}
    return _ready(job, lambda: [found.sequences_ids[0] for found in generator.generate_batch(prompts, **options)])


def llama_cpp(file: str, job: dict[str, Any]) -> Ready:
    """llama.cpp's server inside this process."""
    import json
    import urllib.request

    package: Any = importlib.import_module("xllamacpp")

    settings = package.CommonParams()
    settings.model.path, settings.n_ctx, settings.n_parallel = file, 1024, 1
    settings.n_gpu_layers, settings.verbosity = 0, -1
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = torch.get_num_threads()
    server = package.Server(settings)
    content = {"prompt": job["prompts"][0], "n_predict": job["num_new"], "temperature": 0, "ignore_eos": True}
    body = json.dumps(content | {"return_tokens": True, "cache_prompt": False}).encode()

    def write() -> list[list[int]]:
        request = urllib.request.Request(f"{server.listening_address}/completion", body)
        request.add_header("content-type", "application/json")
        with urllib.request.urlopen(request, timeout=120) as answer:
            return [json.load(answer)["tokens"]]

    return _ready(job, write)


def _ready(job: dict[str, Any], write: Callable[[], list[list[int]]]) -> Ready:
    """`write` returns the new ids of each row. If only one token is new, the tokens of the prompt are counted."""
    read = sum(map(len, job["prompts"])) if job["num_new"] == 1 else 0

    def turn() -> int:
        written = sum(map(len, write()))
        return read or written

    return Ready(turn, lambda: [float(token) for token in write()[0][:COMPARED]])


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
