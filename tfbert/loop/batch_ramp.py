"""How many micro-batches each step has: few while training is young, all of them later.

Early in training the gradients of many rows agree, so a small batch moves the weights about as well as a large one
(McCandlish et al. 2018, section 2); what is saved buys more steps. Shapes stay static: a step's batch grows by whole
micro-batches. The numbers are functions of the step alone, so a run that goes on finds the records where it left them.
"""

import dataclasses

from tfbert import checks


@dataclasses.dataclass(frozen=True)
class BatchRamp:
    """From 1 micro-batch to `parts`, evenly over the first `steps` steps; 0 steps is no ramp.

    Step s (0 is the first) has 1 + floor(s parts / steps) micro-batches, and `parts` from step `steps` on.
    """

    parts: int
    steps: int = 0

    def __post_init__(self):
        checks.require(
            self.steps == 0 or 1 < self.parts <= self.steps,
            "batch_ramp needs gradient_accumulation_steps of 2 or more, and at least as many steps to grow in",
            f"{self.parts} parts of a batch, {self.steps} steps",
        )

    @property
    def _begins(self):
        """The first step that has 1, 2, ... micro-batches."""
        return [-(-k * self.steps // self.parts) for k in range(self.parts)]

    def at(self, step):
        """Micro-batches of a step."""
        return sum(step >= begin for begin in self._begins)

    def before(self, step):
        """Micro-batches of all steps before one."""
        return sum(max(0, step - begin) for begin in self._begins)

    def same_from(self, step):
        """How many steps from this one on have as many micro-batches; None for all that follow."""
        return min((begin - step for begin in self._begins if begin > step), default=None)
