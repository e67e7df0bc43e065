"""One of the ranks of `test_ranks.py`: python worker.py FOLDER, with the environment that torchrun would set.

The first rank then does the same work alone and prints, as one JSON object, how far the two are apart.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist

from minillm.data.datasets.preferences import PreferenceIds
from minillm.distributed.config import ParallelConfig
from minillm.distributed.parallelize import replicate
from minillm.distributed.runtime import Runtime, start
from minillm.models.build import build_model
from minillm.nn.config import ModelConfig
from minillm.objectives.answers import AnswerLayout
from minillm.objectives.base import IGNORE_INDEX, Batch, Objective
from minillm.objectives.clm import CausalLM
from minillm.objectives.dpo import DPO
from minillm.objectives.mlm import MaskedLM
from minillm.objectives.prefix_lm import EncoderPrefixLM
from minillm.objectives.seq2seq import Seq2Seq
from minillm.objectives.span import SpanCorruption
from minillm.training import trainer as trainer_module
from minillm.training.config import OptimConfig
from minillm.training.metrics import read_metrics
from minillm.training.optim import Optimizer
from minillm.training.precision import Compute
from minillm.training.step import StepFunction

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
tiny: Any = importlib.import_module("conftest")  # the trainer of the training tests

tasks: Any = importlib.import_module("task_evaluations")  # next to this file

CPU = Compute(torch.device("cpu"), torch.float32, compile=False)


def apart(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> float:
    """Largest relative difference of any tensor, by norm."""
    pairs = zip(one, other, strict=True)
    return max(((a - b).double().norm() / b.double().norm().clamp_min(1e-6)).item() for a, b in pairs)


def train(folder: Path, runtime: Runtime, rule: str) -> Any:
    """Five steps without dropout, whose masks differ between one process and two, and without biases: that of the
    keys moves all of a query's scores alike, so that its gradient is rounding noise, which Adam blows up.
    """
    trainer = tiny.tiny_trainer(
        folder,
        runtime=runtime,
        model=tiny.tiny_lora(bias=False) if rule == "lora" else None,
        shape={"dropout": 0.0, "bias": False},
        optim={"name": "muon", "embedding_lr": 3e-3, "average": 0.2} if rule == "muon" else {},
        train={"steps": 5},
        eval={"every": 2, "batch": 2},
        save={"every": 2},
    )
    trainer.fit()
    return trainer


def trained(model: torch.nn.Module) -> list[torch.Tensor]:
    return [p for p in model.parameters() if p.requires_grad]


def compare_training(root: Path, runtime: Runtime, rule: str) -> dict[str, float]:
    ranks = train(root / f"{rule}-ranks", runtime, rule)
    if not runtime.is_main:
        return {}
    alone = train(root / f"{rule}-alone", Runtime(), rule)
    found, expected = ([*read_metrics(t.folder / "metrics.jsonl")] for t in (ranks, alone))
    assert [list(line) for line in found] == [list(line) for line in expected]
    pairs = [(a[key], b[key]) for a, b in zip(found, expected, strict=True) for key in a if key != "seconds"]
    steps = [sorted(path.name for path in t.folder.glob("step-*")) for t in (ranks, alone)]
    assert steps[0] == steps[1], steps
    return {
        "weights": apart(*([torch.cat([p.flatten() for p in trained(t.model)])] for t in (ranks, alone))),
        "metrics": max(abs(a - b) / abs(b) for a, b in pairs),
    }


def uneven_batches() -> list[Batch]:
    """Four micro-batches with 24, 1, 0 and 7 targets: the first two are the first rank's."""
    objective, rng = CausalLM(tiny.PAD), np.random.default_rng(0)

    def batch(*lengths: int) -> Batch:
        return objective.collate([rng.integers(0, 20, n + 1) for n in lengths], lambda row: rng)

    parts = [batch(12, 12), batch(1), batch(5)]
    empty = Batch(parts[2].inputs, {"lm": torch.full_like(parts[2].labels["lm"], IGNORE_INDEX)}, {"lm": 0})
    return [*parts[:2], empty, batch(7)]


def tiny_t5() -> torch.nn.Module:
    model = build_model(ModelConfig(**tiny.SHAPE, family="t5", position="t5", init="fan_in", bias=False))
    model.init_weights(torch.Generator().manual_seed(1))
    return model


