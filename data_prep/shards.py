"""The two functions that data preparation consists of, with no file and no process in them.

`prepare`: a span of the corpus -> tokenized documents, each given to a shard by its content's place alone.
`make`: a shard's documents -> serialized records. Both depend on nothing but their arguments, so
processes of one machine and workers of a cluster carry out the same.
"""

import collections
import heapq
import itertools
import zlib

import numpy as np
import tensorflow as tf

from data_prep import blocks, corpus, instances, rows, segmentation
from data_prep.report import Statistics
from tfbert import checks, features
from tfbert.text import masking
from tfbert.text.tokenizer import Tokenizer
from tfbert.text.vocab import SUFFIX

SPLITS = ("train", "held_out")
TOKENIZED_AT_ONCE = 1 << 20  # bytes of text
PART_TOKENS = 1 << 21  # that lie together in a token file
MASKED_AT_ONCE = 4096  # rows
ENOUGH_DOCUMENTS = 64  # a shard of fewer borrows from its neighbours, so that random segments are of many documents


class Maker:
    """What a process needs to carry out both: the configuration, the vocabulary and the compiled graphs.

    Args:
        cfg: The `create_pretraining_data.Config`.
        vocabulary: `Vocab`.
    """

    def __init__(self, cfg, vocabulary):
        self.cfg, self.vocab = cfg, vocabulary
        self.layout = {split: cfg.layout(split) for split in SPLITS}
        self._tokenizer = self._masker = None
        self._word_starts = np.array([t == SUFFIX or not t.startswith(SUFFIX) for t in vocabulary.tokens])

    @property
    def tokenizer(self):
        """The `Tokenizer`, made when it is first asked for."""
        if self._tokenizer is None:
            self._tokenizer = Tokenizer(self.vocab)
        return self._tokenizer

    def mask(self, batch, seeds):
        """Adds what `masking.mask` makes of a batch, and the word starts that it went by."""
        if self._masker is None:
            self._masker = _masker(self.cfg, self.vocab)
        batch = self.with_word_starts(batch)
        masked = self._masker(batch["input_ids"], batch["input_mask"], batch["word_starts"] > 0, seeds)
        return {**batch, **{name: value.numpy() for name, value in masked.items()}}

    def with_word_starts(self, batch):
        """A batch with the word starts that masking needs: those found in the text, or those of the vocabulary."""
        starts = batch.get("word_starts")
        starts = self._word_starts[batch["input_ids"]] if starts is None else starts
        return {**batch, "word_starts": starts.astype(np.int32)}


def codes(cfg):
    """[(split, number of the shard in it)] for each shard code."""
    held_out = max(1, round(cfg.num_shards * cfg.held_out_fraction)) if cfg.held_out_fraction else 0
    return [("train", i) for i in range(cfg.num_shards)] + [("held_out", i) for i in range(held_out)]


def _masker(cfg, vocabulary):
    """A compiled (input_ids, input_mask, word_starts, seeds) -> masked features."""
    batch = tf.TensorSpec([None, cfg.max_seq_length], tf.int32)
    starts = tf.TensorSpec([None, cfg.max_seq_length], tf.bool)

    @tf.function(autograph=False, input_signature=[batch, batch, starts, tf.TensorSpec([None, 2], tf.int32)])
    def mask(input_ids, input_mask, word_starts, seeds):
        return masking.mask(
            input_ids,
            input_mask,
            vocabulary,
            cfg.mask_unit,
            cfg.masked_lm_prob,
            cfg.max_predictions_per_seq,
            seeds,
            word_starts,
        )

    return mask


def _batches(documents, size):
    """Lists of documents that hold about `size` bytes."""
    batch, held = [], 0
    for document in documents:
        batch.append(document.sentences)
        held += sum(map(len, document.sentences))
        if held >= size:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _tokenize(maker, documents, first_document, first_sentence):
    """The `Block` of documents and the number of those without a token."""
    sentences = list(itertools.chain.from_iterable(documents))
    kind = maker.cfg.word_boundaries
    if kind == "wordpiece":
        ids, starts = maker.tokenizer.tokenize(tf.constant(sentences)), np.zeros(0, bool)
        row_lengths = ids.row_lengths().numpy()
    else:
        found = maker.tokenizer.tokenize_with_offsets(tf.constant(sentences))
        ids, row_lengths = found.ids, found.ids.row_lengths().numpy()
        starts = segmentation.word_starts(
            kind, sentences, found.starts.flat_values.numpy(), row_lengths, found.word_starts.flat_values.numpy()
        )
    tokens = ids.flat_values.numpy().astype(blocks.token_dtype(len(maker.vocab)))
    lengths = np.array([len(d) for d in documents])
    return blocks.make(tokens, starts, row_lengths, lengths, first_document, first_sentence)


