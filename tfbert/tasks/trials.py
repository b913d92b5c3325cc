"""Several runs of one task: seeds, folds, and a grid of hyper-parameters; their scores with mean and deviation."""

import dataclasses
import itertools
import json
import os
import statistics
import typing

from tfbert import checks

# Devlin et al. 2019, appendix A.3.
BERT_GRID = {"train_batch_size": (16, 32), "learning_rate": (5e-5, 3e-5, 2e-5), "num_train_epochs": (2.0, 3.0, 4.0)}
SUMMARY = "trials.json"


def grid(given, cls):
    """[{field: value}] of a sweep, in the order that it is given; [{}] of none.

    Args:
        given: "bert" alone, or parts such as "learning_rate=2e-5:3e-5".
        cls: The dataclass of the flags that are swept.

    Raises:
        InputError: no such flag, or not its kind of value.
    """
    if tuple(given) == ("bert",):
        axes = BERT_GRID
    else:
        kinds = {n: k for n, k in typing.get_type_hints(cls).items() if k in (int, float, str)}
        axes = {}
        for part in given:
            name, _, values = part.partition("=")
            do = "Give bert, or parts such as learning_rate=2e-5:3e-5"
            checks.require(name in kinds and values, "sweep must be of a flag with one value", repr(part), do=do)
            try:
                axes[name] = tuple(kinds[name](value) for value in values.split(":"))
            except ValueError as e:
                raise checks.error(f"{name} must be of type {kinds[name].__name__}", repr(values), "sweep") from e
    return [dict(zip(axes, values)) for values in itertools.product(*axes.values())]


def plan(flags):
    """[(name, flags)] of the runs that flags ask for: each has its own folder under output_dir.

    Args:
        flags: A dataclass with `output_dir`, `random_seed`, `num_trials`, `num_folds`, `fold` and `sweep`.

    Returns:
        [] if they ask for one run.
    """
    folds = [flags.fold] if flags.fold is not None or not flags.num_folds else list(range(flags.num_folds))
    points = grid(flags.sweep, type(flags))
    runs = []
    for point, seed, fold in itertools.product(points, range(flags.num_trials), folds):
        parts = [
            f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in point.items()
        ]
        parts += [f"seed={flags.random_seed + seed}"] * (flags.num_trials > 1)
        parts += [f"fold={fold}"] * (len(folds) > 1)
        name = ",".join(parts)
        more = {"random_seed": flags.random_seed + seed, "fold": fold, "num_trials": 1, "sweep": ()}
        own = {**point, **more, "output_dir": os.path.join(flags.output_dir, name)}
        runs.append((point, name, dataclasses.replace(flags, **own)))
    return [] if len(runs) == 1 and not runs[0][0] and flags.num_trials == 1 else runs


def summarise(results, best_metric):
    """What several runs came to.

    Args:
        results: [(point of the grid, name, {score: value})].
        best_metric: (name, "max" or "min"), as of `task.Task`.

    Returns:
        [{"point", "runs": {name: scores}, "mean": {score: value}, "deviation": {score: value}}], the best mean first.
        The deviation is that of a sample (n - 1); 0.0 of one run.
    """
    found = []
    for point in dict.fromkeys(json.dumps(point) for point, _, _ in results):
        runs = {name: scores for other, name, scores in results if json.dumps(other) == point}
        columns = {score: [scores[score] for scores in runs.values()] for score in next(iter(runs.values()))}
        found.append(
            {
                "point": json.loads(point),
                "runs": runs,
                "mean": {score: statistics.fmean(values) for score, values in columns.items()},
                "deviation": {s: statistics.stdev(v) if len(v) > 1 else 0.0 for s, v in columns.items()},
            }
        )
    name, towards = best_metric
    return sorted(found, key=lambda group: group["mean"][name], reverse=towards == "max")


def table(groups):
    """Lines for a person: for each point of the grid, mean ± deviation of each score."""
    lines = []
    for group in groups:
        about = ", ".join(f"{name}={value}" for name, value in group["point"].items())
        lines.append(f"{about + ': ' if about else ''}{len(group['runs'])} runs")
        lines += [f"  {s} = {group['mean'][s]:.4f} ± {group['deviation'][s]:.4f}" for s in sorted(group["mean"])]
    return lines


def write(folder, groups):
    """Writes trials.json, what `summarise` gives, into a folder."""
    with open(os.path.join(folder, SUMMARY), "w", encoding="utf-8") as f:
        f.write(json.dumps(groups, indent=2) + "\n")


def read(folder):
    """What `write` has written into a folder: as of `summarise`.

    Raises:
        InputError: it holds something else.
    """
    path = os.path.join(folder, SUMMARY)
    parts = {"point", "runs", "mean", "deviation"}
    try:
        with open(path, encoding="utf-8") as f:
            groups = json.load(f)
        known = groups and all(parts <= group.keys() and group["runs"] for group in groups)
    except (OSError, ValueError, TypeError, AttributeError) as e:
        raise checks.error(f"{SUMMARY} must be as tfbert.finetune wrote it", str(e), path) from e
    checks.require(known, f"{SUMMARY} must be as tfbert.finetune wrote it", "not a list of points with runs", path)
    return groups


def split(examples, num_folds, fold, rng):
    """(examples to train on, examples of a fold) of k-fold cross-validation.

    Args:
        examples: A list.
        num_folds: k.
        fold: 0 ... k - 1.
        rng: A `numpy.random.Generator`, in the same state for each fold.

    Raises:
        InputError: a fold would be empty.
    """
    checks.require(len(examples) >= num_folds, "each fold needs an example", f"{len(examples)} in {num_folds} folds")
    order = rng.permutation(len(examples))
    held_out = set(order[fold::num_folds].tolist())
    return (
        [e for i, e in enumerate(examples) if i not in held_out],
        [e for i, e in enumerate(examples) if i in held_out],
    )
