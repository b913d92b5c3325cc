"""Runs exports the way their servers do.

TensorFlow Serving restores a SavedModel's variables by the restore op and runs the init op. A
model that `tf.saved_model.load` runs may fail there (keras issue 19274), so exports are proven
through `v1_session` and `c_api`, never through `tf.saved_model.load`.
"""

import glob
import importlib
import importlib.util
import os
import pickle
import subprocess
import sys
import warnings

import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text
from absl import logging
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.lite.python import interpreter as lite

from export import c_api as c_api_script
from export import flatbuffer
from tfbert import checks


def hush():
    """Holds back what TensorFlow logs of each file that it writes, and that V1's loader is deprecated.

    TensorFlow Serving has no other loader, and the programs say themselves what matters.
    """
    tf.get_logger().setLevel("ERROR")
    logging.set_verbosity(logging.ERROR)


def signatures(folder):
    """{signature name: SignatureDef} of a SavedModel, read from its file; init ops are left out."""
    path = os.path.join(folder, "saved_model.pb")
    checks.require(os.path.isfile(path), "a SavedModel is a folder with saved_model.pb", "no such file", path)
    with open(path, "rb") as f:
        defs = saved_model_pb2.SavedModel.FromString(f.read()).meta_graphs[0].signature_def
    return {name: d for name, d in defs.items() if not name.startswith("__")}


def newest_version(folder):
    """The SavedModel in a folder: the folder itself, or its subfolder with the highest number."""
    if os.path.isfile(os.path.join(folder, "saved_model.pb")):
        return folder
    versions = [n for n in os.listdir(folder) if n.isdecimal()] if os.path.isdir(folder) else []
    checks.require(
        versions,
        "saved_model must be a SavedModel or a folder with numbered versions of one",
        "neither saved_model.pb nor a numbered folder",
        folder,
        "Make one with python -m export.saved_model",
    )
    return os.path.join(folder, max(versions, key=int))


def _arrays(inputs):
    """Inputs as arrays; strings become arrays of `bytes` objects, whatever their Python type."""
    arrays = {name: np.asarray(value) for name, value in inputs.items()}
    return {
        name: np.array([s.encode() if isinstance(s, str) else s for s in a.ravel()], object).reshape(a.shape)
        if a.dtype.kind in "OSU" or (a.size == 0 and a.dtype.kind == "f")  # an empty list says no type
        else a
        for name, a in arrays.items()
    }


def _named(defs, signature, inputs):
    """Feeds and fetches of a request in tensor names: ({tensor: array}, [tensor], [output name])."""
    checks.require(signature in defs, f"signature must be one of {sorted(defs)}", repr(signature))
    d = defs[signature]
    feeds = {d.inputs[name].name: array for name, array in _arrays(inputs).items()}
    outputs = sorted(d.outputs)
    return feeds, [d.outputs[name].name for name in outputs], outputs


def v1_session(folder, requests):
    """Answers requests through `tf.compat.v1.saved_model.load` and a session.

    Args:
        folder: A SavedModel.
        requests: A list of (signature name, {input name: array or list}).

    Returns:
        A list of {output name: array}, one a request.
    """
    defs, answers = signatures(folder), []
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.saved_model.load(session, ["serve"], folder)
        for signature, inputs in requests:
            feeds, fetches, names = _named(defs, signature, inputs)
            answers.append(dict(zip(names, session.run(fetches, feeds))))
    return answers


