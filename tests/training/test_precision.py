"""Device, dtype and compilation are chosen once, and what cannot be had is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
import torch

from minillm.training import precision
from minillm.training.config import TrainConfig
from minillm.training.precision import Compute

CPU = torch.device("cpu")


def test_auto_is_bf16_on_cpus_that_are_fast_at_it_and_fp32_on_others(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(precision, "cpu_is_fast_at_bf16", lambda: True)
    assert precision.choose_dtype("auto", CPU) == torch.bfloat16
    monkeypatch.setattr(precision, "cpu_is_fast_at_bf16", lambda: False)
    assert precision.choose_dtype("auto", CPU) == torch.float32
    assert precision.choose_dtype("auto", torch.device("mps")) == torch.float32


@pytest.mark.parametrize(("has_bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_auto_is_fp16_on_a_gpu_without_bf16(monkeypatch: pytest.MonkeyPatch, has_bf16: bool, dtype: torch.dtype):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has_bf16)
    assert precision.choose_dtype("auto", torch.device("cuda")) == dtype


def test_devices_are_tried_in_order(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert precision.choose_device("auto").type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert precision.choose_device("auto").type == "cuda" and precision.choose_device("cpu").type == "cpu"


def test_unavailable_devices_and_dtypes_raise_with_the_remedy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"train\.device is cuda.*auto or cpu"):
        precision.choose(TrainConfig(device="cuda"))
    with pytest.raises(ValueError, match=r"train\.precision fp16 needs a CUDA GPU"):
        precision.choose(TrainConfig(device="cpu", precision="fp16"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match=r"train\.compile on needs a C\+\+ compiler"):
        precision.choose(TrainConfig(device="cpu", compile="on"))


def test_compile_auto_is_off_on_a_cpu():
    assert precision.choose(TrainConfig(device="cpu")).compile is False


def test_one_line_describes_device_dtype_and_compilation():
    assert "bf16 autocast, eager" in Compute(CPU, torch.bfloat16, compile=False).describe()
    assert "fp32, compiled" in Compute(CPU, torch.float32, compile=True).describe()


def test_only_fp16_scales_the_loss():
    assert [Compute(CPU, d, False).scaler().is_enabled() for d in (torch.float32, torch.bfloat16)] == [False, False]


def test_decoding_uses_a_copy_in_the_compute_dtype(make_gpt: Callable):
    model = make_gpt()
    small = precision.for_decoding(model, Compute(CPU, torch.bfloat16, compile=False))
    assert {p.dtype for p in small.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert small.get_parameter("heads.lm.proj.weight") is small.get_parameter("embed.tokens.weight"), "tied as before"
    assert precision.for_decoding(model, Compute(CPU, torch.float32, compile=False)) is model


def test_running_out_of_memory_is_recognized_on_any_device():
    assert precision.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not precision.is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert precision.is_out_of_memory(caught.value)
