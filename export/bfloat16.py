"""A run's model with bfloat16 matrices: two bytes a number, and products that the CPU does itself where it can.

Kernels of dense layers are stored in bfloat16, so that no request pays for making them. The embedding tables, of which
a request reads a few rows, layer norms, softmax, sums and the scores of heads stay in float32.
"""

import keras

# Dense layers by their names; all others compute in bfloat16 on float32 variables.
DENSE = r"(.*/)?(dense|query|key|value|embedding_hidden_mapping_in)"


def build(make, model):
    """The same model in bfloat16.

    Args:
        make: Builds one like `model`, under the dtype policy that is set.
        model: Keras model in float32.

    Returns:
        A Keras model with the weights of `model`, rounded.
    """
    policy = keras.config.dtype_policy()
    mixed = keras.dtype_policies.DTypePolicyMap(default_policy="mixed_bfloat16")
    mixed[DENSE] = keras.dtype_policies.DTypePolicy("bfloat16")
    keras.config.set_dtype_policy(mixed)
    try:
        made = make()
    finally:
        keras.config.set_dtype_policy(policy)
    weights = {v.path: v for v in model.variables}
    for v in made.variables:
        v.assign(weights[v.path].value)  # rounded to its type
    return made
