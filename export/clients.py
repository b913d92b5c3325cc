"""Asks a model server, as a program of yours would: over REST with nothing but Python, over gRPC with official stubs.

    python -m export.clients --server=http://localhost:8501 --text="The [MASK] of the file."
    python -m export.clients --server=localhost:8500 --model_name=squad --question="Who?" --context="She did."

A server is TensorFlow Serving, or whatever speaks its protocols. An address that begins with http:// or https:// is
asked over REST (TensorFlow Serving's port 8501), any other over gRPC (port 8500). The classes are meant to be copied:
`Rest` needs no package.
"""

import base64
import contextlib
import dataclasses
import json
import urllib.error
import urllib.parse
import urllib.request

from absl import flags

from tfbert import checks, config

_TEXTS = ("text", "text_pair", "question", "context")


@dataclasses.dataclass(frozen=True)
class ClientConfig:
    """Flags of this program, besides the texts."""

    server: str = config.field("http://localhost:8501", "Address: http://host:port for REST, host:port for gRPC.")
    model_name: str = config.field("bert", "The name under which the model is served.")
    label: str = config.field("", "Ask the version with this label, as stable.")
    version: int | None = config.field(None, "Ask this version.", lower_bound=1)
    signature: str = config.field("serving_default", "Signature to ask.")
    timeout: float = config.field(30.0, "Seconds until an answer must be there.", lower_bound=0)

    def __post_init__(self):
        config.check_bounds(self)
        both = "label or version can be given, not both"
        checks.require(not (self.label and self.version), both, f"label={self.label}, version={self.version}")


class ServerError(RuntimeError):
    """What a server answered instead of an answer.

    Attributes:
        code: HTTP status or gRPC code's name, as 400 or "INVALID_ARGUMENT".
    """

    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code = code


def _unreachable(address, reason):
    do = "Is the server up? It opens its ports when its models are loaded"
    return checks.error("the server must be reachable", str(reason), address, do)


def _json(value):
    """A value as TensorFlow Serving's JSON has it: bytes as {"b64": ...}, arrays as lists."""
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, (list, tuple)):
        return [_json(v) for v in value]
    return _json(value.tolist()) if hasattr(value, "tolist") else value


