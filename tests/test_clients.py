"""Tests of export.clients and export.rest_api, against the stand-in for TensorFlow Serving (tests/model_server.py)."""

import base64
import http.client
import json
import shutil
import socket
import urllib.error
import urllib.request

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from export import clients, loaders, rest_api, serving
from tests import model_server, test_audit, tiny_run
from tfbert import checks


def everything(x0, x1, x2):
    """One output of each kind of type, and what JSON has no numbers for."""
    number = tf.cast(x1, tf.float32)
    return {
        "joined": tf.strings.join([x0, "!"]),
        "raw_bytes": x0,
        "third": number / 3.0,
        "odd": tf.stack([number / 0.0, 0.0 / (number * 0.0), -number / 0.0], 1),
        "flag": x2,
        "count": tf.cast(x1, tf.int64) * 2**40,
    }


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """Versions 2 (three inputs) and 5 (one input, one output; refuses negative numbers)."""
    folder = tmp_path_factory.mktemp("models")
    test_audit.save(folder / "2", everything, tf.string, tf.int32, tf.bool)

    def root(x0):
        with tf.control_dependencies([tf.debugging.assert_non_negative(x0, "no roots of these")]):
            return {"root": tf.sqrt(x0)}

    test_audit.save(folder / "5", root, tf.float32)
    return str(folder)


@pytest.fixture(scope="module")
def addresses(versions):
    with model_server.serving(rest_api.load(versions, "maths", {"stable": 2})) as both:
        yield both


def both(addresses, *args, **kwargs):
    """The two clients of a model."""
    return clients.Rest(addresses[0], *args, **kwargs), clients.Grpc(addresses[1], *args, **kwargs)


