"""What happens when one of several processes that train together is gone: the others say so and end.

They cannot go on without it, since every step adds up the gradients of all; and they cannot take it back, since
TensorFlow joins a cluster once. So all are started again, and go on from the last checkpoint to the same weights.

TensorFlow notices: a connection that breaks ends the collective operation at hand at once. For a worker that stands
still, or whose machine is off, there are heartbeats between each worker and the chief, missed after ten seconds.
"""

import contextlib
import os
import re
import sys

import tensorflow as tf

from tfbert import checks
from tfbert.loop import checkpoints, distribution

STATUS = checks.TryAgain.status


def _of_lost_worker(error):
    """Whether an error of TensorFlow says that a collective operation was given up."""
    kinds = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError)
    return isinstance(error, kinds) or "Collective ops is aborted" in str(error)


def _sentence(members, lost, run_dir):
    """What a person reads."""
    steps = checkpoints.saved_steps(run_dir)
    saved = f"The last good checkpoint is {checkpoints.prefix_of(run_dir, steps[-1])}" if steps else "No checkpoint yet"
    name = "another worker" if lost is None else members.name_of(lost)
    error = checks.error(
        "all workers must be there to train",
        f"no answer from {name}: it has ended or cannot be reached",
        f"{members.name_of(members.index)} of {len(members.workers)}",
        f"{saved}. Look at what that worker said last, then start all again with the same command to go on",
    )
    return f"\nerror: {error}"


def _lost_index(members, text):
    """Which worker an error of TensorFlow is about, or None: the last that it names and that is not this one."""
    named = [int(n) for n in re.findall(r"/job:worker/(?:replica:0/)?task:(\d+)", text)]
    if not named and "CoordinationService" in text:
        named = [0]  # heartbeats go to the chief
    return next((n for n in reversed(named) if n != members.index), None)


def _end(sentence):
    """Ends the process at once: an orderly end would wait for the worker that is lost."""
    sys.stdout.flush()
    print(sentence, file=sys.stderr, flush=True)
    os._exit(STATUS)


@contextlib.contextmanager
def told(strategy, run_dir):
    """Inside, a worker that is lost ends this process with status 75 and a sentence; alone it does nothing.

    Args:
        strategy: Of `distribution.make_strategy`.
        run_dir: The run folder, to say from where training goes on.
    """
    members = distribution.members(strategy)
    if members is None:
        yield
        return
    try:
        yield
    except tf.errors.OpError as e:
        if not _of_lost_worker(e):
            raise
        _end(_sentence(members, _lost_index(members, str(e)), run_dir))
