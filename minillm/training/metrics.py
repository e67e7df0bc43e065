"""What a run writes down: metrics.jsonl, one object a line, and the picture of its loss."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minillm.storage import force_to_disk, move_into_place, temporary_for, write_text, writing


class MetricsLog:
    """Append-only metrics.jsonl; each line reaches the file at once."""

    def __init__(self, file: Path, *, resume_step: int = 0) -> None:
        """Open `file`; lines after `resume_step` belong to work that is about to be done again and are dropped."""
        kept = [line for line in read_metrics(file) if line["step"] <= resume_step] if resume_step else []
        write_text(file, "".join(json.dumps(line) + "\n" for line in kept))
        self._file, self._stream = file, file.open("a", encoding="utf-8", buffering=1)

    def write(self, **values: float) -> None:
        """Add a line; a number that is not finite becomes null, since JSON has no other form for it."""
        finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
        with writing(self._file):
            self._stream.write(json.dumps(finite) + "\n")

    def force_to_disk(self) -> None:
        """Make sure that the lines up to a saved step survive a power cut."""
        with writing(self._file):
            force_to_disk(self._file)

    def close(self) -> None:
        """Close the file."""
        with writing(self._file):
            self._stream.close()


def read_metrics(file: Path) -> Iterator[dict[str, Any]]:
    """Objects of a metrics.jsonl, without a line that a crash cut short or that is none of ours."""
    if not file.is_file():
        return
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(found, dict) and isinstance(found.get("step"), int):
            yield found


def plot_curve(metrics: Path, picture: Path, *, title: str) -> None:
    """Draw training and validation loss over steps to a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, and needed once a run
    from matplotlib.figure import Figure

    lines = list(read_metrics(metrics))
    train = [(x["step"], x["loss"]) for x in lines if x.get("loss") is not None]
    validation = [(x["step"], x["val_loss"]) for x in lines if x.get("val_loss") is not None]
    figure = Figure(figsize=(7, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="step", ylabel="loss (nats per token)", title=title)
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
