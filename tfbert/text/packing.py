"""[CLS] A [SEP], [CLS] A [SEP] B [SEP], chunks of a long A: pieces to the model's dense input, cut and padded.

Dense arithmetic on purpose: it converts to TensorFlow Lite, and TensorFlow Serving knows all of its ops,
which cannot be said of tensorflow-text's trimmers and combiners. Time and memory are linear in the pieces and in the
rows that come out: nothing is filled up to the longest text of a batch, which a stranger may have sent.
"""

from typing import NamedTuple

import tensorflow as tf

from tfbert import checks

NO_PLACE = -1  # of what is no wordpiece, or no value
TRUNCATIONS = ("head", "tail", "head_tail", "windows")


def cutting(truncation, max_seq_length):
    """How `pack_rows` is told what becomes of a text that is too long.

    Args:
        truncation: One of TRUNCATIONS: its "head" stays, its "tail", a quarter of the row for its head and the rest for
            its tail (Sun et al. 2019, section 5.3.1, have 128 of 510), or all of it, in windows that overlap by half.
        max_seq_length: The longest row.

    Returns:
        {"head" or "stride": int}.

    Raises:
        InputError: no such truncation, or there is no room for a wordpiece.
    """
    checks.require(truncation in TRUNCATIONS, f"truncation must be one of {', '.join(TRUNCATIONS)}", repr(truncation))
    checks.require(max_seq_length >= 3, "max_seq_length must hold [CLS], [SEP] and a wordpiece", f"{max_seq_length=}")
    if truncation == "windows":
        return {"stride": max(1, (max_seq_length - 2) // 2)}
    return {"head": {"head": None, "tail": 0, "head_tail": max_seq_length // 4}[truncation]}


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
    first = tf.cast(ids.row_splits, tf.int32)[:-1, tf.newaxis]  # [B, 1]
    source = tf.where((place > 0) & (place <= here), first + chunk * room + place - 1, NO_PLACE)
    packed = pick(ids.flat_values, source, vocab.pad_id)
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


class Rows(NamedTuple):
    """Texts as rows for a model, for served models: one row a text, or several where long ones are cut into windows.

    Attributes:
        features: {"input_ids", "input_mask", "segment_ids"}: int32 [N, L]; L is that of the longest row.
        text: int32 [N], which text of the batch a row is of; ascending.
        place: int32 [N, L], which of all wordpieces of the batch (`ids.flat_values`) stands there; -1 for what is not
            of the text.
        is_best: bool [N, L], whether it is one, and no other row has more context of it: see `tasks.windows.best`.
        truncated: bool [B], whether wordpieces of a text are in no row.
    """

    features: dict
    text: tf.Tensor
    place: tf.Tensor
    is_best: tf.Tensor
    truncated: tf.Tensor


def pack_rows(ids, max_seq_length, vocab, head=None, stride=None, question=None) -> Rows:
    """Packs texts as [CLS] A [SEP], or as [CLS] question [SEP] A [SEP], with where each wordpiece came from.

    Args:
        ids: int32 RaggedTensor [B, (T)].
        max_seq_length: The longest row.
        vocab: The `Vocab`.
        head: What stays of a text that is too long, as of `pack_single`.
        stride: In place of that, wordpieces from one window to the next of a text that is too long, so that all of it
            stays; no more than a window has room for counts.
        question: int32 RaggedTensor [B, (Q)], short enough to leave room, or None.

    Returns:
        `Rows`.
    """
    splits = tf.cast(ids.row_splits, tf.int32)
    length = splits[1:] - splits[:-1]  # [B]
    # Positions before the text: the same of all, or [B].
    before = 1 if question is None else 2 + tf.cast(question.row_lengths(), tf.int32)
    room = max_seq_length - 1 - before
    over = tf.maximum(length - room, 0)
    if stride is None:  # a row a text
        text, first, size = tf.range(tf.size(length)), splits[:-1], tf.minimum(length, room)  # [N] each
    else:
        before, room = (tf.broadcast_to(x, tf.shape(length)) for x in (before, room))
        step = tf.minimum(room, stride)
        count = 1 + (over + step - 1) // step
        rows = sums_before(count)  # [B + 1]
        text = row_numbers(rows)  # [N]
        number = tf.range(tf.size(text)) - tf.gather(rows, text)
        begin = number * tf.gather(step, text)
        first, size = (
            tf.gather(splits, text) + begin,
            tf.minimum(tf.gather(length, text) - begin, tf.gather(room, text)),
        )
        before = tf.gather(before, text)
    first, size = (tf.expand_dims(x, 1) for x in (first, size))  # [N, 1]
    before = before if isinstance(before, int) else tf.expand_dims(before, 1)  # [N, 1]

    end = before + size
    shortest = 2 if question is None else 3
    longest = tf.maximum(tf.reduce_max(end) + 1, shortest)  # the maximum of no rows is the least integer
    column = tf.expand_dims(tf.range(longest), 0)  # [1, L]
    at = column - before  # [N, L], among the wordpieces of the row
    inside = (at >= 0) & (at < size)
    skipped = 0
    if stride is None and head is not None:
        skipped = tf.where(at < head, 0, tf.expand_dims(over, 1))
    place = first + at + skipped
    place = tf.where(inside, place, NO_PLACE)
    packed = pick(ids.flat_values, place, vocab.pad_id)
    if question is not None:
        asked = tf.cast(question.row_splits, tf.int32)
        of_question = tf.expand_dims(tf.gather(asked, text), 1) + column - 1
        of_question = tf.where((column > 0) & (column < before - 1), of_question, NO_PLACE)
        packed = tf.where(of_question >= 0, pick(question.flat_values, of_question, vocab.pad_id), packed)
        packed = tf.where(column == before - 1, vocab.sep_id, packed)
    packed = tf.where(column == end, vocab.sep_id, packed)
    features = {
        "input_ids": tf.where(column == 0, vocab.cls_id, packed),
        "input_mask": tf.cast(column <= end, tf.int32),
        "segment_ids": tf.zeros_like(packed)
        if question is None
        else tf.cast((column >= before) & (column <= end), tf.int32),
    }
    if stride is None:
        return Rows(features, text, place, inside, over > 0)
    is_best = inside & _is_best(at, number, size, *(tf.gather(x, text) for x in (count, room, step)))
    return Rows(features, text, place, is_best, tf.zeros_like(over, tf.bool))


def _is_best(at, number, size, count, room, step):
    """Whether windows know most of their wordpieces: bool [N, L].

    From window to window what is left of a wordpiece shrinks, and what is right of it grows. So the score of
    `tasks.windows.best` has one peak, and a window that beats both of its neighbours beats all.

    Args:
        at: int32 [N, L], the wordpiece, counted from the window's first.
        number: int32 [N], of the window among those of its text.
        size: int32 [N, 1], its wordpieces.
        count: int32 [N], windows of its text.
        room: int32 [N], wordpieces of all windows but the last.
        step: int32 [N], wordpieces from one window to the next.
    """
    number, count, room, step = (tf.expand_dims(x, 1) for x in (number, count, room, step))

    def score(at, size):
        context = tf.minimum(at, size - 1 - at)
        return tf.where(context >= 0, 100 * context + size, -1)

    # What is left of the last window's beginning counts from its neighbour's: the text ends where it ends.
    left = tf.where(number > 0, score(at + step, room), -1)
    of_next = tf.where(number + 1 < count - 1, room, tf.concat([size[1:], size[:1]], 0))
    right = tf.where(number + 1 < count, score(at - step, of_next), -1)
    own = score(at, size)
    return (own > left) & (own >= right)


def row_numbers(splits):
    """Of splits [B + 1], int32, with or without empty rows: the row of each value, int32 [T]."""
    inner = splits[1:-1]
    return tf.cumsum(scatter(inner, tf.ones_like(inner), splits[-1] + 1))[:-1]


def sums_before(values):
    """int32 [T] -> [T + 1]: the sum of all values before each place, and of all."""
    return tf.concat([[0], tf.cumsum(values)], 0)


def counts(numbers, size):
    """How often each number from 0 to `size` - 1 is among int32 [N]: int32 [size]."""
    return scatter(numbers, tf.ones_like(numbers), size)


def scatter(places, values, size):
    """The sum of the values [N, ...] at each place, int32 [N]: [`size`, ...]."""
    shape = tf.concat([[size + 1], tf.shape(values)[1:]], 0)
    return tf.scatter_nd(tf.expand_dims(places, 1), values, shape)[:-1]  # TFLite divides by the length: never 0


def mean_of_rows(values, text, size):
    """The mean of the rows of each text: float [N, D], int32 [N] as `Rows.text` has them -> [`size`, D]."""
    return scatter(text, values, size) / tf.expand_dims(tf.cast(counts(text, size), values.dtype), 1)


def grid(counts, most=None):
    """Values of rows, laid on one line, as a rectangle of their places: int32 [B, W], -1 where a row has fewer.

    Args:
        counts: int32 [B], how many values each row has.
        most: Values of a row that are taken, at most; None takes all.

    Returns:
        W is that of the row that has most, at least 1.
    """
    first = tf.cumsum(counts, exclusive=True)
    taken = counts if most is None else tf.minimum(counts, most)
    column = tf.expand_dims(tf.range(tf.maximum(tf.reduce_max(taken), 1)), 0)  # [1, W]
    return tf.where(column < tf.expand_dims(taken, 1), tf.expand_dims(first, 1) + column, NO_PLACE)


def pick(values, places, fill):
    """The values [T, ...] at places, and `fill` where a place is -1; all axes of a value are known."""
    none = tf.constant(fill, values.dtype, [1, *values.shape[1:]])
    return tf.gather(tf.concat([none, values], 0), places + 1)


def _ends(ids, room, head, pad_id):
    """The first `head` pieces of each row and its last ones, or all if they fit: int32 [B, room]."""
    splits = tf.cast(ids.row_splits, tf.int32)
    first, length = splits[:-1, tf.newaxis], (splits[1:] - splits[:-1])[:, tf.newaxis]  # [B, 1]
    place = tf.range(room)[tf.newaxis, :]
    place = tf.where(place < head, place, place + tf.maximum(length - room, 0))  # [B, room]
    return pick(ids.flat_values, tf.where(place < length, first + place, NO_PLACE), pad_id)


def _lengths(ids, most):
    """Row lengths, at most `most`: int32 [B, 1]."""
    return tf.minimum(tf.cast(ids.row_lengths(), tf.int32), most)[:, tf.newaxis]
