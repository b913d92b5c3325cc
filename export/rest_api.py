"""TensorFlow Serving's REST interface over SavedModels in this process: predict, metadata and status.

It is for the playground and for tests, not for production: folders are not watched for new versions. Its shape is
TensorFlow Serving's (https://www.tensorflow.org/tfx/serving/api_rest), so that what talks to it talks to a real
server, too: rows ("instances" -> "predictions") and columns ("inputs" -> "outputs"), bytes as {"b64": ...}, NaN and
Infinity as bare words, {"error": ...} with the status of HTTP that belongs to the error.
"""

import base64
import binascii
import http.server
import json
import os
import re
import sys

import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2

from export import loaders
from export.served_model import ApiError, ServedModel
from tfbert import checks

# HTTP's status of TensorFlow's error codes.
_STATUS = {"INVALID_ARGUMENT": 400, "NOT_FOUND": 404, "FAILED_PRECONDITION": 412, "RESOURCE_EXHAUSTED": 429}
_STATUS |= {"UNIMPLEMENTED": 501, "UNAVAILABLE": 503, "DEADLINE_EXCEEDED": 504}
MAX_BODY = 64 * 2**20  # bytes of a request


def _text(value):
    """A string or {"b64": ...} as bytes."""
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError as e:  # half of a pair of \\u escapes
            raise ApiError("INVALID_ARGUMENT", f"JSON Parse error: {e}") from e
    if isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str):
        try:
            return base64.b64decode(value["b64"], validate=True)
        except binascii.Error as e:
            raise ApiError("INVALID_ARGUMENT", f"Unable to base64 decode: {e}") from e
    raise ApiError("INVALID_ARGUMENT", f"JSON Value: {_short(value)} is not of expected type: string")


def _number(value, dtype):
    """A JSON number or truth value as a number of a NumPy type."""
    kinds = {"b": bool, "i": int, "u": int, "f": (int, float)}[dtype.kind]
    right = isinstance(value, kinds) and (dtype.kind == "b" or not isinstance(value, bool))
    if right and dtype.kind in "iu":
        right = np.iinfo(dtype).min <= value <= np.iinfo(dtype).max
    if not right:
        raise ApiError("INVALID_ARGUMENT", f"JSON Value: {_short(value)} is not of expected type: {dtype.name}")
    return value


def _short(value):
    text = json.dumps(value)
    return text if len(text) < 200 else text[:200] + "..."


def to_array(value, dtype):
    """A JSON value as an array.

    Args:
        value: A value, or lists of them as deep as the tensor's rank.
        dtype: The tensor's `tf.DType`.

    Raises:
        ApiError: a type is wrong, or lists beside one another have different lengths.
    """
    shape, first = [], value
    while isinstance(first, list):
        shape.append(len(first))
        first = first[0] if first else None
    flat, level = [value], 0
    for size in shape:
        level += 1
        if any(not isinstance(part, list) or len(part) != size for part in flat):
            raise ApiError("INVALID_ARGUMENT", f"Encountered list at unexpected size at level {level}; expected {size}")
        flat = [item for part in flat for item in part]
    if any(isinstance(item, list) for item in flat):
        raise ApiError("INVALID_ARGUMENT", f"Encountered list at unexpected level: {level + 1}")
    if dtype == tf.string:
        array = np.empty(len(flat), object)
        array[:] = [_text(item) for item in flat]
    else:
        kind = np.dtype(dtype.as_numpy_dtype)
        array = np.array([_number(item, kind) for item in flat], kind)
    return array.reshape(shape)


