import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillm.nn.config import ModelConfig
from minillm.nn.norm import RMSNorm, make_norm, plain_rms_norm


def grad(x: Tensor) -> Tensor:
    assert x.grad is not None
    return x.grad


@torch.no_grad()
def test_rmsnorm_equals_a_loop_and_torchs_rmsnorm():
    torch.manual_seed(0)
    module, x = RMSNorm(5, eps=1e-3), torch.randn(2, 3, 5)
    module.weight.normal_()
    for row, y in zip(x.flatten(0, 1), module(x).flatten(0, 1), strict=True):
        mean = sum(float(value) ** 2 for value in row) / 5
        for value, weight, out in zip(row, module.weight, y, strict=True):
            assert out.item() == pytest.approx(float(value) / (mean + 1e-3) ** 0.5 * float(weight), abs=1e-6)
    assert torch.allclose(module(x), F.rms_norm(x, (5,), module.weight, 1e-3), atol=1e-6)


@pytest.mark.parametrize("reference", [plain_rms_norm, lambda x, weight, eps: F.rms_norm(x, weight.shape, weight, eps)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_rms_norm_equals_its_plain_form(reference, dtype, tolerance):
    torch.manual_seed(0)
    module, x, g = RMSNorm(6, eps=1e-3).to(dtype), torch.randn(2, 4, 6, dtype=dtype), torch.randn(2, 4, 6, dtype=dtype)
    nn.init.normal_(module.weight)
    x.requires_grad_()
    y, w = (of.detach().clone().requires_grad_() for of in (x, module.weight))
    fast, plain = module(x), reference(y, w, 1e-3)
    fast.backward(g)
    plain.backward(g)
    with torch.no_grad():
        assert fast.dtype == dtype and torch.allclose(module(x), plain, atol=tolerance)
    assert torch.allclose(fast, plain, atol=tolerance) and torch.allclose(grad(x), grad(y), atol=tolerance)
    assert torch.allclose(grad(module.weight), grad(w), atol=10 * tolerance)


def test_rmsnorm_has_correct_gradients():
    module, x = RMSNorm(5, eps=1e-3).double(), torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: F.linear(module(x), w), (x, torch.randn(2, 5).double()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rmsnorm_trains_noncontiguous_heads_and_single_vectors(dtype):
    torch.manual_seed(0)
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    for shape in ((2, 7, 3, 8), (8,)):
        module = RMSNorm(8, eps=1e-3)
        nn.init.normal_(module.weight)
        x = torch.randn(shape).to(dtype).requires_grad_()
        y, w = (of.detach().double().requires_grad_() for of in (x, module.weight))
        g = torch.randn(shape)
        for inputs, norm in ((x, module), (y, lambda y, w=w: F.rms_norm(y, (8,), w, 1e-3))):
            heads = inputs.transpose(1, 2) if inputs.ndim == 4 else inputs
            norm(heads).backward(g.to(inputs.dtype).reshape(heads.shape))
        for ours, exact in ((grad(x), grad(y)), (grad(module.weight), grad(w))):
            assert torch.allclose(ours.double(), exact, atol=tolerance * exact.abs().max().item(), rtol=tolerance)


def test_rmsnorm_of_zero_is_zero_with_a_finite_gradient():
    x = torch.zeros(1, 4, requires_grad=True)
    y = RMSNorm(4, eps=1e-6)(x)
    y.sum().backward()
    assert torch.count_nonzero(y) == 0 and torch.isfinite(grad(x)).all()


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
@pytest.mark.parametrize("grad", [True, False])
def test_the_result_has_the_dtype_of_the_input_and_fp32_statistics(norm, grad):
    module = make_norm(ModelConfig(norm=norm), 512)
    x = torch.full((1, 512), 100.0, dtype=torch.bfloat16)
    x[0, 256:] = -100
    with torch.set_grad_enabled(grad):
        y = module(x)
    assert y.dtype == torch.bfloat16
    assert torch.allclose(y.abs().float(), torch.ones(1, 512), atol=4e-3)


def test_layernorm_has_an_optional_bias_and_rmsnorm_none():
    assert make_norm(ModelConfig()).bias is not None
    bare = make_norm(ModelConfig(norm_bias=False))
    assert isinstance(bare, nn.LayerNorm) and bare.bias is None
    assert [name for name, _ in make_norm(ModelConfig(norm="rmsnorm")).named_parameters()] == ["weight"]


@torch.no_grad()
def test_layernorm_equals_a_loop():
    module, x = make_norm(ModelConfig(norm_eps=1e-2), 3), torch.tensor([[1.0, 2.0, 6.0]])
    std = ((4 + 1 + 9) / 3 + 1e-2) ** 0.5
    assert torch.allclose(module(x), torch.tensor([[-2.0, -1.0, 3.0]]) / std, atol=1e-6)
