"""Tests of tfbert.loop.cluster: who trains together, from what the environment says."""

import json

import pytest

from tfbert import checks
from tfbert.loop import cluster


def tf_config(jobs, kind="worker", index=0):
    return {"TF_CONFIG": json.dumps({"cluster": jobs, "task": {"type": kind, "index": index}})}


def test_workers():
    made = cluster.from_environment(tf_config({"worker": ["a:1", "b:22", "[::1]:3"]}, index=2))
    assert made == cluster.Cluster(("a:1", "b:22", "[::1]:3"), 2)
    assert made.name_of(1) == "worker 1 (b:22)"


def test_the_example_of_the_messages_is_one():
    assert cluster.from_environment({"TF_CONFIG": cluster.EXAMPLE}).index == 0


def test_a_chief_is_the_first_worker():
    jobs = {"worker": ["b:1", "c:1"], "chief": ["a:1"]}
    assert cluster.from_environment(tf_config(jobs, "chief")) == cluster.Cluster(("a:1", "b:1", "c:1"), 0)
    assert cluster.from_environment(tf_config(jobs, index="1")) == cluster.Cluster(("a:1", "b:1", "c:1"), 2)


@pytest.mark.parametrize("environment", [{}, {"TF_CONFIG": ""}])
def test_nothing_said(environment):
    with pytest.raises(checks.InputError, match=r"neither TF_CONFIG nor.*TF_CONFIG='{.*srun.*tfbert.launch.local"):
        cluster.from_environment(environment)


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"TF_CONFIG": "{worker"}, "TF_CONFIG must be JSON; got '{worker'"),
        ({"TF_CONFIG": "[]"}, r"got '\[\]'"),
        ({"TF_CONFIG": "{}"}, "cluster=None"),
        ({"TF_CONFIG": '{"cluster": {"worker": ["a:1"]}}'}, "task=None"),
        (tf_config({"worker": ["a:1"], "ps": ["b:1"]}), r"jobs \['ps', 'worker'\], and only chief and worker"),
        (tf_config({"worker": "a:1"}), "worker='a:1'"),
        (tf_config({"worker": []}), r"worker=\[\]"),
        (tf_config({"worker": ["a:1", "b"]}), "'b', which is not host:port"),
        (tf_config({"worker": ["http://a:1"]}), "'http://a:1', which is not"),
        (tf_config({"chief": ["a:1", "b:1"]}, "chief"), "2 chiefs"),
        (tf_config({"worker": ["a:1"]}, "chief"), r"task type 'chief', and jobs \['worker'\]"),
        (tf_config({"worker": ["a:1"]}, index=None), "task index None"),
        (tf_config({"worker": ["a:1"]}, index=1), "task index 1, and 1 of type worker"),
        (tf_config({"worker": ["a:1", "a:1"]}), "an address that comes twice: a:1, a:1"),
    ],
)
def test_what_cannot_be_is_named(environment, named):
    with pytest.raises(checks.InputError, match=named) as e:
        cluster.from_environment(environment)
    assert f"Such as {cluster.EXAMPLE}" in str(e.value)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("login", ["login"]),
        ("gpu[08-10,12],login", ["gpu08", "gpu09", "gpu10", "gpu12", "login"]),
        ("r[1-2]n[3,5]-ib", ["r1n3-ib", "r1n5-ib", "r2n3-ib", "r2n5-ib"]),
        ("a,b[7]", ["a", "b7"]),
    ],
)
def test_lists_of_nodes(text, names):
    assert cluster.hosts(text) == names


def slurm(**changes):
    """Task 4 of 5 on three nodes."""
    return {
        "SLURM_JOB_ID": "71",
        "SLURM_JOB_NODELIST": "gpu[09-11]",
        "SLURM_TASKS_PER_NODE": "2(x2),1",
        "SLURM_NTASKS": "5",
        "SLURM_PROCID": "3",
        "SLURM_NODEID": "1",
        "SLURM_LOCALID": "1",
        **changes,
    }


def test_slurm():
    made = cluster.from_environment(slurm())
    first = int(made.workers[0].split(":")[1])
    assert made.index == 3
    assert made.workers == tuple(
        f"gpu{n}:{first + i}" for n, i in (("09", 0), ("09", 1), ("10", 0), ("10", 1), ("11", 0))
    )
    assert cluster.from_environment(slurm(SLURM_JOB_ID="72")).workers[0] == f"gpu09:{first + 16}"


def test_slurm_names_the_nodes_of_the_step():
    step = {"SLURM_STEP_NODELIST": "x", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_STEP_NUM_TASKS": "2"}
    made = cluster.from_environment(slurm(**step, SLURM_PROCID="1", SLURM_NODEID="0"))
    assert [w.split(":")[0] for w in made.workers] == ["x", "x"] and made.index == 1


def test_tf_config_goes_before_slurm():
    assert cluster.from_environment({**slurm(), **tf_config({"worker": ["a:1"]})}).workers == ("a:1",)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"SLURM_JOB_NODELIST": ""}, "no SLURM_STEP_NODELIST and no SLURM_JOB_NODELIST.*with srun"),
        ({"SLURM_NTASKS": "6"}, r"3 nodes, tasks a node \[2, 2, 1\], 6 tasks"),
        ({"SLURM_TASKS_PER_NODE": "two"}, "SLURM_TASKS_PER_NODE must look like.*'two'"),
        ({"SLURM_LOCALID": "0"}, "task 3 as number 0 of gpu10.*--distribution=block"),
        ({"SLURM_JOB_NODELIST": "gpu[x]"}, r"got 'gpu\[x\]'"),
    ],
)
def test_slurm_that_cannot_be(changes, named):
    with pytest.raises(checks.InputError, match=named):
        cluster.from_environment(slurm(**changes))
