"""Reads and writes .safetensors files: https://github.com/huggingface/safetensors, "Format".

Eight bytes with the header's length, the header (JSON: {name: {"dtype", "shape", "data_offsets"}}), then the
numbers of all tensors, little-endian, one after the other without a gap. A file comes from anywhere, so all
that the header states is checked against the file's length before a byte of it is used.
"""

import json
import math
import os
import struct

import numpy as np

from tfbert import checks
from tfbert.convert import sources

METADATA = "__metadata__"
LONGEST_HEADER = 100_000_000  # bytes; the limit of the format's own library

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
_CODES = {name: code for code, name in DTYPES.items()}


def numpy_dtype(name):
    """NumPy's type for a `Tensor.dtype`, little-endian."""
    return sources.FLOATS.get(name) or np.dtype(name).newbyteorder("<")


def mapped(path, dtype, offset, shape):
    """A `read` function that maps a part of a file, as long as what it gives is used."""

    def read():
        if 0 in shape:
            return np.zeros(shape, numpy_dtype(dtype))
        return np.memmap(path, numpy_dtype(dtype), "r", offset, shape or (1,)).reshape(shape)

    return read


def _header(path):
    """(the header as JSON gives it, offset of the first number, length of the numbers)."""
    must = "a .safetensors file must be whole"
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as f:
            first = f.read(8)
            checks.require(len(first) == 8, must, f"{size} bytes, too few for the length of a header", path)
            (length,) = struct.unpack("<Q", first)
            checks.require(length <= LONGEST_HEADER, must, f"a header of {length} bytes", path)
            checks.require(8 + length <= size, must, f"a header of {length} bytes in a file of {size}", path)
            text = f.read(length)
    except OSError as e:
        raise checks.error("a .safetensors file must be readable", e.strerror, path) from e
    must = "the header of a .safetensors file must be a JSON object"
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=lambda pairs: _unique(pairs, path))
    except checks.InputError:
        raise
    except (ValueError, RecursionError) as e:
        raise checks.error(must, str(e), path) from e
    checks.require(isinstance(header, dict), must, type(header).__name__, path)
    return header, 8 + length, size - 8 - length


def _unique(pairs, path):
    names = [name for name, _ in pairs]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    checks.require(not twice, "the header of a .safetensors file must hold each name once", f"{twice} twice", path)
    return dict(pairs)


def _natural(value):
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _entry(name, about, path):
    """(dtype, shape, begin, end) of one entry of the header, checked by itself."""
    must = "each tensor of a .safetensors file must have a dtype, a shape and data_offsets"
    checks.require(
        isinstance(about, dict) and {"dtype", "shape", "data_offsets"} <= set(about), must, f"{about} of {name}", path
    )
    dtype, shape, offsets = about["dtype"], about["shape"], about["data_offsets"]
    known = isinstance(dtype, str) and dtype in DTYPES
    checks.require(known, f"a tensor's dtype must be one of {', '.join(DTYPES)}", f"{dtype!r} of {name}", path)
    good = isinstance(shape, list) and all(map(_natural, shape))
    checks.require(good, "a tensor's shape must be a list of natural numbers", f"{shape} of {name}", path)
    good = isinstance(offsets, list) and len(offsets) == 2 and all(map(_natural, offsets)) and offsets[0] <= offsets[1]
    checks.require(good, "a tensor's data_offsets must be [begin, end]", f"{offsets} of {name}", path)
    size = math.prod(shape) * numpy_dtype(DTYPES[dtype]).itemsize
    checks.require(
        offsets[1] - offsets[0] == size,
        "a tensor's data_offsets must fit its shape",
        f"{offsets[1] - offsets[0]} bytes for {dtype} {shape}, which takes {size}, of {name}",
        path,
    )
    return DTYPES[dtype], tuple(shape), *offsets


def read(path):
    """The tensors of a file; only its header is read.

    Args:
        path: Of a `.safetensors` file.

    Returns:
        {name: `sources.Tensor`}, in the order of the header.

    Raises:
        InputError: the file is cut short, or its header states what the file cannot hold: offsets that overlap,
            leave gaps or go beyond the end, sizes that do not fit shapes, unknown types.
    """
    header, start, length = _header(path)
    header.pop(METADATA, None)
    entries = {name: _entry(name, about, path) for name, about in header.items()}
    end = 0
    for name, (_, _, tensor_begin, tensor_end) in sorted(entries.items(), key=lambda e: (e[1][2], e[1][3])):
        problem = "overlaps the one before" if tensor_begin < end else "leaves a gap before it"
        checks.require(
            tensor_begin == end,
            "tensors of a .safetensors file must lie one after the other",
            f"{name}, which {problem}: it begins at {tensor_begin}, and {end} bytes are taken",
            path,
        )
        end = tensor_end
    checks.require(
        end == length, "a .safetensors file must be whole", f"{length} bytes of numbers, and {end} in its header", path
    )
    return {
        name: sources.Tensor(shape, dtype, mapped(path, dtype, start + begin, shape))
        for name, (dtype, shape, begin, _) in entries.items()
    }


def read_sharded(index_path, read_file=read):
    """The tensors of several files, as a `model.safetensors.index.json` lists them.

    Args:
        index_path: Of the index.
        read_file: What reads one of the files.

    Raises:
        InputError: the index names a file outside its folder or one that is not there, or the files hold other
            tensors than it says.
    """
    index = sources.read_json(index_path)
    weight_map = index.get("weight_map")
    checks.require(
        isinstance(weight_map, dict) and weight_map,
        "an index must have a weight_map",
        f"{type(weight_map)}",
        index_path,
    )
    folder = os.path.dirname(index_path)
    names = {name: None for name in weight_map.values() if isinstance(name, str)}
    odd = [name for name in weight_map.values() if not isinstance(name, str)]
    checks.require(not odd, "an index must map names of tensors to names of files", f"{odd[:3]}", index_path)
    tensors = {}
    for file in names:
        found = read_file(sources.inside(folder, file, index_path))
        stated = {name for name, where in weight_map.items() if where == file}
        differ = sorted(stated ^ set(found))
        checks.require(
            not differ,
            "files must hold the tensors that their index lists",
            f"{differ[:5]} otherwise in {file}",
            index_path,
        )
        tensors |= found
    return tensors


def write(path, tensors, metadata=None):
    """Writes a file, one tensor at a time.

    Args:
        path: To write; it must not be open elsewhere.
        tensors: {name: `sources.Tensor`}; numbers are written in the tensor's own type.
        metadata: {str: str} for the header.
    """
    header, end = {METADATA: metadata} if metadata else {}, 0
    for name, tensor in tensors.items():
        begin, end = end, end + math.prod(tensor.shape) * numpy_dtype(tensor.dtype).itemsize
        header[name] = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # numbers begin at a multiple of 8
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name, tensor in tensors.items():
            numbers = np.asarray(tensor.read(), numpy_dtype(tensor.dtype), order="C")
            checks.require(numbers.shape == tensor.shape, "a tensor must have its shape", f"{numbers.shape}", name)
            f.write(numbers.reshape(-1).view(np.uint8).data)
        f.flush()
        os.fsync(f.fileno())