def written_batches(objective: Objective) -> list[Batch]:
    """Four micro-batches of one to three rows of very different lengths: the first two are the first rank's."""
    rng = np.random.default_rng(0)

    def row(length: int) -> np.ndarray:
        ids = rng.integers(0, 20, length + 1)
        if isinstance(objective, Seq2Seq):
            ids[length // 3], ids[-1] = tiny.EOS, tiny.EOS  # of a pair, EOS parts the sides as SEP would
        return ids

    return [objective.collate([row(n) for n in part], lambda i: rng) for part in ((12, 11, 4), (2,), (12,), (3, 7))]


def tiny_bert() -> torch.nn.Module:
    model = build_model(ModelConfig(**tiny.SHAPE, family="bert", num_token_types=2, heads=("lm", "pair")))
    model.init_weights(torch.Generator().manual_seed(1))
    return model


class Passages(NamedTuple):
    first: np.ndarray
    second: np.ndarray
    follows: bool


def masked_batches(objective: Objective) -> list[Batch]:
    """Four micro-batches of pairs with very different numbers of targets, in one of them none."""
    rng = np.random.default_rng(0)

    def pair(length: int) -> Passages:
        return Passages(rng.integers(0, 18, length), rng.integers(0, 18, 2), bool(rng.integers(2)))

    parts = [[pair(n) for n in lengths] for lengths in ((7, 7, 5), (1,), (7,), (2, 6))]
    empty = [Passages(np.full(1, tiny.EOS), np.full(2, tiny.EOS), True)]  # nothing that may be masked
    return [objective.collate(part, lambda i: rng) for part in (*parts[:2], empty, parts[3])]


MASKED = MaskedLM(
    pad_id=tiny.PAD,
    mask_id=18,
    cls_id=19,
    sep_id=20,
    ordinary=np.arange(tiny.VOCAB) < 18,
    mask_rate=0.4,
    pairs=True,
)
WRITTEN: dict[str, Objective] = {
    "span": SpanCorruption(pad_id=tiny.PAD, eos_id=tiny.EOS, sentinels=(18, 19, 20)),
    "seq2seq": Seq2Seq(pad_id=tiny.PAD, eos_id=tiny.EOS, sep_id=tiny.EOS, max_len=12),
    "prefix_lm": EncoderPrefixLM(pad_id=tiny.PAD, eos_id=tiny.EOS),
}


def pair_batches(objective: DPO) -> list[Batch]:
    """Four micro-batches with 2, 1, 1 and 3 pairs: the first two are the first rank's."""
    rng = np.random.default_rng(0)

    def pair() -> PreferenceIds:
        prompt, chosen, rejected = (rng.integers(0, 20, n) for n in rng.integers(1, 5, 3))
        return PreferenceIds(prompt, chosen, rejected, 0.0, False, "here", reference=(-9.0, -8.0))

    return [objective.collate([pair() for _ in range(number)], lambda i: rng) for number in (2, 1, 1, 3)]


def gradient(
    runtime: Runtime, batches: list[Batch], model: torch.nn.Module, objective: Objective, counts: dict[str, float]
) -> tuple[float, list[torch.Tensor]]:
    step = StepFunction(
        replicate(model, runtime),
        objective,
        Optimizer(model, OptimConfig()),
        compute=CPU,
        runtime=runtime,
        clip=1.0,
        seed=0,
    )
    total = step.gradient(1, batches, counts=counts)
    return runtime.sum([total.item()])[0], [p.grad.clone() for p in model.parameters() if p.grad is not None]


def compare_gradients(
    runtime: Runtime, make_model: Callable[[], torch.nn.Module], objective: Objective, batches: list[Batch]
) -> dict[str, float]:
    counts = {name: float(sum(batch.counts[name] for batch in batches)) for name in objective.targets}
    mine = batches[:2] if runtime.is_main else batches[2:]
    loss, found = gradient(runtime, mine, make_model(), objective, counts)
    expected_loss, expected = gradient(Runtime(), batches, make_model(), objective, counts)
    everywhere = runtime.sum([apart(found, expected)])[0]  # both ranks must hold the same gradient
    return {"gradient": everywhere, "loss": abs(loss - expected_loss) / expected_loss}


def stop_on_one_rank(root: Path, runtime: Runtime) -> dict[str, Any]:
    """The last rank alone is asked to stop, during the third step."""
    trainer = tiny.tiny_trainer(root / "stop", runtime=runtime)
    update = trainer.take_step.update

    class Asked(trainer_module.StopRequest):
        def __enter__(self) -> Asked:
            def noted(*args: Any, **kwargs: Any) -> Any:
                self.requested = runtime.rank == 1 and trainer.state.step + 1 == 3
                return update(*args, **kwargs)

            trainer.take_step.update = noted
            return self

    trainer_module.StopRequest = Asked
    outcome = trainer.fit()
    steps = runtime.sum([outcome.state.step, outcome.state.step**2, outcome.reason == "interrupted"])
    return {"steps": steps, "saved": sorted(path.name for path in (root / "stop").glob("step-*"))}


def forbid(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("a rank other than the first writes files")


def main(root: Path) -> None:
    torch.set_num_threads(1)
    runtime = start(ParallelConfig(timeout=60), torch.device("cpu"))
    if not runtime.is_main:
        trainer_module.save_checkpoint = trainer_module.remove_old = trainer_module.MetricsLog = forbid
    result: dict[str, Any] = {rule: compare_training(root, runtime, rule) for rule in ("adamw", "muon", "lora")}
    result["gradients"] = {"clm": compare_gradients(runtime, tiny.tiny_gpt, CausalLM(tiny.PAD), uneven_batches())}
    result["gradients"]["mlm"] = compare_gradients(runtime, tiny_bert, MASKED, masked_batches(MASKED))
    for name, objective in WRITTEN.items():
        result["gradients"][name] = compare_gradients(runtime, tiny_t5, objective, written_batches(objective))
    preferred = DPO(pad_id=tiny.PAD, layout=AnswerLayout(before=(), after=(tiny.EOS,), max_len=12))
    result["gradients"]["dpo"] = compare_gradients(runtime, tiny.tiny_lora, preferred, pair_batches(preferred))
    result["evaluations"] = tasks.compare_evaluations(runtime)
    result["stop"] = stop_on_one_rank(root, runtime)
    result["broadcast"] = runtime.broadcast({"from": runtime.rank})
    result["sum"] = runtime.sum([2**53 - 2, 0.5, runtime.rank])
    runtime.barrier()
    runtime.close()
    assert not dist.is_initialized()
    if runtime.is_main:
        print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
