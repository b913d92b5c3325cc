"""[CLS] A [SEP], [CLS] A [SEP] B [SEP], chunks of a long A: pieces to the model's dense input, cut and padded.

Dense arithmetic on purpose: it converts to TensorFlow Lite, and TensorFlow Serving knows all of its ops,
which cannot be said of tensorflow-text's trimmers and combiners.
"""

import tensorflow as tf

from tfbert import checks


def pack_single(ids: tf.RaggedTensor, max_seq_length: int, vocab, head: int | None = None) -> dict:
    """Packs one segment as [CLS] A [SEP]; what does not fit is cut off its end, or out of it.

    Args:
        ids: int32 RaggedTensor [B, (T)].
        max_seq_length: L, at least 2.
        vocab: The `Vocab`.
        head: Of a segment that is too long, so many pieces of its beginning stay, and as many of its end as fit besides
            (Sun et al. 2019, section 5.3.1); None keeps the beginning alone.

    Returns:
        {"input_ids", "input_mask", "segment_ids"}: int32 [B, L].

    Raises:
        InputError: L is too small.
    """
    checks.require(max_seq_length >= 2, "max_seq_length must hold [CLS] and [SEP]", f"{max_seq_length=}")
    room = max_seq_length - 2
    segment = ids.to_tensor(vocab.pad_id, shape=[None, room]) if head is None else _ends(ids, room, head, vocab.pad_id)
    end = _lengths(ids, room) + 1  # [B, 1], where [SEP] goes
    position = tf.range(max_seq_length)[tf.newaxis, :]  # [1, L]
    packed = tf.pad(segment, [[0, 0], [1, 1]], constant_values=vocab.pad_id)  # [B, L]
    packed = tf.where(position == 0, vocab.cls_id, tf.where(position == end, vocab.sep_id, packed))
    return {
        "input_ids": packed,
        "input_mask": tf.cast(position <= end, tf.int32),
        "segment_ids": tf.zeros_like(packed),
    }


def pack_chunks(ids: tf.RaggedTensor, chunk_length: int, max_chunks: int, vocab) -> dict:
    """Packs one segment as chunks, [CLS] A [SEP] [CLS] more of A [SEP] ...; what does not fit is cut off its end.

    All chunks but a row's last are full, so chunk k begins at k `chunk_length`: Sun et al. 2019, section 5.3.1.

    Args:
        ids: int32 RaggedTensor [B, (T)].
        chunk_length: Pieces of a chunk with [CLS] and [SEP], at least 3.
        max_chunks: The most chunks of a row.
        vocab: The `Vocab`.

    Returns:
        {"input_ids", "input_mask", "segment_ids"}: int32 [B, n chunk_length]; n is what the longest row needs, at least
        1 and at most `max_chunks`.

    Raises:
        InputError: a chunk has no room for pieces.
    """
    checks.require(chunk_length >= 3, "max_seq_length must hold [CLS], a piece and [SEP]", f"{chunk_length=}")
    room = chunk_length - 2
    length = _lengths(ids, max_chunks * room)  # [B, 1]
    # The maximum of no rows is the least integer.
    count = tf.maximum((tf.reduce_max(length) + room - 1) // room, 1)
    position = tf.expand_dims(tf.range(count * chunk_length), 0)  # [1, n chunk_length]
    chunk, place = position // chunk_length, position % chunk_length
    here = tf.clip_by_value(length - chunk * room, 0, room)  # [B, n chunk_length], pieces in the chunk
    inside = (place <= here + 1) & ((here > 0) | (chunk == 0))
    whole = tf.pad(ids.to_tensor(vocab.pad_id), [[0, 0], [0, 1]], constant_values=vocab.pad_id)
    source = tf.clip_by_value(chunk * room + place - 1 + tf.zeros_like(length), 0, tf.shape(whole)[1] - 1)
    packed = tf.gather(whole, source, batch_dims=1)
    packed = tf.where(place == 0, vocab.cls_id, tf.where(place == here + 1, vocab.sep_id, packed))
    packed = tf.where(inside, packed, vocab.pad_id)
    return {
        "input_ids": packed,
        "input_mask": tf.cast(inside, tf.int32),
        "segment_ids": tf.zeros_like(packed),
    }


def pack_pair(a: tf.RaggedTensor, b: tf.RaggedTensor, max_seq_length: int, vocab) -> dict:
    """Packs two segments as [CLS] A [SEP] B [SEP].

    What does not fit is cut piece by piece off the end of the longer one, and off B when they are equal, as
    in google-research/bert's run_classifier.py.

    Args:
        a: int32 RaggedTensor [B, (T)].
        b: int32 RaggedTensor [B, (T)].
        max_seq_length: L, at least 3.
        vocab: The `Vocab`.

    Returns:
        {"input_ids", "input_mask", "segment_ids"}: int32 [B, L]; segment 1 is B and its [SEP].

    Raises:
        InputError: L is too small.
    """
    checks.require(max_seq_length >= 3, "max_seq_length must hold [CLS] and two [SEP]", f"{max_seq_length=}")
    room = max_seq_length - 3
    length_a, length_b = _lengths(a, room), _lengths(b, room)  # [B, 1]
    # Cutting the longer one leaves A at least half of the room, rounded up, and more if B leaves more.
    length_a = tf.minimum(length_a, tf.maximum((room + 1) // 2, room - length_b))
    length_b = tf.minimum(length_b, room - length_a)
    first_end = length_a + 1
    end = first_end + length_b + 1
    position = tf.range(max_seq_length)[tf.newaxis, :]  # [1, L]
    padded_a = a.to_tensor(vocab.pad_id, shape=[None, max_seq_length])
    padded_b = b.to_tensor(vocab.pad_id, shape=[None, max_seq_length])
    from_b = tf.clip_by_value(position - first_end - 1, 0, max_seq_length - 1)  # [B, L]
    from_a = tf.clip_by_value(position - 1 + tf.zeros_like(first_end), 0, max_seq_length - 1)  # [B, L]
    packed = tf.where(
        position < first_end,
        tf.gather(padded_a, from_a, batch_dims=1),
        tf.gather(padded_b, from_b, batch_dims=1),
    )
    packed = tf.where(position == 0, vocab.cls_id, packed)
    packed = tf.where((position == first_end) | (position == end), vocab.sep_id, packed)
    return {
        "input_ids": tf.where(position > end, vocab.pad_id, packed),
        "input_mask": tf.cast(position <= end, tf.int32),
        "segment_ids": tf.cast((position > first_end) & (position <= end), tf.int32),
    }


def _ends(ids, room, head, pad_id):
    """The first `head` pieces of each row and its last ones, or all if they fit: int32 [B, room]."""
    whole = tf.pad(ids.to_tensor(pad_id), [[0, 0], [0, 1]], constant_values=pad_id)  # [B, longest + 1]
    left_out = tf.maximum(tf.cast(ids.row_lengths(), tf.int32) - room, 0)[:, tf.newaxis]
    place = tf.range(room)[tf.newaxis, :]
    place = tf.where(place < head, place, place + left_out)  # [B, room]
    return tf.gather(whole, tf.minimum(place, tf.shape(whole)[1] - 1), batch_dims=1)


def _lengths(ids, most):
    """Row lengths, at most `most`: int32 [B, 1]."""
    return tf.minimum(tf.cast(ids.row_lengths(), tf.int32), most)[:, tf.newaxis]
