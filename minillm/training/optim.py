"""AdamW for everything, or Muon for hidden matrices and AdamW for the rest.

AdamW: Loshchilov and Hutter 2019. Muon: Jordan et al. 2024, "Muon: an optimizer for hidden layers"; here the
Newton-Schulz iteration runs on all matrices of one shape as a batch, which is several times faster for small models.
"""

# pyright: reportPrivateImportUsage=false
# torch's _foreach functions are not public

from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from minillm.training.config import OptimConfig

# A quintic with a steep slope at zero: singular values reach 1 +- 0.3 in five rounds (Jordan et al. 2024).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalize(matrices: Tensor, *, rounds: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    """Approximate the nearest semi-orthogonal matrix U V^T of each of the `matrices` U S V^T, (N, R, C) -> (N, R, C).

    Runs `rounds` Newton-Schulz iterations, in `dtype` on CPUs and in bf16 on accelerators.
    """
    tall = matrices.size(-2) > matrices.size(-1)
    x = (matrices.mT if tall else matrices).to(dtype if matrices.is_cpu else torch.bfloat16)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(rounds):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalized updates, for matrices inside the network (Jordan et al. 2024).

    The step of a matrix of R rows and C columns is scaled by sqrt(max(1, R / C)), as in the paper.
    """

    def __init__(
        self,
        params: list[nn.Parameter],
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """`dtype` is as in `orthogonalize`."""
        if any(p.ndim != 2 for p in params):
            raise ValueError("Muon takes matrices only; give vectors and embeddings to AdamW")
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    by_shape[p.size(0), p.size(1)].append(p)
            for (rows, columns), params in by_shape.items():
                grads = [p.grad for p in params if p.grad is not None]
                buffers = [self._buffer(p) for p in params]
                torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
                nesterov = torch._foreach_lerp(grads, buffers, group["momentum"])
                updates = orthogonalize(torch.stack(nesterov), dtype=self.dtype)  # (N, R, C)
                lr = group["lr"]
                torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
                scale = -lr * max(1.0, rows / columns) ** 0.5
                torch._foreach_add_(params, list(updates.to(params[0].dtype).unbind()), alpha=scale)

    def _buffer(self, p: Tensor) -> Tensor:
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        return state["momentum"]


class Optimizer:
    """Combines AdamW and Muon; stores their state by parameter name."""

    def __init__(self, model: nn.Module, config: OptimConfig, *, dtype: torch.dtype = torch.float32) -> None:
        """Put every trainable parameter into exactly one group.

        Parameters with two or more dimensions decay; norms and biases do not. With `muon`, Muon trains the matrices of
        linear layers; AdamW trains embeddings and the vocabulary head. `dtype` is that of matrix products in training,
        which Muon uses too on a CPU. ValueError if a learning rate has no effect.
        """
        self.names: dict[Tensor, str] = {p: name for name, p in model.named_parameters() if p.requires_grad}
        hidden = hidden_matrices(model) if config.name == "muon" else []
        taken = set(hidden)
        rest = {p: name for p, name in self.names.items() if p not in taken}
        rates = adamw_rates(model, rest, config)
        by_settings: dict[tuple[float, float], list[Tensor]] = defaultdict(list)
        for p in sorted(rest, key=lambda p: p.ndim < 2):  # matrices first
            by_settings[rates[p], config.weight_decay if p.ndim >= 2 else 0.0].append(p)
        device = next(iter(self.names)).device.type
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                [{"params": ps, "lr": lr, "weight_decay": decay} for (lr, decay), ps in by_settings.items()],
                betas=(config.beta1, config.beta2),
                eps=config.eps,
                fused=device in ("cpu", "cuda", "mps"),
            )
        ]
        if hidden:
            settings = {"lr": config.muon_lr, "momentum": config.momentum, "weight_decay": config.weight_decay}
            self.optimizers.append(Muon(hidden, **settings, dtype=dtype))
        for group in self._groups():
            group["peak_lr"] = group["lr"]

    def _groups(self) -> Iterator[dict]:
        for optimizer in self.optimizers:
            yield from optimizer.param_groups

    def step(self, lr_scale: float) -> None:
        """Update every parameter at `lr_scale` times its peak learning rate."""
        for group in self._groups():
            group["lr"] = lr_scale * group["peak_lr"]
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Tensor]:
        """State by `parameter name/state name`, so that it does not depend on the order of parameters."""
        return {
            f"{self.names[p]}/{key}": value
            for optimizer in self.optimizers
            for p, state in optimizer.state.items()
            for key, value in state.items()
        }

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Restore a `state_dict`, which is empty before the first step; ValueError if it is another optimizer's."""
        by_name = {name: p for p, name in self.names.items()}
        owner = {p: o for o in self.optimizers for g in o.param_groups for p in g["params"]}
        expected = {f"{name}/{key}" for p, name in self.names.items() for key in STATE[type(owner[p])]}
        if wrong := sorted(expected ^ tensors.keys()) if tensors else []:
            raise ValueError(
                f"the checkpoint's optimizer state is not this optimizer's: {len(wrong)} names differ, such as "
                f"{wrong[0]}; use the optim.name that the run was trained with"
            )
        for key, value in tensors.items():
            name, _, state_name = key.rpartition("/")
            p = by_name[name]
            if value.ndim and value.shape != p.shape:
                raise ValueError(f"optimizer state {key} has shape {list(value.shape)}, {name} has {list(p.shape)}")
            # AdamW's step counter is on the CPU, or on CUDA for its fused kernel; moments are with the parameter
            device = p.device if value.ndim or p.device.type == "cuda" else value.device
            # copied, because tensors read from a file may be backed by it, and the checkpoint will be deleted
            owner[p].state[p][state_name] = value.to(device, copy=True)


VOCABULARY = "heads.lm"
"""Name of the vocabulary head."""
STATE = {torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"), Muon: ("momentum",)}
"""State of a parameter in each optimizer."""


UNUSED = {
    "embedding_lr": "the run trains no embeddings",
    "head_lr": "AdamW trains no matrix of an output head; a tied vocabulary head uses optim.embedding_lr, and Muon "
    "trains other heads at optim.muon_lr",
    "vector_lr": "the run trains no norms and no biases",
}
"""Setting -> the reason, if no parameter uses it."""


def adamw_rates(model: nn.Module, params: dict[Tensor, str], config: OptimConfig) -> dict[Tensor, float]:
    """The peak learning rate of each parameter in `params`, AdamW's parameters and their names.

    ValueError if `config` sets a learning rate that none of them uses.
    """
    embeddings = _embeddings(model)

    def key(p: Tensor, name: str) -> str:
        if p.ndim < 2:
            return "vector_lr"
        if id(p) in embeddings:
            return "embedding_lr"
        return "head_lr" if name.startswith("heads.") else "lr"

    keys = {p: key(p, name) for p, name in params.items()}
    for name, reason in UNUSED.items():
        if getattr(config, name) is not None and name not in keys.values():
            raise ValueError(f"optim.{name} has no effect: {reason}; leave it out, or set it to none")
    return {p: config.lr if getattr(config, name) is None else getattr(config, name) for p, name in keys.items()}


def _embeddings(model: nn.Module) -> set[int]:
    """`id` of the weights of all embeddings, including one that is tied to the vocabulary head."""
    return {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """Weights of linear layers inside the network: all but embeddings and the vocabulary head."""
    outside = _embeddings(model)
    linears = (m.weight for name, m in model.named_modules() if isinstance(m, nn.Linear) and VOCABULARY not in name)
    return [w for w in linears if id(w) not in outside and isinstance(w, nn.Parameter) and w.requires_grad]
