"""Chooses how a model's products are computed, by timing them with its weights on this machine for about a second.

Processor features do not predict this: oneDNN's blocked layout is twice as fast as F.linear on one processor and as
fast on another, and bf16 products of several rows are tens of times slower than fp32 on processors without them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from minillm.inference.idle import is_idle
from minillm.inference.products import Plan, dense
from minillm.nn.kernels.linear import Form, Product, QuantizedProduct, can_pack, forms, one_row_forms
from minillm.nn.kernels.quantized import QuantizedWeight
from minillm.storage import write_text

MEASURED_BYTES = 64 << 20
"""Size of the fp32 weights in one measurement: more than most processors can cache, as in a model."""
ROUNDS, WIDE = 4, 64
"""Repetitions, of which the fastest counts; rows that stand for reading a prompt."""
MAX_SLOWDOWN = 3.0
"""A form is not chosen if it reads a prompt this many times slower than another."""
UNPACKING_GAIN = 1.5
"""Quantized weights are dequantized at loading only if that is this many times faster: a measurement on a
busy machine is not exact."""
COPIED_BYTES = 4 << 30
"""Largest second copy of the weights: row sums and CUDA graphs, which need one, are not used by larger models."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def choose_plan(
    weights: Mapping[str, Tensor],
    quantized: Mapping[str, QuantizedWeight],
    *,
    dtype: str = "auto",
    only_plain: bool = False,
    cache: Path | None = None,
) -> Plan:
    """The fastest plan for one row at a time.

    Args:
        weights: the (O, I) weights of the model's linear layers by name.
        quantized: quantized weights by name.
        dtype: fp32 or bf16; auto: the faster one.
        only_plain: whether only F.linear is possible, as in a model without a fast decoder.
        cache: file in which earlier choices are kept; None: measure. A choice that was measured while the machine was
            busy is used only until it is idle.
    """
    names = measured_names(weights)
    shapes = [list(weights[name].shape) for name in names]
    bits = sorted({(quantized[name].bits, quantized[name].group) for name in names if name in quantized})
    possible: list[Form] = ["plain"] if only_plain else forms()
    about = [machine(), torch.get_num_threads(), dtype, possible, one_row_forms(8), bits, shapes]
    keys = [json.dumps([state, *about]) for state in (["idle"] if is_idle() else ["idle", "busy"])]
    known = {} if cache is None else _read(cache)
    for key in keys:
        with suppress(KeyError, TypeError, ValueError):
            return _plan_of(known[key])
    plan = _measure(weights, quantized, names, dtype, possible)
    if cache is not None:
        with suppress(OSError):  # a cache that cannot be written costs a measurement next time
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_text(cache, json.dumps(known | {keys[-1]: asdict(plan) | {"dtype": name_of(plan.dtype)}}, indent=1))
    return plan


def _measure(
    weights: Mapping[str, Tensor],
    quantized: Mapping[str, QuantizedWeight],
    names: Sequence[str],
    dtype: str,
    possible: Sequence[Form],
) -> Plan:
    dtypes = list(DTYPES.values()) if dtype == "auto" else [DTYPES[dtype]]
    plans = [Plan(form, one) for one in dtypes for form in possible if form != "transposed" or one == torch.float32]
    plans += [replace(plan, min_rows=2) for plan in plans if plan.form == "onednn"]
    num_weights = sum(weight.numel() for weight in weights.values())
    if len(possible) > 1:
        wide_form = "onednn" if "onednn" in possible else "plain"
        copied = [one for one in dtypes if num_weights * one.itemsize <= COPIED_BYTES]
        plans += [Plan(wide_form, one, one_row="sum") for one in copied]
    timed: list[tuple[float, float, Plan]] = []
    rest, inputs = num_weights - sum(weights[name].numel() for name in names), [weights[name].size(1) for name in names]
    for plan in plans:
        products = [dense(weights[name], None, plan) for name in names]
        wide = seconds(lambda products=products: _run(products[:4], inputs, WIDE), rounds=2)
        timed.append((row_seconds(products, inputs, 1, rest * plan.dtype.itemsize), wide, plan))
    widest = min(wide for _, wide, _ in timed)
    best, _, plan = min((one for one in timed if one[1] <= MAX_SLOWDOWN * widest), key=lambda one: one[0])
    small = [quantized[name] for name in names if name in quantized and can_pack(quantized[name])]
    if small:
        return _packed(plan, quantized, small, best * len(small) / len(names))
    products = [dense(weights[name], None, plan) for name in names]
    one, two = (row_seconds(products, inputs, rows, rest * plan.dtype.itemsize) for rows in (1, 2))
    return replace(plan, draft_cost=round(max(0.0, two / one - 1), 3))


