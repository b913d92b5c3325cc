"""Texts of strangers, cut to a number of bytes before anything is done with them."""

import tensorflow as tf

LEAST = 16  # bytes of the smallest limit: more than one character has


def cut(text, most):
    """Cuts texts that are too long, between two characters of UTF-8.

    Args:
        text: string [B].
        most: The most bytes that stay, at least LEAST; None leaves texts as they are.

    Returns:
        (texts string [B], whether each was cut bool [B]). Where no character ends near the limit, since a text is not
        UTF-8, it is cut at the limit.

    Raises:
        tf.errors.InvalidArgumentError: it turns out, when the graph runs, that they are no [B]: servers do not look.
    """
    if most is None:
        return text, tf.zeros_like(text, tf.bool)
    text = tf.ensure_shape(text, [None])
    size = tf.strings.length(text)
    over = size > most

    def shorter():
        # The bytes from three before the limit to the first that goes: a character has four at most.
        near = tf.strings.substr(text, tf.where(over, most - 3, 0), tf.where(over, 4, 0))
        near = tf.cast(tf.io.decode_raw(near, tf.uint8, fixed_length=4), tf.int32)  # [B, 4]
        begins = tf.cast(tf.not_equal(tf.bitwise.bitwise_and(near, 0xC0), 0x80), tf.int32)
        # The last of them that begins a character is the first that goes.
        last = tf.reduce_max(begins * tf.constant([[1, 2, 3, 4]]), 1)
        kept = tf.where(last > 0, most - 4 + last, most)
        return tf.strings.substr(text, tf.zeros_like(kept), tf.where(over, kept, size))

    # Hardly any text is, and to look costs a tenth of this.
    return tf.cond(tf.reduce_any(over), shorter, lambda: text), over
