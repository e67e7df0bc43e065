"""Exports in the hands of clients that nobody here wrote: CTranslate2, llama.cpp and both versions of transformers.

The clients come with the extra `clients`; a test whose client is not installed is skipped. To test transformers 4 as
well, set MINILLM_TRANSFORMERS4 to the Python of a virtual environment that has it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minillm import LoadedRun, SampleConfig, build_model, load_run, sample
from minillm.run import export_model, import_model

from ..hostile import hostile_texts
from . import as_a_user

pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]

PROMPT, SPAN = "7 and 7 make", "7 and <|extra_id_0|> make 14"
TRANSFORMERS4 = os.environ.get("MINILLM_TRANSFORMERS4")


def greedy(run: LoadedRun, prompt: str = PROMPT) -> list[int]:
    (written,) = sample(run, SampleConfig(prompt=prompt, temperature=0, max_new_tokens=48))
    return written.ids


@pytest.fixture
def converted(run_of: Callable[[str], Path], exported: Callable[[str], Path], tmp_path: Path) -> Any:
    """The package, the run, its export's tokenizer and CTranslate2's conversion of that export."""
    package: Any = pytest.importorskip("ctranslate2", reason="needs ctranslate2: pip install minillm[clients]")
    import transformers

    def convert(name: str) -> tuple[Any, LoadedRun, Any, str]:
        folder, out = exported(name), str(tmp_path / f"{name}-ctranslate2")
        package.converters.TransformersConverter(str(folder)).convert(out)
        return package, load_run(run_of(name)), transformers.AutoTokenizer.from_pretrained(folder), out

    return convert


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3", "qwen3-untied", "char"])
def test_ctranslate2_writes_the_same_greedy_tokens(name: str, converted: Any):
    package, run, tokenizer, folder = converted(name)
    generator = package.Generator(folder, compute_type="float32", intra_threads=1)
    prompt = tokenizer.convert_ids_to_tokens(tokenizer(PROMPT).input_ids)
    (found,) = generator.generate_batch([prompt], max_length=48, sampling_topk=1, include_prompt_in_result=False)
    assert tokenizer.convert_tokens_to_ids(found.sequences[0]) == greedy(run)


def test_ctranslate2_answers_a_t5s_prompt_with_the_same_greedy_tokens(converted: Any):
    package, run, tokenizer, folder = converted("t5")
    translator = package.Translator(folder, compute_type="float32", intra_threads=1)
    prompt = tokenizer.convert_ids_to_tokens(tokenizer(SPAN).input_ids)
    (found,) = translator.translate_batch([prompt], beam_size=1, max_decoding_length=48)
    assert tokenizer.convert_tokens_to_ids(found.hypotheses[0]) == greedy(run, SPAN)


def test_ctranslate2_computes_a_berts_hidden_states_of_a_pair(converted: Any):
    package, run, tokenizer, folder = converted("bert")
    encoder = package.Encoder(folder, compute_type="float32", intra_threads=1)
    pair = tokenizer("7 and 7", "make 14")
    found = np.array(encoder.forward_batch([pair.input_ids], token_type_ids=[pair.token_type_ids]).last_hidden_state)
    tokens, types = torch.tensor([pair.input_ids]), torch.tensor([pair.token_type_ids])
    with torch.no_grad():
        ours = run.model(tokens, token_types=types).hidden.numpy()
    assert types.sum() > 0 and np.abs(found - ours).max() < 1e-4


@contextmanager
def llama_cpp(file: Path) -> Iterator[Callable[[str, dict[str, Any]], Any]]:
    """llama.cpp with this file, as a function of the route and the content of a request."""
    package: Any = pytest.importorskip("xllamacpp", reason="needs xllamacpp: pip install minillm[clients]")
    settings = package.CommonParams()
    settings.model.path, settings.n_ctx, settings.n_parallel = str(file), 64, 1
    settings.n_gpu_layers, settings.warmup, settings.verbosity = 0, False, -1
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    settings.flash_attn_type = package.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = package.Server(settings)

    def post(route: str, content: dict[str, Any]) -> Any:
        request = urllib.request.Request(f"{server.listening_address}/{route}", json.dumps(content).encode())
        request.add_header("content-type", "application/json")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    yield post


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3", "qwen3-untied"])
def test_llama_cpp_writes_the_same_greedy_tokens(name: str, run_of: Callable[[str], Path], tmp_path: Path):
    run = load_run(run_of(name))
    with llama_cpp(export_model(run, tmp_path / "x.gguf")) as post:
        options = {"n_predict": 48, "temperature": 0, "return_tokens": True, "cache_prompt": False}
        found = post("completion", {"prompt": PROMPT, **options})
    assert found["tokens"] == greedy(run)


@pytest.mark.parametrize("dtype", ["f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"])
def test_llama_cpp_reads_every_type_of_weights(dtype: Any, run_of: Callable[[str], Path], tmp_path: Path):
    file = export_model(load_run(run_of("llama")), tmp_path / "x.gguf", dtype=dtype)
    with llama_cpp(file) as post:
        found = post("completion", {"prompt": PROMPT, "n_predict": 8, "temperature": 0, "return_tokens": True})
    again = load_run(import_model(file, tmp_path / "in"))
    assert found["tokens"][:2] == greedy(again)[:2]  # the model is sure of the first ones


def test_llama_cpp_scales_positions_as_llama_3_does(run_of: Callable[[str], Path], tmp_path: Path):
    run = load_run(run_of("llama"))
    scaling = {"rope_scaling": "llama3", "rope_factor": 8.0, "rope_original_len": 16, "rope_theta": 500.0}
    shape = replace(run.config.model, **scaling)
    model = build_model(shape).eval()
    model.load_state_dict(run.model.state_dict())
    run = replace(run, config=replace(run.config, model=shape), model=model)
    with llama_cpp(export_model(run, tmp_path / "x.gguf")) as post:
        options = {"n_predict": 48, "temperature": 0, "return_tokens": True, "cache_prompt": False}
        assert post("completion", {"prompt": PROMPT, **options})["tokens"] == greedy(run)
    again = load_run(import_model(tmp_path / "x.gguf", tmp_path / "in"))
    assert {key: getattr(again.config.model, key) for key in scaling} == scaling


@pytest.mark.parametrize("name", ["qwen3", "llama"])  # with a BPE of our own, and with bytes
def test_llama_cpp_gives_the_same_ids_for_hostile_texts(name: str, run_of: Callable[[str], Path], tmp_path: Path):
    run = load_run(run_of(name))
    assigned = [text for text in hostile_texts(500, ["<|eos|>"]) if "Cn" not in map(unicodedata.category, text)]
    texts = [text for text in assigned if text and "\x00" not in text]
    assert len(texts) > 200  # each side has its own version of Unicode's tables, which differ in unassigned characters
    with llama_cpp(export_model(run, tmp_path / "x.gguf")) as post:
        for text in texts:
            found = post("tokenize", {"content": text, "add_special": False, "parse_special": False})
            assert found["tokens"] == run.tokenizer.encode(text).tolist(), repr(text)


def expected_logits(run: LoadedRun, found: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Our logits for the ids that the call `name` of a tokenizer gave."""
    tokens = torch.from_numpy(found[f"{name}-ids"])
    valid = tokens != run.tokenizer.pad_id
    if run.model.writes == "answer":
        return run.model(tokens, tokens, encoder_valid=valid).logits["lm"][valid].numpy()
    # padding on the left shifts the positions of GPT-2 and BERT, in transformers
    options: dict[str, Any] = {"key_valid": valid, "positions": torch.arange(tokens.size(1)).expand_as(tokens)}
    if run.model.writes == "nothing":
        separators = (tokens == run.tokenizer.sep_id).long()
        options["token_types"] = (separators.cumsum(1) - separators).clamp(max=1) * valid
    return run.model(tokens, **options).logits["lm"][valid].numpy()


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3", "char", "bert", "t5"])
@pytest.mark.parametrize("version", ["5", "4"])
def test_transformers_called_as_users_do_gives_our_logits(version: str, name: str, run_of, exported, tmp_path: Path):
    if version == "4" and not TRANSFORMERS4:
        pytest.skip("needs transformers 4: set MINILLM_TRANSFORMERS4 to the Python of an environment that has it")
    python = TRANSFORMERS4 if version == "4" else sys.executable
    run, folder = load_run(run_of(name)), exported(name)
    if version == "5":
        found = as_a_user.outputs(folder)
    else:
        command = [str(python), as_a_user.__file__, str(folder), str(tmp_path / "found.npz")]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8", check=False)
        assert done.returncode == 0, done.stderr
        found = dict(np.load(tmp_path / "found.npz"))
    with torch.no_grad():
        for call in ("text", "pair", "right", "left"):
            ours = expected_logits(run, found, call)
            assert np.abs(found[call] - ours).max() < 1e-4, call
    if run.model.writes != "nothing":
        for row, prompt in enumerate(as_a_user.texts(run.config.model.family)):
            (ours,) = sample(run, SampleConfig(prompt=prompt, temperature=0, max_new_tokens=as_a_user.NUM_NEW))
            if len(ours.ids) == as_a_user.NUM_NEW:
                assert found["left-generated"][row].tolist() == ours.ids