def _packed(
    plan: Plan, quantized: Mapping[str, QuantizedWeight], small: Sequence[QuantizedWeight], best: float
) -> Plan:
    """The plan for quantized weights. `small` are measured; `best` is the time of their plain products (s)."""
    eight = {name: weight.values for name, weight in quantized.items() if weight.bits == 8 and can_pack(weight)}
    eight_measured = [quantized[name] for name in measured_names(eight)] if eight else []
    rest = sum(weight.values.numel() * weight.bits // 8 for weight in quantized.values())
    rest -= sum(weight.values.numel() * weight.bits // 8 for weight in small)
    times = {form: packed_seconds(eight_measured, replace(plan, one_row=form), 1, rest) for form in one_row_forms(8)}
    packed = replace(plan, one_row=min(times, key=lambda form: times[form]))
    one, two = (packed_seconds(small, packed, rows, rest) for rows in (1, 2))
    if one > UNPACKING_GAIN * best:
        return replace(plan, packed=False)
    return replace(packed, draft_cost=round(max(0.0, two / one - 1), 3))


def packed_seconds(weights: Sequence[QuantizedWeight], plan: Plan, rows: int, rest: int) -> float:
    """Duration of the packed products of `weights` in seconds; `rest` as in `row_seconds`."""
    products = [QuantizedProduct(weight, None, wide=plan.dtype, one_row=plan.one_row) for weight in weights]
    return row_seconds(products, [weight.values.size(1) for weight in weights], rows, rest)


def row_seconds(products: Sequence[Product], inputs: Sequence[int], rows: int, rest: int) -> float:
    """Duration of the products of a few rows, in seconds. Before each call, `rest` other bytes pass through the caches.

    The rest of the model does so in a real step. Without this, small dtypes would look too fast: the measured part of
    the weights could stay in a cache that the whole model exceeds.
    """
    others = torch.zeros(min(rest, MEASURED_BYTES) // 4)
    return seconds(lambda: _run(products, inputs, rows), before=lambda: others.add_(1))


def measured_names(weights: Mapping[str, Tensor]) -> list[str]:
    """Names of the first weights, up to MEASURED_BYTES in fp32; the vocabulary's only if nothing else is left."""
    ordered = sorted(weights, key=lambda name: name.startswith("heads."))
    sizes = (4 * weights[name].numel() for name in ordered)
    total, chosen = 0, []
    for name, size in zip(ordered, sizes, strict=True):
        if chosen and total + size > MEASURED_BYTES:
            break
        chosen.append(name)
        total += size
    return chosen


def machine() -> list[str]:
    """What determines the speed of a product: torch, its instruction set, the processor."""
    name = ""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return [torch.__version__, torch.backends.cpu.get_cpu_capability(), name]


def seconds(run: Callable[[], object], rounds: int = ROUNDS, *, before: Callable[[], object] | None = None) -> float:
    """Duration of the fastest of `rounds` calls after a warm-up call; `before` precedes each call and is not timed."""
    run()
    return min(_duration(run, before) for _ in range(rounds))


def linear_weights(model: nn.Module) -> dict[str, Tensor]:
    """The (O, I) weights of the model's linear layers by name."""
    return {name: layer.weight.detach() for layer, name in linear_names(model).items()}


def linear_names(model: nn.Module) -> dict[nn.Linear, str]:
    """The model's linear layers and the names of their weights."""
    names: dict[Tensor, str] = {
        parameter: name for name, parameter in model.named_parameters()
    }  # the first name of a tied weight
    return {layer: names[layer.weight] for layer in model.modules() if isinstance(layer, nn.Linear)}


def name_of(dtype: torch.dtype) -> str:
    """fp32 or bf16."""
    return next(name for name, known in DTYPES.items() if known == dtype)


@torch.inference_mode()
def _run(products: Sequence[Product], inputs: Sequence[int], rows: int) -> None:
    x = {width: torch.ones(rows, width) for width in set(inputs)}
    for product, width in zip(products, inputs, strict=False):
        product(x[width])


def _duration(run: Callable[[], object], before: Callable[[], object] | None) -> float:
    if before is not None:
        before()
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _read(cache: Path) -> dict[str, dict[str, object]]:
    with suppress(OSError, ValueError):
        content = json.loads(cache.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    return {}


def _plan_of(values: dict[str, object]) -> Plan:
    return Plan(**{**values, "dtype": DTYPES[str(values["dtype"])]})  # type: ignore[arg-type]