def post(addresses, body, which="/versions/2"):
    """The answer to a body over plain HTTP."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with urllib.request.urlopen(f"{addresses[0]}/v1/models/maths{which}:predict", data, timeout=30) as answer:
        return json.loads(answer.read())


def refused(addresses, body, which="/versions/2"):
    """(status, message) of a body that is refused."""
    with pytest.raises(urllib.error.HTTPError) as e:
        post(addresses, body, which)
    with e.value as answer:
        return answer.code, json.load(answer)["error"]


def test_warm_up_requests_are_answered_before_others(versions, tmp_path):
    shutil.copytree(f"{versions}/5", tmp_path / "5")
    serving.write_warmup(str(tmp_path / "5"), "maths", [("serving_default", {"x0": np.float32([-1])})])
    with pytest.raises(rest_api.ApiError, match="no roots of these"):  # a server does not load such a version either
        rest_api.load(str(tmp_path), "maths")


class TestClients:
    def test_both_get_the_same_answers(self, addresses):
        texts, numbers, flags = [b"caf\xc3\xa9", b"\xff\x00"], [1, -2], [True, False]
        rest, remote = both(addresses, "maths", version=2)
        theirs = remote.predict(x0=texts, x1=np.int32(numbers), x2=flags)
        assert theirs["raw_bytes"].tolist() == texts and theirs["joined"].tolist() == [t + b"!" for t in texts]
        assert theirs["count"].tolist() == [2**40, -(2**41)]
        ours = rest.predict(x0=texts, x1=np.int32(numbers), x2=flags)
        assert set(ours) == set(theirs)
        # What is no UTF-8 comes as it was only from an output whose name ends in _bytes.
        assert ours["joined"] == ["café!", "\ufffd\x00!"]
        assert [base64.b64decode(v["b64"]) for v in ours["raw_bytes"]] == texts
        for name in ("third", "odd", "flag", "count"):
            np.testing.assert_array_equal(np.array(ours[name], theirs[name].dtype), theirs[name])
        assert ours["third"] == [0.33333334, -0.6666667]  # not the float64 beside it

    def test_an_only_output_has_its_name(self, addresses):
        for client in both(addresses, "maths"):  # the newest version
            answer = client.predict(x0=np.float32([4, 2.25]))
            assert {name: list(value) for name, value in answer.items()} == {"root": [2.0, 1.5]}

    def test_versions_and_labels(self, addresses):
        for client in both(addresses, "maths"):
            assert client.status() == {2: "AVAILABLE", 5: "AVAILABLE"}
            assert set(client.signatures()) == {"serving_default"}
        for which in ({"label": "stable"}, {"version": 2}):
            rest, remote = both(addresses, "maths", **which)
            about = rest.signatures()["serving_default"]
            assert set(about["inputs"]) == set(remote.signatures()["serving_default"].inputs) == {"x0", "x1", "x2"}
            assert about["inputs"]["x1"]["dtype"] == "DT_INT32"
            assert about["inputs"]["x1"]["tensor_shape"]["dim"] == [{"size": "-1", "name": ""}]

    @pytest.mark.parametrize(
        ("which", "inputs", "codes", "words"),
        [
            ({"model_name": "nobody"}, {"x0": [1.0]}, (404, "NOT_FOUND"), "Servable not found for request: Latest"),
            ({"version": 3}, {"x0": [1.0]}, (404, "NOT_FOUND"), r"Specific\(maths, 3\)"),
            ({"label": "canary"}, {"x0": [1.0]}, (400, "INVALID_ARGUMENT"), "label: canary"),
            ({}, {"x0": [1.0], "signature": "embed"}, (400, "INVALID_ARGUMENT"), 'name: "embed" not found'),
            ({}, {"x0": ["a"]}, (400, "INVALID_ARGUMENT"), "x0 must be float32|not of expected type: float32"),
            ({}, {"x0": [[1.0]]}, (400, "INVALID_ARGUMENT"), "shape"),
            ({}, {"x0": [-1.0]}, (400, "INVALID_ARGUMENT"), "no roots of these"),
            ({}, {"x1": [1.0]}, (400, "INVALID_ARGUMENT"), r"input: x0|must be \['x0'\]; got \['x1'\]"),
        ],
    )
    def test_refusals_have_their_codes(self, addresses, which, inputs, codes, words):
        for client, code in zip(both(addresses, **{"model_name": "maths", **which}), codes):
            with pytest.raises(clients.ServerError, match=words) as e:
                client.predict(**inputs)
            assert e.value.code == code

    def test_a_server_that_is_not_there(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            for client in (clients.Rest("http://" + address, "bert"), clients.Grpc(address, "bert", timeout=5)):
                with pytest.raises(checks.InputError, match="must be reachable"):
                    client.predict(text=["a"])

    def test_program_prints_answers(self, addresses, capsys):
        cfg = clients.ClientConfig(server=addresses[1], model_name="maths")
        told = clients.run(cfg, {"x0": [np.float32(9)]})
        assert json.loads(capsys.readouterr().out) == told == {"root": [3.0]}
        with pytest.raises(checks.InputError, match="server must answer; got INVALID_ARGUMENT"):
            clients.run(cfg, {"text": ["a"]})
        with pytest.raises(checks.InputError, match="not both"):
            clients.ClientConfig(label="stable", version=3)


class TestRest:
    """The shape of TensorFlow Serving's REST interface, by its documentation and its json_tensor.cc."""

    ROW = {"x0": "a", "x1": 3, "x2": True}  # noqa: RUF012

    def test_rows_and_columns(self, addresses):
        rows = post(addresses, {"instances": [self.ROW, {"x0": {"b64": "/wA="}, "x1": 6, "x2": False}]})["predictions"]
        columns = {"x0": ["a", {"b64": "/wA="}], "x1": [3, 6], "x2": [True, False]}
        outputs = post(addresses, {"inputs": columns, "signature_name": "serving_default"})["outputs"]
        assert rows[1]["raw_bytes"] == {"b64": "/wA="} and rows[0]["joined"] == "a!" and rows[1]["third"] == 2.0
        for row, number in zip(rows, range(2)):
            assert json.dumps(row) == json.dumps({name: values[number] for name, values in outputs.items()})
        assert json.dumps(rows[0]["odd"]) == "[Infinity, NaN, -Infinity]"
        assert post(addresses, {"instances": [4, 9.0]}, "") == {"predictions": [2.0, 3.0]}
        assert post(addresses, {"inputs": [4, 9.0]}, "") == {"outputs": [2.0, 3.0]}
        assert post(addresses, {"inputs": []}, "") == {"outputs": []}

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            (b"", "JSON Parse error"),
            (b"{", "JSON Parse error"),
            (b'{"instances": ["\xff"]}', "JSON Parse error"),
            (b"[" * 100_000, "JSON Parse error"),
            ([], "Is not object"),
            ({}, "Missing 'inputs' or 'instances' key"),
            ({"instances": [ROW], "inputs": {}}, "only one of"),
            ({"instances": []}, "No values"),
            ({"instances": ROW}, "to be an list/array"),
            ({"instances": ["a"]}, "plain list, but expecting list of objects"),
            ({"instances": [ROW, "a"]}, "element: 1 of 'instances'"),
            ({"instances": [{**ROW, "x3": 1}]}, "keys must be equal to: x0,x1,x2"),
            ({"instances": [{**ROW, "x1": 1.5}]}, "1.5 is not of expected type: int32"),
            ({"instances": [{**ROW, "x1": True}]}, "true is not of expected type: int32"),
            ({"instances": [{**ROW, "x1": 2**31}]}, "not of expected type: int32"),
            ({"instances": [{**ROW, "x2": 1}]}, "not of expected type: bool"),
            ({"instances": [{**ROW, "x0": 1}]}, "not of expected type: string"),
            ({"instances": [{**ROW, "x0": {"b64": "?"}}]}, "base64"),
            ({"instances": [{**ROW, "x0": "\ud800"}]}, "JSON Parse error"),
            ({"instances": [{**ROW, "x0": ["a"]}, ROW]}, "unexpected size"),
            ({"inputs": {"x0": ["a"]}}, "Missing named input: x1"),
            ({"inputs": {"x0": ["a", ["b"]], "x1": [1, 2], "x2": [True, True]}}, "unexpected level"),
            ({"inputs": ["a"]}, "expecting an object"),
            ({"instances": [ROW], "signature_name": 1}, "must be a string"),
            ({"instances": [ROW], "signature_name": "embed"}, 'Serving signature name: "embed" not found'),
        ],
    )
    def test_what_is_wrong_is_a_400(self, addresses, body, words):
        status, message = refused(addresses, body)
        assert status == 400
        assert any(word in message for word in words.split("|")), message

    @pytest.mark.parametrize("path", ["/", "/v1/models", "/v1/models/maths:classify", "/v1/models/maths/versions/x"])
    def test_other_paths_are_malformed_requests(self, addresses, path):
        with pytest.raises(urllib.error.HTTPError) as e:
            urllib.request.urlopen(addresses[0] + path, timeout=30)
        with e.value as answer:
            assert answer.code == 400 and "Malformed request: GET" in json.load(answer)["error"]

    def test_status(self, addresses):
        with urllib.request.urlopen(f"{addresses[0]}/v1/models/maths/versions/5", timeout=30) as answer:
            assert json.load(answer) == {
                "model_version_status": [
                    {"version": "5", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
                ]
            }

    def test_a_connection_stays_open(self, addresses):
        """Also after a refusal: the body was read."""
        host = addresses[0].removeprefix("http://")
        connection = http.client.HTTPConnection(host, timeout=30)
        for body, status in ((b"{", 400), (b'{"inputs": [4.0]}', 200), (b"{", 400)):
            connection.request("POST", "/v1/models/maths:predict", body)
            answer = connection.getresponse()
            assert (answer.status, answer.read() != b"") == (status, True)
        connection.close()


def test_grpc_details_of_predict(addresses):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(addresses[1]))
    request = predict_pb2.PredictRequest(output_filter=["flag"])
    request.model_spec.name = "maths"
    request.model_spec.version_label = "stable"
    for name, value in {"x0": ["a"], "x1": np.int32([1]), "x2": [True]}.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    answer = stub.Predict(request, timeout=30)
    assert list(answer.outputs) == ["flag"]
    assert answer.model_spec.version.value == 2 and answer.model_spec.signature_name == "serving_default"
    request.inputs["x1"].tensor_shape.dim[0].size = 7  # more than there are
    request.inputs["x1"].tensor_content = b"\0"
    with pytest.raises(grpc.RpcError) as e:
        stub.Predict(request, timeout=30)
    assert e.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_example_bodies():
    for inputs, outputs, expected in (
        (["text"], ["tokens"], "The [MASK] of the file."),
        (["text", "text_pair"], ["labels"], {"text": "A text to be read.", "text_pair": "Another one."}),
    ):
        about = tf.compat.v1.saved_model.build_signature_def()
        for name in inputs:
            about.inputs[name].dtype = tf.string.as_datatype_enum
        for name in outputs:
            about.outputs[name].dtype = tf.string.as_datatype_enum
        body = clients.example_body({"serving_default": about})
        assert json.loads(body) == {"instances": [expected]} and "'" not in body


