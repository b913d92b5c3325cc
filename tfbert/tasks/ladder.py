"""The shapes of the batches of a training, that cost the least time.

Each length is a set of functions to compile, before its first batch; with few lengths batches are filled up far
beyond their longest row instead. What is the better depends on the rows, on how many steps there are to make up for
it, and on the size of the model. So the batches of the training are drawn up, and of all ladders of some round
lengths the cheapest is found by dynamic programming.

Rows that are packed (`tfbert.layers.packs`) need about as much in every batch, the sum of their lengths: so one number
of packs or two do for a training, where batches that are filled up have as many shapes as lengths.
"""

import numpy as np

from tfbert.tasks import batches, packer

# Lengths to choose from. Queries and keys of multiples of 4 lie well in memory, and finer steps save little.
CHOICES = (*range(8, 64, 4), *range(64, 256, 8), *range(256, 513, 16))
# What compiling for a length costs, in operations of a training step: 1 to 2 s of a core that does 2e11 in a second
# (BUILD.md, "Beside transformers"). A machine that computes faster compiles faster too, if not by as much.
COMPILING = 3e11
_POOLS = 8  # of batches, that stand for the training
_BATCHES = 100  # of rows that are packed, that stand for it
_WIDTHS = 4  # of packs, from the longest row to not quite twice that


def operations_a_token(encoder):
    """Floating-point operations of a training step for each wordpiece of a batch, without those of attention.

    Args:
        encoder: An `EncoderConfig`.
    """
    hidden = encoder.hidden_size
    return 6 * encoder.num_hidden_layers * (4 * hidden**2 + 2 * hidden * encoder.intermediate_size)


def _longest(lengths, part, by_length):
    """int [N], the longest row of each of some batches, drawn as `batches.train_dataset` draws them."""
    rng, pool = np.random.default_rng(0), batches.POOL * part
    found = []
    for _ in range(_POOLS):
        drawn = np.concatenate([rng.permutation(lengths) for _ in range(-(-pool // len(lengths)))])[:pool]
        drawn = np.sort(drawn) if by_length else drawn
        found.append(drawn.reshape(batches.POOL, part).max(1))
    return np.concatenate(found)


def _cheapest(counts, costs, own):
    """The numbers of the choices that make the cheapest ladder, the last one among them.

    Args:
        counts: [K] batches whose longest row needs each choice, ascending.
        costs: [K] of a batch that is filled up to it.
        own: Cost of each that has batches.
    """
    until = np.concatenate([[0], np.cumsum(counts)])
    best, below = np.zeros(len(counts) + 1), np.zeros(len(counts) + 1, int)
    for top in range(1, len(best)):
        batches_of = until[top] - until[:top]
        total = best[:top] + batches_of * costs[top - 1] + own * (batches_of > 0)
        below[top] = np.argmin(total)  # of equal ones the ladder with the fewest steps
        best[top] = total[below[top]]
    ladder, top = [], len(counts)
    while top > 0:
        ladder.append(top - 1)
        top = below[top]
    return ladder[::-1]


def choose(lengths, part, by_length, steps, operations, max_seq_length, max_chunks=1):
    """The lengths, ascending: a function of what is trained on and how, so that a run that goes on has the same.

    Args:
        lengths: int [R], wordpieces of each row.
        part: Rows of a batch, over all replicas.
        by_length: Whether rows of about the same length come together.
        steps: Of the training.
        operations: What a wordpiece costs: see `operations_a_token`.
        max_seq_length: The longest row, or the longest chunk of one; always of the ladder.
        max_chunks: Chunks of a row, at most; every multiple of `max_seq_length` is of the ladder.

    Returns:
        A tuple of ints.
    """
    choices = np.array([*(n for n in CHOICES if n < max_seq_length), max_seq_length])
    longest = _longest(lengths, part, by_length)
    longest = longest[longest <= max_seq_length]
    counts = np.bincount(np.searchsorted(choices, longest), minlength=len(choices))
    counts = counts * (steps / (_POOLS * batches.POOL))
    ladder = choices[_cheapest(counts, choices * (part * operations), COMPILING)]
    return tuple(ladder.tolist()) + tuple(max_seq_length * n for n in range(2, max_chunks + 1))


def choose_packs(lengths, rows, steps, encoder):
    """The `packer.Shapes`, as `choose`.

    Args:
        lengths: int [R], wordpieces of each row.
        rows: Of a batch, of one replica.
        steps: Of the training.
        encoder: The `EncoderConfig`.
    """
    drawn = np.random.default_rng(0).choice(lengths, (_BATCHES, rows))
    each, longest = operations_a_token(encoder), int(lengths.max())
    # Scores and contexts: products with all places of a pack.
    for_each_place = 12 * encoder.num_hidden_layers * encoder.hidden_size
    found = []
    for width in sorted({-(-longest * n // (8 * _WIDTHS)) * 8 for n in range(_WIDTHS, 2 * _WIDTHS)}):
        needed = np.array([packer.first_fit(batch, width)[0].max() + 1 for batch in drawn])
        choices = np.arange(1, needed.max() + 1)
        costs = choices * width * (each + for_each_place * width)
        counts = choices[_cheapest(np.bincount(needed)[1:] * (steps / _BATCHES), costs, COMPILING)]
        mean = costs[counts[np.searchsorted(counts, needed)] - 1].mean()
        found.append((steps * mean + COMPILING * len(counts), width, counts))
    _, width, counts = min(found, key=lambda x: x[:2])
    # A batch may need more than any of those drawn here: one pack more, or at worst one for each row.
    return packer.Shapes(width, tuple(sorted({*counts.tolist(), min(counts[-1].item() + 1, rows), rows})))
