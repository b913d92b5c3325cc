"""TensorBoard summaries of a run."""

import contextlib
import os
import re
import time

import numpy as np
import tensorflow as tf
from tensorboard.plugins.histogram import metadata as histogram_metadata
from tensorboard.plugins.hparams import api as hparams_api

from tfbert import checks, guesses, progress

GO_ON = "Make space, then start again by the same command: the run goes on from its last checkpoint"
FOLDER, GUESSES = "tensorboard", "held_out_guesses"
HISTOGRAM_BUCKETS = 30


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
            guessed = guesses.masked_guesses(self._model, self._guess_features, self._vocab)
            tf.summary.text(GUESSES, guesses.as_markdown(guessed))

    def close(self):
        """Writes what is left and closes the files."""
        with writing(self._folder):
            for writer in self._writers.values():
                writer.close()
