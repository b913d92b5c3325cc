"""Checkpoints `ckpt-N`: named tensors, whole or absent, and strict both ways.

A checkpoint is a TensorFlow tensor bundle, `ckpt-N.index` and `ckpt-N.data-00000-of-00001`, readable with
`tf.train.load_checkpoint`. Its names are the variables' paths (`bert/embeddings/word_embeddings`), then
`optimizer/...` and `loop/...`. It is written under another name, flushed to the disk and renamed, the index
last: a `ckpt-N.index` that exists has all of its data. TensorFlow checks a checksum of each tensor on
reading, so a file that was damaged later is noticed too.
"""

import contextlib
import os
import re

import tensorflow as tf
from absl import logging

from tfbert import checks

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


def is_whole(prefix):
    """Whether every tensor of a checkpoint can be read and has its checksum."""
    try:
        with _naming_damage(prefix):
            dtypes = tf.train.load_checkpoint(prefix).get_variable_to_dtype_map()
        for name, dtype in dtypes.items():
            _read(prefix, name, dtype)
    except DamagedCheckpoint:
        return False
    return True


def restore(prefix, variables, ignored=()):
    """Assigns every variable from a checkpoint that holds these variables and no others.

    Names, shapes and types are compared before anything is assigned.

    Args:
        prefix: The path without `.index`.
        variables: {name: variable}.
        ignored: Prefixes of names in the checkpoint that are left alone.

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
    lines = _differences(stored, wanted)
    if lines:
        text = "\n  ".join(["", *lines[:20]] + ([f"and {len(lines) - 20} more"] if len(lines) > 20 else []))
        must = "a checkpoint must hold the variables of the model, with their shapes"
        raise checks.error(must, f"{len(lines)} differences:{text}\n ", prefix)
    for name, variable in variables.items():
        variable.assign(_read(prefix, name, variable.dtype))


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
        max_to_keep: How many of the newest are kept; 0 keeps all.
    """

    def __init__(self, run_dir, model, optimizer=None, extra=None, max_to_keep=5):
        self.run_dir, self.max_to_keep = run_dir, max_to_keep
        self._variables = model_variables(model)
        if optimizer is not None:
            self._variables |= optimizer_variables(optimizer)
        self._variables |= {LOOP + name: variable for name, variable in (extra or {}).items()}

    @property
    def latest_step(self):
        """The step of the newest checkpoint, or None."""
        return max(saved_steps(self.run_dir), default=None)

    @property
    def latest(self):
        """The prefix of the newest checkpoint, or None."""
        step = self.latest_step
        return None if step is None else prefix_of(self.run_dir, step)

    def save(self, step):
        """Writes `ckpt-<step>` and deletes the oldest beyond `max_to_keep`.

        Returns:
            The prefix.

        Raises:
            InputError: it could not be written (a full disk, say); what was there before is left alone.
        """
        prefix, unfinished = prefix_of(self.run_dir, step), os.path.join(self.run_dir, f"{_UNFINISHED}ckpt-{step}")
        self._remove_unfinished()
        try:
            self._write(unfinished)
            os.replace(unfinished + _DATA, prefix + _DATA)
            os.replace(unfinished + _INDEX, prefix + _INDEX)
            _flush(self.run_dir)
        except (OSError, tf.errors.OpError) as e:
            self._remove_unfinished()
            reason = e.strerror if isinstance(e, OSError) else e.message
            last = f"The last good checkpoint is {self.latest}" if self.latest else "There is no checkpoint yet"
            do = f"{last}; free or mend the disk and give the same command again to go on"
            raise checks.error("a checkpoint must be written whole", reason, prefix, do) from e
        if self.max_to_keep:
            for old in saved_steps(self.run_dir)[: -self.max_to_keep]:
                self._remove(prefix_of(self.run_dir, old))
        return prefix

    def restore_latest(self):
        """Restores the newest whole checkpoint and returns its step; None if there is no checkpoint.

        A damaged one is renamed to `*.damaged`, said aloud, and the one before it is taken: runs are
        functions of the step, so that training from there arrives at the same weights.

        Raises:
            InputError: there are checkpoints and all are damaged, or they hold other variables.
        """
        damaged = []
        for step in reversed(saved_steps(self.run_dir)):
            prefix = prefix_of(self.run_dir, step)
            try:
                restore(prefix, self._variables)
            except DamagedCheckpoint as e:
                logging.warning("%s Going back to the one before.", e)
                damaged.append(prefix)
            else:
                for newer in damaged:
                    self._set_aside(newer)
                return step
        checks.require(
            not damaged,
            "a run that was begun must have a whole checkpoint",
            f"damaged ones, {', '.join(map(os.path.basename, damaged))}",
            self.run_dir,
            "Restore one from a copy, or begin again in a new output_dir",
        )
        return None

    def _write(self, prefix):
        tensors = [tf.convert_to_tensor(v) for v in self._variables.values()]
        with tf.device("CPU:0"):
            names = list(self._variables)
            tf.raw_ops.SaveV2(prefix=prefix, tensor_names=names, shape_and_slices=[""] * len(names), tensors=tensors)
        for suffix in (_DATA, _INDEX):
            _flush(prefix + suffix)

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
