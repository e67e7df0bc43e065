import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from minillm.data.sources import files, read_documents


def test_a_text_file_is_one_document_with_its_line_ends_kept_and_its_byte_order_mark_dropped(tmp_path):
    path = tmp_path / "windows.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\n\xc3\xa9\r")
    assert list(read_documents(str(path))) == ["one\r\ntwo\né\r"]


def test_a_text_file_is_read_in_pieces_that_split_no_character(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CHUNK_BYTES", 5)
    path = tmp_path / "a.txt"
    path.write_text("漢字é😀" * 9, encoding="utf-8")
    pieces = list(files.read_plain(path))
    assert len(pieces) > 10
    assert [piece.last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert "".join(piece.text for piece in pieces) == "漢字é😀" * 9


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", r"a.txt is empty: give a file with text"),
        ("a.txt", b"\x89PNG\r\n\0\0", r"a.txt is a binary file: give text"),
        ("a.txt", b"caf\xe9 au lait", r"a.txt is not UTF-8 \(byte 3: .*\): convert it to UTF-8"),
        ("a.txt", b"cut \xe6\xbc", r"a.txt is not UTF-8 \(byte 4: unexpected end of data\)"),
        ("a.txt", "utf-16".encode("utf-16"), r"a.txt is not UTF-8 .*: convert it"),
        ("a.jsonl", b"", r"a.jsonl is empty: give a file with one JSON object a line"),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', r"a.jsonl line 2 is not JSON .*: mend it"),
        ("a.jsonl", b'{"text": "\xe9"}', r"a.jsonl line 1 is not UTF-8 .*: convert"),
        ("a.jsonl", b'["x"]', r"a.jsonl line 1 is not a JSON object"),
        ("a.jsonl", b"[" * 100_000, r"a.jsonl line 1 is nested too deeply"),
        ("a.csv", b"x" * 200_000, r"a.csv has no header line of column names"),
        ("a.jsonl", b'{"a": "x", "b": 1}', r"a.jsonl line 1 has no field 'text'; its fields are: a, b. Choose one"),
        ("a.jsonl", b'{"text": 3}', r"field 'text' of .*a.jsonl line 1 is int, not text: choose with --data.field"),
        ("a.jsonl.gz", b"plain", r"a.jsonl.gz is a damaged gzip file"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 99, mtime=0)[:-9], r"a.jsonl.gz is a damaged gzip file"),
        ("a.csv", b"", r"a.csv is empty: give a file with a header line and a row"),
        ("a.csv", b"title,body\nx,y\n", r"a.csv has no field 'text'; its fields are: title, body. Choose one"),
        ("a.csv", b"text\ncaf\xe9\n", r"a.csv is not .*UTF-8"),
        ("a.csv", b"text,b\nx,y\nz\n", r"a.csv is not a sound UTF-8 CSV file \(.*Expected 2 columns, got 1.*\)"),
        ("a.parquet", b"PAR1 not really", r"a.parquet is not a sound parquet file"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_in_one_line_with_the_remedy(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        list(read_documents(str(tmp_path / name)))
    assert "\n" not in str(caught.value)


RECORDS = [{"text": "one\nline"}, {"text": None}, {"text": ""}, {"text": 'the "second", é'}]


@pytest.mark.parametrize("name", ["a.jsonl", "a.JSONL", "a.jsonl.gz"])
def test_jsonl_gives_a_document_a_line_and_passes_over_blanks_and_nulls(tmp_path, name):
    lines = "\ufeff" + "\n\n".join(json.dumps(record) for record in RECORDS)
    data = lines.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert list(read_documents(str(tmp_path / name))) == ["one\nline", 'the "second", é']


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_parquet_text_may_be_stored_in_any_way(tmp_path, kind):
    column = pa.array(["one", None, "one", "two"]).cast(kind)
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    assert list(read_documents(str(tmp_path / "a.parquet"))) == ["one", "one", "two"]


def test_csv_gives_a_document_a_row_whatever_the_other_columns_hold(tmp_path):
    rows = '\ufeffid,text\r\n1,"one\nline"\r\nx,\r\n2.5,"the ""second"", é"\r\n7,007\r\n'
    (tmp_path / "a.csv").write_bytes(rows.encode())
    assert list(read_documents(str(tmp_path / "a.csv"))) == ["one\nline", 'the "second", é', "007"]


def test_csv_leaves_numbers_as_they_are_written(tmp_path):
    (tmp_path / "a.csv").write_text("text\n007\n1e3\n", encoding="utf-8")
    assert list(read_documents(str(tmp_path / "a.csv"))) == ["007", "1e3"]


def test_csv_rows_with_line_breaks_survive_the_end_of_a_block(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CSV_BLOCK_BYTES", 50)
    documents = [f"row {i}\nline\n\nlast" for i in range(20)]
    (tmp_path / "a.csv").write_text("text\n" + "".join(f'"{d}"\n' for d in documents), encoding="utf-8")
    assert list(read_documents(str(tmp_path / "a.csv"))) == documents


def test_csv_takes_fields_longer_than_the_csv_modules_limit(tmp_path):
    (tmp_path / "a.csv").write_text("text\n" + "x" * 3_000_000 + "\n", encoding="utf-8")
    assert [len(document) for document in read_documents(str(tmp_path / "a.csv"))] == [3_000_000]


def test_parquet_gives_a_document_a_row_of_the_field_that_is_asked_for(tmp_path):
    table = pa.table({"body": [record["text"] for record in RECORDS], "n": [1, 2, 3, 4]})
    pq.write_table(table, tmp_path / "a.parquet")
    source = str(tmp_path / "a.parquet")
    assert list(read_documents(source, "body")) == ["one\nline", 'the "second", é']
    with pytest.raises(ValueError, match=r"a.parquet has no field 'text'; its fields are: body, n. Choose one"):
        list(read_documents(source))
    with pytest.raises(ValueError, match=r"field 'n' of .*a.parquet is int64, not text"):
        list(read_documents(source, "n"))
