"""Where order comes from: absolute schemes are added to the embeddings, relative ones act inside attention.

Vaswani et al. 2017 (sinusoidal), Radford et al. 2018 (learned), Su et al. 2021 (rotary), Raffel et al. 2020 (T5's
buckets), Press et al. 2022 (ALiBi). No scheme keeps a buffer: angles and slopes are recomputed in fp32, once for each
forward pass, so neither a cast of the model to bf16 nor a start on the meta device can spoil them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minillm.nn.config import ModelConfig


class LearnedPosition(nn.Module):
    """A trained vector for each position."""

    def __init__(self, max_seq_len: int, d_model: int) -> None:
        super().__init__()
        self.table = nn.Embedding(max_seq_len, d_model)

    def forward(self, positions: Tensor) -> Tensor:
        """positions (T) or (B, T) -> (T, D) or (B, T, D)."""
        return self.table(positions)


class SinusoidalPosition(nn.Module):
    """PE(p, 2i) = sin(p / 10000^(2i/D)), PE(p, 2i+1) = cos(p / 10000^(2i/D)) (Vaswani et al. 2017, section 3.5)."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.d_model = d_model

    def forward(self, positions: Tensor) -> Tensor:
        """positions (T) or (B, T) -> (T, D) or (B, T, D), fp32."""
        angle = positions[..., None] * rotary_frequencies(
            self.d_model, 10000.0, positions.device
        )  # (..., T, ceil(D/2))
        return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2)[..., : self.d_model]


class RotaryAngles(NamedTuple):
    """What rotary positions do to the heads of one forward pass; ready to broadcast over (B, H, T, K)."""

    cos: Tensor
    sin: Tensor


def apply_rotary(heads: Tensor, angles: RotaryAngles) -> Tensor:
    """Turn each pair (x_i, x_{i+K/2}) of heads (B, H, T, K) by its angle."""
    half = heads.size(-1) // 2
    return torch.addcmul(heads * angles.cos, heads.roll(half, -1), angles.sin)


class RelativePosition(nn.Module):
    """Order that enters inside attention. A scheme overrides the hook that it needs; this base class is 'none'."""

    needs_bias = False
    """Whether `bias` returns anything; spares the key positions where it does not."""

    def angles(self, positions: Tensor, dtype: torch.dtype) -> RotaryAngles | None:
        """The turn of queries and keys at `positions` (T) or (B, T), in the dtype of the heads."""
        return None

    def bias(self, query_positions: Tensor, key_positions: Tensor) -> Tensor | None:
        """(1|B, H, T, S) added to the scores, of positions (T), (S) or (B, T), (B, S)."""
        return None


class RotaryPosition(RelativePosition):
    """Rotary embedding in the half-split layout: component i turns together with i + K/2, by p * theta^(-2i/K).

    `scale` changes these frequencies for contexts longer than the first training's; None: as they are.
    """

    def __init__(self, head_dim: int, theta: float = 10000.0, scale: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.head_dim, self.theta, self.scale = head_dim, theta, scale

    def angles(self, positions: Tensor, dtype: torch.dtype) -> RotaryAngles:
        # fp32: bf16 cannot tell position 257 from 256.
        frequencies = rotary_frequencies(self.head_dim, self.theta, positions.device)
        angle = positions[..., None] * (frequencies if self.scale is None else self.scale(frequencies))  # (..., T, K/2)
        cos, sin = angle.cos(), angle.sin()
        cos, sin = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)  # (..., T, K)
        cos, sin = cos.unsqueeze(-3).to(dtype), sin.unsqueeze(-3).to(dtype)  # (..., 1, T, K)
        return RotaryAngles(cos, sin)


class T5RelativeBias(RelativePosition):
    """T5's learned bias: one number for each head and bucket of distances, the far ones in logarithmic buckets."""

    needs_bias = True

    def __init__(self, num_heads: int, *, bidirectional: bool, num_buckets: int = 32, max_distance: int = 128) -> None:
        super().__init__()
        self.table = nn.Embedding(num_buckets, num_heads)
        self.bidirectional, self.num_buckets, self.max_distance = bidirectional, num_buckets, max_distance

    def bucket(self, distance: Tensor) -> Tensor:
        """Bucket of each key position minus query position."""
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
    """Scores fall linearly with distance, at one slope for each head: -m_h * |q - k|; nothing is learned.

    Slopes are 2^(-8/n), 2^(-16/n), ... for a power of two n; otherwise those of the next lower power, followed by every
    second one of the next higher power, as in the authors' code.
    """

    needs_bias = True

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads

    def slopes(self) -> list[float]:
        """The slope m of each head."""
        power = 2 ** int(math.log2(self.num_heads))
        slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
        slopes += [2 ** (-4 * (i + 1) / power) for i in range(0, 2 * (self.num_heads - power), 2)]
        return slopes

    def bias(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        distance = _distance(query_positions, key_positions)[:, None].abs()  # (B|1, 1, T, S)
        slopes = torch.tensor(self.slopes(), device=distance.device)[:, None, None]
        return -slopes * distance  # (B|1, H, T, S)


def absolute_position(config: ModelConfig) -> nn.Module | None:
    """The scheme that is added to the embeddings, if `config` names one."""
    match config.position:
        case "learned":
            return LearnedPosition(config.max_seq_len, config.d_model)
        case "sinusoidal":
            return SinusoidalPosition(config.d_model)
        case _:
            return None


def relative_position(config: ModelConfig, *, bidirectional: bool) -> RelativePosition:
    """The scheme that acts inside attention, or the base class that does nothing."""
    match config.position:
        case "rotary":
            return RotaryPosition(config.head_width, config.rope_theta, rotary_scale(config))
        case "t5":
            return T5RelativeBias(
                config.num_heads,
                bidirectional=bidirectional,
                num_buckets=config.relative_buckets,
                max_distance=config.relative_max_distance,
            )
        case "alibi":
            return AlibiPosition(config.num_heads)
        case _:
            return RelativePosition()


def rotary_scale(config: ModelConfig) -> Callable[[Tensor], Tensor] | None:
    """What `rope_scaling` does to angular frequencies."""

    def linear(frequencies: Tensor) -> Tensor:
        return frequencies / config.rope_factor

    def llama3(frequencies: Tensor) -> Tensor:
        """Frequencies that turn often in the original context stay, rare ones are divided, between them a mixture."""
        turns = frequencies * config.rope_original_len / (2 * math.pi)  # in the original context
        low, high = config.rope_low_freq_factor, config.rope_high_freq_factor
        kept = ((turns - low) / (high - low)).clamp(0, 1)
        return kept * frequencies + (1 - kept) * linear(frequencies)

    return {"none": None, "linear": linear, "llama3": llama3}[config.rope_scaling]


def rotary_frequencies(width: int, theta: float, device: torch.device | None = None) -> Tensor:
    """(ceil(width/2)) angular frequencies theta^(-2i/width), fp32."""
    return theta ** (-torch.arange(0, width, 2, dtype=torch.float32, device=device) / width)


def _distance(query_positions: Tensor, key_positions: Tensor) -> Tensor:
    """(B|1, T, S) key position minus query position."""
    distance = key_positions[..., None, :] - query_positions[..., :, None]
    return distance if distance.ndim == 3 else distance[None]
