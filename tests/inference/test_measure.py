import json

import pytest
import torch

from minillm.inference import measure
from minillm.inference.measure import choose_plan, linear_names, linear_weights, measured_names
from minillm.inference.products import Plan
from minillm.models.gpt import GPT
from minillm.nn.config import ModelConfig
from minillm.nn.kernels.quantized import quantize_int8

WEIGHTS = {f"decoder.blocks.{i}.weight": torch.randn(64, 32) for i in range(3)} | {"heads.lm": torch.randn(100, 32)}


def noted(monkeypatch):
    """A list to which each measurement adds its dtype."""
    measured, real = [], measure._measure
    monkeypatch.setattr(measure, "_measure", lambda *given: measured.append(given[3]) or real(*given))
    return measured


def test_a_choice_of_a_busy_machine_is_measured_again_once_it_is_idle(tmp_path, monkeypatch):
    measured = noted(monkeypatch)
    for idle, times in ((False, 1), (False, 1), (True, 2), (True, 2), (False, 2)):
        monkeypatch.setattr(measure, "is_idle", lambda idle=idle: idle)
        choose_plan(WEIGHTS, {}, dtype="fp32", cache=tmp_path / "plans.json")
        assert len(measured) == times


def test_a_choice_is_measured_once_and_kept_for_the_same_machine_shapes_and_dtype(tmp_path, monkeypatch):
    file, measured = tmp_path / "folder" / "plans.json", noted(monkeypatch)
    monkeypatch.setattr(measure, "is_idle", lambda: True)
    plan = choose_plan(WEIGHTS, {}, cache=file)
    assert choose_plan(WEIGHTS, {}, cache=file) == plan and measured == ["auto"]
    assert choose_plan(WEIGHTS, {}, dtype="fp32", cache=file).dtype == torch.float32
    choose_plan({"a": torch.randn(8, 8)}, {}, cache=file)
    choose_plan(WEIGHTS, {name: quantize_int8(weight) for name, weight in WEIGHTS.items()}, cache=file)
    assert measured == ["auto", "fp32", "auto", "auto"]
    assert len(json.loads(file.read_text(encoding="utf-8"))) == 4


@pytest.mark.parametrize("content", ["", "[]", '{"x": 1}', "\x00"])
def test_a_damaged_cache_is_measured_again(tmp_path, content):
    file = tmp_path / "plans.json"
    file.write_text(content, encoding="utf-8")
    assert choose_plan(WEIGHTS, {}, dtype="fp32", cache=file).dtype == torch.float32
    json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("sums", "one_row"), [((1.5, 20), "sum"), ((2.5, 20), "same")])
def test_the_fastest_form_for_one_row_is_chosen_unless_it_reads_a_prompt_much_slower(monkeypatch, sums, one_row):
    speeds = {("plain", "fp32", "same"): (3, 30), ("onednn", "fp32", "same"): (2, 20)}
    speeds |= {("onednn", "bf16", "same"): (1, 500), ("onednn", "fp32", "sum"): sums}

    class FakeProduct:
        def __init__(self, weight, bias, plan):
            self.seconds = speeds.get((plan.form, measure.name_of(plan.dtype), plan.one_row), (9, 90))

    now = [0.0]

    def run(products, inputs, rows):
        now[0] += products[0].seconds[rows == measure.WIDE]

    monkeypatch.setattr(measure, "dense", FakeProduct)
    monkeypatch.setattr(measure, "_run", run)
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    plan = choose_plan(WEIGHTS, {})
    assert (plan.form, plan.dtype, plan.one_row, plan.draft_cost) == ("onednn", torch.float32, one_row, 0.0)
    assert choose_plan(WEIGHTS, {}, dtype="bf16").dtype == torch.bfloat16
    plain = choose_plan(WEIGHTS, {}, only_plain=True)
    assert (plain.form, plain.one_row) == ("plain", "same")
    monkeypatch.setattr(measure, "COPIED_BYTES", 4)
    assert choose_plan(WEIGHTS, {}).one_row == "same"


@pytest.mark.parametrize("fast", ["same", "sum"])
def test_one_row_of_8_bit_weights_is_multiplied_in_the_faster_way(monkeypatch, fast):
    monkeypatch.setattr(
        measure, "packed_seconds", lambda weights, plan, rows, rest: 1e-9 * (1 + (plan.one_row != fast))
    )
    quantized = {name: quantize_int8(weight) for name, weight in WEIGHTS.items()}
    plan = choose_plan(WEIGHTS, quantized)
    assert plan.packed and plan.one_row == fast
    monkeypatch.setattr(measure, "row_seconds", lambda products, inputs, rows, rest: 1.0)
    for seconds, packed in ((1.4, True), (1.6, False)):
        monkeypatch.setattr(measure, "packed_seconds", lambda weights, plan, rows, rest, seconds=seconds: seconds)
        assert choose_plan(WEIGHTS, quantized).packed == packed


def test_a_measurement_reads_more_than_the_caches_hold_and_the_vocabulary_last(monkeypatch):
    assert measured_names(WEIGHTS) == list(WEIGHTS)
    monkeypatch.setattr(measure, "MEASURED_BYTES", 4 * 64 * 32)
    assert measured_names(WEIGHTS) == ["decoder.blocks.0.weight"]


def test_the_rest_of_a_model_passes_through_the_caches_before_a_part_is_measured(monkeypatch):
    passed, real = [], torch.Tensor.add_
    monkeypatch.setattr(torch.Tensor, "add_", lambda x, *more: passed.append(x.numel()) or real(x, *more))
    choose_plan(WEIGHTS, {}, dtype="fp32")
    assert set(passed) == {0}, "the whole model is measured"
    passed.clear()
    monkeypatch.setattr(measure, "MEASURED_BYTES", 4 * 2 * 64 * 32)
    choose_plan(WEIGHTS, {}, dtype="fp32")
    assert set(passed) == {2 * 64 * 32}, "as much as is measured, if there is more"


def test_a_tied_head_has_the_name_of_the_table():
    model = GPT(ModelConfig(vocab_size=9, d_model=8, num_heads=1, num_layers=1, max_seq_len=4))
    model.init_weights()
    assert linear_names(model)[model.get_submodule("heads.lm.proj")] == "embed.tokens.weight"  # type: ignore[index]
    assert set(linear_weights(model)) == set(linear_names(model).values())


def test_a_plan_is_described_in_a_few_words():
    assert Plan("onednn", torch.bfloat16).describe() == "bf16 weights, onednn products"
    assert Plan("plain", one_row="sum").describe() == "fp32 weights, plain products, row sums"
