"""Products x W^T of one row x as a weighted sum of the rows of W^T, for inference on a CPU.

With one row, each weight is used once, so the time is that of reading the weights. `torch.embedding_bag` computes
weighted sums of the rows of a table; on x86, FBGEMM compiles it at run time and prefetches, which reads memory faster
than products written for many rows. A row of the table has about BLOCK outputs, so that the sums stay in registers.
Each block of outputs is one bag, so that threads can share the work. 8-bit tables use the operator for quantized
embeddings.
`test_a_row_sum_equals_the_plain_product` in tests/nn/test_row_sums.py compares the sums with F.linear.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from minillm.nn.kernels.quantized import QuantizedWeight

BLOCK = 384
"""Approximate number of outputs in a block."""


class RowSum:
    """x W^T + b in the dtype of W for one row x (1, I)."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """`weight` (O, I) is copied; `bias` (O)."""
        self.dtype, self.bias = weight.dtype, bias
        self.num_blocks = num_blocks(weight.size(0))
        self.table = _blocks(weight, self.num_blocks)
        self.ids, self.starts = _bags(self.num_blocks, weight.size(1), weight.size(1))

    def __call__(self, x: Tensor) -> Tensor:
        x = x if x.dtype == self.dtype else x.to(self.dtype)
        weights = x.expand(self.num_blocks, -1).reshape(-1).contiguous()
        y = torch.embedding_bag(self.table, self.ids, self.starts, False, 0, False, weights)[0].view(1, -1)
        return y if self.bias is None else y.add_(self.bias)


class QuantizedRowSum:
    """x W^T + b in fp32 for a few rows x (N, I) and an 8-bit W."""

    dtype = torch.float32

    def __init__(self, weight: QuantizedWeight, bias: Tensor | None = None) -> None:
        self.bias = None if bias is None else bias.float()
        outputs, self.inputs = weight.values.shape
        self.num_blocks, self.group = num_blocks(outputs), weight.group
        table = _blocks(weight.values, self.num_blocks) ^ -128  # two's complement to unsigned: q + 128
        # The operator expects an fp32 scale and offset at the end of each row; these give (q + 128) * 1 - 128 = q.
        grid = torch.tensor([1.0, -128.0]).view(torch.uint8).expand(len(table), -1)
        self.table = torch.cat((table.view(torch.uint8), grid), 1)
        # (blocks, groups, outputs in a block): each group of inputs is a bag, scaled after the sum.
        self.scale = weight.scale.unflatten(0, (self.num_blocks, -1)).transpose(1, 2).contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        num_rows, number = x.size(0), self.num_blocks
        ids, starts = _bags(number, self.inputs, self.group) if num_rows == 1 else self._rows(num_rows)
        weights = x.float().expand(number, num_rows, -1).reshape(-1).contiguous()
        sums = INT8_BAGS(self.table, ids, starts, False, 0, False, weights)  # (blocks N groups, O / blocks)
        if sums.size(0) == number:
            y = sums.view(1, -1).mul_(self.scale.view(1, -1))
        elif num_rows == 1:
            y = sums.view(self.scale.shape).mul_(self.scale).sum(1).view(1, -1)
        else:
            sums = sums.view(number, num_rows, -1, sums.size(-1)).mul_(self.scale[:, None]).sum(2)
            y = sums.transpose(0, 1).reshape(num_rows, -1)  # (N, O)
        return y if self.bias is None else y.add_(self.bias)

    def _rows(self, number: int) -> tuple[Tensor, Tensor]:
        """As `_bags`, for `number` rows. A block serves all rows before the next one, so memory is read once."""
        ids, _ = _bags(self.num_blocks, self.inputs, self.group)
        ids = ids.view(self.num_blocks, 1, -1).repeat(1, number, 1).view(-1)
        return ids, torch.arange(0, len(ids), self.group, dtype=torch.int32)


INT8_BAGS: Any = getattr(torch.ops.quantized, "embedding_bag_byte_rowwise_offsets", None)


def num_blocks(outputs: int) -> int:
    """The number of equal blocks of `outputs` whose size is nearest to BLOCK."""
    divisors = (n for n in range(1, outputs + 1) if outputs % n == 0)
    return min(divisors, key=lambda n: max(outputs / n / BLOCK, BLOCK * n / outputs))


def _blocks(weight: Tensor, number: int) -> Tensor:
    """(O, I) -> (number * I, O / number): the transposed blocks, stacked."""
    return weight.unflatten(0, (number, -1)).transpose(1, 2).flatten(0, 1).contiguous()


@cache
def _bags(blocks: int, inputs: int, group: int) -> tuple[Tensor, Tensor]:
    """The table rows of all bags, and the index at which each bag starts. Layers of the same shape share them."""
    return torch.arange(blocks * inputs, dtype=torch.int32), torch.arange(0, blocks * inputs, group, dtype=torch.int32)
