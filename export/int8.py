"""Makes a .tflite of 8-bit weights one whose dense layers take and give 8-bit integers too ("full int8").

TFLite's converter can do that, and gives each activation one scale. In BERT a few elements of the hidden states are
some hundred times as large as the others (Bondarenko et al. 2021, section 3), so that one scale leaves the others a
few of the 256 steps. Here each dense layer has one scale for what it takes, and one for each element that it gives,
which costs nothing: the 8-bit weights stay, and their scales are divided by it. What the layer gives is multiplied by
it again, in float.

    x -> QUANTIZE -> FULLY_CONNECTED, int8 -> DEQUANTIZE -> MUL by [D] -> y

The scales come from what the layers take and give on real texts. All else stays as it was: products of queries with
keys and of shares with values, softmax, norms and GELU in float32, so that the additive attention mask may be as large
as it is; the heads with 8-bit weights and float32 scores, of which the largest is looked for.
"""

import copy
import functools
import re

import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from export import flatbuffer, loaders
from tfbert import checks

STEPS = 127  # of an 8-bit integer on either side of 0; weights have no -128
# In the names of tensors of the encoder's layers, which `tfbert.encoder` calls so.
CHOSEN = re.compile(r"(^|/)layer_\d+")


def dense_layers(model, graph):
    """The encoder's dense layers of 8-bit weights and float activations: list of `schema.OperatorT`.

    Args:
        model: The `schema.ModelT`.
        graph: One of its `schema.SubGraphT`.
    """
    kinds, found = schema.TensorType, []
    for operator in graph.operators or []:
        if flatbuffer.code(model, operator) != schema.BuiltinOperator.FULLY_CONNECTED:
            continue
        taken, weights, given = (graph.tensors[i] for i in (*operator.inputs[:2], operator.outputs[0]))
        if weights.type == kinds.INT8 and taken.type == kinds.FLOAT32 and CHOSEN.search(given.name.decode()):
            found.append(operator)
    return found


def ranges(content, signature, requests):
    """What the encoder's dense layers take and give, of one signature.

    Args:
        content: The flatbuffer.
        signature: Its name.
        requests: List of {input name: array}.

    Returns:
        (the number of the signature's graph, {tensor: float32 [2, D], the least and the largest of each element}).
    """
    model = flatbuffer.read(content)
    number = flatbuffer.graph_of(model, signature)
    graph = model.subgraphs[number]
    layers = dense_layers(model, graph)
    tensors = sorted({int(i) for o in layers for i in (o.inputs[0], o.outputs[0])})
    found, asked = {}, loaders.Lite(content=content, keep_tensors=True) if layers else None
    for inputs in requests if layers else []:
        asked.run(signature, **inputs)
        for i in tensors:
            values = asked.tensor(i, number)
            values = values.reshape(-1, values.shape[-1])
            low, high = found.get(i, (values[0], values[0]))
            found[i] = np.stack([np.minimum(low, values.min(0)), np.maximum(high, values.max(0))])
    return number, found


def _tensor(graph, like, kind, name, scale=None, zero_point=0, **more):
    """Adds a tensor shaped like another, and returns its number."""
    tensor = copy.copy(graph.tensors[like])
    tensor.name, tensor.type, tensor.quantization = name, kind, None
    if scale is not None:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = np.atleast_1d(scale).astype(np.float32)
        tensor.quantization.zeroPoint = np.broadcast_to(zero_point or 0, np.shape(np.atleast_1d(scale))).astype(
            np.int64
        )
    for attribute, value in more.items():
        setattr(tensor, attribute, value)
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _constant(model, graph, values, kind, name, scale=None):
    """Adds a tensor [D] of values, and returns its number."""
    buffer = flatbuffer.add_buffer(model, values)
    return _tensor(
        graph, 0, kind, name, scale, buffer=buffer, shape=np.array(values.shape, np.int32), shapeSignature=None
    )


def _input_scale(ends):
    """(scale, zero point) of what a layer takes, of float32 [2, D]."""
    low, high = min(float(ends[0].min()), 0.0), max(float(ends[1].max()), 0.0)
    scale = max(high - low, 1e-6) / (2 * STEPS + 1)
    return scale, int(np.clip(round(-(STEPS + 1) - low / scale), -(STEPS + 1), STEPS))


