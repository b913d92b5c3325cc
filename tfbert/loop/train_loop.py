"""The only training loop: when to train, report, evaluate and save, and when to end."""

import contextlib
import dataclasses

from tfbert import checks


@dataclasses.dataclass(frozen=True)
class Plan:
    """When what happens, in optimizer steps; `eval_steps` 0 evaluates at the start and the end only.

    Without `num_train_steps` the end is not known before: the time decides (see `training_clock`). With `patience` a
    run also ends when so many evaluations on end were no better than the best.
    """

    num_train_steps: int | None
    log_steps: int
    eval_steps: int
    save_checkpoints_steps: int
    iterations_per_loop: int
    patience: int | None = None

    def _due(self, step, every):
        return step == self.num_train_steps or (every > 0 and step % every == 0)

    def is_over(self, step):
        """Whether this step is the last."""
        return self.num_train_steps is not None and step >= self.num_train_steps

    def gives_up_at(self, step, best_step):
        """Whether `patience` is at its end, told from the steps alone, so that nothing needs to be kept for it.

        Args:
            step: One that was evaluated.
            best_step: The step of the best evaluation, or None.
        """
        patience = self.patience * self.eval_steps if self.patience else 0
        return patience > 0 and step - (best_step or 0) >= patience

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


def _roll_back(fault, trainer, checkpoints, logs, faults):
    """Goes back to the last checkpoint after a bad step, whose records are left out from here on; returns its step.

    Raises:
        InputError: going back is not wanted, not possible, or was tried often enough.
    """
    checkpoints.wait()
    try:
        faults.require_hope(fault, checkpoints.agreed_step(), checkpoints.run_dir)
    except checks.InputError as e:
        logs.event(fault.step, fault.name, f"{fault.what}: the run ends")
        logs.event(fault.step, "gave_up", str(e))
        raise
    known = faults.known
    step = checkpoints.restore_latest()
    faults.leave_out([*known, fault])
    logs.rewind(step)
    logs.event(step, "rollback", f"from step {fault.step} to {step}: {fault.text}")
    return step


def _told_of_early_stop(plan, best_step):
    than = "brought a number" if best_step is None else f"was better than that of step {best_step}"
    return f"none of {plan.patience} evaluations on end {than}"


def train(trainer, make_iterator, plan, checkpoints, logs, evaluate, learning_rate, stop, faults, evaluate_first=True):
    """Trains from the trainer's step to the end of the plan or of the time, or until a stop is asked for.

    At one step the order is: report of training, evaluation, checkpoint. So what a checkpoint's step has to
    report was reported before it was written, and a run that goes on from it lacks no line.

    After a bad step it goes back to the last checkpoint and on from there without that step's records. That the
    records were left out is reported when their step is done again, in the order of steps: so the logs too are
    functions of the step, whenever a run is killed.

    Args:
        trainer: The `Trainer`, restored.
        make_iterator: () -> micro-batches from the trainer's step on, without those that `faults` leaves out.
        plan: The `Plan`.
        checkpoints: The run's `Checkpoints`.
        logs: The run's `hooks.Logs`.
        evaluate: () -> metrics, or None if a stop was asked for; or None if there is nothing to evaluate.
        learning_rate: learning_rate(step), of the update that follows `step` steps.
        stop: An open `stop_request.StopRequest`.
        faults: The run's `faults.Faults`.
        evaluate_first: Whether the step to start from is still to be evaluated, if it is due.

    Returns:
        (the step reached, of which there is a checkpoint, whether the run is over).

    Raises:
        InputError: a step was bad and going back is not to help, or a checkpoint could not be written.
    """

    def report_training(step):
        logs(step, {**trainer.take_report(), "learning_rate": learning_rate(step - 1)}, "train")

    iterator = make_iterator()
    step = reported = trainer.step
    saved = checkpoints.latest_step
    evaluated = None if evaluate_first else step
    while True:
        over, is_best = plan.is_over(step) or trainer.time_is_over, False
        if over and step > reported:  # the time ended between two reports
            report_training(step)
        if evaluate is not None and (over or plan.evaluates_at(step)) and step != evaluated and not stop.asked:
            metrics = evaluate()
            if metrics is not None:
                logs(step, metrics, "held_out")
                evaluated, best_step = step, checkpoints.note_quality(step, metrics)
                is_best = best_step == step
                # What training is still to report stays in the checkpoint: with more patience it goes on.
                if not over and plan.gives_up_at(step, best_step):
                    over = True
                    logs.event(step, "early_stop", _told_of_early_stop(plan, best_step))
        stopping = stop.asked
        due = over or plan.saves_at(step) or stopping or is_best or (step == 0 and faults.rolls_back)
        if step != saved and due:
            checkpoints.save(step)
            saved = step
        if stopping or over:
            checkpoints.wait()
            return step, over
        checkpoints.raise_failure()
        loss, gradient_norm = trainer.run(iterator, plan.steps_at_once(step), stop)
        for done_again in faults.between(step, trainer.step):
            logs.event(done_again.step, done_again.name, done_again.text)
        if fault := faults.of_last_step(trainer.step, loss, gradient_norm):
            step = reported = evaluated = saved = _roll_back(fault, trainer, checkpoints, logs, faults)
            iterator = make_iterator()
            continue
        if trainer.step > step and plan.logs_at(trainer.step):
            report_training(trainer.step)
            reported = trainer.step
        step = trainer.step


@contextlib.contextmanager
def closing(hooks):
    """Closes every hook at the end, whatever happened."""
    with contextlib.ExitStack() as stack:
        for hook in hooks:
            stack.callback(hook.close)
        yield hooks
