"""Reads, changes and writes the flatbuffers of .tflite files, by the schema that TensorFlow ships."""

import flatbuffers
import numpy as np
from tensorflow.lite.python import schema_py_generated as schema


def read(content):
    """The `schema.ModelT` of a flatbuffer, as an object that can be changed."""
    return schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))


def write(model):
    """The flatbuffer of a `schema.ModelT`."""
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def code(model, operator):
    """The `schema.BuiltinOperator` of a `schema.OperatorT`."""
    return _number(model.operatorCodes[operator.opcodeIndex])


def _number(of):
    return max(of.builtinCode, of.deprecatedBuiltinCode)  # those below 127 were a byte once


def ops(content):
    """The names of the ops of a flatbuffer, sorted; what is no builtin op has the name of its own."""
    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    model = schema.Model.GetRootAsModel(content, 0)
    codes = (model.OperatorCodes(i) for i in range(model.OperatorCodesLength()))
    return sorted(
        {
            of.CustomCode().decode() if of.CustomCode() else names[max(of.BuiltinCode(), of.DeprecatedBuiltinCode())]
            for of in codes
        }
    )


def graph_of(model, signature):
    """The number of the graph of a signature."""
    return next(d.subgraphIndex for d in model.signatureDefs if d.signatureKey.decode() == signature)


def add_buffer(model, values):
    """Adds an array as a buffer, and returns its number."""
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    model.buffers.append(buffer)
    return len(model.buffers) - 1


def operator(model, kind, inputs, outputs, options=None, version=1):
    """A `schema.OperatorT`; its code is added if the model has no such one."""
    fitting = (n for n, of in enumerate(model.operatorCodes) if _number(of) == kind and of.version >= version)
    number = next(fitting, len(model.operatorCodes))
    if number == len(model.operatorCodes):
        of = schema.OperatorCodeT()
        of.builtinCode, of.deprecatedBuiltinCode, of.version = kind, min(kind, 127), version
        model.operatorCodes.append(of)
    operator = schema.OperatorT()
    operator.opcodeIndex = number
    operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
    if options is not None:
        operator.builtinOptions = options
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
    return operator


def share(content):
    """A flatbuffer in which equal weights are there once, however many graphs have them."""
    model, first = read(content), {}
    for graph in model.subgraphs:
        for tensor in graph.tensors or []:
            data = model.buffers[tensor.buffer].data
            if data is not None and len(data) and not tensor.isVariable:
                tensor.buffer = first.setdefault(bytes(data), tensor.buffer)
    used = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors or []}
    used |= {metadata.buffer for metadata in model.metadata or []}
    for number, buffer in enumerate(model.buffers):
        if number not in used:
            buffer.data = None
    return write(model)