def inputs_of(body, model):
    """The inputs of a predict request: ({input name: array}, signature name, whether it came in rows).

    Args:
        body: The JSON of the request, as bytes.
        model: The `ServedModel`.
    """
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as e:
        raise ApiError("INVALID_ARGUMENT", f"JSON Parse error: {e}") from e
    if not isinstance(request, dict):
        raise ApiError("INVALID_ARGUMENT", f"JSON Value: {_short(request)} Is not object")
    signature = request.get("signature_name", "")
    if not isinstance(signature, str):
        raise ApiError("INVALID_ARGUMENT", "'signature_name' key must be a string value.")
    types = {n: tf.as_dtype(info.dtype) for n, info in sorted(model.signature(signature).inputs.items())}
    given = [key for key in ("instances", "inputs") if key in request]
    if len(given) != 1:
        must = "expecting only one of 'inputs' or 'instances' keys" if given else "Missing 'inputs' or 'instances' key"
        raise ApiError("INVALID_ARGUMENT", must)
    columns = request[given[0]]
    if given == ["instances"]:
        columns = _columns(columns, sorted(types))
    elif not isinstance(columns, dict) or set(columns) == {"b64"}:
        if len(types) > 1:
            raise ApiError("INVALID_ARGUMENT", "inputs is a plain value/list, but expecting an object")
        columns = {next(iter(types)): columns}
    missing = [name for name in types if name not in columns]
    if missing:
        raise ApiError("INVALID_ARGUMENT", f"Missing named input: {missing[0]} in 'inputs' object.")
    return {name: to_array(columns[name], types[name]) for name in types}, signature, given == ["instances"]


def _columns(rows, names):
    """Rows of a request as {input name: list}."""
    if not isinstance(rows, list) or not rows:
        said = "No values in 'instances' array" if rows == [] else "Excepting 'instances' to be an list/array"
        raise ApiError("INVALID_ARGUMENT", said)
    plain = [not isinstance(row, dict) or set(row) == {"b64"} for row in rows]
    if all(plain):
        if len(names) > 1:
            raise ApiError("INVALID_ARGUMENT", "instances is a plain list, but expecting list of objects")
        return {names[0]: rows}
    for number, row in enumerate(rows):
        if plain[number] or sorted(row) != names:
            said = f"Failed to process element: {number} of 'instances' list. keys must be equal to: {','.join(names)}"
            raise ApiError("INVALID_ARGUMENT", said)
    return {name: [row[name] for row in rows] for name in names}


def _plain(name, value):
    """An output as nested lists for JSON."""
    if value.dtype.kind != "O":
        if value.dtype == np.float32:
            # The shortest decimals that are this float32, and not those of the float64 next to it.
            value = value.astype(str).astype(np.float64)
        return value.tolist()

    def text(item):
        if name.endswith("_bytes"):
            return {"b64": base64.b64encode(item).decode("ascii")}
        return item.decode("utf-8", "replace")

    array = np.empty(value.size, object)
    array[:] = [text(item) for item in value.ravel()]
    return array.reshape(value.shape).tolist()


def answer_of(outputs, in_rows):
    """The JSON object of an answer: {"predictions": ...} or {"outputs": ...}."""
    plain = {name: _plain(name, value) for name, value in outputs.items()}
    if not in_rows:
        return {"outputs": plain if len(plain) > 1 else next(iter(plain.values()))}
    counts = {value.shape[0] if value.ndim else None for value in outputs.values()}
    if len(counts) > 1 or None in counts:
        raise ApiError("INVALID_ARGUMENT", f"Tensors have inconsistent batch sizes: {sorted(map(str, counts))}")
    if len(plain) == 1:
        return {"predictions": next(iter(plain.values()))}
    return {"predictions": [dict(zip(plain, row)) for row in zip(*plain.values())]}


