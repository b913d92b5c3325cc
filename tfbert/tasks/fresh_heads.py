"""Which part of the weights that fine-tuning begins with is of use to a task, and which begins anew."""

import re

from tfbert import run_folder
from tfbert.tasks import answers, tags

# Heads that weights may have and a task has no place for, or that they lack and training begins anew.
OTHER_HEADS = ("cls/*", "classifier/*", "tokens/*", "mix/*", "chunks/*", "config/pooling=*", "config/long_text=*")
POOLER = ("bert/pooler/*",)  # of no use to a task that scores every wordpiece

MOST_NAMES = 4  # of labels that are told


def may_lack(the_task):
    """Globs of names that weights may lack, or have and not be used for a task."""
    return (*OTHER_HEADS, *(POOLER if the_task.per_token else ()))


def begins_anew(source, the_task):
    """Whether the head of weights was trained on other labels or for another task than it is wanted for.

    Args:
        source: The `convert.sources.Source` of the weights; None for random ones.
        the_task: The `task.Task` that is to be trained.

    Returns:
        {glob of names of the head's variables: why they begin anew}; {} if weights have no head of this shape, which is
        missing then, or have the very one, which goes on from where it was.
    """
    if source is None or the_task.kind == answers.KIND or source.head not in ("classify", "tokens"):
        return {}
    if (source.head == "tokens") != (the_task.kind == tags.KIND):
        return {}
    kind, labels = _trained_on(source)
    wanted = tuple(the_task.about.get("labels", ()))
    unnamed = all(re.fullmatch(r"LABEL_\d+", label) for label in labels)
    # A score is one number; and who did not name labels may have meant these.
    same = labels == wanted or (unnamed and len(labels) == max(1, len(wanted)))
    if same and kind in (None, the_task.kind):
        return {}
    theirs, ours = _said(kind, labels, unnamed), _said(the_task.kind, wanted, False)
    why = f"the head begins anew: that of {source.where} is of {theirs}, and this task of {ours}"
    return {"tokens/*" if the_task.kind == tags.KIND else "classifier/*": why}


def _trained_on(source):
    """(kind of task or None if nothing says, labels) of the head of a `convert.sources.Source`."""
    about = {}
    if source.kind == "tfbert":
        folder, _ = run_folder.split(source.where)
        about = run_folder.read(folder).config.get("task", {})
    return about.get("kind"), source.labels


def _said(kind, labels, unnamed):
    """What a head tells, as text: `classify, 3 labels (a, b, c)`."""
    names = ", ".join(labels[:MOST_NAMES]) + (", ..." if len(labels) > MOST_NAMES else "")
    count = f"{len(labels)} labels" + ("" if unnamed else f" ({names})")
    what = kind or "an unknown task"
    return what if kind == "regress" or not labels else f"{what}, {count}"
