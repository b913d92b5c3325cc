"""Which checkpoints of a run are kept: the newest, one in so many hours, and the best by a held-out metric."""

import dataclasses
import json
import math
import os

from tfbert import checks

BEST_FILE = "best.json"
TOWARDS = ("max", "min")


def by_name(metric):
    """(metric, "max" or "min") of a loss or an accuracy, whose names tell which of two values is better.

    Args:
        metric: Its name; empty for none, which gives None.

    Raises:
        InputError: its name ends in neither.
    """
    if not metric:
        return None
    checks.require(
        metric.endswith(("loss", "accuracy")),
        "keep_best_metric must be a held-out loss or accuracy",
        f"keep_best_metric={metric!r}",
        do="masked_lm_loss, for example",
    )
    return metric, "min" if metric.endswith("loss") else "max"


@dataclasses.dataclass(frozen=True)
class Policy:
    """What is kept.

    Attributes:
        newest: How many of the newest; 0 keeps all.
        every_n_hours: Also the first behind step 0, and then each that was written this much later than the one kept
            before it for this reason; 0 for none.
        best_by: Also the best by this held-out metric and "max" or "min", whichever of its values is the better;
            None for none.
    """

    newest: int = 5
    every_n_hours: float = 0.0
    best_by: tuple[str, str] | None = None

    @property
    def best_metric(self):
        """The name of the metric, or None."""
        return self.best_by and self.best_by[0]

    def is_better(self, value, than):
        """Whether a value of the metric is better than another one; any number is better than None."""
        better = than is None or (value > than if self.best_by[1] == "max" else value < than)
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
    """The best checkpoint, and what it is the best by."""

    step: int
    metric: str
    value: float


def read_best(run_dir, steps):
    """The `Best` of a run folder whose checkpoint is there; None if nothing says.

    Args:
        run_dir: The run folder.
        steps: Of the checkpoints that are there.

    Raises:
        InputError: best.json was not written by this module.
    """
    return next((best for best in _read(os.path.join(run_dir, BEST_FILE)) if best.step in steps), None)


def _read(path):
    """What best.json says, the newest first: [`Best`]; [] if it is not there."""
    try:
        with open(path, encoding="utf-8") as f:
            said = json.load(f)
        before = said.pop("before", None)
        return [Best(**said), *([Best(**before)] if before else ())]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, AttributeError) as e:
        must = f"{BEST_FILE} must hold a step, a metric and its value"
        raise checks.error(must, str(e), path, "Delete it: the next evaluation begins it anew") from e


def write_best(run_dir, best, before=None):
    """Writes best.json, whole or not at all.

    Args:
        run_dir: The run folder.
        best: The `Best`, whose checkpoint may not be there yet.
        before: The one that counts as long as it is not, or None: a process that is killed between the two files
            leaves what the run was at before.
    """
    path = os.path.join(run_dir, BEST_FILE)
    content = dataclasses.asdict(best) | ({"before": dataclasses.asdict(before)} if before else {})
    with open(path + ".unfinished", "w", encoding="utf-8") as f:
        f.write(json.dumps(content) + "\n")
    os.replace(path + ".unfinished", path)
