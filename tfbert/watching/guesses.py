"""What the model answers on held-out sentences, as objects and as a page that a person reads."""

import dataclasses
import re

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Masked:
    """One masked wordpiece: what the model saw there, the truth, and [(wordpiece, probability)], best first."""

    saw: str
    truth: str
    guesses: tuple


@dataclasses.dataclass(frozen=True)
class Guessed:
    """One held-out record.

    Attributes:
        segments: Its one or two texts; masked wordpieces are ⟦1⟧, ⟦2⟧, ... there.
        masked: A `Masked` for each of those, in that order.
        is_next: Whether the second text follows the first; None if the record does not tell.
        not_next_probability: What the model gives to a second text that does not: a random one, or one that
            stood before the first.
    """

    segments: tuple
    masked: tuple
    is_next: bool | None
    not_next_probability: float


def readable(pieces):
    """Joins wordpieces into text as a person writes it.

    >>> readable(["it", "'", "s", "un", "##like", "##ly", "(", "so", "far", ")", "."])
    "it's unlikely (so far)."
    """
    text = " ".join(pieces).replace(" ##", "")
    text = re.sub(r" ([.,;:!?%)\]}])", r"\1", text)
    text = re.sub(r"([(\[{]) ", r"\1", text)
    return re.sub(r"(\w) (['’]) (\w)", r"\1\2\3", text)


def masked_guesses(model, features, vocab, top_k=5):
    """Lets the model fill the masked places of records; of packed rows, those of the first example.

    Args:
        model: Of `heads.build_pretrainer`.
        features: {name: int32 or float32 [B, ...]} of a handful of records, as the input pipeline gives them.
        vocab: The `Vocab` that the records were made with.
        top_k: Answers for each place.

    Returns:
        A list of B `Guessed`.
    """
    outputs = model({x.name: tf.convert_to_tensor(features[x.name]) for x in model.inputs}, training=False)
    likely, ids = tf.math.top_k(tf.nn.softmax(outputs["masked_lm_logits"]), min(top_k, len(vocab)))  # [B, P, K]
    not_next = tf.nn.softmax(outputs["next_sentence_logits"]).numpy().reshape(len(ids), -1)[:, 1]  # [B]
    likely, ids = likely.numpy(), ids.numpy()
    records = {name: np.asarray(value) for name, value in features.items()}
    return [
        _guessed({name: value[row] for name, value in records.items()}, ids[row], likely[row], not_next[row], vocab)
        for row in range(len(ids))
    ]


def _guessed(record, ids, likely, not_next, vocab):
    """The `Guessed` of one record: its features without the batch, [P, K] answers, and a probability."""
    pieces = [vocab.tokens[i] for i in record["input_ids"]]
    first = record["input_mask"] == 1  # packed rows number their examples
    slots = np.flatnonzero((record["masked_lm_weights"] > 0) & first[record["masked_lm_positions"]])
    slots = slots[np.argsort(record["masked_lm_positions"][slots])]
    masked = []
    for number, slot in enumerate(slots, 1):
        place, truth = record["masked_lm_positions"][slot], vocab.tokens[record["masked_lm_ids"][slot]]
        guesses = tuple((vocab.tokens[i], float(p)) for i, p in zip(ids[slot], likely[slot]))
        masked.append(Masked(pieces[place], truth, guesses))
        # A place inside a word stays joined to it.
        pieces[place] = ("##" if truth.startswith("##") else "") + f"⟦{number}⟧"
    is_text = first & ~np.isin(record["input_ids"], (vocab.cls_id, vocab.sep_id))
    segments = [is_text & (record["segment_ids"] == s) for s in (0, 1)]
    texts = [readable([pieces[i] for i in np.flatnonzero(s)]) for s in segments if s.any()]
    is_next = bool(record["next_sentence_labels"][0] == 0) if "next_sentence_labels" in record else None
    return Guessed(tuple(texts), tuple(masked), is_next, float(not_next))


def escaped(text):
    """Text that Markdown and HTML leave alone, also in a cell of a table."""
    return re.sub(r"[\\`*_{}\[\]()#+\-.!|<>&~]", lambda m: f"&#{ord(m[0])};", text)


def _row(number, masked):
    """A line of the table: number, truth, what the model saw, and its answers, the right one in bold."""
    if masked.saw == masked.truth:
        saw = "the word itself"
    else:
        saw = escaped(masked.saw)
    cells = [f"{number}", f"**{escaped(masked.truth)}**", saw]
    for piece, probability in masked.guesses:
        shown = f"{escaped(piece)} {100 * probability:.0f}&nbsp;%"
        cells.append(f"**✓ {shown}**" if piece == masked.truth else shown)
    return f"| {' | '.join(cells)} |"


def as_markdown(guessed):
    """`masked_guesses` as a page: for each record its text, then a table of its masked places."""
    page = []
    for number, record in enumerate(guessed, 1):
        places = record.masked
        first = sum(m.guesses[0][0] == m.truth for m in places)
        among = sum(m.truth in [piece for piece, _ in m.guesses] for m in places)
        answers = max((len(m.guesses) for m in places), default=0)
        page.append(
            f"### Sentences {number}: {first} of {len(places)} words right at the first guess, "
            f"{among} among the first {answers}"
        )
        page += [re.sub("⟦([0-9]+)⟧", r"**⟦\1⟧**", f"> {escaped(text)}") + "\n" for text in record.segments]
        if len(record.segments) == 2 and record.is_next is not None:
            truth = "follows" if record.is_next else "does not follow"
            given = 1 - record.not_next_probability if record.is_next else record.not_next_probability
            mark = "✓ right" if given > 0.5 else "✗ wrong"
            page.append(f"The second part {truth} the first; the model gives {100 * given:.0f} % to that: {mark}.\n")
        titles = ["place", "truth", "the model saw", *(f"guess {k + 1}" for k in range(answers))]
        page.append(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
        page[-1] += "".join(f"\n{_row(i, m)}" for i, m in enumerate(places, 1)) + "\n"
    return "\n".join(page)
