"""What every test starts from: two CPU devices, float32, and fresh Keras names."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import pytest
import tensorflow as tf

from tests import tiny_run
from tests.tiny_corpus import make  # noqa: F401 (a fixture)
from tests.tiny_served import tiny_served, tiny_versions  # noqa: F401 (fixtures)
from tfbert import fill_mask
from tfbert.loop import distribution

# The files that take half a minute or more, the longest first. They are begun before all others (see the Makefile), so
# that at the end no process is left alone with one of them.
LONGEST = (
    "test_multi_worker",
    "test_pretrain",
    "test_pretrain_optimizers",
    "test_pretrain_faults",
    "test_distribution",
    "test_finetune",
    "test_pack_sequences",
    "test_create_pretraining_ways",
    "test_finetune_ways",
    "test_finetune_chunks",
    "test_pydocs",
    "test_cpp_loader",
    "test_finetune_words",
    "test_pretrain_kinds",
    "test_saved_model",
    "test_data_benchmark",
    "test_tflite_variants",
    "test_export_tasks",
    "test_input_pipeline",
    "test_hostile_text",
    "test_heads",
    "test_benchmark",
    "test_export_benchmark",
    "test_tpu",
    "test_tflite",
    "test_tensorboard_browser",
)

# Devices are fixed once TensorFlow has started, so they are set where pytest looks first. Work that
# names no device runs on the first one; MirroredStrategy finds two.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration() for _ in range(2)]
)


def pytest_collection_modifyitems(items):
    """Puts the files of LONGEST first; what stands in one file stays together and in its order."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(autouse=True)
def fresh_keras():
    """Gives each test Keras as it was at the start: layer names from zero, dtype policy float32, no global seed."""
    keras.utils.clear_session(free_memory=False)
    keras.config.set_dtype_policy("float32")
    tf.random.set_seed(None)
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def mirrored():
    """The MirroredStrategy of the two CPU devices; there must be only one in a process."""
    return distribution.make_strategy("mirrored")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """The run folder of `tests.tiny_run`, made anew for each module."""
    folder = tmp_path_factory.mktemp("tiny") / "run"
    tiny_run.make(folder)
    return str(folder)


@pytest.fixture(scope="module")
def loaded(run_dir):
    """That run folder, loaded to answer texts."""
    return fill_mask.load(run_dir, top_k=tiny_run.TOP_K, max_masks=tiny_run.MAX_MASKS)