class _Span:
    """Gathers what is found out about a span while it is read."""

    def __init__(self, cfg):
        self.cfg, self.counts = cfg, collections.Counter()
        self._digests = []  # 16 bytes each
        self._documents = self._sentences = 0

    def take(self, documents):
        """Notes the digests of documents; returns which are held out, their first number and their first sentence's."""
        held_out = []
        for sentences in documents:
            whole = b"\n".join(sentences)
            held_out.append(corpus.is_held_out(whole, self.cfg.held_out_fraction))
            if self.cfg.dedup == "document":
                self._digests.append(corpus.digest([whole]))
            elif self.cfg.dedup == "sentence":
                self._digests += [corpus.digest([s]) for s in sentences]
        first = self._documents, self._sentences
        self._documents += len(documents)
        self._sentences += sum(map(len, documents))
        return np.array(held_out, bool), *first

    def digests(self):
        """uint64 [3, N] in the order of the corpus, as `token_files.write` takes them."""
        halves = np.frombuffer(b"".join(self._digests), "<u8").reshape(-1, 2)
        return np.stack([halves[:, 0], halves[:, 1], np.arange(len(halves), dtype=np.uint64)])


def prepare(maker, number, span):
    """Reads and tokenizes a span.

    Args:
        maker: `Maker`.
        number: The span's place in the corpus.
        span: `corpus.Span`.

    Returns:
        An iterator of {shard code: `Block`} in the order of the corpus; and two functions that tell, once it
        has come to its end, the digests of what may come twice and the counts.
    """
    cfg, about = maker.cfg, _Span(maker.cfg)

    def parts():
        gathered, held_out, size = [], [], 0
        with_text = (d for d in corpus.read(cfg, span, about.counts) if d.sentences)
        for documents in _batches(with_text, TOKENIZED_AT_ONCE):
            is_held_out, first_document, first_sentence = about.take(documents)
            block, empty = _tokenize(maker, documents, first_document, first_sentence)
            about.counts.update(documents_without_tokens=empty, tokens=len(block.tokens))
            gathered.append(block)
            held_out.append(is_held_out[block.documents - first_document])
            size += len(block.tokens)
            if size >= PART_TOKENS:
                yield _deal(cfg, blocks.join(gathered), np.concatenate(held_out), number)
                gathered, held_out, size = [], [], 0
        if gathered:
            yield _deal(cfg, blocks.join(gathered), np.concatenate(held_out), number)

    return parts(), about.digests, lambda: dict(about.counts)


def digests(cfg, span):
    """The digests of what may come twice in a span, as `prepare` tells them, without tokenizing it."""
    about = _Span(cfg)
    for documents in _batches((d for d in corpus.read(cfg, span, about.counts) if d.sentences), TOKENIZED_AT_ONCE):
        about.take(documents)
    return about.digests()


def _deal(cfg, block, held_out, span):
    """{shard code: `Block`}: each document goes to the shard that has had the fewest tokens of the block so far."""
    document_tokens = (
        np.add.reduceat(block.sentence_lengths, blocks.sums_before(block.document_lengths)[:-1]).tolist()
        if len(block.document_lengths)
        else []
    )
    known = codes(cfg)
    heaps = []
    for split in SPLITS:
        of_split = [code for code, (s, _) in enumerate(known) if s == split]
        # Each block begins with another shard, or the first shards would have more than their share.
        turn = zlib.crc32(b"%d %d" % (span, int(block.documents[0]) if len(block.documents) else 0))
        heaps.append([(0, (i - turn) % len(of_split), code) for i, code in enumerate(of_split)])
        heapq.heapify(heaps[-1])
    given = []
    for tokens, side in zip(document_tokens, held_out.tolist()):
        had, turn, code = heaps[side][0]
        heapq.heapreplace(heaps[side], (had + tokens, turn, code))
        given.append(code)
    given = np.array(given, np.int64)
    return {code: blocks.take(block, np.flatnonzero(given == code)) for code in np.unique(given).tolist()}


def _borrow(read, code, of_split, documents):
    """`Block`s of the shards that follow in a circle, until there are enough documents to draw random segments from."""
    at, gathered = of_split.index(code), []
    for other in of_split[at + 1 :] + of_split[:at]:
        for block in read(other):
            documents += len(block.documents)
            gathered.append(block)
            if documents >= ENOUGH_DOCUMENTS:
                return gathered
    return gathered


