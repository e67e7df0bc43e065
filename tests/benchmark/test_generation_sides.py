from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import pytest

from minillm.benchmark import generators
from minillm.benchmark.generation_sides import Job, make_jobs, sides
from minillm.benchmark.machine import Machine

MACHINE = Machine("a processor", {"fp32": 1e9}, 1e9, ("fp32",))
PROMPT = [3, 4, 5]


def test_decode_is_greedy_and_then_sampled_and_a_batch_has_64_prompts(run_of: Callable[[str], Path]):
    run = run_of("llama")
    described = [job.describe() for job in make_jobs("decode", run, 10)]
    assert described == ["", "sampled at temperature 0.8, top-k 50, top-p 0.95", "sampled at temperature 1"]
    (batch,) = make_jobs("batch", run, 10)
    assert len(batch.prompts) == 64 and len({len(prompt) for prompt in batch.prompts}) > 20
    (large,) = make_jobs("batch", run, 10**9)
    assert large.prompts == batch.prompts and large.num_new * 2 == batch.num_new


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_sides_of_sampled_text_have_no_drafts_and_no_quantized_weights(run_of, tmp_path: Path, temperature: float):
    job = Job([PROMPT], 4, temperature)
    found = sides("decode", MACHINE, ["xllamacpp"], run_of("llama"), tmp_path, job)
    names = [(side.name, side.dtype) for side in found]
    quantized = [] if temperature else ["int8", "int4"]
    dtypes = ["fp32", *quantized]
    assert names == [("minillm", d) for d in ("auto", "fp32", "bf16", *quantized)] + [("llama.cpp", d) for d in dtypes]
    assert found[0].options["drafts"] is (temperature == 0) and found[0].note != found[-1].note
    assert {side.options["job"]["temperature"] for side in found} == {temperature}
    if not temperature:
        kinds = {tensor.tensor_type.name for tensor in gguf.GGUFReader(found[-1].options["file"]).tensors}
        assert found[-1].note == "Q4_1" and "Q4_1" in kinds


def test_bf16_is_left_out_of_products_of_many_rows_where_it_is_slow(run_of, tmp_path: Path):
    job = Job([PROMPT, PROMPT], 4)
    assert "bf16" not in [side.dtype for side in sides("batch", MACHINE, [], run_of("llama"), tmp_path, job)]
    fast = MACHINE._replace(fast=("fp32", "bf16"))
    assert "bf16" in [side.dtype for side in sides("batch", fast, [], run_of("llama"), tmp_path, job)]


@pytest.mark.parametrize("number", [1, 3])
def test_ours_writes_all_tokens_and_compares_the_greedy_ones(run_of: Callable[[str], Path], number: int):
    jobs = [Job([PROMPT] * number, 40, temperature) for temperature in (0.0, 3.0)]
    greedy, sampled = (generators.minillm(str(run_of("llama")), job._asdict()) for job in jobs)
    assert greedy.turn() == sampled.turn() == 40 * number
    assert greedy.output() == sampled.output() and len(greedy.output()) == generators.COMPARED
