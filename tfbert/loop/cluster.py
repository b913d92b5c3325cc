"""The processes that train one model together, read from what the starter of a job puts into the environment.

`TF_CONFIG` is TensorFlow's own way and goes first. Without it the variables are read that Slurm sets for each
task of `srun`, so that a job needs no script to make a `TF_CONFIG`.
"""

import dataclasses
import json
import re

from tfbert import checks

EXAMPLE = '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
# Slurm gives no ports. Those of a job are counted from here, by its number: two jobs may share a machine.
_FIRST_PORT, _PORTS, _TASKS_A_NODE = 20_000, 12_000, 16


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Who trains together.

    Attributes:
        workers: host:port of each; the first is the chief, who alone writes.
        index: Which of them this process is.
    """

    workers: tuple[str, ...]
    index: int

    def name_of(self, index):
        """How messages call a worker."""
        return f"worker {index} ({self.workers[index]})"


def from_environment(environment):
    """The `Cluster` that the environment tells of.

    Args:
        environment: `os.environ`.

    Raises:
        InputError: it tells of none, or what it says cannot be.
    """
    if environment.get("TF_CONFIG"):
        return _from_tf_config(environment["TF_CONFIG"])
    if "SLURM_PROCID" in environment:
        return _from_slurm(environment)
    raise checks.error(
        "strategy=multi_worker needs to know who trains together",
        "neither TF_CONFIG nor Slurm's SLURM_PROCID in the environment",
        do=f"Give each process its TF_CONFIG, such as TF_CONFIG='{EXAMPLE}', start it with srun, or try several on "
        "this machine with python -m tfbert.launch.local --workers=2 -- FLAGS",
    )


def _from_tf_config(text):
    """Of TF_CONFIG: workers, or a chief and workers."""

    def require(ok, got):
        checks.require(ok, "TF_CONFIG must name all workers and which of them this is", got, do=f"Such as {EXAMPLE}")

    try:
        content = json.loads(text)
    except json.JSONDecodeError as e:
        raise checks.error("TF_CONFIG must be JSON", f"{text!r}: {e}", do=f"Such as {EXAMPLE}") from e
    require(isinstance(content, dict), repr(text))
    jobs, task = content.get("cluster"), content.get("task")
    require(isinstance(jobs, dict) and jobs, f"cluster={jobs!r}")
    require(isinstance(task, dict), f"task={task!r}")
    require(set(jobs) <= {"chief", "worker"}, f"jobs {sorted(jobs)}, and only chief and worker train here")
    for name, addresses in jobs.items():
        are_addresses = isinstance(addresses, list) and all(isinstance(a, str) for a in addresses)
        require(are_addresses and addresses, f"{name}={addresses!r}")
        wrong = [a for a in addresses if not re.fullmatch(r"[^\s:,/]+:\d+|\[[0-9a-fA-F:]+\]:\d+", a)]
        require(not wrong, f"{wrong[0]!r}, which is not host:port" if wrong else None)
    chiefs = jobs.get("chief", [])
    require(len(chiefs) <= 1, f"{len(chiefs)} chiefs")
    kind, index = task.get("type"), task.get("index")
    require(kind in jobs, f"task type {kind!r}, and jobs {sorted(jobs)}")
    try:
        index = int(index)
    except (TypeError, ValueError):
        require(False, f"task index {index!r}")
    require(0 <= index < len(jobs[kind]), f"task index {index}, and {len(jobs[kind])} of type {kind}")
    workers = (*chiefs, *jobs.get("worker", []))
    require(len(set(workers)) == len(workers), f"an address that comes twice: {', '.join(workers)}")
    return Cluster(workers, index + (len(chiefs) if kind == "worker" else 0))


def _from_slurm(environment):
    """Of the variables of a task that srun started: tasks of a node follow one another, as srun deals them out."""

    def value(*names):
        found = next((environment[n] for n in names if environment.get(n)), None)
        must = "a task that srun started has Slurm's variables"
        checks.require(found is not None, must, f"no {' and no '.join(names)}", do="Start the program with srun")
        return found

    nodes = hosts(value("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"))
    counts = _tasks_per_node(value("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"))
    index, total = int(value("SLURM_PROCID")), int(value("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"))
    got = f"{len(nodes)} nodes, tasks a node {counts}, {total} tasks"
    do = "Start it with srun --distribution=block and at most 16 tasks a node"
    must = "Slurm's nodes and tasks must fit one another"
    checks.require(
        len(counts) == len(nodes) and sum(counts) == total and max(counts) <= _TASKS_A_NODE, must, got, do=do
    )
    first = _FIRST_PORT + int(value("SLURM_JOB_ID")) * _TASKS_A_NODE % _PORTS
    places = [(node, local) for node, count in zip(nodes, counts) for local in range(count)]
    here = nodes[int(environment.get("SLURM_NODEID", nodes.index(places[index][0])))]
    local = int(environment.get("SLURM_LOCALID", places[index][1]))
    got = f"task {index} as number {local} of {here}"
    checks.require((here, local) == places[index], "tasks must be dealt out node by node", got, do=do)
    return Cluster(tuple(f"{node}:{first + local}" for node, local in places), index)


def _tasks_per_node(text):
    """[3, 3, 1] of Slurm's `3(x2),1`."""
    counts = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        checks.require(match, "SLURM_TASKS_PER_NODE must look like 3(x2),1", repr(text))
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def hosts(text):
    """The names in a list as Slurm writes it: `gpu[08-10,12],login` is gpu08, gpu09, gpu10, gpu12 and login."""
    names = []
    for item in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text):
        expanded = [""]
        for plain, ranges in re.findall(r"([^\[\]]+)|\[([^\]]*)\]", item):
            ends = [plain] if plain else [number for r in ranges.split(",") for number in _numbers(r, text)]
            expanded = [name + end for name in expanded for end in ends]
        names += expanded
    return names


def _numbers(text, where):
    """["08", "09", "10"] of `08-10`."""
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    checks.require(match, "a list of nodes must look like gpu[08-10,12]", repr(where))
    return [str(n).zfill(len(match[1])) for n in range(int(match[1]), int(match[2] or match[1]) + 1)]
