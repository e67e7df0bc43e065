"""Results of the benchmark: rows of JSON, a table, and a bar chart."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from minillm.benchmark.machine import Machine
from minillm.benchmark.turns import Measured


class BenchmarkRow(NamedTuple):
    """One side of one work."""

    work: str
    side: str
    dtype: str
    value: float | None
    """Median; None if it was not measured."""
    unit: str
    spread: tuple[float, float] | None
    """Slowest and fastest turn."""
    ratio: float | None
    """Ours divided by this side's speed; None for our own first row."""
    limit_share: float | None
    """Share of what the machine could do."""
    peak_bytes: int
    note: str


def rows(
    work: str, results: Sequence[Measured], limits: Sequence[float | None], unit: str = "tokens/s"
) -> list[BenchmarkRow]:
    """The rows of one work; ratios compare with our first side."""
    ours = median(results[0].speeds) if results[0].speeds else None
    found = []
    for result, limit in zip(results, limits, strict=True):
        value = median(result.speeds) if result.speeds else None
        is_first = result is results[0]
        ratio = None if is_first or ours is None or value is None else round(ours / value, 3)
        share = None if value is None or limit is None else round(value / limit, 3)
        spread = (round(min(result.speeds), 1), round(max(result.speeds), 1)) if result.speeds else None
        note = f"not measured: {result.failure}" if result.failure else result.side.note
        shown = None if value is None else round(value, 1)
        name = (work, result.side.name, result.side.dtype)
        found.append(BenchmarkRow(*name, shown, unit, spread, ratio, share, result.peak_bytes, note))
    return found


def machine_line(machine: Machine) -> str:
    """One line with the limits."""
    products = ", ".join(f"{name} {speed / 1e9:,.0f} GFLOP/s" for name, speed in machine.flops.items())
    return f"{machine.device}; products: {products}; memory reads {machine.read / 1e9:.0f} GB/s"


def table(found: Sequence[BenchmarkRow]) -> str:
    """A Markdown table. The ratio is our speed divided by that side's."""
    lines = ["| work | side | dtype | speed | spread | ours / this | share of limit | peak memory | |"]
    lines.append("|---|---|---|---:|---|---:|---:|---:|---|")
    for row in found:
        value = "" if row.value is None else f"{row.value:,.0f} {row.unit}"
        spread = "" if row.spread is None else f"{row.spread[0]:,.0f} to {row.spread[1]:,.0f}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        share = "" if row.limit_share is None else f"{row.limit_share:.0%}"
        memory = f"{row.peak_bytes / 2**20:,.0f} MiB" if row.peak_bytes else ""
        cells = (row.work, row.side, row.dtype, value, spread, ratio, share, memory, row.note)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def chart(found: Sequence[BenchmarkRow], file: Path, title: str) -> None:
    """One group of horizontal bars per work."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    works = list(dict.fromkeys(row.work for row in found))
    sizes = [sum(row.work == work for row in found) for work in works]
    height = 0.8 + 0.9 * len(works) + 0.3 * sum(sizes)
    figure, axes = plt.subplots(
        len(works), 1, figsize=(8, height), squeeze=False, height_ratios=sizes, layout="constrained"
    )
    for work, axis in zip(works, axes[:, 0], strict=True):
        own = [row for row in found if row.work == work][::-1]
        colors = ["tab:blue" if row.side == "minillm" else "lightgray" for row in own]
        names = [", ".join(filter(None, (row.side, row.dtype))) for row in own]
        bars = axis.barh(names, [row.value or 0 for row in own], color=colors)
        axis.bar_label(bars, labels=["" if row.value is None else f"{row.value:,.0f}" for row in own], padding=3)
        axis.set_title(f"{work} ({own[0].unit})", fontsize=9, loc="left", x=-0.15)
        axis.locator_params(axis="x", nbins=5)
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.15)
    figure.suptitle(title, fontsize=8)
    figure.savefig(file, dpi=120)
    plt.close(figure)
