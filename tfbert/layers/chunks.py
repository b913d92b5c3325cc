"""Texts longer than the model, as chunks that are pooled: Sun et al. 2019 ("How to Fine-Tune BERT"), section 5.3.1.

A row is a whole text: its chunks one behind the other, each [CLS] ... [SEP], each of the same length but the last. So
chunk k begins at k times that length, and cutting a row up is a reshape: nothing else needs to know of chunks.
"""

import keras
import tensorflow as tf

from tfbert import checks
from tfbert.layers import initializers

POOLINGS = ("mean", "max", "attention")


def _sizes(x, chunk_length):
    """(rows, chunks a row, length of a chunk) of [B, T]: numbers where they are known, as a TPU wants them."""
    rows = tf.shape(x)[0] if x.shape[0] is None else x.shape[0]
    if x.shape[1] is None:
        length = tf.shape(x)[1]
        chunk = tf.minimum(length, chunk_length)
        return rows, length // chunk, chunk
    chunk = min(x.shape[1], chunk_length)
    checks.require(
        x.shape[1] % chunk == 0,
        "a row that is longer than a chunk must be whole chunks",
        f"a row of {x.shape[1]}, chunks of {chunk}",
    )
    return rows, x.shape[1] // chunk, chunk


class ToChunks(keras.layers.Layer):
    """Rows of chunks -> chunks: [B, T] -> [B n, T / n].

    Args:
        chunk_length: T is at most that (n is 1 then), or a multiple of it.

    Raises:
        InputError: T is known and neither.
    """

    def __init__(self, chunk_length, **kwargs):
        super().__init__(**kwargs)
        self.chunk_length = chunk_length

    def call(self, x):
        """See the class."""
        rows, count, chunk = _sizes(x, self.chunk_length)
        return tf.reshape(x, [rows * count, chunk])


class ChunkPooling(keras.layers.Layer):
    """One vector for a text, of one for each of its chunks.

    Chunks that only fill up a batch have no part in it; a text of one chunk gives that chunk's vector, whatever `how`.

    Args:
        chunk_length: As of `ToChunks`.
        how: "mean", "max" (of each number), or "attention": the mean weighted by softmax(u . tanh(W x + b)) over the
            chunks, with W, b and u learned (Yang et al. 2016, section 2.2).
        initializer_range: Deviation of the initialiser of W and u.

    Call args:
        vectors: float [B n, D].
        input_mask: int32 [B, T], of the rows that `ToChunks` cut; 0 is padding.

    Returns:
        float [B, D].
    """

    def __init__(self, chunk_length, how, initializer_range=0.02, **kwargs):
        super().__init__(**kwargs)
        self.chunk_length, self.how, self.initializer_range = chunk_length, how, initializer_range

    def build(self, vectors_shape, input_mask_shape=None):
        """Builds what attention learns, for vectors of D numbers."""
        if self.how != "attention":
            return
        initializer = initializers.truncated_normal(self.initializer_range)
        width = vectors_shape[-1]
        self.hidden = keras.layers.Dense(width, "tanh", kernel_initializer=initializer, dtype="float32", name="hidden")
        self.score = keras.layers.Dense(
            1, use_bias=False, kernel_initializer=initializer, dtype="float32", name="score"
        )
        self.hidden.build((None, width))
        self.score.build((None, width))

    def call(self, vectors, input_mask):
        """See the class."""
        rows, count, chunk = _sizes(input_mask, self.chunk_length)
        filled = tf.reduce_any(tf.reshape(input_mask > 0, [rows, count, chunk]), -1)  # [B, n]
        # A row that only fills up a batch has no chunk at all, and must give numbers all the same.
        filled = tf.expand_dims(filled | tf.equal(tf.range(count), 0), -1)  # [B, n, 1]
        x = tf.cast(tf.reshape(vectors, [rows, count, vectors.shape[-1]]), tf.float32)  # [B, n, D]
        if self.how == "max":
            pooled = tf.reduce_max(tf.where(filled, x, x.dtype.min), 1)  # [B, D]
        else:
            scores = self.score(self.hidden(x)) if self.how == "attention" else tf.zeros_like(x[:, :, :1])
            shares = tf.nn.softmax(tf.where(filled, scores, -1e9), 1)  # [B, n, 1]
            pooled = tf.reduce_sum(shares * x, 1)  # [B, D]
        return tf.cast(pooled, vectors.dtype)
