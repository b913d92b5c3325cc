"""Documents -> a WordPiece vocabulary: `python -m data_prep.learn_vocab --help`.

Words are counted as the tokenizer splits them, by its own table and op, over the documents that are not
held out; so memory grows with the distinct words only. The pieces are learned by Hugging Face's
WordPieceTrainer, which merges the most frequent pair again and again.
"""

from tfbert import quiet  # isort: skip  # noqa: F401

import collections
import contextlib
import dataclasses
import itertools
import os

import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text
import tokenizers

from data_prep import corpus, runners
from tfbert import checks, config
from tfbert.config import field
from tfbert.text import normalizer_table, vocab
from tfbert.text.tokenizer import MAX_BYTES_PER_WORD, MAX_CHARACTERS_PER_WORD, Tokenizer
from tfbert.watching import progress

BATCH = 4096  # texts a call of the ops
BATCH_BYTES = 1 << 22  # of those texts, the last aside
REPEATS = 10_000  # of a word in one text for the trainer, which keeps a thousand texts in memory


@dataclasses.dataclass(frozen=True)
class Config(corpus.CorpusConfig):
    """Where the text comes from (`CorpusConfig`), and what the vocabulary is to be."""

    output_dir: str = field("", "Folder for vocab.txt and tokenizer.json; made if it is not there.")
    vocab_size: int = field(30522, "Entries, the special tokens counted.", lower_bound=16)
    do_lower_case: bool = field(True, "Lower-case text and strip accents.")
    num_unused: int = field(0, "Entries [unused0], [unused1], ... to be given a meaning later.", lower_bound=0)
    min_frequency: int = field(2, "How often a piece must occur to become an entry.", lower_bound=1)
    runner: str | None = field(None, runners.HELP, choices=runners.RUNNERS)
    overwrite: bool = field(False, "Replace another vocabulary that output_dir already holds.")

    def __post_init__(self):
        super().__post_init__()
        checks.require(self.output_dir, "output_dir must be given", "none", do="Pass --output_dir=FOLDER")
        checks.require(
            len(vocab.SPECIAL_TOKENS) + self.num_unused < self.vocab_size,
            "vocab_size must leave room beside the special and the unused tokens",
            f"vocab_size={self.vocab_size}, num_unused={self.num_unused}",
        )


class WordSplitter:
    """Splits text into normalised words exactly as `Tokenizer` does before it looks for pieces."""

    def __init__(self, do_lower_case):
        table = np.frombuffer(normalizer_table.build(do_lower_case), np.uint8)
        self._normalizer = tf_text.FastBertNormalizer(model_buffer=tf.constant(table))
        # With next to nothing in the vocabulary every word is one piece, known or not. (The op refuses a
        # vocabulary of [UNK] alone.)
        self._splitter = tf_text.FastWordpieceTokenizer(
            vocab=[vocab.UNK, "a"], max_bytes_per_word=MAX_BYTES_PER_WORD, unknown_token=vocab.UNK
        )

    def __call__(self, texts):
        """Splits texts.

        Args:
            texts: A list of UTF-8 bytes.

        Returns:
            One list of words, as UTF-8 bytes, for each text.
        """
        normalized = self._normalizer.normalize(tf.constant(texts))
        _, starts, ends = self._splitter.tokenize_with_offsets(normalized)
        splits = starts.row_splits.numpy().tolist()
        starts, ends = starts.flat_values.numpy().tolist(), ends.flat_values.numpy().tolist()
        rows = zip(normalized.numpy().tolist(), splits, splits[1:])
        return [[text[s:e] for s, e in zip(starts[a:b], ends[a:b])] for text, a, b in rows]


def _in_batches(items, size):
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch


def _batches_of_texts(texts):
    """Lists of `BATCH` texts, or of fewer that hold `BATCH_BYTES`: a sentence can be as long as a megabyte."""
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if len(batch) == BATCH or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def count_words(cfg, counts, report):
    """{word: how often} of the documents that are not held out."""
    words, split = collections.Counter(), WordSplitter(cfg.do_lower_case)
    texts = (text for d in corpus.documents(cfg, counts) if not d.held_out for text in d.sentences)
    total = 0
    for batch in _batches_of_texts(texts):
        for found in split(batch):
            words.update(found)
            total += len(found)
        report(f"{counts['documents_read']:,} documents, {total:,} words, {len(words):,} distinct")
    return {word.decode(): n for word, n in words.items()}


def _characters(words):
    """Characters from the most frequent on: [(count, entries)], the entries "c" and, inside words, "##c"."""
    counts, inside = collections.Counter(), set()
    for word, n in words.items():
        inside.update(word[1:])
        for c in word:
            counts[c] += n
    ordered = sorted(counts, key=lambda c: (-counts[c], c))
    return [(counts[c], [c, vocab.SUFFIX + c] if c in inside else [c]) for c in ordered]


def _alphabet(characters, room, min_frequency):
    """The entries of the most frequent characters, as far as there is room for them."""
    entries = []
    for count, forms in characters:
        if count < min_frequency or len(entries) + len(forms) > room:
            break
        entries += forms
    return entries


