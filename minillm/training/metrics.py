"""metrics.jsonl, one JSON object per line, and the plot of the loss curve."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from minillm.storage import force_to_disk, move_into_place, temporary_for, write_text, writing

SHOWN = 300
"""Characters of a sample in the log."""


class MetricsLog:
    """Append-only metrics.jsonl, flushed after each line."""

    def __init__(self, file: Path, *, resume_step: int = 0) -> None:
        """Open `file` and drop lines after `resume_step`, whose steps will be repeated."""
        kept = [line for line in read_metrics(file) if line["step"] <= resume_step] if resume_step else []
        write_text(file, "".join(json.dumps(line) + "\n" for line in kept))
        self._file, self._stream = file, file.open("a", encoding="utf-8", buffering=1)

    def write(self, **values: float) -> None:
        """Add a line. Numbers that are not finite become null, because JSON has no other form for them."""
        finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
        with writing(self._file):
            self._stream.write(json.dumps(finite) + "\n")

    def force_to_disk(self) -> None:
        """Make all lines survive a power failure."""
        with writing(self._file):
            force_to_disk(self._file)

    def close(self) -> None:
        with writing(self._file):
            self._stream.close()


def write_samples(file: Path, step: int, samples: Sequence[Mapping[str, Any]]) -> list[str]:
    """Add the outputs of an evaluation to samples.jsonl; returns them as lines for the log.

    Lines of this step and later ones, which a resumed run repeats, are dropped.
    """
    kept = [line for line in read_metrics(file) if line["step"] < step]
    lines = [*kept, *({"step": step, **sample} for sample in samples)]
    write_text(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return ["  | " + json.dumps(sample, ensure_ascii=False)[:SHOWN] for sample in samples]


def read_metrics(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of metrics.jsonl; skips lines that a crash truncated or that another program wrote."""
    if not file.is_file():
        return
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            values = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(values, dict) and isinstance(values.get("step"), int):
            yield values


def plot_curve(metrics: Path, picture: Path, *, title: str, loss: str = "loss (nats per token)") -> None:
    """Plot training and validation loss over steps as a PNG file; `loss` is the label of its axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, needed once per run
    from matplotlib.figure import Figure

    lines = list(read_metrics(metrics))
    train = [(x["step"], x["loss"]) for x in lines if x.get("loss") is not None]
    validation = [(x["step"], x["val_loss"]) for x in lines if x.get("val_loss") is not None]
    figure = Figure(figsize=(7, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="step", ylabel=loss, title=title)
    if train:
        axes.plot(*zip(*train, strict=True), color="#9db4c8", linewidth=1, label="training")
    if validation:
        axes.plot(*zip(*validation, strict=True), color="#c0392b", marker="o", markersize=4, label="validation")
        step, best = min(validation, key=lambda point: point[1])
        axes.annotate(f"{best:.3f}", (step, best), xytext=(0, 8), textcoords="offset points", ha="center")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if train or validation:
        axes.legend(frameon=False)
    with writing(picture):
        figure.savefig(temporary_for(picture), format="png")
        move_into_place(picture)
