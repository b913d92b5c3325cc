"""Seeds, folds and grids: which runs they are, and what their scores come to."""

import dataclasses
import json
import os

import numpy as np
import pytest
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams import api_pb2, backend_context, get_experiment, list_session_groups

from tests import tiny_task
from tfbert import checks, finetune
from tfbert.tasks import trials


@dataclasses.dataclass(frozen=True)
class Flags:
    output_dir: str = "out"
    random_seed: int = 7
    learning_rate: float = 1e-4
    train_batch_size: int = 8
    num_trials: int = 1
    num_folds: int | None = None
    fold: int | None = None
    sweep: tuple = ()


def planned(**flags):
    return [(name, own) for _, name, own in trials.plan(Flags(**flags))]


class TestPlan:
    def test_one_run_is_no_plan(self):
        assert planned() == [] and planned(num_folds=4, fold=2) == []

    def test_seeds(self):
        runs = planned(num_trials=3)
        assert [name for name, _ in runs] == ["seed=7", "seed=8", "seed=9"]
        assert runs[1][1] == Flags(output_dir=os.path.join("out", "seed=8"), random_seed=8)

    def test_folds(self):
        runs = planned(num_folds=3)
        assert [(name, own.fold, own.random_seed) for name, own in runs] == [(f"fold={i}", i, 7) for i in range(3)]

    def test_a_grid_of_seeds_and_folds(self):
        runs = planned(sweep=("learning_rate=2e-5:3e-5", "train_batch_size=16:32"), num_trials=2, num_folds=2)
        assert len(runs) == 16 and len({own.output_dir for _, own in runs}) == 16
        assert runs[5][0] == "learning_rate=2e-05,train_batch_size=32,seed=7,fold=1"
        assert (runs[5][1].learning_rate, runs[5][1].train_batch_size, runs[5][1].fold) == (2e-5, 32, 1)
        assert all(own.sweep == () and own.num_trials == 1 for _, own in runs)

    def test_berts_own_grid(self):
        points = trials.grid(("bert",), finetune.FinetuneConfig)
        assert len(points) == 2 * 3 * 3
        assert points[0] == {"train_batch_size": 16, "learning_rate": 5e-5, "num_train_epochs": 2.0}

    @pytest.mark.parametrize(
        "part, words",
        [
            ("leaning_rate=1", "sweep must be of a flag with one value; got 'leaning_rate=1'"),
            ("learning_rate", "sweep must be of a flag"),
            ("sweep=1", "sweep must be of a flag"),
            ("learning_rate=high", "learning_rate must be of type float; got 'high'"),
        ],
    )
    def test_errors(self, part, words):
        with pytest.raises(checks.InputError, match=words):
            planned(sweep=(part,))


def test_summary():
    scores = [0.5, 0.7, 0.9, 0.8, 0.8, 0.8]
    results = [({"lr": i // 3}, f"run {i}", {"accuracy": x, "loss": 1 - x}) for i, x in enumerate(scores)]
    best, worst = trials.summarise(results, ("accuracy", "max"))
    assert best["point"] == {"lr": 1} and best["mean"]["accuracy"] == pytest.approx(0.8)
    assert best["deviation"]["loss"] == pytest.approx(0.0, abs=1e-9)
    assert worst["mean"]["accuracy"] == pytest.approx(0.7) and worst["deviation"]["accuracy"] == pytest.approx(0.2)
    assert list(worst["runs"]) == ["run 0", "run 1", "run 2"]
    assert [g["point"]["lr"] for g in trials.summarise(results, ("loss", "max"))] == [0, 1]
    assert trials.table([worst])[:2] == ["lr=0: 3 runs", "  accuracy = 0.7000 ± 0.2000"]
    alone = trials.summarise(results[:1], ("accuracy", "max"))
    assert alone[0]["deviation"]["accuracy"] == 0.0


def test_folds_cover_every_example_once():
    examples = list(range(23))
    seen = []
    for fold in range(5):
        train, held_out = trials.split(examples, 5, fold, np.random.default_rng(3))
        assert sorted(train + held_out) == examples and len(held_out) in (4, 5)
        assert train == sorted(train) and not set(train) & set(held_out)
        seen += held_out
    assert sorted(seen) == examples
    with pytest.raises(checks.InputError, match="each fold needs an example; got 23 in 24 folds"):
        trials.split(examples, 24, 0, np.random.default_rng(3))


def hparams_table(folder):
    """{name: ({flag: value}, {metric: value})} of the runs that TensorBoard's HPARAMS shows of a folder."""
    multiplexer = plugin_event_multiplexer.EventMultiplexer().AddRunsFromDirectory(folder)
    multiplexer.Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, folder)
    context = backend_context.Context(base_plugin.TBContext(data_provider=provider))
    experiment = get_experiment.Handler(RequestContext(), context, "", api_pb2.GetExperimentRequest()).run()
    request = api_pb2.ListSessionGroupsRequest(start_index=0, slice_size=100)
    request.allowed_statuses.extend(api_pb2.Status.values())
    for info in experiment.metric_infos:
        request.col_params.add().metric.CopyFrom(info.name)
    table = list_session_groups.Handler(RequestContext(), context, "", request).run()
    return {
        group.name: (
            {name: value.number_value or value.string_value for name, value in group.hparams.items()},
            {value.name.tag.rpartition("/")[2]: value.value for value in group.metric_values},
        )
        for group in table.session_groups
    }


@pytest.mark.slow
def test_runs_of_the_program(tmp_path, capsys):
    data = tiny_task.make(tmp_path / "data", num_hidden_layers=1)
    sweep = {"sweep": ("learning_rate=1e-3:2e-3",)}
    flags = tiny_task.flags(data, tmp_path / "out", num_train_steps=2, num_folds=2, fold=1, dev_file="", **sweep)
    assert finetune.run(flags) == 0
    names = ["learning_rate=0.001", "learning_rate=0.002"]
    assert sorted(os.listdir(tmp_path / "out")) == [*names, "trials.json"]
    groups = json.loads((tmp_path / "out" / "trials.json").read_text())
    assert [list(group["runs"]) for group in sorted(groups, key=str)] == [[name] for name in names]
    assert groups[0]["mean"]["accuracy"] >= groups[1]["mean"]["accuracy"]
    assert "learning_rate=0.001: 1 runs" in capsys.readouterr().out
    # TensorBoard sees each as a run with its flags, and with the scores on the examples that it held out.
    table = hparams_table(str(tmp_path / "out"))
    assert sorted(table) == [f"{name} in {tmp_path / 'out'}" for name in names]
    for group in groups:
        [(name, scores)] = group["runs"].items()
        given, seen = table[f"{name} in {tmp_path / 'out'}"]
        assert given["learning_rate"] == pytest.approx(group["point"]["learning_rate"])
        assert given["task"] == "classify" and given["num_train_steps"] == 2
        assert {score: seen[score] for score in scores} == pytest.approx(scores, rel=1e-4, abs=1e-6)
    assert finetune.run(flags) == 0  # each says that it is finished
    assert capsys.readouterr().err.count("is finished") == 2