def c_api(folder, requests):
    """Answers requests through TensorFlow's C API in a process of its own without Python's TensorFlow.

    Args:
        folder: A SavedModel.
        requests: As of `v1_session`.

    Returns:
        As of `v1_session`.

    Raises:
        RuntimeError: the library could not load or run the model; the message is the library's.
    """
    named = [_named(signatures(folder), *request) for request in requests]
    home = tf.sysconfig.get_lib()
    libraries = [_library(home, "libtensorflow_framework"), _library(home, "libtensorflow_cc")]
    job = {
        "libraries": libraries,
        "op_libraries": sorted(glob.glob(os.path.join(os.path.dirname(tf_text.__file__), "python", "ops", "_*.so"))),
        "folder": folder,
        "runs": [(feeds, fetches) for feeds, fetches, _ in named],
    }
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [sys.executable, c_api_script.__file__]
    done = subprocess.run(command, input=pickle.dumps(job), capture_output=True, env=quiet, check=False)
    if done.returncode:
        raise RuntimeError(f"the C API ended with status {done.returncode}: {done.stderr.decode('utf-8', 'replace')}")
    told = pickle.loads(done.stdout)
    if told["error"]:
        raise RuntimeError(told["error"])
    if told["python_tensorflow"]:
        raise RuntimeError("The process of the C API must not import TensorFlow's Python.")
    return [dict(zip(names, values)) for (_, _, names), values in zip(named, told["answers"])]


def _library(home, name):
    """The shared library of that name, whose ending differs between systems."""
    found = [p for end in (".so.2", ".2.dylib") for p in glob.glob(os.path.join(home, name + end))]
    checks.require(
        found,
        "the C API check needs TensorFlow's shared libraries as the pip wheels of Linux and macOS have them",
        f"no {name}",
        home,
    )
    return found[0]


LITERT = "ai_edge_litert"


def has_litert():
    """Whether ai-edge-litert is installed (requirements-litert.txt)."""
    return importlib.util.find_spec(LITERT) is not None


class Lite:
    """A .tflite model in an interpreter, with tensorflow-text's custom ops.

    XNNPACK computes what it can in both runtimes.

    Args:
        path: The file.
        content: Its bytes, in place of a path.
        litert: Whether to take ai-edge-litert's interpreter and not TensorFlow's.
        threads: Threads of an answer; None leaves it to the runtime.
        keep_tensors: Whether `tensor` is asked for; then nothing goes to XNNPACK.

    Raises:
        InputError: it is no such model, or the runtime is not installed.
    """

    def __init__(self, path="", content=None, litert=False, threads=None, keep_tensors=False):
        checks.require(content or os.path.isfile(path), "tflite must be a .tflite file", "no such file", path)
        checks.require(
            not litert or has_litert(),
            "ai-edge-litert must be installed",
            "it is not",
            do="pip install -r requirements-litert.txt",
        )
        runtime = importlib.import_module(f"{LITERT}.interpreter") if litert else lite
        more = {}
        if keep_tensors:
            without = runtime.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
            more = {"experimental_preserve_all_tensors": True, "experimental_op_resolver_type": without}
        with warnings.catch_warnings():
            # It tells of a successor that cannot be given tensorflow-text's ops without TensorFlow either.
            warnings.filterwarnings("ignore", "(?s).*tf.lite.Interpreter is deprecated")
            try:
                self._interpreter = runtime.InterpreterWithCustomOps(
                    **({"model_content": content} if content else {"model_path": path}),
                    custom_op_registerers=tf_text.tflite_registrar.SELECT_TFTEXT_OPS,
                    num_threads=threads,
                    **more,
                )
            except ValueError as e:
                raise checks.error("tflite must be a model that the interpreter can load", str(e), path) from e
        self._path, self._runners = path, {}

    def run(self, signature="serving_default", **inputs):
        """Answers one request: {output name: array}."""
        if signature not in self._runners:
            self._require(signature)
            self._runners[signature] = self._interpreter.get_signature_runner(signature)
        return self._runners[signature](**_arrays(inputs))

    def _require(self, signature):
        known = sorted(self.signatures())
        checks.require(signature in known, f"signature must be one of {', '.join(known)}", signature, self._path)

    def signatures(self):
        """{name: {"inputs" and "outputs": list of names}}."""
        return self._interpreter.get_signature_list()

    def inputs(self, signature="serving_default"):
        """The names of what `run` takes."""
        self._require(signature)
        return self.signatures()[signature]["inputs"]

    def tensor(self, number, graph=0):
        """What a tensor held after the last answer; for `keep_tensors`."""
        return self._interpreter.get_tensor(number, graph)

    def ops(self):
        """The names of the ops in the file, of all signatures, sorted."""
        with open(self._path, "rb") as f:
            return flatbuffer.ops(f.read())
