"""Tests of tfbert.text.masking."""

import numpy as np
import pytest
import tensorflow as tf

from tests import chance
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


def row_seeds(n, seed=1):
    return masking.row_seeds(seed, tf.range(n, dtype=tf.int64))


def masked(ids, mask, unit="token", p=0.15, predictions=P, seed=1, word_starts=None):
    seeds = row_seeds(len(ids), seed)
    out = masking.mask(tf.constant(ids), tf.constant(mask), VOCAB, unit, p, predictions, seeds, word_starts)
    return {k: v.numpy() for k, v in out.items()}


def replaced(ids, groups=None, seed=3):
    places = np.tile(np.arange(ids.shape[1], dtype=np.int32), (len(ids), 1))
    groups = places if groups is None else groups
    return masking.replacements(ids, places, tf.constant(groups), VOCAB, row_seeds(len(ids), seed)).numpy()


def words_of(ids, word_starts=None):
    """Word numbers of a batch, -1 where nothing may be masked."""
    ids = tf.constant(ids)
    starts = selection.word_starts(ids, VOCAB) if word_starts is None else tf.constant(word_starts)
    return selection.whole_words(starts, selection.maskable(ids, VOCAB)).numpy()


def chosen(out, row):
    return out["masked_lm_positions"][row][out["masked_lm_weights"][row] > 0]


def test_eighty_ten_ten():
    ids, _ = batch()
    seen = replaced(ids)
    assert chance.within((seen == VOCAB.mask_id).sum(), ids.size, 0.8)
    ordinary = ids >= FIRST
    kept = 0.1 + 0.1 / ORDINARY  # a random word can be the word itself
    assert chance.within((seen == ids)[ordinary].sum(), ordinary.sum(), kept)
    others = (seen != VOCAB.mask_id) & (seen != ids)
    assert chance.within(others[ordinary].sum(), ordinary.sum(), 0.1 - 0.1 / ORDINARY)


def test_random_words_are_ordinary_and_each_as_likely():
    ids = np.full((N, L), VOCAB.cls_id, np.int32)
    seen = replaced(ids)
    words = seen[(seen != VOCAB.mask_id) & (seen != VOCAB.cls_id)]
    assert words.min() == FIRST and words.max() == len(VOCAB) - 1
    assert chance.chi_square(np.bincount(words)[FIRST:], [1 / ORDINARY] * ORDINARY)


