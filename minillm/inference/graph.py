"""A GPT's decoding step recorded as a CUDA graph: the GPU runs all its kernels without waiting for Python.

A recorded step repeats the same kernels on the same memory. Therefore the position is a tensor, keys and values are
written with `index_copy_`, and attention reads the whole cache, with a mask for the columns after the position.
`test_a_step_of_fixed_shapes_equals_a_step` in tests/inference/test_graph.py compares it with FastDecoder on a CPU,
`test_a_recorded_step_equals_the_model` in tests/cuda/test_cuda.py on a GPU.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from minillm.inference.cache import FlatCache
from minillm.inference.decoder import FastDecoder, supports
from minillm.inference.measure import linear_names
from minillm.inference.products import Plan, Products
from minillm.models.gpt import GPT
from minillm.nn.config import ModelConfig

MAX_RECORDED_ROWS = 64
"""Maximum rows in a recorded batch. Larger batches keep the GPU busy without recording."""
WARM_UP = 3
"""Steps before the recording, as in PyTorch's documentation: libraries allocate memory in the first ones."""
TOLERANCE = 0.1
"""Maximum relative error of the check; two bf16 computations of the same logits differ by 0.01 to 0.03."""


def supports_graphs(config: ModelConfig) -> bool:
    """Whether a step can be recorded. N-gram embeddings cannot, because they look up earlier tokens on the host."""
    return supports(config) and config.ngram_order == 1


class StaticView(NamedTuple):
    """A layer's part of the cache in a step whose position is a tensor; see LayerView."""

    memory: Tensor
    """(B, 2 G, max_len, K)."""
    position: Tensor
    """(1) long."""

    @property
    def keys(self) -> Tensor:
        """(B, G, max_len, K)."""
        return self.memory.chunk(2, 1)[0]

    @property
    def values(self) -> Tensor:
        """(B, G, max_len, K)."""
        return self.memory.chunk(2, 1)[1]

    @property
    def wide(self) -> bool:
        """As in LayerView."""
        return False

    def write(self, new: Tensor) -> None:
        """Store keys and values (B, 1, 2 G, K) at the position."""
        self.memory.index_copy_(2, self.position, new.transpose(1, 2))


class StaticStep:
    """The step of a FastDecoder that appends one token to each row of a cache, with fixed shapes."""

    def __init__(self, decoder: FastDecoder, cache: FlatCache) -> None:
        self.decoder, self.cache, self.memory = decoder, cache, cache.memory
        # Attention multiplies columns that are not written yet by 0, which would not remove a NaN.
        self.memory.narrow(3, cache.length, cache.max_len - cache.length).zero_()
        device = self.memory.device
        self.tokens = torch.zeros(self.memory.size(1), 1, dtype=torch.long, device=device)
        self.position = torch.zeros(1, dtype=torch.long, device=device)
        self.columns = torch.arange(cache.max_len, device=device)
        self.views = [StaticView(memory, self.position) for memory in self.memory.unbind(0)]
        self.graph: Any = None
        self.logits: Any = None

    def __call__(self, tokens: Tensor, position: int) -> Tensor:
        """Logits (B, V) after tokens (B, 1) at `position`."""
        self.tokens.copy_(tokens)
        self.position.fill_(position)
        if self.memory.device.type != "cuda":
            return self.run()
        if self.graph is None:
            self.graph = self._record()
        self.graph.replay()
        return self.logits.clone()

    def run(self) -> Tensor:
        """Logits (B, V): the computation that is recorded."""
        decoder, rotations = self.decoder, self.cache.rotations
        x = decoder.embed(self.tokens, self.position).flatten(0, 1)  # (B, D)
        mask = (self.columns <= self.position)[None, None, None]  # (1, 1, 1, max_len)
        angles = None if rotations is None else rotations.index_select(0, self.position)[None, :, None]
        return decoder.predict(decoder.through_layers(x, self.views, angles, mask, len(self.tokens)))

    def _record(self) -> Any:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):  # each run writes the same keys and values
                self.run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.logits = self.run()
        return graph


class GraphDecoder(nn.Module):
    """Generates as its GPT does: with recorded steps for rows of one length, otherwise with the plain model."""

    writes = "continuation"
    draft_cost = 8.0
    """High, because a step over several tokens is not recorded."""

    def __init__(self, model: GPT, plain: Any, dtype: torch.dtype) -> None:
        """`plain` is the model in `dtype`, for batches that are not recorded. RuntimeError if the check fails."""
        super().__init__()
        self.config, self.plain = model.config, plain
        self.fast = FastDecoder(model, Products(Plan(dtype=dtype), linear_names(model), {}))
        self.recorded: StaticStep | None = None
        self.train(model.training)
        self._check(next(model.parameters()).device)

    @torch.inference_mode()
    def start(
        self, tokens: Tensor, *, max_len: int, key_valid: Tensor | None = None, prefix_length: Tensor | None = None
    ) -> tuple[Any, Tensor]:
        """As `GPT.start`."""
        if key_valid is not None or prefix_length is not None or tokens.size(0) > MAX_RECORDED_ROWS:
            return self.plain.start(tokens, max_len=max_len, key_valid=key_valid, prefix_length=prefix_length)
        return self.fast.start(tokens, max_len=max_len)

    @torch.inference_mode()
    def step(self, tokens: Tensor, cache: Any) -> Tensor:
        """As `GPT.step`."""
        if not isinstance(cache, FlatCache):
            return self.plain.step(tokens, cache)
        if tokens.size(1) > 1 or tokens.size(0) > MAX_RECORDED_ROWS:  # a beam search repeats its rows
            return self.fast.step(tokens, cache)
        cache.require(1)
        self.config.require_length(cache.length + 1)
        if self.recorded is None or self.recorded.memory is not cache.memory:
            self.recorded = None  # frees its memory before the next recording
            self.recorded = StaticStep(self.fast, cache)
        logits = self.recorded(tokens, cache.length)
        cache.length += 1
        return logits[:, None]

    def _check(self, device: torch.device) -> None:
        """RuntimeError if a recorded step differs from the model by more than TOLERANCE."""
        tokens = torch.arange(5, device=device)[None] % (self.config.vocab_size or 1)
        max_len = min(8, self.config.max_seq_len)
        (ours, _), (theirs, _) = (one.start(tokens[:, :2], max_len=max_len) for one in (self, self.plain))
        for token in tokens[:, 2:max_len].split(1, 1):
            logits, expected = (one.step(token, cache).float() for one, cache in ((self, ours), (self.plain, theirs)))
            error = (logits - expected).norm() / expected.norm()
            if not error < TOLERANCE:
                raise RuntimeError(f"a recorded step differs from the model by {error:.2f}")
