import pytest
import torch

from minillm.nn.kernels.quantized import quantize_int8
from minillm.nn.kernels.row_sums import INT8_BAGS, QuantizedRowSum, RowSum, num_blocks


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


SHAPES = [(1, 1), (770, 1), (7, 40), (384, 16), (770, 33), (1536, 64)]


@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("biased", [True, False])
def test_a_row_sum_equals_the_plain_product(outputs, inputs, dtype, biased):
    weight, x = random(outputs, inputs), random(1, inputs, seed=1)
    bias = random(outputs, seed=2) if biased else None
    expected = torch.nn.functional.linear(x, weight, bias)
    y = RowSum(weight.to(dtype), None if bias is None else bias.to(dtype))(x)
    assert y.dtype == dtype and y.shape == (1, outputs)
    error = (y.float() - expected).norm() / expected.norm()
    assert error < (1e-6 if dtype == torch.float32 else 0.01)


@pytest.mark.skipif(INT8_BAGS is None, reason="this build of torch has no quantized embeddings")
@pytest.mark.parametrize(
    ("outputs", "inputs", "group"), [(*shape, None) for shape in SHAPES] + [(770, 96, 32), (9, 64, 64)]
)
@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("biased", [True, False])
def test_quantized_row_sums_equal_the_product_of_the_values_that_the_bits_stand_for(
    outputs, inputs, group, rows, biased
):
    weight, x = quantize_int8(random(outputs, inputs), group), random(rows, inputs, seed=1)
    bias = random(outputs, seed=2) if biased else None
    expected = torch.nn.functional.linear(x, weight.dequantize(), bias)
    y = QuantizedRowSum(weight, bias)(x)
    assert y.dtype == torch.float32 and y.shape == (rows, outputs)
    assert (y - expected).norm() < 2e-5 * expected.norm(), "the activations are not rounded to bf16"


@pytest.mark.parametrize(
    ("outputs", "blocks"), [(1, 1), (384, 1), (576, 2), (3072, 8), (49152, 128), (50257, 29), (7919, 1)]
)
def test_blocks_are_equal_and_near_the_fastest_size(outputs, blocks):
    assert num_blocks(outputs) == blocks