class Server:
    """Versions of one model, by number and label.

    Args:
        model_name: The name under which they are served.
        versions: {number: ServedModel}.
        labels: {label: number}.
    """

    def __init__(self, model_name, versions, labels=None):
        self.model_name, self.versions, self.labels = model_name, versions, labels or {}

    def find(self, model_name, version=None, label=None):
        """(number, ServedModel); the highest number if neither version nor label is asked for."""
        if label is not None and model_name == self.model_name and label not in self.labels:
            raise ApiError("INVALID_ARGUMENT", f"Unrecognized servable version label: {label}")
        number = self.labels.get(label, version or max(self.versions))
        if model_name != self.model_name or number not in self.versions:
            asked = f"Specific({model_name}, {number})" if version or label else f"Latest({model_name})"
            raise ApiError("NOT_FOUND", f"Servable not found for request: {asked}")
        return number, self.versions[number]

    def status(self, model_name, version=None):
        """The JSON object of a status request."""
        if model_name != self.model_name or (version and version not in self.versions):
            raise ApiError("NOT_FOUND", f"Could not find any versions of model {model_name}")
        numbers = [version] if version else sorted(self.versions, reverse=True)
        fine = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        return {"model_version_status": [{"version": str(number), **fine} for number in numbers]}

    def metadata(self, model_name, version=None, label=None):
        """The JSON object of a metadata request."""
        number, model = self.find(model_name, version, label)
        found = get_model_metadata_pb2.SignatureDefMap()
        for name, about in model.signatures.items():
            found.signature_def[name].CopyFrom(about)
        told = json_format.MessageToDict(
            found, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        spec = {"name": model_name, "signature_name": "", "version": str(number)}
        kind = "type.googleapis.com/tensorflow.serving.SignatureDefMap"
        return {"model_spec": spec, "metadata": {"signature_def": {"@type": kind, **told}}}

    def predict(self, body, model_name, version=None, label=None):
        """The JSON object of a predict request."""
        _, model = self.find(model_name, version, label)
        inputs, signature, in_rows = inputs_of(body, model)
        return answer_of(model.predict(signature, inputs), in_rows)

    def handle(self, method, path, body):
        """Answers a request of HTTP.

        Args:
            method: "GET" or "POST".
            path: The path that is asked for.
            body: bytes.

        Returns:
            (status, the JSON object).
        """
        which = r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?"
        try:
            if method == "POST" and (found := re.fullmatch(which + ":predict", path)):
                return 200, self.predict(body, *_which(found))
            if method == "GET" and (found := re.fullmatch(which + "/metadata", path)):
                return 200, self.metadata(*_which(found))
            if method == "GET" and (found := re.fullmatch(which, path)):
                name, version, label = _which(found)
                number = self.find(name, None, label)[0] if label else version
                return 200, self.status(name, number)
            raise ApiError("INVALID_ARGUMENT", f"Malformed request: {method} {path}")
        except ApiError as e:
            return _STATUS.get(e.code, 500), {"error": str(e)}


def _which(found):
    name, version, label = found.groups()
    return name, int(version) if version else None, label


def load(folder, model_name, labels=None, batching=None):
    """A `Server` of a SavedModel, or of all versions in a folder.

    Args:
        folder: The SavedModel, or the folder with its numbered versions.
        model_name: The name under which it is served.
        labels: {label: number}.
        batching: Of `ServedModel`.
    """
    newest = loaders.newest_version(folder)
    if newest == folder:
        number = os.path.basename(os.path.abspath(folder))
        only = int(number) if number.isdecimal() else 1
        return Server(model_name, {only: ServedModel(folder, batching)}, labels)
    numbers = sorted(int(name) for name in os.listdir(folder) if name.isdecimal())
    return Server(model_name, {n: ServedModel(os.path.join(folder, str(n)), batching) for n in numbers}, labels)


class Handler(http.server.BaseHTTPRequestHandler):
    """Speaks HTTP for the `Server` that is the attribute `api` of its server."""

    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds that a client may be silent

    def log_message(self, format, *args):
        """Says nothing: requests hold texts that are nobody's business."""

    def body(self):
        """The body of the request, or None if it has none that can be read; the answer is sent then."""
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY:
            self.close_connection = True
            self.answer(413, {"error": f"a request must say its length, at most {MAX_BODY} bytes"})
            return None
        return self.rfile.read(int(length))

    def answer(self, status, value):
        """Sends a JSON object."""
        self.send(status, "application/json", json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))

    def send(self, status, kind, data, headers=()):
        """Sends bytes of a media type."""
        self.send_response(status)
        for name, value in (("Content-Type", kind), ("Content-Length", str(len(data))), *headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        """Status and metadata."""
        self.answer(*self.server.api.handle("GET", self.path, b""))

    def do_POST(self):
        """Predictions."""
        if (body := self.body()) is not None:
            self.answer(*self.server.api.handle("POST", self.path, body))


class HttpServer(http.server.ThreadingHTTPServer):
    """A thread for each connection.

    Args:
        address: (host, port); port 0 takes a free one.
        handler: The class that speaks HTTP.
        **attributes: What the handler finds in its `server`.
    """

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, address, handler, **attributes):
        vars(self).update(attributes)
        try:
            super().__init__(address, handler)
        except OSError as e:
            raise checks.error("the address must be free to listen on", e.strerror, "{}:{}".format(*address)) from e

    def handle_error(self, request, client_address):
        """Says nothing of clients that hang up."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)
