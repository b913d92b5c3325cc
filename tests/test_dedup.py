"""Tests of data_prep.dedup and data_prep.token_files."""

import numpy as np
import pytest

from data_prep import blocks, dedup, token_files


def write(folder, span, digests, parts=()):
    rows = np.array([[d[0] for d in digests], [d[1] for d in digests], range(len(digests))], np.uint64)
    token_files.write(str(folder), span, parts, lambda: rows.reshape(3, -1), lambda: {"n": len(digests)})


@pytest.mark.parametrize("at_once", [3, 1 << 21])
def test_all_but_the_first_are_dropped_whatever_fits_in_memory(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(dedup, "AT_ONCE", at_once)
    rng = np.random.default_rng(0)
    spans = [[(int(h) << 61 | 5, int(low)) for h, low in rng.integers(0, 8, (n, 2))] for n in (17, 0, 40, 1)]
    spans[2][0] = (2**64 - 1, 2**64 - 1)
    spans[3][0] = (2**64 - 1, 2**64 - 1)
    seen, want = set(), []
    for i, span in enumerate(spans):
        write(tmp_path, i, span)
        want.append([n for n, d in enumerate(span) if d in seen or seen.add(d)])
    assert dedup.find(str(tmp_path), len(spans)) == sum(map(len, want))
    assert [token_files.dropped(str(tmp_path), i).tolist() for i in range(len(spans))] == want
    assert len(want[2]) > 10


def block(*documents):
    sentences = [s for d in documents for s in d]
    lengths = np.array([len(s) for s in sentences]), np.array([len(d) for d in documents])
    return blocks.make(np.array([t for s in sentences for t in s], np.uint16), np.zeros(0, bool), *lengths, 0, 0)[0]


def test_a_shard_reads_its_own_documents_without_those_dropped(tmp_path):
    one = block([[1, 2], [3]], [[4]], [[5], [6]])
    pick = [blocks.take(one, np.array(rows)) for rows in ([0, 2], [1])]
    write(tmp_path, 0, [(1, 1)], [{3: pick[0], 7: pick[1]}])
    write(tmp_path, 1, [(2, 1)], [{3: pick[1]}, {3: pick[0]}])
    write(tmp_path, 2, [], [])
    assert token_files.counts(str(tmp_path), 0) == {"n": 1}
    assert token_files.counts(str(tmp_path), 3) is None
    assert [token_files.codes(str(tmp_path), i) for i in range(3)] == [{3, 7}, {3}, set()]

    def read(code, by_sentence=False):
        return [b.tokens.tolist() for b in token_files.read(str(tmp_path), 3, code, by_sentence)]

    assert read(3) == [[1, 2, 3, 5, 6], [4], [1, 2, 3, 5, 6]]
    token_files.write_dropped(str(tmp_path), 1, np.array([1, 2]))
    assert read(3) == [[1, 2, 3, 5, 6], [1, 2, 3]]
    assert read(7) == [[4]]
    token_files.write_dropped(str(tmp_path), 0, np.array([0, 4]))
    assert read(3, by_sentence=True) == [[3, 5], [1, 2, 5, 6]]
