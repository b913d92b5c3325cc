"""What records hold, counted as they are made, and a page that shows it: records_report.html.

A wrong corpus, vocabulary or flag is seen at a glance in charts, and hardly ever in a log.
"""

import functools

import numpy as np

from data_prep import report_page
from tfbert.text import vocab as vocab_lib

html = report_page.html


@functools.lru_cache(maxsize=2)
def _word_starts(vocabulary):
    return np.array([t == vocab_lib.SUFFIX or not t.startswith(vocab_lib.SUFFIX) for t in vocabulary.tokens])


class Statistics:
    """Counts of what is in records. They add up: `Statistics` of shards make those of the whole.

    Attributes:
        counts: {name: int64 array}; what is missing at an array's end is 0.
            rows: [1].
            slots: [1], places for tokens, padding counted.
            lengths: Examples of 0, 1, 2, ... real tokens.
            examples_per_row: Rows of 0, 1, 2, ... examples.
            real_at: Rows with a real token at position 0, 1, 2, ...
            masked_at: Rows that are masked at position 0, 1, 2, ...
            masked_per_row: Rows with 0, 1, 2, ... masked positions.
            words_together: Runs of masked neighbours that hold 0, 1, 2, ... words, or parts of a word.
            replaced: [3], masked positions at which the model sees [MASK], the truth, another word.
            labels: [2], examples whose next-sentence label is 0 and 1.
            tokens: [V], how often each entry of the vocabulary stands in the text before masking.
    """

    def __init__(self, counts=None):
        self.counts = dict(counts or {})

    def __add__(self, other):
        both = Statistics(self.counts)
        for name, values in other.counts.items():
            both._count(name, values)
        return both

    def _count(self, name, values):
        # A new array each time: those of one operand of a sum are shared with it.
        before = self.counts.get(name, np.zeros(0, np.int64))
        after = np.zeros(max(len(before), len(values)), np.int64)
        after[: len(before)] = before
        after[: len(values)] += values
        self.counts[name] = after

    def update(self, batch, vocabulary):
        """Counts a batch.

        Args:
            batch: {feature name: NumPy array [N, ...]} in one of the layouts of `features.Layout`, masked or
                not; with `word_starts` words are those, else what the vocabulary's ## pieces say.
            vocabulary: `Vocab`.
        """
        ids, mask = batch["input_ids"], batch["input_mask"]
        real = mask > 0
        self._count("rows", [len(ids)])
        self._count("slots", [ids.size])
        self._count("real_at", np.count_nonzero(real, axis=0))
        self._count_examples(batch, real)
        tokens = np.bincount(ids.ravel(), minlength=len(vocabulary))
        tokens[vocabulary.pad_id] -= ids.size - np.count_nonzero(real)  # a [PAD] in the text is counted, padding not
        if "masked_lm_positions" in batch:
            tokens += self._count_masked(batch, vocabulary)
        self._count("tokens", tokens)

    def _count_examples(self, batch, real):
        mask, labels = batch["input_mask"], batch["next_sentence_labels"]
        if "next_sentence_weights" in batch:  # several examples in a row, numbered from 1
            most = labels.shape[1] + 1
            rows = np.arange(len(mask), dtype=np.int32)[:, None] * most
            lengths = np.bincount((rows + mask).ravel(), minlength=len(mask) * most).reshape(-1, most)[:, 1:]
            self._count("examples_per_row", np.bincount(np.count_nonzero(lengths, axis=1)))
            lengths, labels = lengths[lengths > 0], labels[batch["next_sentence_weights"] > 0]
        else:
            lengths = np.count_nonzero(real, axis=1)
            self._count("examples_per_row", [0, len(mask)])
        self._count("lengths", np.bincount(lengths.ravel()))
        self._count("labels", np.bincount(labels.ravel(), minlength=2))

    def _count_masked(self, batch, vocabulary):
        """Counts what is masked; returns how the tokens of the text [V] differ from those that the model sees."""
        chosen = np.flatnonzero(batch["masked_lm_weights"])
        row = chosen // batch["masked_lm_weights"].shape[1]
        position, truth = (batch[name].ravel()[chosen] for name in ("masked_lm_positions", "masked_lm_ids"))
        place = row * batch["input_ids"].shape[1] + position
        seen = batch["input_ids"].ravel()[place]
        is_mask, is_truth = np.count_nonzero(seen == vocabulary.mask_id), np.count_nonzero(seen == truth)
        self._count("replaced", [is_mask, is_truth, len(seen) - is_mask - is_truth])
        self._count("masked_at", np.bincount(position))
        self._count("masked_per_row", np.bincount(np.bincount(row, minlength=len(batch["input_ids"]))))
        if "word_starts" in batch:
            begins = batch["word_starts"].ravel()[place] > 0
        else:
            begins = _word_starts(vocabulary)[truth]
        new_run = np.ones(len(row), bool)
        new_run[1:] = place[1:] != place[:-1] + 1  # the first position of a row is [CLS]
        words = np.bincount(np.cumsum(new_run) - 1, begins | new_run).astype(np.int64)
        self._count("words_together", np.bincount(words))
        size = len(vocabulary)
        return np.bincount(truth, minlength=size) - np.bincount(seen, minlength=size)

    def to_dict(self):
        """The counts as JSON can hold them."""
        return {name: values.tolist() for name, values in sorted(self.counts.items())}

    @classmethod
    def from_dict(cls, counts):
        """What `to_dict` was made of."""
        return cls({name: np.array(values, np.int64) for name, values in counts.items()})
