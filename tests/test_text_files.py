"""Text files: what is a document, that spans give what the file gives, and what cannot be read."""

import collections
import gzip
import itertools
import random
import tracemalloc

import pytest

from data_prep import corpus, sentences, storage, text_files
from data_prep import texts as limits
from data_prep.corpus import CorpusConfig
from tests.sources import as_text, cut, many, read, read_counted, read_spans, texts, write
from tfbert import checks


def reference(data):
    """The documents of a file, from the definition."""
    lines = [line.strip() for line in data.removeprefix(b"\xef\xbb\xbf").decode().split("\n")]
    groups = itertools.groupby(lines, bool)
    return [list(group) for is_text, group in groups if is_text]


def made_up(seed, pieces):
    """Bytes of some of the pieces, in random order."""
    rng = random.Random(seed)
    return b"".join(rng.choices(pieces, k=rng.randint(1, 40)))


PIECES = [
    *(
        b"\n",
        b"\n\n",
        b"\r\n",
        b"\r\n\r\n",
        b" \n",
        b"\t",
        b"a",
        b"bc d.",
        b"One two three. ",
        "é\n".encode(),
        "世界".encode(),
    ),
    *("\u00a0\n".encode(), "\u3000".encode(), "\u2028\n".encode(), b"\x1c\n", b"\x85"[:0], "😀".encode(), b"x\ny\n"),
]


class TestDocuments:
    def test_blank_lines_and_the_ends_of_files_part_documents(self, tmp_path):
        write(tmp_path, "b.txt", "\n\n one \ntwo\n \t \n\nthrée\n\n\n")
        write(tmp_path, "a.txt.gz", "four\nfive")
        assert texts(read(str(tmp_path / "*"))) == [["four", "five"], ["one", "two"], ["thrée"]]

    def test_where_names_file_and_line(self, tmp_path):
        path = write(tmp_path, "a.txt", "\none\n\n\ntwo\nthree\n")
        assert [d.where for d in read(path)] == [f"{path}, line 2", f"{path}, line 5"]

    def test_where_names_the_byte_in_a_later_part(self, tmp_path):
        text = "one\n\n\n  twö\nthree\n\nfour\n"
        path = write(tmp_path, "a.txt", text)
        found, _ = read_spans(CorpusConfig(input_file=(path,)), cut(path, [0, 3, len(text.encode())]))
        assert [d.where for d in found] == [f"{path}, line 1", f"{path}, byte 6", f"{path}, byte 20"]
        assert text.encode()[6:].startswith(b"  tw") and text.encode()[20:] == b"four\n"

    def test_windows_files(self, tmp_path):
        path = write(tmp_path, "a.txt", b"\xef\xbb\xbfone\r\ntwo\r\n\r\nthree\r\n")
        assert texts(read(path)) == [["one", "two"], ["three"]]

    def test_white_space_is_that_of_unicode(self, tmp_path):
        white = "\u00a0 \x1c\u3000\x85"
        path = write(tmp_path, "a.txt", f"{white}one{white}x{white}\n{white}\n\x1ftwo\x1d\nb\x7f\n")
        assert texts(read(path)) == [[f"one{white}x"], ["two", "b\x7f"]]

    def test_globs_come_in_their_order_sorted_within_and_each_file_once(self, tmp_path):
        for name in ("c.txt", "a.txt", "b.md"):
            write(tmp_path, name, f"text of {name}")
        found = read(str(tmp_path / "b*"), str(tmp_path / "*.txt"), str(tmp_path / "./a.txt"), str(tmp_path / "*"))
        assert texts(found) == [["text of b.md"], ["text of a.txt"], ["text of c.txt"]]

    def test_a_name_with_glob_characters_is_a_name(self, tmp_path):
        assert texts(read(write(tmp_path, "a[1].txt", "one"))) == [["one"]]

    @pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
    def test_made_up_files(self, tmp_path, name):
        for seed in range(200):
            data = made_up(seed, [b"\xef\xbb\xbf"[: seed % 2 * 3], *PIECES])
            cfg = CorpusConfig(input_file=(write(tmp_path, name, data),))
            if data.startswith(b"\xef\xbb\xbf" * 2):
                continue  # what is a mark once is a character twice
            assert texts(read_spans(cfg)[0]) == reference(data), data


