"""TensorBoard summaries of a run."""

import contextlib
import datetime
import json
import os
import re
import time

import numpy as np
import tensorflow as tf
from tensorboard.plugins.custom_scalar import metadata as custom_scalar_metadata
from tensorboard.plugins.histogram import metadata as histogram_metadata
from tensorboard.plugins.hparams import api as hparams_api
from tensorboard.plugins.pr_curve import metadata as pr_curve_metadata

from tfbert import checks
from tfbert.watching import guesses, matrix_image, probes, progress, projector, tags, views

GO_ON = "Make space, then start again by the same command: the run goes on from its last checkpoint"
FOLDER, GUESSES, EVENTS, EVENTS_FILE = "tensorboard", "held_out_guesses", "events", "events.jsonl"
HISTOGRAM_BUCKETS = 30
# Flags that say where a run lies and when it tells of itself: no columns of the HParams panel, which shows first
# what differs between runs.
NO_HPARAMS = (
    *("output_dir", "log_steps", "eval_steps", "eval_batch_size", "profile_steps"),
    *("save_checkpoints_steps", "keep_checkpoint_max", "iterations_per_loop"),
)


def histogram(values, bounds=None):
    """Rows of (left edge, right edge, count), float64 [30, 3], between two bounds or the least and the largest value.

    `tf.summary.histogram` one-hot encodes every value in float64: 240 bytes a weight, 5.6 GB for the
    word embeddings of BERT-base.
    Values that are all one value v have edges v and v, as TensorFlow writes them.
    """
    values = np.asarray(values, np.float32)
    counts, edges = np.histogram(values[np.isfinite(values)], HISTOGRAM_BUCKETS, bounds)
    if bounds is None and np.ptp(values) == 0:  # fresh biases; an interval of NumPy's choice would stretch the chart
        counts[:], edges[:] = 0, values.flat[0]
        counts[-1] = values.size
    return np.stack([edges[:-1], edges[1:], counts], axis=1).astype(np.float64)


def _write_start(folder, resume_step):
    """Tells TensorBoard that what earlier files in the folder hold after `resume_step` does not count.

    A killed run may have written events after its last checkpoint; they will be written again.
    TensorBoard's fast loader drops them by itself when steps go back, but `--load_fast=false` only at the
    second and later starts of which it is told; so each start of the run is written.
    """
    # TensorBoard reads the files of a folder in the order of their names, which hold seconds: not two starts in one.
    prefix = "events.out.tfevents."
    if any(name.startswith(f"{prefix}{int(time.time()):010}.") for name in os.listdir(folder)):
        time.sleep(1 - time.time() % 1)
    now = time.time()
    version = tf.compat.v1.Event(wall_time=now, file_version="brain.Event:2")
    start = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
    # "-" precedes host names.
    path = os.path.join(folder, f"{prefix}{int(now):010}.-start.{os.getpid()}")
    with tf.io.TFRecordWriter(path) as file:
        file.write(version.SerializeToString())
        # The event is of the first step that is not kept.
        file.write(tf.compat.v1.Event(wall_time=now, step=resume_step + 1, session_log=start).SerializeToString())


def _hparams(given):
    """The fields of a configuration that are set and may matter to the result, as the HParams panel takes them."""
    values = {}
    for name, value in given.items():
        if value in (None, "", [], ()) or name in NO_HPARAMS:
            continue
        if isinstance(value, (list, tuple)):
            value = ",".join(map(str, value))
        values[name] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return values


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


def _events_before(run_dir):
    """The events of a run so far, {"step", "event", "text", "time"} each; a line that a kill has torn is no event."""
    path = os.path.join(run_dir, EVENTS_FILE)
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f if line.endswith("\n")]


def _histogram(tag, values, bounds=None, description=None):
    plugin = histogram_metadata.create_summary_metadata(display_name=None, description=description)
    tf.summary.write(tag, histogram(values, bounds), metadata=plugin)


