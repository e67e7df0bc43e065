import math
from typing import Any

import pytest
import torch
from torch import Tensor

from minillm.nn.attention import Attention, AttentionInputs, plain_attention
from minillm.nn.cache import LayerKVCache
from minillm.nn.config import ModelConfig
from minillm.nn.kernels.attention import attend
from minillm.nn.mask import AttentionMask, ScoreMask, resolve_mask
from minillm.nn.position import RotaryPosition

B, T, S, D = 2, 7, 5, 24


def config(**changes: Any) -> ModelConfig:
    return ModelConfig(**{"d_model": D, "num_heads": 4, "num_layers": 1, **changes})


def attention(**changes: Any) -> Attention:
    torch.manual_seed(0)
    module = Attention(config(**changes))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.5 if parameter.ndim == 1 else 0.0, 0.3)
    return module


def unmasked(num_queries: int, num_keys: int, **changes: Any) -> ScoreMask:
    return resolve_mask(
        AttentionMask(**changes), None, start=0, num_queries=num_queries, num_keys=num_keys, like=torch.zeros(1)
    )


def naive(module: Attention, x: Tensor, source: Tensor, allowed: Tensor, theta: float | None = None) -> Tensor:
    """Equation 1 of Vaswani et al., one query, one head, one key at a time; allowed is (B, T, S)."""
    K = module.head_dim
    q, k, v = module.q(x), module.k(source), module.v(source)
    num_heads, groups = q.size(-1) // K, q.size(-1) // k.size(-1)
    answer = torch.zeros_like(q)
    for b in range(x.size(0)):
        for h in range(num_heads):
            own, shared = slice(h * K, (h + 1) * K), slice(h // groups * K, (h // groups + 1) * K)
            for t in range(x.size(1)):
                query, scores = q[b, t, own], []
                query = module.q_norm(query) if module.q_norm is not None else query
                query = query if theta is None else turn(query, theta, t)
                keys = [s for s in range(source.size(1)) if allowed[b, t, s]]
                for s in keys:
                    key = k[b, s, shared]
                    key = module.k_norm(key) if module.k_norm is not None else key
                    key = key if theta is None else turn(key, theta, s)
                    scores.append(float(query @ key) * module.scale)
                total = sum(math.exp(score) for score in scores)
                for score, s in zip(scores, keys, strict=True):
                    answer[b, t, own] += math.exp(score) / total * v[b, s, shared]
    return module.out(answer)


def turn(head: Tensor, theta: float, position: int) -> Tensor:
    """Rotate pairs (i, i + K/2) by complex multiplication with e^(j p theta^(-2i/K))."""
    half = head.numel() // 2
    angles = [position * theta ** (-i / half) for i in range(half)]
    turned = torch.complex(head[:half], head[half:]) * torch.polar(torch.ones(half), torch.tensor(angles))
    return torch.cat((turned.real, turned.imag))


SHAPES = [
    {},
    {"num_kv_heads": 2},
    {"num_kv_heads": 1},
    {"qk_norm": True},
    {"qk_norm": True, "norm": "rmsnorm", "num_kv_heads": 2},
    {"head_dim": 10, "bias": False},
    {"attention_scale": 1.0},
]


@pytest.mark.parametrize("changes", SHAPES)
@pytest.mark.parametrize("causal", [True, False])
@torch.no_grad()
def test_self_attention_equals_a_loop_over_heads_queries_and_keys(changes, causal):
    module, x = attention(**changes), torch.randn(B, T, D)
    allowed = torch.ones(B, T, T, dtype=torch.bool).tril() if causal else torch.ones(B, T, T, dtype=torch.bool)
    y = module(x, AttentionInputs(unmasked(T, T, causal=causal)))
    assert torch.allclose(y, naive(module, x, x, allowed), atol=1e-5)


@torch.no_grad()
def test_rotary_attention_equals_a_loop_with_complex_numbers():
    module, x = attention(num_kv_heads=2, qk_norm=True), torch.randn(B, T, D)
    angles = RotaryPosition(module.head_dim, theta=50.0).angles(torch.arange(T), x.dtype)
    y = module(x, AttentionInputs(unmasked(T, T, causal=True), angles))
    allowed = torch.ones(B, T, T, dtype=torch.bool).tril()
    assert torch.allclose(y, naive(module, x, x, allowed, theta=50.0), atol=1e-5)


@torch.no_grad()
def test_cross_attention_equals_a_loop_over_valid_keys():
    module, x, source = attention(num_kv_heads=2), torch.randn(B, T, D), torch.randn(B, S, D)
    valid = torch.tensor([[True] * S, [True, False, True, False, False]])
    y = module(x, AttentionInputs(unmasked(T, S, key_valid=valid), encoder_output=source))
    assert torch.allclose(y, naive(module, x, source, valid[:, None].expand(B, T, S)), atol=1e-5)


@torch.no_grad()
def test_the_cache_of_cross_attention_is_written_once():
    module, x, source = attention(), torch.randn(B, T, D), torch.randn(B, S, D)
    inputs = AttentionInputs(unmasked(T, S), encoder_output=source, layer_cache=LayerKVCache(S, fixed=True))
    first = module(x, inputs)
    again = module(x, inputs._replace(encoder_output=torch.full_like(source, float("nan"))))
    assert torch.equal(first, again)


def grad(x: Tensor) -> Tensor:
    assert x.grad is not None
    return x.grad


def random_heads(groups: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    sizes = [(B, 4, T, 8), (B, 4 // groups, T, 8), (B, 4 // groups, T, 8)]
    return [torch.randn(size, generator=generator).to(dtype).requires_grad_() for size in sizes]


MASKS = {
    "causal": AttentionMask(causal=True),
    "padded": AttentionMask(causal=True, key_valid=torch.arange(T) >= torch.tensor([[3], [0]])),
    "packed": AttentionMask(causal=True, document_ids=torch.tensor([[0, 0, 1, 1, 1, 2, 2], [0] * 7])),
    "prefix": AttentionMask(causal=True, prefix_length=torch.tensor([4, 1])),
    "both ways": AttentionMask(key_valid=torch.arange(T) < torch.tensor([[3], [7]])),
    "all": AttentionMask(),
}


def masked_plainly(inputs: list[Tensor], allowed: Tensor | None) -> Tensor:
    """Plain attention of q, k, v and bias; a query that may attend to no key has the answer 0."""
    q, k, v, bias = inputs
    if allowed is None:
        return plain_attention(q, k, v, bias, scale=0.3)
    has_keys = allowed.any(-1, keepdim=True)
    return plain_attention(q, k, v, bias.masked_fill(~allowed & has_keys, float("-inf")), scale=0.3) * has_keys


@pytest.mark.parametrize(
    ("kernel", "dtype", "tolerance"),
    [("fused", torch.float32, 1e-5), ("eager", torch.float64, 1e-12), ("eager", torch.bfloat16, 0.05)],
)
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("biased", [False, True])
def test_every_kernel_equals_plain_attention(monkeypatch, name, groups, biased, kernel, dtype, tolerance):
    monkeypatch.setattr("minillm.nn.mask.choose_kernel", lambda *_, **__: kernel)
    bias = torch.randn(1, 4, T, T, generator=torch.Generator().manual_seed(5)).to(dtype) * biased
    inputs = [x.detach().requires_grad_() for x in (*random_heads(groups, dtype), bias)]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    mask = resolve_mask(MASKS[name], inputs[3] if biased else None, start=0, num_queries=T, num_keys=T, like=inputs[0])
    assert mask.kernel == kernel
    fast = attend(inputs[0], inputs[1], inputs[2], mask, scale=0.3)
    plain = masked_plainly(exact, MASKS[name].dense(0, T, T, bias.device))
    assert fast.dtype == dtype
    for y in (fast, plain):
        y.double().square().sum().backward()
    trained = 4 if biased else 3
    for ours, theirs in zip([fast, *map(grad, inputs[:trained])], [plain, *map(grad, exact[:trained])], strict=True):
        assert torch.allclose(ours.double(), theirs, rtol=0, atol=tolerance * theirs.abs().max().item())


def test_plain_attention_equals_the_equation():
    q, k, v = (x.detach()[0, 0] for x in random_heads(1, torch.float64))
    y = plain_attention(q[None, None], k[None, None], v[None, None], scale=0.3)[0, 0]
    for t in range(T):
        weights = torch.tensor([math.exp(0.3 * float(q[t] @ key)) for key in k], dtype=torch.float64)
        assert torch.allclose(y[t], weights / weights.sum() @ v)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("bias_size", [None, (1, 2, 3, 4), (2, 1, 1, 4)])
def test_the_eager_kernel_has_correct_gradients(bias_size, dropout):
    generator = torch.Generator().manual_seed(0)
    sizes = [(2, 2, 3, 5), (2, 2, 4, 5), (2, 2, 4, 5), *([bias_size] if bias_size else [])]
    q, k, v, *bias = (torch.randn(size, generator=generator, dtype=torch.float64).requires_grad_() for size in sizes)

    def attended(q: Tensor, k: Tensor, v: Tensor, *bias: Tensor) -> Tensor:
        torch.manual_seed(1)  # the same weights are dropped every time
        mask = ScoreMask(bias[0] if bias else None, kernel="eager")
        return attend(q, k, v, mask, scale=0.7, dropout=dropout)

    assert torch.autograd.gradcheck(attended, (q, k, v, *bias))
    y = attended(q, k, v, *bias)
    torch.manual_seed(1)
    assert torch.allclose(y, plain_attention(q, k, v, *bias, scale=0.7, dropout=dropout))


def test_the_eager_kernel_trains_heads_in_fp32_under_autocast():
    q, k, v = random_heads(1, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = attend(q, k, v, ScoreMask(kernel="eager"), scale=0.3)
    y.float().square().sum().backward()
    assert y.dtype == torch.bfloat16 and all(grad(x).dtype == torch.float32 for x in (q, k, v))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_query_without_allowed_keys_gives_zero_with_zero_gradient(dtype):
    q, k, v = random_heads(1, dtype)
    mask = AttentionMask(causal=True, key_valid=torch.tensor([[False] * 2 + [True] * 5, [False] * 7]))
    y = attend(q, k, v, resolve_mask(mask, None, start=0, num_queries=T, num_keys=T, like=q), scale=0.3)
    assert torch.count_nonzero(y[0, :, :2]) == 0 and torch.count_nonzero(y[1]) == 0
    assert torch.isfinite(y).all() and torch.count_nonzero(y[0, :, 2:]) > 0
    y.float().sum().backward()
    for gradient in (grad(q), grad(k), grad(v)):
        assert torch.isfinite(gradient).all()
        assert torch.count_nonzero(gradient[1]) == 0
    assert torch.count_nonzero(grad(v)[0, :, :2]) == 0


def test_the_eager_kernel_stores_scores_in_bf16_under_autocast(monkeypatch):
    seen = []
    softmax = torch.softmax
    monkeypatch.setattr(torch, "softmax", lambda x, dim, out: seen.append(x.dtype) or softmax(x, dim, out=out))
    module, x = attention(), torch.randn(B, T, D)
    with torch.autocast("cpu", torch.bfloat16):
        mask = resolve_mask(AttentionMask(causal=True), None, start=0, num_queries=T, num_keys=T, like=x)
        module(x, AttentionInputs(mask))
    assert mask.kernel == "eager" and seen == [torch.bfloat16]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_applies_to_attention_weights_in_training_only(dtype):
    module = attention(dropout=0.0, attention_dropout=0.5).to(dtype)
    x = torch.randn(B, T, D, dtype=dtype)
    mask = resolve_mask(AttentionMask(), None, start=0, num_queries=T, num_keys=T, like=x)
    assert not torch.equal(module(x, AttentionInputs(mask)), module(x, AttentionInputs(mask)))
    module.eval()
    assert torch.equal(module(x, AttentionInputs(mask)), module(x, AttentionInputs(mask)))
    mean = torch.ones(2000, 1, 1, 8, dtype=dtype)
    y = attend(mean, mean, mean, mask, scale=1.0, dropout=0.25)  # a weight of 1 becomes 0 or 4/3
    kept = y[:, 0, 0, 0] != 0
    assert torch.allclose(y[kept], torch.tensor(4 / 3, dtype=dtype))
    assert abs(kept.float().mean().item() - 0.75) < 0.05


def test_shapes_hold_on_the_meta_device():
    with torch.device("meta"):
        module, x = Attention(config(num_kv_heads=2, qk_norm=True)), torch.empty(B, T, D)
        assert module(x, AttentionInputs(unmasked(T, T, causal=True))).shape == (B, T, D)
        assert module.k.weight.shape == (12, D)
