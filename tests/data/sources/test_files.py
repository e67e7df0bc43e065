import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from minillm.data.sources import files, read_pieces, read_records


def read_documents(source: str, field: str = "text") -> list[str]:
    """The documents that are not empty, all shorter than a piece."""
    return [piece.text for piece in read_pieces(source, field) if piece.text]


def test_a_text_file_is_one_document_with_its_line_ends_kept_and_its_byte_order_mark_dropped(tmp_path):
    path = tmp_path / "windows.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\n\xc3\xa9\r")
    assert read_documents(str(path)) == ["one\r\ntwo\né\r"]


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
        ("a.txt", b"", r"a.txt is empty: give a text file"),
        ("a.txt", b"\x89PNG\r\n\0\0", r"a.txt is binary: give a text file, or records in .jsonl"),
        ("a.txt", b"caf\xe9 au lait", r"a.txt is not UTF-8 \(byte 3: .*\): convert it to UTF-8"),
        ("a.txt", b"cut \xe6\xbc", r"a.txt is not UTF-8 \(byte 4: unexpected end of data\)"),
        ("a.txt", "utf-16".encode("utf-16"), r"a.txt is not UTF-8 .*: convert it"),
        ("a.jsonl", b"", r"a.jsonl is empty: give a text file, or records"),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', r"a.jsonl line 2 is not JSON .*: correct it"),
        ("a.jsonl", b'{"text": "\xe9"}', r"a.jsonl line 1 is not UTF-8 .*: convert"),
        ("a.jsonl", b'["x"]', r"a.jsonl line 1 is not a JSON object"),
        ("a.jsonl", b"[" * 100_000, r"a.jsonl line 1 is nested too deeply"),
        ("a.csv", b"x" * 200_000, r"a.csv has no field 'text'; its fields are: x{300}…. Choose"),
        (
            "a.jsonl",
            b'{"a": "x", "b": 1}',
            r"a.jsonl line 1 has no field 'text'; its fields are: a, b. Choose the field \(data.field\)",
        ),
        ("a.jsonl", b'{"text": 3}', r"field 'text' of .*a.jsonl line 1 is int, not text: choose another field"),
        ("a.jsonl.gz", b"plain", r"a.jsonl.gz is a damaged gzip file"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 99, mtime=0)[:-9], r"a.jsonl.gz is a damaged gzip file"),
        ("a.csv", b"", r"a.csv is empty: give a text file, or records"),
        ("a.csv", b"title,body\nx,y\n", r"a.csv has no field 'text'; its fields are: title, body. Choose the field"),
        ("a.csv", b"text\nfine\ncaf\xe9\n", r"a.csv line 3 is not UTF-8 .*: convert"),
        ("a.csv", b"text,b\nx,y\nz\n", r"a.csv line 3 has 1 fields, but the header has 2: correct"),
        ("a.parquet", b"PAR1 not really", r"a.parquet is not a valid parquet file"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_in_one_line_with_the_remedy(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_documents(str(tmp_path / name))
    assert "\n" not in str(caught.value)


RECORDS = [{"text": "one\nline"}, {"text": None}, {"text": ""}, {"text": 'the "second", é'}]


@pytest.mark.parametrize("name", ["a.jsonl", "a.JSONL", "a.jsonl.gz"])
def test_jsonl_gives_a_document_a_line_and_passes_over_blanks_and_nulls(tmp_path, name):
    lines = "\ufeff" + "\n\n".join(json.dumps(record) for record in RECORDS)
    data = lines.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert read_documents(str(tmp_path / name)) == ["one\nline", 'the "second", é']


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_parquet_text_may_be_stored_in_any_way(tmp_path, kind):
    column = pa.array(["one", None, "one", "two"]).cast(kind)
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    assert read_documents(str(tmp_path / "a.parquet")) == ["one", "one", "two"]


def test_csv_gives_a_document_a_row_whatever_the_other_columns_hold(tmp_path):
    rows = '\ufeffid,text\r\n1,"one\nline"\r\nx,\r\n2.5,"the ""second"", é"\r\n7,007\r\n'
    (tmp_path / "a.csv").write_bytes(rows.encode())
    assert read_documents(str(tmp_path / "a.csv")) == ["one\nline", 'the "second", é', "007"]


def test_csv_leaves_numbers_as_they_are_written(tmp_path):
    (tmp_path / "a.csv").write_text("text\n007\n1e3\n", encoding="utf-8")
    assert read_documents(str(tmp_path / "a.csv")) == ["007", "1e3"]


def test_csv_takes_fields_longer_than_the_csv_modules_limit(tmp_path):
    (tmp_path / "a.csv").write_text("text\n" + "x" * 3_000_000 + "\n", encoding="utf-8")
    assert [len(document) for document in read_documents(str(tmp_path / "a.csv"))] == [3_000_000]


def test_parquet_gives_a_document_a_row_of_the_field_that_is_asked_for(tmp_path):
    table = pa.table({"body": [record["text"] for record in RECORDS], "n": [1, 2, 3, 4]})
    pq.write_table(table, tmp_path / "a.parquet")
    source = str(tmp_path / "a.parquet")
    assert read_documents(source, "body") == ["one\nline", 'the "second", é']
    with pytest.raises(ValueError, match=r"a.parquet has no field 'text'; its fields are: body, n. Choose the field"):
        read_documents(source)
    with pytest.raises(ValueError, match=r"field 'n' of .*a.parquet row 1 is int, not text"):
        read_documents(source, "n")


STRICT = [
    ('id,text\n1,"left open\n2,x\n3,y\n', r"line 2: a quote is opened here and never closed"),
    ('id,text\n1,"closed" too early\n', r"line 2: .*at line 2; inside a quoted field, write each quote twice"),
    ('id,text\n1,x\n2,"one\n3,two"x\n', r"line 3: .*at line 4; inside a quoted field"),
    ("id,text\n1,x\n\n2\n", r"line 4 has 1 fields, but the header has 2: correct the row"),
    ('id,text\n1,"a\nb"\n2,x,y\n', r"line 4 has 3 fields, but the header has 2"),
    ("text,text\nx,y\n", r" has two columns of the same name in text, text: rename one"),
]


@pytest.mark.parametrize(("rows", "message"), STRICT)
@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t")])
def test_a_table_that_is_not_sound_is_refused_with_its_line(tmp_path, name, delimiter, rows, message):
    (tmp_path / name).write_text(rows.replace(",", delimiter).replace("text\ttext:", "text, text:"), encoding="utf-8")
    with pytest.raises(ValueError, match=f"{name} ?{message}"):
        read_documents(str(tmp_path / name))
    with pytest.raises(ValueError, match=f"{name} ?{message}"):
        list(read_records(str(tmp_path / name), {"data.input_field": "text"}))


def test_a_table_separated_by_tabs_is_read_as_one(tmp_path):
    (tmp_path / "a.tsv").write_text('id\ttext\n1\tone, with a comma\n2\t"two\nlines"\n', encoding="utf-8")
    assert read_documents(str(tmp_path / "a.tsv")) == ["one, with a comma", "two\nlines"]


def test_json_is_read_as_an_array_of_records_and_refused_otherwise(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(RECORDS, indent=1), encoding="utf-8")
    assert read_documents(str(path)) == ["one\nline", 'the "second", é']
    for content, message in {
        '{"text": "a"}\n{"text": "b"}\n': r"JSON but not an array of records: .* records in .jsonl \(one a line\)",
        '["a"]': "JSON but not an array of records",
        '[{"text": "a"}, 3]': "a.json record 2 is not a JSON object",
        '[{"body": "a"}]': "a.json record 1 has no field 'text'; its fields are: body",
        '[{"text": "a"},\n}': r"a.json is not JSON \(.* at line 2 column 1\)",
    }.items():
        path.write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            read_documents(str(path))


@pytest.mark.parametrize("name", ["a.docx", "a.PDF", "a.csv.gz", "a.zip", "a.xlsx"])
def test_a_file_of_another_format_is_refused_by_its_ending(tmp_path, name):
    (tmp_path / name).write_text("%PDF-1.7 might be text", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"{name} is not text \(\.\w+\): give a text file, or records in"):
        read_documents(str(tmp_path / name))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.py", "README"])
def test_a_file_with_zero_bytes_is_refused_whatever_its_name(tmp_path, name):
    (tmp_path / name).write_bytes(b'{"text": "a\0b"}\n')
    with pytest.raises(ValueError, match=f"{name} is binary"):
        read_documents(str(tmp_path / name))
