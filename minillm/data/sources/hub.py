"""Streams data sets from the Hugging Face hub and downloads models.

The first request has a time limit, because the hub's libraries retry for most of a minute if the hub cannot be reached.
Its answer is the newest revision, which serves as the fingerprint.
"""

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from minillm.data.sources.records import Columns, Record, pick

MODEL_FILES = ["*.json", "*.jinja", "*.safetensors", "vocab.txt", "merges.txt", "spiece.model", "tokenizer.model"]
TIMEOUT = 2.0
"""Seconds within which the hub must answer."""


@dataclass(frozen=True)
class HubDataset:
    repo: str
    config: str | None
    revision: str

    @property
    def fingerprint(self) -> str:
        return f"{self.repo}/{self.config}@{self.revision}"


def find_dataset(name: str) -> HubDataset:
    """The data set named NAME, OWNER/NAME, NAME/CONFIG or OWNER/NAME/CONFIG, and its newest revision."""
    parts = name.split("/")
    if not all(parts) or len(parts) > 3:
        raise ValueError(f"hf:{name} does not name a data set: give hf:NAME, hf:OWNER/NAME or hf:OWNER/NAME/CONFIG")
    readings: list[tuple[str, str | None]] = [("/".join(parts[:2]), parts[2] if len(parts) == 3 else None)]
    if len(parts) == 2:
        readings.append((parts[0], parts[1]))
    for repo, config in readings:
        if revision := _revision(repo):
            return HubDataset(repo, config, revision)
    raise ValueError(f"hf:{name} is not on the hub, or is private: check the name, or log in with `hf auth login`")


def read_hub(dataset: HubDataset, columns: Columns) -> Iterator[Record]:
    """The records of the train split; ValueError if there is no such configuration, split or field."""
    for number, row in enumerate(_rows(dataset), start=1):
        yield pick(row, columns, f"hf:{dataset.repo} row {number}")


def _rows(dataset: HubDataset) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset

    try:
        rows = load_dataset(dataset.repo, name=dataset.config, split="train", streaming=True, revision=dataset.revision)
        yield from map(dict, rows)
    except ValueError as error:
        raise ValueError(f"hf:{dataset.repo}: {' '.join(str(error).split())}") from None


def fetch_model(name: str) -> Path:
    """Folder with the files of the model NAME or OWNER/NAME, downloaded or from the hub's own cache.

    Raises:
        ValueError: there is no such model, or this user may not read it.
        OSError: the hub does not answer within TIMEOUT, or the connection breaks.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
        raise ValueError(f"{name!r} is neither a folder here nor the name of a model on the hub: NAME or OWNER/NAME")
    try:
        revision = _revision(name, "model")
    except OSError:
        try:  # without a network, use an earlier download
            return Path(snapshot_download(name, allow_patterns=MODEL_FILES, local_files_only=True))
        except LocalEntryNotFoundError:
            pass
        raise
    if revision is None:
        raise ValueError(f"{name} is neither a folder here nor a public model on the hub: check the name")
    # a repository often has the weights in several formats; pickled ones are downloaded only if there are no others
    folder = Path(snapshot_download(name, revision=revision, allow_patterns=MODEL_FILES))
    if not any(folder.glob("*.safetensors")):
        snapshot_download(name, revision=revision, allow_patterns=["pytorch_model*.bin"])
    return folder


def _revision(repo: str, kind: Literal["dataset", "model"] = "dataset") -> str | None:
    """Newest commit; None if there is no such repository. Uses a thread, because a DNS lookup has no time limit."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    answer: dict[str, Any] = {}

    def ask() -> None:
        try:
            answer["revision"] = HfApi().repo_info(repo, repo_type=kind, timeout=TIMEOUT).sha
        except RepositoryNotFoundError:
            answer["revision"] = None
        except Exception as error:  # its type depends on the client's HTTP library
            answer["error"] = error

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    if "revision" not in answer:
        reason = str(answer.get("error", "")).partition("\n")[0] or f"no answer in {TIMEOUT:.0f} seconds"
        raise OSError(f"cannot reach the Hugging Face hub for hf:{repo} ({reason}): give a local file or folder")
    return answer["revision"]
