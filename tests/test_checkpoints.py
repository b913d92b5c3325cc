import contextlib
import os
import random
import shutil
import subprocess
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbert import checks
from tfbert.loop import checkpoints, retention


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


class TestInTheBackground:
    @pytest.fixture
    def held(self, monkeypatch):
        """An event that the writer waits for before each checkpoint."""
        event, write = threading.Event(), checkpoints.Checkpoints._write

        def wait_and_write(*args):
            assert event.wait(30)
            write(*args)

        monkeypatch.setattr(checkpoints.Checkpoints, "_write", wait_and_write)
        return event

    def test_holds_what_was_when_it_was_asked_for(self, tmp_path, held):
        """The next steps write to the variables while the thread is at work."""
        some = checkpoints.Checkpoints(str(tmp_path), *build(), background=True)
        before = values(some)
        prefix = some.save(3)
        for v in some._variables.values():
            (v.value if isinstance(v, keras.Variable) else v).assign_add(tf.ones(v.shape, v.dtype))
        some.raise_failure()  # does not wait
        assert not some.latest_step
        held.set()
        some.wait()
        assert prefix == some.latest
        assert some.restore_latest() == 3
        assert_same(values(some), before)

    def test_one_waits_for_the_other(self, tmp_path, held):
        some = checkpoints.Checkpoints(str(tmp_path), *build(), keep=1, background=True)
        some.save(3)
        threading.Timer(0.2, held.set).start()
        some.save(4)
        assert 3 in checkpoints.saved_steps(str(tmp_path))
        some.wait()
        assert checkpoints.saved_steps(str(tmp_path)) == [4]

    @pytest.mark.parametrize("asked", ["save", "wait", "raise_failure", "restore_latest"])
    def test_what_went_wrong_is_told_by_the_next_call(self, tmp_path, monkeypatch, asked):
        def full(**_):
            raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

        some = checkpoints.Checkpoints(str(tmp_path), *build(), background=True)
        some.save(3)
        some.wait()
        with monkeypatch.context() as patch:
            patch.setattr(tf.raw_ops, "SaveV2", full)
            some.save(4)
            while not some._writing.done():
                pass
        with pytest.raises(checks.InputError, match=r"No space left on device.*The last good checkpoint is .*ckpt-3"):
            getattr(some, asked)(*[5][: asked == "save"])
        some.save(6)  # told once
        some.wait()
        assert checkpoints.saved_steps(str(tmp_path)) == [3, 6]


def test_what_does_not_read_back_takes_no_place(tmp_path, monkeypatch):
    some = saver(tmp_path, keep=1)
    some.save(3)
    flush = checkpoints._flush

    def flip_then_flush(path):
        if path.endswith(".data-00000-of-00001"):
            flip(path)
        flush(path)

    monkeypatch.setattr(checkpoints, "_flush", flip_then_flush)
    with pytest.raises(checks.InputError, match=r"must be written whole; got .*a damaged one"):
        some.save(4)
    assert sorted(os.listdir(tmp_path)) == ["ckpt-3.data-00000-of-00001", "ckpt-3.index"]


