"""A SavedModel of the tiny run folder, as `export.saved_model` writes it, for all that serves; made once."""

import pytest

from tests import tiny_run


@pytest.fixture(scope="session")
def tiny_versions(tmp_path_factory):
    """The folder of versions, with version 1."""
    from export import saved_model  # here: conftest.py imports this file for every test

    folder = tmp_path_factory.mktemp("served")
    tiny_run.make(folder / "run")
    saved_model.run(
        saved_model.SavedModelConfig(
            run_dir=str(folder / "run"),
            output_dir=str(folder / "bert"),
            top_k=tiny_run.TOP_K,
            max_masks=tiny_run.MAX_MASKS,
        )
    )
    return str(folder / "bert")


@pytest.fixture(scope="session")
def tiny_served(tiny_versions):
    """Version 1."""
    return tiny_versions + "/1"
