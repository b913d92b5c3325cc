"""What every test starts from: two CPU devices, float32, and fresh Keras names."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import pytest
import tensorflow as tf

from tfbert import distribution

# Devices are fixed once TensorFlow has started, so they are set where pytest looks first. Work that
# names no device runs on the first one; MirroredStrategy finds two.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration() for _ in range(2)]
)


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
