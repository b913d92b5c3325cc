"""Exports against strangers: texts that no person writes, requests of the wrong shape; and a fuzz of 100,000 texts."""

import functools
import random
import re
import time

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

from export import loaders, prepared, saved_model, signatures
from tests import tiny, tiny_run, tiny_tasks

pytestmark = pytest.mark.slow  # exports, and 100,000 texts

MB = 1_000_000
IDS = signatures.IDS
LIMIT = 4096  # --max_input_bytes
FUZZ, ROWS, ALONE = 100_000, 4000, 500  # texts in all, in a request, of them asked again among others

HOSTILE = {
    "ten megabytes of words": b"fox " * (10 * MB // 4),
    "ten megabytes without a space": b"x" * (10 * MB),
    "a million combining marks": b"e" + "\u0301".encode() * MB,
    "marks and nothing else": "\u0301\u0323".encode() * 500,
    "zero-width joiners": "\u200d\u200b\ufeff".encode() * 400,
    "nul bytes": b"\x00" * 300,
    "nul inside a word": b"fo\x00x",
    "every control character": "".join(map(chr, (*range(32), *range(127, 160)))).encode(),
    "bytes that are no UTF-8": bytes(range(128, 256)) * 3,
    "a character cut in two": "東".encode()[:2],
    "overlong and surrogate bytes": b"\xc0\x80\xed\xa0\x80\xf4\x90\x80\x80",
    "right to left override": "\u202efox\u202c \u2066dog\u2069".encode(),
    "special tokens": b"[CLS] [SEP] [PAD] [UNK] [MASK] [SEP][SEP]",
    "brackets": b"[" * 1000 + b"MASK" + b"]" * 1000,
    "a thousand masks": b"[MASK]" * 1000,
    "astral characters": "\U0001f642\U000e0041\U0010ffff".encode() * 200,
    "a word of many characters": "ü".encode() * 900,
    "nothing": b"",
    "white space": b" \t\r\n\x0b\x0c" + "\u2028\u00a0\u3000".encode(),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """name -> SavedModel of masks, tags (in windows) or answers, with a limit of bytes; made when asked for."""
    folder = tmp_path_factory.mktemp("hostile")

    @functools.cache
    def make(name):
        run_dir, path = str(folder / name), str(folder / f"{name}_served")
        tiny_run.make(run_dir) if name == "masks" else tiny_tasks.make(run_dir, name)
        ready = prepared.prepare(saved_model.SavedModelConfig(run_dir, top_k=2, max_masks=3), LIMIT)
        served = signatures.Served(ready.answering, ready.model, ready.run.dir)
        tf.saved_model.save(served, path, signatures=served.signatures())
        return path

    return make


def columns(name, texts):
    """A request about texts: those of questions are the question and the context."""
    return {"question": texts, "context": texts} if name == "answer" else {"text": texts}


@pytest.mark.parametrize("name", ["masks", "tag", "answer"])
def test_each_has_an_answer_within_bounds_and_a_row_equals_that_row_alone(exported, name):
    texts = list(HOSTILE.values())
    requests = [("serving_default", columns(name, rows)) for rows in (texts, *([t] for t in texts))]
    started = time.process_time()
    several, *alone = loaders.v1_session(exported(name), requests)
    assert time.process_time() - started < 120  # 20 MB and more, twice; the loading of the model is in it
    for row, (what, text) in enumerate(HOSTILE.items()):
        # A text that says the same a thousand times has a thousand best answers: which of them comes first is rounding.
        places = ("answer_start", "answer_end", "starts", "ends") if name == "answer" else ()
        tiny_run.check_same_row(several, row, {key: v for key, v in alone[row].items() if key not in places})
        assert several["truncated"][row] or len(text) <= LIMIT, what
        for key, value in alone[row].items():
            assert value.dtype.kind != "f" or np.isfinite(value).all(), (what, key)
        if name == "masks":
            assert several["mask_count"][row] == len(re.findall(rb"\[MASK\]", text[:LIMIT])), what
        elif name == "tag":
            starts, ends = alone[row]["starts"][0], alone[row]["ends"][0]
            assert [text[a:b] for a, b in zip(starts, ends) if a >= 0] == [w for w in alone[row]["words"][0] if w], what
        else:
            for answered, i in ((alone[row], 0), (several, row)):
                start, end = answered["answer_start"][i], answered["answer_end"][i]
                assert answered["answer"][i] == (text[start:end] if start >= 0 else b""), what


def test_no_user_can_write_a_special_token(exported):
    (found,) = loaders.v1_session(exported("tag"), [("tokenize", {"text": [HOSTILE["special tokens"]]})])
    special = {tiny_run.vocab().ids[t] for t in ("[CLS]", "[SEP]", "[PAD]", "[MASK]")}
    assert not special & set(found["ids"][0].tolist())


def text(value):
    return np.array(value, object)


WRONG = [
    ("serving_default", {"text": np.array([1.5], np.float32)}),
    ("serving_default", {"text": text("a")}),
    ("serving_default", {"text": text([["a", "b"]])}),
    ("choose", {"text": text(["[MASK]"]), "candidates": text(["fox"])}),
    ("choose", {"text": text(["[MASK]"]), "candidates": text([["fox"], ["dog"]])}),
    ("choose", {"text": text(["[MASK]", "[MASK]"]), "candidates": text([["fox"]])}),
    ("from_ids", {n: np.ones([1, 3], np.int64) for n in IDS}),
    ("from_ids", {n: np.ones([3], np.int32) for n in IDS}),
    ("from_ids", {n: np.full([1, 3], -5, np.int32) for n in IDS}),
    ("from_ids", {n: np.ones([1 + (n == "input_ids"), 3], np.int32) for n in IDS}),
    ("detokenize", {"input_ids": np.ones([3], np.int32)}),
    ("detokenize", {"input_ids": np.full([1, 3], tiny.V, np.int32)}),
]


def test_wrong_types_and_ranks_are_errors(exported):
    """INVALID_ARGUMENT, and no crash; from a callable of a session, which looks at nothing before it runs the graph."""
    folder = exported("masks")
    defs = loaders.signatures(folder)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.saved_model.load(session, ["serve"], folder)

        @functools.cache  # one for all requests of a signature: TensorFlow goes through the whole graph for each
        def callable_of(signature, names):
            fetches = [x.name for _, x in sorted(defs[signature].outputs.items())]
            feeds = [defs[signature].inputs[name].name for name in names]
            return session._make_callable_from_options(config_pb2.CallableOptions(feed=feeds, fetch=fetches))

        for signature, inputs in WRONG:
            ask = callable_of(signature, tuple(inputs))
            with pytest.raises(tf.errors.InvalidArgumentError):
                print(signature, inputs, ask(*inputs.values()))
        right = session.make_callable(
            defs["detokenize"].outputs["text"].name, [defs["detokenize"].inputs["input_ids"].name]
        )
        ids = [tiny_run.vocab().ids[t] for t in ("[CLS]", "un", "##able", "fox", "[SEP]", "[PAD]")]
        assert right(np.array([ids, [-1] * 6], np.int32)).tolist() == [b"unable fox", b""]


def _strings(count):
    """Generated texts: stretches of alphabets that are known for trouble, and bytes."""
    rng = random.Random(7)
    alphabets = [
        "abcdefghij ", "ABC DÉ ß İ ", " \t\n\r\u00a0\u2028", ".,!?-_[](){}<>#", "東京都 の",
        "\u0301\u0323\u20dd", "\u200b\u200d\ufeff\u00ad", "\u202e\u2066\u2069", "🙂👩‍👩‍👧🏳️", "한국어 ᄀ",
        "ไทย", "नमस्ते ", "".join(map(chr, range(32))), "\u0000\ufffd\ue000\U000f0000", "ﬁ ² Ａ １",
    ]  # fmt: skip
    literals = ["[MASK]", "[CLS]", "[SEP]", "[PAD]", "[UNK]", "[mask]", "[MASK", "##s", "fox", "unable", "x" * 250]
    found = []
    for _ in range(count):
        parts = []
        for _ in range(rng.choice([0, 1, 1, 2, 3, 5])):
            kind = rng.random()
            if kind < 0.15:
                parts.append(rng.choice(literals).encode())
            elif kind < 0.25:
                parts.append(rng.randbytes(rng.randrange(6)))
            elif kind < 0.3:
                point = rng.choice([rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)])
                parts.append((chr(point) * rng.choice([1, 3, 40])).encode())
            else:
                letters = rng.choice(alphabets)
                parts.append("".join(rng.choices(letters, k=rng.choice([1, 3, 8, 20]))).encode())
        text = b"".join(parts)
        found.append(text[: -1 - rng.randrange(2)] if rng.random() < 0.05 else text)  # ends inside of a character
    return found


def test_fuzz(exported, capsys):
    """Every text has an answer; pieces stand at their bytes; asked again among other texts the answer is the same."""
    texts = _strings(FUZZ)
    requests = [("serving_default", {"text": texts[i : i + ROWS]}) for i in range(0, FUZZ, ROWS)]
    requests += [("tokenize", inputs) for _, inputs in requests]
    again = random.Random(8).sample(range(FUZZ), ALONE)
    requests.append(("serving_default", {"text": [texts[i] for i in again]}))
    answers = loaders.v1_session(exported("masks"), requests)
    masked, pieced, again_answers = answers[: FUZZ // ROWS], answers[FUZZ // ROWS : -1], answers[-1]
    counts = dict.fromkeys(("texts", "bytes", "not UTF-8", "empty", "truncated", "masks", "wordpieces", "alike"), 0)
    for n, (found, pieces) in enumerate(zip(masked, pieced)):
        rows = texts[n * ROWS : (n + 1) * ROWS]
        assert np.isfinite(found["probabilities"]).all() and (found["probabilities"].sum(-1) < 1 + 1e-5).all()
        here = pieces["ids"] >= 0
        starts, ends = pieces["starts"], pieces["ends"]
        lengths = np.array([[len(text)] for text in rows])
        assert ((starts < ends) & (ends <= lengths))[here].all() and (starts[~here] == -1).all()
        assert (np.diff(starts, axis=1) >= 0)[here[:, 1:]].all()
        assert found["mask_count"].tolist() == [len(re.findall(rb"\[MASK\]", text)) for text in rows]
        counts["texts"] += len(rows)
        counts["bytes"] += sum(map(len, rows))
        counts["not UTF-8"] += sum(text.decode(errors="replace").encode() != text for text in rows)
        counts["empty"] += sum(not text for text in rows)
        counts["truncated"] += int(found["truncated"].sum())
        counts["masks"] += int((found["positions"] >= 0).sum())
        counts["wordpieces"] += int(pieces["count"].sum())
    for row, i in enumerate(again):
        first = {name: value[i % ROWS : i % ROWS + 1] for name, value in masked[i // ROWS].items()}
        one = {name: value[row : row + 1] for name, value in again_answers.items()}
        tiny_run.check_same_row(first, 0, one)
        counts["alike"] += 1
    with capsys.disabled():
        print("\nfuzz:", ", ".join(f"{value:,} {name}" for name, value in counts.items()))
    assert counts["texts"] == FUZZ and counts["masks"] > 2_000 and counts["not UTF-8"] > 5_000
