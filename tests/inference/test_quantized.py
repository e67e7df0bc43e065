import pytest
import torch
from torch import nn

from minillm.inference.decoder import FastDecoder
from minillm.inference.gptq import calibrate, gptq_int4
from minillm.inference.measure import linear_names
from minillm.inference.products import Plan, Products
from minillm.models.gpt import GPT
from minillm.nn.config import ModelConfig
from minillm.nn.kernels.linear import DenseProduct, QuantizedProduct, can_pack, forms, one_row_forms
from minillm.nn.kernels.quantized import (
    concatenate,
    dequantized,
    quantize_int4,
    quantize_int8,
    split_quantized,
    to_tensors,
)


def weight_of(outputs, inputs, seed=0):
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed))


QUANTIZERS = {
    "8 bits, rows": quantize_int8,
    "8 bits, groups": lambda weight: quantize_int8(weight, 32),
    "4 bits": lambda weight: quantize_int4(weight, 32),
}


@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("form", forms())
@pytest.mark.parametrize("one_row", one_row_forms())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("biased", [True, False])
def test_every_form_equals_the_plain_product(form, one_row, rows, dtype, biased):
    weight, x = weight_of(24, 40), weight_of(rows, 40, 1)
    bias = weight_of(1, 24, 2)[0] if biased else None
    expected = torch.nn.functional.linear(x, weight, bias)
    for min_rows in (1, 2):
        y = DenseProduct(weight, bias, form=form, dtype=dtype, min_rows=min_rows, one_row=one_row)(x)
        tolerance = 1e-5 if dtype == torch.float32 else 0.1
        torch.testing.assert_close(y.float(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("bits", QUANTIZERS)
@pytest.mark.parametrize("rows", [1, 3, 20, 40])
@pytest.mark.parametrize("one_row", one_row_forms(8))
def test_packed_products_equal_those_of_the_values_that_the_bits_stand_for(bits, rows, one_row):
    quantized, x = QUANTIZERS[bits](weight_of(64, 128)), weight_of(rows, 128, 1).bfloat16().float()
    assert can_pack(quantized)
    bias = weight_of(1, 64, 2)[0]
    for wide in (torch.float32, torch.bfloat16):
        y = QuantizedProduct(quantized, bias, wide=wide, one_row=one_row)(x)
        expected = torch.nn.functional.linear(x, quantized.dequantize(), bias)
        assert (y.float() - expected).norm() < 0.006 * expected.norm(), "the rounding of bf16"


@pytest.mark.parametrize("bits", [bits for bits in QUANTIZERS if "rows" not in bits])
def test_a_fused_product_keeps_no_other_copy_of_the_weights_that_the_run_keeps(bits):
    layers = [nn.Linear(64, size, bias=False) for size in (48, 32)]
    names = {layer: str(i) for i, layer in enumerate(layers)}
    quantized = {names[layer]: QUANTIZERS[bits](layer.weight.detach()) for layer in layers}
    if not all(map(can_pack, quantized.values())):
        pytest.skip("this build of torch has no such product")
    product = Products(Plan(), names, quantized).fused(layers)
    assert isinstance(product, QuantizedProduct)
    kept = {part.values.data_ptr() for part in product.parts}
    assert kept == {weight.values.data_ptr() for weight in quantized.values()}
    found = [value for value in vars(product).values() if isinstance(value, torch.Tensor)]
    assert not any(x.dtype in (torch.int8, torch.uint8) and x.shape == (80, 64) for x in found), "whole, unpacked"
    whole = torch.cat([weight.dequantize() for weight in quantized.values()])
    for rows in (1, 3, 40):
        x = weight_of(rows, 64, 1).bfloat16().float()
        expected = torch.nn.functional.linear(x, whole)
        assert (product(x).float() - expected).norm() < 0.006 * expected.norm()


@pytest.mark.parametrize("inputs", [1, 8, 24, 40, 77])
@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("one_row", one_row_forms(8))
def test_rows_of_any_length_are_multiplied_by_8_bits(inputs, rows, one_row):
    """torch's packed product crashes, or reads other memory, unless the length is a multiple of 16."""
    quantized, x = quantize_int8(weight_of(48, inputs)), weight_of(rows, inputs, 1).bfloat16().float()
    if not can_pack(quantized):
        pytest.skip("this build of torch has no sums of quantized rows")
    y = QuantizedProduct(quantized, None, one_row=one_row)(x)
    expected = torch.nn.functional.linear(x, quantized.dequantize())
    assert (y.float() - expected).norm() < 0.006 * expected.norm()


@pytest.mark.parametrize("bits", QUANTIZERS)
def test_each_value_is_the_nearest_of_its_grid(bits):
    weight = weight_of(16, 64)
    quantized = QUANTIZERS[bits](weight)
    step = quantized.scale.repeat_interleave(quantized.group, 1)
    inside = quantized.values.float() - (8 if quantized.bits == 4 else 0)
    error = (quantized.dequantize() - weight).abs()
    interior = (inside > -8) & (inside < 7) if quantized.bits == 4 else inside.abs() < 127
    assert (error[interior] <= (step * 0.51)[interior]).all()
    assert error.max() < 2 * step.max()
    assert (quantized.scale == quantized.scale.bfloat16().float()).all()


@pytest.mark.parametrize("bits", QUANTIZERS)
def test_the_values_in_bf16_are_those_in_fp32_rounded_once(bits):
    quantized = QUANTIZERS[bits](weight_of(48, 64))
    assert torch.equal(quantized.dequantize(torch.bfloat16), quantized.dequantize().bfloat16())


@pytest.mark.parametrize("bits", QUANTIZERS)
def test_a_file_holds_the_bits_and_gives_back_the_same_weight(bits):
    quantized = QUANTIZERS[bits](weight_of(16, 64))
    tensors = to_tensors("a.weight", quantized) | {"norm": torch.ones(3)}
    size = sum(t.numel() * t.element_size() for name, t in tensors.items() if name != "norm")
    sizes = {"8 bits, rows": 16 * 64 + 2 * 16, "8 bits, groups": 16 * 64 + 2 * 16 * 2}
    assert size == sizes.get(bits, 16 * 64 // 2 + 2 * 2 * 16 * 2)
    plain, found = split_quantized(tensors)
    assert list(plain) == ["norm"] and found["a.weight"].bits == int(bits[0])
    assert torch.equal(found["a.weight"].dequantize(), quantized.dequantize())
    assert torch.equal(dequantized(tensors)["a.weight"], quantized.dequantize())


@pytest.mark.parametrize("bits", QUANTIZERS)
def test_several_weights_become_one(bits):
    parts = [QUANTIZERS[bits](weight_of(n, 64, n)) for n in (16, 32)]
    whole = concatenate([part.select(torch.arange(15, -1, -1)) for part in parts])
    assert torch.equal(whole.dequantize(), torch.cat([part.dequantize()[:16].flip(0) for part in parts]))


def test_gptq_changes_the_outputs_less_than_rounding_does():
    weight = weight_of(48, 256)
    x = weight_of(2000, 48, 1) @ weight_of(48, 256, 2) + weight_of(2000, 256, 3)  # correlated, as in a model
    errors = [
        ((quantized.dequantize() - weight) @ x.t()).norm()
        for quantized in (quantize_int4(weight, 32), gptq_int4(weight, x.t() @ x / len(x), 32))
    ]
    assert errors[1] < 0.6 * errors[0]


def make_model(**more):
    size = {"vocab_size": 32, "max_seq_len": 16, "d_model": 64, "num_layers": 2, "num_heads": 2, "d_ff": 96}
    model = GPT(ModelConfig(**{"position": "rotary", "norm": "rmsnorm", "gated": True, "bias": False, **size, **more}))
    model.init_weights(torch.Generator().manual_seed(1))
    return model.eval()


def test_calibration_hands_each_layer_the_inputs_of_the_quantized_model():
    model, seen = make_model(init_std=0.3), {}
    names = {layer: name for layer, name in linear_names(model).items() if "decoder" in name}
    tokens = torch.randint(0, 32, (4, 16), generator=torch.Generator().manual_seed(3))

    def quantize(weight, hessian):
        seen[len(seen)] = hessian
        return quantize_int4(weight, 32)

    found = calibrate(model, [{"tokens": tokens}, {"tokens": tokens[:2]}], names, quantize)
    assert set(found) == set(names.values()) and len(found) == 14
    last: list[torch.Tensor] = []
    layer = model.get_submodule("decoder.blocks.1.attn.sublayer.q")
    assert torch.equal(layer.get_parameter("weight"), found["decoder.blocks.1.attn.sublayer.q.weight"].dequantize())
    layer.register_forward_pre_hook(lambda _, given: last.append(given[0].flatten(0, 1)))
    with torch.no_grad():
        model(tokens)
        model(tokens[:2])
    expected = sum(x.t() @ x / len(x) for x in last)
    torch.testing.assert_close(seen[7], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", QUANTIZERS)
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("one_row", one_row_forms(8))
def test_a_decoder_of_quantized_weights_computes_what_their_plain_form_does(bits, packed, one_row):
    model, names = make_model(init_std=0.3), {}
    for layer, name in linear_names(model).items():
        names[name] = QUANTIZERS[bits](layer.weight.detach())
        with torch.no_grad():
            layer.weight.copy_(names[name].dequantize())
    quick = FastDecoder(model, Products(Plan(packed=packed, one_row=one_row), linear_names(model), names))
    tokens = torch.arange(12)[None]
    caches, results = zip(*(one.start(tokens, max_len=13) for one in (model, quick)), strict=True)
    steps = [one.step(tokens[:, :1], cache) for one, cache in zip((model, quick), caches, strict=True)]
    for expected, logits in (results, steps):
        error = (logits - expected).norm() / expected.norm()
        assert error < (0.03 if packed else 1e-5)