def batches(maker, code, read, documents):
    """Makes the rows of a shard.

    Args:
        maker: `Maker`.
        code: The shard's.
        read: As of `make`.
        documents: How many the shard has.

    Yields:
        (features of a batch of rows, examples in it, tokens cut).
    """
    cfg, known = maker.cfg, codes(maker.cfg)
    split, _ = known[code]
    lenders = []
    if documents < ENOUGH_DOCUMENTS and cfg.sentence_objective == "nsp":
        lenders = _borrow(read, code, [c for c, (s, _) in enumerate(known) if s == split], documents)
    for number in range(cfg.dupe_factor if split == "train" else 1):
        for w, window in enumerate(instances.windows(read(code), lenders=lenders)):
            rng = np.random.default_rng([cfg.random_seed, code, number, w])
            for batch, num_examples, cut in _window(maker, split, window, rng):
                if maker.layout[split].masked:
                    seeds = rng.integers(1 << 31, size=(len(batch["input_ids"]), 2), dtype=np.int32)
                    yield maker.mask(batch, seeds), num_examples, cut
                else:
                    yield maker.with_word_starts(batch), num_examples, cut


def make(maker, code, read):
    """Makes the records of a shard.

    Args:
        maker: `Maker`.
        code: The shard's.
        read: A function from a shard code to an iterator of its `Block`s, anew each time. Other shards than
            this one are read only if it has fewer than `ENOUGH_DOCUMENTS`.

    Yields:
        (list of serialized records, Counter, `report.Statistics`); one counter has the documents too.

    Raises:
        InputError: there are no two different documents to draw random segments from.
    """
    split, _ = codes(maker.cfg)[code]
    counts = _documents(maker, read(code))
    yield [], counts, Statistics()
    for batch, num_examples, cut in batches(maker, code, read, counts["documents"]):
        statistics = Statistics()
        statistics.update(batch, maker.vocab)
        stored = {f.name: batch[f.name] for f in maker.layout[split].features}
        records = features.serialize_batch(stored, maker.layout[split])
        yield records, instances.count(batch, num_examples, cut), statistics


def _documents(maker, found):
    counts = collections.Counter()
    for block in found:
        counts.update(
            documents=len(block.documents),
            sentences=len(block.sentence_lengths),
            tokens=len(block.tokens),
            unknown_tokens=int(np.count_nonzero(block.tokens == maker.vocab.unk_id)),
        )
    return counts


def _examples(maker, split, window, rng):
    """(window, `Pairs`, tokens cut from each) by the sentence objective."""
    cfg, seed = maker.cfg, int(rng.integers(1 << 62))
    if cfg.sentence_objective == "none":
        window, pairs = instances.draw_sentences(
            window, cfg.max_seq_length - 2, cfg.short_seq_prob, seed, maker.vocab.sep_id
        )
        return window, pairs, np.zeros(len(pairs.labels), np.int64)
    max_tokens = cfg.max_seq_length - 3
    if cfg.sentence_objective == "nsp":
        checks.require(
            len(set(window.contents)) > 1,
            "next-sentence prediction takes segments of other documents, so a split must hold two different ones",
            f"1 different document in {split}",
            cfg.source,
            "Put a blank line between documents"
            if split == "train"
            else "Raise --held_out_fraction, or set it to 0 to hold nothing out",
        )
        long = instances.draw_pairs(window, max_tokens, cfg.short_seq_prob, seed)
    else:
        long = instances.draw_ordered(window, max_tokens, cfg.short_seq_prob, seed)
    return window, *instances.truncate(long, max_tokens, rng)


def _window(maker, split, window, rng):
    """Yields (features of a batch of rows, examples in it, tokens cut) of a window, in random order."""
    cfg = maker.cfg
    window, pairs, cut = _examples(maker, split, window, rng)
    if not len(cut):
        return
    row, place = np.arange(len(cut)), np.zeros(len(cut), np.int64)
    if cfg.pack_sequences:
        row, place = rows.fill(instances.lengths(pairs), cfg.max_seq_length, cfg.sequences_per_pack)
    num_rows = int(row.max()) + 1
    row = rng.permutation(num_rows)[row]  # neighbours in a shard are not to be of one document
    order = np.lexsort((place, row))
    pairs, row, place, cut = instances.take(pairs, order), row[order], place[order], cut[order]
    for first in range(0, num_rows, MASKED_AT_ONCE):
        last = min(first + MASKED_AT_ONCE, num_rows)
        a, b = np.searchsorted(row, (first, last))
        batch = instances.pack(
            window,
            instances.take(pairs, slice(a, b)),
            row[a:b] - first,
            place[a:b],
            last - first,
            cfg.max_seq_length,
            maker.vocab,
            cfg.sequences_per_pack if cfg.pack_sequences else 0,
        )
        yield batch, int(b - a), int(cut[a:b].sum())
