"""A SavedModel in a session, as a model server holds it: asked by several threads, one by one or in batches.

Batches are made by TensorFlow's `BatchFunction`, whose scheduler is the one that TensorFlow Serving's batching is made
of (tensorflow/core/kernels/batching_util/shared_batch_scheduler.h), with the same parameters.
"""

import os
import re

import tensorflow as tf

from export import loaders, parity, serving


class ApiError(Exception):
    """A request that cannot be answered.

    Attributes:
        code: TensorFlow's name of the error, as "INVALID_ARGUMENT".
    """

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class ServedModel:
    """A SavedModel in a session, as a server holds it; may be asked by several threads.

    Its warm-up requests are answered at once: the first request of a session takes seconds.

    Args:
        folder: The SavedModel.
        batching: A `Batching`, by which the requests of different threads become one batch; None answers each alone.
            Signatures of texts alone are batched: a row of ids would have to be as long as its neighbours'.
    """

    def __init__(self, folder, batching=None):
        self.folder, self.signatures = folder, loaders.signatures(folder)
        with tf.Graph().as_default() as graph:
            within, between = parity.threads(folder, os.cpu_count()) or (0, 0)  # 0: its own choice
            threads = {"intra_op_parallelism_threads": within, "inter_op_parallelism_threads": between}
            self._session = tf.compat.v1.Session(graph=graph, config=tf.compat.v1.ConfigProto(**threads))
            tf.compat.v1.saved_model.load(self._session, ["serve"], folder)
            self._queues = {}
            if batching:
                batched = [n for n, about in self.signatures.items() if of_texts(about)]
                self._queues = {name: _queue(graph, name, self.signatures[name], batching) for name in batched}
        for signature, inputs in serving.read_warmup(folder):
            self.predict(signature, inputs)

    def signature(self, name):
        """The SignatureDef of that name."""
        name = name or "serving_default"
        if name not in self.signatures:
            raise ApiError("INVALID_ARGUMENT", f'Serving signature name: "{name}" not found in signature def')
        return self.signatures[name]

    def predict(self, signature, inputs):
        """Answers one request.

        Args:
            signature: Its name, or "".
            inputs: {input name: array}.

        Returns:
            {output name: array}.

        Raises:
            ApiError: the request does not fit, or TensorFlow refuses it.
        """
        about = self.signature(signature)
        if set(inputs) != set(about.inputs):
            said = f"input tensors must be {sorted(about.inputs)}; got {sorted(inputs)}"
            raise ApiError("INVALID_ARGUMENT", said)
        for name, value in inputs.items():
            wanted = tf.as_dtype(about.inputs[name].dtype)
            got = tf.string if value.dtype.kind in "OSU" else tf.as_dtype(value.dtype)
            if got != wanted:
                raise ApiError("INVALID_ARGUMENT", f"input {name} must be {wanted.name}; got {got.name}")
        feeds = {about.inputs[name].name: value for name, value in inputs.items()}
        names = sorted(about.outputs)
        fetches = {name: about.outputs[name].name for name in names}
        if all(value.size for value in inputs.values()):  # a request without rows has nothing to wait for
            fetches = self._queues.get(signature or "serving_default", fetches)
        try:
            answers = self._session.run([fetches[name] for name in names], feeds)
        except tf.errors.OpError as e:
            raise ApiError(tf_code(e), e.message) from e
        except ValueError as e:  # a rank that does not fit the placeholder's
            raise ApiError("INVALID_ARGUMENT", str(e)) from e
        return dict(zip(names, answers))

    def close(self):
        """Ends the session and the threads of its queues."""
        self._session.close()


def of_texts(about):
    """Whether all that a signature takes are lists of texts."""
    return all(v.dtype == tf.string.as_datatype_enum and len(v.tensor_shape.dim) == 1 for v in about.inputs.values())


def _queue(graph, name, about, batching):
    """Outputs of a signature whose requests wait for one another: {output name: tensor}.

    A signature's outputs come from one call of its function, which takes the inputs and then the variables. The
    queue takes that call's place.
    """
    (call,) = {graph.get_tensor_by_name(info.name).op for info in about.outputs.values()}
    answers = tf.raw_ops.BatchFunction(
        in_tensors=[tensor for tensor in call.inputs if tensor.op.type == "Placeholder"],
        captured_tensors=[tensor for tensor in call.inputs if tensor.op.type != "Placeholder"],
        f=call.get_attr("f"),
        Tout=call.get_attr("Tout"),
        num_batch_threads=batching.num_batch_threads,
        max_batch_size=batching.batch_size,
        batch_timeout_micros=batching.batch_timeout_micros,
        max_enqueued_batches=batching.max_enqueued_batches,
        shared_name=f"queue_of_{name}",
    )
    return {name: answers[graph.get_tensor_by_name(info.name).value_index] for name, info in about.outputs.items()}


def tf_code(error):
    """The name of a TensorFlow error's code, as "INVALID_ARGUMENT"."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__.removesuffix("Error")).upper()
