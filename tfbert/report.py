"""Draws a page about a run, or compares several: curves, speed, answers, recipe, environment; as a PNG.

    python -m tfbert.report --run_dir=run --output=report.png
    python -m tfbert.report --run_dir=google --run_dir=efficient --output=compared.png
    python -m tfbert.report --run_dir=finetuned --output=report.png
    python -m tfbert.report --run_dir=sweep --output=report.png

Of a fine-tuned run it shows scores, the confusion matrix, precision-recall curves and the worst examples; of a folder
of trials, folds or a sweep of tfbert.finetune, mean and deviation of each point.

It needs matplotlib: python -m pip install -r requirements-report.txt. A run that is still training can be drawn too.
"""

from tfbert import quiet  # isort: skip  # noqa: F401 (first: it holds back start-up noise)

import dataclasses
import math
import os
import sys

import numpy as np
import tensorflow as tf
from absl import flags

from tfbert import checks, config, fill_mask, run_folder
from tfbert.loop import checkpoints
from tfbert.tasks import kinds, trials
from tfbert.watching import report_texts, run_logs, views
from tfbert.watching.report_task_texts import TaskRun

# Plain English, and of the kind that documentation is written in.
TEXTS = (
    "She opened the [MASK] and looked out of the window.",
    "Returns a new [MASK] with the same shape as the input.",
    "If the file does not exist, an error is [MASK].",
)
MOST_RUNS, MOST_TEXTS = 7, 6  # colours that can be told apart, and what a page has room for
TOP_K = 5


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """Flags of this program, besides --run_dir and --text."""

    output: str = config.field("report.png", "The PNG file to write.")

    def __post_init__(self):
        checks.require(self.output.endswith(".png"), "--output must be a .png file", f"output={self.output!r}")
        folder = os.path.dirname(self.output) or "."
        checks.require(os.path.isdir(folder), "the folder of --output must be there", folder, f"--output={self.output}")


