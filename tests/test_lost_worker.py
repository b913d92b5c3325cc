"""Tests of tfbert.loop.lost_worker: which errors of TensorFlow mean that another process is gone, and what is said."""

import types

import pytest
import tensorflow as tf

from tfbert.loop import cluster, lost_worker

MEMBERS = cluster.Cluster(("a:1", "b:1", "c:1"), 2)
# As TensorFlow 2.21 worded them when a worker was killed, stood still, and when the chief stood still.
KILLED = "Collective ops is aborted by: Socket closed\nremote target /job:worker/replica:0/task:1 while calling RecvBuf"
STILL = "Error reported from /job:worker/task:2: The following tasks are unhealthy\n/job:worker/replica:0/task:1"
CHIEF_STILL = "Deadline Exceeded\n\nRPC: /tensorflow.CoordinationService/Heartbeat"


@pytest.mark.parametrize(
    ("text", "lost"), [(KILLED, 1), (STILL, 1), (CHIEF_STILL, 0), ("/job:worker/replica:0/task:2: aborted", None)]
)
def test_who_is_lost_by_what_tensorflow_says(text, lost):
    assert lost_worker._lost_index(MEMBERS, text) == lost


@pytest.fixture
def ended(monkeypatch):
    """Statuses that processes were ended with; here they only leave what they were at."""
    statuses = []

    def end(status):
        statuses.append(status)
        raise SystemExit(status)

    monkeypatch.setattr(lost_worker.os, "_exit", end)
    return statuses


def raised(error, run_dir, members=MEMBERS):
    with lost_worker.told(types.SimpleNamespace(members=members), str(run_dir)):
        raise error


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (tf.errors.UnavailableError(None, None, KILLED), "worker 1 (b:1)"),
        (tf.errors.InternalError(None, None, "Collective ops is aborted by: ?"), "another worker"),
        (tf.errors.DeadlineExceededError(None, None, CHIEF_STILL), "worker 0 (a:1)"),
    ],
)
def test_a_lost_worker_ends_the_process_with_a_sentence(ended, tmp_path, capsys, error, named):
    (tmp_path / "ckpt-7.index").touch()
    with pytest.raises(SystemExit):
        raised(error, tmp_path)
    assert ended == [75]
    said = capsys.readouterr().err
    assert said.startswith(f"\nerror: all workers must be there to train; got no answer from {named}: it has ended")
    assert "(at worker 2 (c:1) of 3)" in said
    assert f"The last good checkpoint is {tmp_path}/ckpt-7. Look at what that worker said last" in said
    assert said.endswith("start all again with the same command to go on.\n")


def test_without_a_checkpoint(ended, tmp_path, capsys):
    with pytest.raises(SystemExit):
        raised(tf.errors.UnavailableError(None, None, KILLED), tmp_path)
    assert "No checkpoint yet." in capsys.readouterr().err


def test_other_errors_pass(ended, tmp_path):
    for error in (tf.errors.ResourceExhaustedError(None, None, "OOM"), ValueError("of ours")):
        with pytest.raises(type(error)):
            raised(error, tmp_path)
    with pytest.raises(tf.errors.UnavailableError):  # alone nobody can be lost
        raised(tf.errors.UnavailableError(None, None, KILLED), tmp_path, members=None)
    assert ended == []
