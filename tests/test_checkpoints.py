import contextlib
import os
import random
import shutil
import subprocess

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbert import checkpoints, checks


def build(width=5, name="dense"):
    """(model, optimizer, extra): random numbers in all of them."""
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(width, name=name)(inputs))
    optimizer = keras.optimizers.Adam(0.1)
    optimizer.build(model.trainable_variables)
    extra = {"step": tf.Variable(11, dtype=tf.int64), "sums": tf.Variable(tf.random.normal([2, 7]))}
    for i, v in enumerate(model.variables + optimizer.variables):
        v.assign(np.random.default_rng(i).normal(7, 3, v.shape).astype(v.dtype))
    return model, optimizer, extra


def values(saver):
    return {name: np.asarray(v) for name, v in saver._variables.items()}


def saver(folder, keep=5, **kwargs):
    return checkpoints.Checkpoints(str(folder), *build(**kwargs), keep)


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_restored_equals_saved(tmp_path):
    first = saver(tmp_path)
    prefix = first.save(11)
    before = values(first)
    second = saver(tmp_path)  # as another process has it: Keras gives its optimizer another number
    for v in second._variables.values():
        v.assign(tf.zeros_like(v))
    assert second.restore_latest() == 11
    assert_same(values(second), before)
    assert prefix == second.latest == str(tmp_path / "ckpt-11")


def test_names_are_paths_and_tensorflow_reads_them(tmp_path):
    model, optimizer, extra = build()
    prefix = checkpoints.Checkpoints(str(tmp_path), model, optimizer, extra).save(3)
    shapes = tf.train.load_checkpoint(prefix).get_variable_to_shape_map()
    assert shapes["dense/kernel"] == [3, 5] and shapes["loop/sums"] == [2, 7] and "optimizer/iteration" in shapes
    assert {n.split("/")[0] for n in shapes} == {"dense", "optimizer", "loop"}


def test_mirrored_variables_are_stored_once_and_restored_on_every_replica(tmp_path, mirrored):
    with mirrored.scope():
        first = saver(tmp_path)
    first.save(1)
    single = saver(tmp_path)
    single.restore_latest()
    assert_same(values(first), values(single))
    with mirrored.scope():
        second = saver(tmp_path)
    kernel = second._variables["dense/kernel"].value
    kernel.assign(tf.zeros_like(kernel))
    second.restore_latest()
    for copy in mirrored.experimental_local_results(kernel):
        np.testing.assert_array_equal(copy, values(first)["dense/kernel"])


def test_keeps_the_newest(tmp_path):
    some = saver(tmp_path, keep=2)
    for step in (9, 10, 100):
        some.save(step)
    assert checkpoints.saved_steps(str(tmp_path)) == [10, 100]
    assert len(os.listdir(tmp_path)) == 4
    every = saver(tmp_path, keep=0)
    for step in (101, 102):
        every.save(step)
    assert checkpoints.saved_steps(str(tmp_path)) == [10, 100, 101, 102]


def test_nothing_to_restore(tmp_path):
    assert saver(tmp_path).restore_latest() is None
    assert checkpoints.saved_steps(str(tmp_path / "absent")) == []


def test_other_model_is_refused_and_every_difference_listed(tmp_path):
    saver(tmp_path).save(1)
    wider, _, _ = build(width=6)
    before = np.asarray(wider.layers[1].kernel)
    with pytest.raises(checks.InputError) as e:
        checkpoints.restore_model(str(tmp_path / "ckpt-1"), wider)
    assert "dense/kernel: float32 (3, 5) in the checkpoint and float32 (3, 6) in the model" in str(e.value)
    assert "dense/bias: float32 (5,)" in str(e.value)
    np.testing.assert_array_equal(wider.layers[1].kernel, before)
    renamed, _, _ = build(name="other")
    with pytest.raises(checks.InputError, match="4 differences") as e:
        checkpoints.restore_model(str(tmp_path / "ckpt-1"), renamed)
    assert "dense/bias: in the checkpoint only" in str(e.value) and "other/bias: in the model only" in str(e.value)
    with pytest.raises(checks.InputError, match="a checkpoint must exist"):
        checkpoints.restore_model(str(tmp_path / "ckpt-2"), renamed)


def test_a_state_that_lacks_the_optimizer_is_refused(tmp_path):
    model, optimizer, extra = build()
    checkpoints.Checkpoints(str(tmp_path), model).save(1)
    with pytest.raises(checks.InputError, match=r"optimizer/iteration: in the model only"):
        checkpoints.Checkpoints(str(tmp_path), model, optimizer, extra).restore_latest()


