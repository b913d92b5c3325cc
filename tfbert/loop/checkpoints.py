"""Checkpoints `ckpt-N`: named tensors, whole or absent, and strict both ways.

A checkpoint is a TensorFlow tensor bundle, `ckpt-N.index` and `ckpt-N.data-00000-of-00001`, readable with
`tf.train.load_checkpoint`. Its names are the variables' paths (`bert/embeddings/word_embeddings`), then
`optimizer/...` and `loop/...`. It is written under another name, flushed to the disk and renamed, the index
last: a `ckpt-N.index` that exists has all of its data. TensorFlow checks a checksum of each tensor on
reading, so that what was written is read back before it is renamed, and a file that was damaged later is
noticed too. Training does not wait for the disk: it waits until the tensors are copied, and a thread writes them.
"""

import concurrent.futures
import contextlib
import os
import re

import tensorflow as tf
from absl import logging

from tfbert import checks
from tfbert.loop import retention

OPTIMIZER, LOOP = "optimizer/", "loop/"
_DATA, _INDEX = ".data-00000-of-00001", ".index"
_UNFINISHED, _DAMAGED = "unfinished-", ".damaged"


class DamagedCheckpoint(checks.InputError):
    """A checkpoint whose files cannot be read to their end, or whose checksums do not match."""


def prefix_of(run_dir, step):
    """The path prefix of the checkpoint of a step."""
    return os.path.join(run_dir, f"ckpt-{step}")


