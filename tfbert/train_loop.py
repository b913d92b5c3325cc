"""The only training loop: when to train, report, evaluate and save, and when to end."""

import contextlib
import dataclasses
import math

from tfbert import checks


@dataclasses.dataclass(frozen=True)
class Plan:
    """When what happens, in optimizer steps; `eval_steps` 0 evaluates at the start and the end only.

    Without `num_train_steps` the end is not known before: the time decides (see `training_clock`).
    """

    num_train_steps: int | None
    log_steps: int
    eval_steps: int
    save_checkpoints_steps: int
    iterations_per_loop: int

    def _due(self, step, every):
        return step == self.num_train_steps or (every > 0 and step % every == 0)

    def is_over(self, step):
        """Whether this step is the last."""
        return self.num_train_steps is not None and step >= self.num_train_steps

    def logs_at(self, step):
        """Whether the metrics of training are reported after this step."""
        return step > 0 and self._due(step, self.log_steps)

    def evaluates_at(self, step):
        """Whether the held-out set is evaluated after this step."""
        return step == 0 or self._due(step, self.eval_steps)

    def saves_at(self, step):
        """Whether a checkpoint is written after this step."""
        return step > 0 and self._due(step, self.save_checkpoints_steps)

    def steps_at_once(self, step):
        """How many steps may be done from here before Python has something to do."""
        count = self.iterations_per_loop
        if self.num_train_steps is not None:
            count = min(count, self.num_train_steps - step)
        for every in (self.log_steps, self.eval_steps, self.save_checkpoints_steps):
            if every > 0:
                count = min(count, every - step % every)
        return count


def _not_finite(step, loss, norm, checkpoints):
    last = (
        f"The last good checkpoint is {checkpoints.latest}" if checkpoints.latest else "No checkpoint was written yet"
    )
    do = f"{last}; nothing of this step was saved. Lower the learning rate or look for bad records, in a new output_dir"
    return checks.error("loss and gradient must be finite", f"loss={loss}, gradient_norm={norm}", f"step {step}", do)


def train(trainer, iterator, plan, checkpoints, report, evaluate, learning_rate, stop, evaluate_first=True):
    """Trains from the trainer's step to the end of the plan or of the time, or until a stop is asked for.

    At one step the order is: report of training, evaluation, checkpoint. So what a checkpoint's step has to
    report was reported before it was written, and a run that goes on from it lacks no line.

    Args:
        trainer: The `Trainer`, restored.
        iterator: Micro-batches from the trainer's step on.
        plan: The `Plan`.
        checkpoints: The run's `Checkpoints`.
        report: report(step, metrics, split), split "train" or "held_out".
        evaluate: () -> metrics, or None if a stop was asked for; or None if there is nothing to evaluate.
        learning_rate: learning_rate(step), of the update that follows `step` steps.
        stop: An open `stop_request.StopRequest`.
        evaluate_first: Whether the step to start from is still to be evaluated, if it is due.

    Returns:
        The step reached, of which there is a checkpoint.

    Raises:
        InputError: a loss or a gradient was not finite, or a checkpoint could not be written.
    """
    step = reported = trainer.step
    saved = checkpoints.latest_step
    evaluated = None if evaluate_first else step
    while True:
        over = plan.is_over(step) or trainer.time_is_over
        if over and step > reported:  # the time ended between two reports
            report(step, {**trainer.take_report(), "learning_rate": learning_rate(step - 1)}, "train")
        if evaluate is not None and (over or plan.evaluates_at(step)) and step != evaluated and stop.signal is None:
            metrics = evaluate()
            if metrics is not None:
                report(step, metrics, "held_out")
                evaluated = step
        stopping = stop.signal is not None
        if step != saved and (over or plan.saves_at(step) or stopping):
            checkpoints.save(step)
            saved = step
        if stopping or over:
            return step
        loss, norm = trainer.run(iterator, plan.steps_at_once(step), stop)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise _not_finite(trainer.step, loss, norm, checkpoints)
        if trainer.step > step and plan.logs_at(trainer.step):
            report(trainer.step, {**trainer.take_report(), "learning_rate": learning_rate(trainer.step - 1)}, "train")
            reported = trainer.step
        step = trainer.step


@contextlib.contextmanager
def closing(hooks):
    """Closes every hook at the end, whatever happened."""
    with contextlib.ExitStack() as stack:
        for hook in hooks:
            stack.callback(hook.close)
        yield hooks
