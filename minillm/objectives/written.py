"""What objectives share whose targets are tokens that the model writes, each predicted from those before it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from minillm.nn.output import Output
from minillm.objectives.base import cross_entropy_sum, num_correct


@dataclass(frozen=True, kw_only=True)
class WrittenTokens:
    """Cross-entropy over one label set, "lm"."""

    pad_id: int
    """Fills the end of shorter rows; never a target, since the mask is made from lengths."""
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    heads: tuple[str, ...] = ("lm",)
    label_sets: tuple[str, ...] = ("lm",)
    covers_text: bool = False
    guessable: str | None = None

    def loss(self, output: Output, labels: dict[str, Tensor], *, training: bool) -> dict[str, Tensor]:
        """Sum of -log p(token), in nats."""
        smoothing, z_loss = (self.label_smoothing, self.z_loss) if training else (0.0, 0.0)
        return {"lm": cross_entropy_sum(output.logits["lm"], labels["lm"], label_smoothing=smoothing, z_loss=z_loss)}

    def correct(self, output: Output, labels: dict[str, Tensor]) -> dict[str, Tensor]:
        """Number of tokens that are the likeliest where they stand."""
        return {"lm": num_correct(output.logits["lm"], labels["lm"])}
