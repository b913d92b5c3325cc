"""TensorBoard summaries of a run, and what the model answers on held-out sentences."""

import contextlib
import dataclasses
import os
import re
import time

import numpy as np
import tensorflow as tf
from tensorboard.plugins.histogram import metadata as histogram_metadata
from tensorboard.plugins.hparams import api as hparams_api

from tfbert import checks, progress

GO_ON = "Make space, then start again by the same command: the run goes on from its last checkpoint"
FOLDER, GUESSES = "tensorboard", "held_out_guesses"
HISTOGRAM_BUCKETS = 30


# --- What the model answers ---------------------------------------------------------------------------


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


def _escaped(text):
    """Text that Markdown and HTML leave alone, also in a cell of a table."""
    return re.sub(r"[\\`*_{}\[\]()#+\-.!|<>&~]", lambda m: f"&#{ord(m[0])};", text)


def _row(number, masked):
    """A line of the table: number, truth, what the model saw, and its answers, the right one in bold."""
    if masked.saw == masked.truth:
        saw = "the word itself"
    else:
        saw = _escaped(masked.saw)
    cells = [f"{number}", f"**{_escaped(masked.truth)}**", saw]
    for piece, probability in masked.guesses:
        shown = f"{_escaped(piece)} {100 * probability:.0f}&nbsp;%"
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
        page += [re.sub("⟦([0-9]+)⟧", r"**⟦\1⟧**", f"> {_escaped(text)}") + "\n" for text in record.segments]
        if len(record.segments) == 2 and record.is_next is not None:
            truth = "follows" if record.is_next else "does not follow"
            given = 1 - record.not_next_probability if record.is_next else record.not_next_probability
            mark = "✓ right" if given > 0.5 else "✗ wrong"
            page.append(f"The second part {truth} the first; the model gives {100 * given:.0f} % to that: {mark}.\n")
        titles = ["place", "truth", "the model saw", *(f"guess {k + 1}" for k in range(answers))]
        page.append(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
        page[-1] += "".join(f"\n{_row(i, m)}" for i, m in enumerate(places, 1)) + "\n"
    return "\n".join(page)


# --- TensorBoard --------------------------------------------------------------------------------------


def tag(name):
    """A metric's tag: its known name in one of the sections `quality` and `training`."""
    return f"{'quality' if name.endswith(('loss', 'accuracy')) else 'training'}/{name}"


def weight_tag(path):
    """A weight's tag: one section for each layer, after those of the metrics.

    >>> weight_tag("bert/encoder/layer_3/attention/self/query/kernel")
    'weights.layer_03/attention/self/query/kernel'
    >>> weight_tag("cls/predictions/output_bias")
    'weights.cls.predictions/output_bias'
    """
    path = re.sub(r"^bert/(encoder/)?", "", path).replace("cls/", "cls.")
    # Cards have room for about fifty letters, and sections are sorted as text.
    return "weights." + re.sub(r"^layer_(\d+)", lambda m: f"layer_{int(m[1]):02}", path)


def histogram(values):
    """Rows of (left edge, right edge, count), float64 [30, 3].

    `tf.summary.histogram` one-hot encodes every value in float64: 240 bytes a weight, 5.6 GB for the
    word embeddings of BERT-base.
    Values that are all one value v have edges v and v, as TensorFlow writes them.
    """
    values = np.asarray(values, np.float32)
    counts, edges = np.histogram(values[np.isfinite(values)], HISTOGRAM_BUCKETS)
    if np.ptp(values) == 0:  # fresh biases; an interval of NumPy's choice would stretch the chart
        counts[:], edges[:] = 0, values.flat[0]
        counts[-1] = values.size
    return np.stack([edges[:-1], edges[1:], counts], axis=1).astype(np.float64)


def _write_start(folder, resume_step):
    """Tells TensorBoard that what earlier files in the folder hold after `resume_step` does not count.

    A killed run may have written events after its last checkpoint; they will be written again.
    TensorBoard's fast loader drops them by itself when steps go back, but `--load_fast=false` only at the
    second and later starts of which it is told; so each start of the run is written.
    """
    now = time.time()
    version = tf.compat.v1.Event(wall_time=now, file_version="brain.Event:2")
    start = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
    # TensorBoard reads the files of a folder in the order of their names, and "-" precedes host names.
    path = os.path.join(folder, f"events.out.tfevents.{int(now):010}.-start.{os.getpid()}")
    with tf.io.TFRecordWriter(path) as file:
        file.write(version.SerializeToString())
        # The event is of the first step that is not kept.
        file.write(tf.compat.v1.Event(wall_time=now, step=resume_step + 1, session_log=start).SerializeToString())


def _hparam(value):
    """A field of a configuration as the HParams panel takes it."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return value if isinstance(value, (bool, int, float, str)) else str(value)


@contextlib.contextmanager
def writing(folder):
    """Words TensorFlow's errors of writing."""
    try:
        yield
    except (tf.errors.OpError, OSError) as e:
        # TensorFlow puts the name of its op before the message, and what it did on the way after it.
        reason = re.sub(r"^\{\{.*?\}\} ", "", getattr(e, "message", None) or str(e)).splitlines()[0]
        raise checks.error(
            "the run folder must be writable and its disk must have space left",
            reason,
            folder,
            GO_ON,
        ) from e


class TensorBoard:
    """A hook that writes `run_dir/tensorboard/train` and `run_dir/tensorboard/held_out`.

    Args:
        watched: The run, a `progress.Watched`.
    """

    def __init__(self, watched):
        resume_step = watched.resume_step
        self._max_seq_length = watched.max_seq_length
        self._clock = progress.Clock(watched.rows, resume_step or 0, waited=watched.waited)
        self._model, self._guess_features, self._vocab = watched.model, watched.guess_features, watched.vocab
        self._folder = os.path.join(watched.run_dir, FOLDER)
        self._writers = {}
        with writing(self._folder):
            for split in ("train", "held_out"):
                folder = os.path.join(self._folder, split)
                tf.io.gfile.makedirs(folder)
                _write_start(folder, -1 if resume_step is None else resume_step)
                self._writers[split] = tf.summary.create_file_writer(folder)
            if watched.hparams:
                self._write_hparams(watched.run_dir, watched.hparams)

    def _write_hparams(self, run_dir, hparams):
        """Writes the configuration beside the held-out metrics.

        TensorBoard finds out by itself which metrics there are. Told the columns by `hparams_config`, it
        would no longer show first what differs between runs.
        """
        given = {name: _hparam(value) for name, value in hparams.items() if value not in (None, "", [], ())}
        with self._writers["held_out"].as_default():
            hparams_api.hparams(given, trial_id=os.fspath(run_dir))
        self._writers["held_out"].flush()

    def __call__(self, step, metrics, split):
        """Writes a report."""
        lap = self._clock.lap(step, split)
        values = {**metrics, **progress.speeds(lap, metrics, self._max_seq_length)} if lap else metrics
        with writing(self._folder), self._writers[split].as_default(step):
            for name, value in values.items():
                tf.summary.scalar(tag(name), value)
            if split == "held_out":
                self._write_weights()
                self._write_guesses()
            self._writers[split].flush()
        self._clock.skip()

    def _write_weights(self):
        plugin = histogram_metadata.create_summary_metadata(display_name=None, description=None)
        for v in self._model.trainable_variables if self._model else ():
            tf.summary.write(weight_tag(v.path), histogram(v), metadata=plugin)

    def _write_guesses(self):
        if self._guess_features is not None:
            guessed = masked_guesses(self._model, self._guess_features, self._vocab)
            tf.summary.text(GUESSES, as_markdown(guessed))

    def close(self):
        """Writes what is left and closes the files."""
        with writing(self._folder):
            for writer in self._writers.values():
                writer.close()
