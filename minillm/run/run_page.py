"""One HTML page about a run, or about several side by side."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from minillm.config import RunConfig, load_config
from minillm.config_files import flatten
from minillm.inspection.page import fill_template
from minillm.models.profile import BYTES_FP32, count_operations, profile
from minillm.nn.config import ModelConfig
from minillm.run.folder import CONFIG, METRICS, SAMPLES, find_run, read_about
from minillm.storage import write_text
from minillm.training.metrics import read_metrics

MAX_POINTS = 2000
"""Maximum points of a curve; longer ones are thinned."""


def write_report(runs: Sequence[Path | str | None], out: Path | None = None) -> Path:
    """Write the page about `runs`; returns its path. `out` None: report.html in the folder of the first run.

    FileNotFoundError if a run does not exist.
    """
    folders = [find_run(None if run is None else Path(run)) for run in runs]
    path = folders[0] / "report.html" if out is None else out
    written = time.strftime("%Y-%m-%d %H:%M")
    write_text(path, fill_template("report.html", {"written": written, "runs": list(map(facts_of, folders))}))
    return path


def facts_of(folder: Path) -> dict[str, Any]:
    """All that the page shows of a run."""
    config = load_config(folder / CONFIG)
    try:
        about = read_about(folder)
    except ValueError:  # an older or damaged one; the rest can still be shown
        about = {}
    lines = list(read_metrics(folder / METRICS))
    sections = {name: vars(getattr(config, name)) for name in vars(config)}
    return {
        "name": str(folder),
        "about": _about(config, about, lines),
        "curves": _curves(lines, "examples" if (about.get("text") or {}).get("unit") else "tokens"),
        "samples": _samples(folder),
        "cost": _cost(config.model),
        "time": _time(about, lines, folder),
        "config": {key: _plain(value) for key, value in flatten(sections).items()},
    }


def _about(config: RunConfig, about: dict[str, Any], lines: list[dict[str, Any]]) -> dict[str, str]:
    """What the run is, in a few words each."""
    text, last = about.get("text") or {}, lines[-1] if lines else {}
    evaluated = [line for line in lines if line.get("val_loss") is not None]
    best = min(evaluated, key=lambda line: line["val_loss"], default={})
    steps, rest = ("step", "seconds", "val_loss"), {key: value for key, value in best.items() if key != "skipped"}
    figures = {key: value for key, value in rest.items() if key not in steps and isinstance(value, int | float)}
    found = {
        "model": f"{config.model.preset} ({config.model.family})",
        "parameters": f"{about['parameters']:,}" if "parameters" in about else "",
        "objective": config.objective.name,
        "data": str(text.get("source", config.data.source)),
        "steps": f"{last.get('step', 0):,} of {config.train.steps:,}",
        "lowest validation loss": f"{best['val_loss']:.4f} at step {best['step']:,}" if best else "",
        **{key.replace("_", " "): f"{value:.4f}" for key, value in figures.items()},
        "computed on": str(about.get("compute", "")),
        "started": str(about.get("started", "")),
        "starts from": str(about.get("init_from", "")),
        "git": str(about.get("git") or ""),
        "versions": ", ".join(f"{k} {v}" for k, v in (about.get("versions") or {}).items() if v),
    }
    return {key: value for key, value in found.items() if value}


def _curves(lines: list[dict[str, Any]], unit: str) -> dict[str, list[list[float | None]]]:
    """Name of each figure in metrics.jsonl -> [step, value] points; and the speed, in `unit` per second."""
    curves: dict[str, list[list[float | None]]] = {}
    for line in lines:
        for key, value in line.items():
            if key not in ("step", "tokens", "seconds", "skipped") and isinstance(value, int | float | None):
                curves.setdefault(key, []).append([line["step"], value])
    speeds = []
    counted = [line for line in lines if "tokens" in line]
    for before, now in pairwise(counted):
        if (seconds := now["seconds"] - before["seconds"]) > 0:
            speeds.append([now["step"], (now["tokens"] - before["tokens"]) / seconds])
    if speeds:
        curves[f"{unit} per second"] = speeds
    return {name: points[:: 1 + len(points) // MAX_POINTS] for name, points in curves.items()}


def _samples(folder: Path) -> list[dict[str, Any]]:
    """Previews over time; a step that was repeated after a crash shows its last one."""
    path, found = folder / SAMPLES, {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            sample = json.loads(line)
            found[int(sample["step"])] = str(sample["text"])
        except (ValueError, KeyError, TypeError):  # cut off by a crash
            continue
    return [{"step": step, "text": found[step]} for step in sorted(found)]


def _cost(model: ModelConfig) -> dict[str, dict[str, int]]:
    """Parameters by part, operations of a token by part, and bytes of training by what holds them."""
    counted = profile(model)
    weights = BYTES_FP32 * counted.total
    return {
        "parameters": {part: number for part, number in counted.parameters.items() if number},
        "operations": count_operations(model),
        "memory": {"weights": weights, "gradients": weights, "optimizer_state": 2 * weights},
    }


def _time(about: dict[str, Any], lines: list[dict[str, Any]], folder: Path) -> dict[str, float]:
    """Seconds of training steps, and of the rest up to the last line of metrics.jsonl, if both are known."""
    trained = max((line.get("seconds") or 0.0 for line in lines), default=0.0)
    try:
        began = datetime.strptime(str(about["started"]), "%Y-%m-%dT%H:%M:%S%z").timestamp()
        whole = (folder / METRICS).stat().st_mtime - began
    except (KeyError, ValueError, OSError):
        return {"training_steps": trained}
    rest = whole - trained  # a resumed run began anew, so this may be negative
    return {"training_steps": trained} | ({"evaluation_saving_and_samples": rest} if 0 <= rest < 10 * trained else {})


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