def saved_steps(run_dir):
    """The steps of the checkpoints in a folder, ascending; [] if there is no such folder."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        found = (re.fullmatch(r"ckpt-(\d+)\.index", name) for name in os.listdir(run_dir))
        return sorted(int(match[1]) for match in found if match)
    return []


def read_best(run_dir):
    """The `retention.Best` of the checkpoints in a folder; None if nothing says which it is."""
    return retention.read_best(run_dir, saved_steps(run_dir))


def model_variables(model):
    """{path: variable} of a Keras model."""
    return _by_unique_name((v.path, v) for v in model.variables)


def optimizer_variables(optimizer):
    """{`optimizer/...`: variable}. Keras numbers its optimizers (`adam_w_1/`), so that part is dropped."""
    return _by_unique_name((OPTIMIZER + v.path.removeprefix(f"{optimizer.name}/"), v) for v in optimizer.variables)


def _by_unique_name(pairs):
    variables = {}
    for name, variable in pairs:
        if name in variables:
            raise ValueError(f"Each variable needs its own name; {name!r} came twice.")
        variables[name] = variable
    return variables


def _differences(stored, wanted):
    """One line for each name that is in one alone or has another shape or type: {name: (shape, dtype)} twice."""
    lines = [f"{name}: in the checkpoint only" for name in sorted(stored.keys() - wanted.keys())]
    lines += [f"{name}: in the model only" for name in sorted(wanted.keys() - stored.keys())]
    for name in sorted(stored.keys() & wanted.keys()):
        if stored[name] != wanted[name]:
            shapes = " and ".join(
                f"{dtype} {shape} in the {where}"
                for (shape, dtype), where in ((stored[name], "checkpoint"), (wanted[name], "model"))
            )
            lines.append(f"{name}: {shapes}")
    return lines


@contextlib.contextmanager
def _naming_damage(prefix):
    try:
        yield
    except tf.errors.OpError as e:
        message = str(e.message or e).splitlines()[0]
        error = checks.error("a checkpoint must be whole", f"a damaged one: {message}", prefix)
        raise DamagedCheckpoint(str(error)) from e


def _read(prefix, name, dtype):
    with _naming_damage(prefix), tf.device("CPU:0"):
        [value] = tf.raw_ops.RestoreV2(
            prefix=prefix, tensor_names=[name], shape_and_slices=[""], dtypes=[tf.as_dtype(dtype)]
        )
    return value


def read_through(prefix):
    """Reads every tensor of a checkpoint, one after another.

    Raises:
        DamagedCheckpoint: one cannot be read, or has not its checksum.
    """
    with _naming_damage(prefix):
        dtypes = tf.train.load_checkpoint(prefix).get_variable_to_dtype_map()
    for name, dtype in dtypes.items():
        _read(prefix, name, dtype)


def is_whole(prefix):
    """Whether every tensor of a checkpoint can be read and has its checksum."""
    try:
        read_through(prefix)
    except DamagedCheckpoint:
        return False
    return True


def restore(prefix, variables, ignored=(), zero_if_absent=()):
    """Assigns every variable from a checkpoint that holds these variables and no others.

    Names, shapes and types are compared before anything is assigned.

    Args:
        prefix: The path without `.index`.
        variables: {name: variable}.
        ignored: Prefixes of names in the checkpoint that are left alone.
        zero_if_absent: Names that a checkpoint of an older version may lack; they become zeros then.

    Raises:
        DamagedCheckpoint: it cannot be read; some variables may have been assigned.
        InputError: it does not exist, or holds other variables; all differences are listed.
    """
    checks.require(os.path.isfile(prefix + _INDEX), "a checkpoint must exist", f"no {prefix}{_INDEX}")
    with _naming_damage(prefix):
        reader = tf.train.load_checkpoint(prefix)
        dtypes = reader.get_variable_to_dtype_map()
        stored = {n: (tuple(s), dtypes[n].name) for n, s in reader.get_variable_to_shape_map().items()}
    stored = {n: about for n, about in stored.items() if not n.startswith(tuple(ignored))}
    wanted = {n: (tuple(v.shape), tf.as_dtype(v.dtype).name) for n, v in variables.items()}
    absent = {n for n in zero_if_absent if n not in stored}
    lines = _differences(stored, {n: about for n, about in wanted.items() if n not in absent})
    if lines:
        text = "\n  ".join(["", *lines[:20]] + ([f"and {len(lines) - 20} more"] if len(lines) > 20 else []))
        must = "a checkpoint must hold the variables of the model, with their shapes"
        raise checks.error(must, f"{len(lines)} differences:{text}\n ", prefix)
    for name, variable in variables.items():
        variable.assign(tf.zeros_like(variable) if name in absent else _read(prefix, name, variable.dtype))


def restore_model(prefix, model):
    """Assigns a model's variables from a checkpoint, which may also hold an optimizer's and the loop's."""
    restore(prefix, model_variables(model), ignored=(OPTIMIZER, LOOP))