class _Graph:
    """One graph, whose dense layers are made to take and give integers.

    Args:
        model: The `schema.ModelT`.
        number: Of the graph.
        found: {tensor: float32 [2, D]} of `ranges`.
    """

    def __init__(self, model, number, found):
        self._model, self._ranges, self.graph = model, found, model.subgraphs[number]
        self._taken = {}  # {tensor: (its 8-bit copy, scale)}, since queries, keys and values take the same

    def _quantized(self, i, new):
        """(the 8-bit copy of a tensor, its scale); what makes it is added to `new`."""
        if i not in self._taken:
            scale, zero = _input_scale(self._ranges[i])
            name = self.graph.tensors[i].name + b";int8"
            copy_ = _tensor(self.graph, i, schema.TensorType.INT8, name, scale, zero, buffer=0)
            new.append(
                flatbuffer.operator(
                    self._model, schema.BuiltinOperator.QUANTIZE, [i], [copy_], schema.QuantizeOptionsT()
                )
            )
            self._taken[i] = copy_, scale
        return self._taken[i]

    def _layer(self, operator):
        """The operators that take the place of a dense layer."""
        graph, kinds, codes, new = self.graph, schema.TensorType, schema.BuiltinOperator, []
        x, weights, y = int(operator.inputs[0]), int(operator.inputs[1]), int(operator.outputs[0])
        name, ends = graph.tensors[y].name, self._ranges[y]
        most = np.abs(ends).max(0)  # of each element that it gives
        most = np.maximum(most, 1e-4 * max(most.max(), 1e-6)).astype(np.float32)
        taken, scale = self._quantized(x, new)
        of_weights = np.broadcast_to(graph.tensors[weights].quantization.scale, most.shape) / most
        new_weights = _tensor(graph, weights, kinds.INT8, graph.tensors[weights].name + b";" + name, of_weights)
        graph.tensors[new_weights].quantization.quantizedDimension = 0
        inputs = [taken, new_weights, -1]
        if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
            bias = self._model.buffers[graph.tensors[operator.inputs[2]].buffer].data
            bias = np.frombuffer(bytes(bias), np.float32) / most
            steps = scale * of_weights
            whole = np.clip(np.round(bias / steps), -(2**31) + 1, 2**31 - 1).astype(np.int32)
            inputs[2] = _constant(self._model, graph, whole, kinds.INT32, name + b";bias", steps)
        given = _tensor(graph, y, kinds.INT8, name + b";int8", 1 / STEPS, buffer=0)
        plain = _tensor(graph, y, kinds.FLOAT32, name + b";of 1", buffer=0)
        options = copy.copy(operator.builtinOptions)
        options.asymmetricQuantizeInputs, options.fusedActivationFunction = False, schema.ActivationFunctionType.NONE
        make = functools.partial(flatbuffer.operator, self._model)
        scales = _constant(self._model, graph, most, kinds.FLOAT32, name + b";scales")
        after = schema.MulOptionsT()
        after.fusedActivationFunction = operator.builtinOptions.fusedActivationFunction
        return [
            *new,
            make(codes.FULLY_CONNECTED, inputs, [given], options, version=12),
            make(codes.DEQUANTIZE, [given], [plain], schema.DequantizeOptionsT(), version=2),
            make(codes.MUL, [plain, scales], [y], after),
        ]

    def rewrite(self):
        """Does it."""
        chosen, found = {id(o) for o in dense_layers(self._model, self.graph)}, []
        for operator in self.graph.operators:
            found += self._layer(operator) if id(operator) in chosen else [operator]
        self.graph.operators = found


def quantize(content, requests):
    """Makes the encoder's dense layers take and give 8-bit integers.

    Args:
        content: A flatbuffer of 8-bit weights.
        requests: {signature: list of {input name: array}}, what the scales are taken from; one text each, since a row
            that is filled up has values that no text has.

    Returns:
        (The flatbuffer, how many dense layers there were.)

    Raises:
        InputError: there is no such layer, or no request.
    """
    found = dict(ranges(content, name, asked) for name, asked in requests.items())
    model, count = flatbuffer.read(content), 0
    for number, of_tensors in found.items():
        count += len(dense_layers(model, model.subgraphs[number]))
        _Graph(model, number, of_tensors).rewrite()
    do = "TFLite leaves matrices of fewer than 1,024 elements alone: take a larger model, or --quantize=dynamic"
    checks.require(count, "full int8 needs dense layers of 8-bit weights in the encoder", "none", do=do)
    return flatbuffer.write(model), count
