"""A stand-in for TensorFlow Serving in tests: official protos over gRPC, its REST interface, SavedModels in sessions.

    python -m tests.model_server --saved_model=saved_model --model_name=bert --batching=batching_parameters.txt

It answers Predict, GetModelMetadata and GetModelStatus as TensorFlow Serving does, errors included; it batches with the
same scheduler, but does not watch folders, and is no measure of TensorFlow Serving's speed.
"""

from tfbert import quiet  # isort: skip  # noqa: F401 (first: it holds back start-up noise)

import contextlib
import dataclasses
import threading
from concurrent import futures

import grpc
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from export import batching_parameters, loaders, rest_api
from tfbert import checks, config

AVAILABLE = get_model_status_pb2.ModelVersionStatus.AVAILABLE


@dataclasses.dataclass(frozen=True)
class ModelServerConfig:
    """Flags of this program."""

    saved_model: str = config.field("", "A SavedModel, or the folder with its numbered versions.")
    model_name: str = config.field("bert", "The name under which it is served.")
    batching: str = config.field("", "A batching_parameters.txt; each request is answered alone without one.")
    threads: int = config.field(128, "Threads that answer gRPC; with few of them no batch gets large.", lower_bound=1)

    def __post_init__(self):
        config.check_bounds(self)


def answering(method):
    """A method of a service whose `ApiError`s become gRPC's codes."""

    def answer(self, request, context):
        try:
            return method(self, request)
        except rest_api.ApiError as e:
            return context.abort(getattr(grpc.StatusCode, e.code, grpc.StatusCode.INTERNAL), str(e))

    return answer


class Service(prediction_service_pb2_grpc.PredictionServiceServicer, model_service_pb2_grpc.ModelServiceServicer):
    """Both services of a `rest_api.Server`."""

    def __init__(self, api):
        self._api = api

    def _find(self, spec):
        version = spec.version.value if spec.HasField("version") else None
        return self._api.find(spec.name, version, spec.version_label or None)

    @answering
    def Predict(self, request):
        number, model = self._find(request.model_spec)
        signature = request.model_spec.signature_name or "serving_default"
        try:
            inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        except (ValueError, TypeError) as e:  # sizes that do not fit the shape
            raise rest_api.ApiError("INVALID_ARGUMENT", str(e)) from e
        outputs = model.predict(signature, inputs)
        unknown = sorted(set(request.output_filter) - set(outputs))
        if unknown:
            raise rest_api.ApiError("INVALID_ARGUMENT", f"output tensor alias not found in signature: {unknown[0]}")
        response = predict_pb2.PredictResponse()
        response.model_spec.name, response.model_spec.signature_name = request.model_spec.name, signature
        response.model_spec.version.value = number
        for name in request.output_filter or outputs:
            response.outputs[name].CopyFrom(tf.make_tensor_proto(outputs[name]))
        return response

    @answering
    def GetModelMetadata(self, request):
        if list(request.metadata_field) != ["signature_def"]:
            said = f"Metadata field {list(request.metadata_field)} is not supported"
            raise rest_api.ApiError("INVALID_ARGUMENT", said)
        number, model = self._find(request.model_spec)
        response = get_model_metadata_pb2.GetModelMetadataResponse(model_spec=request.model_spec)
        response.model_spec.version.value = number
        found = get_model_metadata_pb2.SignatureDefMap()
        for name, about in model.signatures.items():
            found.signature_def[name].CopyFrom(about)
        response.metadata["signature_def"].Pack(found)
        return response

    @answering
    def GetModelStatus(self, request):
        spec = request.model_spec
        version = self._find(spec)[0] if spec.version_label else spec.version.value
        response = get_model_status_pb2.GetModelStatusResponse()
        for told in self._api.status(spec.name, version or None)["model_version_status"]:
            response.model_version_status.add(version=int(told["version"]), state=AVAILABLE)
        return response


@contextlib.contextmanager
def serving(api, threads=128):
    """Serves a `rest_api.Server`; gives its addresses ("http://host:port" for REST, "host:port" for gRPC)."""
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    remote = grpc.server(futures.ThreadPoolExecutor(threads), options=unlimited)
    service = Service(api)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, remote)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(service, remote)
    port = remote.add_insecure_port("127.0.0.1:0")
    remote.start()
    http = rest_api.HttpServer(("127.0.0.1", 0), rest_api.Handler, api=api)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_address[1]}", f"127.0.0.1:{port}"
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
        remote.stop(None).wait()


def main(argv):
    """The program: serves until it is ended."""
    del argv
    cfg = config.from_flags(ModelServerConfig)
    loaders.hush()
    batching = batching_parameters.read(cfg.batching) if cfg.batching else None
    with serving(rest_api.load(cfg.saved_model, cfg.model_name, batching=batching), cfg.threads) as (rest, remote):
        print(f"REST {rest} gRPC {remote}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    config.define_flags(ModelServerConfig)
    checks.run_program(main)
