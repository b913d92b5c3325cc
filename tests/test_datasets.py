"""TensorFlow Datasets as a source."""

import numpy as np
import pytest

from data_prep import corpus, datasets
from data_prep.corpus import CorpusConfig
from tests.sources import read_counted, read_spans, texts
from tfbert import checks


@pytest.fixture(scope="module")
def dataset_dir(tmp_path_factory):
    """A dataset of TFDS with two splits, on disk."""
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("tfds")
    place = folder / "tiny_docs" / "1.0.0"
    place.mkdir(parents=True)
    identity = tfds.core.DatasetIdentity(
        name="tiny_docs", version=tfds.core.Version("1.0.0"), data_dir=str(place), module_name="tests"
    )
    strings = {name: tfds.features.Text() for name in ("title", "text")}
    features = tfds.features.FeaturesDict({**strings, "number": tfds.features.Scalar(np.int64)})
    info = tfds.core.DatasetInfo(builder=identity, features=features, description="For a test.")
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=2)
    writer.initialize_splits(["train", "test"])
    rows = [{"title": f"Title {i}.", "text": f"Head {i}\n\nOne é. Two.\n", "number": i} for i in range(5)]
    writer.add_examples({"train": rows, "test": [{**rows[0], "text": b"caf\xe9"}]})
    writer.close_all()
    return str(folder)


class TestTfds:
    @pytest.mark.slow
    def test_examples_are_documents_in_the_order_of_the_files(self, dataset_dir):
        cfg = CorpusConfig(tfds="tiny_docs", tfds_data_dir=dataset_dir)
        found, counts = read_counted(cfg)
        assert texts(found) == [[f"Head {i}", "One é.", "Two."] for i in range(5)]
        assert found[3].where == "tiny_docs, train, example 4"
        assert counts["documents_read"] == 5
        assert read_counted(cfg)[0] == found

    def test_another_feature_and_split(self, dataset_dir):
        cfg = CorpusConfig(tfds="tiny_docs", tfds_data_dir=dataset_dir, tfds_feature="title", tfds_split="train[1:3]")
        assert texts(read_counted(cfg)[0]) == [["Title 1."], ["Title 2."]]

    def test_errors_can_be_replaced(self, dataset_dir):
        cfg = CorpusConfig(tfds="tiny_docs", tfds_data_dir=dataset_dir, tfds_split="test", errors="replace")
        found, counts = read_counted(cfg)
        assert texts(found) == [["caf\ufffd"]] and counts["characters_replaced"] == 1

    @pytest.mark.slow
    @pytest.mark.parametrize("split", ["train", "train[1:]", "test+train[2:4]+train[:1]", "train[20%:80%]"])
    def test_any_range_of_examples_can_be_read(self, dataset_dir, split):
        cfg = CorpusConfig(tfds="tiny_docs", tfds_data_dir=dataset_dir, tfds_split=split, errors="replace")
        (span,) = corpus.spans(cfg)
        whole, _ = read_spans(cfg)
        assert len(whole) == span.end > 2
        for first in range(span.end):
            for last in range(first + 1, span.end + 1):
                found, _ = read_spans(cfg, [corpus.Span(span.name, first, last)])
                assert found == whole[first:last]

    @pytest.mark.slow
    def test_spans_end_where_files_do_if_they_can(self, dataset_dir, monkeypatch):
        cfg = CorpusConfig(tfds="tiny_docs", tfds_data_dir=dataset_dir)
        whole, _ = read_spans(cfg)
        places = []
        for size in (1, 100, 1000):  # bytes; an example takes about 70
            monkeypatch.setattr(datasets, "span_bytes", lambda total, size=size: size)
            spans = corpus.spans(cfg)
            assert read_spans(cfg, spans)[0] == whole
            places.append([s.begin for s in spans])
        assert places == [[0, 1, 2, 3, 4], [0, 2, 4], [0]]  # files of 2, 2 and 1

    def test_identity(self, dataset_dir):
        cfg = CorpusConfig(tfds="tiny_docs", tfds_data_dir=dataset_dir, tfds_split="train[1:4]")
        assert corpus.identity(cfg) == [["tiny_docs/1.0.0", "train[1:4]", "text", 3]]

    @pytest.mark.parametrize(
        "kwargs, words",
        [
            (
                {"tfds_feature": "number"},
                r"one string; got tfds_feature='number', and the dataset has \['text', 'title'\]",
            ),
            ({"tfds_feature": "body"}, "one string; got tfds_feature='body'"),
            ({"tfds_split": "dev"}, "tfds_split must be a split; got Unknown split 'dev'"),
            ({"tfds_split": "test"}, r"UTF-8; got byte 0xe9 at byte 4 .at tiny_docs, test, example 1"),
            ({"tfds_split": "train[1:"}, "tfds_split must be a split; got "),
            ({"tfds": "no_such_docs"}, "prepared or known; got Dataset no_such_docs not found"),
            ({"tfds": "wikipedia/20230601.en"}, "prepared; got nothing in .*Pass the right --tfds_data_dir, or --tfds"),
        ],
    )
    def test_bad_input(self, dataset_dir, kwargs, words):
        cfg = CorpusConfig(**{"tfds": "tiny_docs", "tfds_data_dir": dataset_dir, **kwargs})
        with pytest.raises(checks.InputError, match=words):
            read_counted(cfg)
