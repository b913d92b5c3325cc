"""Which row is trained on when, and how rows are filled up to batches."""

import collections

import numpy as np
import pytest

from tfbert import checks
from tfbert.tasks import batches, task

R, LONGEST, G = 37, 9, 4  # rows, longest row, rows of a part
LENGTHS = (4, 6, LONGEST)


@pytest.fixture(autouse=True)
def short_pools(monkeypatch):
    monkeypatch.setattr(batches, "POOL", 3)


def make_rows(seed=0, count=R):
    """Rows whose wordpieces tell the row and the place: 100 row + place + 1."""
    lengths = np.random.default_rng(seed).integers(1, LONGEST + 1, count)
    ids = np.concatenate([100 * i + np.arange(n) + 1 for i, n in enumerate(lengths)])
    dense = {"labels": np.arange(count) * 3, "scores": np.arange(count) / 2, "two": np.arange(2 * count).reshape(-1, 2)}
    tokens = {"input_ids": ids.astype(np.int32), "segment_ids": (ids % 2).astype(np.uint8)}
    return task.Rows(np.concatenate([[0], np.cumsum(lengths)]), tokens, dense, np.arange(count))


def parts(rows, count, first=0, by_length=False, lengths=LENGTHS, seed=5, pipelines=1, replicas=1):
    """So many parts, each a list of the features of its replicas."""
    found = [[] for _ in range(count)]
    for index in range(pipelines):
        dataset = batches.train_dataset(rows, lengths, by_length, G, first, seed, pipelines, index, replicas)
        for i, batch in enumerate(dataset.take(count * replicas).as_numpy_iterator()):
            found[i // replicas].append(batch)
    return found


def rows_of(part):
    return [row for batch in part for row in (batch["labels"] // 3).tolist()]


@pytest.mark.parametrize("by_length", [False, True])
class TestOrder:
    def test_every_row_once_an_epoch(self, by_length):
        pool = 3 * G
        order = np.array([rows_of(p) for p in parts(make_rows(), 3 * R, by_length=by_length)]).ravel()  # 12 epochs
        if by_length:  # of the row that pools are cut from; a pool may hold the end of an epoch and the next's start
            counts = collections.Counter(order.tolist())
            assert set(counts) == set(range(R)) and max(counts.values()) - min(counts.values()) <= 1
            plain = np.array([rows_of(p) for p in parts(make_rows(), 3 * R)]).ravel()
            for i in range(0, len(order) - pool, pool):
                assert sorted(order[i : i + pool]) == sorted(plain[i : i + pool])
        else:
            epochs = order.reshape(-1, R)
            assert all(sorted(epoch) == list(range(R)) for epoch in epochs.tolist())
            assert len({tuple(epoch) for epoch in epochs.tolist()}) == len(epochs)

    def test_a_function_of_seed_and_part(self, by_length):
        rows = make_rows()
        whole = [rows_of(p) for p in parts(rows, 30, by_length=by_length)]
        for first in (1, 2, 7, 11, 25):
            assert [rows_of(p) for p in parts(rows, 5, first, by_length)] == whole[first : first + 5]
        assert [rows_of(p) for p in parts(rows, 30, by_length=by_length, seed=6)] != whole

    @pytest.mark.parametrize("pipelines, replicas", [(1, 2), (2, 1), (2, 2)])
    def test_replicas_share_a_part(self, by_length, pipelines, replicas):
        rows = make_rows()
        whole = parts(rows, 12, 2, by_length)
        shared = parts(rows, 12, 2, by_length, pipelines=pipelines, replicas=replicas)
        assert [rows_of(p) for p in shared] == [rows_of(p) for p in whole]
        assert {len(batch["labels"]) for p in shared for batch in p} == {G // pipelines // replicas}
        # As long as it is in one process: dropout's masks go by the shape.
        longest = [[batch["input_ids"].shape[1] for batch in p] for p in whole]
        assert [{batch["input_ids"].shape[1] for batch in p} for p in shared] == [set(n) for n in longest]


def check_filled(batch, rows):
    """Asserts that each row of a batch is its row of `rows`, filled up with zeros."""
    length = batch["input_ids"].shape[1]
    for i, row in enumerate(batch["labels"] // 3):
        if not batch["example_weights"][i]:
            assert not batch["input_mask"][i].any() and not batch["input_ids"][i].any()
            continue
        values = slice(rows.splits[row], rows.splits[row + 1])
        n = rows.lengths[row]
        for name, stored in rows.tokens.items():
            assert batch[name][i].tolist() == stored[values].tolist() + [0] * (length - n)
        assert batch["input_mask"][i].tolist() == [1] * n + [0] * (length - n)
        assert batch["scores"][i] == row / 2 and batch["two"][i].tolist() == [2 * row, 2 * row + 1]


def test_rows_are_filled_up_to_the_first_length_that_holds_them():
    rows = make_rows()
    seen = set()
    for (batch,) in parts(rows, 40, by_length=True):
        check_filled(batch, rows)
        longest, length = rows.lengths[batch["labels"] // 3].max(), batch["input_ids"].shape[1]
        assert length == min(n for n in LENGTHS if n >= longest)
        assert batch["input_ids"].dtype == np.int32 and batch["scores"].dtype == np.float32
        seen.add(length)
    assert seen == set(LENGTHS)
    assert {b["input_ids"].shape[1] for (b,) in parts(rows, 20, lengths=(LONGEST,))} == {LONGEST}


def test_by_length_fills_up_less(monkeypatch):
    monkeypatch.setattr(batches, "POOL", 18)
    rows, every_length = make_rows(), tuple(range(1, LONGEST + 1))
    filled = [
        np.mean([(b["input_ids"] == 0).mean() for (b,) in parts(rows, 36, by_length=by, lengths=every_length)])
        for by in (False, True)
    ]
    assert filled[1] < 0.4 * filled[0]


@pytest.mark.parametrize("pipelines, replicas", [(1, 1), (1, 2), (2, 2)])
def test_evaluation_has_every_row_once(pipelines, replicas):
    rows, seen, counts = make_rows(), [], []
    for index in range(pipelines):
        dataset = list(batches.eval_dataset(rows, LENGTHS, 8, pipelines, index, replicas).as_numpy_iterator())
        counts.append(len(dataset))
        for batch in dataset:
            check_filled(batch, rows)
            real = batch["row"] >= 0
            np.testing.assert_array_equal(real, batch["example_weights"] == 1)
            np.testing.assert_array_equal(batch["row"][real], batch["labels"][real] // 3)
            seen += batch["row"][real].tolist()
    assert sorted(seen) == list(range(R)) and counts == [5 * replicas] * pipelines


def test_bad_input():
    with pytest.raises(checks.InputError, match="a row of 9 wordpieces, and max_seq_length=8"):
        parts(make_rows(), 1, lengths=(4, 8))
    with pytest.raises(checks.InputError, match="multiple of the number of replicas; got batch size 4, 3 replicas"):
        parts(make_rows(), 1, replicas=3)
