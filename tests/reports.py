"""What hooks are called with in tests, and a clock that stands still unless told."""

from tests import tiny
from tfbert.text import vocab as vocab_lib

TRAIN = {
    "loss": 7.25,
    "masked_lm_loss": 6.5,
    "masked_lm_accuracy": 0.234,
    "next_sentence_loss": 0.75,
    "next_sentence_accuracy": 0.61,
    "learning_rate": 1e-4,
    "gradient_norm": 1.5,
    "padding_share": 0.11,
}
HELD_OUT = {name: value for name, value in TRAIN.items() if "loss" in name or "accuracy" in name}
HELD_OUT["masked_lm_unigram_accuracy"] = 0.06


class Time:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def vocabulary():
    """97 entries: words and suffixes that need escaping in Markdown among them."""
    words = ["|", "*", "_", "<b>", "##ing", "play", "(", ")", ".", "'", "s", "it"]
    return vocab_lib.Vocab((*vocab_lib.SPECIAL_TOKENS, *words, *(f"w{i}" for i in range(tiny.V - 5 - len(words)))))
