"""Reads `pytorch_model.bin`: a dictionary of tensors as PyTorch saves it, without PyTorch and without unpickling.

A pickle is a program, and Python's unpickler runs it: it may import and call anything. Here the few
instructions that PyTorch writes for a dictionary of tensors are followed one by one, and the only "functions"
there are build the records below. Any other instruction or name ends the reading with an error.

Two layouts: the older is a sequence of pickles followed by the numbers; since PyTorch 1.6 it is a zip archive,
not compressed, with data.pkl and one file of numbers a storage. Both are mapped, not read.
"""

import collections
import os
import pickletools
import struct
import zipfile
from typing import NamedTuple

import numpy as np

from tfbert import checks
from tfbert.convert import safetensors_file, sources

_MAGIC = 0x1950A86A20F9469CFC6C  # first thing in the older layout
_LONGEST_PICKLE = 100_000_000  # bytes of instructions; a state dictionary has some 100 a tensor

_STORAGES = {
    f"{name}Storage": dtype
    for name, dtype in {
        "Float": "float32",
        "Half": "float16",
        "BFloat16": "bfloat16",
        "Double": "float64",
        "Long": "int64",
        "Int": "int32",
        "Short": "int16",
        "Char": "int8",
        "Byte": "uint8",
        "Bool": "bool",
    }.items()
}
_MUST = "pytorch_model.bin must hold a dictionary of tensors and nothing else"
_DO = "Save it with torch.save(model.state_dict(), ...) or, better, as .safetensors"

