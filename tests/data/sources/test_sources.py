import json

import pytest

from minillm.data.sources import fingerprint, read_documents


@pytest.fixture
def folder(tmp_path):
    for name, content in {
        "b.txt": b"second",
        "a/z.md": b"first",
        "c.jsonl": json.dumps({"text": "third"}).encode(),
        "empty.txt": b"",
        "picture.png": b"\x89PNG\0\0",
        ".hidden.txt": b"hidden",
        ".git/config.txt": b"hidden",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_a_folder_is_read_with_its_subfolders_in_order_without_hidden_empty_and_binary_files(folder):
    assert list(read_documents(str(folder))) == ["first", "second", "third"]


def test_a_glob_takes_what_it_matches(folder):
    assert list(read_documents(str(folder / "**" / "*.[tm]*"))) == ["first", "second"]


def test_a_file_whose_name_looks_like_a_glob_is_a_file(tmp_path):
    (tmp_path / "a[1].txt").write_text("bracketed", encoding="utf-8")
    assert list(read_documents(str(tmp_path / "a[1].txt"))) == ["bracketed"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.txt", r"no file or folder .*none.txt \(in .*\): give a text file, folder or glob"),
        ("*.rst", r"no text file matches .*\*.rst"),
        ("void", r"folder .*void holds no text files: hidden, empty and binary files are left out"),
    ],
)
def test_a_source_that_is_not_there_is_named_with_what_could_be_given(folder, name, message):
    (folder / "void").mkdir()
    with pytest.raises(FileNotFoundError, match=message):
        list(read_documents(str(folder / name)))


def test_an_empty_name_is_not_the_working_directory():
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        list(read_documents(""))


def test_a_hub_name_that_names_something_here_is_taken_from_here(folder):
    assert list(read_documents(f"hf:{folder / 'b.txt'}")) == ["second"]


def test_an_unknown_builtin_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match=r"no builtin:python: take one of builtin:python-docs, builtin:python-stdlib"):
        list(read_documents("builtin:python"))


def test_the_fingerprint_follows_the_content_and_not_the_place(folder, tmp_path_factory):
    before = fingerprint(str(folder / "b.txt"))
    other = tmp_path_factory.mktemp("other") / "copy.txt"
    other.write_text("second", encoding="utf-8")
    assert fingerprint(str(other)) == before
    other.write_text("Second", encoding="utf-8")
    assert fingerprint(str(other)) != before


def test_the_fingerprint_follows_the_field_only_where_there_are_fields(folder):
    assert fingerprint(str(folder / "b.txt"), "body") == fingerprint(str(folder / "b.txt"), "text")
    assert fingerprint(str(folder / "c.jsonl"), "body") != fingerprint(str(folder / "c.jsonl"), "text")
