"""Documents from a data set on the Hugging Face hub, streamed; and models, fetched whole.

The hub is asked one question with a time limit before anything else, since its libraries retry for most of a minute
where it cannot be reached. The answer names the revision, which is then both what is read and the fingerprint.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from minillm.data.files import Piece, record_piece

MODEL_FILES = ["*.json", "*.safetensors", "vocab.txt", "merges.txt", "spiece.model", "tokenizer.model"]
TIMEOUT = 2.0
"""Seconds in which the hub has to answer."""


@dataclass(frozen=True)
class HubDataset:
    """A data set as the hub knows it."""

    repo: str
    config: str | None
    revision: str

    @property
    def fingerprint(self) -> str:
        return f"{self.repo}/{self.config}@{self.revision}"


def find_dataset(name: str) -> HubDataset:
    """The data set named NAME, OWNER/NAME, NAME/CONFIG or OWNER/NAME/CONFIG, and its newest revision.

    Raises:
        ValueError: the hub has none of this name that is open to this user.
        OSError: the hub does not answer within TIMEOUT.
    """
    parts = name.split("/")
    if not all(parts) or len(parts) > 3:
        raise ValueError(f"hf:{name} is no data set name: give hf:NAME, hf:OWNER/NAME or hf:OWNER/NAME/CONFIG")
    readings: list[tuple[str, str | None]] = [("/".join(parts[:2]), parts[2] if len(parts) == 3 else None)]
    if len(parts) == 2:
        readings.append((parts[0], parts[1]))
    for repo, config in readings:
        if revision := _revision(repo):
            return HubDataset(repo, config, revision)
    raise ValueError(f"hf:{name} is not on the hub, or not open to you: check the name, or log in with `hf auth login`")


def read_hub(dataset: HubDataset, field: str) -> Iterator[Piece]:
    """The texts of the train split, in order.

    Raises:
        ValueError: no such configuration, split or field; the message names those there are.
        OSError: the connection breaks.
    """
    for number, row in enumerate(hub_rows(dataset), start=1):
        yield from record_piece(row, field, f"hf:{dataset.repo} row {number}")


def hub_rows(dataset: HubDataset) -> Iterator[dict[str, Any]]:
    """The rows of the train split, in order; raises as `read_hub`."""
    from datasets import load_dataset

    try:
        rows = load_dataset(dataset.repo, name=dataset.config, split="train", streaming=True, revision=dataset.revision)
        yield from (dict(row) for row in rows)
    except ValueError as error:
        raise ValueError(f"hf:{dataset.repo}: {' '.join(str(error).split())}") from None


def fetch_model(name: str) -> Path:
    """The files of the model NAME or OWNER/NAME, fetched or found in the hub's own cache: their folder.

    Raises:
        ValueError: no such folder here, and the hub has no such model that is open to this user.
        OSError: the hub does not answer within TIMEOUT, or the connection breaks.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
        raise ValueError(f"{name} is no folder here and no model name on the hub, which is NAME or OWNER/NAME")
    try:
        revision = _revision(name, "model")
    except OSError:
        try:  # an earlier download serves where there is no network
            return Path(snapshot_download(name, allow_patterns=MODEL_FILES, local_files_only=True))
        except LocalEntryNotFoundError:
            pass
        raise
    if revision is None:
        raise ValueError(f"{name} is no folder here, and no model on the hub that is open to you: check the name")
    # the same weights often lie there in several formats: the pickled ones only where there are no others
    folder = Path(snapshot_download(name, revision=revision, allow_patterns=MODEL_FILES))
    if not any(folder.glob("*.safetensors")):
        snapshot_download(name, revision=revision, allow_patterns=["pytorch_model*.bin"])
    return folder


def _revision(repo: str, kind: Literal["dataset", "model"] = "dataset") -> str | None:
    """Newest commit, None where there is no such thing; asked in a thread, as looking up a name has no limit."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    answer: dict[str, Any] = {}

    def ask() -> None:
        try:
            answer["revision"] = HfApi().repo_info(repo, repo_type=kind, timeout=TIMEOUT).sha
        except RepositoryNotFoundError:
            answer["revision"] = None
        except Exception as error:  # of whichever HTTP library the hub's client uses
            answer["error"] = error

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    if "revision" not in answer:
        reason = str(answer.get("error", "")).partition("\n")[0] or f"no answer in {TIMEOUT:.0f} seconds"
        raise OSError(
            f"cannot reach the Hugging Face hub for hf:{repo} ({reason}): give a local file or folder instead"
        )
    return answer["revision"]
