"""Which module has which kind of task, and the task of a run folder."""

from tfbert import checks
from tfbert.tasks import answers, sentences, tags

MODULES = {
    "classify": sentences,
    "multi_label": sentences,
    "regress": sentences,
    tags.KIND: tags,
    answers.KIND: answers,
}


def _converted(about):
    """What config.json would hold under "task" of a model that was converted; None if it has no head of a task.

    Args:
        about: {"head": one of `convert.sources.HEADS`, "labels": names of classes}.
    """
    head, labels = about.get("head"), about.get("labels", [])
    if head == "classify":
        kind = "classify" if len(labels) > 1 else "regress"
        return {"kind": kind, "text_column": "text", "labels": labels if kind == "classify" else []}
    if head == "tokens":
        return {"kind": tags.KIND, "labels": labels}
    return {"kind": answers.KIND} if head == "span" else None


def of_run(run):
    """The `task.Task` of a run folder, or None for one that was pre-trained.

    A fine-tuned model that tfbert.convert_weights took in is a task too: its labels are known, columns have their names
    by default, and every question has an answer, as in SQuAD 1.1.

    Args:
        run: A `run_folder.RunFolder`.

    Raises:
        InputError: it is of a task that is not known here.
    """
    about = run.config.get("task") or _converted(run.config.get("convert", {}))
    if about is None:
        return None
    kind = about.get("kind")
    checks.require(kind in MODULES, f"a task must be one of {', '.join(MODULES)}", repr(kind), run.dir)
    return MODULES[kind].from_config(about)
