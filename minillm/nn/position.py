"""Relative position schemes, which act inside attention; nn/embedding.py has the absolute ones.

Su et al. 2021 (rotary), Raffel et al. 2020 (T5's buckets), Press et al. 2022 (ALiBi). Each forward pass computes angles
and slopes in fp32; a buffer would change when the model is cast to bf16 or created on the meta device.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minillm.nn.config import ModelConfig


class RotaryAngles(NamedTuple):
    """Cosines and sines of the rotary angles, broadcastable to (B, H, T, K)."""

    cos: Tensor
    sin: Tensor
    """Negated in the first half of K."""


def apply_rotary(heads: Tensor, angles: RotaryAngles) -> Tensor:
    """Rotate each pair (a, b) = (x_i, x_{i+K/2}) of heads (B, H, T, K): (a cos - b sin, b cos + a sin)."""
    half = heads.size(-1) // 2
    return torch.addcmul(heads * angles.cos, heads.roll(half, -1), angles.sin)


class RelativePosition(nn.Module):
    """Base class; by itself it does nothing. A scheme overrides `angles` or `bias`."""

    needs_bias = False
    """Whether `bias` returns a tensor."""

    def angles(self, positions: Tensor, dtype: torch.dtype) -> RotaryAngles | None:
        """Rotation of queries and keys at `positions` (T) or (B, T), in the dtype of the heads."""
        return None

    def bias(self, query_positions: Tensor, key_positions: Tensor) -> Tensor | None:
        """(1|B, H, T, S) added to the scores, for positions (T) and (S), or (B, T) and (B, S)."""
        return None


class RotaryPosition(RelativePosition):
    """Rotary embedding in the half-split layout: the pair (x_i, x_{i+K/2}) is rotated by p * theta^(-2i/K).

    `scale` changes these frequencies for contexts longer than those of pretraining; None: no change.
    """

    def __init__(self, head_dim: int, theta: float = 10000.0, scale: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.head_dim, self.theta, self.scale = head_dim, theta, scale

    def angles(self, positions: Tensor, dtype: torch.dtype) -> RotaryAngles:
        # fp32, because bf16 cannot represent position 257.
        frequencies = rotary_frequencies(self.head_dim, self.theta, positions.device)
        angle = positions[..., None] * (frequencies if self.scale is None else self.scale(frequencies))  # (..., T, K/2)
        cos, sin = angle.cos(), angle.sin()
        cos, sin = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)  # (..., T, K)
        return RotaryAngles(cos.unsqueeze(-3).to(dtype), sin.unsqueeze(-3).to(dtype))  # (..., 1, T, K)


class T5RelativeBias(RelativePosition):
    """T5's learned bias for each head and bucket of distances. Buckets of long distances are logarithmic."""

    needs_bias = True

    def __init__(self, num_heads: int, *, bidirectional: bool, num_buckets: int = 32, max_distance: int = 128) -> None:
        super().__init__()
        self.table = nn.Embedding(num_buckets, num_heads)
        self.bidirectional, self.num_buckets, self.max_distance = bidirectional, num_buckets, max_distance

    def bucket(self, distance: Tensor) -> Tensor:
        """Bucket of each distance, key position minus query position."""
        num, offset = self.num_buckets, 0
        if self.bidirectional:
            num //= 2
            offset = (distance > 0).long() * num
            distance = distance.abs()
        else:
            distance = (-distance).clamp(min=0)
        exact = num // 2
        ratio = torch.log(distance.clamp(min=1).float() / exact) / math.log(self.max_distance / exact)
        far = (exact + (ratio * (num - exact)).long()).clamp(max=num - 1)
        return offset + torch.where(distance < exact, distance, far)

    def bias(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        values = self.table(self.bucket(_distance(query_positions, key_positions)))  # (B|1, T, S, H)
        return values.permute(0, 3, 1, 2)  # (B|1, H, T, S)


class AlibiPosition(RelativePosition):
    """ALiBi: the bias -m_h * |q - k| with a fixed slope m_h for each head.

    For n heads, n a power of two, the slopes are 2^(-8/n), 2^(-16/n), ... For other n they are those of the next lower
    power, followed by every second slope of the next higher power, as in the authors' code.
    """

    needs_bias = True

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads

    def slopes(self) -> list[float]:
        """The slope m of each head."""
        power = 2 ** int(math.log2(self.num_heads))
        slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
        return slopes + [2 ** (-4 * (i + 1) / power) for i in range(0, 2 * (self.num_heads - power), 2)]

    def bias(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        distance = _distance(query_positions, key_positions)[:, None].abs()  # (B|1, 1, T, S)
        slopes = torch.tensor(self.slopes(), device=distance.device)[:, None, None]
        return -slopes * distance  # (B|1, H, T, S)


def relative_position(config: ModelConfig, *, bidirectional: bool) -> RelativePosition:
    """The relative scheme that `config` names, or the base class, which does nothing."""
    match config.position:
        case "rotary":
            return RotaryPosition(config.head_width, config.rope_theta, rotary_scale(config))
        case "t5":
            buckets, distance = config.relative_buckets, config.relative_max_distance
            return T5RelativeBias(
                config.num_heads, bidirectional=bidirectional, num_buckets=buckets, max_distance=distance
            )
        case "alibi":
            return AlibiPosition(config.num_heads)
        case _:
            return RelativePosition()


def rotary_scale(config: ModelConfig) -> Callable[[Tensor], Tensor] | None:
    """The change that `rope_scaling` makes to rotary frequencies."""

    def linear(frequencies: Tensor) -> Tensor:
        return frequencies / config.rope_factor

    def llama3(frequencies: Tensor) -> Tensor:
        """Keep high frequencies, divide low ones by the factor, interpolate between them."""
        rotations = frequencies * config.rope_original_len / (2 * math.pi)  # within the original context
        low, high = config.rope_low_freq_factor, config.rope_high_freq_factor
        kept = ((rotations - low) / (high - low)).clamp(0, 1)
        return kept * frequencies + (1 - kept) * linear(frequencies)

    return {"none": None, "linear": linear, "llama3": llama3}[config.rope_scaling]


def rotary_frequencies(width: int, theta: float, device: torch.device | None = None) -> Tensor:
    """(ceil(width/2)) angular frequencies theta^(-2i/width), fp32."""
    return theta ** (-torch.arange(0, width, 2, dtype=torch.float32, device=device) / width)


def _distance(query_positions: Tensor, key_positions: Tensor) -> Tensor:
    """(B|1, T, S) key position minus query position."""
    distance = key_positions[..., None, :] - query_positions[..., :, None]
    return distance if distance.ndim == 3 else distance[None]
