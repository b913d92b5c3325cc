"""A run's model as it is served: the same answers from fewer operations, in float32 or with bfloat16 matrices.

Its layers are those of the run's model, built inside `exported.building`: they cannot be trained, queries, keys and
values are one product, no padding goes through them (see `tfbert.layers.padding_free`), and the scores of the
vocabulary have a matrix of their own. When TensorFlow loads it, it makes one operation of a product, its bias and what
follows (GELU, or the residual), of scores, their scale and their mask, and of a layer norm. Layers and the vocabulary
may be in parts, each for a thread of its own: see `tfbert.layers.tensor_parts`.

With bfloat16, matrices have two bytes a number, and the CPU multiplies them itself where it can: kernels of dense
layers and of the vocabulary's scores are stored in bfloat16, so that no request pays for making them. The embedding
tables, of which a request reads a few rows, layer norms, softmax and sums stay in float32.
"""

import itertools
import re

import keras
import numpy as np

from tfbert import heads
from tfbert.convert import names
from tfbert.layers import attention, dtype_policy, exported, initializers, tensor_parts

DTYPES = ("float32", "bfloat16")
# Dense layers by their names; with bfloat16 all others compute in it on float32 variables.
DENSE = rf"(.*/)?(dense|query|key|value|(dense|{attention.JOINED}|{heads.DECODER})_\d+|embedding_hidden_mapping_in)"
HEAD = "cls/predictions"
# A weight of a layer that is in parts: (the scope with its last slash, the layer, the part, the weight).
PART = re.compile(rf"(.*/)(dense|{attention.JOINED}|{heads.DECODER})_(\d+)/(kernel|bias)")


def _policy(dtype):
    """What the layers compute in."""
    if dtype == "float32":
        return dtype
    mixed = keras.dtype_policies.DTypePolicyMap(default_policy="mixed_bfloat16")
    mixed[DENSE] = keras.dtype_policies.DTypePolicy("bfloat16")
    return mixed


def _decoder(weights):
    """{"kernel": [E, V], "bias": [V]}: the output matrix of a masked language model, turned round."""
    table = weights.get(f"{HEAD}/output_weights", weights.get(names.WORDS))  # [V, E]; the second if it is tied
    return {"kernel": np.transpose(table), "bias": weights[f"{HEAD}/output_bias"]}


def _part(weights, heads_of_all, parts, scope, layer, i, name):
    """The weight of one part of a layer.

    Args:
        weights: {path: array} of the run's model.
        heads_of_all: N.
        parts: How many there are.
        scope, layer, i, name: As `PART` finds them.
    """

    def cut(array, axis, units=None):
        """Part i along an axis, whose units (as heads) stay whole."""
        units = units or array.shape[axis]
        ends = [0, *itertools.accumulate(tensor_parts.lengths(units, parts))]
        begin, end = (at * array.shape[axis] // units for at in ends[i : i + 2])
        return array[..., begin:end] if axis == -1 else array[begin:end]

    if layer == heads.DECODER:
        return cut(_decoder(weights)[name], -1)
    if layer == attention.JOINED:
        three = [weights[f"{scope}{one}/{name}"] for one in ("query", "key", "value")]
        return np.concatenate([cut(array, -1, heads_of_all) for array in three], -1)
    array = weights[f"{scope}{layer}/{name}"]
    if scope.endswith("/intermediate/"):
        return cut(array, -1)
    if name == "bias":  # of a sum over parts
        return array
    return cut(array, 0, heads_of_all if scope.endswith("/attention/output/") else None)


def _filled(array, shape, fill):
    """An array with a number after it, up to a shape: see `exported`'s sizes."""
    more = [size - there for size, there in zip(shape, array.shape)]
    return np.pad(array, [(0, n) for n in more], constant_values=fill) if any(more) else array


def build_lite(make, model):
    """The model for TFLite, which has the operations of the run's: the same, but that no padding goes through layers.

    Args:
        make, model: As of `build`.
    """
    with dtype_policy.building_in("float32"), exported.without_padding(), initializers.left_out():
        made = make()
    weights = {v.path: v.numpy() for v in model.variables}
    for v in made.variables:
        v.assign(weights[v.path])
    return made


def build(make, model, dtype="float32", parts=1):
    """The model to serve.

    Args:
        make: Builds one like `model`, under the dtype policy that is set.
        model: Keras model in float32.
        dtype: One of DTYPES.
        parts: Of layers: see `tensor_parts`.

    Returns:
        A Keras model of the same inputs and outputs, with the weights of `model`; with bfloat16, rounded.
    """
    with dtype_policy.building_in(_policy(dtype)), exported.building(parts), initializers.left_out():
        made = make()
    weights = {v.path: v.numpy() for v in model.variables}
    weights |= {v.path: np.ones(v.shape) for v in made.variables if v.name.startswith("one_")}
    heads_of_all = made.get_layer("layer_0").attention.self_attention.num_attention_heads
    for v in made.variables:
        found, fill = PART.fullmatch(v.path), 0
        if found and v.path not in weights:
            scope, layer, i, name = found.groups()
            array = _part(weights, heads_of_all, parts, scope, layer, int(i), name)
            fill = -np.inf if (layer, name) == (heads.DECODER, "bias") else 0  # of no wordpiece
        else:
            array = weights[v.path]
        v.assign(_filled(array, v.shape, fill))  # rounded to its type
    return made
