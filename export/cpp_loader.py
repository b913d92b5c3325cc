"""Runs a SavedModel through C++ `tensorflow::LoadSavedModel`, the function that TensorFlow Serving itself calls.

`load_saved_model.cc` is compiled against the headers and libraries of the installed TensorFlow, which takes g++ about
half a minute, once: the program is kept in ~/.cache/tfbert (or in $XDG_CACHE_HOME/tfbert) for this TensorFlow, compiler
and source. It is no TensorFlow Serving: nothing here batches requests or speaks gRPC; but what keeps Serving from
loading a model (an op that is not registered, a variable that is not restored) keeps this from loading it.
"""

import glob
import hashlib
import os
import shutil
import struct
import subprocess
import tempfile

import tensorflow as tf
import tensorflow_text as tf_text
from tensorflow.core.protobuf import named_tensor_pb2

from export import loaders
from tfbert import checks

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "load_saved_model.cc")
_COMPILER = "g++"


def available():
    """Whether there is a compiler."""
    return shutil.which(_COMPILER) is not None


def _command():
    """What compiles the program, without its output: TensorFlow's own flags, and where its libraries lie."""
    home = tf.sysconfig.get_lib()
    names = [os.path.basename(loaders._library(home, "libtensorflow_" + part)) for part in ("cc", "framework")]
    link = [f"-L{home}", *(f"-l:{name}" for name in names), f"-Wl,-rpath,{home}"]
    return [_COMPILER, "-O1", SOURCE, *tf.sysconfig.get_compile_flags(), "-std=c++17", *link]


def program():
    """The path of the compiled program; compiles it if that was not done before.

    Raises:
        InputError: there is no compiler, or it fails.
    """
    checks.require(available(), f"loading through C++ needs {_COMPILER}", "none", do="apt-get install g++")
    version = subprocess.run([_COMPILER, "--version"], capture_output=True, text=True, check=True).stdout
    with open(SOURCE, "rb") as f:
        key = hashlib.sha256(repr((f.read(), tf.__version__, version, _command())).encode()).hexdigest()[:16]
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    path = os.path.join(cache, "tfbert", f"load_saved_model-{key}")
    if not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as aside:  # several processes may be at it
            built = os.path.join(aside, "built")
            done = subprocess.run([*_command(), "-o", built], capture_output=True, text=True, check=False)
            do = "Are the headers of the installed tensorflow there?"
            checks.require(done.returncode == 0, "load_saved_model.cc must compile", done.stderr[-2000:], SOURCE, do)
            os.replace(built, path)
    return path


def _pieces(data):
    """The pieces of a file of answers: see load_saved_model.cc."""
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        yield data[at + 8 : at + 8 + length]
        at += 8 + length


def _written(defs, requests):
    """The file of requests: bytes."""
    pieces = []
    for signature, inputs in requests:
        checks.require(signature in defs, f"signature must be one of {sorted(defs)}", repr(signature))
        pieces += [signature.encode(), str(len(inputs)).encode()]
        for name, value in inputs.items():
            tensor = tf.make_tensor_proto(value, dtype=tf.as_dtype(defs[signature].inputs[name].dtype))
            pieces.append(named_tensor_pb2.NamedTensorProto(name=name, tensor=tensor).SerializeToString())
    return b"".join(struct.pack("<Q", len(piece)) + piece for piece in pieces)


def cpp_session(folder, requests):
    """Answers requests through C++ LoadSavedModel and Session::Run, in a process without Python.

    Args:
        folder: A SavedModel.
        requests: A list of (signature name, {input name: array or list}).

    Returns:
        A list of {output name: array}, one a request.

    Raises:
        InputError: there is no compiler.
        RuntimeError: the model cannot be loaded or a request fails; the message is TensorFlow's.
    """
    libraries = sorted(glob.glob(os.path.join(os.path.dirname(tf_text.__file__), "python", "ops", "_*.so")))
    with tempfile.TemporaryDirectory() as aside:
        asked, answered = os.path.join(aside, "requests"), os.path.join(aside, "answers")
        with open(asked, "wb") as f:
            f.write(_written(loaders.signatures(folder), requests))
        quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
        command = [program(), folder, asked, answered, *libraries]
        done = subprocess.run(command, capture_output=True, env=quiet, check=False)
        if done.returncode:
            # TensorFlow's logs stand before.
            said = ("\n" + done.stderr.decode("utf-8", "replace")).split("\nerror: ", 1)[-1].strip()
            raise RuntimeError(f"C++ LoadSavedModel ended with status {done.returncode}: {said}")
        with open(answered, "rb") as f:
            pieces = _pieces(f.read())
        answers = []
        for count in pieces:
            named = [named_tensor_pb2.NamedTensorProto.FromString(next(pieces)) for _ in range(int(count))]
            answers.append({n.name: tf.make_ndarray(n.tensor) for n in named})
        return answers
