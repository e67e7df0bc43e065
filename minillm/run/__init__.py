"""Train, load, evaluate and use runs. Only this package imports all the others."""

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
