"""Forms of `F.linear(x, weight, bias)` for inference on a CPU: weights are stored as the product reads them fastest.

`test_every_form_equals_the_plain_product` in tests/inference/test_quantized.py compares them with F.linear. Which form
is fast depends on the processor, so inference/measure.py measures them. All operators with an underscore are private to
torch; `forms`, `one_row_forms` and `can_pack` say what this version can compute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from minillm.nn.kernels.quantized import QuantizedWeight
from minillm.nn.kernels.row_sums import INT8_BAGS, QuantizedRowSum, RowSum

Form = Literal["plain", "transposed", "onednn"]
"""plain: F.linear. transposed: x @ W^T with W^T stored. onednn: the blocked layout of oneDNN."""

OneRow = Literal["same", "sum"]
"""same: a single row is multiplied as several are. sum: by kernels/row_sums.py, from a second copy of the weights."""

WIDE_ROWS, SUMMED_ROWS = 32, 12
"""From this many rows on, a quantized weight is dequantized first, instead of torch's packed product or sums of rows.
Both gain by reading fewer bytes, but need more arithmetic for each row than a plain product."""

Product = Callable[[Tensor], Tensor]
"""x (N, I), fp32 or the product's dtype -> (N, O) in the product's dtype."""


class DenseProduct:
    """x W^T + b in fp32 or bf16, in one of three forms."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        *,
        form: Form,
        dtype: torch.dtype,
        min_rows: int = 1,
        one_row: OneRow = "same",
    ) -> None:
        """`min_rows` pads x: on some processors, oneDNN reads the weights faster for two rows than for one."""
        self.dtype, self.min_rows, weight = dtype, min_rows, weight.to(dtype)
        self.bias = None if bias is None else bias.to(dtype)
        self.form, self.sum = form, RowSum(weight, self.bias) if one_row == "sum" else None
        match form:
            case "onednn":
                self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), min_rows)
            case "transposed":
                self.weight = weight.t().contiguous()
            case _:
                self.weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        if self.sum is not None and x.size(0) == 1:
            return self.sum(x)
        if x.dtype != self.dtype:
            x = x.to(self.dtype)
        if self.form == "onednn":
            if x.size(0) < self.min_rows:
                padded = x.expand(self.min_rows, -1)
                return ONEDNN(padded, self.weight, self.bias, "none", [], "").narrow(0, 0, 1)
            return ONEDNN(x, self.weight, self.bias, "none", [], "")
        if self.form == "transposed":
            return x @ self.weight if self.bias is None else torch.addmm(self.bias, x, self.weight)
        return F.linear(x, self.weight, self.bias)


class QuantizedProduct:
    """x W^T + b with W of 8 or 4 bits, by packed products; the result is fp32 or bf16."""

    dtype = torch.bfloat16

    def __init__(
        self,
        weight: QuantizedWeight,
        bias: Tensor | None,
        *,
        wide: torch.dtype = torch.bfloat16,
        one_row: OneRow = "same",
        parts: Sequence[QuantizedWeight] = (),
    ) -> None:
        """`wide` is the dtype in which many rows are multiplied; `one_row` is for weights that `INT8` can multiply.

        `parts` are weights whose concatenation is `weight`. If the caller keeps them anyway, no other copy in this
        layout is needed.
        """
        self.outputs, self.bits, self.group, self.wide = weight.values.size(0), weight.bits, weight.group, wide
        self.bias = None if bias is None else bias.to(torch.bfloat16)
        self.only_sums = weight.bits == 8 and not fits_int8(weight)
        summed = self.only_sums or (one_row == "sum" and weight.bits == 8)
        self.sum = QuantizedRowSum(weight, bias) if summed else None
        self.parts = tuple(parts) or (weight,)
        if weight.zero is not None:
            self.packed = PACK_INT4(weight.values.int(), 1)
            self.scales = torch.stack((weight.scale, weight.zero), -1).transpose(0, 1).contiguous().bfloat16()
        elif not self.only_sums:
            self.parts, self.packed, self.scales = (weight,), weight.values, weight.scale.flatten().bfloat16()

    def __call__(self, x: Tensor) -> Tensor:
        if x.size(0) >= (SUMMED_ROWS if self.only_sums else WIDE_ROWS):
            y = F.linear(x.to(self.wide), self._wide_weight()).bfloat16()
        elif self.sum is not None and (self.only_sums or x.size(0) == 1):
            return self.sum(x)
        elif self.bits == 8:
            y = INT8(x.to(torch.bfloat16), self.packed, self.scales)
        else:
            y = INT4(x.to(torch.bfloat16), self.packed, self.group, self.scales)
        return y if self.bias is None else y + self.bias

    def _wide_weight(self) -> Tensor:
        """The plain weight (O, I) for many rows."""
        sizes = [part.values.size(0) for part in self.parts]
        weight = torch.empty(self.outputs, self.parts[0].values.size(1), dtype=self.wide)
        for part, rows in zip(self.parts, weight.split(sizes), strict=True):
            part.write(rows)
        return weight


PACK_INT4: Any = getattr(torch, "_convert_weight_to_int4pack_for_cpu", None)
INT8: Any = getattr(torch, "_weight_int8pack_mm", None)
INT4: Any = getattr(torch, "_weight_int4pack_mm_for_cpu", None)
ONEDNN: Any = torch.ops.mkldnn._linear_pointwise.default if torch.backends.mkldnn.is_available() else None


def forms() -> list[Form]:
    """The forms of a dense product that this build of torch can compute."""
    return ["plain", "transposed", *(["onednn"] if ONEDNN is not None else [])]


def one_row_forms(bits: int = 16) -> list[OneRow]:
    """The ways in which this build of torch can multiply one row by weights of 8 or, unquantized, more `bits`."""
    return ["same", "sum"] if bits > 8 or INT8_BAGS is not None else ["same"]


def fits_int8(weight: QuantizedWeight) -> bool:
    """Whether `INT8` can multiply by an 8-bit weight: it reads rows in blocks of 16 values, even beyond their end."""
    return INT8 is not None and weight.scale.size(1) == 1 and weight.values.size(1) % 16 == 0


def can_pack(weight: QuantizedWeight) -> bool:
    """Whether torch has a packed product for a weight of this shape."""
    outputs, inputs = weight.values.shape
    if weight.bits == 8:
        return fits_int8(weight) or INT8_BAGS is not None
    return INT4 is not None and weight.group in (32, 64, 128, 256) and outputs % 16 == 0 and inputs % weight.group == 0
