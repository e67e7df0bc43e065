"""Train, load, evaluate and use runs. Only this package imports all the others."""

from minillm.run.exports import export_model as export_model
from minillm.run.folder import CONFIG as CONFIG
from minillm.run.folder import find_run as find_run
from minillm.run.imports import import_model as import_model
from minillm.run.inference import LoadedRun as LoadedRun
from minillm.run.inference import embed as embed
from minillm.run.inference import load_run as load_run
from minillm.run.merging import merge_run as merge_run
from minillm.run.peft import export_adapter as export_adapter
from minillm.run.peft import import_adapter as import_adapter
from minillm.run.predictions import predict as predict
from minillm.run.quantization import quantize_run as quantize_run
from minillm.run.scoring import evaluate as evaluate
from minillm.run.scoring import score_harness as score_harness
from minillm.run.session import train as train
from minillm.run.session import train_run as train_run
from minillm.run.warm_start import finetune_config as finetune_config
from minillm.run.weights import profile_run as profile_run
from minillm.run.writing import fill as fill
from minillm.run.writing import sample as sample
from minillm.run.writing import search as search