def learn(words, vocab_size, num_unused=0, min_frequency=2):
    """Learns the entries of a vocabulary.

    Every character that occurs `min_frequency` times gets its entry, and one with "##" if words go on with
    it, unless those would fill more than half of the vocabulary: then the rarest go, and their words are
    unknown.

    Args:
        words: {normalised word: how often}.
        vocab_size: Most entries; there are fewer if no more pieces occur `min_frequency` times.
        num_unused: How many [unused*] entries to put in.
        min_frequency: How often a pair of pieces must occur to be merged.

    Returns:
        The entries as a tuple: special tokens ([PAD] first), [unused*], characters, and the other pieces
        from the most frequent on. The same words give the same entries in any order.
    """
    reserved = [*vocab.SPECIAL_TOKENS, *(f"[unused{i}]" for i in range(num_unused))]
    room = vocab_size - len(reserved)
    characters = _characters(words)
    alphabet = sorted(_alphabet(characters, room // 2, min_frequency))
    kept = {entry for entry in alphabet if len(entry) == 1}
    usable = sorted(w for w in words if len(w) <= MAX_CHARACTERS_PER_WORD and kept.issuperset(w))
    entries = _merge(usable, words, [*reserved, *alphabet], vocab_size, min_frequency)
    # Where text is written without spaces there is little to merge, and room for rarer characters is left.
    known = set(entries)
    rest = (entry for entry in _alphabet(characters, len(characters) * 2, min_frequency) if entry not in known)
    return (*entries, *itertools.islice(rest, vocab_size - len(entries)))


def _merge(usable, words, given, vocab_size, min_frequency):
    """The given entries and those that merging pairs adds to them.

    Pairs of one frequency are merged in the order of the ids of their parts, and the trainer numbers
    characters as it meets them in a hash table with a random seed. That they are given in order, as
    "special tokens", is what makes the result the same every time.
    """
    model = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token=vocab.UNK))
    model.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=given,
        continuing_subword_prefix=vocab.SUFFIX,
        show_progress=False,
    )
    times = ((w, min(REPEATS, words[w] - done)) for w in usable for done in range(0, words[w], REPEATS))
    model.train_from_iterator((" ".join([w] * n) for w, n in times), trainer)
    ids = model.get_vocab()
    return sorted(ids, key=ids.get)


def measure(vocabulary, words):
    """How the tokenizer itself splits the words: (pieces, unknown words), weighted by how often they occur."""
    tokenizer, pieces, unknown = Tokenizer(vocabulary), 0, 0
    for batch in _in_batches(words.items(), BATCH):
        ids = tokenizer.tokenize(tf.constant([word for word, _ in batch]))
        weights = np.array([n for _, n in batch])
        pieces += int(ids.row_lengths().numpy() @ weights)
        is_unknown = tf.reduce_any(ids == vocabulary.unk_id, axis=1)
        unknown += int(is_unknown.numpy() @ weights)
    return pieces, unknown


def _table(cfg, counts, words, vocabulary, seconds):
    """What was made, as lines for a person."""
    total = sum(words.values())
    pieces, unknown = measure(vocabulary, words)
    rows = [(key.replace("_", " "), f"{value:,}") for key, value in counts.items()]
    rows += [
        ("words", f"{total:,}"),
        ("distinct words", f"{len(words):,}"),
        ("entries", f"{len(vocabulary):,} of {cfg.vocab_size:,}"),
        ("pieces a word", f"{pieces / total:.3f}"),
        ("unknown words", f"{unknown:,} ({100 * unknown / total:.3f} %)"),
        ("digest", vocabulary.digest[:12]),
        ("written to", cfg.output_dir),
        ("wall time", f"{seconds:.1f} s"),
    ]
    return "\n".join(f"{name:<28}{value:>24}" for name, value in rows)


def _check_output(cfg):
    """Makes the folder, so that one that cannot be made is known before the work."""
    try:
        os.makedirs(cfg.output_dir, exist_ok=True)
    except OSError as e:
        raise checks.error("output_dir must be a folder that can be made", e.strerror or e, cfg.output_dir) from e
    checks.require(os.access(cfg.output_dir, os.W_OK), "output_dir must be writable", "no permission", cfg.output_dir)


def _write(cfg, vocabulary):
    """Writes the vocabulary, unless the folder holds another one."""
    path = os.path.join(cfg.output_dir, vocab.VOCAB_FILE)
    if os.path.exists(path) and not cfg.overwrite:
        before = vocab.load(cfg.output_dir).digest
        checks.require(
            before == vocabulary.digest,
            "output_dir must not hold another vocabulary",
            f"digest {before[:12]} there, {vocabulary.digest[:12]} learned",
            path,
            "Choose another --output_dir, or pass --overwrite",
        )
    try:
        vocabulary.write(cfg.output_dir)
    except OSError as e:
        raise checks.error("output_dir must be writable", e.strerror or e, cfg.output_dir) from e


def run(cfg, beam_options=()):
    """Learns and writes the vocabulary of a `Config`.

    Args:
        cfg: The `Config`.
        beam_options: Apache Beam's own flags, with `cfg.runner`.

    Returns:
        The `Vocab`.

    Raises:
        InputError: a flag, the corpus or the output folder cannot be used.
    """
    config.check_bounds(cfg)
    work, counts = progress.WorkLine(), collections.Counter()
    runners.check_options(cfg.runner, beam_options)
    pipelines = cfg.runner and runners.pipelines(cfg.runner)
    _check_output(cfg)
    with contextlib.closing(work):
        words = pipelines.count_words(cfg, counts, beam_options) if pipelines else count_words(cfg, counts, work)
    checks.require(words, "the corpus must hold words to learn from", f"none in {counts['documents_read']} documents")
    tokens = learn(words, cfg.vocab_size, cfg.num_unused, cfg.min_frequency)
    vocabulary = vocab.Vocab(tokens, cfg.do_lower_case)
    _write(cfg, vocabulary)
    print(_table(cfg, counts, words, vocabulary, work.seconds()))
    return vocabulary


def main(argv):
    """Runs the program with its flags."""
    run(config.from_flags(Config), argv[1:])


if __name__ == "__main__":
    config.define_flags(Config)
    checks.run_program(main, foreign_flags=True)