@pytest.mark.slow
def test_an_export_answers_both_clients(tiny_versions, tiny_served, tmp_path):
    """And a version that is added stands beside the old one; warm-up requests are answered."""
    shutil.copytree(tiny_served, tmp_path / "9")
    texts = [t.decode() for t in tiny_run.TEXTS if b"\xff" not in t]
    (expected,) = loaders.v1_session(tiny_served, [("serving_default", {"text": texts})])
    with model_server.serving(rest_api.load(tiny_versions, "bert", {"stable": 1})) as addresses:
        rest, remote = both(addresses, "bert", label="stable")
        for answers in (rest.predict(text=texts), remote.predict(text=texts)):
            assert set(answers) == set(expected)
            tokens = [[[t if isinstance(t, str) else t.decode() for t in m] for m in row] for row in answers["tokens"]]
            assert tokens == [[[t.decode() for t in mask] for mask in row] for row in expected["tokens"]]
            np.testing.assert_allclose(np.array(answers["probabilities"]), expected["probabilities"], atol=1e-6)
            assert np.array(answers["mask_count"]).tolist() == expected["mask_count"].tolist()
        for signature, inputs in serving.read_warmup(tiny_served):
            assert remote.predict(signature, **inputs)
    with model_server.serving(rest_api.load(str(tmp_path), "bert")) as addresses:
        assert clients.Rest(addresses[0], "bert").status() == {9: "AVAILABLE"}