def _require_matplotlib():
    """The modules of pages can be imported only where matplotlib is installed."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as e:
        must, do = "a report needs matplotlib", "python -m pip install -r requirements-report.txt"
        raise checks.error(must, str(e), do=do) from e


def _answers(loaded, texts):
    """For each text and each of its masks [(wordpiece, probability)], best first."""
    rows = [text.encode("utf-8", "surrogateescape") for text in texts]
    answered = {name: np.asarray(value) for name, value in loaded.answering(tf.constant(rows, tf.string)).items()}
    return tuple(
        tuple(
            [
                (word.decode(), float(p))
                for word, p in zip(answered["tokens"][row, i], answered["probabilities"][row, i])
            ]
            for i in range(answered["positions"].shape[1])
            if answered["positions"][row, i] >= 0
        )
        for row in range(len(texts))
    )


def read(run_dirs, texts):
    """The `report_texts.Run` of each run folder.

    Raises:
        InputError: a folder is no run folder, or has no metrics.
    """
    all_logs = [run_logs.read(run_dir) for run_dir in run_dirs]
    runs = []
    for name, logs in zip(run_logs.labels(run_dirs), all_logs):
        if not checkpoints.saved_steps(logs.dir):
            runs.append(report_texts.Run(name, logs, None, None, ()))
            continue
        loaded = fill_mask.load(logs.dir, top_k=TOP_K)
        parameters = loaded.model.count_params()
        runs.append(report_texts.Run(name, logs, parameters, loaded.step, _answers(loaded, texts)))
    return runs


def read_tasks(run_dirs):
    """The `report_task_texts.TaskRun` of each fine-tuned run folder.

    Raises:
        InputError: a folder is of another kind than the first, has no metrics, or holds files of another hand.
    """
    all_logs = [run_logs.read(run_dir) for run_dir in run_dirs]
    runs = []
    for name, logs in zip(run_logs.labels(run_dirs), all_logs):
        the_task = kinds.of_run(run_folder.read(logs.dir))
        must = "runs of one report must all be pre-trained, or all fine-tuned on one kind of task"
        kind = the_task and the_task.kind
        first = runs[0].about["kind"] if runs else kind
        checks.require(kind and kind == first, must, f"{kind or 'pre-trained'} beside {first}", logs.dir)
        view_step, view = views.read(logs.dir) or (None, None)
        logs = dataclasses.replace(logs, config=_without_idle_flags(logs.config, kind))
        parameters = _parameters(logs.dir) if checkpoints.saved_steps(logs.dir) else None
        runs.append(TaskRun(name, logs, parameters, the_task.about, the_task.best_metric, view_step, view))
    return runs


def _without_idle_flags(content, kind):
    """What config.json holds, without the flags that have no meaning for a kind of task."""
    module = kinds.MODULES[kind]
    known = {f.name for f in dataclasses.fields(module.Settings)}
    others = [m.Flags for m in kinds.MODULES.values() if m is not module and hasattr(m, "Flags")]
    idle = {f.name for flags_of in others for f in dataclasses.fields(flags_of)} - known
    kept = {name: value for name, value in content.get("finetune", {}).items() if name not in idle}
    return {**content, "finetune": kept}


def _parameters(run_dir):
    """Numbers in the model of the newest checkpoint, without building the model."""
    prefix, others = run_folder.checkpoint_prefix(run_dir), (checkpoints.OPTIMIZER, checkpoints.LOOP)
    try:
        shapes = [shape for name, shape in tf.train.list_variables(prefix) if not name.startswith(others)]
    except tf.errors.OpError as e:
        raise checks.error("the newest checkpoint must be readable", e.message, prefix) from e
    return sum(map(math.prod, shapes))


def draw(run_dirs, texts=()):
    """(the matplotlib `Figure` of run folders, the runs that it shows).

    Raises:
        InputError: as of `run`.
    """
    _require_matplotlib()
    from tfbert.watching import report_page, report_task_page, report_trials_page

    trial_dirs = [d for d in run_dirs if os.path.isfile(os.path.join(d, trials.SUMMARY))]
    is_task = bool(trial_dirs) or any(kinds.of_run(run_folder.read(d)) is not None for d in run_dirs)
    must = "--text is for pre-trained runs, which fill its [MASK]s"
    checks.require(not (is_task and texts), must, f"{len(texts)} --text", do="Ask tfbert.predict")
    if trial_dirs:
        must = "trials are drawn one folder at a time"
        checks.require(len(run_dirs) == 1, must, f"{len(run_dirs)} --run_dir", trial_dirs[0])
        groups = trials.read(run_dirs[0])
        runs = read_tasks([os.path.join(run_dirs[0], name) for group in groups for name in group["runs"]])
        return report_trials_page.draw(run_dirs[0], groups, runs), runs
    if is_task:
        runs = read_tasks(run_dirs)
        return report_task_page.draw(runs), runs
    texts = tuple(texts) or TEXTS
    runs = read(run_dirs, texts)
    return report_page.draw(runs, texts), runs


def run(cfg, run_dirs, texts=()):
    """Draws the page of run folders on texts, or on `TEXTS`, and returns its path.

    Raises:
        InputError: matplotlib is not installed, there are too many folders or texts, a folder cannot be drawn, or
            the file cannot be written.
    """
    checks.require(run_dirs, "--run_dir must be given", "none")
    checks.require(len(run_dirs) <= MOST_RUNS, f"at most {MOST_RUNS} runs fit on a page", f"{len(run_dirs)} --run_dir")
    checks.require(len(texts) <= MOST_TEXTS, f"at most {MOST_TEXTS} texts fit on a page", f"{len(texts)} --text")
    places = [os.path.realpath(d) for d in run_dirs]
    checks.require(len(set(places)) == len(places), "each --run_dir must be another folder", ", ".join(run_dirs))
    figure, runs = draw(run_dirs, texts)
    for shown in runs:
        for note in shown.logs.notes:
            print(f"{shown.logs.dir}: {note}", file=sys.stderr)
    try:
        figure.savefig(cfg.output)
    except OSError as e:
        raise checks.error("--output must be a file that can be written", e.strerror or str(e), cfg.output) from e
    print(cfg.output)
    return cfg.output


def main(argv):
    """The program."""
    del argv
    run(config.from_flags(ReportConfig), flags.FLAGS.run_dir, flags.FLAGS.text or ())


if __name__ == "__main__":
    config.define_flags(ReportConfig)
    flags.DEFINE_multi_string(
        "run_dir", None, "Run folder, or one of trials; given several times, the runs are compared."
    )
    flags.DEFINE_multi_string(
        "text", None, "A text with [MASK]s to fill, in place of the stored ones; may be repeated."
    )
    flags.mark_flag_as_required("run_dir")
    checks.run_program(main)