class TensorBoard:
    """A hook that writes `run_dir/tensorboard/train` and `run_dir/tensorboard/held_out`.

    Args:
        watched: The run, a `progress.Watched`.
    """

    def __init__(self, watched):
        resume_step = watched.resume_step
        self._watched, self._model = watched, watched.model
        self._clock = progress.Clock(watched.rows, resume_step or 0, waited=watched.waited)
        self._probe = probes.AttentionProbe(watched.model) if watched.guess_features else None
        self._events = _events_before(watched.run_dir)
        self._described = set()
        self._folder = os.path.join(watched.run_dir, FOLDER)
        self._writers = {}
        with writing(self._folder):
            self._open(-1 if resume_step is None else resume_step)
            self._write_layout(0)
            if watched.hparams:
                self._write_hparams(watched.run_dir, watched.hparams)

    def _open(self, last_step):
        """Begins files, to which nothing after `last_step` in files before counts."""
        for split in ("train", "held_out"):
            folder = os.path.join(self._folder, split)
            tf.io.gfile.makedirs(folder)
            _write_start(folder, last_step)
            self._writers[split] = tf.summary.create_file_writer(folder)

    def _write_layout(self, step, types=False):
        plugin = custom_scalar_metadata.create_summary_metadata()
        self._has_types = types
        with self._writers["train"].as_default(step):
            layout = tags.layout(self._watched.view is not None, types).SerializeToString()
            tf.summary.write(custom_scalar_metadata.CONFIG_SUMMARY_TAG, layout, metadata=plugin)
        self._writers["train"].flush()

    def _write_hparams(self, run_dir, hparams):
        """Writes the configuration beside the held-out metrics.

        TensorBoard finds out by itself which metrics there are. Told the columns by `hparams_config`, it
        would no longer show first what differs between runs.
        """
        # Runs of one name are taken for one; of a name, the panel shows the first dozen letters.
        folder, name = os.path.split(os.path.abspath(run_dir))
        with self._writers["held_out"].as_default():
            hparams_api.hparams(_hparams(hparams), trial_id=f"{name} in {folder}")
        self._writers["held_out"].flush()

    def __call__(self, step, metrics, split):
        """Writes a report."""
        lap = self._clock.lap(step, split)
        values = {**metrics, **progress.speeds(lap, metrics, self._watched.max_seq_length)} if lap else metrics
        with writing(self._folder):
            self._write_scalars(step, values, split)
            if not self._has_types and any(name.startswith("f1_") for name in values):
                self._write_layout(step, types=True)
            if split == "train":
                self._write_weight_norms(step)
            else:
                with self._writers[split].as_default(step):
                    self._write_weights()
                    self._write_guesses()
                    self._write_view()
                self._write_attention(step)
                self._write_word_embeddings(step)
            for writer in self._writers.values():
                writer.flush()
        self._clock.skip()

    def event(self, step, name, text):
        """Writes down what befell the run.

        Args:
            step: The optimizer step at which it did.
            name: What kind of event, such as "rollback".
            text: What happened and what was done, for people.
        """
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        self._events.append({"step": step, "event": name, "text": text, "time": now})
        # TensorBoard keeps few texts of a tag, but always the last: it is to hold the whole story.
        titles = ("step", "event", "what happened", "when")
        rows = [
            [f"{e['step']:,}", *(guesses.escaped(e[key]) for key in ("event", "text", "time"))] for e in self._events
        ]
        page = "\n".join(f"| {' | '.join(row)} |" for row in (titles, ["---"] * len(titles), *rows))
        with writing(self._folder), self._writers["train"].as_default(step):
            tf.summary.text(EVENTS, page)
            count = sum(e["event"] == name for e in self._events)
            tf.summary.scalar(f"{EVENTS}/{name}", count, description="How many since the run began.")
            self._writers["train"].flush()

    def _write_scalars(self, step, values, split):
        with self._writers[split].as_default(step):
            for name, value in values.items():
                # TensorBoard keeps the first description of a tag; with every value it would be most of the file.
                description = None if (split, name) in self._described else tags.description_of(name)
                self._described.add((split, name))
                tf.summary.scalar(tags.tag(name), value, description=description)

    def _write_weight_norms(self, step):
        if self._model is not None:
            norms = probes.weight_norms(self._model.trainable_variables)
            self._write_scalars(step, {f"{tags.WEIGHT_NORM}/{part}": norm for part, norm in norms.items()}, "train")

    def _write_weights(self):
        for v in self._model.trainable_variables if self._model else ():
            _histogram(tags.weight_tag(v.path), v)

    def _write_guesses(self):
        if self._probe is not None:
            guessed = guesses.masked_guesses(self._model, self._watched.guess_features, self._watched.vocab)
            tf.summary.text(GUESSES, guesses.as_markdown(guessed))

    def _write_view(self):
        """Writes what the evaluation answered to the task's examples: an image, curves, and pages of text."""
        view = self._watched.view and self._watched.view()
        if view is None:
            return
        if view.confusion is not None and (image := matrix_image.draw(view.confusion)) is not None:
            about = f"How many {view.confusion.of} of each label were given each label; colour: share of the row."
            tf.summary.image(tags.CONFUSION, image[np.newaxis], description=about)
        for curve in view.curves:
            plugin = pr_curve_metadata.create_summary_metadata(curve.name, "", len(views.THRESHOLDS))
            values = np.concatenate([curve.counts, [curve.precision, curve.recall]]).astype(np.float32)  # [6, T]
            tf.summary.write(f"{tags.PRECISION_RECALL}/{curve.name}", values, metadata=plugin)
        for table in view.tables:
            tf.summary.text(f"held_out_{table.name}", views.as_markdown(table))

    def _write_attention(self, step):
        """Writes beside the figures of training, for the HParams panel makes a column of each held-out scalar."""
        if self._probe is None:
            return
        entropies = self._probe.entropies(self._watched.guess_features)  # [layers, N]
        means = {f"{tags.ATTENTION_ENTROPY}/layer_{i:02}": of_heads.mean() for i, of_heads in enumerate(entropies)}
        self._write_scalars(step, means, "train")
        with self._writers["train"].as_default(step):
            for layer, of_heads in enumerate(entropies):
                name = f"{tags.HEADS_ENTROPY}/layer_{layer:02}"
                _histogram(tags.tag(name), of_heads, (0.0, 1.0), tags.description_of(name))

    def _write_word_embeddings(self, step):
        """Points for the projector: the newest alone, for they are as large as the table."""
        if self._watched.wordpiece_counts is None:
            return
        ids, columns = projector.wordpieces(self._watched.vocab.tokens, self._watched.wordpiece_counts)
        table = np.asarray(self._model.get_layer("embeddings").word_embeddings)  # [V, E]
        projector.write(os.path.join(self._folder, "held_out"), f"word_embeddings_at_{step}", table[ids], columns)

    def close(self):
        """Writes what is left and closes the files."""
        with writing(self._folder):
            for writer in self._writers.values():
                writer.close()
