"""A run's model as it is served: the same answers from fewer operations, in float32 or with bfloat16 matrices.

Its layers are those of the run's model, built inside `exported.building`: they cannot be trained, queries, keys and
values are one product, and the scores of the vocabulary have a matrix of their own. When TensorFlow loads it, it makes
one operation of a product, its bias and what follows (GELU, or the residual), of scores, their scale and their mask,
and of a layer norm. Rows and the vocabulary may be in parts, each for a thread of its own: see
`tfbert.layers.sequence_parts`.

With bfloat16, matrices have two bytes a number, and the CPU multiplies them itself where it can: kernels of dense
layers and of the vocabulary's scores are stored in bfloat16, so that no request pays for making them. The embedding
tables, of which a request reads a few rows, layer norms, softmax and sums stay in float32.
"""

import itertools

import keras
import numpy as np

from tfbert import heads
from tfbert.convert import names
from tfbert.layers import attention, dtype_policy, exported, initializers, sequence_parts

DTYPES = ("float32", "bfloat16")
# Dense layers by their names; with bfloat16 all others compute in it on float32 variables.
DENSE = rf"(.*/)?(dense|query|key|value|{attention.JOINED}|{heads.DECODER}_\d+|embedding_hidden_mapping_in)"
HEAD = "cls/predictions"


def _policy(dtype):
    """What the layers compute in."""
    if dtype == "float32":
        return dtype
    mixed = keras.dtype_policies.DTypePolicyMap(default_policy="mixed_bfloat16")
    mixed[DENSE] = keras.dtype_policies.DTypePolicy("bfloat16")
    return mixed


def _decoder(weights, parts):
    """{path: array} of the output matrix of masked language models, in parts, turned round: [E, V / parts]."""
    if f"{HEAD}/output_bias" not in weights:
        return {}
    bias = weights[f"{HEAD}/output_bias"].numpy()  # [V]
    table = weights.get(f"{HEAD}/output_weights", weights.get(names.WORDS)).numpy()  # [V, E]; the second if it is tied
    ends, found = itertools.accumulate(sequence_parts.lengths(len(bias), parts)), {}
    for i, (begin, end) in enumerate(itertools.pairwise([0, *ends])):
        found[f"{HEAD}/{heads.DECODER}_{i}/kernel"] = np.transpose(table[begin:end])
        found[f"{HEAD}/{heads.DECODER}_{i}/bias"] = bias[begin:end]
    return found


def _filled(array, shape):
    """An array with zeros after it, up to a shape: see `exported.intermediate_size`."""
    more = [size - there for size, there in zip(shape, array.shape)]
    return np.pad(array, [(0, n) for n in more]) if any(more) else array


def build(make, model, dtype="float32", parts=1):
    """The model to serve.

    Args:
        make: Builds one like `model`, under the dtype policy that is set.
        model: Keras model in float32.
        dtype: One of DTYPES.
        parts: Of rows: see `sequence_parts`.

    Returns:
        A Keras model of the same inputs and outputs, with the weights of `model`; with bfloat16, rounded.
    """
    with dtype_policy.building_in(_policy(dtype)), exported.building(parts), initializers.left_out():
        made = make()
    weights = {v.path: v for v in model.variables}
    decoder = _decoder(weights, parts)
    for v in made.variables:
        scope, _, name = v.path.rpartition("/")
        if v.path in decoder:
            v.assign(decoder[v.path])
        elif scope.endswith(f"/{attention.JOINED}"):
            paths = [f"{scope.removesuffix(attention.JOINED)}{one}/{name}" for one in ("query", "key", "value")]
            v.assign(np.concatenate([weights[path].numpy() for path in paths], -1))
        else:
            v.assign(_filled(weights[v.path].numpy(), v.shape))  # rounded to its type
    return made
