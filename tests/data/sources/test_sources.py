import json

import pytest

from minillm.data.sources import fingerprint, left_out, read_pieces


def read_documents(source: str, field: str = "text") -> list[str]:
    """The documents that are not empty, all shorter than a piece."""
    return [piece.text for piece in read_pieces(source, field) if piece.text]


@pytest.fixture
def folder(tmp_path):
    for name, content in {
        "b.txt": b"second",
        "a/z.md": b"first",
        "c.jsonl": json.dumps({"text": "third"}).encode(),
        "empty.txt": b"",
        "picture.raw": b"\x89PNG\0\0",
        ".hidden.txt": b"hidden",
        ".git/config.txt": b"hidden",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_a_folder_is_read_with_its_subfolders_in_order_without_hidden_empty_and_binary_files(folder):
    assert read_documents(str(folder)) == ["first", "second", "third"]


def test_what_is_left_out_of_a_folder_or_glob_is_counted(folder):
    (folder / "package.json").write_text("{}", encoding="utf-8")
    (folder / "report.pdf").write_text("%PDF", encoding="utf-8")
    reasons = "1 empty, 1 JSON but not an array of records, 1 binary, 1 not text (.pdf), 2 hidden"
    assert left_out(str(folder)) == (f"left out of {folder}: {reasons}",)
    assert read_documents(str(folder)) == ["first", "second", "third"]
    assert left_out(str(folder / "*.[rpt]*")) == (
        f"left out of {folder / '*.[rpt]*'}: 1 empty, 1 binary, 1 not text (.pdf)",
    )
    assert left_out(str(folder / "b.txt")) == ()
    with pytest.raises(FileNotFoundError, match=r"no text file matches .*e\*\.txt \(left out of .*: 1 empty\)"):
        read_documents(str(folder / "e*.txt"))


def test_a_glob_takes_what_it_matches(folder):
    assert read_documents(str(folder / "**" / "*.[tm]*")) == ["first", "second"]


def test_a_file_whose_name_looks_like_a_glob_is_a_file(tmp_path):
    (tmp_path / "a[1].txt").write_text("bracketed", encoding="utf-8")
    assert read_documents(str(tmp_path / "a[1].txt")) == ["bracketed"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.txt", r"no file or folder .*none.txt \(in .*\): give a text file, folder or glob"),
        ("*.rst", r"no text file matches .*\*.rst"),
        ("void", r"folder .*void has no text files: give a folder"),
    ],
)
def test_a_source_that_is_not_there_is_named_with_what_could_be_given(folder, name, message):
    (folder / "void").mkdir()
    with pytest.raises(FileNotFoundError, match=message):
        read_documents(str(folder / name))


def test_an_empty_name_is_not_the_working_directory():
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        read_documents("")


def test_a_hub_name_that_names_something_here_is_taken_from_here(folder):
    assert read_documents(f"hf:{folder / 'b.txt'}") == ["second"]


def test_an_unknown_builtin_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match=r"no builtin:python: choose one of builtin:python-docs, builtin:py"):
        read_documents("builtin:python")


def test_the_fingerprint_follows_the_content_and_not_the_place(folder, tmp_path_factory):
    before = fingerprint(str(folder / "b.txt"))
    other = tmp_path_factory.mktemp("other") / "copy.txt"
    other.write_text("second", encoding="utf-8")
    assert fingerprint(str(other)) == before
    other.write_text("Second", encoding="utf-8")
    assert fingerprint(str(other)) != before


def test_fingerprints_are_those_that_earlier_versions_kept(tmp_path):
    """Run folders hold them: another value would say that the text has changed."""
    for name, content in {"a.jsonl": '{"text": "x"}\n', "a.csv": "text\nx\n", "a.txt": "x"}.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    found = {name: fingerprint(str(tmp_path / name))[:16] for name in ("a.jsonl", "a.csv", "a.txt", "")}
    assert found == {
        "a.jsonl": "caa36ada2b0d76c6",
        "a.csv": "8148b5ed6df9fd92",
        "a.txt": "6436cbd6a490bfdd",
        "": "292203c2ccbfd320",
    }


def test_the_fingerprint_follows_the_field_only_where_there_are_fields(folder):
    assert fingerprint(str(folder / "b.txt"), "body") == fingerprint(str(folder / "b.txt"), "text")
    assert fingerprint(str(folder / "c.jsonl"), "body") != fingerprint(str(folder / "c.jsonl"), "text")
