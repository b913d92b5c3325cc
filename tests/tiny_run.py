"""A run folder with the tiny model, random weights and a vocabulary of real words; texts to ask it."""

import os
import signal
import time

import numpy as np
import pytest

from tests import reference, tiny
from tfbert import heads, run_folder
from tfbert.loop import checkpoints
from tfbert.text import vocab as vocab_lib

MAX_SEQ_LENGTH = 19  # shorter than tiny.MAX_L, so that the one cannot be taken for the other
STEP = 7
TOP_K = 4

_WORDS = ["the", "fox", "lazy", "dog", "word", "returns", "of", "list", "warm", "up", "mask", "sep", "cafe"]
_WORDS += ["##s", "##ed", "un", "##able", "[", "]", ".", ",", "!", "東", "京"]
_LETTERS = [chr(c) for c in range(ord("a"), ord("z") + 1)]

# text -> (masks in the text, masks answered if at most MAX_MASKS are, whether it is cut)
MAX_MASKS = 3
TEXTS = {
    b"the lazy [MASK] returns": (1, 1, False),
    b"[MASK] of [MASK]": (2, 2, False),
    b"x[MASK]y.[MASK]": (2, 2, False),
    b"": (0, 0, False),
    b"no mask at all": (0, 0, False),
    b"[mask] [ MASK ] [Mask] MASK": (0, 0, False),
    b"the [SEP] [CLS] [PAD] of a [MASK]": (1, 1, False),
    b"caf\xc3\xa9 \xe6\x9d\xb1\xe4\xba\xac [MASK]": (1, 1, False),
    b"the \xff\xfe\xc3 dog [MASK]": (1, 1, False),
    b"[MASK] [MASK] [MASK] [MASK] [MASK]": (5, 3, False),
    b"[MASK] " + b"dog " * 17 + b"[MASK]": (2, 1, True),
    b"dog " * 17: (0, 0, False),
    b"dog " * 18: (0, 0, True),
    b"[MASK]" * 40: (40, 3, True),
}


def vocab(do_lower_case=True):
    """tiny.V entries; the special tokens stand in the middle, so that no id can be taken for another."""
    tokens = [f"word{i}" for i in range(13)] + list(vocab_lib.SPECIAL_TOKENS) + _WORDS + _LETTERS
    return vocab_lib.Vocab((*tokens, *(f"tail{i}" for i in range(tiny.V - len(tokens)))), do_lower_case)


def make(folder, seed=0, records=True):
    """Writes a run folder and returns its model, a Keras model."""
    model = tiny.randomize(heads.build_pretrainer(tiny.config()), seed)
    more = {"records": {"max_seq_length": MAX_SEQ_LENGTH}} if records else {}
    run_folder.create(str(folder), tiny.config(), vocab(), {"pretrain": {}, **more})
    checkpoints.Checkpoints(str(folder), model).save(STEP)
    return model


def expected(model, ids):
    """What `tests.reference` says about one row of wordpieces, without padding.

    Args:
        model: Keras model.
        ids: A list of ids with [CLS] and [SEP].

    Returns:
        (positions of the masks, probabilities [masks, V], outputs of the reference for a batch of one row).
    """
    positions = [i for i, id_ in enumerate(ids) if id_ == vocab().mask_id]
    features = {
        "input_ids": np.array([ids]),
        "input_mask": np.ones([1, len(ids)], np.int32),
        "segment_ids": np.zeros([1, len(ids)], np.int32),
        "masked_lm_positions": np.array([positions or [0]]),
    }
    outputs = reference.pretrainer(features, tiny.weights(model), tiny.LAYERS, tiny.N)
    probabilities = [reference.softmax(logits) for logits in outputs["masked_lm_logits"][0]]
    return positions, np.array(probabilities)[: len(positions)], outputs


def check_answers(answers, row, positions, probabilities, k):
    """Asserts that a row of a `FillMask`'s outputs is what the reference says."""
    masks = len(positions)
    assert answers["positions"][row].tolist()[:masks] == positions
    assert (answers["positions"][row, masks:] == -1).all() and (answers["ids"][row, masks:] == -1).all()
    assert (answers["tokens"][row, masks:] == b"").all() and (answers["probabilities"][row, masks:] == 0).all()
    for i in range(masks):
        best = np.argsort(-probabilities[i], kind="stable")[:k]
        assert answers["ids"][row, i].tolist() == best.tolist()
        assert [t.decode() for t in answers["tokens"][row, i]] == [vocab().tokens[j] for j in best]
        np.testing.assert_allclose(answers["probabilities"][row, i], probabilities[i, best], rtol=2e-5)


def check_same_row(several, row, alone):
    """Asserts that a row of a batch says what the text says alone; M and L may be longer in the batch."""
    for name, one in alone.items():
        many = several[name][row : row + 1]
        if many.ndim > 1:
            padding, many = many[:, one.shape[1] :], many[:, : one.shape[1]]
            if name in ("ids", "positions", "starts", "ends"):
                assert (padding == -1).all()
        if one.dtype.kind == "f":
            np.testing.assert_allclose(many, one, rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_array_equal(many, one)


def run_until(program, flags, step):
    """Runs a program that trains up to the checkpoint of a step, as one that was ended by SIGTERM there."""
    save = checkpoints.Checkpoints.save

    def save_and_stop(self, at):
        prefix = save(self, at)
        if at == step:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.3)
        return prefix

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints.Checkpoints, "save", save_and_stop)
        assert program.run(flags) == 0
