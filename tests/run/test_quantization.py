import json

import pytest
import torch

from minillm import SampleConfig, evaluate, load_run, override, sample, train
from minillm.run import quantize_run


@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantized_run_works_like_any_other_and_says_what_it_lost(run_of, tmp_path, bits):
    parent = run_of("llama")
    made = quantize_run(parent, tmp_path / "small", bits=bits)
    assert made.method == ("gptq" if bits == 4 else "rtn")
    assert made.after["megabytes"] < made.before["megabytes"] / (3 if bits == 8 else 4)
    assert set(made.before) == set(made.after) == {"megabytes", "bits_per_byte", "tokens_per_second"}
    loaded = load_run(made.folder)
    assert {weight.bits for weight in loaded.quantized.values()} == ({8} if bits == 8 else {8, 4})
    loss, was = (evaluate(run).bits_per_byte or 0.0 for run in (loaded, parent))
    assert loss == pytest.approx(made.after["bits_per_byte"], abs=1e-4)
    assert 0 < loss < was + (0.01 if bits == 8 else 0.1)
    (text,) = sample(loaded, SampleConfig(prompt="7 and", temperature=0, max_new_tokens=8))
    assert len(text.ids) == 8
    about = json.loads((made.folder / "run.json").read_text(encoding="utf-8"))
    assert about["quantization"]["bits"] == bits and about["quantized_from"].startswith(str(parent))
    with pytest.raises(ValueError, match="is already quantized"):
        quantize_run(made.folder, tmp_path / "again")


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_encoders_and_encoder_decoders_are_quantized_too(run_of, tmp_path, family):
    made = quantize_run(run_of(family), tmp_path / "small", bits=4, group=16)
    weights = load_run(made.folder).model.state_dict()
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    assert made.after["megabytes"] < made.before["megabytes"]


@pytest.mark.parametrize("family", ["llama", "bert", "t5"])
@pytest.mark.parametrize("bits", [8, 4])
def test_weights_rounded_at_loading_equal_those_of_a_run_rounded_to_the_nearest(run_of, tmp_path, family, bits):
    made = quantize_run(run_of(family), tmp_path / "small", bits=bits, method="rtn")
    kept, rounded = load_run(made.folder), load_run(run_of(family), quantize=bits)
    assert f"weights of {bits} bits" in rounded.describe()
    ours = rounded.model.state_dict()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in kept.model.state_dict().items())
    assert evaluate(rounded).loss == evaluate(kept).loss != evaluate(run_of(family)).loss


def test_bits_and_groups_that_the_weights_cannot_have_are_refused(run_of, config, tmp_path):
    made = quantize_run(run_of("llama"), tmp_path / "small", bits=8)
    assert load_run(made.folder, quantize=8).quantized.keys() == load_run(made.folder).quantized.keys()
    with pytest.raises(ValueError, match="already has weights of 8 bits; quantize the run that it was made from"):
        load_run(made.folder, quantize=4)
    narrow = train(override(config, {"model.d_ff": 24}), tmp_path / "narrow")
    with pytest.raises(ValueError, match=r"need inputs in groups of 32.*quantize to 8 bits instead"):
        load_run(narrow, quantize=4)
    with pytest.raises(ValueError, match=r"no weight .* groups of 32; give --group a divisor"):
        quantize_run(narrow, tmp_path / "narrow-4", bits=4, method="rtn")
    with pytest.raises(ValueError, match=r"no weight .* groups of 1000; give --group a divisor"):
        quantize_run(narrow, tmp_path / "narrow-8", bits=8, group=1000)
    assert load_run(quantize_run(narrow, tmp_path / "rows", bits=8).folder).quantized


def test_gptq_without_a_text_is_refused(run_of, exported, tmp_path):
    from minillm.run import import_model

    folder = import_model(exported("llama"), tmp_path / "imported")
    with pytest.raises(ValueError, match="was imported, so it has no text for GPTQ; give --data, or --method rtn"):
        quantize_run(folder, tmp_path / "small", bits=4)
    assert quantize_run(folder, tmp_path / "small", bits=4, method="rtn").before.keys() == {
        "megabytes",
        "tokens_per_second",
    }