class Rest:
    """One model of a server, over REST.

    Args:
        address: "http://host:port".
        model_name: The name under which it is served.
        label: Ask the version with this label; "" for none.
        version: Ask this version; None for the newest, or the label's.
        timeout: Seconds until an answer must be there.
    """

    def __init__(self, address, model_name, label="", version=None, timeout=30.0):
        which = f"/labels/{urllib.parse.quote(label)}" if label else f"/versions/{version}" if version else ""
        self._model = f"{address.rstrip('/')}/v1/models/{urllib.parse.quote(model_name)}"
        self._url, self._timeout, self._outputs = self._model + which, timeout, {}

    def _ask(self, url, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as e:
            with e:
                said = e.read().decode("utf-8", "replace")
            with contextlib.suppress(ValueError, KeyError, TypeError):  # a proxy's page, say, is shown as it is
                said = json.loads(said)["error"]
            raise ServerError(e.code, said) from e
        except OSError as e:
            raise _unreachable(url, e) from e

    def predict(self, signature="serving_default", **inputs):
        """Asks for answers.

        Args:
            signature: Its name.
            **inputs: {input name: list or array with a row for each text}; bytes where texts are not UTF-8.

        Returns:
            {output name: list with a row for each text}.

        Raises:
            ServerError: the server refused; 400 is a wrong request, 404 a wrong name, 503 too much to do.
            InputError: the server cannot be reached.
        """
        body = {"signature_name": signature, "inputs": {name: _json(value) for name, value in inputs.items()}}
        outputs = self._ask(self._url + ":predict", body)["outputs"]
        if isinstance(outputs, dict):
            return outputs
        if signature not in self._outputs:  # the name of an only output is left out
            self._outputs[signature] = next(iter(self.signatures()[signature]["outputs"]))
        return {self._outputs[signature]: outputs}

    def signatures(self):
        """{signature: {"inputs" and "outputs": {name: {"dtype", "tensor_shape", ...}}}} of the model."""
        return self._ask(self._url + "/metadata")["metadata"]["signature_def"]["signature_def"]

    def status(self):
        """{version: state} of the model, "AVAILABLE" if it answers."""
        told = self._ask(self._model)["model_version_status"]
        return {int(version["version"]): version["state"] for version in told}


class Grpc:
    """One model of a server, over gRPC; needs tensorflow-serving-api. Its arguments are those of `Rest`."""

    def __init__(self, address, model_name, label="", version=None, timeout=30.0):
        # Here, so that who asks over REST need not install TensorFlow.
        import grpc
        from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._address, self._timeout, self._failure = address, timeout, grpc.RpcError
        self._channel = grpc.insecure_channel(address, options)
        self._predictions = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)
        self._which = {"name": model_name, **({"version_label": label} if label else {})}
        self._which |= {"version": {"value": version}} if version else {}

    def _ask(self, call, request):
        request.model_spec.name = self._which["name"]
        if label := self._which.get("version_label"):
            request.model_spec.version_label = label
        if version := self._which.get("version"):
            request.model_spec.version.value = version["value"]
        try:
            return call(request, timeout=self._timeout)
        except self._failure as e:
            if e.code().name == "UNAVAILABLE" and "connect" in e.details().lower():
                raise _unreachable(self._address, e.details()) from e
            raise ServerError(e.code().name, e.details()) from e

    def predict(self, signature="serving_default", **inputs):
        """As `Rest.predict`, but with arrays: {output name: NumPy array}."""
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        request.model_spec.signature_name = signature
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(value if isinstance(value, tf.Tensor) else tf.make_tensor_proto(value))
        answer = self._ask(self._predictions.Predict, request)
        return {name: tf.make_ndarray(value) for name, value in answer.outputs.items()}

    def signatures(self):
        """{signature: SignatureDef} of the model."""
        from tensorflow_serving.apis import get_model_metadata_pb2

        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        packed = self._ask(self._predictions.GetModelMetadata, request).metadata["signature_def"]
        found = get_model_metadata_pb2.SignatureDefMap()
        packed.Unpack(found)
        return dict(found.signature_def)

    def status(self):
        """{version: state} of the model."""
        from tensorflow_serving.apis import get_model_status_pb2

        told = self._ask(self._models.GetModelStatus, get_model_status_pb2.GetModelStatusRequest())
        states = get_model_status_pb2.ModelVersionStatus.State
        return {v.version: states.Name(v.state) for v in told.model_version_status}

    def close(self):
        """Closes the connection."""
        self._channel.close()


def example_body(signatures):
    """A body for curl that asks `serving_default`: JSON without single quotes.

    Args:
        signatures: {name: SignatureDef} of `loaders.signatures`.
    """
    about = signatures["serving_default"]
    texts = {"text": "The [MASK] of the file." if "tokens" in about.outputs else "A text to be read."}
    texts |= {"text_pair": "Another one.", "question": "Who opened the door?", "context": "She opened the door."}
    row = {name: texts.get(name, "...") for name in sorted(about.inputs)}
    return json.dumps({"instances": [row if len(row) > 1 else next(iter(row.values()))]})


def run(cfg, texts):
    """Asks, prints the answers as JSON, and returns them.

    Args:
        cfg: A `ClientConfig`.
        texts: {input name: list of texts}.
    """
    kind = Rest if cfg.server.startswith(("http://", "https://")) else Grpc
    client = kind(cfg.server, cfg.model_name, cfg.label, cfg.version, cfg.timeout)
    try:
        answers = client.predict(cfg.signature, **texts)
    except ServerError as e:
        raise checks.error("the server must answer", str(e), cfg.server) from e
    told = {name: value if isinstance(value, list) else value.tolist() for name, value in answers.items()}
    print(json.dumps(told, default=lambda v: v.decode("utf-8", "replace"), ensure_ascii=False, indent=2))
    return told


def main(argv):
    """The program."""
    del argv
    given = {name: getattr(flags.FLAGS, name) for name in _TEXTS if getattr(flags.FLAGS, name)}
    checks.require(given, "a text must be given, as --text", "none")
    run(config.from_flags(ClientConfig), given)


if __name__ == "__main__":
    config.define_flags(ClientConfig)
    flags.DEFINE_multi_string("text", None, "A text; may be given several times.")
    flags.DEFINE_multi_string("text_pair", None, "The second text of a pair.")
    flags.DEFINE_multi_string("question", None, "A question to be answered from a context.")
    flags.DEFINE_multi_string("context", None, "What a question is answered from.")
    checks.run_program(main)
