"""The files of a records folder: written aside, renamed at the end, records.json last."""

import contextlib
import fcntl
import json
import os
import re
import sys

import tensorflow as tf

from data_prep import storage
from tfbert import checks

RECORDS_FILE = "records.json"
REPORT_FILE = "records_report.html"
UNFINISHED = ".unfinished"  # where everything is written until it is whole
_PLAN, _PUBLISHING = "plan.json", "publishing"
_SHARD = re.compile(r"(train|held_out)-\d{5}-of-\d{5}\.tfrecord")


@contextlib.contextmanager
def writing(folder):
    """Words what the file system says when it cannot be written to."""
    try:
        yield
    except (OSError, tf.errors.OpError) as e:
        reason = getattr(e, "strerror", None) or getattr(e, "message", None) or str(e)
        error = checks.error(
            "output_dir must be a folder that can be written to, with space left",
            reason,
            folder,
            "No records that were there before have changed. Free some space and run the same command, which goes on",
        )
        error.can_go_on = True
        raise error from e


def _made_before(folder):
    names = tf.io.gfile.listdir(folder) if tf.io.gfile.isdir(folder) else []
    return sorted(n for n in names if n == RECORDS_FILE or _SHARD.fullmatch(n))


def write_json(path, content):
    """Writes JSON so that the file is there whole or not at all."""
    with tf.io.gfile.GFile(path + ".part", "w") as f:
        f.write(json.dumps(content))  # json.dump would not use the encoder that is written in C
    storage.rename(path + ".part", path)


def read_json(path):
    """What a JSON file holds; None if there is none."""
    try:
        with tf.io.gfile.GFile(path) as f:
            return json.loads(f.read())
    except tf.errors.NotFoundError:
        return None


def _differences(before, plan):
    before, plan = ({**p.get("config", {}), **{k: v for k, v in p.items() if k != "config"}} for p in (before, plan))
    return ", ".join(k for k in sorted({*before, *plan}) if before.get(k) != plan.get(k))


def _begin(folder, overwrite, plan):
    """Makes the scratch folder, or finds that of a run with the same plan that was killed."""
    scratch = os.path.join(folder, UNFINISHED)
    before = read_json(os.path.join(scratch, _PLAN))
    same = before == json.loads(json.dumps(plan))
    checks.require(
        before is None or same or overwrite,
        "output_dir must not hold the unfinished records of another run",
        f"a run that differs in {_differences(before or {}, plan)}",
        folder,
        "Run its command again to finish it, choose another folder, or pass --overwrite to begin anew",
    )
    if same and tf.io.gfile.exists(os.path.join(scratch, _PUBLISHING)):
        return scratch, same
    found = _made_before(folder)
    checks.require(
        overwrite or not found,
        "output_dir must not hold records of another run",
        ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else ""),
        folder,
        "Choose another folder, or pass --overwrite to replace them",
    )
    return scratch, same


def _remove_folder(folder):
    with contextlib.suppress(tf.errors.OpError):
        tf.io.gfile.rmtree(folder)


def _lock(scratch):
    """Holds a lock until the file that is returned is closed. In a store there are none."""
    if storage.is_remote(scratch):
        return contextlib.nullcontext()
    lock = open(os.path.join(scratch, "lock"), "w")  # noqa: SIM115
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        lock.close()
        must = "one process at a time may make records in a folder"
        raise checks.error(must, "another one that is at work", scratch, "Wait for it or stop it") from e
    return lock


@contextlib.contextmanager
def unfinished(folder, overwrite, plan):
    """A folder inside `folder` to write in, with what a killed run of the same plan has finished.

    It is gone when the block is left, unless the same command can go on: after a full disk, an
    interrupt or a kill.

    Args:
        folder: The records folder.
        overwrite: Whether records of another run may be replaced.
        plan: What the records are a function of, as JSON can hold it.

    Raises:
        InputError: `folder` holds records or unfinished ones of another run, and `overwrite` is false;
            another process works in it; it cannot be written to.
    """
    checks.require(folder, "output_dir must be given", "an empty name", "--output_dir")
    with writing(folder), contextlib.ExitStack() as stack:
        scratch, same = _begin(folder, overwrite, plan)
        if not same:
            _remove_folder(scratch)
        tf.io.gfile.makedirs(scratch)
        stack.enter_context(_lock(scratch))
        if same:
            print(f"going on with what an earlier run finished in {scratch}", file=sys.stderr)
        else:
            write_json(os.path.join(scratch, _PLAN), plan)
        held = stack.pop_all()
    with held:
        try:
            yield scratch
        except checks.InputError as e:
            if not getattr(e, "can_go_on", False):
                _remove_folder(scratch)
            raise
        _remove_folder(scratch)


class Shard:
    """A shard in the scratch folder, under the number of its code."""

    def __init__(self, scratch, code):
        self.path = os.path.join(scratch, f"shard-{code:05}")

    def finished(self):
        """What was told of it when it was finished; None if it is not."""
        return read_json(self.path + ".json")

    @contextlib.contextmanager
    def write(self):
        """Gives a function that appends a list of serialized records."""
        with writing(os.path.dirname(os.path.dirname(self.path))), tf.io.TFRecordWriter(self.path + ".part") as writer:

            def append(records):
                for record in records:
                    writer.write(record)

            yield append

    def finish(self, about):
        """Gives it its name, and keeps what there is to tell of it."""
        with writing(os.path.dirname(os.path.dirname(self.path))):
            storage.rename(self.path + ".part", self.path)
            write_json(self.path + ".json", about)


def publish(folder, shards, about, report):
    """Gives finished shards their names, in place of those of an earlier run, and writes records.json last.

    Args:
        folder: The records folder.
        shards: {name: path it has in the scratch folder}; the path is gone where an earlier run was killed here.
        about: What records.json is to hold.
        report: What records_report.html is to hold.
    """
    scratch = os.path.join(folder, UNFINISHED)
    marker = os.path.join(scratch, _PUBLISHING)
    with writing(folder):
        for name, text in (
            (RECORDS_FILE, json.dumps(about, indent=2, ensure_ascii=False) + "\n"),
            (REPORT_FILE, report),
        ):
            with tf.io.gfile.GFile(os.path.join(scratch, name), "w") as f:
                f.write(text)
        if not tf.io.gfile.exists(marker):
            # records.json goes first and comes last: with one in it, a folder is whole.
            for name in sorted(_made_before(folder), key=lambda n: n != RECORDS_FILE):
                tf.io.gfile.remove(os.path.join(folder, name))
            write_json(marker, list(shards))
        for name, written in shards.items():
            if tf.io.gfile.exists(written):
                storage.rename(written, os.path.join(folder, name))
        for name in (REPORT_FILE, RECORDS_FILE):
            storage.rename(os.path.join(scratch, name), os.path.join(folder, name))
