"""What layers compute in, for as long as a model is built."""

import contextlib

import keras


@contextlib.contextmanager
def building_in(name):
    """Layers that are made inside have this policy; afterwards the one before is the default again.

    Args:
        name: Of a Keras dtype policy, such as "float32" or "mixed_bfloat16".
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
