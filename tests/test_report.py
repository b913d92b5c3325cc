"""Tests of data_prep.report, data_prep.report_page and data_prep.charts."""

import collections
import html.parser
import itertools
import json
import re

import numpy as np
import pytest
import tensorflow as tf

from data_prep import charts, report
from tfbert.text import masking, selection
from tfbert.text.vocab import SPECIAL_TOKENS, Vocab

VOCAB = Vocab((*SPECIAL_TOKENS, *(f"{'##' if i % 3 == 2 else ''}w{i}" for i in range(40)), "<b>", "&amp"))
FIRST = len(SPECIAL_TOKENS)
L, P, M = 37, 7, 4
PROB = 0.15


def masked(batch, unit="word", seed=1):
    seeds = masking.row_seeds(seed, tf.range(len(batch["input_ids"]), dtype=tf.int64))
    out = masking.mask(batch["input_ids"], batch["input_mask"], VOCAB, unit, PROB, P, seeds)
    return {**batch, **{k: v.numpy() for k, v in out.items()}}


def rows(n, seed=0):
    """Rows of one example of 5 to L tokens before masking, some of them unknown."""
    rng = np.random.default_rng(seed)
    lengths, place = rng.integers(5, L + 1, n)[:, None], np.arange(L)
    ids = rng.integers(FIRST, len(VOCAB), (n, L)).astype(np.int32)
    ids[rng.random((n, L)) < 0.05] = VOCAB.unk_id
    ids[:, 0] = VOCAB.cls_id
    ids[(place == 3) | (place == lengths - 1)] = VOCAB.sep_id
    ids[place >= lengths] = VOCAB.pad_id
    labels = rng.integers(0, 2, (n, 1)).astype(np.int32)
    return {"input_ids": ids, "input_mask": (place < lengths).astype(np.int32), "next_sentence_labels": labels}


