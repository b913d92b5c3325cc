"""JSON lines as a source."""

import json
import random

import pytest

from data_prep import corpus, json_lines
from data_prep import texts as limits
from data_prep.corpus import CorpusConfig
from tests.sources import cut, many, read, read_counted, read_spans, texts, write
from tfbert import checks


def lines(rows, **kwargs):
    return "".join(json.dumps(row, **kwargs) + "\n" for row in rows)


class TestDocuments:
    @pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json.gz"])
    @pytest.mark.parametrize("ensure_ascii", [False, True])
    def test_a_line_is_a_document_whose_lines_are_paragraphs(self, tmp_path, name, ensure_ascii):
        rows = [
            {"id": 1, "text": "It is öne. It is two.\n\n Is it three?\r\n"},
            {"text": "Vier 😀!", "url": "x"},
            {"text": ""},
            {"text": None},
            {"text": " \n\u3000\n"},
        ]
        text = "\n" + lines(rows[:2], ensure_ascii=ensure_ascii) + " \n\n" + lines(rows[2:])
        path = write(tmp_path, name, text)
        found, counts = read_spans(CorpusConfig(input_file=(path,)))
        assert texts(found) == [["It is öne.", "It is two.", "Is it three?"], ["Vier 😀!"], [], [], []]
        assert [d.where for d in found] == [f"{path}, line {n}" for n in (2, 3, 6, 7, 8)]
        assert counts["documents_read"] == 5 and counts["documents_empty"] == 3

    def test_nested_keys(self, tmp_path):
        path = write(tmp_path, "a.jsonl", lines({"meta": {"body": f"Text {i}."}, "text": "no"} for i in range(3)))
        assert texts(read(path, text_feature="meta.body")) == [[f"Text {i}."] for i in range(3)]

    def test_a_byte_order_mark(self, tmp_path):
        path = write(tmp_path, "a.jsonl", b'\xef\xbb\xbf{"text": "One."}\r\n{"text": "Two."}')
        assert texts(read(path)) == [["One."], ["Two."]]

    @pytest.mark.slow
    def test_a_file_can_be_cut_anywhere(self, tmp_path):
        rng = random.Random(4)
        rows = [{"text": "".join(rng.choices("aé\n😀. ", k=rng.randint(0, 30)))} for _ in range(12)]
        text = ("\n" + lines(rows, ensure_ascii=False) + "\n").encode()
        path = write(tmp_path, "a.jsonl", text)
        cfg = CorpusConfig(input_file=(path,))
        whole, counts = read_spans(cfg)
        assert len(whole) == 12
        for place in range(0, len(text) + 1, 2):
            parts, their_counts = read_spans(cfg, cut(path, [0, place, len(text)]))
            assert [d.sentences for d in parts] == [d.sentences for d in whole], place
            assert their_counts == counts

    def test_a_gzipped_file_is_read_to_its_end(self, tmp_path, monkeypatch):
        monkeypatch.setattr(limits, "MAX_LINE", 1 << 12)
        documents = [" ".join(d) for d in many(3000)]
        path = write(tmp_path, "a.jsonl.gz", lines({"text": d} for d in documents))
        found = texts(read_spans(CorpusConfig(input_file=(path,)))[0])
        assert [" ".join(d) for d in found] == documents

    @pytest.mark.slow
    def test_real_spans(self, tmp_path):
        documents = [" ".join(d) for d in many(50_000)]
        path = write(tmp_path, "a.jsonl", lines({"text": d} for d in documents))
        cfg = CorpusConfig(input_file=(path,))
        found = texts(read_spans(cfg)[0])
        assert len(corpus.spans(cfg)) == 2 and [" ".join(d) for d in found] == documents


class TestLongInput:
    def test_long_paragraphs_and_documents_are_cut(self, tmp_path, monkeypatch):
        monkeypatch.setattr(limits, "MAX_LINE", 50)
        monkeypatch.setattr(limits, "MAX_DOCUMENT", 200)
        text = "\n".join(f"word{i} " * 20 for i in range(5))
        path = write(tmp_path, "a.jsonl", lines([{"text": text}, {"text": "Short."}]))
        found, counts = read_spans(CorpusConfig(input_file=(path,)))
        assert all(len(s) <= 50 for d in found for s in d.sentences) and texts(found)[-1] == ["Short."]
        assert " ".join(s for d in texts(found)[:-1] for s in d) == " ".join(text.split())
        assert counts["lines_cut"] == 5 and counts["documents_cut"] == len(found) - 2 > 2

    def test_a_line_that_is_too_long_is_an_error(self, tmp_path, monkeypatch):
        monkeypatch.setattr(limits, "MAX_LINE", 100)
        monkeypatch.setattr(json_lines, "MAX_JSON", 1000)
        path = write(tmp_path, "a.jsonl", lines([{"text": "a " * 480}, {"text": "a " * 499}]))
        with pytest.raises(checks.InputError, match=r"a line of JSON must be at most .* \(at .*a\.jsonl, line 2\)"):
            read(path)


class TestBadInput:
    @pytest.mark.parametrize(
        "line, words",
        [
            ('{"text": "a"', r"a line must be JSON; got Expecting .* \(at .*a\.jsonl, line 3\)"),
            ("just text", "a line must be JSON; got .* Pass --source=text for plain text"),
            ("[" * 100_000, "a line must be JSON; got maximum recursion depth"),
            ('["text"]', "a line must be a JSON object; got list"),
            ('{"body": "a", "id": 7}', r"text_feature='text', and the line has \['body', 'id'\] \(at .*, line 3\)"),
            ('{"text": 7}', "text must be a string or null; got int"),
            (
                r'{"text": "a\ud800b"}',
                r"half a surrogate pair, U\+D800, as character 2 \(at .*line 3\).*--errors=replace",
            ),
        ],
    )
    def test_the_line_is_named_also_in_the_middle_of_a_file(self, tmp_path, line, words):
        path = write(tmp_path, "a.jsonl", '{"text": "a"}\n\n' + line + "\n")
        size = (tmp_path / "a.jsonl").stat().st_size
        cfg = CorpusConfig(input_file=(path,))
        for spans in (cut(path, [0, size]), cut(path, [5, size])):
            with pytest.raises(checks.InputError, match=words):
                read_spans(cfg, spans)

    def test_nested_keys_that_are_not_there(self, tmp_path):
        path = write(tmp_path, "a.jsonl", '{"a": {"c": "x"}, "b": "x"}\n')
        with pytest.raises(checks.InputError, match=r"text_feature='a.b', and a has \['c'\]"):
            read(path, text_feature="a.b")
        with pytest.raises(checks.InputError, match="b must be a JSON object; got str"):
            read(path, text_feature="b.c")

    def test_invalid_utf8(self, tmp_path):
        path = write(tmp_path, "a.jsonl", b'{"text": "a"}\n{"text": "caf\xe9"}\n')
        with pytest.raises(checks.InputError, match=r"byte 0xe9 at byte 14 of the line \(at .*, line 2\)"):
            read(path)

    def test_errors_can_be_replaced_and_are_counted(self, tmp_path):
        path = write(tmp_path, "a.jsonl", b'{"text": "a"}\n{"text": "caf\xe9"}\n{"text": "a\\ud800b\\ud83d\\ude00"}')
        found, counts = read_counted(CorpusConfig(input_file=(path,), errors="replace"))
        assert texts(found) == [["a"], ["caf\ufffd"], ["a\ufffdb😀"]]
        assert counts["characters_replaced"] == 2 and counts["texts_replaced"] == 2
