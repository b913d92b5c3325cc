"""Tests of tfbert.text.byte_limit."""

import numpy as np
import tensorflow as tf

from tfbert.text import byte_limit

WORDS = ("abc", "é", "東京", "🙂", "e\u0301", "\x00", "\u202e")


def test_cuts_between_characters():
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(WORDS, n)) for n in range(60)]
    for most in range(16, 40):
        kept, cut = byte_limit.cut(tf.constant(texts), most)
        for text, found, was in zip(texts, kept.numpy(), cut.numpy()):
            assert was == (len(text.encode()) > most)
            # Python drops what is left of a character at the end.
            assert found.decode() == text.encode()[:most].decode(errors="ignore")


def test_what_is_not_utf8_is_cut_at_the_limit():
    texts = [b"\x80" * 40, b"a" * 13 + b"\xff\xff\xff\xff\xff", b"a" * 13 + b"\x80\x80\x80\x80", b"\xf0" * 17]
    kept, cut = byte_limit.cut(tf.constant(texts), 16)
    assert kept.numpy().tolist() == [b"\x80" * 16, texts[1][:16], texts[2][:16], b"\xf0" * 16] and cut.numpy().all()


def test_no_limit_and_no_texts():
    texts = tf.constant(["a" * 100])
    kept, cut = byte_limit.cut(texts, None)
    assert kept is texts and not cut.numpy().any()
    assert [x.shape for x in byte_limit.cut(tf.constant([], tf.string), 16)] == [(0,), (0,)]
