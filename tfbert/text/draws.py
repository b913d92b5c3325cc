"""Random numbers that each row has to itself: a hash of (the row's seed, the purpose, the place).

What is drawn for a row must not hang on the batch that it lies in, the worker that makes it, or the device:
then static and dynamic masking agree, and so do one process and many. TensorFlow's stateless generators take
one seed for a whole tensor; this is a counter-based generator with a seed for every row. It is made of two
rounds of a 32-bit integer hash (xor-shift and multiply, the constants of Chris Wellons' "lowbias32", found by
search for the least bias), with the 64-bit seed fed in between. Integers wrap in the same way everywhere.
"""

import tensorflow as tf

# What a number is drawn for; equal seeds and places give unrelated numbers for different purposes.
ORDER, GROUP_SIZE, FIRST_GROUP_SIZE, REPLACEMENT, RANDOM_WORD = range(1, 6)

_STEP = 0x9E3779B9  # 2^32 / golden ratio: consecutive multiples lie far apart


def _uint32(number):
    return tf.constant(number % (1 << 32), tf.uint32)


def _mix(x):
    """uint32 -> uint32, one to one; each bit that comes in changes each that goes out with even odds."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, _uint32(shift))) * _uint32(factor)
    return tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, _uint32(16)))


def row_seeds(seed, numbers):
    """Seeds of rows that are told apart by a number, such as a row's place in the endless order of training.

    Args:
        seed: int; the low 64 bits count.
        numbers: int64 [N].

    Returns:
        int32 [N, 2]; different for different numbers that agree in their high 32 bits.
    """
    numbers = tf.bitcast(tf.convert_to_tensor(numbers, tf.int64), tf.uint64)
    low = tf.cast(numbers, tf.uint32)
    high = tf.cast(tf.bitwise.right_shift(numbers, tf.constant(32, tf.uint64)), tf.uint32)
    words = []
    for word in (1, 2):
        state = _mix(tf.bitwise.bitwise_xor(_mix(_uint32(word * _STEP + seed)), _uint32(seed >> 32)))
        words.append(_mix(_mix(state + high) + low))
    return tf.bitcast(tf.stack(words, axis=1), tf.int32)


def bits(seeds, purpose, places):
    """32 random bits for each place of each row.

    Args:
        seeds: int32 [N, 2].
        purpose: One of this module's constants.
        places: int32 [N, K] or [K]; a row's numbers are different for different places.

    Returns:
        uint32 [N, K].
    """
    seeds = tf.bitcast(tf.convert_to_tensor(seeds, tf.int32), tf.uint32)
    low = _mix(seeds[:, 0] + _uint32(purpose * _STEP))  # [N]
    # Not of `low` alone where the second word is 0, or it would undo the first round at place 0.
    high = _mix(tf.bitwise.bitwise_xor(seeds[:, 1], low + _uint32(_STEP)))
    state = _mix(low[:, tf.newaxis] + tf.bitcast(places, tf.uint32))  # [N, K]
    return _mix(tf.bitwise.bitwise_xor(state, high[:, tf.newaxis]))


def below(random_bits, bound):
    """Random bits as integers below a bound, each as likely up to one part in 2^32.

    Args:
        random_bits: uint32.
        bound: int, from 1 to 2^31.

    Returns:
        int32 of the same shape.
    """
    product = tf.cast(random_bits, tf.uint64) * tf.constant(bound, tf.uint64)
    return tf.cast(tf.bitwise.right_shift(product, tf.constant(32, tf.uint64)), tf.int32)


def choose(random_bits, probabilities):
    """Random bits as choices from a law.

    Args:
        random_bits: uint32.
        probabilities: Of the choices 0, 1, ...; they add up to 1.

    Returns:
        int32 of the same shape: the number of a choice.
    """
    choice, total = tf.zeros_like(random_bits, tf.int32), 0.0
    for p in probabilities[:-1]:
        total += p
        edge = round(total * (1 << 32))
        if edge < 1 << 32:
            choice += tf.cast(random_bits >= _uint32(edge), tf.int32)
    return choice
