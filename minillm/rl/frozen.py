"""The reference policy: the model that a run started from, frozen."""

from __future__ import annotations

import copy
import shutil
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from safetensors.torch import load_file, save_file

from minillm.adapters.lora import adapter_names, without_adapter
from minillm.evaluation.evaluator import RunParts
from minillm.storage import find_damage, force_to_disk, seal, temporary_for
from minillm.training.checkpoint import MODEL, load_weights, weights

FOLDER = "reference"


class Reference:
    """A frozen copy of the model, `with reference as model`; or with an adapter, the model without it.

    Before the first step its weights are saved in `reference/` of the run folder, from which a resumed run reads them.
    """

    def __init__(self, parts: RunParts) -> None:
        assert parts.folder is not None, "there is a run folder in training"
        self.parts, self.folder = parts, parts.folder / FOLDER
        self.model: Any = None
        self._stack = ExitStack()

    def freeze(self, *, started: bool) -> None:
        """Read the saved weights, or save the model's; ValueError if they are damaged, or missing though `started`."""
        if self.model is not None:
            return
        if adapter_names(self.parts.model):  # the base below the adapter never changes
            self.model = self.parts.model
            return
        self.model = copy.deepcopy(self.parts.model).requires_grad_(False)
        if self.folder.is_dir():
            if damage := find_damage(self.folder, MODEL):
                raise ValueError(f"{damage}; restore it from a copy, or start a new run")
            load_weights(self.model, load_file(self.folder / MODEL), where=self.folder / MODEL, frozen=True)
        elif started:
            raise ValueError(
                f"{self.folder} is missing, and the run cannot continue without it: restore it from a copy"
            )
        elif self.parts.runtime.is_main:
            self._save()
        self.parts.runtime.barrier()

    def _save(self) -> None:
        temporary = temporary_for(self.folder)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(
            {name: t.detach().cpu().contiguous() for name, t in weights(self.model, frozen=True).items()},
            temporary / MODEL,
        )
        seal(temporary)
        temporary.rename(self.folder)
        force_to_disk(self.folder.parent)

    def __enter__(self) -> Any:
        assert self.model is not None, "freeze() comes before it"
        if self.model is self.parts.model:
            self._stack.enter_context(without_adapter(self.model))
        return self.model

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()
