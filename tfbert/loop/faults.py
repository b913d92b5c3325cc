"""Steps that went wrong, what of the data is left out for them, and when a run gives up.

A step is bad if its loss or gradient is not finite, or its loss a spike (`spikes`). The run then goes back to the last
checkpoint and does the steps since once more, the same to the bit; only the records of the bad step are left out, and
the next ones take their place. What is left out is in each later checkpoint, so that a run that is killed and resumed
goes the same way. Before that checkpoint nothing needs to be known: the bad step is found again.
"""

import math
import typing

import numpy as np
import tensorflow as tf

from tfbert import checks
from tfbert.loop import checkpoints

ROLLBACK, STOP = "rollback", "stop"
ON_SPIKE = (ROLLBACK, STOP)
CAPACITY = 256  # bad steps that a run can have in all


class Fault(typing.NamedTuple):
    """A bad step.

    Attributes:
        step: Its number; 1 is the first.
        part: The first of its parts, each a batch of one micro-batch, in the order of training.
        parts: How many it had.
        rows: Records of a part.
        loss: Its loss.
        gradient_norm: The norm of its gradient.
        bound: What its loss was held against.
    """

    step: int
    part: int
    parts: int
    rows: int
    loss: float
    gradient_norm: float
    bound: float

    @property
    def is_spike(self):
        """Whether its loss was a spike; else loss or gradient were not finite."""
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)

    @property
    def name(self):
        """The name of its event."""
        return "spike" if self.is_spike else "not_finite"

    @property
    def what(self):
        """What was wrong with it."""
        more = f"above {self.bound:.6g}" if self.is_spike else f"gradient norm {self.gradient_norm:.6g}"
        return f"loss {self.loss:.6g}, {more}"

    @property
    def records(self):
        """Its records, by their places in the order of training."""
        return f"records {self.part * self.rows:,} to {(self.part + self.parts) * self.rows - 1:,}"

    @property
    def text(self):
        """What a log says of it: nothing that hangs on when the run was killed."""
        return f"{self.what}: {self.records} in the order of training are left out"


class Faults:
    """The bad steps of a run.

    Args:
        ramp: The `batch_ramp.BatchRamp`: how many parts a step takes.
        rows: Records of a part.
        watch: The `spikes.SpikeWatch` of the `trainer.Trainer`, or None.
        on_spike: "rollback", or "stop" to end with an error at the first.
        max_rollbacks: How many between two checkpoints.
    """

    def __init__(self, ramp, rows, watch=None, on_spike=ROLLBACK, max_rollbacks=3):
        self._ramp, self._rows, self._watch = ramp, rows, watch
        self.rolls_back, self._max_rollbacks = on_spike == ROLLBACK, max_rollbacks
        with tf.device("CPU:0"):
            # A row whose step is 0 is not used.
            self._places = tf.Variable(np.zeros([CAPACITY, 4], np.int64), trainable=False)
            self._values = tf.Variable(np.zeros([CAPACITY, 3], np.float32), trainable=False)

    @property
    def state(self):
        """{name: tf.Variable} for checkpoints."""
        return {"fault_places": self._places, "fault_values": self._values}

    @property
    def known(self):
        """The `Fault` of each bad step whose records are left out, in the order of their records."""
        rows = zip(self._places.numpy().tolist(), self._values.numpy().tolist())
        return sorted((Fault(*place, *values) for place, values in rows if place[0]), key=lambda fault: fault.part)

    def between(self, step, last=math.inf):
        """Those of the steps after `step` up to `last`."""
        return [fault for fault in self.known if step < fault.step <= last]

    @property
    def left_out(self):
        """((first part, parts), ...) of the data that no step takes."""
        return tuple((fault.part, fault.parts) for fault in self.known)

    def part_at(self, step):
        """The place in the order of training, in parts, that a run goes on at which has done `step` steps."""
        part = self._ramp.before(step)
        for first, parts in self.left_out:
            if part >= first:
                part += parts
        return part

    def of_last_step(self, step, loss, gradient_norm):
        """The `Fault` of the step that was just done, the `step`th; None if it was good."""
        leapt = self._watch is not None and bool(self._watch.found.numpy())
        if math.isfinite(loss) and math.isfinite(gradient_norm) and not leapt:
            return None
        bound = self._watch.bound if leapt else math.inf
        return Fault(step, self.part_at(step - 1), self._ramp.at(step - 1), self._rows, loss, gradient_norm, bound)

    def leave_out(self, faults):
        """Leaves out the records of these steps and of no others."""
        places, values = np.zeros([CAPACITY, 4], np.int64), np.zeros([CAPACITY, 3], np.float32)
        for row, fault in enumerate(faults):
            places[row], values[row] = fault[:4], fault[4:]
        self._places.assign(places)
        self._values.assign(values)

    def require_hope(self, fault, step, run_dir):
        """Refuses to go on after a bad step that ends the run, or if going back was tried often enough.

        Args:
            fault: The `Fault`.
            step: The step of the newest checkpoint, or None.
            run_dir: The run folder.

        Raises:
            InputError: with all that is known about it.
        """
        before, last = "", "No checkpoint was written yet"
        if step is not None:
            last = f"The last good checkpoint is {checkpoints.prefix_of(run_dir, step)}"
        if self.rolls_back and step is not None:
            tried = self.between(step)
            if len(tried) < self._max_rollbacks and len(self.known) < CAPACITY:
                return
            before = "; ".join(f"step {f.step}, {f.what}, without {f.records}" for f in tried)
            before = f", after {len(tried)} rollbacks to step {step} ({before}) and {len(self.known)} in all"
        raise checks.error(
            "the loss must not leap" if fault.is_spike else "loss and gradient must be finite",
            f"loss={fault.loss:.6g}, gradient_norm={fault.gradient_norm:.6g}"
            + (f", above {fault.bound:.6g}" if fault.is_spike else "")
            + before,
            f"step {fault.step}, {fault.records} in the order of training",
            f"{last}; nothing of this step was saved. Lower the learning rate or look for bad records, in a new "
            "output_dir; or go on by the same command with other --on_spike, --max_rollbacks or --spike_factor",
        )
