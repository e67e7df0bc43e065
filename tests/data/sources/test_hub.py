import threading
import time

import datasets
import huggingface_hub
import pytest
from huggingface_hub.errors import OfflineModeIsEnabled

from minillm.data.sources import fingerprint, hub, read_pieces
from minillm.data.sources.hub import fetch_model, find_dataset


def read_documents(source: str, field: str = "text") -> list[str]:
    """The documents that are not empty, all shorter than a piece."""
    return [piece.text for piece in read_pieces(source, field) if piece.text]


@pytest.fixture
def fake_hub(monkeypatch):
    """A hub with the data sets owner/tales and lone, and what load_dataset was asked for."""
    asked = []

    def revision(repo):
        return {"owner/tales": "abc123", "lone": "def456"}.get(repo)

    def load_dataset(repo, **options):
        asked.append((repo, options))
        if options["name"] == "wrong":
            raise ValueError("BuilderConfig 'wrong' not found. Available: ['default',\n 'small']")
        return iter([{"text": "one", "id": 1}, {"text": None, "id": 2}, {"text": "two", "id": 3}])

    monkeypatch.setattr(hub, "_revision", revision)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_a_hub_data_set_streams_the_train_split_of_the_revision_that_was_found(fake_hub):
    assert read_documents("hf:owner/tales") == ["one", "two"]
    assert fake_hub == [("owner/tales", {"name": None, "split": "train", "streaming": True, "revision": "abc123"})]


@pytest.mark.parametrize(
    ("name", "repo", "config"),
    [
        ("owner/tales", "owner/tales", None),
        ("owner/tales/small", "owner/tales", "small"),
        ("lone", "lone", None),
        ("lone/small", "lone", "small"),
    ],
)
def test_a_hub_name_may_have_an_owner_and_a_configuration(fake_hub, name, repo, config):
    found = find_dataset(name)
    assert (found.repo, found.config) == (repo, config)


def test_the_fingerprint_follows_name_configuration_and_field(fake_hub):
    names = ["hf:owner/tales", "hf:owner/tales/small", "hf:lone"]
    assert len({fingerprint(name, field) for name in names for field in ("text", "body")}) == 6


@pytest.mark.parametrize(
    ("name", "field", "message"),
    [
        ("hf:owner/none", "text", r"hf:owner/none is not on the hub, or is private: check the name"),
        ("hf:a/b/c/d", "text", r"hf:a/b/c/d does not name a data set"),
        ("hf:", "text", r"hf: does not name a data set"),
        ("hf:lone", "body", r"hf:lone row 1 has no field 'body'; its fields are: text, id. Choose the field"),
        ("hf:lone", "id", r"field 'id' of hf:lone row 1 is int, not text"),
        ("hf:lone/wrong", "text", r"hf:lone: .*Available: \['default', 'small'\]"),
    ],
)
def test_a_wrong_name_configuration_or_field_is_one_line(fake_hub, name, field, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_documents(name, field)
    assert "\n" not in str(caught.value)


def test_a_hub_that_cannot_be_reached_or_does_not_answer_is_one_line_in_time(monkeypatch):
    def offline(self, repo, **options):
        raise OfflineModeIsEnabled("offline mode is enabled\nmore")

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", offline)
    for find in (find_dataset, fetch_model):
        with pytest.raises(OSError, match=r"cannot reach .* for hf:a/b \(offline mode is enabled\): give a local file"):
            find("a/b")

    never = threading.Event()
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", lambda self, repo, **options: never.wait(30))
    monkeypatch.setattr(hub, "TIMEOUT", 0.05)
    start = time.perf_counter()
    with pytest.raises(OSError, match=r"no answer in 0 seconds\): give a local file or folder"):
        find_dataset("a/b")
    never.set()
    assert time.perf_counter() - start < 5


def test_a_model_that_was_fetched_before_is_found_without_the_hub(monkeypatch, tmp_path):
    kept = tmp_path / "models--a--b"
    files = kept / "snapshots" / "abc"
    files.mkdir(parents=True)
    (files / "config.json").write_text("{}", encoding="utf-8")
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("abc", encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def offline(repo, kind):
        raise OSError("no network")

    monkeypatch.setattr(hub, "_revision", offline)
    assert fetch_model("a/b") == files
    with pytest.raises(OSError, match="no network"):
        fetch_model("a/c")
