import sysconfig
from pathlib import Path

import pytest

from minillm.data.datasets.text import Section
from minillm.data.sources import builtin
from minillm.data.sources.builtin import docstrings, library_files, parse_python, python_docs, python_stdlib
from minillm.data.sources.deduplicate import shingles
from minillm.data.split import split_text


def words_of(section: Section) -> set[int]:
    return set().union(*(shingles(text) for text in section.texts()))


def test_python_docs_are_some_megabytes_of_prose_of_which_validation_repeats_next_to_nothing(text_of):
    documents = list(python_docs())
    assert sum(map(len, documents)) > 1_400_000
    assert len(documents) > 300
    train, validation = split_text(text_of(documents), "auto", 0.1)
    seen, held_out = words_of(train), words_of(validation)
    assert len(held_out & seen) < 0.01 * len(held_out)


def test_python_stdlib_is_the_source_of_the_library_without_its_tests():
    root = Path(sysconfig.get_path("stdlib"))
    names = [path.relative_to(root).as_posix() for path in library_files()]
    assert {"ast.py", "json/decoder.py"} <= set(names)
    assert names == sorted(names, key=lambda name: name.split("/"))
    assert not [name for name in names if name.startswith(("test/", "site-packages/")) or "/tests/" in name]
    first = next(iter(python_stdlib()))
    assert first == (root / names[0]).read_text(encoding="utf-8")


def test_docstrings_come_from_module_classes_methods_and_functions_in_order_without_a_warning():
    source = (
        '"""module"""\nPATTERN = "\\d"\nclass A:\n    """class\n      more"""\n    def f(self):\n        """method"""\n'
        '        def inner():\n            """inner"""\nasync def g():\n    """function"""\n'
    )
    assert list(docstrings(parse_python(source))) == ["module", "class\nmore", "method", "function"]


def test_source_that_does_not_parse_has_no_docstrings():
    assert list(docstrings(parse_python('"""x"""\nprint "two"'))) == []


def test_a_python_without_library_source_is_told_to_name_a_file(monkeypatch, tmp_path):
    monkeypatch.setattr(builtin.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no library source in .*give a text file"):
        library_files()
