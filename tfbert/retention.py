"""Which checkpoints of a run are kept: the newest, one in so many hours, and the best by a held-out metric."""

import contextlib
import dataclasses
import json
import math
import os

from tfbert import checks

BEST_FILE = "best.json"


@dataclasses.dataclass(frozen=True)
class Policy:
    """What is kept.

    Attributes:
        newest: How many of the newest; 0 keeps all.
        every_n_hours: Also the first behind step 0, and then each that was written this much later than the one kept
            before it for this reason; 0 for none.
        best_metric: Also the best by this held-out metric, a loss or an accuracy; empty for none.
    """

    newest: int = 5
    every_n_hours: float = 0.0
    best_metric: str = ""

    def __post_init__(self):
        checks.require(
            not self.best_metric or self.best_metric.endswith(("loss", "accuracy")),
            "keep_best_metric must be a held-out loss or accuracy",
            f"keep_best_metric={self.best_metric!r}",
            do="masked_lm_loss, for example",
        )

    def is_better(self, value, than):
        """Whether a value of the metric is better than another one; any number is better than None."""
        better = than is None or (value < than if self.best_metric.endswith("loss") else value > than)
        return better and math.isfinite(value)

    def superfluous(self, written, best_step=None):
        """The steps of checkpoints to delete, ascending; never the newest.

        Args:
            written: {step: seconds at which its checkpoint was written} of all that there are.
            best_step: The step of the best one, or None.
        """
        if not self.newest:
            return []
        steps = sorted(written)
        kept = {*steps[-self.newest :], best_step}
        if self.every_n_hours and steps:
            # Those in between are no part of this chain, so that it stays the same when they are gone.
            last = None
            for step in filter(None, steps):
                if last is None or written[step] >= written[last] + self.every_n_hours * 3600:
                    last = step
                    kept.add(step)
        return [step for step in steps if step not in kept]


@dataclasses.dataclass(frozen=True)
class Best:
    """What best.json says: the step of the best checkpoint, and what it is the best by."""

    step: int
    metric: str
    value: float


def read_best(run_dir):
    """The `Best` of a run folder; None if nothing says."""
    with contextlib.suppress(FileNotFoundError):
        path = os.path.join(run_dir, BEST_FILE)
        with open(path, encoding="utf-8") as f:
            try:
                return Best(**json.load(f))
            except (ValueError, TypeError) as e:
                must = f"{BEST_FILE} must hold a step, a metric and its value"
                raise checks.error(must, str(e), path, "Delete it: the next evaluation begins it anew") from e
    return None


def write_best(run_dir, best):
    """Writes best.json, whole or not at all."""
    path = os.path.join(run_dir, BEST_FILE)
    with open(path + ".unfinished", "w", encoding="utf-8") as f:
        f.write(json.dumps(dataclasses.asdict(best)) + "\n")
    os.replace(path + ".unfinished", path)
