import numpy as np
import pytest

from tests import tiny, tiny_packed
from tfbert import held_out


def words_of(features):
    """How often each id stands in the text, one token at a time."""
    counts = np.zeros(tiny.V, int)
    for row in range(len(features["input_ids"])):
        ids = list(features["input_ids"][row])
        for slot, weight in enumerate(features["masked_lm_weights"][row]):
            if weight:
                ids[features["masked_lm_positions"][row, slot]] = features["masked_lm_ids"][row, slot]
        for place, id_ in enumerate(ids):
            if features["input_mask"][row, place] and features.get("example_weights", np.ones(tiny.B))[row]:
                counts[id_] += 1
    return counts


class TestWordpieceCounts:
    def check(self, features):
        found = held_out.wordpiece_counts(features)
        np.testing.assert_array_equal(np.pad(found, (0, tiny.V - len(found))), words_of(features))

    def test_of_the_text_before_it_was_masked(self):
        features = tiny.features()
        self.check(features)
        assert held_out.wordpiece_counts(features).sum() == features["input_mask"].sum()

    def test_packed_rows(self):
        features = tiny_packed.pack(tiny.features(), [[1, 0], [2, 3]])
        self.check(features)

    def test_rows_that_fill_the_last_batch_do_not_count(self):
        features = tiny.features()
        features["example_weights"] = np.float32([1, 0, 1, 0])
        self.check(features)
        assert held_out.wordpiece_counts(features).sum() == features["input_mask"][::2].sum()

    def test_the_batch_is_as_it_was(self):
        features, before = tiny.features(), tiny.features()
        held_out.wordpiece_counts(features)
        np.testing.assert_array_equal(features["input_ids"], before["input_ids"])


def test_unigram_accuracy():
    ids, weights = np.array([[7, 7, 3], [3, 7, 9]]), np.float32([[1, 1, 1], [1, 0, 1]])
    batches = [{"masked_lm_ids": ids, "masked_lm_weights": weights}] * 2
    assert held_out.unigram_accuracy(batches) == pytest.approx(2 / 5)  # 7 twice and 3 twice of five, in each batch
    assert held_out.unigram_accuracy([{**batches[0], "example_weights": np.array([1, 0])}]) == pytest.approx(2 / 3)
    more = {"masked_lm_ids": np.array([[40]]), "masked_lm_weights": np.ones([1, 1])}  # an id beyond those before
    assert held_out.unigram_accuracy([batches[0], more, more, more]) == pytest.approx(3 / 8)
    assert held_out.unigram_accuracy([]) == 0.0
