"""What a layer may take for granted that is built to be exported for TensorFlow: it is never trained.

A product with the kernels of queries, keys and values side by side is one operation in place of three, there is a way
to write a layer norm that a server makes one operation of, and a single mask has its scores sooner from a matrix that
is turned round. A training step has none of them, nor has TFLite. So layers that are built inside `building` have other
variables and operations, and the same answers: see `export.fused_model`. They may be in parts: see `tensor_parts`.

TFLite too has less to do where padding goes through no layer: inside `without_padding` layers have the variables of the
run's, and take tokens alone, as those that are built inside `building` do: see `padding_free`.
"""

import contextlib
import threading

from tfbert.layers import tensor_parts

_context = threading.local()


@contextlib.contextmanager
def building(parts=1):
    """Inside, in this thread, layers are built to be exported, with matrices in so many parts."""
    outer = getattr(_context, "parts", None)
    _context.parts = parts
    try:
        yield
    finally:
        _context.parts = outer


@contextlib.contextmanager
def without_padding():
    """Inside, in this thread, layers are built that take tokens alone."""
    outer = takes_tokens()
    _context.tokens = True
    try:
        yield
    finally:
        _context.tokens = outer


def takes_tokens():
    """Whether layers are built that take tokens alone."""
    return is_building() or getattr(_context, "tokens", False)


def is_building():
    """Whether layers are built to be exported."""
    return getattr(_context, "parts", None) is not None


def intermediate_sizes(size):
    """How wide the parts of a feed-forward network's middle are to be: of I, or some more columns that stay zero.

    None if layers are not built to be exported.

    A matrix whose rows are whole pages of 4,096 bytes is slow to pack for a product: each number of a column falls
    into the same few lines of the cache. Of BERT-base's 768 x 3072 a product with 64 rows takes a quarter less time
    with 3104 columns.
    """
    if not is_building():
        return None
    return [n + 32 if n % 1024 == 0 else n for n in tensor_parts.lengths(size, parts())]


def vocabulary_sizes(size, block):
    """How wide the parts of the vocabulary's scores are to be: of V and of what fills it up to whole blocks.

    None if layers are not built to be exported.
    """
    if not is_building():
        return None
    sizes = tensor_parts.lengths(size, parts())
    return [*sizes[:-1], sizes[-1] + -size % block]


def parts():
    """How many parts layers are in; 1 if they are not built to be exported."""
    return getattr(_context, "parts", None) or 1
