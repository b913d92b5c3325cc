"""A SavedModel of the tiny run folder, as `export.saved_model` writes it, for all that serves; made once.

Of the processes that pass the tests at once (pytest-xdist) the first makes it, and the others wait for it.
"""

import fcntl
import os

import pytest

from tests import tiny_run


@pytest.fixture(scope="session")
def tiny_versions(tmp_path_factory):
    """The folder of versions, with version 1; beside it lies the run folder."""
    from export import saved_model  # here: conftest.py imports this file for every test

    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # of this run of pytest, and of all of its processes
    with open(shared / "served.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "served").exists():
            aside = tmp_path_factory.mktemp("served")
            tiny_run.make(aside / "run")
            cfg = saved_model.SavedModelConfig(
                run_dir=str(aside / "run"),
                output_dir=str(aside / "bert"),
                top_k=tiny_run.TOP_K,
                max_masks=tiny_run.MAX_MASKS,
            )
            assert saved_model.run(cfg) == str(aside / "bert" / "1")
            aside.rename(shared / "served")
    return str(shared / "served" / "bert")


@pytest.fixture(scope="session")
def tiny_served(tiny_versions):
    """Version 1."""
    return tiny_versions + "/1"
