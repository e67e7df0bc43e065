"""A faster `plain_rms_norm` (nn/norm.py): x / sqrt(mean(x^2) + eps) * weight.

`test_rms_norm_equals_its_plain_form` in tests/nn/test_norm.py compares values and gradients.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalize x (..., D) by its root mean square; weight (D). The result has the dtype of x."""
    if x.device.type != "cpu" or not torch.is_grad_enabled():
        return F.rms_norm(x, weight.shape, weight.to(x.dtype), eps)
    return CPURMSNorm.apply(x, weight, eps)  # type: ignore[return-value]


class CPURMSNorm(torch.autograd.Function):
    """RMSNorm with a hand-written gradient; on a CPU torch's gradient, with many small kernels, takes twice as long.

    With r = 1 / sqrt(mean(x^2) + eps) and g the gradient of the result:

        dx = r * (g * w) - x * r^3 * mean(g * w * x)        dw = sum(g * x * r)
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)  # (..., 1)
        factor = torch.rsqrt(norm.square() / x.size(-1) + eps)
        ctx.save_for_backward(x, weight, factor)
        return (x * factor.to(x.dtype)).mul_(weight.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, factor = ctx.saved_tensors
        (grad,) = grads
        w, r = weight.to(x.dtype), factor.to(x.dtype)
        product = grad * x
        grad_weight = r.flatten() @ product.reshape(-1, product.size(-1))
        mean = (product @ w)[..., None].to(factor.dtype) / x.size(-1)  # (..., 1)
        grad_x = torch.mul(grad, w, out=product).mul_(r)
        grad_x.addcmul_(x, (mean * factor**3).to(x.dtype), value=-1)
        return grad_x, grad_weight.to(weight.dtype), None
