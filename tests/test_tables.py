"""Parquet files as a source."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import corpus, tables
from data_prep import texts as limits
from data_prep.corpus import CorpusConfig
from tests.sources import cut, many, read, read_counted, read_spans, texts
from tfbert import checks

DOCUMENTS = many(53)


def table(kind=None):
    values = [" ".join(d) for d in DOCUMENTS]
    if kind is not None:
        values = pa.array(values).dictionary_encode() if pa.types.is_dictionary(kind) else pa.array(values, kind)
    return pa.table({"id": range(53), "text": values, "parts": [{"text": "no"}] * 53})


def write(folder, rows=10, kind=None, name="a.parquet"):
    pq.write_table(table(kind), folder / name, row_group_size=rows)
    return str(folder / name)


class TestDocuments:
    @pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
    def test_a_row_is_a_document(self, tmp_path, kind):
        path = write(tmp_path, kind=kind)
        found = read(path)
        assert texts(found) == DOCUMENTS
        assert found[41].where == f"{path}, row 42"

    def test_lines_are_paragraphs_and_null_is_empty(self, tmp_path):
        path = str(tmp_path / "a.parquet")
        pq.write_table(pa.table({"body": ["It is öne. It is two.\n\n Three\r\n", None, "", "Four."]}), path)
        found, counts = read_spans(CorpusConfig(input_file=(path,), text_feature="body"))
        assert texts(found) == [["It is öne.", "It is two.", "Three"], [], [], ["Four."]]
        assert counts["documents_read"] == 4 and counts["documents_empty"] == 2

    @pytest.mark.parametrize("size", [1, 400])
    def test_small_batches_change_nothing(self, tmp_path, monkeypatch, size):
        path = write(tmp_path, rows=30)
        monkeypatch.setattr(tables, "BATCH_BYTES", size)
        assert texts(read(path)) == DOCUMENTS

    def test_long_documents_are_cut(self, tmp_path, monkeypatch):
        monkeypatch.setattr(limits, "MAX_LINE", 50)
        monkeypatch.setattr(limits, "MAX_DOCUMENT", 100)
        path = str(tmp_path / "a.parquet")
        pq.write_table(pa.table({"text": ["word " * 100]}), path)
        found, counts = read_spans(CorpusConfig(input_file=(path,)))
        assert b" ".join(s for d in found for s in d.sentences) == b" ".join([b"word"] * 100)
        assert counts["lines_cut"] == 1 and counts["documents_cut"] == len(found) - 1 > 3


class TestSpans:
    def test_row_groups_are_gathered(self, tmp_path, monkeypatch):
        first, second = write(tmp_path), write(tmp_path, rows=53, name="b.parquet")
        cfg = CorpusConfig(input_file=(first, second))
        assert corpus.spans(cfg) == [(first, 0, 6), (second, 0, 1)]
        whole, _ = read_spans(cfg)
        monkeypatch.setattr(tables, "span_bytes", lambda total: 1)
        assert corpus.spans(cfg) == [*cut(first, range(7)), (second, 0, 1)]
        assert read_spans(cfg)[0] == whole
        monkeypatch.setattr(tables, "span_bytes", lambda total: total // 4)
        assert 1 < len([s for s in corpus.spans(cfg) if s.name == first]) < 6
        assert read_spans(cfg)[0] == whole


class TestBadInput:
    def test_no_such_column(self, tmp_path):
        path = write(tmp_path)
        for name in ("body", "id", "parts", "parts.text"):
            words = rf"a column of strings; got text_feature='{name}', and the file has \['text'\] \(at .*a\.parquet\)"
            with pytest.raises(checks.InputError, match=words):
                read(path, text_feature=name)

    @pytest.mark.parametrize("data", [b"", b"no Parquet at all", b"PAR1\0\0\0\0PAR1"])
    def test_no_parquet(self, tmp_path, data):
        (tmp_path / "a.parquet").write_bytes(data)
        with pytest.raises(checks.InputError, match=r"a whole Parquet file; got .* \(at .*a\.parquet\)"):
            read(str(tmp_path / "a.parquet"))

    def test_a_file_that_is_broken_in_the_middle(self, tmp_path):
        path = write(tmp_path)
        data = bytearray((tmp_path / "a.parquet").read_bytes())
        data[4:400] = b"\xff" * 396
        (tmp_path / "a.parquet").write_bytes(data)
        with pytest.raises(checks.InputError, match=r"a whole Parquet file; got .* \(at .*a\.parquet\)"):
            read(path)

    def test_invalid_utf8(self, tmp_path):
        path = str(tmp_path / "a.parquet")
        values = pa.array([b"One.", b"caf\xe9", b"Two."]).view(pa.string())  # Arrow takes it as it is
        pq.write_table(pa.table({"text": values}), path)
        with pytest.raises(checks.InputError, match=r"text must be UTF-8; got byte 0xe9 at byte 4 \(at .*, row 2\)"):
            read(path)
        found, counts = read_counted(CorpusConfig(input_file=(path,), errors="replace"))
        assert texts(found) == [["One."], ["caf\ufffd"], ["Two."]] and counts["characters_replaced"] == 1
