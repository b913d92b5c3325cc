"""Tests of tfbert.launch: starting several processes, here and by the files for Slurm and Kubernetes."""

import os
import pathlib
import re
import signal
import subprocess
import threading
import time

import pytest
import yaml

from tfbert import pretrain
from tfbert.launch import local
from tfbert.loop import cluster, lost_worker

LAUNCH = pathlib.Path(local.__file__).parent


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Makes `worker_of_a_test` of a text, a module that workers can run."""

    def make(text):
        (tmp_path / "worker_of_a_test.py").write_text("import json, os, sys\n" + text)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return local.LocalConfig(workers=3, program="worker_of_a_test")

    return make


def test_workers_get_flags_and_places(program, capfd):
    flags = program("print(sys.argv[1:], os.environ['TF_CONFIG'])")
    assert local.run(flags, ["--a=1", "--b"]) == 0
    lines = sorted(capfd.readouterr().err.splitlines())
    assert len(lines) == 3
    seen = []
    for index, line in enumerate(lines):
        start = f"[{index}] ['--a=1', '--b', '--strategy=multi_worker'] "
        assert line.startswith(start)
        seen.append(cluster.from_environment({"TF_CONFIG": line.removeprefix(start)}))
    assert [s.index for s in seen] == [0, 1, 2]
    assert len({s.workers for s in seen}) == 1 and len(set(seen[0].workers)) == 3


@pytest.mark.parametrize(("text", "status"), [("sys.exit(7)", 7), ("os.kill(os.getpid(), 9)", 128 + 9)])
def test_the_status_of_a_worker_that_fails(program, text, status):
    flags = program(f"if json.loads(os.environ['TF_CONFIG'])['task']['index'] == 1: {text}")
    assert local.run(flags, []) == status


def test_signals_go_to_all(program, tmp_path):
    flags = program(
        "import pathlib, signal, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
        f"pathlib.Path({str(tmp_path)!r}, f'up{{os.getpid()}}').touch()\n"
        "time.sleep(60)\n"
    )

    def terminate():
        while len(list(tmp_path.glob("up*"))) < 3:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    handler = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=terminate, daemon=True).start()
    assert local.run(flags, []) == 0
    assert signal.getsignal(signal.SIGTERM) == handler


class TestSlurm:
    """The script, with an srun and an scontrol that only write down how they were called."""

    @pytest.fixture
    def start(self, tmp_path):
        def start(srun):
            for name, text in (("srun", f'echo "$@" > {tmp_path}/srun.called\n{srun}'), ("scontrol", "")):
                path = tmp_path / name
                path.write_text(f'#!/bin/bash\necho "$@" > {tmp_path}/{name}.called\n{text}\n')
                path.chmod(0o755)
            environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "71"}
            environment["TFBERT_PYTHON"] = "the-python"
            command = ["bash", str(LAUNCH / "slurm.sbatch"), "--flagfile=base.flags", "--input_file=a b*"]
            return subprocess.Popen(command, env=environment)

        return start

    @pytest.mark.parametrize(("status", "again"), [(0, False), (2, False), (lost_worker.STATUS, True), (137, True)])
    def test_goes_back_into_the_queue_if_a_worker_was_lost(self, start, tmp_path, status, again):
        assert start(f"exit {status}").wait(20) == status
        called = (tmp_path / "srun.called").read_text()
        assert (
            " the-python -m tfbert.pretrain --flagfile=base.flags --input_file=a b* --strategy=multi_worker" in called
        )
        assert (tmp_path / "scontrol.called").is_file() == again
        if again:
            assert (tmp_path / "scontrol.called").read_text() == "requeue 71\n"

    def test_but_not_for_ever(self, start, tmp_path, monkeypatch):
        monkeypatch.setenv("SLURM_RESTART_COUNT", "20")
        assert start(f"exit {lost_worker.STATUS}").wait(20) == lost_worker.STATUS
        assert not (tmp_path / "scontrol.called").is_file()

    def test_goes_back_into_the_queue_when_the_time_is_up(self, start, tmp_path):
        process = start(
            f"trap 'touch {tmp_path}/saved; exit 0' TERM\ntouch {tmp_path}/up\nwhile :; do sleep 0.05; done"
        )
        while not (tmp_path / "up").is_file():
            time.sleep(0.01)
        process.send_signal(signal.SIGUSR1)
        assert process.wait(20) == 0
        assert (tmp_path / "saved").is_file()
        assert (tmp_path / "scontrol.called").read_text() == "requeue 71\n"


def test_kubernetes_manifest_tells_each_pod_its_place():
    manifest = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    [job] = manifest["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    [container] = spec["template"]["spec"]["containers"]
    variables = {v["name"]: v for v in container["env"]}
    index = variables["WORKER_INDEX"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert index == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    count = spec["parallelism"]
    assert (spec["completions"], spec["completionMode"]) == (count, "Indexed")
    for i in range(count):
        text = variables["TF_CONFIG"]["value"].replace("$(WORKER_INDEX)", str(i))
        members = cluster.from_environment({"TF_CONFIG": text})
        name, port = manifest["metadata"]["name"], container["ports"][0]["containerPort"]
        assert members.index == i
        # What JobSet calls its pods: the set, the job, the job's number, the pod's number; then the service.
        assert members.workers == tuple(f"{name}-{job['name']}-0-{n}.{name}:{port}" for n in range(count))
    assert container["command"][:3] == ["python", "-m", "tfbert.pretrain"]
    assert "--strategy=multi_worker" in container["command"]
    mistake = spec["podFailurePolicy"]["rules"][0]
    assert mistake["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [2]}
    assert lost_worker.STATUS not in mistake["onExitCodes"]["values"]


def test_files_name_flags_that_exist():
    text = (LAUNCH / "slurm.sbatch").read_text() + (LAUNCH / "jobset.yaml").read_text()
    text = "\n".join(line for line in text.splitlines() if not line.startswith("#SBATCH"))
    known = set(pretrain.PretrainConfig.__dataclass_fields__) | {"flagfile", "distribution"}
    assert set(re.findall(r"--([a-z_]+)=", text)) - known == set()