class TestRawProse:
    def test_raw_prose_is_split_by_paragraph(self, tmp_path):
        path = write(tmp_path, "a.txt", "It is one. It is two.\nIs it three?\n\nIt is four, e.g. this! It is five.")
        assert texts(read(path, split_sentences=True)) == [
            ["It is one.", "It is two.", "Is it three?"],
            ["It is four, e.g. this!", "It is five."],
        ]

    @pytest.mark.slow
    @pytest.mark.parametrize("limit, value", [("_BATCH", 7), ("_BATCH_BYTES", 100)])
    def test_batches_change_nothing(self, tmp_path, monkeypatch, limit, value):
        path = write(tmp_path, "a.txt", as_text([[" ".join(d), d[0]] for d in many(60)]))
        whole = read(path, split_sentences=True)
        monkeypatch.setattr(sentences, limit, value)
        assert read(path, split_sentences=True) == whole
        assert len(whole) == 60

    def test_a_long_line_is_cut_where_a_sentence_ends(self, tmp_path):
        path = write(tmp_path, "a.txt", "A sentence of five words. " * 100_000)
        found, counts = read_counted(CorpusConfig(input_file=(path,), split_sentences=True))
        assert set(found[0].sentences) == {b"A sentence of five words."} and len(found[0].sentences) == 100_000
        assert len(found) == 1 and counts["lines_cut"] == 1


class TestSpans:
    @pytest.mark.slow
    def test_files_are_cut_by_bytes(self, tmp_path):
        text = as_text(many(1000)) * 120
        path, packed = write(tmp_path, "a.txt", text), write(tmp_path, "b.gz", text)
        write(tmp_path, "c.txt", "")
        found = corpus.spans(CorpusConfig(input_file=(str(tmp_path / "*"),)))
        assert 9_000_000 < len(text) < 12_000_000
        ends = [0, 1 << 22, 2 << 22, len(text)]
        assert found == [*cut(path, ends), (packed, 0, (tmp_path / "b.gz").stat().st_size)]

    def test_large_corpora_have_no_more_than_4096(self):
        assert [text_files.span_bytes(n) for n in (0, 1 << 34, 1 << 35)] == [1 << 22, 1 << 22, 1 << 23]

    @pytest.mark.slow
    def test_real_spans(self, tmp_path):
        documents = many(70_000)
        path = write(tmp_path, "a.txt", as_text(documents))
        cfg = CorpusConfig(input_file=(path,))
        found, counts = read_spans(cfg)
        assert len(corpus.spans(cfg)) == 2 and counts["documents_read"] == 70_000
        assert texts(found) == documents

    @pytest.mark.slow
    @pytest.mark.parametrize("errors", ["strict", "replace"])
    def test_a_file_can_be_cut_anywhere(self, tmp_path, monkeypatch, errors):
        """Lines and documents that are too long, blank lines, marks, half characters: all is as in one piece."""
        monkeypatch.setattr(limits, "MAX_LINE", 16)
        monkeypatch.setattr(limits, "MAX_DOCUMENT", 50)
        monkeypatch.setattr(text_files, "_BEYOND", 5)
        wrong = [b"\xff", b"\xe9\n", b"\xe4\xb8"] if errors == "replace" else []
        checked = 0
        for seed in range(40):
            data = made_up(seed, [b"\xef\xbb\xbf"[: seed % 2 * 3], *PIECES, b"a longer line. " * 2, *wrong])
            path = write(tmp_path, "a.txt", data)
            cfg = CorpusConfig(input_file=(path,), errors=errors)
            n, rng = len(data), random.Random(seed)
            whole, counts = read_spans(cfg, cut(path, [0, n]))
            some = [sorted(rng.choices(range(n + 1), k=5)) for _ in range(20)]
            for places in [*([i] for i in range(n + 1)), *some, range(n)]:
                parts, their_counts = read_spans(cfg, cut(path, [0, *places, n]))
                assert [d.sentences for d in parts] == [d.sentences for d in whole], (data, places)
                assert +their_counts == +counts, (data, places)
                checked += 1
        assert checked > 3000

    def test_a_gzipped_file_is_read_to_its_end(self, tmp_path, monkeypatch):
        monkeypatch.setattr(limits, "MAX_LINE", 1 << 12)
        documents = many(3000)  # of ten times the bytes that the file has
        path = write(tmp_path, "a.txt.gz", as_text(documents))
        assert texts(read_spans(CorpusConfig(input_file=(path,)))[0]) == documents

    def test_a_document_belongs_to_the_span_of_the_blank_line_before_it(self, tmp_path):
        path = write(tmp_path, "a.txt", "one\n\n\ntwo\nthree\n\nfour")
        cfg = CorpusConfig(input_file=(path,))

        def parts(place):
            return [texts(read_spans(cfg, [span])[0]) for span in cut(path, [0, place, 20])]

        everything = [["one"], ["two", "three"], ["four"]]
        for place, first in ((0, 0), (1, 1), (4, 1), (5, 1), (6, 2), (14, 2), (16, 2), (17, 3), (20, 3)):
            assert parts(place) == [everything[:first], everything[first:]], place