_PUSH = {"NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "LONG", "INT", "BINFLOAT"}
_PUSH |= {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "BINSTRING", "SHORT_BINSTRING"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_MAKE = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_PUT = {"BINPUT", "LONG_BINPUT", "PUT"}
_GET = {"BINGET", "LONG_BINGET", "GET"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Global(NamedTuple):
    """A name that the pickle imports; a word here, not a thing that can be called."""

    name: str


class _Storage(NamedTuple):
    """Numbers that several tensors may share."""

    dtype: str
    key: str
    count: int


class _View(NamedTuple):
    """A tensor: a part of a storage."""

    storage: _Storage
    offset: int
    shape: tuple
    stride: tuple


_MARK = object()
_FUNCTIONS = ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor", "torch._utils _rebuild_parameter")
_DICTIONARY = "collections OrderedDict"
_ADMITTED = {*_FUNCTIONS, _DICTIONARY, *(f"torch {name}" for name in _STORAGES)}


def _refuse(what, path):
    raise checks.error(_MUST, what, path, _DO)


def _storage(persistent_id, path):
    """The storage that a persistent id stands for: ("storage", type, key, device, count[, view])."""
    whole = isinstance(persistent_id, tuple) and len(persistent_id) in (5, 6) and persistent_id[0] == "storage"
    if not whole or persistent_id[5:] not in ((), (None,)):
        _refuse("a storage that is described otherwise", path)
    _, kind, key, _, count = persistent_id[:5]
    dtype = _STORAGES.get(kind.name.removeprefix("torch ")) if isinstance(kind, _Global) else None
    if dtype is None or not isinstance(key, str) or not _natural(count):
        _refuse("a storage that is described otherwise", path)
    return _Storage(dtype, key, count)


def _natural(value):
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _call(function, arguments, path):
    """What one of the admitted functions gives."""
    name = function.name if isinstance(function, _Global) else None
    if name == _DICTIONARY and arguments == ():
        return {}
    if name == _FUNCTIONS[2] and arguments and isinstance(arguments[0], _View):
        return arguments[0]  # a parameter is its tensor
    if name in _FUNCTIONS[:2] and len(arguments) >= 4 and isinstance(arguments[0], _Storage):
        storage, offset, shape, stride = arguments[:4]
        numbers = (offset, *shape, *stride) if isinstance(shape, tuple) and isinstance(stride, tuple) else (None,)
        if all(map(_natural, numbers)) and len(shape) == len(stride):
            return _View(storage, offset, shape, stride)
    _refuse(f"a call of {name or 'something that is no function'} with other arguments", path)


def _from_mark(stack, path):
    """Takes what lies above the newest mark off the stack."""
    for i in range(len(stack) - 1, -1, -1):
        if stack[i] is _MARK:
            taken = stack[i + 1 :]
            del stack[i:]
            return taken
    _refuse("a pickle without a mark where one belongs", path)


def _follow(instructions, path):
    """Follows the instructions of one pickle and returns what it describes."""
    stack, memo = [], {}
    for opcode, argument, position in instructions:
        name = opcode.name
        if name == "STOP":
            return stack.pop()
        elif name in ("PROTO", "FRAME"):
            pass
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _PUSH:
            stack.append(argument)
        elif name in _MAKE:
            stack.append(_MAKE[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name in _PUT or name == "MEMOIZE":
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name in _GET:
            stack.append(memo[argument])
        elif name == "TUPLE":
            stack.append(tuple(_from_mark(stack, path)))
        elif name in _TUPLES:
            count = _TUPLES[name]
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "GLOBAL" or name == "STACK_GLOBAL":
            if name == "STACK_GLOBAL":
                words = stack[-2:]
                del stack[-2:]
                argument = " ".join(words) if all(isinstance(w, str) for w in words) else None
            if argument not in _ADMITTED:
                _refuse(f"a pickle that imports {argument!r}, at byte {position}; nothing of it was run", path)
            stack.append(_Global(argument))
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop(), path))
        elif name == "REDUCE":
            arguments = stack.pop()
            stack.append(_call(stack.pop(), arguments, path))
        elif name in ("SETITEM", "SETITEMS"):
            items = _from_mark(stack, path) if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            _fill(stack[-1], items, path)
        elif name in ("APPEND", "APPENDS"):
            items = _from_mark(stack, path) if name == "APPENDS" else [stack.pop()]
            if not isinstance(stack[-1], list):
                _refuse("a pickle that appends to what is no list", path)
            stack[-1].extend(items)
        elif name == "BUILD":
            stack.pop()  # attributes of a dictionary (`_metadata`): versions of modules
            if not isinstance(stack[-1], dict):
                _refuse("a pickle that sets attributes", path)
        else:
            _refuse(f"a pickle with the instruction {name}, at byte {position}; nothing of it was run", path)
    _refuse("a pickle without an end", path)


def _fill(dictionary, items, path):
    if not isinstance(dictionary, dict) or not all(isinstance(k, str) for k in items[::2]):
        _refuse("a pickle that fills what is no dictionary of names", path)
    dictionary.update(zip(items[::2], items[1::2]))


def _unpickle(file, path):
    """What the pickle at the file's position describes; the file is left behind it."""
    try:
        return _follow(pickletools.genops(file), path)
    except (ValueError, IndexError, KeyError, TypeError, EOFError, struct.error, UnicodeError, RecursionError) as e:
        if isinstance(e, checks.InputError):
            raise
        raise checks.error(_MUST, f"a damaged pickle: {e}", path, _DO) from e


def _tensor(name, view, place, path):
    """The `Tensor` of a view into a storage that lies at `place` in the file."""
    storage = view.storage
    last = view.offset + sum((n - 1) * s for n, s in zip(view.shape, view.stride))
    if 0 not in view.shape and last >= storage.count:
        _refuse(f"{name}, which goes beyond its storage of {storage.count} numbers", path)

    def read():
        if 0 in view.shape:
            return np.zeros(view.shape, safetensors_file.numpy_dtype(storage.dtype))
        count = last + 1 - view.offset
        itemsize = safetensors_file.numpy_dtype(storage.dtype).itemsize
        flat = safetensors_file.mapped(path, storage.dtype, place + view.offset * itemsize, (count,))()
        strides = [s * itemsize for s in view.stride]
        return np.lib.stride_tricks.as_strided(flat, view.shape, strides, writeable=False)

    return sources.Tensor(view.shape, storage.dtype, read)


def _tensors(state, places, path):
    """{name: Tensor} of what a pickle described; `places` says where each storage lies."""
    if not isinstance(state, dict):
        _refuse(f"a {type(state).__name__}", path)
    odd = sorted(name for name, view in state.items() if not isinstance(view, _View))
    if odd:
        _refuse(f"{len(odd)} entries that are no tensors: {', '.join(odd[:5])}", path)
    return {name: _tensor(name, view, places(view.storage), path) for name, view in state.items()}


def _read_sequence(path):
    """The older layout: magic number, protocol, machine, the pickle, keys of storages, (count, numbers) of each."""
    size = os.path.getsize(path)
    with open(path, "rb") as f:
        magic = _unpickle(f, path)
        if magic != _MAGIC or isinstance(magic, bool):
            _refuse("a pickle of something else", path)
        _unpickle(f, path)  # protocol
        machine = _unpickle(f, path)
        if not isinstance(machine, dict) or machine.get("little_endian") is not True:
            _refuse("numbers of a big-endian machine", path)
        state, keys = _unpickle(f, path), _unpickle(f, path)
        if not isinstance(state, dict) or not isinstance(keys, list):
            _refuse(f"a {type(state).__name__}", path)
        storages = {v.storage.key: v.storage for v in state.values() if isinstance(v, _View)}
        if not all(isinstance(key, str) for key in keys) or set(keys) != set(storages) or len(set(keys)) != len(keys):
            _refuse("storages other than those of its tensors", path)
        places = {}
        for key in keys:
            storage = storages[key]
            (count,) = struct.unpack("<q", f.read(8).ljust(8, b"\xff"))
            length = storage.count * safetensors_file.numpy_dtype(storage.dtype).itemsize
            place = f.tell()
            if count != storage.count or place + length > size:
                _refuse(f"a file that is cut short or damaged: {size} bytes, storage {key} at {place}", path)
            places[key] = place
            f.seek(place + length)
        if f.tell() != size:
            _refuse(f"{size - f.tell()} bytes after its last tensor", path)
    return _tensors(state, lambda storage: places[storage.key], path)


def _read_zip(path):
    """The newer layout: a zip archive with FOLDER/data.pkl and FOLDER/data/KEY."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = collections.Counter(info.filename for info in archive.infolist())
            pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
            if len(pickles) != 1 or max(entries.values()) > 1:
                _refuse(f"a zip archive with {len(pickles)} data.pkl", path)
            folder = pickles[0].removesuffix("data.pkl")
            order = folder + "byteorder"
            if order in entries and archive.read(order) != b"little":
                _refuse("numbers of a big-endian machine", path)
            if archive.getinfo(pickles[0]).file_size > _LONGEST_PICKLE:
                _refuse("a pickle longer than any dictionary of tensors", path)
            with archive.open(pickles[0]) as f:
                state = _unpickle(f, path)
            infos = {info.filename: info for info in archive.infolist()}
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError, OSError) as e:
        raise checks.error(_MUST, f"a damaged zip archive: {e}", path, _DO) from e

    def place(storage):
        info = infos.get(f"{folder}data/{storage.key}")
        length = storage.count * safetensors_file.numpy_dtype(storage.dtype).itemsize
        if info is None or info.compress_type != zipfile.ZIP_STORED or info.file_size != length:
            _refuse(f"storage {storage.key} missing, compressed or of another length", path)
        with open(path, "rb") as f:
            f.seek(info.header_offset)
            header = f.read(30)
            if len(header) < 30 or header[:4] != b"PK\x03\x04":
                _refuse("a damaged zip archive", path)
            begin = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
        if begin + length > os.path.getsize(path):
            _refuse("a file that is cut short", path)
        return begin

    return _tensors(state, place, path)


def read(path):
    """The tensors of a `pytorch_model.bin`; nothing in it is run, and numbers are read when asked for.

    Args:
        path: Of a file that `torch.save` wrote, in either layout.

    Returns:
        {name: `sources.Tensor`}.

    Raises:
        InputError: it holds anything but a dictionary of tensors, or is damaged.
    """
    try:
        with open(path, "rb") as f:
            is_zip = f.read(4) == b"PK\x03\x04"
    except OSError as e:
        raise checks.error("pytorch_model.bin must be a readable file", e.strerror, path) from e
    return _read_zip(path) if is_zip else _read_sequence(path)
