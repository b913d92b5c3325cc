"""Warm-up requests for TensorFlow Serving.

A server answers them while it loads a version, so that the first user does not wait for the graph's
optimisation and for memory. https://www.tensorflow.org/tfx/serving/saved_model_warmup
"""

import os

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

FOLDER, FILE = "assets.extra", "tf_serving_warmup_requests"


def write_warmup(folder, model_name, requests):
    """Writes `assets.extra/tf_serving_warmup_requests` into a SavedModel.

    Args:
        folder: The SavedModel.
        model_name: The name under which it will be served.
        requests: A list of (signature name, {input name: array}).
    """
    os.makedirs(os.path.join(folder, FOLDER), exist_ok=True)
    with tf.io.TFRecordWriter(os.path.join(folder, FOLDER, FILE)) as writer:
        for signature, inputs in requests:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = model_name
            request.model_spec.signature_name = signature
            for name, value in inputs.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
            log = prediction_log_pb2.PredictLog(request=request)
            writer.write(prediction_log_pb2.PredictionLog(predict_log=log).SerializeToString())


def read_warmup(folder):
    """The requests that `write_warmup` wrote, as a server reads them."""
    path, requests = os.path.join(folder, FOLDER, FILE), []
    for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        requests.append((request.model_spec.signature_name, inputs))
    return requests