class TestLongInput:
    def test_long_lines_are_cut_at_white_space_and_lose_nothing(self, tmp_path, monkeypatch):
        monkeypatch.setattr(limits, "MAX_LINE", 40)
        rng = random.Random(5)
        for _ in range(300):
            words = ["".join(rng.choices("aé世.?", k=rng.randint(1, 60))) for _ in range(rng.randint(1, 9))]
            line = " ".join(words)
            cfg = CorpusConfig(input_file=(write(tmp_path, "a.txt", f"before\n{line}\nafter\n\nnext"),))
            (first, second), counts = read_spans(cfg)
            found = texts([first])[0]
            assert found[0] == "before" and found[-1] == "after" and texts([second]) == [["next"]]
            assert "".join(found[1:-1]).replace(" ", "") == line.replace(" ", "")
            assert all(0 < len(s) <= 40 for s in first.sentences)
            assert counts["lines_cut"] == (len(line.encode()) > 40)
            if all(len(word.encode()) < 40 for word in words):
                assert " ".join(found[1:-1]) == line

    def test_a_long_blank_line_is_blank(self, tmp_path, monkeypatch):
        monkeypatch.setattr(limits, "MAX_LINE", 10)
        for blank in (" " * 95, "\u3000" * 30 + "\t"):
            path = write(tmp_path, "a.txt", f"one\n{blank}\ntwo\n{blank}x\n{blank}")
            found, counts = read_spans(CorpusConfig(input_file=(path,)))
            assert texts(found) == [["one"], ["two", "x"]] and counts["lines_cut"] == 0
            assert [d.where for d in found] == [f"{path}, line 1", f"{path}, line 3"]

    def test_long_documents_are_cut_between_lines(self, tmp_path, monkeypatch):
        monkeypatch.setattr(limits, "MAX_DOCUMENT", 30)
        lines = [f"line {i}" for i in range(20)]  # 7 or 8 bytes each with the line feed, and 30 at most together
        path = write(tmp_path, "a.txt", "\n".join(lines) + "\n\nnext")
        found, counts = read_spans(CorpusConfig(input_file=(path,)))
        assert [s for d in texts(found)[:-1] for s in d] == lines and texts(found)[-1] == ["next"]
        assert [len(d.sentences) for d in found] == [4, 4, 4, 3, 3, 2, 1]
        assert counts["documents_cut"] == 5 == counts["documents_read"] - 2

    @pytest.mark.slow
    @pytest.mark.parametrize("split_sentences", [False, True])
    def test_a_line_of_100_mb(self, tmp_path, split_sentences):
        line = b"The quick brown fox jumps over the lazy dog. " * 2_222_222
        path = write(tmp_path, "a.txt", b"one\n" + line + b"\ntwo\n\nthree")
        cfg = CorpusConfig(input_file=(path,), split_sentences=split_sentences)
        spans = corpus.spans(cfg)
        if split_sentences:  # takes ten times as long, and more says nothing more
            spans = [spans[-1]]
        found, counts = read_spans(cfg, spans)
        if split_sentences:
            assert texts(found) == [["three"]]
            return
        assert len(spans) == 24 and counts["lines_cut"] == 1 and counts["documents_cut"] == 5
        assert max(map(len, (s for d in found for s in d.sentences))) <= limits.MAX_LINE
        assert b" ".join(s for d in found for s in d.sentences) == b"one " + line + b"two three"

    @pytest.mark.slow
    @pytest.mark.parametrize("unit", [b"The quick brown fox.\n", b"The quick brown fox. "])
    def test_memory_is_bounded(self, tmp_path, monkeypatch, unit):
        """Neither a document without end nor a line without end is held in memory."""
        monkeypatch.setattr(limits, "MAX_LINE", 1 << 16)
        monkeypatch.setattr(limits, "MAX_DOCUMENT", 1 << 18)
        path = write(tmp_path, "a.txt", unit * (10_000_000 // len(unit)))
        cfg, counts = CorpusConfig(input_file=(path,)), collections.Counter()
        tracemalloc.start()
        for span in corpus.spans(cfg):
            for _ in corpus.read(cfg, span, counts):
                pass
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert counts["bytes"] > 9_900_000 and peak < 4_000_000


class TestBadInput:
    def test_a_glob_that_matches_nothing(self, tmp_path):
        with pytest.raises(checks.InputError, match=r"at least one file; got none \(at .*no\*\.txt\)"):
            read(str(tmp_path / "no*.txt"))

    def test_a_folder(self, tmp_path):
        with pytest.raises(checks.InputError, match="files only; got a folder"):
            read(str(tmp_path))

    def test_an_unreadable_file(self, tmp_path, monkeypatch):
        cfg = CorpusConfig(input_file=(write(tmp_path, "a.txt", "one"),))
        spans = corpus.spans(cfg)

        def refuse(*_):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(storage, "open", refuse, raising=False)  # root may read everything
        for what in (lambda: corpus.spans(cfg), lambda: read_spans(cfg, spans)):
            with pytest.raises(checks.InputError, match=r"must be readable; got Permission denied \(at .*a\.txt\)"):
                what()

    @pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
    def test_invalid_utf8_names_file_and_line(self, tmp_path, name):
        path = write(tmp_path, name, b"one\n\nn\xc3\xa4chste\ncaf\xe9\n")
        words = r"UTF-8; got byte 0xe9 at byte 4 of the line \(at .*, line 4\).*--errors=replace"
        with pytest.raises(checks.InputError, match=words):
            read(path)

    @pytest.mark.parametrize("end", [b"", b"\n", b"a\n"])
    def test_invalid_utf8_in_the_middle_of_a_large_file(self, tmp_path, monkeypatch, end):
        monkeypatch.setattr(limits, "MAX_LINE", 64)
        good = "Ein schöner Satz.\n\n" * 500
        path = write(tmp_path, "a.txt", good.encode() + b"caf\xc3" + end)
        size = len(good.encode()) + 4 + len(end)
        cfg = CorpusConfig(input_file=(path,))
        assert len(read_spans(cfg, cut(path, [0, size // 3, size // 2]))[0]) > 200
        words = r"got byte 0xc3 at byte 4 of the line \(at .*a\.txt, line 1001\)"
        with pytest.raises(checks.InputError, match=words):
            read_spans(cfg, cut(path, [size // 2, size]))

    def test_invalid_utf8_in_a_line_that_is_cut(self, tmp_path, monkeypatch):
        monkeypatch.setattr(limits, "MAX_LINE", 64)
        path = write(tmp_path, "a.txt", b"one\n" + b"word " * 100 + b"caf\xe9 " + b"word " * 100)
        with pytest.raises(checks.InputError, match=r"got byte 0xe9 at byte 504 of the line \(at .*, line 2\)"):
            read(path)

    def test_a_file_that_is_put_right_meanwhile(self, tmp_path):
        path = write(tmp_path, "a.txt", "all is well")
        assert "must not change while it is read" in str(text_files.not_utf8(path))

    def test_errors_can_be_replaced_and_are_counted(self, tmp_path):
        path = write(tmp_path, "a.txt", b"one\ncaf\xe9\n\xff\xef\xbf\xbd\xfe\n\nn\xc3\xa4chste \xef\xbf\xbd\n")
        found, counts = read_counted(CorpusConfig(input_file=(path,), errors="replace"))
        assert texts(found) == [["one", "caf\ufffd", "\ufffd\ufffd\ufffd"], ["nächste \ufffd"]]
        assert counts["characters_replaced"] == 3 and counts["texts_replaced"] == 2

    @pytest.mark.parametrize(
        "broken", [b"no gzip", gzip.compress(b"one\n" * 999, mtime=0)[:-20], gzip.compress(b"one", mtime=0)[:-4]]
    )
    def test_a_broken_gz(self, tmp_path, broken):
        (tmp_path / "a.gz").write_bytes(broken)
        with pytest.raises(checks.InputError, match=r"must be whole and gzipped; got .*a\.gz, line [1-9]"):
            read(str(tmp_path / "a.gz"))

    @pytest.mark.slow
    def test_a_gz_that_ends_too_early_names_the_last_line(self, tmp_path):
        rng = random.Random(2)
        lines = [" ".join(str(rng.random()) for _ in range(9)) for _ in range(30_000)]
        whole = gzip.compress("\n".join(lines).encode())
        (tmp_path / "a.gz").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(checks.InputError, match=r"a\.gz, line 1[45]\d\d\d\)"):
            read(str(tmp_path / "a.gz"))