class TestKeepsTheBest:
    def saver(self, folder, metric="masked_lm_loss", towards="min"):
        return checkpoints.Checkpoints(str(folder), *build(), retention.Policy(1, best_by=(metric, towards)))

    @pytest.mark.parametrize("metric, towards, best", [("masked_lm_loss", "min", 5), ("f1", "max", 7)])
    def test_beside_the_newest(self, tmp_path, metric, towards, best):
        values = {0: {"min": -1, "max": 9}[towards], 2: np.nan, 3: 0.7, 5: 0.2, 6: np.nan, 7: 0.9, 8: 0.2, 9: 0.9}
        noted = []
        for step, value in values.items():
            some = self.saver(tmp_path, metric, towards)  # as a run that was killed after each step
            noted.append(some.note_quality(step, {metric: value, "other": 0.0}))
            some.save(step)
        assert checkpoints.saved_steps(str(tmp_path)) == [best, 9] and some.best_step == best
        assert checkpoints.read_best(str(tmp_path)) == retention.Best(best, metric, values[best])
        assert noted == {5: [None, None, 3, 5, 5, 5, 5, 5], 7: [None, None, 3, 3, 3, 7, 7, 7]}[best]

    def test_killed_between_its_two_files(self, tmp_path, monkeypatch):
        """best.json names a checkpoint before it is there; until then the one before is the best."""
        some = self.saver(tmp_path)
        for step, value in ((2, 0.7), (3, 0.9)):
            some.note_quality(step, {"masked_lm_loss": value})
            some.save(step)
        some.note_quality(4, {"masked_lm_loss": 0.5})
        replace = os.replace

        def killed(source, target):
            if target.endswith("ckpt-4.index"):
                raise KeyboardInterrupt
            replace(source, target)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, "replace", killed)
            some.save(4)
        assert checkpoints.read_best(str(tmp_path)).step == 2
        again = self.saver(tmp_path)
        assert again.restore_latest() == 3 and again.best_step == 2
        again.save(3)
        assert checkpoints.saved_steps(str(tmp_path)) == [2, 3]
        assert again.note_quality(4, {"masked_lm_loss": 0.5}) == 4
        again.save(4)
        assert checkpoints.saved_steps(str(tmp_path)) == [4] and again.best_step == 4

    def test_of_several_processes_one_decides(self, tmp_path):
        """The one that does not write has not even to be given the same numbers."""
        said = []
        chief = self.saver(tmp_path)
        chief._of_chief = lambda step: said.append(step) or step
        other = checkpoints.Checkpoints(
            str(tmp_path),
            *build(),
            retention.Policy(1, best_by=("masked_lm_loss", "min")),
            writes=False,
            of_chief=lambda _: said[-1],
        )
        for step, value, best in ((1, np.nan, None), (2, 0.7, 2), (3, 0.9, 2)):
            assert chief.note_quality(step, {"masked_lm_loss": value}) == best
            assert other.note_quality(step, {"masked_lm_loss": -value}) == best
            chief.save(step)
            other.save(step)

    def test_that_is_there_already_when_it_is_noted(self, tmp_path):
        some = self.saver(tmp_path)
        some.save(3)
        assert some.note_quality(3, {"masked_lm_loss": 0.5}) == 3
        some.save(4)
        assert checkpoints.saved_steps(str(tmp_path)) == [3, 4]

    def test_begins_anew_when_it_is_gone_or_of_another_metric(self, tmp_path):
        some = self.saver(tmp_path)
        some.note_quality(3, {"masked_lm_loss": 0.5})
        some.save(3)
        assert self.saver(tmp_path, "loss").note_quality(4, {"loss": 7.0}) == 4
        DAMAGES["data cut"](str(tmp_path / "ckpt-3"))
        (tmp_path / "ckpt-3.index").rename(tmp_path / "ckpt-3.index.damaged")
        assert some.note_quality(5, {"masked_lm_loss": 0.6}) == 5

    def test_a_metric_that_is_not_there(self, tmp_path):
        with pytest.raises(checks.InputError, match="told by one of the held-out metrics; got 'x_loss'"):
            self.saver(tmp_path, "x_loss").note_quality(3, {"masked_lm_loss": 0.5})
        with pytest.raises(checks.InputError, match="must be a held-out loss or accuracy"):
            retention.by_name("learning_rate")
        assert retention.by_name("") is None and retention.by_name("loss") == ("loss", "min")
        assert retention.by_name("masked_lm_accuracy") == ("masked_lm_accuracy", "max")
        (tmp_path / "best.json").write_text("{}")
        with pytest.raises(checks.InputError, match="must hold a step, a metric and its value"):
            self.saver(tmp_path).note_quality(3, {"masked_lm_loss": 0.5})


class TestPolicy:
    HOURS = tuple(3600 * t for t in (0.0, 0.6, 1.1, 1.9, 2.2, 3.0, 3.1, 9.0, 9.1))

    def test_keeps_one_in_so_many_hours_beside_the_newest(self):
        """By turns written and deleted, as in a run, and with all that there are at once."""
        policy, written = retention.Policy(2, every_n_hours=1.0), {}
        for step, seconds in ((0, -9e9), *enumerate(self.HOURS, 10)):
            written[step] = seconds
            for old in policy.superfluous(written):
                del written[old]
        at_once = {0: -9e9, **dict(enumerate(self.HOURS, 10))}
        assert list(written) == sorted(at_once.keys() - policy.superfluous(at_once)) == [10, 12, 14, 17, 18]

    def test_zero_keeps_all(self):
        written = dict(enumerate(self.HOURS))
        assert retention.Policy(0).superfluous(written) == []
        assert retention.Policy(3).superfluous(written, best_step=1) == [0, 2, 3, 4, 5]

    def test_never_deletes_the_newest(self):
        for policy in (retention.Policy(1), retention.Policy(1, 100.0)):
            assert max(policy.superfluous(dict(enumerate(self.HOURS)))) == 7


def test_checkpoints_of_older_versions_lack_state_that_is_zero(tmp_path):
    model, optimizer, extra = build()
    checkpoints.Checkpoints(str(tmp_path), model, optimizer, extra).save(3)
    more = {**extra, "newer": tf.Variable([7.0, 8.0])}
    with pytest.raises(checks.InputError, match="loop/newer: in the model only"):
        checkpoints.Checkpoints(str(tmp_path), model, optimizer, more).restore_latest()
    checkpoints.Checkpoints(str(tmp_path), model, optimizer, more, zero_if_absent=["newer"]).restore_latest()
    assert more["newer"].numpy().tolist() == [0, 0]


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
