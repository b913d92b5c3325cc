"""Tests of data_prep.blocks."""

import itertools

import numpy as np

from data_prep import blocks


def made(documents, word_starts=False, first=(0, 0), dtype=np.uint16):
    """A `Block` of documents, each a list of sentences, each a list of tokens; and how many were empty."""
    sentences = [s for d in documents for s in d]
    tokens = np.array([t for s in sentences for t in s], dtype)
    lengths = np.array([len(s) for s in sentences], np.int64), np.array([len(d) for d in documents], np.int64)
    return blocks.make(tokens, tokens % 3 == 0 if word_starts else np.zeros(0, bool), *lengths, *first)


def texts(block):
    sentences = np.split(block.tokens, np.cumsum(block.sentence_lengths)[:-1])
    splits = [0, *np.cumsum(block.document_lengths)]
    return [[s.tolist() for s in sentences[a:b]] for a, b in itertools.pairwise(splits)]


DOCUMENTS = [[[1, 2], [3]], [], [[4], [], [5, 6, 7]], [[], []], [[8]]]


def test_what_is_empty_is_left_out_and_numbers_stay():
    block, empty = made(DOCUMENTS, first=(100, 1000))
    assert empty == 2
    assert texts(block) == [[[1, 2], [3]], [[4], [5, 6, 7]], [[8]]]
    assert block.documents.tolist() == [100, 102, 104]
    assert block.sentences.tolist() == [1000, 1001, 1002, 1004, 1007]


def test_nothing_at_all():
    block, empty = made([[], [[]]])
    assert (empty, [len(a) for a in block]) == (2, [0] * 7)
    assert all((a == b).all() for a, b in zip(block, blocks.from_bytes(blocks.to_bytes(block))))


def test_documents_of_equal_tokens_have_equal_contents():
    block, _ = made([[[1, 2], [3]], [[4]], [[1], [2, 3]], [[1, 2]]])
    a, b, c, d = block.contents.tolist()
    assert a == c
    assert len({a, b, d}) == 3


def test_taking_and_joining_documents():
    block, _ = made(DOCUMENTS, word_starts=True)
    taken = blocks.take(block, np.array([2, 0]))
    assert texts(taken) == [[[8]], [[1, 2], [3]]]
    assert (taken.word_starts == (taken.tokens % 3 == 0)).all()
    assert taken.documents.tolist() == [4, 0]
    again = blocks.join([blocks.take(block, np.array([i])) for i in range(3)])
    assert all(np.array_equal(a, b) for a, b in zip(again, block))


def test_dropping_sentences_drops_documents_without_any():
    block, _ = made(DOCUMENTS, word_starts=True)
    kept = blocks.drop_sentences(block, np.array([False, True, False, False, True]))
    assert texts(kept) == [[[3]], [[8]]]
    assert kept.documents.tolist() == [0, 4]
    assert (kept.word_starts == (kept.tokens % 3 == 0)).all()


def test_bytes_give_the_same_block():
    for dtype, starts in ((np.uint16, True), (np.int32, False)):
        block, _ = made(DOCUMENTS, word_starts=starts, dtype=dtype)
        back = blocks.from_bytes(blocks.to_bytes(block))
        assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(block, back))
    assert (blocks.token_dtype(65536), blocks.token_dtype(65537)) == (np.uint16, np.int32)


def test_ranges():
    assert blocks.ranges(np.array([2, 9, 5]), np.array([3, 1, 0])).tolist() == [2, 3, 4, 9]
    assert blocks.ranges(np.array([], int), np.array([], int)).tolist() == []
