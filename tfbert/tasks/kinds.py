"""Which module has which kind of task, and the task of a run folder."""

from tfbert import checks
from tfbert.tasks import sentences

MODULES = {"classify": sentences, "multi_label": sentences, "regress": sentences}


def of_run(run):
    """The `task.Task` of a run folder, or None for one that was pre-trained.

    A classifier that tfbert.convert_weights took in is a task too: its labels are known, and columns have their names
    by default.

    Args:
        run: A `run_folder.RunFolder`.

    Raises:
        InputError: it is of a task that is not known here.
    """
    about = run.config.get("task")
    if about is None and run.config.get("convert", {}).get("head") == "classify":
        labels = run.config["convert"]["labels"]
        kind = "classify" if len(labels) > 1 else "regress"
        about = {"kind": kind, "text_column": "text", "labels": labels if kind == "classify" else []}
    if about is None:
        return None
    kind = about.get("kind")
    checks.require(kind in MODULES, f"a task must be one of {', '.join(MODULES)}", repr(kind), run.dir)
    return MODULES[kind].from_config(about)
