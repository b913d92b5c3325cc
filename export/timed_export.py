"""Loads a SavedModel as TensorFlow Serving does, or a .tflite in the interpreter, to be timed: see `export.timed`.

python -m export.timed_export saved_model|tflite PATH WORDPIECES THREADS

WORDPIECES is a SavedModel whose signature `tokenize` does what a request to PATH begins with; "" of a .tflite.
"""

from tfbert import quiet  # isort: skip  # noqa: F401 (first: it holds back start-up noise)

import functools
import sys

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2  # callables have no public name

from export import loaders, parity, timed

SCORES = ("probabilities", "score")  # of which an answer has one, largest first


def _told(outputs):
    """What is compared of an answer: the scores of the first text, and whether texts were cut."""
    scores = next((outputs[name] for name in SCORES if name in outputs), np.zeros([1]))
    return {"scores": np.ravel(scores[:1]).astype(float).tolist()[:5], "truncated": bool(outputs["truncated"].any())}


def saved_model(folder, wordpieces, threads):
    """`ask` of a SavedModel in a session."""
    within, between = parity.threads(folder, threads) or (threads, threads)
    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=within, inter_op_parallelism_threads=between)
    parts = {"whole": (folder, "serving_default"), "tokenize": (wordpieces, "tokenize")}

    @functools.cache
    def callable_of(part):
        path, signature = parts[part]
        session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
        with session.graph.as_default():
            tf.compat.v1.saved_model.load(session, ["serve"], path)
        about = loaders.signatures(path)[signature]
        inputs, outputs = about.inputs, about.outputs
        names = {"inputs": sorted(inputs), "outputs": sorted(outputs)}
        options = config_pb2.CallableOptions(
            feed=[inputs[name].name for name in names["inputs"]],
            fetch=[outputs[name].name for name in names["outputs"]],
        )
        # `Session.run` is 0.3 ms of Python, a tenth of a request to a tiny model, which no server has.
        return session._make_callable_from_options(options), names

    callable_of("whole")

    def ask(part, texts):
        run, names = callable_of(part)
        # The text of a pair is what `tokenize` is asked for.
        given = texts if part == "whole" else {"text": [t for column in texts.values() for t in column]}
        arrays = [np.array([t.encode() for t in given[name]], object) for name in names["inputs"]]
        outputs = dict(zip(names["outputs"], run(*arrays)))
        return {"counts": outputs["count"].tolist()} if part == "tokenize" else _told(outputs)

    return ask


def tflite(path, _, threads):
    """`ask` of a .tflite, which has no signature that tokenizes alone."""
    model = loaders.Lite(path, threads=threads)
    return lambda part, texts: _told(model.run(**texts)) if part == "whole" else None


def main(kind, path, wordpieces, threads):
    """The program."""
    loaders.hush()
    timed.serve(lambda: {"saved_model": saved_model, "tflite": tflite}[kind](path, wordpieces, int(threads)))


if __name__ == "__main__":
    main(*sys.argv[1:])
