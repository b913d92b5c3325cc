"""Tests of tfbert.text.masking."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tfbert import checks
from tfbert.text import masking, selection
from tfbert.text.vocab import SPECIAL_TOKENS, Vocab

ORDINARY = 89
VOCAB = Vocab(
    ("[PAD]", "[unused0]", *SPECIAL_TOKENS[1:], *(f"{'##' if i % 3 == 2 else ''}w{i}" for i in range(ORDINARY)))
)
FIRST = len(VOCAB) - ORDINARY
N, L, P = 3000, 31, 7


def batch(seed=0, n=N):
    """Sequences of different lengths: [CLS] words [SEP] words [SEP] and padding; some words unknown."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(8, L + 1, n)[:, None]
    position = np.arange(L)[None]
    ids = rng.integers(FIRST, len(VOCAB), (n, L))
    ids = np.where(rng.random((n, L)) < 0.03, VOCAB.unk_id, ids)
    ids[:, 0], ids[:, 5] = VOCAB.cls_id, VOCAB.sep_id
    ids = np.where(position == lengths - 1, VOCAB.sep_id, ids)
    ids = np.where(position < lengths, ids, VOCAB.pad_id).astype(np.int32)
    return ids, (position < lengths).astype(np.int32)


def masked(ids, mask, unit=selection.tokens, p=0.15, predictions=P, seed=(1, 2)):
    out = masking.mask(tf.constant(ids), tf.constant(mask), VOCAB, unit, p, predictions, seed)
    return {k: v.numpy() for k, v in out.items()}


def within(count, n, p, sigmas=5):
    """Whether a count of n trials is within so many standard deviations of the binomial law."""
    return abs(count - n * p) <= sigmas * math.sqrt(n * p * (1 - p))


def test_eighty_ten_ten():
    ids, _ = batch()
    chosen = np.ones(ids.shape, bool)
    seen = masking.replace(tf.constant(ids), tf.constant(chosen), VOCAB, (3, 4)).numpy()
    n = ids.size
    assert within((seen == VOCAB.mask_id).sum(), n, 0.8)
    ordinary = ids >= FIRST
    kept = 0.1 + 0.1 / ORDINARY  # a random word can be the word itself
    assert within((seen == ids)[ordinary].sum(), ordinary.sum(), kept)
    replaced = (seen != VOCAB.mask_id) & (seen != ids)
    assert within(replaced[ordinary].sum(), ordinary.sum(), 0.1 - 0.1 / ORDINARY)


def test_random_words_are_ordinary_and_each_as_likely():
    ids = np.full((N, L), VOCAB.cls_id, np.int32)
    seen = masking.replace(tf.constant(ids), tf.ones(ids.shape, bool), VOCAB, (5, 6)).numpy()
    words = seen[(seen != VOCAB.mask_id) & (seen != VOCAB.cls_id)]
    assert words.min() == FIRST and words.max() == len(VOCAB) - 1
    counts = np.bincount(words)[FIRST:]
    assert all(within(c, len(words), 1 / ORDINARY) for c in counts)


def test_what_is_not_chosen_stays():
    ids, _ = batch()
    chosen = np.random.default_rng(1).random(ids.shape) < 0.5
    seen = masking.replace(tf.constant(ids), tf.constant(chosen), VOCAB, (7, 8)).numpy()
    np.testing.assert_array_equal(seen[~chosen], ids[~chosen])
    none = masking.replace(tf.constant(ids), tf.zeros(ids.shape, bool), VOCAB, (7, 8))
    np.testing.assert_array_equal(none, ids)


@pytest.mark.parametrize("predictions", [3, P, L + 4])
def test_targets_are_the_chosen_positions_in_order(predictions):
    ids, _ = batch(n=41)
    rng = np.random.default_rng(2)
    chosen = np.zeros(ids.shape, bool)
    for row in range(len(ids)):
        chosen[row, rng.permutation(L)[: rng.integers(0, min(predictions, L) + 1)]] = True
    got = masking.targets(tf.constant(ids), tf.constant(chosen), predictions)
    for row in range(len(ids)):
        positions = np.flatnonzero(chosen[row])
        rest = [0] * (predictions - len(positions))
        np.testing.assert_array_equal(got["masked_lm_positions"][row], [*positions, *rest])
        np.testing.assert_array_equal(got["masked_lm_ids"][row], [*ids[row, positions], *rest])
        np.testing.assert_array_equal(got["masked_lm_weights"][row], [1.0] * len(positions) + rest)
    assert [got[k].dtype for k in got] == [tf.int32, tf.int32, tf.float32]