def test_a_group_is_masked_in_one_way_with_random_words_of_its_own():
    groups = np.tile(np.arange(L, dtype=np.int32) // 3, (N, 1))
    ids = np.full((N, L), VOCAB.cls_id, np.int32)
    seen = replaced(ids, groups)[:, : L // 3 * 3].reshape(-1, 3)
    kinds = np.where(seen == VOCAB.mask_id, 0, np.where(seen == VOCAB.cls_id, 1, 2))
    assert (kinds == kinds[:, :1]).all()
    assert all(chance.within((kinds[:, 0] == kind).sum(), len(kinds), p) for kind, p in enumerate((0.8, 0.1, 0.1)))
    random = seen[kinds[:, 0] == 2]
    assert chance.within((random[:, 0] == random[:, 1]).sum(), len(random), 1 / ORDINARY)


@pytest.mark.parametrize("predictions", [3, P, L + 4])
def test_positions_are_listed_in_order(predictions):
    rng = np.random.default_rng(2)
    which = np.zeros((41, L), bool)
    for row in range(len(which)):
        which[row, rng.permutation(L)[: rng.integers(0, min(predictions, L) + 1)]] = True
    got = masking.positions_of(tf.constant(which), predictions).numpy()
    for row in range(len(which)):
        positions = np.flatnonzero(which[row]).tolist()
        assert got[row].tolist() == positions + [-1] * (predictions - len(positions))


@pytest.mark.parametrize("unit", selection.UNITS)
@pytest.mark.parametrize("predictions", [P, L + 4])
def test_targets_are_what_stood_at_the_changed_positions(unit, predictions):
    ids, mask = batch(n=500)
    out = masked(ids, mask, unit, p=0.3, predictions=predictions)
    assert {k: (v.dtype, v.shape[1]) for k, v in out.items()} == {
        "input_ids": (np.int32, L),
        "masked_lm_positions": (np.int32, predictions),
        "masked_lm_ids": (np.int32, predictions),
        "masked_lm_weights": (np.float32, predictions),
    }
    for row in range(len(ids)):
        positions = chosen(out, row)
        rest = [0] * (predictions - len(positions))
        assert positions.tolist() == sorted(set(positions))
        np.testing.assert_array_equal(out["masked_lm_positions"][row], [*positions, *rest])
        np.testing.assert_array_equal(out["masked_lm_ids"][row], [*ids[row, positions], *rest])
        np.testing.assert_array_equal(out["masked_lm_weights"][row], [1.0] * len(positions) + rest)
        assert not np.delete(out["input_ids"][row] != ids[row], positions).any()


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
    assert chance.within((seen == VOCAB.mask_id).sum(), seen.size, 0.8)


@pytest.mark.parametrize("unit", selection.UNITS)
def test_special_tokens_are_never_masked_and_all_else_if_the_budget_allows(unit):
    ids, mask = batch()
    out = masked(ids, mask, unit, p=1.0, predictions=L)
    special = ids < FIRST
    np.testing.assert_array_equal(out["input_ids"][special], ids[special])
    real = out["masked_lm_weights"] > 0
    assert (out["masked_lm_ids"][real] >= FIRST).all()
    assert (~special).sum() == real.sum()


@pytest.mark.parametrize("unit", ["word", "ngram", "span"])
def test_the_budget_is_filled_by_whole_words(unit):
    ids, mask = batch(n=300)
    out = masked(ids, mask, unit)
    words = words_of(ids)
    for row in range(len(ids)):
        inside = np.isin(np.arange(L), chosen(out, row))
        assert not np.isin(words[row][inside], words[row][~inside]).any()
        budget = min(P, max(1, round(int(mask[row].sum()) * 0.15)))
        assert inside.sum() <= budget
        if unit == "word":
            assert min((n for n in np.bincount(words[row][~inside] + 1)[1:] if n), default=L) > budget - inside.sum()
    assert out["masked_lm_weights"].sum() > 0.9 * sum(min(P, max(1, round(int(n) * 0.15))) for n in mask.sum(1))


def test_words_can_be_given():
    """Chinese: characters that the vocabulary says begin words belong to words that a segmenter found."""
    ids, mask = batch(n=200)
    starts = np.random.default_rng(4).random(ids.shape) < 0.5
    out = masked(ids, mask, "word", p=0.3, word_starts=starts.astype(np.int32))
    words = words_of(ids, starts)
    for row in range(len(ids)):
        inside = np.isin(np.arange(L), chosen(out, row))
        assert not np.isin(words[row][inside], words[row][~inside]).any()
    same = masked(ids, mask, "word", word_starts=selection.word_starts(tf.constant(ids), VOCAB).numpy())
    for name, value in masked(ids, mask, "word").items():
        np.testing.assert_array_equal(same[name], value, name)


@pytest.mark.parametrize("unit", ["token", "word", "ngram"])
def test_pieces_are_replaced_one_by_one(unit):
    ways = ways_of_words(unit)
    assert any(len(set(way)) > 1 for way in ways)


def test_a_span_is_replaced_in_one_way():
    """Which way a word was masked can be read off if the random words are unlike all others."""
    ways = ways_of_words("span")
    assert all(len(set(way)) == 1 for way in ways)
    assert {way[0] for way in ways} == {"mask", "keep", "random"}


def ways_of_words(unit):
    """How the tokens of each masked word of several tokens were replaced; a random word here is never the truth."""
    ids, mask = batch(n=1000)
    starts = np.tile(np.arange(L) % 3 == 0, (len(ids), 1))
    out = masked(ids, mask, unit, predictions=20, p=0.4, word_starts=starts)
    words, ways = words_of(ids, starts), {}
    for row in range(len(ids)):
        for position in chosen(out, row):
            seen, truth = out["input_ids"][row, position], ids[row, position]
            way = "mask" if seen == VOCAB.mask_id else "keep" if seen == truth else "random"
            ways.setdefault((row, words[row, position]), []).append((way, seen, truth))
    # A random word that happens to be the truth looks like one that was kept: leave out words where that can be.
    return [[way for way, *_ in found] for found in ways.values() if len(found) > 1 and not looks_kept(found)]


def looks_kept(found):
    return {way for way, *_ in found} == {"keep", "random"}


def test_packed_rows_have_one_budget():
    ids, mask = batch(n=100)
    numbered = mask * (1 + (np.arange(L) > 5))
    for unit in selection.UNITS:
        for name, value in masked(ids, mask, unit).items():
            np.testing.assert_array_equal(masked(ids, numbered, unit)[name], value, name)


@pytest.mark.parametrize("unit", selection.UNITS)
def test_the_same_seed_gives_the_same_masks_and_another_others(unit):
    ids, mask = batch(n=50)
    first, again, other = (masked(ids, mask, unit, seed=s) for s in (1, 1, 2))
    for name in first:
        np.testing.assert_array_equal(first[name], again[name], name)
    assert (first["masked_lm_positions"] != other["masked_lm_positions"]).any()


@pytest.mark.slow
@pytest.mark.parametrize("unit", selection.UNITS)
def test_masks_inside_a_dataset_are_those_of_the_whole(unit):
    """Dynamic masking: the same code in a tf.data pipeline, whatever the batches, gives each row the same masks."""
    ids, mask = batch(n=60)
    expected = masked(ids, mask, unit)

    def dynamic(number, ids, mask):
        return masking.mask(ids, mask, VOCAB, unit, 0.15, P, masking.row_seeds(1, number))

    data = tf.data.Dataset.from_tensor_slices((tf.range(60, dtype=tf.int64), ids, mask))
    for size, known in ((7, False), (20, True)):
        batches = list(data.batch(size, drop_remainder=known).map(dynamic).as_numpy_iterator())
        for name, value in expected.items():
            np.testing.assert_array_equal(np.concatenate([b[name] for b in batches]), value, name)


@pytest.mark.parametrize("unit", selection.UNITS)
def test_shapes_are_known_where_those_of_the_rows_are(unit):
    def mask(*rows):
        return masking.mask(*rows, VOCAB, unit, 0.15, P, row_seeds(11))

    spec = tf.TensorSpec([11, L], tf.int32)
    shapes = tf.function(mask, autograph=False).get_concrete_function(spec, spec).structured_outputs
    assert {k: v.shape.as_list() for k, v in shapes.items()} == {
        "input_ids": [11, L],
        "masked_lm_positions": [11, P],
        "masked_lm_ids": [11, P],
        "masked_lm_weights": [11, P],
    }


def test_a_vocabulary_without_ordinary_entries_is_refused():
    with pytest.raises(checks.InputError, match="entries beside its special tokens; got 6 entries, all special"):
        masking.ordinary_ids(Vocab((*SPECIAL_TOKENS, "[unused7]")))
