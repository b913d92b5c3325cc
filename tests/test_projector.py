import json
import os

import numpy as np
import pytest
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.plugins import base_plugin
from tensorboard.plugins.projector import projector_plugin
from werkzeug import test as werkzeug_test

from tfbert import checks
from tfbert.watching import projector


class Served:
    """TensorBoard's own projector over a folder, asked as its page asks."""

    def __init__(self, folder):
        multiplexer = plugin_event_multiplexer.EventMultiplexer()
        provider = data_provider.MultiplexerDataProvider(multiplexer, str(folder))
        context = base_plugin.TBContext(logdir=str(folder), data_provider=provider, multiplexer=multiplexer)
        self._apps = projector_plugin.ProjectorPlugin(context).get_plugin_apps()

    def get(self, route, name=""):
        answer = werkzeug_test.Client(self._apps[route]).get(f"{route}?run=.&name={name}&num_rows=1000")
        assert answer.status_code == 200, answer.data
        return answer.data

    def names(self):
        return [(e["tensorName"], e["tensorShape"]) for e in json.loads(self.get("/info"))["embeddings"]]

    def points(self, name, width):
        return np.frombuffer(self.get("/tensor", name), np.float32).reshape(-1, width)


POINTS = np.arange(15, dtype=np.float32).reshape(5, 3)


class TestWrite:
    def test_tensorboard_shows_points_and_columns(self, tmp_path):
        columns = {"word": ["a", "b\tc", "", "d\u2028e", "f" * 999], "count": range(5)}
        assert projector.write(str(tmp_path / "new"), "words", POINTS, columns) == 5
        served = Served(tmp_path / "new")
        assert served.names() == [("words", [5, 3])]
        np.testing.assert_array_equal(served.points("words", 3), POINTS)
        lines = served.get("/metadata", "words").decode().split("\n")
        expected = ["word\tcount", "a\t0", "b c\t1", "(empty)\t2", "d e\t3", "f" * 300 + "\t4", ""]
        assert lines == expected

    def test_one_column_has_no_heading(self, tmp_path):
        projector.write(str(tmp_path), "words", POINTS, {"word": [b"a", b"\xff", b" ", b"d", b"e"]})
        assert Served(tmp_path).get("/metadata", "words").decode() == "a\n\ufffd\n(empty)\nd\ne\n"

    def test_a_page_that_is_open_gets_new_points(self, tmp_path):
        """TensorBoard remembers what it read, by name: the same name would show the old points for ever."""
        columns = {"word": "abcde", "count": range(5)}
        projector.write(str(tmp_path), "words_1", POINTS, columns)
        served = Served(tmp_path)
        np.testing.assert_array_equal(served.points("words_1", 3), POINTS)
        projector.write(str(tmp_path), "words_2", POINTS + 1, columns)
        assert served.names() == [("words_2", [5, 3])]
        np.testing.assert_array_equal(served.points("words_2", 3), POINTS + 1)
        files = {name.split(".")[0] for name in os.listdir(tmp_path)}
        assert files == {"embeddings-words_2", "metadata", "projector_config", "checkpoint"}

    def test_the_same_name_again(self, tmp_path):
        for shift in (0, 1):
            projector.write(str(tmp_path), "words", POINTS + shift, {"word": "abcde"})
        np.testing.assert_array_equal(Served(tmp_path).points("words", 3), POINTS + 1)

    def test_no_more_points_than_are_shown(self, tmp_path, monkeypatch):
        monkeypatch.setattr(projector, "MOST_POINTS", 2)
        assert projector.write(str(tmp_path), "words", POINTS, {"word": iter("abcde"), "count": range(5)}) == 2
        assert (tmp_path / "metadata.tsv").read_text() == "word\tcount\na\t0\nb\t1\n"
        np.testing.assert_array_equal(Served(tmp_path).points("words", 3), POINTS[:2])


def test_a_folder_of_others_is_refused(tmp_path):
    projector.check_folder(str(tmp_path / "none"))
    projector.check_folder(str(tmp_path))
    projector.write(str(tmp_path), "words", POINTS, {"word": "abcde"})
    (tmp_path / "embeddings.ckpt.index").write_text("")  # of earlier versions
    projector.check_folder(str(tmp_path))
    projector.write(str(tmp_path), "words", POINTS, {"word": "abcde"})
    assert not (tmp_path / "embeddings.ckpt.index").exists()
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(checks.InputError, match=r"must be new, empty, or a projector's; got .*thesis.txt"):
        projector.check_folder(str(tmp_path))


class TestWordpieces:
    TOKENS = ("[PAD]", "the", "##ing", "7", "##19", "|", "##-", "x", "##y", "\u6771", "[unused0]", "of")

    def test_the_most_frequent_come_first(self):
        ids, columns = projector.wordpieces(self.TOKENS, np.array([0, 99, 3, 0, 0, 0, 9]))
        assert list(ids[:3]) == [1, 6, 2] and list(ids[3:6]) == [0, 3, 4]  # of equals, the first of the vocabulary
        assert sorted(ids) == list(range(len(self.TOKENS)))
        assert columns["wordpiece"][:3] == ["the", "##-", "##ing"]
        assert list(columns["frequency"])[:4] == [99, 9, 3, 0]
        assert columns["log10 of frequency"][:4] == ["2.000", "1.000", "0.602", "0.000"]
        assert list(columns["rank"]) == list(range(1, 13))

    def test_kinds(self):
        _, columns = projector.wordpieces(self.TOKENS, np.zeros(0, int))
        inside = "inside a word: "
        assert columns["kind"] == [
            *("special", "word", inside + "letters", "number", inside + "number", "sign", inside + "sign"),
            *("letter", inside + "letter", "letter", "special", "word"),
        ]

    def test_of_a_large_vocabulary_the_frequent_part(self, monkeypatch):
        monkeypatch.setattr(projector, "MOST_WORDPIECES", 2)
        ids, columns = projector.wordpieces(self.TOKENS, np.arange(len(self.TOKENS)))
        assert list(ids) == [11, 10] and [len(list(c)) for c in columns.values()] == [2] * 5
