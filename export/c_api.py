"""Runs SavedModels through TensorFlow's C API: none of TensorFlow's Python code takes part.

`TF_LoadSessionFromSavedModel` is the C name of C++ `tensorflow::LoadSavedModel`, which TensorFlow
Serving calls: it restores variables by the restore op, runs the init op, and knows nothing of
Python's objects. Run as a script it answers one job, so that the process holds nothing but this
file, NumPy and the shared libraries: see `export.loaders`. It must therefore import nothing of ours.
"""

import sys

if __name__ == "__main__":
    del sys.path[0]  # this folder: its inspect.py is not the one that NumPy imports

import ctypes
import pickle

import numpy as np

POINTER = ctypes.c_void_p
# Of tensorflow/c/tf_datatype.h.
DTYPES = {1: np.float32, 2: np.float64, 3: np.int32, 4: np.uint8, 9: np.int64, 10: np.bool_}
STRING, STRING_BYTES = 7, 24  # TF_TString takes 24 bytes


class _Output(ctypes.Structure):
    """TF_Output: an operation and the number of its output."""

    _fields_ = (("operation", POINTER), ("index", ctypes.c_int))


class Library:
    """The functions of the C API that are used here, with their types.

    Args:
        libraries: Paths of TensorFlow's shared libraries, in the order of loading; the last one
            exports the C API.
        op_libraries: Paths of shared libraries with custom ops.
    """

    def __init__(self, libraries, op_libraries):
        for path in libraries:
            self._library = ctypes.CDLL(path, ctypes.RTLD_GLOBAL)
        self._status = self.call("TF_NewStatus", POINTER)
        for path in op_libraries:
            self.checked("TF_LoadLibrary", POINTER, path.encode())

    def call(self, name, result, *args):
        """Calls a function; `bytes` and ctypes values go as they are, integers as 64 bits or pointers."""
        function = getattr(self._library, name)
        function.restype = result
        return function(*(ctypes.c_int64(a) if isinstance(a, int) else a for a in args))

    def checked(self, name, result, *args):
        """Calls a function whose last argument is a TF_Status; raises `RuntimeError` if it is not OK."""
        value = self.call(name, result, *args, POINTER(self._status))
        if self.call("TF_GetCode", ctypes.c_int, POINTER(self._status)):
            message = self.call("TF_Message", ctypes.c_char_p, POINTER(self._status)).decode("utf-8", "replace")
            raise RuntimeError(f"{name}: {message}")
        return value


class Session:
    """A SavedModel, loaded as a server loads it."""

    def __init__(self, library, folder):
        self._library = library
        self._graph = POINTER(library.call("TF_NewGraph", POINTER))
        options = POINTER(library.call("TF_NewSessionOptions", POINTER))
        tags = (ctypes.c_char_p * 1)(b"serve")
        self._session = POINTER(
            library.checked(
                "TF_LoadSessionFromSavedModel",
                POINTER,
                options,
                None,
                folder.encode(),
                tags,
                ctypes.c_int(1),
                self._graph,
                None,
            )
        )

    def run(self, feeds, fetches):
        """Runs the graph.

        Args:
            feeds: {tensor name ("op:0"): NumPy array; strings as arrays of `bytes` objects}.
            fetches: Tensor names.

        Returns:
            NumPy arrays, in the order of `fetches`.
        """
        ends = [self._end(name) for name in (*feeds, *fetches)]
        inputs = (_Output * len(feeds))(*ends[: len(feeds)])
        outputs = (_Output * len(fetches))(*ends[len(feeds) :])
        values = (POINTER * len(feeds))(*(self._to_tensor(v) for v in feeds.values()))
        results = (POINTER * len(fetches))()
        count_in, count_out = ctypes.c_int(len(feeds)), ctypes.c_int(len(fetches))
        self._library.checked(
            "TF_SessionRun",
            None,
            *(self._session, None, inputs, values, count_in, outputs, results, count_out, None, ctypes.c_int(0), None),
        )
        return [self._to_array(POINTER(r)) for r in results]

    def _end(self, name):
        operation, index = name.rsplit(":", 1)
        found = self._library.call("TF_GraphOperationByName", POINTER, self._graph, operation.encode())
        if not found:
            raise RuntimeError(f"The graph has no operation {operation!r}.")
        return _Output(found, int(index))

    def _to_tensor(self, value):
        call = self._library.call
        shape = (ctypes.c_int64 * value.ndim)(*value.shape)
        text = value.dtype == object
        code = STRING if text else next(c for c, d in DTYPES.items() if d == value.dtype)
        size = value.size * STRING_BYTES if text else value.nbytes
        tensor = call("TF_AllocateTensor", POINTER, ctypes.c_int(code), shape, ctypes.c_int(value.ndim), size)
        data = call("TF_TensorData", POINTER, POINTER(tensor))
        if not text:
            ctypes.memmove(data, np.ascontiguousarray(value).ctypes.data, value.nbytes)
            return tensor
        for i, item in enumerate(value.ravel()):
            place = POINTER(data + i * STRING_BYTES)
            call("TF_StringInit", None, place)
            call("TF_StringCopy", None, place, item, len(item))
        return tensor

    def _to_array(self, tensor):
        call = self._library.call
        shape = [
            call("TF_Dim", ctypes.c_int64, tensor, ctypes.c_int(i))
            for i in range(call("TF_NumDims", ctypes.c_int, tensor))
        ]
        code, data = call("TF_TensorType", ctypes.c_int, tensor), call("TF_TensorData", POINTER, tensor)
        if code != STRING:
            raw = ctypes.string_at(data, call("TF_TensorByteSize", ctypes.c_size_t, tensor)) if data else b""
            return np.frombuffer(raw, DTYPES[code]).reshape(shape)
        items = np.empty([int(np.prod(shape))], object)
        for i in range(len(items)):
            place = POINTER(data + i * STRING_BYTES)
            size = call("TF_StringGetSize", ctypes.c_size_t, place)
            items[i] = ctypes.string_at(call("TF_StringGetDataPointer", POINTER, place), size)
        return items.reshape(shape)


def main():
    """Reads a pickled job from standard input, writes the pickled answers to standard output."""
    job = pickle.load(sys.stdin.buffer)
    told = {"answers": [], "error": None}
    try:
        session = Session(Library(job["libraries"], job["op_libraries"]), job["folder"])
        for feeds, fetches in job["runs"]:
            told["answers"].append(session.run(feeds, fetches))
    except RuntimeError as e:
        told["error"] = str(e)
    # To prove that none of TensorFlow's Python took part.
    told["python_tensorflow"] = "tensorflow" in sys.modules
    pickle.dump(told, sys.stdout.buffer)


if __name__ == "__main__":
    main()
