"""Which module has which kind of task, and the task of a run folder."""

import dataclasses

from tfbert import checks
from tfbert.tasks import answers, sentences, tags

MODULES = {
    "classify": sentences,
    "multi_label": sentences,
    "regress": sentences,
    tags.KIND: tags,
    answers.KIND: answers,
}


def check_flags(flags):
    """Raises an `InputError` if a flag is set that has no meaning for the task of the flags.

    Args:
        flags: Has `task` and the fields of the `Flags` of all modules.
    """
    module = MODULES[flags.task]
    known = {f.name for f in dataclasses.fields(module.Settings)}
    known |= {f.name for f in dataclasses.fields(module.Flags)} if hasattr(module, "Flags") else set()
    others = [f for m in MODULES.values() if hasattr(m, "Flags") for f in dataclasses.fields(m.Flags)]
    given = dict.fromkeys(f.name for f in others if f.name not in known and getattr(flags, f.name) != f.default)
    checks.require(
        not given,
        f"--task={flags.task} takes no flags of other tasks",
        ", ".join(f"{name}={getattr(flags, name)!r}" for name in given),
    )
    twice = sorted({label for label in flags.labels if flags.labels.count(label) > 1 or not label.strip()})
    checks.require(not twice, "--labels must be different names", f"{twice} twice or empty")


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
