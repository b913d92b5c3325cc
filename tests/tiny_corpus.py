"""A small corpus of random words, its vocabulary, the fixture that makes records of it, and how to read them."""

import functools
import math

import numpy as np
import pytest
import tensorflow as tf

from data_prep import create_pretraining_data as program
from data_prep import shards
from tfbert import features
from tfbert.text.vocab import SPECIAL_TOKENS, Vocab

L, P = 41, 7
WORDS = [f"{a}{b}{c}" for a in "bdfg" for b in "aeiou" for c in "klmnp"]
PIECES = ["##s", "##ing"]


def text(seed, num_documents=60, num_sentences=(2, 9)):
    """Documents of random words; each begins with its own name, so that its segments can be traced."""
    rng = np.random.default_rng(seed)
    documents = []
    for i in range(num_documents):
        sentences = []
        for _ in range(rng.integers(*num_sentences)):
            words = [WORDS[j] + ["", "", "s", "ing"][rng.integers(4)] for j in rng.integers(0, 80, rng.integers(3, 12))]
            sentences.append(" ".join([f"doc{i}", *words]))
        documents.append("\n".join(sentences))
    return "\n\n".join(documents) + "\n"


NAMES = [f"doc{i}" for i in range(60)]
VOCAB = Vocab((*SPECIAL_TOKENS, "[unused0]", *NAMES, *WORDS, *PIECES))


tokenizer = functools.cache(shards.Tokenizer)  # its tables take longer to make than the records of a test


@pytest.fixture
def make(tmp_path, monkeypatch):
    """make(output name, **flags) -> the program's result; the corpus is tmp_path/text.txt."""
    VOCAB.write(tmp_path / "vocab")
    (tmp_path / "text.txt").write_text(text(0))
    monkeypatch.setattr(shards, "Tokenizer", tokenizer)

    def run(name="records", beam_options=(), **flags):
        flags = {
            "source": "text",
            "input_file": (str(tmp_path / "text.txt"),),
            "vocab_file": str(tmp_path / "vocab"),
            "output_dir": str(tmp_path / name),
            "max_seq_length": L,
            "max_predictions_per_seq": P,
            "held_out_fraction": 0.2,
            "dupe_factor": 3,
            "num_shards": 4,
            "num_workers": 1,
            **flags,
        }
        return program.run(program.Config(**flags), beam_options)

    return run


def read(folder, split="train", layout=None):
    """All records of a split, file after file: {name: array [N, ...]}."""
    files = sorted(str(f) for f in folder.glob(f"{split}-*.tfrecord"))
    records = [r for f in files for r in tf.data.TFRecordDataset(f).as_numpy_iterator()]
    return {k: v.numpy() for k, v in features.parse_batch(records, layout or features.Layout(L, P)).items()}


def original(records):
    """input_ids before masking."""
    ids = records["input_ids"].copy()
    for row, positions, truth, weights in zip(
        ids, records["masked_lm_positions"], records["masked_lm_ids"], records["masked_lm_weights"]
    ):
        row[positions[weights > 0]] = truth[weights > 0]
    return ids


def documents_of(records, segment):
    """The set of document names in a segment of each record."""
    at = (records["segment_ids"] == segment) & (records["input_mask"] == 1)
    names = range(VOCAB.ids["doc0"], VOCAB.ids["doc59"] + 1)
    return [set(row[m]) & set(names) for row, m in zip(original(records), at)]


def within(count, n, p, sigmas=5):
    """Whether a count of n trials is within so many standard deviations of the binomial law."""
    return abs(count - n * p) <= sigmas * math.sqrt(n * p * (1 - p))


def snapshot(folder):
    return {f.name: f.read_bytes() for f in folder.iterdir() if f.is_file()}
