"""Tests of data_prep.segmentation."""

import importlib.util
import sys
import types

import numpy as np
import pytest
import tensorflow as tf

from data_prep import segmentation
from tests import chance
from tfbert import checks
from tfbert.text import masking, selection
from tfbert.text.tokenizer import Tokenizer
from tfbert.text.vocab import SPECIAL_TOKENS, Vocab

HAN = "使用语言模型来预测下一个词的概率北京大学生前㐀𠀀豈"
VOCAB = Vocab((*SPECIAL_TOKENS, *dict.fromkeys(HAN), "。", ",", "a", "##b", "ok", "t", "ひ", "##ら"))
TOKENIZER = Tokenizer(VOCAB)
has_jieba = importlib.util.find_spec("jieba") is not None


def words(kind, *texts):
    """The words of each text, as lists of strings of its tokens."""
    sentences = [text.encode() for text in texts]
    tokens = TOKENIZER.tokenize_with_offsets(tf.constant(sentences))
    lengths = tokens.ids.row_lengths().numpy()
    starts = segmentation.word_starts(
        kind, sentences, tokens.starts.flat_values.numpy(), lengths, tokens.word_starts.flat_values.numpy()
    )
    assert starts.dtype == bool and starts.shape == (lengths.sum(),)
    found, splits = [], np.cumsum([0, *lengths])
    for text, ids, begins in zip(sentences, tokens.ids, np.split(starts, splits[1:-1])):
        row, at = [], len(found)
        spans = zip(tokens.starts[at].numpy(), tokens.ends[at].numpy())
        for piece, begin in zip([text[a:b].decode() for a, b in spans], begins):
            row = [*row, piece] if begin or not row else [*row[:-1], row[-1] + piece]
        assert len(ids) == len(begins) and all(begins[:1])
        found.append(row)
    return found


@pytest.fixture
def segmenter(monkeypatch):
    """A stand-in for jieba that knows three words."""

    def lcut(text):
        parts = []
        while text:
            word = next((w for w in ("语言", "模型", "ok模") if text.startswith(w)), text[0])
            parts.append(word)
            text = text[len(word) :]
        return parts

    module = types.SimpleNamespace(setLogLevel=lambda _: None, Tokenizer=lambda: types.SimpleNamespace(lcut=lcut))
    monkeypatch.setitem(sys.modules, "jieba", module)
    segmentation._jieba.cache_clear()
    yield
    segmentation._jieba.cache_clear()


def test_the_tokenizers_words_are_the_default():
    assert words("wordpiece", "语言 模型", "ab ok") == [["语", "言", "模", "型"], ["ab", "ok"]]


def test_spaces_part_words():
    # The example of the paper's repository: "use a language model to predict the probability of the next word".
    segmented = "使用 语言 模型 来 预测 下 一个 词 的 概率 。"
    assert words("spaces", segmented) == [segmented.split(" ")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("语言模型", ["语言模型"]),
        ("语言，模型", ["语言", "，", "模型"]),
        ("语言ok模型 t恤", ["语言", "ok", "模型", "t", "恤"]),
        ("语言\u3000模型\t来", ["语言", "模型", "来"]),
        ("ab,ok t", ["ab", ",", "ok", "t"]),
        ("ひら语言", ["ひら", "语言"]),
        ("㐀𠀀 豈语", ["㐀𠀀", "豈语"]),  # extension A, B and a compatibility ideograph
        ("恤衫大 学", ["恤衫大", "学"]),  # characters that the vocabulary lacks
    ],
)
def test_only_han_characters_continue_a_han_character(text, expected):
    assert words("spaces", text) == [expected]


def test_each_sentence_begins_a_word():
    rows = [["语言", "模型"], [], ["模", "t"], ["型"], ["语"]]
    assert words("spaces", *(" ".join(row) for row in rows)) == rows
    assert words("spaces", "") == [[]]


def test_a_segmenter_parts_words(segmenter):
    assert words("jieba", "来语言模型", "ab语言", "大学ok模型", "t 语 言") == [
        ["来", "语言", "模型"],
        ["ab", "语言"],
        ["大", "学", "ok", "模", "型"],
        ["t", "语", "言"],
    ]


def test_without_jieba_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "jieba", None)
    segmentation._jieba.cache_clear()
    with pytest.raises(checks.InputError, match=r"jieba must be installed.*requirements-segmentation.txt"):
        words("jieba", "语言")
    assert words("spaces", "语言") == [["语言"]]


@pytest.mark.skipif(not has_jieba, reason="needs requirements-segmentation.txt")
def test_jieba_itself():
    segmentation._jieba.cache_clear()
    assert words("jieba", "使用语言模型来预测下一个词的概率。") == [
        ["使用", "语言", "模型", "来", "预测", "下", "一个", "词", "的", "概率", "。"]
    ]
    assert words("jieba", "北京大学生前来 ok") == [["北京", "大学生", "前来", "ok"]]


def test_the_characters_of_a_word_are_masked_together():
    sentence = "使用 语言 模型 来 预测 下 一个 词 的 概率 。".encode()
    tokens = TOKENIZER.tokenize_with_offsets(tf.constant([sentence]))
    starts = segmentation.word_starts(
        "spaces",
        [sentence],
        tokens.starts.flat_values.numpy(),
        tokens.ids.row_lengths().numpy(),
        tokens.word_starts.flat_values.numpy(),
    )
    n = 2000
    ids = np.array([[VOCAB.cls_id, *tokens.ids.flat_values.numpy(), VOCAB.sep_id]] * n, np.int32)
    starts = np.array([[True, *starts, True]] * n)
    seeds = masking.row_seeds(3, tf.range(n, dtype=tf.int64))
    out = masking.mask(ids, np.ones_like(ids), VOCAB, "word", 0.15, 5, seeds, starts)
    got = np.zeros(ids.shape, int)
    np.add.at(got, (np.arange(n)[:, None], out["masked_lm_positions"]), out["masked_lm_weights"].numpy().astype(int))
    words = selection.whole_words(tf.constant(starts), selection.maskable(tf.constant(ids), VOCAB)).numpy()[0]
    for word in range(words.max() + 1):
        together = got[:, words == word]
        assert (together == together[:, :1]).all()
    # Three of nineteen tokens: as likely for the characters of every word of two.
    pairs = [got[:, words == word][:, 0].sum() for word in range(words.max() + 1) if (words == word).sum() == 2]
    assert all(chance.within(count, n, np.mean(pairs) / n) for count in pairs)