DAMAGES = {
    "data cut": lambda p: os.truncate(p + ".data-00000-of-00001", 37),
    "data empty": lambda p: os.truncate(p + ".data-00000-of-00001", 0),
    "data gone": lambda p: os.remove(p + ".data-00000-of-00001"),
    "index cut": lambda p: os.truncate(p + ".index", os.path.getsize(p + ".index") // 2),
    "index empty": lambda p: os.truncate(p + ".index", 0),
    "a bit of the data": lambda p: flip(p + ".data-00000-of-00001"),
}


def flip(path):
    with open(path, "r+b") as f:
        f.seek(29)
        byte = f.read(1)[0]
        f.seek(29)
        f.write(bytes([byte ^ 4]))


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_newest_is_named_and_the_one_before_taken(tmp_path, damage, caplog):
    some = saver(tmp_path)
    some.save(5)
    before = values(some)
    some._variables["loop/step"].assign(10)
    damage(some.save(10))
    with pytest.raises(checkpoints.DamagedCheckpoint, match=r"ckpt-10\)"):
        checkpoints.restore(str(tmp_path / "ckpt-10"), some._variables)
    assert [checkpoints.is_whole(str(tmp_path / f"ckpt-{step}")) for step in (5, 10)] == [True, False]
    with caplog.at_level("WARNING", logger="absl"):
        assert saver(tmp_path).restore_latest() == 5
    assert "a checkpoint must be whole" in caplog.text and "ckpt-10" in caplog.text
    again = saver(tmp_path)
    assert again.restore_latest() == 5
    assert_same(values(again), before)
    assert (tmp_path / "ckpt-10.index.damaged").exists()


def test_all_damaged_is_an_error_and_no_new_beginning(tmp_path):
    some = saver(tmp_path)
    for step in (5, 10):
        DAMAGES["data cut"](some.save(step))
    for _ in range(2):  # and it stays one
        with pytest.raises(checks.InputError, match="damaged ones, ckpt-10, ckpt-5"):
            some.restore_latest()


@pytest.mark.parametrize("at", range(4))
def test_a_crash_while_writing_leaves_the_last_one(tmp_path, at, monkeypatch):
    """Dies at each of the writer's own system calls; what is then on the disk is a whole checkpoint 5."""
    some = saver(tmp_path)
    some.save(5)
    calls = iter(range(9))

    class Crash(BaseException):
        pass

    def crashing(function):
        def call(*args):
            if next(calls) == at:
                raise Crash
            return function(*args)

        return call

    monkeypatch.setattr(checkpoints, "_flush", crashing(checkpoints._flush))
    monkeypatch.setattr(os, "replace", crashing(os.replace))
    with pytest.raises(Crash):
        some.save(10)
    monkeypatch.undo()
    fresh = saver(tmp_path)
    assert fresh.restore_latest() == 5
    fresh.save(11)
    names = {name for name in os.listdir(tmp_path) if "unfinished" in name}
    assert not names


@contextlib.contextmanager
def small_disk(path, size):
    """A file system with `size` bytes; None where it cannot be mounted."""
    path.mkdir()
    mounted = shutil.which("mount") and not subprocess.call(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], stderr=subprocess.DEVNULL
    )
    try:
        yield bool(mounted)
    finally:
        if mounted:
            subprocess.check_call(["umount", "-l", str(path)])


def test_full_disk(tmp_path, monkeypatch):
    with small_disk(tmp_path / "disk", 64 * 1024) as mounted:
        folder = tmp_path / "disk"
        some = saver(folder, keep=1)
        some.save(5)
        before = values(some)
        if mounted:
            with contextlib.suppress(OSError), open(folder / "filler", "wb") as f:
                f.write(random.Random(0).randbytes(1 << 20))
        else:  # no right to mount: the writer is told what a full disk would tell

            def full(**_):
                raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

            monkeypatch.setattr(tf.raw_ops, "SaveV2", full)
        with pytest.raises(checks.InputError, match="No space left on device") as e:
            some.save(10)
        assert "The last good checkpoint is" in str(e.value) and "ckpt-5" in str(e.value)
        assert sorted(n for n in os.listdir(folder) if n != "filler") == ["ckpt-5.data-00000-of-00001", "ckpt-5.index"]
        assert some.restore_latest() == 5
        assert_same(values(some), before)
        if mounted:
            os.remove(folder / "filler")
            some.save(10)
            assert some.restore_latest() == 10
