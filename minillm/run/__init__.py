"""The composition root, the only room that sees every part: from a RunConfig to a trained run folder, and back to a
model. Other rooms' public names stay in their rooms; these are the calls that need all of them at once.
"""

from minillm.run.exports import export_model
from minillm.run.folder import ABOUT, CONFIG, CURVE, METRICS, RUNS, find_run
from minillm.run.imports import import_model
from minillm.run.inference import LoadedRun, evaluate, fill, load_run, sample, score_harness, search
from minillm.run.session import train, train_run
from minillm.run.warm_start import finetune_config

__all__ = [
    "ABOUT",
    "CONFIG",
    "CURVE",
    "METRICS",
    "RUNS",
    "LoadedRun",
    "evaluate",
    "export_model",
    "fill",
    "find_run",
    "finetune_config",
    "import_model",
    "load_run",
    "sample",
    "score_harness",
    "search",
    "train",
    "train_run",
]