@pytest.mark.parametrize("p", [0.0, 0.15, 0.4, 1.0])
def test_the_number_masked_is_googles(p):
    ids, mask = batch(n=200)
    out = masked(ids, mask, p=p)
    may = selection.maskable(tf.constant(ids), VOCAB).numpy().sum(1)
    expected = [min(P, max(1, round(int(n) * p)), int(m)) for n, m in zip(mask.sum(1), may)]
    np.testing.assert_array_equal(out["masked_lm_weights"].sum(1), expected)


def test_fifteen_percent_are_masked():
    length, n = 128, 500
    ids = np.random.default_rng(3).integers(FIRST, len(VOCAB), (n, length)).astype(np.int32)
    out = masked(ids, np.ones_like(ids), predictions=20)
    assert (out["masked_lm_weights"].sum(1) == 19).all()  # round(128 * 0.15)
    seen = np.take_along_axis(out["input_ids"], out["masked_lm_positions"][:, :19], 1)
    assert within((seen == VOCAB.mask_id).sum(), seen.size, 0.8)


@pytest.mark.parametrize("unit", [selection.tokens, selection.whole_words])
def test_special_tokens_are_never_masked(unit):
    ids, mask = batch()
    out = masked(ids, mask, unit, p=1.0, predictions=L)
    special = ids < FIRST
    np.testing.assert_array_equal(out["input_ids"][special], ids[special])
    real = out["masked_lm_weights"] > 0
    assert (out["masked_lm_ids"][real] >= FIRST).all()
    assert (~special).sum() == real.sum()


def test_the_truth_is_what_stood_there():
    ids, mask = batch()
    out = masked(ids, mask, selection.whole_words)
    real = out["masked_lm_weights"] > 0
    np.testing.assert_array_equal(
        np.take_along_axis(ids, out["masked_lm_positions"], 1)[real], out["masked_lm_ids"][real]
    )
    changed = out["input_ids"] != ids
    at_target = np.zeros_like(changed)
    for row, positions, w in zip(range(N), out["masked_lm_positions"], real):
        at_target[row, positions[w]] = True
    assert not (changed & ~at_target).any()


def test_whole_words_are_masked_whole():
    ids, mask = batch(n=300)
    out = masked(ids, mask, selection.whole_words)
    units = selection.whole_words(
        selection.word_starts(tf.constant(ids), VOCAB), selection.maskable(tf.constant(ids), VOCAB)
    ).numpy()
    for row in range(len(ids)):
        positions = out["masked_lm_positions"][row][out["masked_lm_weights"][row] > 0]
        inside = np.isin(np.arange(L), positions)
        assert not (inside & np.isin(units[row], units[row][~inside])).any()


def test_the_same_seed_gives_the_same_masks_and_another_others():
    ids, mask = batch(n=50)
    first, again, other = (masked(ids, mask, seed=s) for s in [(1, 2), (1, 2), (2, 2)])
    for name in first:
        np.testing.assert_array_equal(first[name], again[name], name)
    assert (first["masked_lm_positions"] != other["masked_lm_positions"]).any()


def test_masks_inside_a_dataset():
    """Dynamic masking: the same code in a tf.data pipeline, batch after batch with its own seed."""
    ids, mask = batch(n=60)

    def dynamic(number, batch):
        return masking.mask(*batch, VOCAB, selection.whole_words, 0.15, P, tf.stack([number, 5]))

    data = tf.data.Dataset.from_tensor_slices((ids, mask)).batch(20).enumerate().map(dynamic)
    for number, out in enumerate(data):
        rows = slice(20 * number, 20 * number + 20)
        expected = masked(ids[rows], mask[rows], selection.whole_words, seed=tf.constant([number, 5], tf.int64))
        for name, value in expected.items():
            np.testing.assert_array_equal(out[name], value, name)


def test_a_vocabulary_without_ordinary_entries_is_refused():
    with pytest.raises(checks.InputError, match="entries beside its special tokens; got 6 entries, all special"):
        masking.ordinary_ids(Vocab((*SPECIAL_TOKENS, "[unused7]")))
