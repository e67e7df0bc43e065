"""Shared by the chapters: where figures go, and how a chapter runs as a script."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FIGURES = Path(__file__).parent.parent / "figures"


def save(figure: Any, folder: Path, name: str) -> None:
    """Write a figure as a small PNG."""
    figure.tight_layout()
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", dpi=80)
    plt.close(figure)


def run(lesson: Callable[[Path], dict[str, Any]]) -> None:
    """Run a chapter; its figures go to docs/tutorials/figures."""
    lesson(FIGURES)