def _flush(path):
    """Waits until a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Checkpoints:
    """The checkpoints of one run: saves them and goes back to the newest whole one.

    Args:
        run_dir: The run folder.
        model: A built Keras model.
        optimizer: A built Keras optimizer, or None.
        extra: {name: tf.Variable} of the loop's own state, stored as `loop/name`.
        keep: The `retention.Policy`, or how many of the newest are kept; 0 keeps all.
        background: Whether `save` returns as soon as the tensors are copied, and a thread writes them: their size
            in memory for as long as that takes. `close` it at the end.
        zero_if_absent: Names of `extra` that checkpoints of older versions may lack; they are zeros then.
        writes: Whether anything is written: not if another process does, which trains together with this one.
        of_chief: int -> the number that the process which writes gave; None if this process is alone.

    Attributes:
        damaged: Prefixes of the checkpoints that were found damaged and set aside.
    """

    def __init__(
        self,
        run_dir,
        model,
        optimizer=None,
        extra=None,
        keep=5,
        background=False,
        zero_if_absent=(),
        writes=True,
        of_chief=None,
    ):
        self.run_dir, self._writes, self._of_chief = run_dir, writes, of_chief or int
        self._policy = retention.Policy(keep) if isinstance(keep, int) else keep
        self._variables = model_variables(model)
        if optimizer is not None:
            self._variables |= optimizer_variables(optimizer)
        self._variables |= {LOOP + name: variable for name, variable in (extra or {}).items()}
        self._zero_if_absent = [LOOP + name for name in zero_if_absent]
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint") if background else None
        self._writing = None  # the future of what the thread is at
        self._best = self._before = None  # what the next checkpoint of that step makes the best, in place of what
        self.damaged = []

    @property
    def latest_step(self):
        """The step of the newest checkpoint that is written, or None."""
        return max(saved_steps(self.run_dir), default=None)

    @property
    def latest(self):
        """The prefix of the newest checkpoint that is written, or None."""
        step = self.latest_step
        return None if step is None else prefix_of(self.run_dir, step)

    def save(self, step):
        """Writes `ckpt-<step>`, reads it back, and deletes those that are not to be kept.

        In the background it returns before that; then the error of a checkpoint that could not be written comes
        from the next call of `save`, `raise_failure` or `wait`.

        Returns:
            The prefix.

        Raises:
            InputError: it could not be written (a full disk, say); what was there before is left alone.
        """
        self.wait()
        if not self._writes:
            return prefix_of(self.run_dir, step)
        with tf.device("CPU:0"):
            # What is read of a variable shares its memory: whatever updates it next would have to mind that, and copy.
            tensors = [tf.raw_ops.DeepCopy(x=tf.convert_to_tensor(v)) for v in self._variables.values()]
        if self._thread:
            self._writing = self._thread.submit(self._save, step, tensors)
        else:
            self._save(step, tensors)
        return prefix_of(self.run_dir, step)

    def raise_failure(self):
        """Raises the error of a checkpoint that the thread could not write; does not wait for one at work."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self):
        """Waits until all is written.

        Raises:
            InputError: as `save`.
        """
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def note_quality(self, step, metrics):
        """Notes the held-out metrics of a step, and whether they are the best so far by the policy's metric.

        Then the checkpoint of this step is kept: the one that is there already, or the next that is saved. Step 0
        is never the best: nothing was learned yet. Of several processes the one which writes decides; all must ask.

        Returns:
            The step of the best; None if there is none, or no metric to tell it by.

        Raises:
            InputError: the policy's metric is not among them.
        """
        if not self._policy.best_by or step == 0:
            return None
        return self._agreed(self._note_best(step, metrics) if self._writes else None)

    def _note_best(self, step, metrics):
        name = self._policy.best_metric
        must = "the best checkpoint must be told by one of the held-out metrics"
        checks.require(name in metrics, must, repr(name), do=f"Take one of {', '.join(metrics)}")
        self.wait()
        best, value = self._best_written(), float(metrics[name])
        if not self._policy.is_better(value, best and best.value):
            return best and best.step
        self._best, self._before = retention.Best(step, name, value), best
        if step in saved_steps(self.run_dir):
            retention.write_best(self.run_dir, self._best)
        return step

    @property
    def best_step(self):
        """The step of the best checkpoint that is written; None if there is none, or no metric to tell it by."""
        best = self._best_written() if self._policy.best_by else None
        return best and best.step

    def close(self):
        """Waits until nothing is being written, and raises no error: for the end of a run that failed anyhow."""
        if self._thread:
            self._thread.shutdown()

    def _best_written(self):
        """The `Best` of best.json, if it is of this metric and its checkpoint is there."""
        best = read_best(self.run_dir)
        return best if best and best.metric == self._policy.best_metric else None

    def _save(self, step, tensors):
        prefix, unfinished = prefix_of(self.run_dir, step), os.path.join(self.run_dir, f"{_UNFINISHED}ckpt-{step}")
        self._remove_unfinished()
        try:
            self._write(unfinished, tensors)
            os.replace(unfinished + _DATA, prefix + _DATA)
            if self._best and self._best.step == step:
                # First: a run that is killed here goes on from the checkpoint before, where the one before is the best.
                retention.write_best(self.run_dir, self._best, self._before)
            os.replace(unfinished + _INDEX, prefix + _INDEX)
            _flush(self.run_dir)
        except (OSError, tf.errors.OpError, DamagedCheckpoint) as e:
            self._remove_unfinished()
            reason = e.strerror if isinstance(e, OSError) else getattr(e, "message", str(e))
            last = f"The last good checkpoint is {self.latest}" if self.latest else "There is no checkpoint yet"
            do = f"{last}; free or mend the disk and give the same command again to go on"
            raise checks.error("a checkpoint must be written whole", reason, prefix, do) from e
        self._remove_superfluous()

    def _remove_superfluous(self):
        written = {s: os.path.getmtime(prefix_of(self.run_dir, s) + _INDEX) for s in saved_steps(self.run_dir)}
        for old in self._policy.superfluous(written, self.best_step):
            self._remove(prefix_of(self.run_dir, old))

    def agreed_step(self):
        """`latest_step`, of several processes that of the one which writes; all must ask."""
        return self._agreed(self.latest_step)

    def _agreed(self, step):
        step = self._of_chief(-1 if step is None else step)
        return None if step < 0 else step

    def restore_latest(self):
        """Restores the newest whole checkpoint and returns its step; None if there is no checkpoint.

        Of several processes the one which writes chooses, and the others follow; all must ask.

        Raises:
            InputError: there are checkpoints and all are damaged, or they hold other variables.
        """
        self.wait()
        step = self._agreed(self._restore_newest_whole() if self._writes else None)
        if not self._writes and step is not None:
            self.restore_step(step)
        return step

    def restore_step(self, step):
        """Restores the checkpoint of a step.

        Raises:
            InputError: it is not there, is damaged, or holds other variables.
        """
        restore(prefix_of(self.run_dir, step), self._variables, zero_if_absent=self._zero_if_absent)

    def _restore_newest_whole(self):
        """The step of the newest whole checkpoint, which is restored; None if there is no checkpoint.

        A damaged one is renamed to `*.damaged`, said aloud, and the one before it is taken: runs are
        functions of the step, so that training from there arrives at the same weights.
        """
        damaged = []
        for step in reversed(saved_steps(self.run_dir)):
            prefix = prefix_of(self.run_dir, step)
            try:
                self.restore_step(step)
            except DamagedCheckpoint as e:
                logging.warning("%s Going back to the one before.", e)
                damaged.append(prefix)
            else:
                for newer in damaged:
                    self._set_aside(newer)
                self.damaged += damaged
                return step
        checks.require(
            not damaged,
            "a run that was begun must have a whole checkpoint",
            f"damaged ones, {', '.join(map(os.path.basename, damaged))}",
            self.run_dir,
            "Restore one from a copy, or begin again in a new output_dir",
        )
        return None

    def _write(self, prefix, tensors):
        with tf.device("CPU:0"):
            names = list(self._variables)
            tf.raw_ops.SaveV2(prefix=prefix, tensor_names=names, shape_and_slices=[""] * len(names), tensors=tensors)
        for suffix in (_DATA, _INDEX):
            _flush(prefix + suffix)
        read_through(prefix)

    def _remove_unfinished(self):
        for name in os.listdir(self.run_dir):
            if name.startswith(f"{_UNFINISHED}ckpt-"):
                os.remove(os.path.join(self.run_dir, name))

    @staticmethod
    def _set_aside(prefix):
        for suffix in (_INDEX, _DATA):
            with contextlib.suppress(FileNotFoundError):
                os.replace(prefix + suffix, prefix + suffix + _DAMAGED)

    @staticmethod
    def _remove(prefix):
        os.remove(prefix + _INDEX)  # first: without it the checkpoint is gone, never half there
        with contextlib.suppress(FileNotFoundError):
            os.remove(prefix + _DATA)