def packed(n, seed=0):
    """Rows of up to M examples."""
    rng, batch = np.random.default_rng(seed), rows(n, seed)
    real = batch["input_mask"] > 0
    batch["input_mask"] = np.where(real, 1 + np.minimum(np.arange(L) // rng.integers(9, L, (n, 1)), M - 1), 0)
    count = batch["input_mask"].max(1)[:, None]
    batch["next_sentence_weights"] = (np.arange(M) < count).astype(np.float32)
    batch["next_sentence_labels"] = np.where(np.arange(M) < count, rng.integers(0, 2, (n, M)), 0)
    return batch


def counted(*batches):
    statistics = report.Statistics()
    for batch in batches:
        statistics.update(batch, VOCAB)
    return statistics


def nonzero(values):
    return {i: int(v) for i, v in enumerate(values) if v}


def plain(batch, original):
    """The counts in plain Python, from the rows before masking as well."""
    found = collections.defaultdict(collections.Counter)
    for i, ids in enumerate(original["input_ids"].tolist()):
        numbers = batch["input_mask"][i].tolist()
        found["rows"][0] += 1
        found["slots"][0] += L
        found["examples_per_row"][max(numbers)] += 1
        for number in range(1, max(numbers) + 1):
            found["lengths"][numbers.count(number)] += 1
            found["labels"][int(batch["next_sentence_labels"][i][number - 1])] += 1
        for position in range(L):
            if numbers[position]:
                found["real_at"][position] += 1
                found["tokens"][ids[position]] += 1
        if "masked_lm_weights" not in batch:
            continue
        at = [int(p) for p, w in zip(batch["masked_lm_positions"][i], batch["masked_lm_weights"][i]) if w]
        found["masked_per_row"][len(at)] += 1
        for position in at:
            found["masked_at"][position] += 1
            seen = batch["input_ids"][i][position]
            found["replaced"][0 if seen == VOCAB.mask_id else 1 if seen == ids[position] else 2] += 1
        for _, run in itertools.groupby(enumerate(at), lambda x: x[1] - x[0]):
            run = [position for _, position in run]
            starts = batch.get("word_starts")
            words = [starts[i][p] if starts is not None else not VOCAB.tokens[ids[p]].startswith("##") for p in run]
            found["words_together"][1 + int(sum(words[1:]))] += 1
    return {name: dict(sorted(values.items())) for name, values in found.items()}


@pytest.mark.parametrize("make", [rows, packed])
@pytest.mark.parametrize("unit", ["", *selection.UNITS])
def test_counts_are_those_of_a_plain_count(make, unit):
    original = make(61)
    batch = masked(original, unit) if unit else original
    counts = counted(batch).counts
    assert {name: nonzero(values) for name, values in counts.items()} == plain(batch, original)


def test_word_starts_of_the_batch_come_before_the_vocabularys():
    original = rows(61)
    batch = {**masked(original, "span"), "word_starts": np.random.default_rng(1).integers(0, 2, (61, L))}
    expected = plain(batch, original)["words_together"]
    assert nonzero(counted(batch).counts["words_together"]) == expected
    assert nonzero(counted(masked(original, "span")).counts["words_together"]) != expected


def test_statistics_add_up_and_survive_json():
    batches = [masked(rows(n, n), "ngram", n) for n in (5, 17, 1)]
    batches[2]["masked_lm_weights"] = np.zeros_like(batches[2]["masked_lm_weights"])
    batches[2]["input_ids"] = rows(1, 1)["input_ids"]
    whole = counted(*batches)
    parts = [counted(batch) for batch in batches]
    before = [p.to_dict() for p in parts]
    added = report.Statistics() + parts[2] + parts[0] + parts[1]
    assert {k: nonzero(v) for k, v in added.counts.items()} == {k: nonzero(v) for k, v in whole.counts.items()}
    assert [p.to_dict() for p in parts] == before
    again = report.Statistics.from_dict(json.loads(json.dumps(whole.to_dict())))
    assert again.to_dict() == whole.to_dict()
    assert (again + whole).counts["rows"] == [46]
    joined = {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}
    assert {k: nonzero(v) for k, v in counted(joined).counts.items()} == {
        k: nonzero(v) for k, v in whole.counts.items()
    }
    assert report.Statistics.from_dict({}).to_dict() == report.Statistics().to_dict() == {}


def about(**changes):
    """What records.json says, as far as the page looks at it."""
    return {
        "tokenizer_digest": VOCAB.digest,
        "max_seq_length": L,
        "max_predictions_per_seq": P,
        "max_sequences_per_pack": 0,
        "mask_unit": "word",
        "masked_lm_prob": PROB,
        "sentence_objective": "nsp",
        "config": {"input_file": ["a <file>.txt"], "source": "text", "vocab_file": "v", "tfds": ""},
        "corpus": {
            "bytes": 5,
            "documents_read": 9,
            "documents_train": 6,
            "documents_held_out": 2,
            "documents_empty": 1,
        },
        "counts": {"train": {"rows": 3, "in_no_other": 4}, "held_out": {"rows": 1}},
        **changes,
    }


class Page(html.parser.HTMLParser):
    """Checks that elements are closed in order, and gathers the text and the attributes."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.tags = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def titles(page):
    return [text for text in page.text if text in ("Lengths", "Masks by position", "Words masked together", "Shares")]


@pytest.mark.parametrize(
    ("make", "unit", "changes"),
    [
        (rows, "word", {}),
        (packed, "span", {"max_sequences_per_pack": M, "sentence_objective": "sop", "mask_unit": "span"}),
        (rows, "", {"sentence_objective": "none"}),
    ],
)
def test_the_page_shows_what_was_counted(make, unit, changes):
    original = make(61)
    batch = masked(original, unit) if unit else original
    statistics = counted(batch)
    whole = {"train": statistics, "held_out": counted(masked(rows(11)))}
    source = report.html(about(**changes), whole, VOCAB)
    page = Page(source)
    text = " ".join(page.text)
    real = int((batch["input_mask"] > 0).sum())
    assert f"{real:,} tokens" in text
    assert ("These records are not masked" in text) == (not unit)
    assert len(titles(page)) == (4 if unit else 2) + 4
    assert "a <file>.txt" in text and "<b>" in text and "&amp" in text
    lengths = np.bincount(np.concatenate([np.bincount(row)[1:] for row in batch["input_mask"]]))
    for length in range(1, L + 1):
        count = int(lengths[length]) if length < len(lengths) else 0
        assert f"{length} tokens: {count:,} examples" in text
    if unit:
        total = int(batch["masked_lm_weights"].sum())
        assert f"{100 * total / real:.1f} % of the tokens masked" in text
        assert "masked_lm_prob 15 %" in text
    shown = {"nsp": "real next", "sop": "swapped"}
    objective = changes.get("sentence_objective", "nsp")
    assert {key for key, label in shown.items() if f" {label} " in text} == {objective} - {"none"}
    # Nothing is loaded from anywhere, and nothing runs.
    assert not re.search(r"https?:|<script|<link|<img|@import|url\(", source)


def test_what_became_of_documents():
    text = " ".join(Page(report.html(about(), {"train": counted(masked(rows(5)))}, VOCAB)).text)
    assert "What became of the 9 documents of the corpus." in text
    assert re.search(r"train\s+66.7 %\s+6\s+held out\s+22.2 %\s+2\s+without text\s+11.1 %\s+1", text)
    assert "duplicates, dropped" not in text
    assert re.search(r"in no other\s+4\s+0", text)


def test_a_split_without_rows_is_left_out():
    page = Page(report.html(about(), {"train": counted(masked(rows(5))), "held_out": report.Statistics()}, VOCAB))
    assert len(titles(page)) == 4
    assert "details" not in [tag for tag, _ in page.tags]


def test_records_in_which_nothing_can_be_masked_have_a_page():
    batch = rows(3)
    batch["input_ids"][batch["input_ids"] >= FIRST] = VOCAB.unk_id
    batch = masked(batch)
    assert not batch["masked_lm_weights"].any()
    Page(report.html(about(), {"train": counted(batch)}, VOCAB))


@pytest.mark.parametrize(
    ("largest", "expected"),
    [(0, [0, 1]), (1, [0, 0.5, 1]), (4, [0, 1, 2, 3, 4]), (4.1, [0, 2, 4, 6]), (19, [0, 5, 10, 15, 20])],
)
def test_ticks_are_round_and_few(largest, expected):
    np.testing.assert_allclose(charts.ticks(largest), expected)


def test_ticks_reach_the_largest_value():
    for largest in np.random.default_rng(0).lognormal(3, 5, 500):
        ticks = charts.ticks(largest)
        assert len(ticks) <= 5 and ticks[-2] < largest <= ticks[-1] * (1 + 1e-9)


@pytest.mark.parametrize(
    ("part", "whole", "expected"),
    [
        (1, 3, "33.3 %"),
        (0, 5, "0.0 %"),
        (1, 10**5, "0.001 %"),
        (1, 10**9, "< 0.0001 %"),
        (0, 0, "–"),
        (5, 5, "100.0 %"),
    ],
)
def test_a_share_that_is_there_is_never_nothing(part, whole, expected):
    assert charts.share(part, whole) == expected


def test_bars_are_as_high_as_their_values():
    values = [0, 5, 20]
    page = Page(charts.columns(values, ["a", "b", "<c>"], {1: "one"}, "things", mark=(10, "half")))
    bars = [attrs for tag, attrs in page.tags if tag == "rect" and attrs["class"] == "fill"]
    heights = [float(b["height"]) for b in bars]
    np.testing.assert_allclose(heights, np.array(values) / 20 * max(heights), atol=0.02)
    bottoms = {round(float(b["y"]) + float(b["height"]), 1) for b in bars}
    assert len(bottoms) == 1
    mark = next(attrs for tag, attrs in page.tags if attrs.get("class") == "mark")
    assert float(mark["y1"]) == pytest.approx(bottoms.pop() - max(heights) / 2, abs=0.1)
    assert {"a", "b", "<c>", "one", "things", "half"} <= set(page.text)


def test_a_ribbon_is_cut_as_its_parts():
    page = Page(charts.ribbon([("x", 1), ("y", 3), ("z", 0)], "parts"))
    widths = [float(attrs["width"]) for tag, attrs in page.tags if tag == "rect"]
    assert widths == [charts.WIDTH / 4, charts.WIDTH * 3 / 4, 0]
    assert "x: 1 (25.0 %)" in page.text
